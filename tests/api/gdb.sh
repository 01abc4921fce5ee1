#!/bin/sh
# SPDX-License-Identifier: MIT
# A real gdb on a micro guest: threads, registers, steps, breakpoints of both kinds, stacks,
# memory writes, interrupt, and the end of the run.  gdb.sh UMBRA ECHO-GUEST ENDS-GUEST
set -eu
umbra=$1 guest=$2 hang=$3
. "$(dirname "$0")/gdb_lib.sh"

run_guest() { # GUEST APPEND [options]
    guest_file=$1 append=$2
    shift 2
    start "$umbra" run --kernel "$guest_file" --append "$append" --memory 64M --timeout 100s "$@"
}

run_guest "$guest" "a b" --cpus 2 --gdb-wait
timeout 90 gdb -nx -batch -ex "set pagination off" -ex "target remote $work/sock" \
    -ex "info threads" -ex "info registers rip cr0 mxcsr" -ex "stepi" -ex "stepi" \
    -ex "break guest_main" -ex "continue" -ex "bt" -ex "hbreak print" -ex "continue" \
    -ex "info registers cr3 efer" -ex "set \$r15 = 0x1122334455667788" -ex "p/x \$r15" \
    -ex "set var *(int *)0x300000 = 0x5678" -ex "x/wx 0x300000" -ex "delete" -ex "continue" \
    "$guest" >"$work/gdb" 2>&1 || { echo "FAIL: gdb: $?"; cat "$work/gdb"; exit 1; }
expect "vCPU 1"
expect "rip .*entry32"
expect "Breakpoint 1, .* in guest_main"
expect "#1 .* in guest_start"
expect "Breakpoint 2, .* in print"
expect "= 0x1122334455667788"
expect "0x300000:.*0x00005678"
expect "exited with code 01"
status=0
wait $pid || status=$?
[ $status = 1 ] || { echo "FAIL: umbra's status $status"; cat "$work/out"; exit 1; }
grep -q "arg 1 <b>" "$work/out" || { echo "FAIL: the guest's output"; cat "$work/out"; exit 1; }

# Interrupt a guest that never ends, look around, kill it.
run_guest "$hang" hang
timeout 90 gdb -nx -batch -ex "set pagination off" -ex "target remote $work/sock" \
    -ex "info registers rip" -ex "kill" "$hang" >"$work/gdb" 2>&1 ||
    { echo "FAIL: gdb: $?"; cat "$work/gdb"; exit 1; }
expect "rip"
wait $pid && { echo "FAIL: a killed guest ended well"; exit 1; }
grep -q "killed by gdb" "$work/out" || { echo "FAIL: umbra's reason"; cat "$work/out"; exit 1; }
pid=

# A core of a running guest opens in gdb.
export XDG_RUNTIME_DIR="$work"
"$umbra" run --name core --kernel "$hang" --append hang --memory 64M --cpus 2 --timeout 100s \
    >"$work/out" 2>&1 </dev/null &
pid=$!
await "guest" grep -q "^ready" "$work/out"
(cd "$work" && "$umbra" core core guest.core)
"$umbra" core core "$work/guest.core" 2>"$work/again" && { echo "FAIL: overwritten"; exit 1; }
grep -q "not overwritten" "$work/again" || { echo "FAIL: the reason"; cat "$work/again"; exit 1; }
timeout 90 gdb -nx -batch -ex "set pagination off" -ex "core-file $work/guest.core" \
    -ex "info threads" -ex "info registers rip" -ex "info symbol \$rip" -ex "x/2i \$rip" \
    "$hang" >"$work/gdb" 2>&1 || { echo "FAIL: gdb: $?"; cat "$work/gdb"; exit 1; }
expect "^[* ] 2 "
expect "in section .text"
expect "hlt\|jmp"
"$umbra" stop --now core
wait $pid || :
pid=
echo "PASS"
