/* SPDX-License-Identifier: MIT */
/* Models of TLBs, paging-structure caches and page-table lines in data caches. */
#include "shadowpt-sim/tlb.h"

#include <errno.h>
#include <stdlib.h>

#define SHAPE_MAX (1u << 22)

/* ---- One array --------------------------------------------------------------------- */

static int array_init(struct tlb_array *array, const struct tlb_shape *shape,
                      bool translations)
{
    /* Without entries: one that never matches, so that lookups need no test. */
    uint32_t ways = shape->entries != 0 ? shape->ways : 1;
    uint32_t entries = shape->entries != 0 ? shape->entries : 1, sets;

    if (ways == 0 || entries % ways != 0 || entries > SHAPE_MAX) {
        return -EINVAL;
    }
    sets = entries / ways;
    if ((sets & (sets - 1)) != 0) {
        return -EINVAL;
    }
    array->key = calloc(entries, sizeof(*array->key));
    array->to = translations ? calloc(entries, sizeof(*array->to)) : NULL;
    if (array->key == NULL || (translations && array->to == NULL)) {
        return -ENOMEM;
    }
    array->mask = sets - 1;
    array->ways = shape->entries != 0 ? ways : 0;
    return 0;
}

static void array_destroy(struct tlb_array *array)
{
    free(array->key);
    free(array->to);
}

static inline size_t array_set(const struct tlb_array *array, uint64_t index)
{
    return (size_t)(index & array->mask) * array->ways;
}

/* Move the entry at @way to the front of its set. */
static inline void array_touch(struct tlb_array *array, size_t first, uint32_t way)
{
    uint64_t *key = array->key + first;
    uint64_t used = key[way];

    if (way == 0) {
        return;
    }
    memmove(key + 1, key, way * sizeof(*key));
    key[0] = used;
    if (array->to != NULL) {
        struct mmu_translation *to = array->to + first, moved = to[way];

        memmove(to + 1, to, way * sizeof(*to));
        to[0] = moved;
    }
}

/* Whether @key, or @other, is in the set; it is then the set's first. */
static inline bool array_find(struct tlb_array *array, uint64_t index, uint64_t key,
                              uint64_t other)
{
    size_t first = array_set(array, index);

    for (uint32_t way = 0; way < array->ways; way++) {
        uint64_t here = array->key[first + way];

        if (here == key || here == other) {
            array_touch(array, first, way);
            return true;
        }
    }
    return false;
}

/* Put @key first, over one with the same key or the least recently used. */
static void array_insert(struct tlb_array *array, uint64_t index, uint64_t key,
                         const struct mmu_translation *to)
{
    size_t first = array_set(array, index);
    uint32_t way = 0;

    if (array->ways == 0) {
        return;
    }
    while (way + 1 < array->ways && array->key[first + way] != key &&
           array->key[first + way] != 0) {
        way++;
    }
    array_touch(array, first, way);
    array->key[first] = key;
    if (to != NULL) {
        array->to[first] = *to;
    }
}

/* Close the gap: an empty way is always behind the used ones. */
static void array_remove(struct tlb_array *array, size_t first, uint32_t way)
{
    uint32_t after = array->ways - way - 1;

    memmove(array->key + first + way, array->key + first + way + 1,
            after * sizeof(*array->key));
    array->key[first + array->ways - 1] = 0;
    if (array->to != NULL) {
        memmove(array->to + first + way, array->to + first + way + 1,
                after * sizeof(*array->to));
    }
}

static void array_forget(struct tlb_array *array, uint64_t index, uint64_t key)
{
    size_t first = array_set(array, index);

    for (uint32_t way = 0; way < array->ways; way++) {
        if (array->key[first + way] == key) {
            array_remove(array, first, way);
            return;
        }
    }
}

static void array_clear(struct tlb_array *array)
{
    memset(array->key, 0, (size_t)(array->mask + 1) * array->ways * sizeof(*array->key));
}

/* Forget the keys whose bits of @mask are @match. */
static void array_clear_matching(struct tlb_array *array, uint64_t mask, uint64_t match)
{
    for (size_t first = 0; first < (size_t)(array->mask + 1) * array->ways;
         first += array->ways) {
        for (uint32_t way = 0; way < array->ways && array->key[first + way] != 0;) {
            if ((array->key[first + way] & mask) == match) {
                array_remove(array, first, way);
            } else {
                way++;
            }
        }
    }
}

/* ---- All of them --------------------------------------------------------------------- */

