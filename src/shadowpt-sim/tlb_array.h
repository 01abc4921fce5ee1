/* SPDX-License-Identifier: MIT */
/* A set-associative array with true LRU, compact enough to be searched at every simulated
 * access: the parts of one set lie together, and its ways are compared at once. */
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

struct tlb_array {
    uint32_t mask, shift; /* sets - 1; log2 of sets */
    uint32_t ways, lanes; /* lanes: ways rounded up to TLB_LANES */
    uint64_t keep;        /* anded to keys; 0: there are no entries */
    bool filled;          /* something was put in since all was cleared */
    uint8_t *tag;         /* lanes a set: 8 bits of what the set does not say */
    uint64_t *key;        /* lanes a set: all of it; 0: empty */
    struct tlb_value *to; /* lanes a set; NULL in arrays that only say "here" */
    /* The ways of a set, four bits each, the most recently used lowest. Empty ones are
     * behind those in use. */
    uint64_t *order, inside; /* inside: the bits of an order that are in use */
    uint32_t last;           /* shift to the oldest's */
    uint32_t *stamp, clock;  /* instead, where a set has more ways: when used last */
};

/* 0; -EINVAL: the number of sets is no power of two, or too large; -ENOMEM. */
int tlb_array_init(struct tlb_array *array, const struct tlb_shape *shape, bool values);
void tlb_array_destroy(struct tlb_array *array);
void tlb_array_clear(struct tlb_array *array);
/* Forget the keys whose bits of @mask are @match. */
void tlb_array_clear_matching(struct tlb_array *array, uint64_t mask, uint64_t match);
/* Forget @key if it is there. */
void tlb_array_forget(struct tlb_array *array, uint64_t index, uint64_t key);
/* tlb_array_slot() and tlb_array_insert() for sets of more than TLB_LANES ways. */
int tlb_wide_slot(struct tlb_array *array, uint64_t index, uint64_t key, uint64_t other);
size_t tlb_wide_insert(struct tlb_array *array, uint64_t index, uint64_t key);

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
    unsigned shift = tlb_order_shift(order, way);
    uint64_t newer = ((uint64_t)1 << shift) - 1;

    return (order & ~(newer << 4 | 15)) | (order & newer) << 4 | way;
}

/* ---- Entries of sets with at most TLB_LANES ways ---- */

#define TLB_INLINE static inline __attribute__((always_inline))

/* The slot (set * lanes + way) that holds @key, or @other; negative: none. */
TLB_INLINE int tlb_set_find(const struct tlb_array *array, uint64_t index, uint64_t key,
                            uint64_t other)
{
    size_t first = (size_t)(index & array->mask) * TLB_LANES;
    unsigned found = tlb_tags_match(array->tag + first, (uint8_t)(index >> array->shift));

    while (found != 0) {
        size_t slot = first + (unsigned)__builtin_ctz(found);
        uint64_t here = array->key[slot];

        if (here == key || here == other) {
            return (int)slot;
        }
        found &= found - 1;
    }
    return -1;
}

/* The same; it is then the set's most recently used. */
TLB_INLINE int tlb_set_slot(struct tlb_array *array, uint64_t index, uint64_t key,
                            uint64_t other)
{
    int slot = tlb_set_find(array, index, key, other);

    if (slot >= 0) {
        uint64_t *order = &array->order[(unsigned)slot / TLB_LANES];

        *order = tlb_order_front(*order, (unsigned)slot % TLB_LANES);
    }
    return slot;
}

/* Put @key, which is not there, over the least recently used: the slot. */
TLB_INLINE size_t tlb_set_insert(struct tlb_array *array, uint64_t index, uint64_t key)
{
    size_t set = (size_t)(index & array->mask), slot;
    uint64_t order = array->order[set], inside = array->inside;
    /* The oldest is the highest inside: all move up by one place. */
    unsigned way = (unsigned)(order >> array->last) & 15;

    slot = set * TLB_LANES + way;
    array->order[set] = ((order << 4 | way) & inside) | (order & ~inside);
    array->tag[slot] = (uint8_t)(index >> array->shift);
    array->key[slot] = key & array->keep;
    array->filled = true;
    return slot;
}

/* ---- Entries of any ---- */

static inline int tlb_array_slot(struct tlb_array *array, uint64_t index, uint64_t key,
                                 uint64_t other)
{
    return array->stamp == NULL ? tlb_set_slot(array, index, key, other)
                                : tlb_wide_slot(array, index, key, other);
}

/* Whether it is there; it is then the set's most recently used. */
static inline bool tlb_array_find(struct tlb_array *array, uint64_t index, uint64_t key)
{
    return tlb_array_slot(array, index, key, key) >= 0;
}

/* The same for arrays with values: the value, or NULL. */
static inline struct tlb_value *tlb_array_value(struct tlb_array *array, uint64_t index,
                                                uint64_t key, uint64_t other)
{
    int slot = tlb_array_slot(array, index, key, other);

    return slot < 0 ? NULL : &array->to[slot];
}

/* Put @key, which is not there, over the least recently used: the slot of its value. */
static inline size_t tlb_array_insert(struct tlb_array *array, uint64_t index,
                                      uint64_t key)
{
    return array->stamp == NULL ? tlb_set_insert(array, index, key)
                                : tlb_wide_insert(array, index, key);
}

static inline void tlb_array_insert_value(struct tlb_array *array, uint64_t index,
                                          uint64_t key, struct tlb_value value)
{
    array->to[tlb_array_insert(array, index, key)] = value;
}

#endif
