# SPDX-License-Identifier: MIT
# Sourced by the scripts here: messages, the project's root, root rights, parallelism.
# shellcheck shell=bash disable=SC2034
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=${0##*/}
jobs=${JOBS:-$(nproc)}
cache=${UMBRA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/umbra}

if [ -t 2 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold= plain=; fi

say() { printf '%s[%s %4ss]%s %s\n' "$bold" "$name" "$SECONDS" "$plain" "$*" >&2; }
die() { printf '%s: %s\n' "$name" "$1" >&2; exit "${2:-1}"; }

# What this host is: a red run on another one then tells where it was.
describe_host() {
    local model kind why where
    model=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -1)
    kind=$(cd /sys/module && ls -d kvm_intel kvm_amd kvm_pvm 2>/dev/null | paste -sd" " || true)
    if why=$("$root/tests/guard" --kvm 10 true); then
        kind="KVM works (${kind:-module unknown})"
        where="tests of label kvm run on it, those of label testbed on an emulated processor"
    else
        kind="no KVM: ${why#SKIP: }"
        where="tests of label kvm are skipped and run in the testbed: testbed_guests, testbed_api"
    fi
    say "host: ${model:-$(uname -m)}, $(nproc) processors, Linux $(uname -r); $kind"
    say "host: $where"
}

# Run a command as root: as we are, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        return 126
    fi
}

# Configure (once) and build one CMake preset, with a line of progress.
build_preset() {
    local preset=$1 log
    shift
    say "building preset $preset"
    log=$(mktemp)
    if ! { cmake --preset "$preset" "$@" >"$log" 2>&1 &&
           cmake --build "build/$preset" -j "$jobs" >>"$log" 2>&1; }; then
        grep -E -A12 'error|FAILED|Error' "$log" | head -80 >&2
        rm -f "$log"
        die "the $preset build failed"
    fi
    rm -f "$log"
}
