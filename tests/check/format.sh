#!/bin/sh
# SPDX-License-Identifier: MIT
# Every C file is as clang-format leaves it. format.sh ROOT
command -v clang-format >/dev/null || { echo "SKIP: clang-format is not installed"; exit 77; }
cd "$1" || exit 1
find src include tests examples -name '*.[ch]' 2>/dev/null | sort >/tmp/umbra-format.$$
[ -s /tmp/umbra-format.$$ ] || { echo "no C files found"; rm -f /tmp/umbra-format.$$; exit 1; }
xargs clang-format --dry-run -Werror -ferror-limit=3 </tmp/umbra-format.$$
status=$?
[ $status = 0 ] || echo "run: clang-format -i FILE"
rm -f /tmp/umbra-format.$$
[ $status = 0 ]
