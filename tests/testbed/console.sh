# SPDX-License-Identifier: MIT
# The serial console as a terminal: typing, a busy line, other ends, signals.
# needs: cloud/vmlinuz cloud/initrd /usr/bin/script=/bin/script
. ./lib.sh
machine="--kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 100"

# A shell, typed at; and a burst of 14 KiB, none lost or out of order.
talk() {
    wait_for 1 '^\[init\] up' && wait_for 1 '^/ #' && echo 'echo "sum $((40 + 2))"'
    wait_for 1 'sum 42' && echo 'uname -s; seq 1 3000; poweroff -f'
    sleep 100
}
# shellcheck disable=SC2086
converse umbra run $machine --append 'console=ttyS0 quiet'
verdict "interactive shell" 0 '^sum 42' '^Linux$'
seq 1 3000 >/tmp/expected
tr -d '\r' <$out | grep -E '^[0-9]+$' >/tmp/got
if cmp -s /tmp/expected /tmp/got; then
    verdict "bulk output" 0
else
    fail "bulk output" "$(wc -l </tmp/got) of 3000 lines arrived, or out of order"
fi

# The port's end is a file.
# shellcheck disable=SC2086
run umbra run $machine --serial file:/tmp/serial --append 'console=ttyS0 quiet drivers=none do="poweroff -f"'
verdict "serial to a file: standard output is free of it" 0 '!\[init\] up'
cp /tmp/serial $out
verdict "serial to a file" 0 '^\[init\] up'

# A terminal is restored however the run ends, and a signal ends it: as soon as the kernel
# speaks.
cat >/tmp/session <<S
stty -a >/tmp/before
(
    n=0; until grep -q 'Linux version' $out || [ \$n = 400 ]; do sleep 0.2; n=\$((n + 1)); done
    stty -F /dev/tty -a >/tmp/during
    kill -\$1 \$(cat /tmp/pid)
) &
sh -c 'echo \$\$ >/tmp/pid; exec umbra run $machine --append "earlyprintk=ttyS0 console=ttyS0"'
echo "status \$?"
stty -a >/tmp/after
S
for signal in TERM INT HUP; do
    rm -f /tmp/before /tmp/during /tmp/after
    run script -qfec "sh /tmp/session $signal" /dev/null
    if ! grep -q -- '-icanon' /tmp/during; then
        fail "SIG$signal: raw mode" "the terminal was not raw while the guest ran"
    elif ! cmp /tmp/before /tmp/after; then
        fail "SIG$signal: the terminal" "it is not as before: $(diff /tmp/before /tmp/after | tr '\n' ' ')"
    else
        verdict "SIG$signal ends it and the terminal is restored" 0 'Linux version' '^status [0-9]+$'
    fi
done
finish
