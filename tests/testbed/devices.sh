# SPDX-License-Identifier: MIT
# The board's devices as a stock generic kernel finds and uses them, and a cloud kernel where
# that is as good.
# needs: generic/vmlinuz generic/initrd cloud/vmlinuz cloud/initrd
. ./lib.sh
machine="--memory 256M --timeout 120"
generic="--kernel generic.vmlinuz --initrd generic.cpio $machine"
cloud="--kernel cloud.vmlinuz --initrd cloud.cpio $machine"
append="console=ttyS0 loglevel=7"

# What the drivers say, what the clock says, and output through a second port.
# shellcheck disable=SC2086
run umbra run $generic --serial stdio,file:/tmp/com2 --append "$append do=\"
stty -F /dev/ttyS1 raw; seq 1 4000 >/tmp/seq; cat /tmp/seq >/dev/ttyS1; echo sent \$?;
hwclock -u -r; hwclock -u -w; echo clock \$?; hwclock -u -r; date -u +%s;
sed s/^/irq:/ /proc/interrupts; sed s/^/port:/ /proc/ioports; cat /proc/tty/driver/serial\""
started=$(sed -n 's/^\([0-9]\{10\}\).*/\1/p' $out)
verdict "devices are found" 0 \
    'ttyS0 at I/O 0x3f8 \(irq = 4, .* is a 16550A' 'ttyS1 at I/O 0x2f8 \(irq = 3, .* is a 16550A' \
    'rtc_cmos .*: registered as rtc0' 'rtc_cmos .*: setting system clock to 20' \
    'rtc_cmos .*: alarms up to one day' 'serio: i8042 KBD port at 0x60,0x64 irq 1' \
    'input: AT Translated Set 2 keyboard' 'PCI: MMCONFIG for domain 0000' \
    'pci 0000:00:00.0: \[1b36:0008\]' 'input: Power Button' \
    '!i8042.*(timeout|fail|error)' '!rtc.*(unable|broken|invalid)' \
    '^sent 0' '^clock 0' '^irq: *[0-9]+: +[1-9].* ttyS0' '^irq: *8:.* rtc0' '^irq: *1:.* i8042' \
    '^irq: *9:.* acpi' '^port:.* PCI conf1' '^port:.*acpi|ACPI PM' '^1: uart:16550A'
now=$(date -u +%s)
if [ "${started:-0}" -gt $((now + 60)) ] || [ "${started:-0}" -lt $((now - 300)) ]; then
    fail "the guest's clock" "$started, here it is $now"
else
    pass "the guest's clock"
fi
seq 1 4000 >/tmp/expected
if cmp -s /tmp/expected /tmp/com2; then
    pass "output through a second port"
else
    fail "output through a second port" "$(wc -c </tmp/com2) bytes of $(wc -c </tmp/expected), or wrong"
fi

# Input as fast as the guest takes it, none lost. Then the power button, pressed from outside:
# the event reaches the guest's user space, which powers off.
seq 1 4000 | md5sum | cut -d' ' -f1 >/tmp/sum
rm -f /tmp/input
mkfifo /tmp/input
: >$out
(
    exec 4<>/tmp/input
    wait_for 1 '^ready' && seq 1 4000 >&4
    wait_for 1 '^listening' && umbra stop button
    sleep 100
) >/tmp/stop 2>&1 &
feeder=$!
# shellcheck disable=SC2086
run umbra run $cloud --name button --serial stdio,fd:3 --append "$append do=\"
exec 3<>/dev/ttyS1; stty -F /dev/ttyS1 raw -echo; echo ready;
head -c $(wc -c </tmp/expected) <&3 | md5sum; sed -n s/^1:/com2:/p /proc/tty/driver/serial;
event=\$(sed -n '/Power Button/,/^H/s/^H.*\(event[0-9]*\).*/\1/p' /proc/bus/input/devices | head -1);
exec 3</dev/input/\$event; echo listening; head -c 24 <&3 | od -An -tu2 | sed s/^/event:/; echo pressed; poweroff -f; echo off\"" 3<>/tmp/input
kill $feeder
verdict "input through a second port" 0 "^$(cat /tmp/sum)" '^com2:' '!^com2:.*(oe|fe|pe):'
# An input_event: 16 bytes of time, EV_KEY (1), KEY_POWER (116), pressed (1).
verdict "the power button" 0 '^event: +1 +116 +1 ' '^pressed' || cat /tmp/stop
finish
