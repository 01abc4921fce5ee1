# SPDX-License-Identifier: MIT
# Sourced by the groups of cases here, in level 1 (busybox sh): run umbra, judge what it
# did, say PASS, FAIL or SKIP for each case. A group ends with `finish`.
# shellcheck shell=sh
passed=0 failed=0 skipped=0
# A group with a line "# all: ..." has a slow variant too (run.sh ... all), which repeats its
# cases over what the quick one leaves out: as a rule, the other transport.
[ "${1-}" = all ] && all=1 transports="pci mmio" || all=
out=/tmp/out

uptime_s() { cut -d. -f1 /proc/uptime; }

pass() { passed=$((passed + 1)); echo "PASS $1"; }
skip() { skipped=$((skipped + 1)); echo "SKIP $1: $2"; }
fail() {
    failed=$((failed + 1))
    echo "FAIL $1: $2"
    echo "---- the end of its output"
    tail -n "${3:-40}" $out | tr -d '\r'
    echo "----"
}

# Run a command; its output goes to $out, its status to $status. Ended after 150 seconds.
run() {
    status=0
    timeout -s KILL 150 "$@" >$out 2>&1 </dev/null || status=$?
}

# Wait until $out has N lines that match REGEX: wait_for N REGEX; 1 after 100 seconds.
wait_for() {
    local tries=0
    until [ "$(grep -Ec -- "$2" $out 2>/dev/null)" -ge "$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || return 1
        sleep 0.2
    done
}

# converse COMMAND...: run it with a terminal conversation on its standard input: the
# function `talk` of the group writes what is typed, waiting with wait_for.
converse() {
    : >$out
    rm -f /tmp/pipe
    mkfifo /tmp/pipe
    talk >/tmp/pipe 2>/dev/null &
    status=0
    timeout -s KILL 150 "$@" </tmp/pipe >$out 2>&1 || status=$?
    kill $! 2>/dev/null
    wait $! 2>/dev/null
}

# Judge the last run: verdict NAME STATUS [REGEX...]: the status, and each regex must match
# a line of the output ("!REGEX": no line may).
verdict() {
    local name=$1 expected=$2 regex
    shift 2
    if [ "$status" != "$expected" ]; then
        fail "$name" "status $status instead of $expected"
        return 1
    fi
    for regex; do
        case $regex in
        !*)
            if tr -d '\r' <$out | grep -Eq -- "${regex#!}"; then
                fail "$name" "the output has '${regex#!}'"
                return 1
            fi ;;
        *)
            if ! tr -d '\r' <$out | grep -Eq -- "$regex"; then
                fail "$name" "no line matches '$regex'"
                return 1
            fi ;;
        esac
    done
    pass "$name"
}

# A line's value in the report of guest-report.
value() { tr -d '\r' <$out | sed -n "s/^$1=//p" | head -1; }

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ] || exit 1
    [ $passed -gt 0 ] || exit 77
    exit 0
}
