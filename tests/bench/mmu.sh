#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Simulated accesses a second of umbra mmu, by configuration: TLB models on, one core.
set -euo pipefail
build=$1
for size in 128K 16M; do
    echo "random accesses over $size:"
    for policy in native nested wp unsync vtlb; do
        "$build/umbra" mmu run --generate random --size $size --accesses 4000000 --quiet \
            --speed --policy $policy 2>&1 >/dev/null
    done
done
