#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# io.sh BUILD_DIR [ROUNDS] [ROWS]: block and network I/O from guests that drive their devices
# in ring 3, on this host's /dev/kvm: umbra, QEMU (iothread, aio=io_uring), and the same work
# by fio with io_uring on the host, in turns, with one image; medians of ROUNDS (5) with their
# range. ROWS: a regular expression of rows ("net ping-1"). The images, which fit into the page
# cache, are in the folders of BENCH_DIRS (/var/tmp and, for the cost of the path alone,
# /dev/shm); BENCH_MS (300) is how long a row runs. No root: the tap is in a namespace.
#   kicks, irqs   exits of the guest and interrupts for an operation
#   CPU us/op     processor time of the whole VMM, its vCPU (which spins) included
set -euo pipefail
build=$1 rounds=${2:-5} rows=${3:-.}
dirs=${BENCH_DIRS:-/var/tmp /dev/shm} ms=${BENCH_MS:-300}
guests=$build/tests/guests
[ -r /dev/kvm ] && [ -w /dev/kvm ] || { echo "no usable /dev/kvm" >&2; exit 69; }
work=$(mktemp -d)
images=()
trap 'rm -rf "$work" "${images[@]}"' EXIT

# Where KVM has no hardware underneath, QEMU does not start without this.
cpu=host
grep -qE '\b(vmx|svm)\b' /proc/cpuinfo || cpu=host,-arch-capabilities
qemu=$(command -v qemu-system-x86_64 || true)

# vmm NAME GUEST APPEND KIND ARGUMENT: run it with a disk (an image) or a net (user, tap).
vmm() {
    local name=$1 kernel=$guests/$2.elf append=$3 kind=$4 argument=$5 device backend
    local -a command
    case $name in *packed) append+=" packed" ;; esac
    case $name in
    umbra*)
        case $kind.$argument in
        disk.*) device="--disk path=$argument" ;;
        net.user) device="--net user" ;;
        net.tap) device="--net tap=tap0" ;;
        esac
        # shellcheck disable=SC2206
        command=("$build/umbra" run --kernel "$kernel" --append "$append" --memory 128M
            --timeout 60s $device) ;;
    qemu)
        case $kind.$argument in
        disk.*) backend="-object iothread,id=io0 -drive file=$argument,format=raw,if=none,id=d0,aio=io_uring,cache=writeback"
                device=virtio-blk-pci,drive=d0,disable-legacy=on,iothread=io0 ;;
        net.user) backend="-netdev user,id=n0" device=virtio-net-pci,netdev=n0,disable-legacy=on ;;
        net.tap) backend="-netdev tap,id=n0,ifname=tap0,script=no,downscript=no"
                 device=virtio-net-pci,netdev=n0,disable-legacy=on ;;
        esac
        # shellcheck disable=SC2206
        command=("$qemu" -M q35 -accel kvm -cpu "$cpu" -m 128 -nodefaults -display none
            -no-reboot -serial stdio -device isa-debug-exit,iobase=0xf4 $backend
            -device "$device" -kernel "$kernel" -append "$append") ;;
    esac
    if [ "$kind.$argument" = net.tap ]; then
        command=(unshare -Urn sh -c 'ip link set lo up; ip tuntap add dev tap0 mode tap vnet_hdr
            ip addr add 10.0.2.2/24 dev tap0; ip link set tap0 up; exec "$@"' sh "${command[@]}")
    fi
    timeout 60 "${command[@]}" 2>"$work/errors" </dev/null || true
}

# measure SET ROW VMM GUEST KIND ARGUMENT: one line "set row vmm ops us kicks irqs cpu" more.
measure() {
    local set=$1 row=$2 name=$3
    { TIMEFORMAT='%U %S'; time vmm "$name" "$4" "event indirect ms=$ms row=$row" "$5" "$6" \
        >"$work/out"; } 2>"$work/time" || true
    awk -v set="$set" -v row="$row" -v name="$name" -v base="${start[$set.$name]:-0}" '
        FNR == NR { if (NF == 2) cpu = ($1 + $2) * 1e6; next }
        $6 == "ops" { printf "%s %s %s %d %d %d %d %.0f\n", set, row, name, $7, $9, $11, $13, cpu - base }
    ' "$work/time" "$work/out" >>"$work/rows"
}

# What starting costs, to be taken off: a run without rows.
declare -A start
starting() {
    local set=$1 name=$2
    { TIMEFORMAT='%U %S'; time vmm "$name" "$3" "row=none" "$4" "$5" >"$work/out"; } 2>"$work/time" || true
    start[$set.$name]=$(awk 'NF == 2 { printf "%.0f", ($1 + $2) * 1e6 }' "$work/time")
}

