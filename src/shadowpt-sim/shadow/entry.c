/* SPDX-License-Identifier: MIT */
/* From the guest's entries and registers to shadow entries. */
#include "shadowpt-sim/shadow/internal.h"

union shadow_role shadow_role_of(const struct mmu_mode *mode)
{
    union shadow_role role = { .word = 0 };
    bool wp = mode->cr0 & CR0_WP;

    role.format = mode->format;
    role.access = MMU_PERM_ALL;
    if (mode->format == MMU_FORMAT_NONE) {
        role.wp = 1;
        return role;
    }
    role.nx = mode->nx;
    role.pse = (mode->large_levels >> 2) & 1;
    role.pge = (mode->cr4 & CR4_PGE) != 0;
    role.pkeys = mode->pkeys;
    role.wp = wp;
    role.smep_nowp = !wp && (mode->cr4 & CR4_SMEP);
    /* A page made the kernel's own escapes SMAP and PKRU, which guard user pages. */
    role.flip_nowp = !wp && !(mode->cr4 & CR4_SMAP) && !mode->pkeys;
    return role;
}

const struct mmu_mode *shadow_role_mode(struct shadow_mmu *mmu, union shadow_role role)
{
    union shadow_role registers = role;
    struct mmu_mode *mode = &mmu->role_mode;

    registers.level = registers.access = registers.quadrant = 0;
    registers.direct = registers.vtlb = registers.root32 = registers.nested = 0;
    if (mmu->role_word == registers.word) {
        return mode;
    }
    *mode = (struct mmu_mode){ .cpu = mmu->cpu };
    mode->cr0 = CR0_PE | CR0_PG | (role.wp ? CR0_WP : 0);
    mode->cr4 = (role.format != MMU_FORMAT_LEGACY ? CR4_PAE : 0) |
                (role.pse ? CR4_PSE : 0) | (role.pge ? CR4_PGE : 0) |
                (role.pkeys ? CR4_PKE : 0) | (role.smep_nowp ? CR4_SMEP : 0);
    mode->efer =
        (role.format == MMU_FORMAT_LONG ? EFER_LME : 0) | (role.nx ? EFER_NXE : 0);
    mmu_mode_update(mode);
    mmu->role_word = registers.word;
    return mode;
}

uint64_t shadow_leaf(const struct mmu_translation *guest, union shadow_role role,
                     unsigned level, uint64_t hpa, bool writable)
{
    uint64_t pat = level == 1 ? PTE_PAT_4K : PTE_PAT_LARGE;
    uint64_t leaf = hpa | PTE_P | PTE_A | (level > 1 ? PTE_PS : 0);
    bool may_write = guest->perms & MMU_PERM_W;

    if (!role.wp && !(guest->perms & MMU_PERM_U)) {
        may_write = true; /* the kernel alone comes here, and it may */
    }
    leaf |= (guest->perms & MMU_PERM_U) ? PTE_U : 0;
    leaf |= (guest->perms & MMU_PERM_X) ? 0 : PTE_NX;
    leaf |= (uint64_t)(guest->cache & 3) << 3;
    leaf |= (guest->cache & 4) ? pat : 0;
    leaf |= guest->global ? PTE_G : 0;
    leaf |= (uint64_t)guest->pkey << PTE_PKEY_SHIFT;
    if (writable && guest->dirty) {
        leaf |= SHADOW_GUEST_DIRTY | (may_write ? PTE_W | PTE_D : 0);
    }
    return leaf;
}

