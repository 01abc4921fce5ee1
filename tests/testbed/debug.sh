# SPDX-License-Identifier: MIT
# Debugging a stock kernel with what it says about itself: gdb, reports, a core, the library.
# needs: cloud/vmlinuz cloud/initrd gdb build/tests/testbed/inspect=inspect
. ./lib.sh
export XDG_RUNTIME_DIR=/tmp
guest="--kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 140"

run umbra symbols cloud.vmlinuz cloud.elf
verdict "symbols of a bzImage as an ELF file" 0

# A debugger comes to a running guest. (Breakpoints and watchpoints on this kernel, from its
# first instruction on: tests/api/gdb_linux.sh. The emulated SVM lets neither int3 nor debug
# registers leave a guest.)
# shellcheck disable=SC2086
umbra run $guest --cpus 2 --gdb 1234 --append 'console=ttyS0 quiet do="echo ready; i=0; while :; do i=$((1-i)); echo $i >/proc/sys/kernel/panic_on_oops; done"' \
    >$out 2>&1 </dev/null &
pid=$!
wait_for 1 '^ready'
cat >/tmp/script <<'G'
set pagination off
set confirm off
target remote 127.0.0.1:1234
info threads
thread apply all backtrace
stepi
nexti
print *(int *)&panic_on_oops >= 0
x/s &linux_banner
set var *(int *)&panic_on_oops = 0
print/x $cr3
detach
G
run gdb -nx -batch -x /tmp/script cloud.elf
verdict "gdb: threads, registers, memory" 0 '^\* [12] +Thread' '^  [12] +Thread' '^\$1 = 1' \
    '"Linux version 6' '^\$2 = 0x[0-9a-f]+' 'detached'
# Whatever each CPU is at: idle, a thread of the kernel, a system call.
verdict "gdb: backtraces" 0 '^#[0-9]+ .* (cpu_startup_entry|kthread|do_syscall_64) \(\)' \
    '^#[0-9]+ .* (secondary_startup_64\w*|ret_from_fork|do_syscall_64) \(\)'
kill $pid
wait $pid

# The report of a panic.
# shellcheck disable=SC2086
run umbra run $guest --verbose --append 'console=ttyS0 quiet panic=-1 do="echo c >/proc/sysrq-trigger"'
verdict "report of a panic" 100 'kallsyms in memory \(8[0-9]{4} names, unwind tables\)' \
    '#[0-9]+ +(\? )?[0-9a-f]+ panic\+' '#[0-9]+ +(\? )?[0-9a-f]+ sysrq_handle_crash\+' \
    '#[0-9]+ +[0-9a-f]+ pvpanic_panic_notify\+0x[0-9a-f]+/0x[0-9a-f]+ \[pvpanic\]' \
    '#[0-9]+ +[0-9a-f]+ atomic_notifier_call_chain\+' \
    '#[0-9]+ +[0-9a-f]+ do_syscall_64\+' 'page walk of rip' 'IO +port-out'

# A kernel that moves itself: names follow. (RDRAND gives the randomness.)
# shellcheck disable=SC2086
run umbra run $guest --verbose --decompress guest \
    --append 'console=ttyS0 quiet panic=-1 do="grep -w start_kernel /proc/kallsyms; echo c >/proc/sysrq-trigger"'
verdict "report of a kernel that moved itself" 100 'kallsyms in memory' \
    '#[0-9]+ +[0-9a-f]+ pvpanic_panic_notify\+.*\[pvpanic\]' \
    '#[0-9]+ +(\? )?[0-9a-f]+ sysrq_handle_crash\+' '#[0-9]+ +[0-9a-f]+ do_syscall_64\+'

# A running guest: report, names and memory by the control socket, a core.
# shellcheck disable=SC2086
umbra run $guest --name vm --cpus 2 --append 'console=ttyS0 quiet do="echo ready; sleep 1000"' \
    >$out 2>&1 </dev/null &
pid=$!
wait_for 1 '^ready'
run umbra report vm
verdict "report on demand" 0 '^state    running' '^vCPU 1' 'default_idle' 'cpu_startup_entry' '\| ready'
run umbra ctl vm symbol symbol=linux_banner
verdict "a symbol by the control socket" 0 '"address": "0xffffffff8' '"type": "[RD]"'
run umbra ctl vm symbol symbol=pvpanic_panic_notify
verdict "a module's symbol" 0 '"address": "0xffffffffc' '"module": "pvpanic"'
umbra ctl vm pause >/dev/null
run umbra ctl vm memory.read symbol=linux_banner+6 length=7
verdict "memory by symbol" 0 '"dmVyc2lvbg=="' # "version"
run umbra ctl vm registers vcpu=1
verdict "registers name where they are" 0 '"symbol": "[a-z_]+\+0x'
rm -f /tmp/core
run umbra core vm /tmp/core
verdict "core" 0
umbra stop --now vm
wait $pid
run gdb -nx -batch -ex 'info threads' -ex 'x/s &linux_banner' -ex 'thread apply all backtrace' \
    cloud.elf /tmp/core
verdict "gdb: core" 0 '^  2 +' '"Linux version 6' '^#[0-9]+ .* cpu_startup_entry \(\)' \
    '^#[0-9]+ .* start_kernel \(\)' '^#[0-9]+ .* start_secondary \(\)'

run ./inspect cloud.vmlinuz cloud.cpio
verdict "a session through the library" 0 '^matched <sum 42 of Linux>' 'start_kernel\+4 type T' \
    '^banner <Linux version>' '#[0-9]+ +[0-9a-f]+ start_kernel\+' \
    '^outcome 1: the guest powered off'
finish
