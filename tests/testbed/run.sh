#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Run one group of cases in one level-1 boot: run.sh BUILD_DIR GROUP.sh [all]
# The group's "# needs:" lines name kernels (generic/vmlinuz, cloud/vmlinux), guest
# initramfs images (cloud/initrd), files (PATH=DEST; build/ stands for the build folder) and
# libraries (libNAME.so.N); "# wants:" lines name files that need not be there;
# "# level1:" lines hold options for `scripts/testbed run`.
set -euo pipefail
build=$1 group=$2 all=${3-}
here=$(cd "$(dirname "$0")" && pwd)
testbed=$here/../../scripts/testbed

for tool in qemu-system-x86_64 cpio busybox; do
    command -v $tool >/dev/null || { echo "SKIP: $tool is missing (scripts/deps testbed)"; exit 77; }
done
# "# when: no-kvm": what a host with a KVM of its own runs on that.
if grep -q '^# when: no-kvm' "$group" && "$here/../guard" --kvm 10 true >/dev/null; then
    echo "SKIP: these run on this host's own KVM"
    exit 77
fi
kernels=$("$testbed" kernels) || { echo "SKIP: no kernels for the testbed (see above)"; exit 77; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
places=(-f "$build/umbra=/bin/umbra")
for file in "$here"/*lib.sh; do places+=(-f "$file"); done
# Programs that the images want: -f options, or a skip.
programs() {
    local need
    for need in $(sed -n "s/^# $1: *//p" "$group"); do
        [ -e "${need%%=*}" ] || { echo "SKIP: ${need%%=*} is missing (scripts/deps testbed)"; exit 77; }
        wanted+=(-f "$need")
    done
}
wanted=()
programs guest
in_initrd=("${wanted[@]}")
wanted=()
programs rootdisk

for need in $(sed -n 's/^# needs: *//p' "$group"); do
    case $need in
    */initrd)
        "$testbed" initrd "${need%/*}" "$work/${need%/*}.cpio" "${in_initrd[@]}"
        places+=(-f "$work/${need%/*}.cpio") ;;
    gdb)
        gdb=$("$testbed" gdb) || { echo "SKIP: no gdb for level 1 (see above)"; exit 77; }
        places+=(-f "$gdb=/bin/gdb") ;;
    generic/* | cloud/*) places+=(-f "$kernels/$need=${need%/*}.${need#*/}") ;;
    build/*) places+=(-f "$build/${need#build/}") ;;
    lib*.so.*) # one that umbra loads when it needs it, so that ldd does not name it
        library=$(/sbin/ldconfig -p | awk -v name="$need" '$1 == name && !found++ { print $NF }')
        [ -z "$library" ] || places+=(-f "$library=$library") ;;
    /*) places+=(-f "$need") ;;
    *) places+=(-f "$here/../../$need") ;;
    esac
done
for want in $(sed -n 's/^# wants: *//p' "$group"); do
    [ ! -e "${want%%=*}" ] || places+=(-f "$want")
done
options=()
if [ ${#wanted[@]} -gt 0 ]; then
    "$testbed" rootdisk "$work/root.img" "${wanted[@]}"
    options+=(-b "$work/root.img")
fi
for option in $(sed -n 's/^# level1: *//p' "$group"); do options+=("$option"); done

# "# host: SCRIPT" runs on the host afterwards, on what the group left in /host.
after=$(sed -n 's/^# host: *//p' "$group")
if [ -n "$after" ]; then
    mkdir "$work/host"
    options+=(-s "$work/host")
fi

# Run the group once. No case is silent for as long as 200 seconds (or what a "# silence:"
# line says): level 1 that is has hung.
silence=$(sed -n 's/^# silence: *//p' "$group")
attempt() {
    local size last=-1 still=0 pid
    "$testbed" run -t 900 "${options[@]}" "${places[@]}" "$group" $all > >(tee "$work/output") &
    pid=$!
    while sleep 2 && kill -0 $pid 2>/dev/null; do
        size=$(stat -c %s "$work/output" 2>/dev/null || echo 0)
        if [ "$size" = "$last" ]; then still=$((still + 2)); else still=0 last=$size; fi
        if [ $still -ge "${silence:-200}" ]; then
            echo "level 1 has been silent for $still seconds: it hangs"
            pkill -P $pid 2>/dev/null || true
            kill $pid 2>/dev/null || true
            wait $pid 2>/dev/null || true
            return 124
        fi
    done
    wait $pid
}

# The emulated level 1 dies or hangs at times, and it has races of its own that a processor
# with SVM has not (XSETBV, see tests/guests/instructions.c): a group that did not pass is run
# once more, loudly, and what fails twice has failed.
status=0
attempt || status=$?
if [ $status != 0 ] && [ $status != 77 ]; then
    echo "RETRY: the group ended with status $status; trying it once more"
    status=0
    attempt || status=$?
fi
# Without its last line the group did not reach its end, whatever the status says.
grep -Eq '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped' "$work/output" || {
    echo "the group ended early (status $status)"
    [ "$status" != 0 ] || status=1
}
if [ "$status" = 0 ] && [ -n "$after" ]; then
    bash "$here/../../$after" "$testbed" "$work/host" || status=$?
fi
exit "$status"
