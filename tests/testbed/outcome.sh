# SPDX-License-Identifier: MIT
# Each way for a stock guest to end has its exit status and its one line of reason.
# needs: cloud/vmlinuz cloud/initrd
. ./lib.sh

# guest NAME STATUS COMMAND REASON [umbra options]: the guest runs COMMAND.
guest() {
    local name=$1 expected=$2 command=$3 reason=$4
    shift 4
    run umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 100 \
        "$@" --append "console=ttyS0 quiet panic=-1 $append do=\"$command\""
    verdict "$name" "$expected" '^\[init\] up' "$reason"
}
append=

guest "poweroff" 0 "poweroff -f" "power"
guest "reboot" 104 "reboot -f" "reset"
guest "reboot of two CPUs" 104 "reboot -f" "reset" --cpus 2
append=reboot=k guest "reboot by the keyboard controller" 104 "reboot -f" "reset"
append=reboot=t guest "reboot by triple fault" 102 "reboot -f" "triple fault"
guest "panic" 100 "echo c >/proc/sysrq-trigger" "panic"
tail -n 60 $out | grep -q 'Kernel panic - not syncing: sysrq' ||
    fail "panic: console tail" "the panic's text is not at the end"
guest "panic of two CPUs" 100 "echo c >/proc/sysrq-trigger" "panic" --cpus 2
append=drivers=none guest "panic without its driver" 104 "echo c >/proc/sysrq-trigger" "reset"
# Port 0xf4 takes v and gives 2v+1: 3 -> 7.
guest "debug exit" 7 "printf '\\003' | dd of=/dev/port bs=1 seek=244 2>/dev/null; sleep 50" \
    "debug|exit"
guest "hang under --timeout" 124 "echo hangs; while :; do :; done" "timeout|deadline" \
    --timeout 15
guest "idle hang under --timeout" 124 "echo hangs; sleep 1000" "timeout|deadline" \
    --timeout 15 --cpus 4

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
