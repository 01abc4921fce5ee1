# SPDX-License-Identifier: MIT
# Overcommit on a host of its own: level 1 with little memory and no swap, guests that are
# promised several times as much and together work on more than there is. Without help the
# host's OOM killer ends it; with reporting, a balloon or KSM all of them work.
# needs: build/examples/overcommit build/tests/guests/virtio_balloon.elf
# level1: -m 288
. ./lib.sh

killed() { dmesg | grep -c 'Killed process.*(overcommit)'; }
play() { run ./overcommit "$1" 6 256M "$work" virtio_balloon.elf; }

available=$(awk '/^MemAvailable/{print int($2 / 1024)}' /proc/meminfo)
# Six times this is too much, two times it is not.
work=$((available / 4))
echo "host: $(awk '/^MemTotal/{print int($2 / 1024)}' /proc/meminfo) MiB, $available available; 6 guests of 256 MiB work on $work MiB each"

play nothing
sed 's/^/nothing: /' $out
case $status.$(killed) in
137.1) pass "without help the host runs out of memory" ;;
*) fail "without help" "status $status, killed $(killed)" ;;
esac
for help in reporting balloon; do
    play $help
    sed "s/^/$help: /" $out
    verdict "$help keeps 6 guests alive" 0 '^guest 5 worked on' '^it came back'
done
echo 20000 >/sys/kernel/mm/ksm/pages_to_scan
echo 10 >/sys/kernel/mm/ksm/sleep_millisecs
if echo 1 >/sys/kernel/mm/ksm/run; then
    play ksm
    sed 's/^/ksm: /' $out
    verdict "ksm keeps 6 guests alive" 0 '^guest 5 worked on' '^it came back'
    echo 2 >/sys/kernel/mm/ksm/run
else
    skip "ksm" "level 1 has none"
fi
if [ "$(killed)" = 1 ]; then
    pass "nobody else was killed"
else
    dmesg | grep -i 'killed process' >$out
    fail "nobody else was killed" "$(killed) were"
fi
finish
