#!/bin/sh
# SPDX-License-Identifier: MIT
# The shared library exports just what the public header declares, all under one version.
# symbols.sh LIBRARY HEADER
set -eu
library=$1 header=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Declarations run over lines: join each up to its semicolon.
tr '\n' ' ' <"$header" | tr ';' '\n' | grep 'UMBRA_API ' | grep -v '#define UMBRA_API[^;]*$' |
    grep -o '\bumbra_[a-z0-9_]*(' | tr -d '(' | sort -u >"$work/declared"
nm -D --defined-only "$library" | awk '$2 != "A" { print $3 }' | sort >"$work/versioned"
sed 's/@.*//' "$work/versioned" | sort -u >"$work/exported"
[ -s "$work/declared" ] || { echo "no declarations found in $header"; exit 1; }
if ! grep -q '^umbra_config_new$' "$work/exported"; then
    echo "SKIP: the library has no umbra_config_new yet"
    exit 77
fi
status=0
if ! diff "$work/declared" "$work/exported"; then
    echo "< declared in the header, > exported by the library"
    status=1
fi
if grep -v '@@UMBRA_[0-9]*$' "$work/versioned"; then
    echo "exported without a symbol version"
    status=1
fi
echo "$(wc -l <"$work/exported") exported, $(wc -l <"$work/declared") declared"
exit $status
