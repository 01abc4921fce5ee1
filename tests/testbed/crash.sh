# SPDX-License-Identifier: MIT
# On the host: crash(8) on the core that debug-all.sh left in FOLDER.  crash.sh TESTBED FOLDER
set -euo pipefail
command -v crash >/dev/null || { echo "SKIP crash: it is not installed (apt-get install crash)"; exit 0; }
vmlinux=$("$1" debug cloud) || { echo "SKIP crash: no debug package"; exit 0; }
printf 'sys\nps\nlog\np jiffies\nlist task_struct.tasks -s task_struct.comm -h init_task\nquit\n' >"$2/commands"
crash --no_scroll -i "$2/commands" "$vmlinux" "$2/core" >"$2/crash.log" 2>&1 </dev/null || {
    echo "FAIL crash: status $?"; tail -40 "$2/crash.log"; exit 1; }
for line in 'RELEASE: 6.1.0' 'CPUS: 2' 'swapper/1' 'Linux version 6.1' 'jiffies = ' '"kthreadd' '"sh'; do
    grep -q -- "$line" "$2/crash.log" || {
        echo "FAIL crash: it did not say '$line'"; tail -60 "$2/crash.log"; exit 1; }
done
echo "PASS crash"
