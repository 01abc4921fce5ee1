# SPDX-License-Identifier: MIT
# Flush means flush: a VMM is killed under write load and its host's file system loses
# power with it: what was not made durable is gone (seen first, so that the test can fail),
# and every write that the guest was told is durable is there.
# needs: cloud/vmlinuz cloud/initrd build/tests/testbed/shutdown_fs=/bin/shutdown_fs
# needs: /usr/sbin/mkfs.ext4=/bin/mkfs.ext4 /usr/sbin/e2fsck=/bin/e2fsck /etc/mke2fs.conf=/etc/mke2fs.conf
# level1: -m 3072 -l loop -l crc32c_generic -l ext4
. ./lib.sh
. ./io-lib.sh

# Nothing is written back but what somebody asked for.
echo 0 >/proc/sys/vm/dirty_writeback_centisecs
make_fs /fs 160 || fail "a file system for level 1" "status $?"

lose_power() {
    shutdown_fs /fs && umount /fs && mount -t ext4 -o commit=300 /dev/loop0 /fs ||
        fail "the power cut" "the file system does not come back"
}

head -c 100000 /dev/urandom >/fs/unsynced
head -c 100000 /dev/urandom >/fs/synced
sync /fs/synced
head -c 50000 /dev/urandom >>/fs/unsynced
lose_power
if [ "$(stat -c %s /fs/synced)" = 100000 ] && [ "$(stat -c %s /fs/unsynced 2>/dev/null || echo 0)" != 150000 ]; then
    pass "losing power loses what was not synchronized"
else
    skip "losing power" "it loses nothing here, so the following proves little"
fi

# cut DISK: run $do with the disk until 40 flushes are acknowledged, then kill and cut.
cut() {
    : >$out
    umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --cpus 2 --memory 256M --timeout 140 \
        --disk "$1" --append "console=ttyS0 quiet do=\"$do\"" >$out 2>&1 </dev/null &
    pid=$!
    wait_for 40 '^flushed'
    kill -9 $pid
    wait $pid 2>/dev/null
    lose_power
}
# The last number that writer $1 was acknowledged.
last_of() { tr -d '\r' <$out | sed -n "s/^flushed $1 \([0-9]*\)\$/\1/p" | tail -1; }

# Two writers, each a block and a flush at a time, and one that never flushes.
writers='w() { i=$1; while [ $i -lt $2 ]; do i=$((i + 1)); (printf %08d $i; cat /proc/version) | dd of=/dev/vda bs=4k seek=$i conv=fsync,notrunc 2>/dev/null; echo flushed $1 $i; done; }; while :; do dd if=/dev/zero of=/dev/vda bs=64k seek=200 count=40; done 2>/dev/null & w 0 900 & w 1000 1900'
# wrong FILE FIRST LAST: how many blocks of FIRST+1..LAST are not as they were written.
wrong() {
    local i=$2 bad=0
    while [ $i -lt "$3" ]; do
        i=$((i + 1))
        [ "$(dd if="$1" bs=4k skip=$i count=1 2>/dev/null | head -c 8)" = "$(printf %08d $i)" ] || bad=$((bad + 1))
    done
    echo $bad
}
for cache in cached direct; do
    rm -f /fs/disk.img
    truncate -s 24M /fs/disk.img
    sync /fs/disk.img /fs
    do=$writers
    cut path=/fs/disk.img,queues=2,cache=$cache
    one=$(last_of 0) two=$(last_of 1000)
    bad=$(($(wrong /fs/disk.img 0 "${one:-0}") + $(wrong /fs/disk.img 1000 "${two:-1000}")))
    if [ "${one:-0}" -gt 5 ] && [ "${two:-0}" -gt 1005 ] && [ $bad = 0 ]; then
        pass "power cut, $cache: $one and $((two - 1000)) flushed blocks are there"
    else
        fail "power cut, $cache" "$bad blocks wrong of 1..$one and 1001..$two"
    fi
done

# An overlay that is kept: data, then its map.
rm -f /fs/disk.img
truncate -s 24M /fs/disk.img
sync /fs/disk.img /fs
do=$writers
cut path=/fs/disk.img,overlay=keep,overlay_path=/fs/kept
one=$(last_of 0) two=$(last_of 1000)
do='bad=0; c() { i=$1; while [ $i -lt $2 ]; do i=$((i + 1)); [ $(dd if=/dev/vda bs=4k skip=$i count=1 2>/dev/null | head -c 8) = $(printf %08d $i) ] || bad=$((bad + 1)); done; }'
do="$do; c 0 ${one:-0}; c 1000 ${two:-1000}; echo wrong \$bad"
run umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 140 \
    --disk path=/fs/disk.img,overlay=keep,overlay_path=/fs/kept --append "console=ttyS0 quiet do=\"$do\""
verdict "power cut of an overlay: ${one:-no} and $((${two:-1000} - 1000)) flushed blocks are there" 0 '^wrong 0'

# The guest's own ext4: each file was synchronized, while others were written without.
rm -f /fs/disk.img /fs/kept
truncate -s 24M /fs/disk.img
mkfs.ext4 -q /fs/disk.img
sync /fs/disk.img /fs
do='mount -t ext4 /dev/vda /mnt; while :; do dd if=/dev/zero of=/mnt/noise bs=64k count=40; done 2>/dev/null & i=0; while [ $i -lt 900 ]; do i=$((i + 1)); (printf %08d $i; cat /proc/version) | dd of=/mnt/f$i conv=fsync 2>/dev/null; echo flushed 0 $i; done'
cut path=/fs/disk.img
one=$(last_of 0)
e2fsck -fp /fs/disk.img >$out 2>&1
repaired=$?
e2fsck -fn /fs/disk.img >>$out 2>&1
clean=$?
mkdir -p /guest
losetup /dev/loop1 /fs/disk.img && mount -t ext4 -o ro /dev/loop1 /guest
bad=0 i=0
while [ $i -lt "${one:-0}" ]; do
    i=$((i + 1))
    [ "$(head -c 8 /guest/f$i 2>/dev/null)" = "$(printf %08d $i)" ] || bad=$((bad + 1))
done
if [ $repaired -le 1 ] && [ $clean = 0 ] && [ "${one:-0}" -gt 10 ] && [ $bad = 0 ]; then
    pass "power cut of an ext4: fsck is content, $one synchronized files are whole"
else
    fail "power cut of an ext4" "fsck $repaired, then $clean; $bad of ${one:-no} files are wrong"
fi
finish
