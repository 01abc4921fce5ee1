# SPDX-License-Identifier: MIT
# Slow: a debugger's breakpoints by single steps (the emulated SVM lets neither int3 nor debug
# registers leave a guest, so umbra runs it in steps while there are any), and a core for
# crash(8), which looks at it on the host (crash.sh, with the kernel's debug package).
# needs: cloud/vmlinuz cloud/initrd gdb
# host: tests/testbed/crash.sh
. ./lib.sh
export XDG_RUNTIME_DIR=/tmp
guest="--kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 600"

umbra symbols cloud.vmlinuz cloud.elf
# shellcheck disable=SC2086
umbra run $guest --gdb 1234 --append 'console=ttyS0 quiet do="echo ready; i=0; while :; do i=$((1-i)); echo $i >/proc/sys/kernel/panic_on_oops; done"' \
    >$out 2>&1 </dev/null &
pid=$!
wait_for 1 '^ready'
cat >/tmp/script <<'G'
set pagination off
set confirm off
target remote 127.0.0.1:1234
break proc_sys_write
continue
backtrace
nexti 2
info registers rip
delete
watch *(int *)&panic_on_oops
continue
backtrace
delete
detach
G
status=0
timeout 190 gdb -nx -batch -x /tmp/script cloud.elf >$out 2>&1 || status=$?
verdict "gdb: breakpoint and backtrace" 0 'hit Breakpoint 1, .* proc_sys_write \(\)' \
    '^#[0-9]+ .* ksys_write \(\)' '^#[0-9]+ .* do_syscall_64 \(\)' \
    '^#[0-9]+ .* entry_SYSCALL_64_after_hwframe \(\)' '^rip .*<proc_sys_write\+[0-9]+>'
verdict "gdb: watchpoint" 0 'hit Hardware watchpoint 2: ' '^Old value = [01]' '^New value = [01]' \
    '^#[0-9]+ .* proc_dointvec \(\)'
kill $pid
wait $pid

# A core of a guest with two busy and idle CPUs.
# shellcheck disable=SC2086
umbra run $guest --name vm --cpus 2 --append 'console=ttyS0 quiet do="echo ready; while :; do :; done"' \
    >$out 2>&1 </dev/null &
pid=$!
wait_for 1 '^ready'
run umbra core vm /host/core
verdict "core" 0
umbra stop --now vm
wait $pid
finish
