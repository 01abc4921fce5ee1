/* SPDX-License-Identifier: MIT */
/* Set-associative arrays: making them, and forgetting what they hold. */
#include "shadowpt-sim/tlb/array.h"

#include <errno.h>
#include <stdlib.h>

#define SHAPE_MAX   (1u << 22)
#define ORDER_FIRST 0xfedcba9876543210ull

/* One entry of a wide set. */
struct tlb_wide {
    uint64_t key;
    uint32_t stamp; /* when it was used last */
    uint32_t clock; /* of the set, in its first entry */
    struct tlb_value value;
};

int tlb_array_init(struct tlb_array *array, const struct tlb_shape *shape, bool values)
{
    /* Without entries: one that is never found, so that lookups need no test. */
    uint32_t ways = shape->entries != 0 ? shape->ways : 1;
    uint32_t entries = shape->entries != 0 ? shape->entries : 1, sets;
    size_t size;

    if (ways == 0 || entries % ways != 0 || entries > SHAPE_MAX) {
        return -EINVAL;
    }
    sets = entries / ways;
    if ((sets & (sets - 1)) != 0) {
        return -EINVAL;
    }
    array->mask = sets - 1;
    array->shift = (uint32_t)__builtin_ctz(sets);
    array->ways = ways;
    array->keep = shape->entries != 0 ? ~(uint64_t)0 : 0;
    if (ways > TLB_LANES) {
        array->wide = calloc(entries, sizeof(*array->wide));
        return array->wide != NULL ? 0 : -ENOMEM;
    }
    array->inside = ways < TLB_LANES ? ((uint64_t)1 << (4 * ways)) - 1 : ~(uint64_t)0;
    array->last = 4 * (ways - 1);
    array->values = sizeof(struct tlb_set) + ways * sizeof(uint64_t);
    array->stride =
        align_up(array->values + (values ? ways * sizeof(struct tlb_value) : 0), 32);
    size = align_up((size_t)sets * array->stride, 64);
    array->sets = aligned_alloc(64, size);
    if (array->sets == NULL) {
        return -ENOMEM;
    }
    memset(array->sets, 0, size);
    for (uint32_t i = 0; i < sets; i++) {
        tlb_set_at(array, i)->order = ORDER_FIRST & array->inside;
    }
    return 0;
}

void tlb_array_destroy(struct tlb_array *array)
{
    free(array->sets);
    free(array->wide);
}

/* ---- Wide sets ---------------------------------------------------------------------------- */

static struct tlb_wide *wide_set(const struct tlb_array *array, uint64_t index)
{
    return array->wide + (size_t)(index & array->mask) * array->ways;
}

static struct tlb_wide *wide_find(const struct tlb_array *array, uint64_t index,
                                  uint64_t key, uint64_t other)
{
    struct tlb_wide *set = wide_set(array, index);

    for (unsigned way = 0; way < array->ways; way++) {
        if (set[way].key == key || set[way].key == other) {
            return &set[way];
        }
    }
    return NULL;
}

struct tlb_value *tlb_wide_value(struct tlb_array *array, uint64_t index, uint64_t key,
                                 uint64_t other)
{
    struct tlb_wide *entry = wide_find(array, index, key, other);

    if (entry == NULL) {
        return NULL;
    }
    entry->stamp = ++wide_set(array, index)->clock;
    return &entry->value;
}

struct tlb_value *tlb_wide_insert(struct tlb_array *array, uint64_t index, uint64_t key)
{
    struct tlb_wide *set = wide_set(array, index);
    uint32_t clock = set->clock;
    unsigned oldest = 0;

    for (unsigned way = 1; way < array->ways; way++) {
        /* Ages, so that a clock that wrapped around does no harm. */
        if (clock - set[way].stamp > clock - set[oldest].stamp) {
            oldest = way;
        }
    }
    set[oldest].stamp = ++set->clock;
    set[oldest].key = key;
    array->filled = true;
    return &set[oldest].value;
}

/* ---- Forgetting ----------------------------------------------------------------------------- */

/* The way becomes the set's least recently used: empty ways are behind the others. */
static void set_remove(const struct tlb_array *array, struct tlb_set *set, unsigned way)
{
    uint64_t order = set->order;
    unsigned shift = tlb_order_shift(order, way);
    uint64_t newer = ((uint64_t)1 << shift) - 1;
    uint64_t before =
        ((uint64_t)1 << array->last) - 1; /* the positions before the last */

    set->key[way] = 0;
    set->order =
        (order & newer) | (order >> 4 & before & ~newer) | (uint64_t)way << array->last;
}

static void wide_remove(const struct tlb_wide *set, struct tlb_wide *entry)
{
    entry->key = 0;
    entry->stamp = set->clock - INT32_MAX;
}

void tlb_array_forget(struct tlb_array *array, uint64_t index, uint64_t key)
{
    if (array->wide != NULL) {
        struct tlb_wide *entry = wide_find(array, index, key, key);

        if (entry != NULL) {
            wide_remove(wide_set(array, index), entry);
        }
    } else {
        struct tlb_set *set = tlb_set_at(array, index);
        int way = tlb_set_way(array, set, index, key, key);

        if (way >= 0) {
            set_remove(array, set, (unsigned)way);
        }
    }
}

void tlb_array_clear(struct tlb_array *array)
{
    for (uint64_t i = 0; i <= array->mask && array->filled; i++) {
        if (array->wide != NULL) {
            memset(wide_set(array, i), 0, array->ways * sizeof(*array->wide));
        } else {
            memset(tlb_set_at(array, i)->key, 0, array->ways * sizeof(uint64_t));
        }
    }
    array->filled = false;
}

static void set_clear(const struct tlb_array *array, uint64_t i, uint64_t mask,
                      uint64_t match)
{
    struct tlb_set *set = tlb_set_at(array, i);

    for (unsigned way = 0; way < array->ways; way++) {
        if (set->key[way] != 0 && (set->key[way] & mask) == match) {
            set_remove(array, set, way);
        }
    }
}

void tlb_array_clear_matching(struct tlb_array *array, uint64_t mask, uint64_t match)
{
    for (uint64_t i = 0; i <= array->mask && array->filled; i++) {
        struct tlb_wide *set = array->wide != NULL ? wide_set(array, i) : NULL;

        for (unsigned way = 0; set != NULL && way < array->ways; way++) {
            if (set[way].key != 0 && (set[way].key & mask) == match) {
                wide_remove(set, &set[way]);
            }
        }
        if (set == NULL) {
            set_clear(array, i, mask, match);
        }
    }
}
