# SPDX-License-Identifier: MIT
# Slow: a core for crash(8), which looks at it on the host (crash.sh, with the kernel's debug
# package, a large download).
# needs: cloud/vmlinuz cloud/initrd
# host: tests/testbed/crash.sh
. ./lib.sh
export XDG_RUNTIME_DIR=/tmp
guest="--kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 600"

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
