# SPDX-License-Identifier: MIT
# Sockets between a stock Debian kernel and the host, both ways, over both transports; a
# session of an embedder's on a virtio console; umbra console on one.
# needs: cloud/vmlinuz cloud/initrd build/tests/testbed/vsock_peer build/tests/testbed/session
# all: both transports
. ./lib.sh

# The guest's initramfs with the peer and an account in it.
mkdir -p /tmp/extra/bin /tmp/extra/etc
cp vsock_peer /tmp/extra/bin/
echo 'root::0:0:root:/root:/bin/sh' >/tmp/extra/etc/passwd
echo 'root:x:0:' >/tmp/extra/etc/group
(cd /tmp/extra && find . | cpio -o -H newc 2>/dev/null) >/tmp/extra.cpio
cat cloud.cpio /tmp/extra.cpio >/tmp/guest.cpio

complaints="dmesg -r | grep -E '^<[0-4]>.*(virtio|vsock)' | sed 's/^/complaint=/'"

# PCI with packed rings, MMIO with split ones.
for transport in ${transports:-mmio}; do
    case $transport in pci) ring=packed ;; *) ring=split ;; esac
    sock=/tmp/$transport.vsock
    ./vsock_peer unix-listen:${sock}_6000 echo >/dev/null 2>&1 &
    echoer=$!
    do="vsock_peer vsock:2:6000 check 3000000 2; vsock_peer vsock:2:6000 check 1000 60"
    do="$do; vsock_peer vsock:2:6001 check 1 1; vsock_peer vsock-listen:5000 echo & sleep 1; echo serving"
    do="$do; n=0; until [ -e /tmp/quit ] || [ \$n = 100 ]; do sleep 1; n=\$((n + 1)); vsock_peer vsock:2:6002 check 1 1 >/dev/null && touch /tmp/quit; done; $complaints; poweroff -f"
    : >$out
    umbra run --kernel cloud.vmlinuz --initrd /tmp/guest.cpio --memory 256M --timeout 140 \
        --virtio-transport $transport --virtio-ring $ring --vsock cid=3,path=$sock --stats /tmp/stats \
        --append "console=ttyS0 quiet do=\"$do\"" >$out 2>&1 </dev/null &
    pid=$!
    wait_for 1 '^serving'
    { ./vsock_peer unix:$sock:5000 check 3000000 2
      ./vsock_peer unix:$sock:5000 check 1000 60
      ./vsock_peer unix:$sock:5001 check 1 1; } >/tmp/host 2>&1
    ./vsock_peer unix-listen:${sock}_6002 echo >/dev/null 2>&1 & # ends the guest
    quitter=$!
    status=0
    wait $pid || status=$?
    kill $echoer $quitter 2>/dev/null
    verdict "guest to host over $transport, $ring rings" 0 '^checked 2 connections of 3000000 bytes, 0 bad' \
        '^checked 60 connections of 1000 bytes, 0 bad' '^FAILED: connect: Connection (reset|refused)' '!^complaint='
    cp /tmp/host $out
    verdict "host to guest over $transport, $ring rings" 0 '^checked 2 connections of 3000000 bytes, 0 bad' \
        '^checked 60 connections of 1000 bytes, 0 bad' '^FAILED: no OK'
    grep -A6 '"connections"' /tmp/stats >$out
    verdict "statistics over $transport" 0 '"from_guest": 6[0-9]' '"from_host": 62' '"open": 0'
    if [ -e $sock ]; then fail "socket over $transport" "it is still there"; fi
done

# An embedder logs in and works.
for transport in "pci packed" ${all:+"mmio split"}; do
    # shellcheck disable=SC2086
    run ./session cloud.vmlinuz /tmp/guest.cpio $transport
    verdict "an embedder's session on hvc0, $transport" 0 '^outcome: the guest powered off' '!^log'
done

# umbra console on a virtio console of a running VM.
talk() {
    wait_for 1 'login: ' && echo root
    wait_for 1 '# ' && echo 'tty; echo sum $((40 + 2))'
    wait_for 1 'sum 42' && echo 'poweroff -f'
    sleep 100
}
umbra run --name talked --kernel cloud.vmlinuz --initrd /tmp/guest.cpio --memory 256M --timeout 140 \
    --console name=hvc0,end=none --append 'console=ttyS0 quiet do="getty -L 0 hvc0 vt100"' \
    >/tmp/run 2>&1 </dev/null &
n=0
until umbra ls | grep -q talked || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done
converse umbra console talked hvc0
verdict "umbra console NAME hvc0" 0 '^/dev/hvc0' '^sum 42'
wait
run umbra console nobody hvc0
verdict "umbra console of no VM" 66
finish
