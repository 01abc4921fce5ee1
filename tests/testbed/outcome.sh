# SPDX-License-Identifier: MIT
# Each way for a stock guest to end has its exit status and its one line of reason.
# needs: cloud/vmlinuz cloud/initrd build/tests/testbed/port_write
# all: with one CPU what is otherwise done with two
. ./lib.sh

# The guest's initramfs with port_write in it.
mkdir -p /tmp/extra/bin
cp port_write /tmp/extra/bin/
(cd /tmp/extra && find . | cpio -o -H newc 2>/dev/null) >/tmp/extra.cpio
cat cloud.cpio /tmp/extra.cpio >/tmp/guest.cpio

# try COMMAND [umbra options]: the guest runs COMMAND.
try() {
    local command=$1
    shift
    run umbra run --kernel cloud.vmlinuz --initrd /tmp/guest.cpio --memory 256M --timeout 100 \
        "$@" --append "console=ttyS0 quiet panic=-1 $append do=\"$command\""
}
# guest NAME STATUS COMMAND REASON [umbra options]
guest() {
    local name=$1 expected=$2 command=$3 reason=$4
    shift 4
    try "$command" "$@"
    verdict "$name" "$expected" '^\[init\] up' "exit status $expected" "$reason"
}
append=
if [ "$all" ]; then
    guest "poweroff" 0 "poweroff -f" "power"
    guest "reboot" 104 "reboot -f" "reset"
    guest "panic" 100 "echo c >/proc/sysrq-trigger" "Kernel panic - not syncing: sysrq"
fi
guest "reboot of two CPUs" 104 "reboot -f" "reset" --cpus 2
append="reboot=k drivers=none" guest "reboot by the keyboard controller" 104 "reboot -f" "reset"
append="reboot=t drivers=none" guest "reboot by triple fault" 102 "reboot -f" "triple fault"
guest "panic of two CPUs" 100 "echo c >/proc/sysrq-trigger" "Kernel panic - not syncing: sysrq" --cpus 2
append=drivers=none guest "panic without its driver" 100 "echo c >/proc/sysrq-trigger" "panic"
# Port 0xf4 takes v and gives 2v+1: 3 -> 7.
append=drivers=none guest "debug exit" 7 "port_write 0xf4 3" "0x3"
# A slow host may need more time to come so far.
for seconds in 12 60; do
    append=drivers=none try "echo hangs; while :; do :; done" --timeout $seconds
    ! grep -q '^hangs' $out || break
done
verdict "hang under --timeout" 124 '^hangs' "exit status 124"
run umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --cpus 4 \
    --timeout 2 --append "console=ttyS0 quiet"
verdict "timeout in the middle of a boot" 124 "exit status 124"

# The first boot is told to reboot, the second to power off.
talk() {
    wait_for 1 '^ready' && echo reboot
    wait_for 2 '^ready' && echo poweroff
    sleep 100 # keeps the pipe open
}
converse umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 140 \
    --on-reset restart --append 'console=ttyS0 quiet drivers=none do="echo ready; read x; $x -f"'
verdict "restart on reset, then power off" 0 "the guest powered off" "exit status 0"
finish
