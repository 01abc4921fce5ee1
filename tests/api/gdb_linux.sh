#!/bin/sh
# SPDX-License-Identifier: MIT
# A real gdb on a stock Debian kernel as it is shipped, from its first instruction on: symbols
# and call frames come from the kernel itself.  gdb_linux.sh UMBRA TESTBED
set -eu
umbra=$1 testbed=$2
. "$(dirname "$0")/gdb_lib.sh"
kernels=$("$testbed" kernels) || { echo "SKIP: no stock kernels (see above)"; exit 77; }

"$umbra" symbols "$kernels/cloud/vmlinuz" "$work/vmlinuz.elf"
start "$umbra" run --kernel "$kernels/cloud/vmlinuz" --append "console=ttyS0 nokaslr" \
    --memory 256M --cpus 2 --gdb-wait --timeout 170s
cat >"$work/script" <<'G'
set pagination off
set confirm off
break start_kernel
continue
backtrace
stepi 3
nexti 4
info registers rip
watch *(char *)&early_boot_irqs_disabled
continue
backtrace
delete
hbreak setup_arch
continue
backtrace
info threads
x/s linux_banner_address
kill
G
# An address: without types gdb does not know that the banner is text.
banner=$(nm "$work/vmlinuz.elf" | sed -n 's/ . linux_banner$//p')
sed -i "s/linux_banner_address/0x$banner/" "$work/script"
timeout 160 gdb -nx -batch -ex "target remote $work/sock" -x "$work/script" "$work/vmlinuz.elf" \
    >"$work/gdb" 2>&1 || { echo "FAIL: gdb: $?"; cat "$work/gdb" "$work/out"; exit 1; }
for line in "hit Breakpoint 1, .* in start_kernel ()" "^#1 .* in secondary_startup_64" \
    "^rip .*<start_kernel+[0-9]*>" "hit Hardware watchpoint 2" "^Old value = 0" "^New value = 1" \
    "hit Breakpoint 3, .* in setup_arch ()" "^#1 .* in start_kernel ()" \
    "^#2 .* in secondary_startup_64" "^\* 1 .*vCPU 0" "^  2 .*vCPU 1" '"Linux version 6'; do
    expect "$line"
done
wait $pid || :
pid=
grep -q "killed by gdb" "$work/out" || { echo "FAIL: umbra's reason"; cat "$work/out"; exit 1; }
echo "PASS"
