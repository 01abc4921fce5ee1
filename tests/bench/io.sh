#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# io.sh BUILD_DIR [ROUNDS]: 4 KiB block I/O from a guest that drives its disk in ring 3, on
# this host's /dev/kvm, with one image in the page cache: the cost of the paravirtual path
# itself. Umbra against QEMU (iothread, aio=io_uring), interleaved; the best of ROUNDS, and
# the VMM's processor time an operation in that round.
set -euo pipefail
build=$1 rounds=${2:-5}
guest=$build/tests/guests/virtio_block.elf
[ -r /dev/kvm ] && [ -w /dev/kvm ] || { echo "no usable /dev/kvm" >&2; exit 69; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
requests=8192
truncate -s 64M "$work/image"

# Where KVM has no hardware underneath, QEMU does not start without this.
cpu=host
grep -qE '\b(vmx|svm)\b' /proc/cpuinfo || cpu=host,-arch-capabilities

run_umbra() {
    "$build/umbra" run --kernel "$guest" --append "$1" --memory 64M --timeout 60s \
        --disk "path=$work/image$2"
}
run_qemu() {
    qemu-system-x86_64 -M q35 -accel kvm -cpu "$cpu" -m 64 -nodefaults -display none \
        -no-reboot -serial stdio -device isa-debug-exit,iobase=0xf4 \
        -object iothread,id=io0 \
        -drive "file=$work/image,format=raw,if=none,id=d0,aio=io_uring,cache=writeback" \
        -device virtio-blk-pci,drive=d0,disable-legacy=on,iothread=io0 \
        -kernel "$guest" -append "$1" || true
}

# measure ROW COMMAND...: nanoseconds a request and the VMM's processor time, by direction
measure() {
    local row=$1
    shift
    { TIMEFORMAT='%U %S'; time "$@" >"$work/out" 2>/dev/null </dev/null; } 2>"$work/time" || true
    awk -v n=$requests -v row="$row" -v dir="$work" '
        FNR == NR { cpu = ($1 + $2) * 1e9 / (2 * n); next }
        / blocks in / { sub(/:.*/, "", $1)
                        printf "%d %d\n", $5 * 1000 / $2, cpu >>(dir "/" row "." $1) }
    ' "$work/time" "$work/out"
}

for ((i = 1; i <= rounds; i++)); do
    printf '\rround %d of %d' "$i" "$rounds" >&2
    for depth in 1 32; do
        measure umbra.$depth run_umbra "requests=$requests depth=$depth event indirect" ""
        measure poll.$depth run_umbra "requests=$requests depth=$depth event indirect" ",poll"
        measure packed.$depth run_umbra \
            "requests=$requests depth=$depth event indirect packed" ""
        if command -v qemu-system-x86_64 >/dev/null; then
            measure qemu.$depth run_qemu "requests=$requests depth=$depth event indirect"
        fi
    done
done
printf '\n\n%-26s %10s %10s %12s\n' "4 KiB, page cache" "us/request" "to umbra" "CPU us/req"
for direction in read write; do
    for depth in 1 32; do
        for row in umbra:umbra packed:'umbra, packed ring' poll:'umbra, poll=on' qemu:qemu; do
            file=$work/${row%%:*}.$depth.$direction
            if ! [ -s "$file" ]; then
                printf '%-26s %10s\n' "$direction depth $depth ${row#*:}" "not here"
                continue
            fi
            sort -n "$file" | head -1 | awk -v n="$direction depth $depth ${row#*:}" \
                -v base="$(sort -n "$work/umbra.$depth.$direction" | head -1 | cut -d' ' -f1)" \
                '{ printf "%-26s %10.2f %9.2fx %12.2f\n", n, $1 / 1000, $1 / base, $2 / 1000 }'
        done
    done
done
