/* SPDX-License-Identifier: MIT */
/* Memslots: a sorted array, searched by halves. */
#include "shadowpt-sim/slots.h"

#include <errno.h>
#include <stdlib.h>

void mmu_slots_init(struct mmu_slots *slots)
{
    memset(slots, 0, sizeof(*slots));
}

void mmu_slots_destroy(struct mmu_slots *slots)
{
    if (slots == NULL) {
        return;
    }
    free(slots->slot);
    memset(slots, 0, sizeof(*slots));
}

/* The first slot that ends behind @gpa. */
static unsigned slots_position(const struct mmu_slots *slots, uint64_t gpa)
{
    unsigned low = 0, high = slots->count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (slots->slot[middle].gpa + (slots->slot[middle].size - 1) < gpa) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int mmu_slots_add(struct mmu_slots *slots, const struct mmu_slot *slot)
{
    unsigned at;

    if (((slot->gpa | slot->size | slot->hpa) & 0xfff) != 0 || slot->size == 0 ||
        slot->gpa + (slot->size - 1) < slot->gpa ||
        slot->hpa + (slot->size - 1) < slot->hpa || slot->host_shift < 12) {
        return -EINVAL;
    }
    at = slots_position(slots, slot->gpa);
    if (at < slots->count && slots->slot[at].gpa <= slot->gpa + (slot->size - 1)) {
        return -EEXIST;
    }
    for (unsigned i = 0; i < slots->count; i++) {
        if (slots->slot[i].hpa <= slot->hpa + (slot->size - 1) &&
            slot->hpa <= slots->slot[i].hpa + (slots->slot[i].size - 1)) {
            return -EEXIST;
        }
    }
    if (slots->count == slots->capacity) {
        unsigned capacity = slots->capacity != 0 ? 2 * slots->capacity : 8;
        struct mmu_slot *grown = realloc(slots->slot, capacity * sizeof(*grown));

        if (grown == NULL) {
            return -ENOMEM;
        }
        slots->slot = grown;
        slots->capacity = capacity;
    }
    memmove(&slots->slot[at + 1], &slots->slot[at],
            (slots->count - at) * sizeof(slots->slot[0]));
    slots->slot[at] = *slot;
    slots->count++;
    slots->generation++;
    return 0;
}

int mmu_slots_remove(struct mmu_slots *slots, uint64_t gpa)
{
    unsigned at = slots_position(slots, gpa);

    if (at == slots->count || slots->slot[at].gpa != gpa) {
        return -ENOENT;
    }
    slots->count--;
    memmove(&slots->slot[at], &slots->slot[at + 1],
            (slots->count - at) * sizeof(slots->slot[0]));
    slots->generation++;
    return 0;
}

const struct mmu_slot *mmu_slots_find(const struct mmu_slots *slots, uint64_t gpa)
{
    unsigned at = slots_position(slots, gpa);

    return at < slots->count && slots->slot[at].gpa <= gpa ? &slots->slot[at] : NULL;
}

unsigned mmu_slot_level(const struct mmu_slot *slot, uint64_t gpa, unsigned max)
{
    for (unsigned level = max; level > 1; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        uint64_t page = align_down(gpa, (uint64_t)1 << shift);

        if (shift <= slot->host_shift && page >= slot->gpa &&
            ((slot->gpa - slot->hpa) & (((uint64_t)1 << shift) - 1)) == 0 &&
            page - slot->gpa + ((uint64_t)1 << shift) <= slot->size) {
            return level;
        }
    }
    return 1;
}

bool mmu_slots_own_hpa(const struct mmu_slots *slots, uint64_t hpa, uint64_t size)
{
    for (unsigned i = 0; i < slots->count; i++) {
        const struct mmu_slot *slot = &slots->slot[i];

        if (hpa - slot->hpa < slot->size && size <= slot->size - (hpa - slot->hpa)) {
            return true;
        }
    }
    return false;
}

uint64_t mmu_slots_gpa(const struct mmu_slots *slots, uint64_t hpa)
{
    for (unsigned i = 0; i < slots->count; i++) {
        const struct mmu_slot *slot = &slots->slot[i];

        if (hpa - slot->hpa < slot->size) {
            return slot->gpa + (hpa - slot->hpa);
        }
    }
    return UINT64_MAX;
}
