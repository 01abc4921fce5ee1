/* SPDX-License-Identifier: MIT */
/* Models of TLBs, paging-structure caches and page-table lines in data caches. */
#include "shadowpt-sim/tlb/tlb.h"

#include <errno.h>

int tlb_init(struct tlb *tlb, const struct tlb_geometry *geometry)
{
    const struct {
        struct tlb_array *array;
        const struct tlb_shape *shape;
        unsigned count;
        bool values;
    } part[] = {
        { &tlb->l1[0], &geometry->l1_4k, 1, true },
        { &tlb->l1[1], &geometry->l1_2m, 1, true },
        { &tlb->l1[2], &geometry->l1_1g, 1, true },
        { &tlb->l2, &geometry->l2, 1, true },
        { &tlb->l2_1g, &geometry->l2_1g, 1, true },
        { tlb->pwc, geometry->pwc, ARRAY_SIZE(tlb->pwc), true },
        { &tlb->nested, &geometry->nested, 1, true },
        { tlb->npwc, geometry->npwc, ARRAY_SIZE(tlb->npwc), true },
        { tlb->line, geometry->line, TLB_LINES, false },
    };

    memset(tlb, 0, sizeof(*tlb));
    tlb->plain = true;
    for (size_t i = 0; i < ARRAY_SIZE(part); i++) {
        for (unsigned n = 0; n < part[i].count; n++) {
            int err =
                tlb_array_init(&part[i].array[n], &part[i].shape[n], part[i].values);

            if (err != 0) {
                tlb_destroy(tlb);
                return err;
            }
            tlb->plain &= part[i].array[n].wide == NULL;
        }
    }
    return 0;
}