void shadow_leaf_translation(uint64_t leaf, unsigned level, struct mmu_translation *to)
{
    to->shift = (uint8_t)shadow_shift(level);
    to->page = leaf & PTE_ADDRESS_MASK & ~(((uint64_t)1 << to->shift) - 1);
    to->perms = (uint8_t)(((leaf >> 1) & 3) | ((leaf & PTE_NX) ? 0 : MMU_PERM_X));
    to->pkey = (leaf >> PTE_PKEY_SHIFT) & 15;
    to->cache = (uint8_t)(((leaf >> 3) & 3) |
                          ((leaf & (level == 1 ? PTE_PAT_4K : PTE_PAT_LARGE)) ? 4 : 0));
    to->global = leaf & PTE_G;
    to->dirty = leaf & PTE_W; /* a writable shadow leaf has D set from the start */
}

/* SMEP would let the kernel execute from it, now that it is no user page: so NX. */
uint64_t shadow_leaf_flip(uint64_t leaf, union shadow_role role)
{
    return (leaf & ~PTE_U) | PTE_W | PTE_D | (role.smep_nowp ? PTE_NX : 0);
}

uint64_t shadow_guest_entry(const struct shadow_page *page, unsigned slot, unsigned *size)
{
    uint64_t table = page->gfn << MMU_PAGE_SHIFT;

    *size = page->role.format == MMU_FORMAT_LEGACY ? 4 : 8;
    if (page->role.format != MMU_FORMAT_LEGACY) {
        return table + slot * 8;
    }
    /* 1024 entries, of which a shadow page has room for 512, and a directory's 4 MiB take
     * two shadow entries each. */
    if (page->role.level == 1) {
        return table + (page->role.quadrant * 512u + slot) * 4;
    }
    return table + (page->role.quadrant * 256u + slot / 2) * 4;
}

uint64_t shadow_leaf_wanted(struct shadow_mmu *mmu, const struct shadow_page *page,
                            unsigned slot, uint64_t *gfn)
{
    const struct mmu_mode *mode = shadow_role_mode(mmu, page->role);
    struct mmu_translation guest = { .shift = MMU_PAGE_SHIFT };
    const struct mmu_slot *memslot;
    uint64_t entry, gpa;
    unsigned size;

    gpa = shadow_guest_entry(page, slot, &size);
    if (mmu_load(mmu->config.memory, gpa, size, &entry) != 0 ||
        (entry & (PTE_P | PTE_A)) != (PTE_P | PTE_A) || (entry & mode->reserved[0][1])) {
        return 0;
    }
    guest.page = entry & PTE_ADDRESS_MASK;
    guest.perms = (entry >> 1) & 3;
    if (!mode->nx || !(entry & PTE_NX)) {
        guest.perms |= MMU_PERM_X;
    }
    guest.perms &= page->role.access;
    guest.pkey = mode->pkeys ? (entry >> PTE_PKEY_SHIFT) & 15 : 0;
    guest.cache = (uint8_t)(((entry >> 3) & 3) | ((entry & PTE_PAT_4K) ? 4 : 0));
    guest.global = (entry & PTE_G) && (mode->cr4 & CR4_PGE);
    guest.dirty = entry & PTE_D;
    *gfn = guest.page >> MMU_PAGE_SHIFT;
    memslot = mmu_slots_find(mmu->config.slots, guest.page);
    if (memslot == NULL) {
        return 0;
    }
    return shadow_leaf(&guest, page->role, 1, mmu_slot_hpa(memslot, guest.page),
                       !memslot->readonly);
}

static bool leaf_within(uint64_t leaf, uint64_t wanted)
{
    const uint64_t may_lack = PTE_W | PTE_D | PTE_A | SHADOW_GUEST_DIRTY;

    return ((leaf ^ wanted) & ~may_lack) == 0 && (leaf & may_lack & ~wanted) == 0;
}

bool shadow_leaf_fits(uint64_t leaf, uint64_t wanted, union shadow_role role)
{
    if (leaf_within(leaf, wanted)) {
        return true;
    }
    return role.flip_nowp && (wanted & SHADOW_GUEST_DIRTY) && (wanted & PTE_U) &&
           !(wanted & PTE_W) && leaf_within(leaf, shadow_leaf_flip(wanted, role));
}
