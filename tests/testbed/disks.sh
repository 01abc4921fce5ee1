# SPDX-License-Identifier: MIT
# Virtio devices under a stock Debian kernel: an ext4 disk over both transports, discard,
# overlays, console ports, and no complaint of the kernel's.
# needs: cloud/vmlinuz cloud/initrd /usr/sbin/mkfs.ext4=/bin/mkfs.ext4 /usr/sbin/e2fsck=/bin/e2fsck
# needs: /bin/busybox=/bin/busybox.guest /etc/mke2fs.conf=/etc/mke2fs.conf
# level1: -m 1536
. ./lib.sh
. ./boot-lib.sh

# guest NAME REGEX... : run $do in a guest with the options in $options.
guest() {
    local name=$1
    shift
    # shellcheck disable=SC2086
    run umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --cpus 2 --memory 256M \
        --timeout 140 $options --append "console=ttyS0 quiet do=\"$do; dmesg -r | grep -E '^<[0-4]>.*(virtio|vd[a-z]|EXT4|I/O)' | sed 's/^/complaint=/'; poweroff -f\""
    verdict "$name" 0 "$@" '!^complaint='
}

blocks() { stat -c %b "$1"; }

# A root file system with something in it.
mkdir -p /tmp/tree/bin /tmp/tree/data
cp /bin/busybox.guest /tmp/tree/bin/busybox
ln -s busybox /tmp/tree/bin/sh
dd if=/dev/urandom of=/tmp/tree/data/random bs=1M count=8 2>/dev/null
sum=$(md5sum </tmp/tree/data/random | cut -d' ' -f1)
truncate -s 200M /tmp/root.img
mkfs.ext4 -q -d /tmp/tree /tmp/root.img || fail "mkfs.ext4" "status $?"

# PCI with packed rings, MMIO with split ones.
for transport in pci mmio; do
    case $transport in pci) ring=packed packed=1 ;; *) ring=split packed=0 ;; esac
    options="--virtio-transport $transport --virtio-ring $ring --disk path=/tmp/root.img,queues=2,serial=first --rng"
    do='mount -t ext4 /dev/vda /mnt && md5sum /mnt/data/random; chroot /mnt /bin/busybox echo from the root'
    do="$do; dd if=/dev/zero of=/mnt/zeroes bs=1M count=40 2>/dev/null; cp /mnt/data/random /mnt/copy-$transport; sync; umount /mnt"
    do="$do; mount -t ext4 /dev/vda /mnt; md5sum /mnt/copy-$transport; rm /mnt/zeroes; sync; fstrim -v /mnt; umount /mnt"
    do="$do; dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c; cat /sys/block/vda/serial; echo; cut -c35 /sys/block/vda/device/features | sed s/^/packed:/"
    before=$(blocks /tmp/root.img)
    guest "ext4 over $transport, $ring rings" "^packed:$packed$" "^$sum  /mnt/data/random" '^from the root' \
        "^$sum  /mnt/copy-$transport" '^64$' '^first' '/mnt: [0-9]+ bytes'
    after=$(blocks /tmp/root.img)
    if [ $((after - before)) -lt $((12 * 2048)) ]; then
        pass "fstrim over $transport gave the host its blocks back ($before, $after)"
    else
        fail "fstrim over $transport" "the image grew from $before to $after blocks"
    fi
    if e2fsck -fn /tmp/root.img >$out 2>&1; then
        pass "e2fsck after $transport"
    else
        fail "e2fsck after $transport" "status $?"
    fi
done

# Overlays: the base stays as it is; one is thrown away, the other kept.
base=$(md5sum </tmp/root.img)
do='mount -t ext4 /dev/vda /mnt; echo has: $(ls /mnt); echo note >/mnt/note; sync; umount /mnt'
options="--disk path=/tmp/root.img,overlay=discard"
guest "overlay to throw away" '^has: .*data'
# What was thrown away must be gone.
options="--disk path=/tmp/root.img,overlay=keep,overlay_path=/tmp/kept"
guest "overlay to keep" '^has: .*data' '!^has: .*note'
# What was kept must be there. With it console ports: a console and a named channel.
options="$options --console name=hvc0,end=file:/tmp/hvc --console name=org.umbra.test,end=file:/tmp/channel"
do="$do; n=0; until grep -q org.umbra.test /sys/class/virtio-ports/*/name || [ \$n = 99 ]; do n=\$((n + 1)); sleep 0.2; done 2>/dev/null; echo out of hvc >/dev/hvc0; cat /sys/class/virtio-ports/*/name; for p in /sys/class/virtio-ports/*; do [ \$(cat \$p/name) != org.umbra.test ] || echo through the channel >/dev/\${p##*/}; done; stty -F /dev/hvc0 size"
guest "overlay kept, and console ports" '^has: .*note' '^org.umbra.test' '^24 80'
cat /tmp/hvc /tmp/channel >$out
verdict "console ports: what arrived" 0 '^out of hvc' '^through the channel'
if [ "$base" = "$(md5sum </tmp/root.img)" ]; then
    pass "the base under overlays is untouched"
else
    fail "the base under overlays" "it changed"
fi

# A disk that fails now and then, by plan: the kernel says so.
do='dd if=/dev/vda of=/dev/null bs=64k count=800 2>&1; dmesg | grep -c I/O.error,.dev.vda | sed s/^/errors=/'
do="$do; cat /proc/interrupts | grep -c virtio0 | sed s/^/vectors=/; poweroff -f"
# shellcheck disable=SC2086
run umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 140 \
    --disk path=/tmp/root.img,overlay=discard --stats /tmp/stats.json \
    --fault io-error,device=disk0,direction=in,one_in=10,seed=1 \
    --fault delay,device=disk0,one_in=7,delay=5ms,seed=2 \
    --append "console=ttyS0 quiet do=\"$do\""
verdict "planned faults of a disk" 0 '^errors=[1-9]' '^vectors=[1-9]'
grep -c '"fault": "io-error"' /tmp/stats.json >$out
verdict "planned faults are in the statistics" 0 '^[1-9]'
finish
