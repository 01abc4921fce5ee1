#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Simulated accesses a second of umbra mmu, by configuration: TLB models on, one core (its CPU
# time is what counts). Random accesses, the worst case: what a program does hits far more.
set -euo pipefail
build=$1
measure() { # WHAT SIZE PAGES ACCESSES
    echo "random accesses over $2, host pages of $3 ($1):"
    for policy in native nested wp unsync vtlb agile; do
        "$build/umbra" mmu run --generate random --size "$2" --host-pages "$3" \
            --accesses "$4" --quiet --speed --policy $policy 2>&1 >/dev/null
    done
}
measure "all hit the first TLB" 128K 2M 8000000
measure "a third hits the second TLB, the others walk" 16M 2M 8000000
measure "all walk, and most table entries are in memory" 1G 2M 4000000
measure "the same, with two dimensions of 4 KiB pages" 1G 4K 4000000
