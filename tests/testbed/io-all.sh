# SPDX-License-Identifier: MIT
# The whole product: fio with verification and iperf3 over each transport, each ring format,
# each way to the image and several numbers of queues; each once through an overlay, too.
# needs: cloud/vmlinuz cloud/initrd /usr/bin/iperf3=/bin/iperf3 libslirp.so.0
# needs: /usr/sbin/mkfs.ext4=/bin/mkfs.ext4 /etc/mke2fs.conf=/etc/mke2fs.conf
# guest: /usr/bin/iperf3=/bin/iperf3
# rootdisk: /usr/bin/fio=/bin/fio
# level1: -m 3584 -l loop -l crc32c_generic -l ext4 -l tun -t 3000
# silence: 650
. ./lib.sh
. ./io-lib.sh

limit=600 # this runs on machines with other things to do, too
make_fs /fs 200 || fail "a file system for level 1" "status $?"
ip link set lo up
iperf3 -s -D
for transport in pci mmio; do
    for ring in split packed; do
        common="--virtio-transport $transport --virtio-ring $ring"
        for disk in cache=cached cache=direct,queues=2 queues=2,poll=on overlay=discard,queues=4 \
            overlay=keep,overlay_path=/fs/kept; do
            rm -f /fs/data.img /fs/kept
            truncate -s 32M /fs/data.img
            for engine in libaio io_uring; do
                options="$common --disk path=/fs/data.img,$disk"
                do=$(fio_verify 8M $engine)
                root_guest "fio by $engine, $transport, $ring rings, $disk" "$verified_random" \
                    "$verified_sequential"
            done
        done
        for net in user user,mtu=65520 tap=tap0 tap=tap1,queues=2; do
            tap=$(echo $net | sed -n 's/^tap=\(tap[01]\).*/\1/p') peer=10.0.2.2 address=10.0.2.15
            [ -z "$tap" ] || { peer=192.168.7.1 address=192.168.7.2; }
            do="ip link set eth0 up; ip addr add $address/24 dev eth0; sleep 1; for way in -P4 -R -u; do iperf3 -c $peer -n 12M \$way -f m | grep receiver | tail -1; done; $complaints; poweroff -f"
            # shellcheck disable=SC2086
            umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --cpus 2 --memory 256M --timeout $limit \
                $common --net $net --append "console=ttyS0 quiet do=\"$do\"" >$out 2>&1 </dev/null &
            pid=$!
            [ -z "$tap" ] || {
                n=0
                until [ -e /sys/class/net/$tap ] || [ $n = 100 ]; do n=$((n + 1)); sleep 0.2; done
                ip addr add 192.168.7.1/24 dev $tap
                ip link set $tap up
            }
            status=0
            wait $pid || status=$?
            verdict "iperf3, $transport, $ring rings, $net" 0 'SUM.* [1-9].*receiver' \
                '^\[ *5\].* [1-9].*receiver' '!^complaint=' '!iperf3: error'
        done
    done
done
finish