# host SET ROW IMAGE: the same work without a guest.
host() {
    local set=$1 row=$2 kind size depth batch=1
    case $row in
    randread*) kind=randread ;; randwrite*) kind=randwrite ;;
    seqread*) kind=read ;; seqwrite*) kind=write ;;
    esac
    case $row in *-4k-*) size=4k ;; *) size=1M ;; esac
    depth=${row##*-}
    [ "$depth" -lt 32 ] || batch=32
    fio --name=row --filename="$3" --size=256M --ioengine=io_uring --rw=$kind --bs=$size \
        --iodepth="$depth" --iodepth_batch_submit=$batch --iodepth_batch_complete_min=1 \
        --runtime=${ms}ms --time_based --invalidate=0 --fallocate=none --norandommap \
        --output-format=terse --terse-version=3 2>/dev/null |
        awk -F';' -v set="$set" -v row="$row" '{
            read = $6 > 0; ms = read ? $9 : $50; iops = read ? $8 : $49; ops = iops * ms / 1000
            cpu = ($88 + $89) / 100 * ms * 1000
            if (ms > 0) printf "%s %s host %d %d 0 0 %d\n", set, row, ops, ms * 1000, cpu }' >>"$work/rows"
}

wanted() { echo "$*" | grep -qE -- "$rows"; }

vmms="umbra umbra-packed"
[ -z "$qemu" ] || vmms+=" qemu"
disk_rows="randread-4k-1 randread-4k-32 randwrite-4k-1 randwrite-4k-32 seqread-1m-4 seqwrite-1m-4"
net_rows="send-1514 send-64k-tso ping-1 ping-32"
load=$(cut -d' ' -f1 /proc/loadavg)
for dir in $dirs; do
    image=$(mktemp "$dir/umbra-bench.XXXXXX")
    images+=("$image")
    head -c 256M /dev/urandom >"$image"
    sync "$image"
    for name in $vmms; do starting "$dir" "$name" disk_bench disk "$image"; done
done
for net in tap user; do
    for name in $vmms; do starting "net-$net" "$name" net_bench net $net; done
done
for ((i = 1; i <= rounds; i++)); do
    n=0
    for dir in $dirs; do
        image=${images[$n]}
        n=$((n + 1))
        for row in $disk_rows; do
            wanted "$dir $row" || continue
            printf '\rround %d of %d: %-40s' "$i" "$rounds" "$dir $row" >&2
            for name in $vmms; do measure "$dir" "$row" "$name" disk_bench disk "$image"; done
            ! command -v fio >/dev/null || host "$dir" "$row" "$image"
        done
    done
    for net in tap user; do
        for row in $net_rows; do
            wanted "net-$net $row" || continue
            printf '\rround %d of %d: %-40s' "$i" "$rounds" "net $net $row" >&2
            for name in $vmms; do measure "net-$net" "$row" "$name" net_bench net $net; done
        done
    done
done
printf '\r%60s\r' '' >&2
[ -s "$work/rows" ] || { cat "$work/errors" >&2; exit 1; }

printf '%-10s %-16s %-13s %11s %23s %9s %6s %6s %10s\n' where row by per-second 'min .. max' \
    'to umbra' kicks irqs 'CPU us/op'
# Medians, in the order of the first appearance.
awk '
    { key = $1 " " $2 " " $3; if (!(key in count)) order[++n] = key
      i = ++count[key]; rate[key, i] = $4 / ($5 / 1e6)
      ops[key] += $4; kicks[key] += $6; irqs[key] += $7; cpu[key] += $8 }
    function median(key,   i, j, t, m, v) {
        m = count[key]
        for (i = 1; i <= m; i++) v[i] = rate[key, i]
        for (i = 2; i <= m; i++) for (j = i; j > 1 && v[j] < v[j - 1]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        low = v[1]; high = v[m]
        return m % 2 ? v[(m + 1) / 2] : (v[m / 2] + v[m / 2 + 1]) / 2
    }
    END { for (i = 1; i <= n; i++) {
        key = order[i]; split(key, part, " "); mid = median(key)
        if (part[3] == "umbra") base = mid
        printf "%-10s %-16s %-13s %11.0f %10.0f .. %9.0f %8.2fx %6.2f %6.2f %10.2f\n", part[1], part[2],
            part[3], mid, low, high, base ? mid / base : 0, kicks[key] / ops[key], irqs[key] / ops[key],
            (cpu[key] > 0 ? cpu[key] / ops[key] : 0) } }
' "$work/rows"
echo
echo "load average $load before, $(cut -d' ' -f1 /proc/loadavg) after, $(nproc) processors$(awk -v l="$load" \
    'BEGIN { if (l > 0.5) print "; THE MACHINE WAS LOADED: compare ratios of one row at most" }')"
[ -n "$qemu" ] || echo "QEMU is not on PATH: left out"
if command -v lkvm >/dev/null; then
    echo "kvmtool starts no multiboot or PVH image: see scripts/bench boot for it"
else
    echo "kvmtool (lkvm) is not on PATH: left out"
fi
