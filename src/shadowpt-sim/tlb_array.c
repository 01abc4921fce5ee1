/* SPDX-License-Identifier: MIT */
/* Set-associative arrays: making them, and forgetting what they hold. */
#include "shadowpt-sim/tlb_array.h"

#include <errno.h>
#include <stdlib.h>

#define SHAPE_MAX   (1u << 22)
#define ORDER_FIRST 0xfedcba9876543210ull

static void *zeroed(size_t count, size_t size)
{
    size_t bytes = align_up(count * size, 64);
    void *memory = aligned_alloc(64, bytes);

    if (memory != NULL) {
        memset(memory, 0, bytes);
    }
    return memory;
}

int tlb_array_init(struct tlb_array *array, const struct tlb_shape *shape, bool values)
{
    /* Without entries: one that is never found, so that lookups need no test. */
    uint32_t ways = shape->entries != 0 ? shape->ways : 1;
    uint32_t entries = shape->entries != 0 ? shape->entries : 1, sets;
    bool wide = ways > TLB_LANES;
    size_t lanes;

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
    array->lanes = (uint32_t)align_up(ways, TLB_LANES);
    array->keep = shape->entries != 0 ? ~(uint64_t)0 : 0;
    array->inside = ways < TLB_LANES ? ((uint64_t)1 << (4 * ways)) - 1 : ~(uint64_t)0;
    array->last = 4 * (ways - 1) & 63;
    lanes = (size_t)sets * array->lanes;
    array->tag = zeroed(lanes, sizeof(*array->tag));
    array->key = zeroed(lanes, sizeof(*array->key));
    array->to = values ? zeroed(lanes, sizeof(*array->to)) : NULL;
    array->order = wide ? NULL : zeroed(sets, sizeof(*array->order));
    array->stamp = wide ? zeroed(lanes, sizeof(*array->stamp)) : NULL;
    if (array->tag == NULL || array->key == NULL || (values && array->to == NULL) ||
        (wide ? (void *)array->stamp : (void *)array->order) == NULL) {
        return -ENOMEM;
    }
    for (uint32_t set = 0; !wide && set < sets; set++) {
        array->order[set] = ORDER_FIRST;
    }
    return 0;
}

void tlb_array_destroy(struct tlb_array *array)
{
    free(array->tag);
    free(array->key);
    free(array->to);
    free(array->order);
    free(array->stamp);
}

static int wide_find(const struct tlb_array *array, uint64_t index, uint64_t key,
                     uint64_t other)
{
    size_t first = (size_t)(index & array->mask) * array->lanes;

    for (unsigned way = 0; way < array->ways; way++) {
        if (array->key[first + way] == key || array->key[first + way] == other) {
            return (int)(first + way);
        }
    }
    return -1;
}

int tlb_wide_slot(struct tlb_array *array, uint64_t index, uint64_t key, uint64_t other)
{
    int slot = wide_find(array, index, key, other);

    if (slot >= 0) {
        array->stamp[slot] = ++array->clock;
    }
    return slot;
}

size_t tlb_wide_insert(struct tlb_array *array, uint64_t index, uint64_t key)
{
    size_t first = (size_t)(index & array->mask) * array->lanes;
    const uint32_t *stamp = array->stamp + first;
    unsigned oldest = 0;

    for (unsigned way = 1; way < array->ways; way++) {
        /* Ages, so that a clock that wrapped around does no harm. */
        if (array->clock - stamp[way] > array->clock - stamp[oldest]) {
            oldest = way;
        }
    }
    array->stamp[first + oldest] = ++array->clock;
    array->key[first + oldest] = key;
    array->filled = true;
    return first + oldest;
}

/* @way becomes the set's least recently used: empty ways are behind the others. */
static void array_back(struct tlb_array *array, size_t set, unsigned way)
{
    unsigned last = 4 * (array->ways - 1), shift;
    uint64_t order, newer, inside;

    if (array->stamp != NULL) {
        array->stamp[set * array->lanes + way] = array->clock - INT32_MAX;
        return;
    }
    order = array->order[set];
    shift = tlb_order_shift(order, way);
    newer = ((uint64_t)1 << shift) - 1;
    inside = ((uint64_t)1 << last) - 1; /* the positions before the last */
    array->order[set] = (order & newer) | (order >> 4 & inside & ~newer) |
                        (uint64_t)way << last | (order & ~(inside << 4 | 15));
}

static void array_remove(struct tlb_array *array, size_t set, unsigned way)
{
    array->key[set * array->lanes + way] = 0;
    array_back(array, set, way);
}

void tlb_array_forget(struct tlb_array *array, uint64_t index, uint64_t key)
{
    int slot = array->stamp == NULL ? tlb_set_find(array, index, key, key)
                                    : wide_find(array, index, key, key);

    if (slot >= 0) {
        array_remove(array, (unsigned)slot / array->lanes, (unsigned)slot % array->lanes);
    }
}

void tlb_array_clear(struct tlb_array *array)
{
    if (array->filled) {
        memset(array->key, 0,
               (size_t)(array->mask + 1) * array->lanes * sizeof(*array->key));
        array->filled = false;
    }
}

void tlb_array_clear_matching(struct tlb_array *array, uint64_t mask, uint64_t match)
{
    for (size_t set = 0; set <= array->mask && array->filled; set++) {
        for (unsigned way = 0; way < array->ways; way++) {
            uint64_t key = array->key[set * array->lanes + way];

            if (key != 0 && (key & mask) == match) {
                array_remove(array, set, way);
            }
        }
    }
}
