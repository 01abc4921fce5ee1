# SPDX-License-Identifier: MIT
# Devices that other processes serve, under a stock Debian kernel: a folder by virtiofsd with
# a build inside it, a disk by qemu-storage-daemon that is restarted and killed under load,
# and the host kernel's vhost-net.
# needs: cloud/vmlinuz cloud/initrd /bin/busybox=/bin/busybox.guest
# needs: /usr/sbin/mkfs.ext4=/bin/mkfs.ext4 /usr/sbin/e2fsck=/bin/e2fsck /etc/mke2fs.conf=/etc/mke2fs.conf
# wants: /usr/lib/qemu/virtiofsd=/usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd=/usr/libexec/virtiofsd
# wants: /usr/bin/qemu-storage-daemon=/bin/qemu-storage-daemon /usr/bin/make=/usr/bin/make
# wants: /usr/bin/gcc=/usr/bin/gcc /usr/bin/as=/usr/bin/as /usr/bin/ld=/usr/bin/ld
# wants: /usr/lib/gcc/x86_64-linux-gnu/12/cc1=/usr/lib/gcc/x86_64-linux-gnu/12/cc1
# wants: /usr/lib/gcc/x86_64-linux-gnu/14/cc1=/usr/lib/gcc/x86_64-linux-gnu/14/cc1
# level1: -m 3072 -l tun -l vhost_net
# all: both transports
. ./lib.sh

# virtiofsd's sandbox pivots its root, which the initramfs cannot be: go where it can.
if [ ! -e /inside ]; then
    mkdir /new /tree
    : >/inside
    mount --rbind / /new
    mount --bind / /new/tree
    mount --bind /tmp /new/tree/tmp
    exec chroot /new /bin/sh -c 'cd /test; exec sh ./.script'
fi

virtiofsd=/usr/libexec/virtiofsd
[ -x $virtiofsd ] || virtiofsd=/usr/lib/qemu/virtiofsd
if [ ! -x $virtiofsd ] || [ ! -x /bin/qemu-storage-daemon ]; then
    skip "devices of other processes" "virtiofsd or qemu-storage-daemon is not installed (scripts/deps test)"
    finish
fi

complaints="dmesg -r | grep -E '^<[0-4]>.*(virtio|fuse|vd[a-z]|EXT4|I/O|eth0)' | sed 's/^/complaint=/'"
launch() {
    # shellcheck disable=SC2086
    umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --cpus 2 --memory 384M \
        --timeout 140 $options --append "console=ttyS0 quiet do=\"$do; $complaints; poweroff -f\""
}
guest() {
    local name=$1
    shift
    status=0
    launch >$out 2>&1 </dev/null || status=$?
    verdict "$name" 0 "$@" '!^complaint='
}

# ---- A shared folder --------------------------------------------------------------------

mkdir -p /tmp/work/source
cd /tmp/work/source
cat >start.s <<'END'
.global _start
_start: mov $6, %edi
        call answer             # a function of the other file
        xor %edx, %edx
        mov $10, %ecx
        div %ecx
        add %al, digits(%rip)
        add %dl, digits+1(%rip)
        mov $1, %eax            # write(1, text, 16)
        mov $1, %edi
        lea text(%rip), %rsi
        mov $16, %edx
        syscall
        mov $60, %eax           # exit(0)
        xor %edi, %edi
        syscall
.data
text:   .ascii "built answer "
digits: .ascii "00\n"
END
echo 'int answer(int n) { return n * 7; }' >answer.c
printf 'CFLAGS = -O1 -ffreestanding\nprogram: start.o answer.o\n\tld -o $@ $^\n' >Makefile
cd /test
dd if=/dev/urandom of=/tmp/work/random bs=1M count=6 2>/dev/null
sum=$(md5sum </tmp/work/random | cut -d' ' -f1)

