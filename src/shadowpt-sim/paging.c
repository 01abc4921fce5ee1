/* SPDX-License-Identifier: MIT */
/* What the control registers imply for a walk: format, reserved bits, the permission
 * table. */
#include "shadowpt-sim/paging.h"

#include <errno.h>

#define BITS(high, low) ((~0ull >> (63 - (high))) & (~0ull << (low)))

static bool access_denied(const struct mmu_mode *mode, uint32_t access, uint32_t perms)
{
    bool user = (access & MMU_USER) && !(access & MMU_IMPLICIT);

    if (mode->format == MMU_FORMAT_NONE) {
        return false;
    }
    if (user && !(perms & MMU_PERM_U)) {
        return true;
    }
    if ((access & MMU_WRITE) && !(perms & MMU_PERM_W) && (user || (mode->cr0 & CR0_WP))) {
        return true;
    }
    if ((access & MMU_FETCH) && !(perms & MMU_PERM_X)) {
        return true;
    }
    if (user || !(perms & MMU_PERM_U)) {
        return false;
    }
    /* The supervisor at a user page: SMEP for code; SMAP for data, which RFLAGS.AC lifts
     * for explicit accesses only (SDM 4.6.1). */
    if (access & MMU_FETCH) {
        return mode->cr4 & CR4_SMEP;
    }
    return (mode->cr4 & CR4_SMAP) && ((access & MMU_IMPLICIT) || !(access & MMU_AC));
}

static void reserved_long(struct mmu_mode *mode)
{
    uint64_t high = mode->cpu.maxphyaddr < 52 ? BITS(51, mode->cpu.maxphyaddr) : 0;

    if (!mode->nx) {
        high |= PTE_NX;
    }
    for (unsigned level = 1; level <= 5; level++) {
        mode->reserved[0][level] = mode->reserved[1][level] = high;
    }
    for (unsigned level = 4; level <= 5; level++) {
        mode->reserved[0][level] |= PTE_PS | (mode->cpu.amd ? PTE_G : 0);
        mode->reserved[1][level] = mode->reserved[0][level];
    }
    if (!mode->cpu.gbpages) {
        mode->reserved[0][3] |= PTE_PS;
    }
    mode->reserved[1][3] |= BITS(29, 13);
    mode->reserved[1][2] |= BITS(20, 13);
}

/* Level 3 is the PDPTE's: checked when the register is loaded, not during a walk. */
static void reserved_pae(struct mmu_mode *mode)
{
    uint64_t high = BITS(62, mode->cpu.maxphyaddr);

    if (!mode->nx) {
        high |= PTE_NX;
    }
    for (unsigned level = 1; level <= 2; level++) {
        mode->reserved[0][level] = mode->reserved[1][level] = high;
    }
    mode->reserved[1][2] |= BITS(20, 13);
    mode->reserved[0][3] = BITS(63, mode->cpu.maxphyaddr) | BITS(8, 5) | BITS(2, 1);
}

/* Bits 20:13 of a 4 MiB entry are address bits 39:32 as far as MAXPHYADDR goes (SDM 4.3).
 */
static void reserved_legacy(struct mmu_mode *mode)
{
    unsigned width = mode->cpu.maxphyaddr < 40 ? mode->cpu.maxphyaddr : 40;

    if (!mode->cpu.pse36) {
        width = 32;
    }
    mode->reserved[1][2] = BITS(21, width - 19);
}

void mmu_mode_update(struct mmu_mode *mode)
{
    bool paging = mode->cr0 & CR0_PG;

    memset(mode->reserved, 0, sizeof(mode->reserved));
    mode->pkeys = false;
    mode->nx = (mode->efer & EFER_NXE) && (mode->cr4 & CR4_PAE);
    if (!paging) {
        mode->format = MMU_FORMAT_NONE;
        mode->levels = 0;
        mode->large_levels = 0;
    } else if (mode->efer & EFER_LME) {
        mode->format = MMU_FORMAT_LONG;
        mode->levels = (mode->cr4 & CR4_LA57) ? 5 : 4;
        mode->large_levels = mode->cpu.gbpages ? 0xc : 0x4;
        mode->pkeys = mode->cr4 & CR4_PKE;
        reserved_long(mode);
    } else if (mode->cr4 & CR4_PAE) {
        mode->format = MMU_FORMAT_PAE;
        mode->levels = 3;
        mode->large_levels = 0x4; /* PAE needs no CR4.PSE */
        reserved_pae(mode);
    } else {
        mode->format = MMU_FORMAT_LEGACY;
        mode->levels = 2;
        mode->large_levels = (mode->cr4 & CR4_PSE) ? 0x4 : 0;
        reserved_legacy(mode);
    }
    mode->fetch_error = (mode->nx || (mode->cr4 & CR4_SMEP)) ? PF_ID : 0;
    for (uint32_t access = 0; access < 32; access++) {
        mode->denied[access] = 0;
        for (uint32_t perms = 0; perms < 8; perms++) {
            mode->denied[access] |=
                (uint8_t)(access_denied(mode, access, perms) << perms);
        }
    }
}

int mmu_mode_check(const struct mmu_mode *mode, const char **reason)
{
    bool paging = mode->cr0 & CR0_PG;
    bool long_mode = paging && (mode->efer & EFER_LME);

    *reason = NULL;
    if (mode->cpu.maxphyaddr < 32 || mode->cpu.maxphyaddr > 52) {
        *reason = "MAXPHYADDR is not between 32 and 52";
    } else if (paging && !(mode->cr0 & CR0_PE)) {
        *reason = "CR0.PG without CR0.PE";
    } else if (long_mode && !(mode->cr4 & CR4_PAE)) {
        *reason = "64-bit paging without CR4.PAE";
    } else if ((mode->cr4 & CR4_PCIDE) && !long_mode) {
        *reason = "CR4.PCIDE outside 64-bit paging";
    } else if (long_mode && (mode->cr3 >> mode->cpu.maxphyaddr) != 0) {
        *reason = "CR3 beyond MAXPHYADDR";
    } else if (paging && !long_mode && (mode->cr3 >> 32) != 0) {
        *reason = "CR3 beyond 32 bits";
    }
    return *reason != NULL ? -EINVAL : 0;
}
