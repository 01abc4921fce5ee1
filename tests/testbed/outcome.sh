# SPDX-License-Identifier: MIT
# Each way for a stock guest to end has its exit status and its one line of reason.
# needs: cloud/vmlinuz cloud/initrd generic/vmlinuz generic/initrd
. ./lib.sh

# guest NAME STATUS COMMAND REASON [umbra options]: the guest runs COMMAND.
guest() {
    local name=$1 expected=$2 command=$3 reason=$4
    shift 4
    run umbra run --kernel $kernel.vmlinuz --initrd $kernel.cpio --memory 256M --timeout 100 \
        "$@" --append "console=ttyS0 quiet panic=-1 $append do=\"$command\""
    verdict "$name" "$expected" '^\[init\] up' "exit status $expected" "$reason"
}
append= kernel=cloud

guest "poweroff" 0 "poweroff -f" "power"
guest "reboot" 104 "reboot -f" "reset"
guest "reboot of two CPUs" 104 "reboot -f" "reset" --cpus 2
append=reboot=k guest "reboot by the keyboard controller" 104 "reboot -f" "reset"
append=reboot=t guest "reboot by triple fault" 102 "reboot -f" "triple fault"
guest "panic" 100 "echo c >/proc/sysrq-trigger" "Kernel panic - not syncing: sysrq"
guest "panic of two CPUs" 100 "echo c >/proc/sysrq-trigger" "panic" --cpus 2
append=drivers=none guest "panic without its driver" 100 "echo c >/proc/sysrq-trigger" "panic"
# Port 0xf4 takes v and gives 2v+1: 3 -> 7. (The cloud kernel has no /dev/port.)
kernel=generic guest "debug exit" 7 "printf '\\003' | dd of=/dev/port bs=1 seek=244 conv=notrunc" "3"
guest "hang under --timeout" 124 "echo hangs; while :; do :; done" "^hangs" --timeout 30
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
    --on-reset restart --append 'console=ttyS0 quiet do="echo ready; read x; $x -f"'
verdict "restart on reset" 0 "power"
finish