void tlb_destroy(struct tlb *tlb)
{
    for (unsigned i = 0; i < 3; i++) {
        tlb_array_destroy(&tlb->l1[i]);
        tlb_array_destroy(&tlb->line[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        tlb_array_destroy(&tlb->pwc[i]);
        tlb_array_destroy(&tlb->npwc[i]);
    }
    tlb_array_destroy(&tlb->l2);
    tlb_array_destroy(&tlb->l2_1g);
    tlb_array_destroy(&tlb->nested);
    memset(tlb, 0, sizeof(*tlb));
}

/* ---- Translations --------------------------------------------------------------------- */

static inline struct tlb_array *second_level(struct tlb *tlb, unsigned size)
{
    return size == 2 ? &tlb->l2_1g : &tlb->l2;
}

struct mmu_translation *tlb_find(struct tlb *tlb, uint64_t gva, uint16_t pcid)
{
    const bool *large = tlb->large[gva >> 63];
    struct mmu_translation *to;

    for (unsigned size = 0; size < 3; size++) {
        to = size == 0 || large[size] ? tlb_find_in(&tlb->l1[size], gva, size, pcid)
                                      : NULL;
        if (to != NULL) {
            tlb->stats.l1_hits++;
            return to;
        }
    }
    for (unsigned size = 0; size < 3; size++) {
        to = size == 0 || large[size]
                 ? tlb_find_in(second_level(tlb, size), gva, size, pcid)
                 : NULL;
        if (to != NULL) {
            tlb->stats.l2_hits++;
            *tlb_array_insert(&tlb->l1[size], tlb_index(gva, size),
                              tlb_key(gva, size, to->global ? TLB_GLOBAL : pcid)) =
                tlb_pack(to);
            return to;
        }
    }
    tlb->stats.misses++;
    return NULL;
}

static inline unsigned size_of(uint32_t shift)
{
    return shift >= 30 ? 2 : shift >= 21 ? 1 : 0;
}

void tlb_insert(struct tlb *tlb, uint64_t gva, uint16_t pcid,
                const struct mmu_translation *to)
{
    unsigned size = size_of(to->shift);
    struct mmu_translation piece = *to;

    piece.shift = (uint8_t)(12 + 9 * size);
    piece.page += gva & (((uint64_t)1 << to->shift) - ((uint64_t)1 << piece.shift));
    tlb_insert_value(tlb, gva, pcid, size, tlb_pack(&piece));
}

void tlb_drop(struct tlb *tlb, uint64_t gva, uint16_t pcid)
{
    const uint64_t tags[] = { pcid, TLB_GLOBAL };

    for (unsigned size = 0; size < 3; size++) {
        for (unsigned i = 0; i < ARRAY_SIZE(tags) && tlb->large[gva >> 63][size]; i++) {
            uint64_t key = tlb_key(gva, size, tags[i]), index = tlb_index(gva, size);

            tlb_array_forget(&tlb->l1[size], index, key);
            tlb_array_forget(second_level(tlb, size), index, key);
        }
    }
}

void tlb_invlpg(struct tlb *tlb, uint64_t gva, uint16_t pcid)
{
    tlb_drop(tlb, gva, pcid);
    for (unsigned i = 0; i < 4; i++) {
        tlb_array_clear_matching(&tlb->pwc[i], CR3_PCID | TLB_VALID, pcid | TLB_VALID);
    }
}

void tlb_flush_pcid(struct tlb *tlb, uint16_t pcid)
{
    uint64_t mask = CR3_PCID | TLB_GLOBAL | TLB_VALID, match = pcid | TLB_VALID;

    tlb->stats.flushes++;
    for (unsigned i = 0; i < 3; i++) {
        tlb_array_clear_matching(&tlb->l1[i], mask, match);
    }
    tlb_array_clear_matching(&tlb->l2, mask, match);
    tlb_array_clear_matching(&tlb->l2_1g, mask, match);
    for (unsigned i = 0; i < 4; i++) {
        tlb_array_clear_matching(&tlb->pwc[i], mask, match);
    }
}

void tlb_flush_all(struct tlb *tlb)
{
    tlb->stats.flushes++;
    for (unsigned i = 0; i < 3; i++) {
        tlb_array_clear(&tlb->l1[i]);
        tlb->large[0][i] = tlb->large[1][i] = tlb->nested_sizes[i] = false;
    }
    tlb->any_large[0] = tlb->any_large[1] = false;
    tlb_array_clear(&tlb->l2);
    tlb_array_clear(&tlb->l2_1g);
    for (unsigned i = 0; i < 4; i++) {
        tlb_array_clear(&tlb->pwc[i]);
        tlb_array_clear(&tlb->npwc[i]);
    }
    tlb_array_clear(&tlb->nested);
}

/* ---- Walks --------------------------------------------------------------------------- */

#define NESTED_DIRTY ((uint64_t)1 << 63)

bool tlb_nested_find(struct tlb *tlb, uint64_t gpa, bool dirty, struct tlb_nested *leaf)
{
    for (unsigned size = 0; size < 3; size++) {
        uint64_t index = tlb_index(gpa, size), key = tlb_key(gpa, size, 0);
        const struct tlb_value *to = NULL;

        if (tlb->nested_sizes[size]) {
            to = tlb_array_value(&tlb->nested, index, key, key);
        }
        if (to == NULL) {
            continue;
        }
        *leaf = (struct tlb_nested){ .page = to->address,
                                     .shift = (uint8_t)to->word,
                                     .perms = to->word >> 8 & 7,
                                     .saved = to->word >> 16 & 15,
                                     .dirty = to->word & NESTED_DIRTY };
        if (!dirty || leaf->dirty) {
            tlb->stats.nested_hits++;
            return true;
        }
        tlb_array_forget(&tlb->nested, index, key);
    }
    tlb->stats.nested_misses++;
    return false;
}

void tlb_nested_fill(struct tlb *tlb, uint64_t gpa, const struct tlb_nested *leaf)
{
    unsigned size = size_of(leaf->shift);
    struct tlb_value value = { leaf->page, leaf->shift | leaf->perms << 8 |
                                               leaf->saved << 16 |
                                               (leaf->dirty ? NESTED_DIRTY : 0) };

    tlb->nested_sizes[size] = true;
    *tlb_array_insert(&tlb->nested, tlb_index(gpa, size), tlb_key(gpa, size, 0)) = value;
}

void tlb_reference_rest(struct tlb *tlb, uint64_t line, uint64_t key)
{
    if (tlb_set_find(&tlb->line[1], line, key)) {
        tlb->stats.line_hits[1]++;
    } else {
        if (tlb_set_find(&tlb->line[2], line, key)) {
            tlb->stats.line_hits[2]++;
        } else {
            tlb->stats.line_misses++;
            tlb_set_insert(&tlb->line[2], line, key);
        }
        tlb_set_insert(&tlb->line[1], line, key);
    }
    tlb_set_insert(&tlb->line[0], line, key);
}

void tlb_reference_wide(struct tlb *tlb, uint64_t line, uint64_t key)
{
    unsigned level = 0;

    while (level < TLB_LINES && !tlb_array_find(&tlb->line[level], line, key)) {
        level++;
    }
    if (level < TLB_LINES) {
        tlb->stats.line_hits[level]++;
    } else {
        tlb->stats.line_misses++;
    }
    while (level-- > 0) {
        tlb_array_insert(&tlb->line[level], line, key);
    }
}