int tlb_init(struct tlb *tlb, const struct tlb_geometry *geometry)
{
    const struct {
        struct tlb_array *array;
        const struct tlb_shape *shape;
        bool translations;
    } part[] = {
        { &tlb->l1[0], &geometry->l1_4k, true },
        { &tlb->l1[1], &geometry->l1_2m, true },
        { &tlb->l1[2], &geometry->l1_1g, true },
        { &tlb->l2, &geometry->l2, true },
        { &tlb->l2_1g, &geometry->l2_1g, true },
        { &tlb->pwc[0], &geometry->pwc[0], false },
        { &tlb->pwc[1], &geometry->pwc[1], false },
        { &tlb->pwc[2], &geometry->pwc[2], false },
        { &tlb->pwc[3], &geometry->pwc[3], false },
        { &tlb->nested, &geometry->nested, false },
        { &tlb->line[0], &geometry->line[0], false },
        { &tlb->line[1], &geometry->line[1], false },
        { &tlb->line[2], &geometry->line[2], false },
    };

    memset(tlb, 0, sizeof(*tlb));
    for (size_t i = 0; i < ARRAY_SIZE(part); i++) {
        int err = array_init(part[i].array, part[i].shape, part[i].translations);

        if (err != 0) {
            tlb_destroy(tlb);
            return err;
        }
    }
    return 0;
}

