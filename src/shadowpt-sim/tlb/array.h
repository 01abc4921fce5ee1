/* SPDX-License-Identifier: MIT */
/* A set-associative array with true LRU, compact enough to be searched at every simulated
 * access: all of one set lies together, and its ways are compared at once. */
#ifndef SHADOWPT_SIM_TLB_ARRAY_H
#define SHADOWPT_SIM_TLB_ARRAY_H

#include "base/util.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Entries of a structure, and how many of them one set has; @entries 0: there is none. */
struct tlb_shape {
    uint32_t entries, ways;
};

/* What an entry says besides "here", of the owner's choice. */
struct tlb_value {
    uint64_t address, word;
};

#define TLB_LANES                                                                        \
    16 /* tags compared by one instruction, and ways that fit in one order */

/* Behind it: the keys of all ways (0: empty), then their values. */
struct tlb_set {
    uint8_t tag[TLB_LANES]; /* 8 bits of what the set's number does not say */
    /* The ways, four bits each, the most recently used lowest. Empty ones are behind those
     * in use. */
    uint64_t order;
    uint64_t unused;
    uint64_t key[];
};

struct tlb_array {
    uint32_t mask, shift; /* sets - 1; log2 of sets */
    uint32_t ways, last;  /* last: shift to the oldest in an order */
    uint64_t stride;      /* bytes of a set with all that is behind it */
    uint64_t values;      /* ... of these, in front of the values */
    uint64_t keep;        /* anded to keys; 0: there are no entries */
    uint64_t inside;      /* the bits of an order that are in use */
    bool filled;          /* something was put in since all was cleared */
    uint8_t *sets;
    struct tlb_wide *wide; /* instead, where a set has more than TLB_LANES ways */
};

/* 0; -EINVAL: the number of sets is no power of two, or too large; -ENOMEM. */
int tlb_array_init(struct tlb_array *array, const struct tlb_shape *shape, bool values);
void tlb_array_destroy(struct tlb_array *array);
void tlb_array_clear(struct tlb_array *array);
/* Forget the keys whose bits of @mask are @match. */
void tlb_array_clear_matching(struct tlb_array *array, uint64_t mask, uint64_t match);
/* Forget @key if it is there. */
void tlb_array_forget(struct tlb_array *array, uint64_t index, uint64_t key);
/* tlb_array_value() and tlb_array_insert() for sets of more than TLB_LANES ways. */
struct tlb_value *tlb_wide_value(struct tlb_array *array, uint64_t index, uint64_t key,
                                 uint64_t other);
struct tlb_value *tlb_wide_insert(struct tlb_array *array, uint64_t index, uint64_t key);

/* Bit n: tag n is @wanted. */
static inline unsigned tlb_tags_match(const uint8_t *tag, uint8_t wanted)
{
#ifdef __SSE2__
    __m128i here = _mm_load_si128((const __m128i *)(const void *)tag);

    return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(here, _mm_set1_epi8((char)wanted)));
#else
    unsigned found = 0;

    for (unsigned i = 0; i < TLB_LANES; i++) {
        found |= (unsigned)(tag[i] == wanted) << i;
    }
    return found;
#endif
}

/* ---- Recency ---- */

#define TLB_NIBBLES 0x1111111111111111ull

/* Four times the position of @way in @order: the lowest nibble that equals it. */
static inline unsigned tlb_order_shift(uint64_t order, unsigned way)
{
    uint64_t other = order ^ way * TLB_NIBBLES;

    return (unsigned)__builtin_ctzll((other - TLB_NIBBLES) & ~other &
                                     (TLB_NIBBLES << 3)) -
           3;
}

static inline uint64_t tlb_order_front(uint64_t order, unsigned way)
{
    uint64_t up = (uint64_t)2 << (tlb_order_shift(order, way) + 3); /* the next nibble */
    uint64_t here = up - 1;

    return (order & ~here) | ((order << 4 | way) & here);
}

/* ---- Entries of sets with at most TLB_LANES ways ---- */

#define TLB_INLINE static inline __attribute__((always_inline))

TLB_INLINE struct tlb_set *tlb_set_at(const struct tlb_array *array, uint64_t index)
{
    return (struct tlb_set *)(void *)(array->sets +
                                      (index & array->mask) * array->stride);
}

TLB_INLINE struct tlb_value *tlb_set_value(const struct tlb_array *array,
                                           struct tlb_set *set, unsigned way)
{
    return (struct tlb_value *)(void *)((uint8_t *)set + array->values) + way;
}

/* The way that holds @key, or @other; negative: none. */
TLB_INLINE int tlb_set_way(const struct tlb_array *array, const struct tlb_set *set,
                           uint64_t index, uint64_t key, uint64_t other)
{
    unsigned found = tlb_tags_match(set->tag, (uint8_t)(index >> array->shift));

    while (found != 0) {
        unsigned way = (unsigned)__builtin_ctz(found);

        /* Lanes behind the ways match too, where the tag is 0. */
        if (way < array->ways && (set->key[way] == key || set->key[way] == other)) {
            return (int)way;
        }
        found &= found - 1;
    }
    return -1;
}

/* Whether it is there; it is then the set's most recently used. */
TLB_INLINE bool tlb_set_find(struct tlb_array *array, uint64_t index, uint64_t key)
{
    struct tlb_set *set = tlb_set_at(array, index);
    int way = tlb_set_way(array, set, index, key, key);

    if (way >= 0) {
        set->order = tlb_order_front(set->order, (unsigned)way);
    }
    return way >= 0;
}

/* The same for arrays with values: the value, or NULL. */
TLB_INLINE struct tlb_value *tlb_set_lookup(struct tlb_array *array, uint64_t index,
                                            uint64_t key, uint64_t other)
{
    struct tlb_set *set = tlb_set_at(array, index);
    int way = tlb_set_way(array, set, index, key, other);

    if (way < 0) {
        return NULL;
    }
    set->order = tlb_order_front(set->order, (unsigned)way);
    return tlb_set_value(array, set, (unsigned)way);
}

/* Put @key, which is not there, over the least recently used: where its value is. */
TLB_INLINE struct tlb_value *tlb_set_insert(struct tlb_array *array, uint64_t index,
                                            uint64_t key)
{
    struct tlb_set *set = tlb_set_at(array, index);
    /* The oldest is the highest inside: all move up by one place. */
    unsigned way = (unsigned)(set->order >> array->last) & 15;

    set->order = (set->order << 4 | way) & array->inside;
    set->tag[way] = (uint8_t)(index >> array->shift);
    set->key[way] = key & array->keep;
    array->filled = true;
    return tlb_set_value(array, set, way);
}

/* ---- Entries of any ---- */

static inline struct tlb_value *tlb_array_value(struct tlb_array *array, uint64_t index,
                                                uint64_t key, uint64_t other)
{
    return array->wide == NULL ? tlb_set_lookup(array, index, key, other)
                               : tlb_wide_value(array, index, key, other);
}

static inline bool tlb_array_find(struct tlb_array *array, uint64_t index, uint64_t key)
{
    return array->wide == NULL ? tlb_set_find(array, index, key)
                               : tlb_wide_value(array, index, key, key) != NULL;
}

static inline struct tlb_value *tlb_array_insert(struct tlb_array *array, uint64_t index,
                                                 uint64_t key)
{
    return array->wide == NULL ? tlb_set_insert(array, index, key)
                               : tlb_wide_insert(array, index, key);
}

#endif
