# SPDX-License-Identifier: MIT
# Changes to a live machine under a stock Debian kernel: a balloon led over the control socket
# (guest and host memory watched), free page reporting, deflation in need, huge pages; a disk
# that grows, a cable pulled and plugged in. And no complaint of the kernel's.
# needs: cloud/vmlinuz cloud/initrd configs/balloon.json libslirp.so.0
# level1: -m 3072
# all: both transports, and the guest that nobody saves
. ./lib.sh
. ./boot-lib.sh
trap '' PIPE # a guest may be gone before it is told
mv cloud.vmlinuz vmlinuz # as the config has it

# Wait for a line that matches REGEX, unless the VM ends.
reach() {
    local tries=0
    until grep -q -- "$1" $out; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] && kill -0 $pid 2>/dev/null || return 1
        sleep 0.2
    done
}
# start NAME OPTIONS...: a guest of that name whose shell obeys `tell`.
start() {
    name=$1 told=0
    shift
    rm -f /tmp/pipe
    mkfifo /tmp/pipe
    : >$out
    umbra run balloon.json --name "$name" --initrd cloud.cpio --memory 512M --timeout 140 \
        --append 'console=ttyS0 quiet do="PS1= sh"' "$@" </tmp/pipe >$out 2>&1 &
    pid=$!
    exec 3>/tmp/pipe
    reach '^\[init\] run' || { fail "$name" "the guest does not come up"; finish; }
}
# tell COMMAND: have the guest run it, and wait until it has.
tell() {
    told=$((told + 1))
    echo "$1; echo done $told." >&3
    reach "^done $told\\." || { fail "$name" "no answer to: $1"; finish; }
}
# The last value of KEY= in the output.
last() { tr -d '\r' <$out | sed -n "s/^$1=//p" | tail -1; }
# A number (KiB) of the guest's /proc/meminfo, into $got.
meminfo() {
    tell "awk '/^$1:/{print \"$1=\" \$2}' /proc/meminfo"
    got=$(last "$1")
}
# KiB of the VMM that are in host memory.
rss() { awk '/^VmRSS/{print $2}' /proc/$pid/status; }
ctl() { umbra ctl "$name" "$@"; }
# A number of balloon.stats, in KiB.
stat_kib() { ctl balloon.stats | sed -n "s/^ *\"$1\": \\([0-9]*\\),*\$/\\1/p" | awk '{print int($1 / 1024)}'; }
# until_is COMMAND OP NUMBER: wait for it, a minute at most; $got is what it was last.
until_is() {
    local tries=0
    while got=$($1) && ! [ "$got" "$2" "$3" ]; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || return 1
        sleep 0.2
    done
}
actual() { stat_kib actual; }
judge() { # NAME CONDITION...: test it
    local what=$1
    shift
    if [ "$@" ]; then pass "$what"; else fail "$what" "not: $*"; fi
}
# end NAME REGEX...: power off; no complaints.
end() {
    local what=$1
    shift
    tell "dmesg -r | grep -E '^<[0-4]>.*(virtio|[Bb]alloon|vd[a-z]|eth[0-9])' | sed 's/^/complaint=/'"
    echo 'exit' >&3
    exec 3>&-
    status=0
    wait $pid || status=$?
    verdict "$what" 0 '!^complaint=' "$@"
}
# Touch MIB of the guest's memory and free it again.
touch_and_free() { tell "dd if=/dev/zero of=/tmp/big bs=1M count=$1 2>/dev/null; rm /tmp/big"; }

