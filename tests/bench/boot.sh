#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# boot.sh BUILD_DIR: umbra, QEMU and (where it is on PATH) kvmtool boot the same stock
# Debian kernel and initramfs in one testbed run whose clock counts instructions.
set -euo pipefail
build=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
testbed=$root/scripts/testbed
kernels=$("$testbed" kernels)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$testbed" initrd cloud "$work/initrd"

places=(-f "$build/umbra=/bin/umbra" -f "$build/tests/bench/until_marker=/bin/until_marker"
    -f "$kernels/cloud/vmlinuz=vmlinuz" -f "$kernels/cloud/vmlinux=vmlinux"
    -f "$work/initrd=initrd" -f "$(command -v qemu-system-x86_64)=/bin/qemu")
for rom in bios-256k.bin bios-microvm.bin linuxboot_dma.bin pvh.bin kvmvapic.bin; do
    file=$(find /usr/share/qemu /usr/share/seabios -name $rom | head -1)
    [ -z "$file" ] || places+=(-f "$file=/usr/share/qemu/$rom")
done
lkvm=$(command -v lkvm || true)
[ -z "$lkvm" ] || places+=(-f "$lkvm=/bin/lkvm")

cat >"$work/script" <<'S'
measure() {
    local name=$1
    shift
    # The first run warms the page cache; the second one counts.
    for round in warm counts; do
        result=$(until_marker -m '[init] up' -r 256 "$@" 2>/tmp/err </dev/null) ||
            { echo "$name failed: $(tail -3 /tmp/err | tr '\n\r' '  ')" >/dev/ttyS0; result=; break; }
    done
    echo "$name|${result:-failed}"
}
append="console=ttyS0 quiet drivers=none"
umbra() { measure "$1" /bin/umbra run --kernel "$2" --initrd initrd --memory 256M --append "$append"; }
qemu() {
    local name=$1 kernel=$2
    shift 2
    measure "$name" /bin/qemu -L /usr/share/qemu -accel kvm -cpu host -m 256 -nodefaults \
        -display none -no-reboot -serial stdio "$@" -kernel "$kernel" -initrd initrd -append "$append"
}
umbra "umbra, bzImage" vmlinuz
umbra "umbra, vmlinux by PVH" vmlinux
qemu "qemu -M microvm, bzImage" vmlinuz -M microvm
qemu "qemu -M microvm, vmlinux" vmlinux -M microvm
qemu "qemu -M pc, bzImage" vmlinuz -M pc
qemu "qemu -M pc, vmlinux" vmlinux -M pc
if [ -x /bin/lkvm ]; then
    measure "kvmtool, bzImage" /bin/lkvm run -k vmlinuz -i initrd -m 256 -c 1 -p "$append"
fi
S
echo "booting in the testbed, instructions as clock: about five minutes" >&2
"$testbed" run -i -t 1500 "${places[@]}" -L "$work/log" "$work/script" | tee "$work/rows" | sed 's/^/  /' >&2
echo
printf '%-28s %10s %10s %10s %10s\n' 'exec to /init, 1 CPU, 256M' ms 'to umbra' 'VMM KiB' 'to umbra'
awk -F'[| ]' '{ split($0, part, "|"); n = part[1]; split(part[2], v, " ")
    if (v[1] !~ /^[0-9]+$/) { printf "%-28s %10s\n", n, "failed"; next }
    if (!base) { base = v[1]; memory = v[2] }
    printf "%-28s %10.1f %9.2fx %10d %9.2fx\n", n, v[1] / 1e6, v[1] / base, v[2], v[2] / memory }' "$work/rows"
[ -n "$lkvm" ] || echo "kvmtool (lkvm) is not on PATH: left out"
grep -a 'failed: ' "$work/log" | tr -d '\r' || true