for transport in ${transports:-pci}; do
    case $transport in pci) ring=packed ;; *) ring=split ;; esac
    options="--virtio-transport $transport --virtio-ring $ring --share path=/tree,tag=src --stats /tmp/stats.json"
    do='mount -t virtiofs src /mnt && echo mounted; md5sum /mnt/tmp/work/random; echo written in the guest >/mnt/tmp/work/from-guest; dd if=/dev/urandom of=/mnt/tmp/work/big bs=1M count=4 2>/dev/null; md5sum /mnt/tmp/work/big'
    [ $transport = mmio ] || do="$do; cd /mnt/tmp/work/source; chroot /mnt /bin/sh -c 'export PATH=/bin:/usr/bin; cd /tmp/work/source && make -s CC=gcc program && ./program'; cd /"
    do="$do; ln -s random /mnt/tmp/work/link; mv /mnt/tmp/work/from-guest /mnt/tmp/work/moved; umount /mnt"
    set -- "^mounted" "^$sum  /mnt/tmp/work/random"
    [ $transport = mmio ] || set -- "$@" '^built answer 42'
    guest "a shared folder over $transport, $ring rings" "$@"
    big=$(md5sum </tmp/work/big | cut -d' ' -f1)
    cat /tmp/work/moved >>$out
    readlink /tmp/work/link >>$out
    verdict "what the guest did in the folder ($transport)" 0 '^written in the guest' '^random$' "^$big "
    rm -f /tmp/work/link /tmp/work/moved
done
if [ -x /tmp/work/source/program ] && /tmp/work/source/program >$out; then
    status=0
    verdict "the program built in the guest runs on the host" 0 '^built answer 42'
else
    fail "the program built in the guest" "it is not there"
fi
cp /tmp/stats.json $out
verdict "statistics of the share" 0 '"type": "virtio-fs"' '"connected": true' '"chains": [1-9]'

$virtiofsd --socket-path=/tmp/fs.sock -o source=/tmp/work >/tmp/fs.log 2>&1 &
until [ -S /tmp/fs.sock ]; do sleep 0.1; done
options="--share path=/tmp/work,tag=fixed,readonly --share socket=/tmp/fs.sock,tag=src"
do='mount -t virtiofs fixed /mnt; md5sum /mnt/random | sed s/^/fixed-/; echo no >/mnt/refused; umount /mnt; mount -t virtiofs src /mnt; md5sum /mnt/random; umount /mnt'
guest "a read-only folder, and a running virtiofsd's socket" "^fixed-$sum  /mnt/random" \
    'Read-only file system' "^$sum  /mnt/random"

# Its end is an error for the guest, not silence; and umbra starts another.
options="--share path=/tmp/work,tag=src"
do='mount -t virtiofs src /mnt; echo holding; n=0; while cat /mnt/random >/dev/null 2>&1 && [ $n -lt 400 ]; do n=$((n + 1)); echo 3 >/proc/sys/vm/drop_caches; done; echo loop ended; umount /mnt; n=0; until mount -t virtiofs src /mnt && md5sum /mnt/random 2>/dev/null || [ $n = 50 ]; do umount /mnt; n=$((n + 1)); sleep 0.2; done'
: >$out
launch >$out 2>&1 </dev/null &
pid=$!
wait_for 1 '^holding'
sleep 1
killall -9 virtiofsd
wait $pid
status=$?
verdict "virtiofsd killed under the guest" 0 '^loop ended' 'share0: lost back end' "^$sum  /mnt/random"

# ---- A network by the host's kernel ---------------------------------------------------------

