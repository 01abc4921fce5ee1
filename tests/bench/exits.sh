#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# exits.sh BUILD_DIR [ROUNDS]: on this host's /dev/kvm, interleaved so that all rows see the
# same noise; the best of ROUNDS is kept for round trips, the median for start times. Exit
# accounting is compared with a build that has none, made in BUILD_DIR-bare.
set -euo pipefail
build=$1 rounds=${2:-21}
bench=$build/tests/bench
[ -r /dev/kvm ] && [ -w /dev/kvm ] || { echo "no usable /dev/kvm" >&2; exit 69; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Only the launcher, with -DUMBRA_EXIT_ACCOUNTING=OFF.
cmake -S "$(dirname "$0")/../.." -B "$build-bare" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DUMBRA_EXIT_ACCOUNTING=OFF -DUMBRA_TESTS=OFF >/dev/null
cmake --build "$build-bare" --target umbra-cli >/dev/null

# umbra PORT [BUILD]
umbra() {
    "${2:-$build}/umbra" run --kernel "$bench/exits-$1.FLAT" --kernel-format flat \
        --kernel-load 0x7c00 --kernel-entry 0x7c00 --memory 16M --timeout 60
}

# Where KVM has no hardware underneath, QEMU does not start without this.
cpu=host
grep -qE '\b(vmx|svm)\b' /proc/cpuinfo || cpu=host,-arch-capabilities
qemu=(qemu-system-x86_64 -accel kvm -cpu "$cpu" -m 16 -nodefaults -display none -no-reboot
    -serial stdio -bios "$bench/exits-0x80.ROM")

# The guest's own count of TSC cycles, from its output.
cycles() { printf '%d\n' "0x$(tr -d '\r' | sed -n 's/^S\([0-9a-f]\{8\}\)$/\1/p' | head -1)"; }

start() {
    local row=$1
    shift
    "$bench/until_marker" "$@" 2>/dev/null | cut -d' ' -f1 >>"$work/start.$row" || true
}

export -f umbra
export build bench
for ((i = 1; i <= rounds; i++)); do
    printf '\rround %d of %d' "$i" "$rounds" >&2
    for port in 0x80 0x3ff; do
        "$bench/bare_loop" "$bench/exits-$port.FLAT" 2>"$work/tsc" | cycles >>"$work/trip.bare.$port" || true
        umbra $port 2>/dev/null </dev/null | cycles >>"$work/trip.umbra.$port" || true
        umbra $port "$build-bare" 2>/dev/null </dev/null | cycles >>"$work/trip.off.$port" || true
    done
    "$bench/api_times" "$bench/exits-0x80.FLAT" 5 2>/dev/null >>"$work/api" || true
    start bare "$bench/bare_loop" "$bench/exits-0x80.FLAT"
    start umbra "$build/umbra" run --kernel "$bench/exits-0x80.FLAT" --kernel-format flat \
        --kernel-load 0x7c00 --kernel-entry 0x7c00 --memory 16M --timeout 60
    start microvm "${qemu[@]}" -M microvm
    start pc "${qemu[@]}" -M pc
    if command -v lkvm >/dev/null; then
        start lkvm lkvm run -k "$bench/exits-0x80.FLAT" -m 16 --name bench$$
    fi
done
echo >&2

khz=$(sed -n 's/tsc_khz //p' "$work/tsc")
median() { sort -n "$1" | sed -n "$((($(wc -l <"$1") + 1) / 2))p"; }
best() { sort -n "$1" | head -1; }

printf '\nexec to first guest output (median of %d)\n' "$rounds"
printf '%-28s %10s %10s\n' '' ms 'to umbra'
base=$(median "$work/start.umbra")
for row in umbra:umbra bare:'bare KVM_RUN loop' microvm:'qemu -M microvm' pc:'qemu -M pc' lkvm:kvmtool; do
    file=$work/start.${row%%:*}
    if [ -s "$file" ]; then
        awk -v n="${row#*:}" -v v="$(median "$file")" -v b="$base" \
            'BEGIN { printf "%-28s %10.2f %9.2fx\n", n, v / 1e6, v / b }'
    else
        printf '%-28s %10s\n' "${row#*:}" "not here"
    fi
done
printf '\nexit round trip, 10000 writes by the guest (best of %d)\n' "$rounds"
printf '%-28s %10s %10s %10s\n' '' 'bare us' 'umbra us' 'overhead'
for row in 0x80:'port of no device' 0x3ff:'UART register'; do
    awk -v n="${row#*:}" -v k="$khz" -v a="$(best "$work/trip.bare.${row%%:*}")" \
        -v u="$(best "$work/trip.umbra.${row%%:*}")" 'BEGIN {
            printf "%-28s %10.3f %10.3f %9.1f%%\n", n, a / k / 10, u / k / 10, (u / a - 1) * 100 }'
done

# Medians: an accounting that costs a percent is below the noise of the best.
printf '\nexit accounting, the same round trip (median of %d)\n' "$rounds"
printf '%-28s %10s %10s %10s\n' '' 'on us' 'off us' 'cost'
for row in 0x80:'port of no device' 0x3ff:'UART register'; do
    awk -v n="${row#*:}" -v k="$khz" -v on="$(median "$work/trip.umbra.${row%%:*}")" \
        -v off="$(median "$work/trip.off.${row%%:*}")" 'BEGIN {
            printf "%-28s %10.3f %10.3f %9.1f%%\n", n, on / k / 10, off / k / 10, (on / off - 1) * 100 }'
done
awk -v ns="$("$bench/accounting")" -v k="$khz" -v u="$(best "$work/trip.umbra.0x80")" 'BEGIN {
    printf "%-28s %10.3f %10s %9.1f%%\n", "the counting by itself", ns / 1e3, "", ns / 1e3 / (u / k / 10) * 100 }'
column() { cut -d' ' -f"$1" "$work/api" >"$work/api.$1" && median "$work/api.$1"; }
printf '\nlibumbra in a process that runs (median)\n'
awk -v create="$(column 1)" -v first="$(column 2)" -v destroy="$(column 3)" 'BEGIN {
    printf "%-28s %10.2f ms\n", "umbra_vm_create()", create / 1e6
    printf "%-28s %10.2f ms\n", "and to the first output", first / 1e6
    printf "%-28s %10.2f ms\n", "umbra_vm_destroy(), running", destroy / 1e6 }'
