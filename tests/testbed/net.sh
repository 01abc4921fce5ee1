# SPDX-License-Identifier: MIT
# Virtio networks under a stock Debian kernel: user mode (DHCP, the host's services, a
# forwarded port) over both transports, a tap, two guests on a bridge, passt (killed and
# started anew), and refusals.
# needs: cloud/vmlinuz cloud/initrd /bin/busybox=/bin/busybox.guest libslirp.so.0
# needs: /usr/bin/curl=/bin/curl
# wants: /usr/bin/passt=/bin/passt
# level1: -m 2560 -l tun -l bridge -l dummy
# all: both transports
. ./lib.sh
. ./boot-lib.sh

complaints="dmesg -r | grep -E '^<[0-4]>.*(virtio|eth[0-9])' | sed 's/^/complaint=/'"
launch() {
    # shellcheck disable=SC2086
    umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 140 \
        $options --append "console=ttyS0 quiet do=\"$do; $complaints; poweroff -f\""
}
ip link set lo up
mkdir -p /tmp/www
dd if=/dev/urandom of=/tmp/www/file bs=1M count=2 2>/dev/null
sum=$(md5sum </tmp/www/file | cut -d' ' -f1)
busybox.guest httpd -p 8000 -h /tmp/www

# DHCP and a file from the host at 10.0.2.2, over both transports and ring formats; then curl
# fetches a file of the guest's through a forwarded port of the host.
lease="echo '#!/bin/sh' >/tmp/lease; echo '[ \$1 = bound ] || exit 0; echo lease \$ip \$router \$dns; ip addr add \$ip/24 dev \$interface; ip route add default via \$router' >>/tmp/lease; chmod +x /tmp/lease"
lease="$lease; ip link set eth0 up; udhcpc -i eth0 -n -q -s /tmp/lease"
serve='mkdir /tmp/w; dd if=/dev/urandom of=/tmp/w/data bs=1k count=700 2>/dev/null; md5sum /tmp/w/data; httpd -p 80 -h /tmp/w; echo serving'
serve="$serve; n=0; until wget -q -O /dev/null http://10.0.2.2:8000/fetched || [ \$n = 300 ]; do n=\$((n + 1)); sleep 0.2; done"
for transport in ${transports:-mmio}; do
    case $transport in pci) ring=packed ;; *) ring=split ;; esac
    options="--virtio-transport $transport --virtio-ring $ring --net user,mac=52:54:00:12:34:56,mtu=1400,forward=tcp:8080:80"
    do="$lease; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; wget -q -O - http://10.0.2.2:8000/file | md5sum; $serve"
    rm -f /tmp/www/fetched
    : >$out
    launch >$out 2>&1 </dev/null &
    pid=$!
    wait_for 1 '^serving'
    curl --silent --show-error --fail --max-time 60 --output /tmp/got http://127.0.0.1:8080/data 2>/tmp/curl
    echo "curl: status $?" >>/tmp/curl
    : >/tmp/www/fetched
    wait $pid
    status=$?
    verdict "user network over $transport, $ring rings" 0 '^lease 10.0.2.15 10.0.2.2 10.0.2.3' \
        '^52:54:00:12:34:56' '^1400' "^$sum" '!^complaint='
    cat /tmp/curl >>$out
    verdict "curl through a port forward over $transport" 0 '^curl: status 0' \
        "^$(md5sum </tmp/got | cut -d' ' -f1)  /tmp/w/data"
done