mkdir -p /tmp/www
served=
cp /tmp/work/random /tmp/www
for transport in ${transports:-mmio}; do
    options="--virtio-transport $transport --net tap=tap0,vhost=true --stats /tmp/stats.json"
    do='ip link set eth0 up; ip addr add 192.168.7.2/24 dev eth0; n=0; until wget -q -O /tmp/got http://192.168.7.1/random || [ $n = 30 ]; do n=$((n + 1)); sleep 1; done; md5sum /tmp/got; ping -c 3 -q 192.168.7.1; mkdir /tmp/w; cp /tmp/got /tmp/w; httpd -p 80 -h /tmp/w; echo serving; n=0; until [ -e /tmp/w/done ] || [ $n = 20 ]; do n=$((n + 1)); sleep 1; wget -q -O /tmp/w/done http://192.168.7.1/done || rm -f /tmp/w/done; done'
    rm -f /tmp/www/done
    : >$out
    launch >$out 2>&1 </dev/null &
    pid=$!
    n=0
    until [ -e /sys/class/net/tap0 ] || [ $n = 100 ]; do n=$((n + 1)); sleep 0.2; done
    ip addr add 192.168.7.1/24 dev tap0
    ip link set tap0 up
    [ -n "$served" ] || busybox.guest httpd -p 192.168.7.1:80 -h /tmp/www
    served=1
    wait_for 1 '^serving'
    got=$(wget -q -O - http://192.168.7.2/got | md5sum | cut -d' ' -f1)
    : >/tmp/www/done
    wait $pid
    status=$?
    verdict "vhost-net over $transport" 0 "^$sum  /tmp/got" '3 packets received, 0% packet loss' '!^complaint='
    echo "fetched $got" >>$out
    cat /tmp/stats.json >>$out
    verdict "vhost-net over $transport: from the guest, and who moved it" 0 "^fetched $sum" '"vhost": true' '!"chains": [1-9][0-9][0-9]'
done

# ---- A disk ------------------------------------------------------------------------------

serve() {
    qemu-storage-daemon --blockdev "file,filename=$1,node-name=f" --export \
        "vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=/tmp/disk.sock,writable=${2-on},num-queues=2" >/tmp/daemon.log 2>&1 &
    daemon=$!
    until [ -S /tmp/disk.sock ] || ! kill -0 $daemon; do sleep 0.1; done
}
unserve() {
    kill "-$1" $daemon
    wait $daemon
    rm -f /tmp/disk.sock
}

mkdir -p /tmp/contents
cp /tmp/work/random /tmp/contents
truncate -s 96M /tmp/disk.img
mkfs.ext4 -q -d /tmp/contents /tmp/disk.img
serve /tmp/disk.img
for transport in ${all:+pci mmio}; do # what follows does it too, with packed rings
    case $transport in pci) ring=packed ;; *) ring=split ;; esac
    options="--virtio-transport $transport --virtio-ring $ring --disk vhost-user=/tmp/disk.sock,queues=2"
    do="mount -t ext4 /dev/vda /mnt; md5sum /mnt/random; cp /mnt/random /mnt/copy; sync; echo 3 >/proc/sys/vm/drop_caches; md5sum /mnt/copy; rm /mnt/copy; sync; umount /mnt; ls /sys/block/vda/mq | wc -l"
    guest "ext4 by qemu-storage-daemon over $transport, $ring rings" "^$sum  /mnt/random" "^$sum  /mnt/copy" '^2$'
done

# The back end ends twice under load, once asked to and once killed: a stall, no error.
options="--virtio-ring packed --disk vhost-user=/tmp/disk.sock,queues=2 --stats /tmp/stats.json"
do='ls /sys/block/vda/mq | wc -l; mount -t ext4 /dev/vda /mnt; md5sum /mnt/random; i=0; while [ $i -lt 26 ]; do i=$((i + 1)); dd if=/mnt/random of=/mnt/f$i bs=64k count=16 conv=fsync 2>/dev/null && echo wrote $i; done; sync; echo 3 >/proc/sys/vm/drop_caches; i=0; bad=0; w=$(dd if=/mnt/random bs=64k count=16 2>/dev/null | md5sum); while [ $i -lt 26 ]; do i=$((i + 1)); g=$(md5sum </mnt/f$i); [ ${g%% *} = ${w%% *} ] || bad=$((bad + 1)); done; echo checked $i, bad $bad; umount /mnt'
: >$out
launch >$out 2>&1 </dev/null &
pid=$!
for how in TERM 9; do
    case $how in TERM) wait_for 1 '^wrote 5' ;; *) wait_for 1 '^wrote 14' ;; esac
    unserve $how
    sleep 1
    serve /tmp/disk.img
done
wait $pid
status=$?
verdict "the disk's back end restarted, then killed, under load" 0 '^2$' "^$sum  /mnt/random" '^checked 26, bad 0' \
    'lost back end /tmp/disk.sock: it closed the connection' '!^complaint='
cp /tmp/stats.json $out
verdict "statistics of the restarts" 0 '"reconnects": 2' '"refused": 0'
unserve TERM
if e2fsck -fn /tmp/disk.img >$out 2>&1; then pass "e2fsck after the restarts"; else fail "e2fsck after the restarts" "status $?"; fi

# One that does not come back: I/O errors after the time that was given.
serve /tmp/disk.img
options="--disk vhost-user=/tmp/disk.sock,reconnect=2s"
do='echo ready; sleep 2; dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct && echo read without a disk; echo went on'
: >$out
complaints=true launch >$out 2>&1 </dev/null &
pid=$!
wait_for 1 '^ready'
unserve 9
wait $pid
status=$?
verdict "a back end that does not come back" 0 'no back end at /tmp/disk.sock: requests fail' \
    '[Ii]/[Oo] error' '^went on' '!^read without a disk'
finish
