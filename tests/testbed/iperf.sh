# SPDX-License-Identifier: MIT
# Debian's iperf3 in a stock guest, both ways: user mode over both transports and ring
# formats (whole TCP segments of up to 64 KiB go to libslirp), a tap with several queues.
# needs: cloud/vmlinuz cloud/initrd /usr/bin/iperf3=/bin/iperf3 libslirp.so.0
# guest: /usr/bin/iperf3=/bin/iperf3
# level1: -m 2560 -l tun
# all: user mode over MMIO, with a large MTU
. ./lib.sh

complaints="dmesg -r | grep -E '^<[0-4]>.*(virtio|eth[0-9])' | sed 's/^/complaint=/'"
ip link set lo up
# iperf NAME PEER: as much as is quick here, to the peer and from it; and what the wire saw.
iperf() {
    local name=$1 peer=$2 sent
    shift 2
    iperf3 -s -D -p 5201 --pidfile /tmp/iperf.pid
    do="$setup; for way in -P2 -R; do iperf3 -c $peer -n 6M \$way -f m | grep receiver | tail -1; echo way \$way; done; cat /sys/class/net/eth0/mtu; $complaints"
    status=0
    # shellcheck disable=SC2086
    umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --cpus 2 --memory 256M --timeout 140 \
        $options --stats /tmp/stats.json --append "console=ttyS0 quiet do=\"$do; poweroff -f\"" >$out 2>&1 </dev/null &
    pid=$!
    [ -z "$tap" ] || {
        n=0
        until [ -e /sys/class/net/$tap ] || [ $n = 100 ]; do n=$((n + 1)); sleep 0.2; done
        ip addr add 192.168.7.1/24 dev $tap
        ip link set $tap up
    }
    wait $pid || status=$?
    kill "$(cat /tmp/iperf.pid)" 2>/dev/null
    verdict "iperf3, $name" 0 'MBytes.*[1-9].*receiver' '^way -R' "$@" '!^complaint=' '!iperf3: error' || return
    tr -d '\r' <$out | grep -B1 '^way' | sed -n 's/.*MBytes *\(.*its.sec\).*/  \1/p'
    sent=$(grep -A3 '"sent": {' /tmp/stats.json | tr -dc '0-9\n' | tr '\n' ' ')
    set -- $sent
    if [ "${2:-0}" -gt 4000000 ] && [ $(($2 / $1)) -gt 1600 ]; then
        pass "$name: frames of $(($2 / $1)) bytes on average from the guest"
    else
        cp /tmp/stats.json $out
        fail "$name: segmentation offload" "sent: frames, bytes, dropped: $sent"
    fi
}

tap=
setup='ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0'
options="--net user --virtio-ring packed"
iperf "user mode over pci, packed rings" 10.0.2.2 '^1500$'
options="--net user,mtu=9000 --virtio-transport mmio --virtio-ring split"
[ -z "$all" ] || iperf "user mode over mmio, split rings, MTU 9000" 10.0.2.2 '^9000$'
tap=tap0
setup='ip link set eth0 up; ip addr add 192.168.7.2/24 dev eth0; ls /sys/class/net/eth0/queues | cat'
options="--net tap=tap0,queues=2 --virtio-ring packed"
iperf "a tap with two queues" 192.168.7.1 '^tx-1'
finish
