# SPDX-License-Identifier: MIT
# The MMU laboratory against KVM with nested paging: see tests/api/test_mmu_oracle.c.
# needs: build/tests/api/api_mmu_oracle build/tests/guests/paging.elf build/tests/guests/echo.elf
# shellcheck shell=sh
. ./lib.sh
run env UMBRA_GUESTS=. ./api_mmu_oracle
verdict "walker, shadow MMU and KVM agree" 0 '28 groups .*: 0 differ' '^4 levels:' '^PAE: .* mapped' \
    '^2 levels: .* mapped'
tr -d '\r' <$out | grep -E 'differ|mapped|not on this host|QEMU'
finish
