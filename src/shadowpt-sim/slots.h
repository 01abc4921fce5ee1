/* SPDX-License-Identifier: MIT */
/* Memslots: which guest-physical ranges are backed by which host-physical ranges. */
#ifndef SHADOWPT_SIM_SLOTS_H
#define SHADOWPT_SIM_SLOTS_H

#include "base/util.h"

struct mmu_slot {
    uint64_t gpa, size, hpa; /* page-aligned */
    bool readonly;           /* writes are MMIO */
    uint8_t host_shift;      /* the largest page the host backs it with: 12, 21 or 30 */
};

/* Sorted by GPA. */
struct mmu_slots {
    struct mmu_slot *slot;
    unsigned count, capacity;
    uint64_t generation; /* changes with every addition and removal */
};

void mmu_slots_init(struct mmu_slots *slots);
void mmu_slots_destroy(struct mmu_slots *slots);

/* 0, -EINVAL (unaligned, empty, wraps), -ENOMEM, or -EEXIST: overlaps one, in GPAs or in
 * HPAs (memory with two addresses could be written behind a shadowed table's back). */
int mmu_slots_add(struct mmu_slots *slots, const struct mmu_slot *slot);
/* Remove the slot that starts at @gpa; -ENOENT. Tell the shadow MMU or nested table
 * first. */
int mmu_slots_remove(struct mmu_slots *slots, uint64_t gpa);

/* The slot that holds @gpa, or NULL: MMIO. */
const struct mmu_slot *mmu_slots_find(const struct mmu_slots *slots, uint64_t gpa);

static inline uint64_t mmu_slot_hpa(const struct mmu_slot *slot, uint64_t gpa)
{
    return slot->hpa + (gpa - slot->gpa);
}

/* The largest level (1, 2, 3 for 4 KiB, 2 MiB, 1 GiB), at most @max, at which one leaf
 * can map the page around @gpa: inside the slot, GPA and HPA alike aligned, host page as
 * large. */
unsigned mmu_slot_level(const struct mmu_slot *slot, uint64_t gpa, unsigned max);

/* Whether an HPA range lies wholly inside one slot's backing. */
bool mmu_slots_own_hpa(const struct mmu_slots *slots, uint64_t hpa, uint64_t size);

/* The GPA that a slot maps to @hpa; UINT64_MAX: none does. */
uint64_t mmu_slots_gpa(const struct mmu_slots *slots, uint64_t hpa);

#endif
