#!/bin/sh
# SPDX-License-Identifier: MIT
# What one run of an example cannot show: faults repeat with their seed and differ without,
# and ktest's junit file is XML that says what TAP said.  examples.sh EXAMPLES GUESTS
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for run in 1 2 3; do
    "$1/hooks" "$2/echo.elf" 0x3fd 0 $((run / 3 + 7)) >"$work/$run"
done
cmp "$work/1" "$work/2" || { echo "FAIL: one seed, two results"; exit 1; }
if cmp -s "$work/1" "$work/3"; then
    echo "FAIL: another seed, the same faults"
    exit 1
fi
grep -q 'reads went wrong' "$work/1"

status=0
"$1/ktest" --junit "$work/junit.xml" --timeout 60s "$2/exit.elf value=0" \
    "$2/ends.elf panic" "$2/echo.elf <&\">" >"$work/tap" || status=$?
[ $status = 1 ] || { cat "$work/tap"; echo "FAIL: ktest's status is $status"; exit 1; }
python3 - "$work/junit.xml" <<'END'
import sys
import xml.etree.ElementTree as tree
suite = tree.parse(sys.argv[1]).getroot()
assert suite.get("tests") == "3" and suite.get("failures") == "1", suite.attrib
failed = [case.find("failure") is not None for case in suite]
assert failed == [False, True, False], failed
assert "panic" in suite[1].find("failure").get("message"), "no reason"
assert "ending by panic" in suite[1].find("system-out").text, "no console"
assert 'arg 0 <<&">>' in suite[2].find("system-out").text, "escaping"
END
echo "PASS"