void tlb_destroy(struct tlb *tlb)
{
    for (unsigned i = 0; i < 3; i++) {
        array_destroy(&tlb->l1[i]);
        array_destroy(&tlb->line[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        array_destroy(&tlb->pwc[i]);
    }
    array_destroy(&tlb->l2);
    array_destroy(&tlb->l2_1g);
    array_destroy(&tlb->nested);
    memset(tlb, 0, sizeof(*tlb));
}

/* ---- Translations --------------------------------------------------------------------- */

static inline uint64_t vpn(uint64_t gva, unsigned size)
{
    return gva >> (12 + 9 * size);
}

static struct mmu_translation *find_size(struct tlb *tlb, struct tlb_array *array,
                                         uint64_t gva, unsigned size, uint16_t pcid)
{
    uint64_t index = vpn(gva, size);

    if (!array_find(array, index, tlb_key(gva, size, pcid),
                    tlb_key(gva, size, TLB_GLOBAL))) {
        return NULL;
    }
    return &array->to[array_set(array, index)];
}

struct mmu_translation *tlb_find_rest(struct tlb *tlb, uint64_t gva, uint16_t pcid)
{
    struct mmu_translation *to;

    for (unsigned size = 0; size < 3; size++) {
        if (size != 0 && !tlb->large[size]) {
            continue;
        }
        to = find_size(tlb, &tlb->l1[size], gva, size, pcid);
        if (to != NULL) {
            tlb->stats.l1_hits++;
            return to;
        }
    }
    for (unsigned size = 0; size < 3; size++) {
        struct tlb_array *l2 = size == 2 ? &tlb->l2_1g : &tlb->l2;

        if (size != 0 && !tlb->large[size]) {
            continue;
        }
        to = find_size(tlb, l2, gva, size, pcid);
        if (to != NULL) {
            tlb->stats.l2_hits++;
            array_insert(&tlb->l1[size], vpn(gva, size),
                         tlb_key(gva, size, to->global ? TLB_GLOBAL : pcid), to);
            return to;
        }
    }
    tlb->stats.misses++;
    return NULL;
}

static unsigned size_of(uint8_t shift)
{
    return shift >= 30 ? 2 : shift >= 21 ? 1 : 0;
}

void tlb_insert(struct tlb *tlb, uint64_t gva, uint16_t pcid,
                const struct mmu_translation *to)
{
    unsigned size = size_of(to->shift);
    uint64_t key = tlb_key(gva, size, to->global ? TLB_GLOBAL : pcid);
    struct mmu_translation piece = *to;

    piece.shift = (uint8_t)(12 + 9 * size);
    piece.page += gva & (((uint64_t)1 << to->shift) - ((uint64_t)1 << piece.shift));
    tlb->large[size] = true;
    array_insert(&tlb->l1[size], vpn(gva, size), key, &piece);
    array_insert(size == 2 ? &tlb->l2_1g : &tlb->l2, vpn(gva, size), key, &piece);
}

void tlb_drop(struct tlb *tlb, uint64_t gva, uint16_t pcid)
{
    const uint64_t tags[] = { pcid, TLB_GLOBAL };

    for (unsigned size = 0; size < 3; size++) {
        for (unsigned i = 0; i < ARRAY_SIZE(tags); i++) {
            uint64_t key = tlb_key(gva, size, tags[i]);

            array_forget(&tlb->l1[size], vpn(gva, size), key);
            array_forget(size == 2 ? &tlb->l2_1g : &tlb->l2, vpn(gva, size), key);
        }
    }
}

void tlb_invlpg(struct tlb *tlb, uint64_t gva, uint16_t pcid)
{
    tlb_drop(tlb, gva, pcid);
    for (unsigned i = 0; i < 4; i++) {
        array_clear_matching(&tlb->pwc[i], CR3_PCID | TLB_VALID, pcid | TLB_VALID);
    }
}

void tlb_flush_pcid(struct tlb *tlb, uint16_t pcid)
{
    uint64_t mask = CR3_PCID | TLB_GLOBAL | TLB_VALID, match = pcid | TLB_VALID;

    tlb->stats.flushes++;
    for (unsigned i = 0; i < 3; i++) {
        array_clear_matching(&tlb->l1[i], mask, match);
    }
    array_clear_matching(&tlb->l2, mask, match);
    array_clear_matching(&tlb->l2_1g, mask, match);
    for (unsigned i = 0; i < 4; i++) {
        array_clear_matching(&tlb->pwc[i], mask, match);
    }
}

void tlb_flush_all(struct tlb *tlb)
{
    tlb->stats.flushes++;
    for (unsigned i = 0; i < 3; i++) {
        array_clear(&tlb->l1[i]);
        tlb->large[i] = false;
    }
    array_clear(&tlb->l2);
    array_clear(&tlb->l2_1g);
    for (unsigned i = 0; i < 4; i++) {
        array_clear(&tlb->pwc[i]);
    }
    array_clear(&tlb->nested);
}

/* ---- Walks --------------------------------------------------------------------------- */

/* One reference goes to memory through the data caches. */
static void reference(struct tlb *tlb, uint64_t address, struct tlb_walk_cost *cost)
{
    uint64_t line = address >> 6, key = line << 1 | 1;

    cost->references++;
    for (unsigned i = 0; i < 3; i++) {
        if (array_find(&tlb->line[i], line, key, key)) {
            tlb->stats.line_hits[i]++;
            cost->hits[i]++;
            for (unsigned upper = 0; upper < i; upper++) {
                array_insert(&tlb->line[upper], line, key, NULL);
            }
            return;
        }
    }
    tlb->stats.line_misses++;
    cost->memory++;
    for (unsigned i = 0; i < 3; i++) {
        array_insert(&tlb->line[i], line, key, NULL);
    }
}

static uint64_t pwc_key(uint64_t gva, unsigned level, uint16_t pcid)
{
    return ((gva & 0x01ffffffffffffffull) >> (12 + 9 * (level - 1))) << 16 | TLB_VALID |
           pcid;
}

/* Whether the walk went on to a table from the entry of @level. */
static bool leads_to_table(const struct mmu_trace *trace, unsigned level)
{
    for (unsigned i = 0; i < trace->count; i++) {
        const struct mmu_ref *ref = &trace->ref[i];

        if (ref->dimension != MMU_REF_NESTED && ref->level < level) {
            return true;
        }
    }
    return false;
}

/* The level whose entry need not be read any more: 0 when all must be. */
static unsigned pwc_find(struct tlb *tlb, uint64_t gva, uint16_t pcid,
                         const struct mmu_trace *trace)
{
    for (unsigned level = 2; level <= 5; level++) {
        uint64_t key = pwc_key(gva, level, pcid);

        /* An entry that turned into a leaf since is no longer a table's. */
        if (array_find(&tlb->pwc[level - 2], key >> 16, key, key) &&
            leads_to_table(trace, level)) {
            tlb->stats.pwc_hits++;
            return level;
        }
    }
    tlb->stats.pwc_misses++;
    return 0;
}

static void pwc_fill(struct tlb *tlb, uint64_t gva, uint16_t pcid,
                     const struct mmu_trace *trace)
{
    for (unsigned i = 0; i < trace->count; i++) {
        const struct mmu_ref *ref = &trace->ref[i];

        if (ref->dimension != MMU_REF_NESTED && ref->level >= 2 && ref->level <= 5 &&
            leads_to_table(trace, ref->level)) {
            uint64_t key = pwc_key(gva, ref->level, pcid);

            array_insert(&tlb->pwc[ref->level - 2], key >> 16, key, NULL);
        }
    }
}

/* The references of one nested walk, from @i on: what it is for is their common
 * for_level. Its result is that of the last one's table and index, which the address of
 * that entry names exactly. */
static unsigned nested_piece(struct tlb *tlb, const struct mmu_trace *trace, unsigned i,
                             struct tlb_walk_cost *cost)
{
    unsigned end = i;
    uint64_t key;

    while (end < trace->count && trace->ref[end].dimension == MMU_REF_NESTED &&
           trace->ref[end].for_level == trace->ref[i].for_level) {
        end++;
    }
    key = trace->ref[end - 1].address >> 3 << 16 | TLB_VALID;
    if (array_find(&tlb->nested, key >> 16, key, key)) {
        tlb->stats.nested_hits++;
        cost->skipped += end - i;
        return end;
    }
    tlb->stats.nested_misses++;
    for (; i < end; i++) {
        reference(tlb, trace->ref[i].address, cost);
    }
    array_insert(&tlb->nested, key >> 16, key, NULL);
    return end;
}

void tlb_walk(struct tlb *tlb, uint64_t gva, uint16_t pcid, const struct mmu_trace *trace,
              struct tlb_walk_cost *cost)
{
    unsigned known = pwc_find(tlb, gva, pcid, trace);

    memset(cost, 0, sizeof(*cost));
    for (unsigned i = 0; i < trace->count;) {
        const struct mmu_ref *ref = &trace->ref[i];
        bool nested = ref->dimension == MMU_REF_NESTED;
        unsigned level = nested ? ref->for_level : ref->level;

        if (known != 0 && level >= known) {
            cost->skipped++;
            i++;
        } else if (nested) {
            i = nested_piece(tlb, trace, i, cost);
        } else {
            reference(tlb, ref->address, cost);
            i++;
        }
    }
    pwc_fill(tlb, gva, pcid, trace);
}