# Inflate and deflate, over both transports and ring formats; the disk and the cable with it.
truncate -s 16M /tmp/data.img
for transport in ${transports:-pci}; do
    case $transport in pci) ring=packed ;; *) ring=split ;; esac
    start $transport --virtio-transport $transport --virtio-ring $ring \
        --balloon=reporting=off,stats=1s --disk path=/tmp/data.img,id=data --net user
    touch_and_free 200
    meminfo MemFree
    before=$(rss) free=$got
    ctl balloon.set target=256M >/dev/null
    until_is actual -eq $((256 * 1024))
    meminfo MemFree
    lent=$got
    judge "$transport: the guest's free memory fell: $free to $lent KiB" $((free - lent)) -gt $((250 * 1024))
    until_is rss -lt $((before - 150 * 1024))
    judge "$transport: host memory fell: $before to $got KiB" $((before - got)) -gt $((150 * 1024))
    until_is 'stat_kib free' -lt $((free - 200 * 1024))
    judge "$transport: the guest's statistics say so: $got KiB free" "$got" -gt 0
    ctl balloon.set target=0 >/dev/null
    until_is actual -eq 0
    meminfo MemFree
    back=$got
    judge "$transport: deflation gave it back: $back KiB" $((back - lent)) -gt $((250 * 1024))
    touch_and_free 200
    got=$(rss)
    judge "$transport: touched again, host memory is back: $got KiB" "$got" -gt $((before - 60 * 1024))

    tell 'echo size=$(cat /sys/block/vda/size)'
    judge "$transport: disk before" "$(last size)" = $((16 * 2048))
    ctl disk.resize disk=data size=32M >/dev/null
    tell 'n=0; until [ $(cat /sys/block/vda/size) = 65536 ] || [ $n = 99 ]; do n=$((n + 1)); sleep 0.1; done; echo size=$(cat /sys/block/vda/size)'
    judge "$transport: disk grown by its VM" "$(last size)" = 65536
    tell 'dd if=/dev/vda of=/dev/null bs=1M skip=31 2>&1 | grep -q ^1+0 && echo reads=the end'
    judge "$transport: its new end can be read" "$(last reads)" = "the end"
    truncate -s 48M /tmp/data.img
    ctl disk.resize disk=data >/dev/null
    tell 'n=0; until [ $(cat /sys/block/vda/size) = 98304 ] || [ $n = 99 ]; do n=$((n + 1)); sleep 0.1; done; echo size=$(cat /sys/block/vda/size)'
    judge "$transport: disk grown behind its VM" "$(last size)" = 98304
    ctl disk.resize disk=data size=1M >/tmp/error 2>&1
    judge "$transport: a disk does not shrink" "$(grep -c 'can only grow' /tmp/error)" = 1
    truncate -s 16M /tmp/data.img

    tell 'ip link set eth0 up; n=0; until [ $(cat /sys/class/net/eth0/carrier) = 1 ] || [ $n = 99 ]; do n=$((n + 1)); sleep 0.1; done; echo carrier=$(cat /sys/class/net/eth0/carrier)'
    judge "$transport: the cable is in" "$(last carrier)" = 1
    for up in false true; do
        case $up in true) want=1 ;; *) want=0 ;; esac
        ctl net.set_link net=net0 up=$up >/dev/null
        tell 'n=0; until [ $(cat /sys/class/net/eth0/carrier) = '$want' ] || [ $n = 99 ]; do n=$((n + 1)); sleep 0.1; done; echo carrier=$(cat /sys/class/net/eth0/carrier)'
        judge "$transport: link up=$up is seen" "$(last carrier)" = $want
    done
    end "$transport: no complaint"
done

free_huge() { awk '/^HugePages_Free/{print $2}' /proc/meminfo; }
echo 192 >/proc/sys/vm/nr_hugepages
if [ "$(free_huge)" = 192 ]; then
    start huge --hugepages 2M --memory 384M --balloon=reporting=on --virtio-transport mmio
    tell 'dd if=/dev/zero of=/tmp/big bs=1M count=150 2>/dev/null'
    full=$(free_huge)
    tell 'rm /tmp/big'
    until_is free_huge -ge $((full + 50))
    judge "huge pages: free again by reporting: $full to $got" "$got" -ge $((full + 50))
    end "huge pages: no complaint"
else
    skip "huge pages" "level 1 has none"
fi
echo 0 >/proc/sys/vm/nr_hugepages

# Free page reporting: the host has it without being asked. Then, in need: with deflate_on_oom
# the guest takes pages back, without it a process dies.
reporting() {
    tell 'dd if=/dev/zero of=/tmp/big bs=1M count=150 2>/dev/null'
    full=$(rss)
    tell 'rm /tmp/big'
    until_is rss -lt $((full - 120 * 1024))
    judge "reporting: host memory fell by itself: $full to $got KiB" "$got" -lt $((full - 120 * 1024))
    got=$(stat_kib reported)
    judge "reporting: as the device says: $got KiB" "$got" -ge $((120 * 1024))
    touch_and_free 150
}
for need in on ${all:+off}; do
    start need$need --memory 384M --virtio-ring split \
        --balloon=reporting=$need,deflate_on_oom=$need,stats=1s
    [ $need = off ] || reporting
    tell 'echo 1 >/proc/sys/vm/overcommit_memory'
    meminfo MemAvailable
    available=$got
    target=$(((available - 60 * 1024) * 1024))
    ctl balloon.set target=$target >/dev/null
    until_is actual -ge $((target / 1024 - 4))
    judge "need, deflate_on_oom=$need: lent $got of $available KiB" "$got" -ge $((target / 1024 - 4))
    tell 'dd if=/dev/zero of=/dev/null bs=120M count=1 2>/dev/null; echo hog=$?; echo killed=$(dmesg | grep -c "Killed process")'
    if [ $need = on ]; then
        judge "need: the hog of 120 MiB lived" "$(last hog) $(last killed)" = "0 0"
        until_is actual -lt $((target / 1024 - 30 * 1024))
        judge "need: the balloon gave way: $got KiB" "$got" -lt $((target / 1024 - 30 * 1024))
        ctl balloon.set target=$target >/dev/null
        until_is actual -ge $((target / 1024 - 4))
        judge "need: and is filled again when told: $got KiB" "$got" -ge $((target / 1024 - 4))
    else
        judge "without deflate_on_oom the hog is killed" "$(last hog) $(last killed)" = "137 1"
    fi
    end "need, deflate_on_oom=$need: no complaint"
done
finish
