# SPDX-License-Identifier: MIT
# For the tests with a real gdb, sourced: a folder $work, a run in the background as $pid.
command -v gdb >/dev/null || { echo "SKIP: gdb is not installed"; exit 77; }
work=$(mktemp -d)
pid=
trap 'kill $pid 2>/dev/null || :; rm -rf "$work"' EXIT

await() { # WHAT COMMAND...: until it succeeds, for some seconds
    what=$1 tries=0
    shift
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo "FAIL: no $what"; cat "$work/out"; exit 1; }
        sleep 0.05
    done
}
start() { # UMBRA and its options: run a guest that gdb can reach
    rm -f "$work/sock"
    "$@" --gdb "unix:$work/sock" >"$work/out" 2>&1 </dev/null &
    pid=$!
    await "gdb socket" [ -S "$work/sock" ]
}
expect() { # TEXT
    grep -q -- "$1" "$work/gdb" || { echo "FAIL: gdb did not say: $1"; cat "$work/gdb"; exit 1; }
}
