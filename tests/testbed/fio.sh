# SPDX-License-Identifier: MIT
# Disks under load with a stock kernel: an ext4 root disk boots, fio verifies what it wrote
# (random and mixed, several queues, direct), and a disk grows while the guest runs.
# needs: cloud/vmlinuz cloud/initrd
# needs: /usr/sbin/mkfs.ext4=/bin/mkfs.ext4 /etc/mke2fs.conf=/etc/mke2fs.conf
# rootdisk: /usr/bin/fio=/bin/fio
# level1: -m 3072 -l loop -l crc32c_generic -l ext4
. ./lib.sh
. ./io-lib.sh

make_fs /fs 64 || fail "a file system for level 1" "status $?"
truncate -s 16M /fs/data.img
options="--disk path=/fs/data.img,queues=2,cache=direct --virtio-ring packed"
do="$(fio_verify 6M); ls /sys/block/vdb/mq | wc -l | sed s/^/queues:/"
root_guest "root disk and fio over pci, packed rings, direct" "$verified_random" \
    "$verified_sequential" '^queues:2$'

# The MMIO guest sees its disk grow, writes to the new part, and finds it there.
# So does an overlay, which is larger than its base from the start.
truncate -s 16M /fs/base.img
options="--virtio-transport mmio --disk path=/fs/data.img,queues=2 --name grows"
options="$options --disk path=/fs/base.img,overlay=keep,overlay_path=/fs/kept,size=20M"
do="$(fio_verify 4M); cat /sys/block/vdb/size /sys/block/vdc/size; echo waits"
do="$do; n=0; until [ \$(cat /sys/block/vdb/size) = 49152 ] || [ \$n = 200 ]; do n=\$((n + 1)); sleep 0.1; done"
do="$do; echo the end | dd of=/dev/vdb bs=4k seek=6143 conv=fsync,sync; cat /sys/block/vdb/size; dmesg | grep capacity"
do="$do; n=0; until [ \$(cat /sys/block/vdc/size) = 65536 ] || [ \$n = 200 ]; do n=\$((n + 1)); sleep 0.1; done"
do="$do; echo the tail | dd of=/dev/vdc bs=4k seek=8191 conv=fsync,sync; echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vdc bs=4k skip=8191 2>/dev/null | head -c 8 | sed s/^/vdc:/"
: >$out
start_guest >$out 2>&1 </dev/null &
pid=$!
wait_for 1 '^waits' && umbra ctl grows disk.resize disk=disk1 size=24M >/tmp/resized 2>&1 &&
    umbra ctl grows disk.resize disk=disk2 size=32M >>/tmp/resized 2>&1
status=0
wait $pid || status=$?
verdict "root disk and fio over mmio, split rings; a disk grows" 0 "$verified_random" \
    "$verified_sequential" '^32768$' '^40960$' '^49152$' '^vdc:the tail' 'capacity change from 16777216 to 25165824|new size|detected capacity' '!^complaint='
cp /tmp/resized $out
[ "$(stat -c %s /fs/base.img)" = 16777216 ] || fail "the overlay's base" "it grew, too"
[ "$(stat -c %s /fs/data.img)" = 25165824 ] && [ "$(tail -c 4096 /fs/data.img | head -c 7)" = "the end" ] &&
    pass "the image grew, and has what the guest wrote there" || fail "the image" "it did not grow"
finish