# Two guests on a bridge: taps of the host, with offloads and several queues.
if brctl addbr br0 2>/dev/null && ip link set br0 up; then
    options="--cpus 2 --net tap=tapA,queues=2 --stats /tmp/first.json"
    do='ip link set eth0 up; ip addr add 192.168.9.1/24 dev eth0; mkdir /tmp/w; dd if=/dev/urandom of=/tmp/w/data bs=1M count=2 2>/dev/null; echo sum $(md5sum </tmp/w/data); httpd -p 80 -h /tmp/w; ls /sys/class/net/eth0/queues; until wget -q -O - http://192.168.9.2/done 2>/dev/null && nc -w 5 192.168.9.2 99 </dev/null || [ $((n += 1)) = 300 ]; do sleep 0.2; done'
    launch >/tmp/first.out 2>&1 </dev/null &
    pid=$!
    options="--net tap=tapB"
    do='ip link set eth0 up; ip addr add 192.168.9.2/24 dev eth0; until wget -q -O /tmp/got http://192.168.9.1/data 2>/dev/null || [ $((n += 1)) = 300 ]; do sleep 0.2; done; echo sum $(md5sum </tmp/got); mkdir /tmp/w; echo finished >/tmp/w/done; timeout 60 nc -l -p 99 </dev/null & httpd -p 80 -h /tmp/w; wait; cat /sys/class/net/eth0/device/features'
    launch >$out 2>&1 </dev/null &
    second=$!
    n=0
    until [ -e /sys/class/net/tapA ] && [ -e /sys/class/net/tapB ] || [ $n = 100 ]; do
        n=$((n + 1))
        sleep 0.2
    done
    for tap in tapA tapB; do brctl addif br0 $tap && ip link set $tap up; done
    wait $second
    status=$?
    wait $pid
    first=$?
    sum=$(tr -d '\r' </tmp/first.out | grep '^sum')
    verdict "two guests on a bridge: the second" 0 "^${sum:-sum missing}" '!^complaint='
    cp /tmp/first.out $out
    status=$first
    verdict "two guests on a bridge: the first" 0 '^finished' 'tx-1$' '!^complaint='
    # Segmentation is left to the host: what it sent had frames above the MTU.
    sent=$(grep -A3 '"sent": {' /tmp/first.json | tr -dc '0-9\n' | tr '\n' ' ')
    set -- $sent
    if [ "${1:-0}" -gt 0 ] && [ "$2" -gt $((2 * 1048576)) ] && [ $(($2 / $1)) -gt 1600 ]; then
        pass "segmentation offload: $1 frames of $(($2 / $1)) bytes on average"
    else
        cp /tmp/first.json $out
        fail "segmentation offload" "sent: frames, bytes, dropped: $sent"
    fi
else
    skip "two guests on a bridge" "level 1 has no bridge"
fi

# passt gives the guest its host's address. It wants a host with a default route, and a root
# file system that it can pivot away from, which an initramfs is not: a tmpfs moved over it.
start_passt() {
    rm -f /tmp/shared/passt
    unshare -m sh -c 'mount -t tmpfs real /real
        mkdir -p /real/bin /real/proc /real/dev /real/etc /real/shared /real/tmp
        cp /bin/passt /real/bin; cp -a /lib /lib64 /real; mount --bind /tmp/shared /real/shared
        mount --rbind /proc /real/proc; mount --rbind /dev /real/dev
        echo nameserver 192.0.2.53 >/real/etc/resolv.conf; cd /real; mount --move . /
        exec chroot . /bin/passt -f --runas 0 -s /shared/passt' >/tmp/passt.log 2>&1 &
    passt=$!
    n=0
    until [ -S /tmp/shared/passt ] || [ $n = 50 ]; do n=$((n + 1)); sleep 0.2; done
}
if [ ! -e /bin/passt ]; then
    skip "passt" "it is not installed (scripts/deps testbed)"
else
    sum=$(md5sum </tmp/www/file | cut -d' ' -f1)
    mkdir -p /real /tmp/shared
    ip link show dev dummy0 >/dev/null 2>&1 || ip link add dummy0 type dummy
    ip addr add 192.0.2.2/24 dev dummy0 && ip link set dummy0 up && ip route add default via 192.0.2.1
    start_passt
    options="--net unix,path=/tmp/shared/passt,mtu=65520"
    do="$lease; f() { wget -q -O - http://192.0.2.1:8000/file | md5sum | sed s/^/\$1-/; }; c() { until [ \$(cat /sys/class/net/eth0/carrier) = \$1 ]; do sleep 0.2; done; echo carrier \$1; }; f first; c 0; c 1; f second"
    : >$out
    launch >$out 2>&1 </dev/null &
    pid=$!
    if wait_for 1 '^first-'; then
        kill -9 $passt
        wait_for 1 '^carrier 0'
        start_passt
    fi
    wait $pid
    status=$?
    cat /tmp/passt.log >>$out
    verdict "passt: a lease and a file; killed and started anew, the file again" 0 \
        '^lease 192.0.2.2 192.0.2.1 192.0.2.53' "^first-$sum" 'unix back end is gone' '^carrier 0' \
        '^carrier 1' "^second-$sum" '!^complaint='
    kill $passt
fi

# What cannot be had is refused, by name.
do=true
options="--net user,forward=tcp:8000:80"
status=0
launch >$out 2>&1 </dev/null || status=$?
verdict "a port that is taken" 65 'forward tcp port 8000'
options="--net unix,path=/tmp/nobody"
status=0
launch >$out 2>&1 </dev/null || status=$?
verdict "a socket without its other end" 66 '/tmp/nobody'
finish
