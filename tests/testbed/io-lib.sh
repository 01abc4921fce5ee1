# SPDX-License-Identifier: MIT
# Guests that boot from an ext4 root disk (level 1's /dev/vda, under an overlay that is
# thrown away) with Debian's fio on it, and what they may not complain about.
# shellcheck shell=sh

complaints="dmesg -r | grep -E '^<[0-4]>.*(virtio|vd[a-z]|eth[0-9]|EXT4|I/O)' | sed 's/^/complaint=/'"

# start_guest: a guest with the options in $options runs $do from its root disk.
start_guest() {
    # shellcheck disable=SC2086
    umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --cpus 2 --memory 512M \
        --timeout ${limit:-140} --disk path=/dev/vda,overlay=discard $options \
        --append "console=ttyS0 quiet root=/dev/vda do=\"$do; $complaints\""
}

# root_guest NAME REGEX... : and it must say these and complain of nothing.
root_guest() {
    local name=$1
    shift
    status=0
    start_guest >$out 2>&1 </dev/null || status=$?
    verdict "$name" 0 '^\[root\] up: /dev/vda ext4' "$@" '!^complaint='
}

# fio on the second disk: written blocks are read back and their checksums compared, by
# two jobs, each in its half: random mixed, then sequential through the page cache. No
# double quotes here: this goes onto a kernel command line.
fio_verify() {
    echo "fio --filename=/dev/vdb --size=$1 --offset_increment=$1 --numjobs=2 --thread \
--ioengine=${2:-libaio} --iodepth=16 --verify=crc32c --verify_fatal=1 --group_reporting \
--output-format=terse --terse-version=3 --name=random --direct=1 --rw=randrw \
--bsrange=4k-64k --name=sequential --stonewall --direct=0 --rw=write --bs=256k \
--end_fsync=1 | cut -d';' -f3,5,47"
}
# Job, error, KiB written.
verified_random='^random;0;[1-9]'
verified_sequential='^sequential;0;[1-9]'

# A file system of level 1's on a disk of its own, at $1 with $2 MiB: for direct access,
# which tmpfs has not, and for losing power.
make_fs() {
    mkdir -p "$1"
    truncate -s "$2M" "$1.img"
    mkfs.ext4 -q "$1.img" && losetup /dev/loop0 "$1.img" &&
        mount -t ext4 -o commit=300 /dev/loop0 "$1"
}
