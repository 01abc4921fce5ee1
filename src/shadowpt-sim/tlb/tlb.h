/* SPDX-License-Identifier: MIT */
/* Models of what a processor caches of translations: TLBs, paging-structure caches, both
 * for the nested dimension too, and the page-table lines in its data caches. */
#ifndef SHADOWPT_SIM_TLB_TLB_H
#define SHADOWPT_SIM_TLB_TLB_H

#include "shadowpt-sim/paging.h"
#include "shadowpt-sim/tlb/array.h"

#define TLB_LINES 3 /* data caches */

struct tlb_geometry {
    struct tlb_shape l1_4k, l1_2m, l1_1g;
    struct tlb_shape l2;              /* 4 KiB and 2 MiB pages share it */
    struct tlb_shape l2_1g;           /* 1 GiB pages */
    struct tlb_shape pwc[4];          /* GVA: entries of levels 2 to 5, to a table */
    struct tlb_shape nested;          /* GPA to HPA */
    struct tlb_shape npwc[4];         /* GPA: entries of the nested levels 2 to 5 */
    struct tlb_shape line[TLB_LINES]; /* 64-byte lines with entries, in L1, L2 and L3 */
};

struct tlb_stats {
    uint64_t l1_hits, l2_hits, misses;
    uint64_t pwc_hits, pwc_misses, nested_hits, nested_misses;
    uint64_t line_hits[TLB_LINES], line_misses;
    uint64_t flushes;
};

struct tlb {
    struct tlb_array l1[3], l2, l2_1g; /* l1: by page size */
    struct tlb_array pwc[4], nested, npwc[4], line[TLB_LINES];
    /* Pages of this size were inserted since the last full flush, by half of the address
     * space (bit 63): most lookups of large pages can be spared. */
    bool large[2][3];
    bool any_large[2]; /* ... larger than 4 KiB */
    bool nested_sizes[3];
    bool plain; /* no array has sets of more than TLB_LANES ways */
    struct tlb_stats stats;
};

/* 0; -EINVAL: a number of sets is no power of two, or too large; -ENOMEM. */
int tlb_init(struct tlb *tlb, const struct tlb_geometry *geometry);
void tlb_destroy(struct tlb *tlb);

/* ---- Translations ---- */

#define TLB_GLOBAL ((uint64_t)1 << 12)
#define TLB_VALID  ((uint64_t)1 << 15)

static inline uint64_t tlb_index(uint64_t address, unsigned size)
{
    return (address & 0x01ffffffffffffffull) >> (12 + 9 * size);
}

/* VPN << 16 | valid << 15 | size << 13 | global << 12 | PCID */
static inline uint64_t tlb_key(uint64_t gva, unsigned size, uint64_t tag)
{
    return tlb_index(gva, size) << 16 | TLB_VALID | (uint64_t)size << 13 | tag;
}

/* A translation is kept as it is: in two words, which are stored and loaded whole. */
_Static_assert(sizeof(struct mmu_translation) == sizeof(struct tlb_value) &&
                   offsetof(struct mmu_translation, shift) == 8 &&
                   offsetof(struct mmu_translation, perms) == 9 &&
                   offsetof(struct mmu_translation, pkey) == 10 &&
                   offsetof(struct mmu_translation, cache) == 11 &&
                   offsetof(struct mmu_translation, global) == 12 &&
                   offsetof(struct mmu_translation, dirty) == 13 &&
                   __BYTE_ORDER == __LITTLE_ENDIAN,
               "tlb_pack() puts the members where they are");

#define TLB_PERMS     8
#define TLB_PKEY      16
#define TLB_CACHE     24
#define TLB_IS_GLOBAL 32
#define TLB_DIRTY     40

static inline unsigned tlb_shift(struct tlb_value value)
{
    return value.word & 0xff;
}

static inline struct tlb_value tlb_pack(const struct mmu_translation *to)
{
    return (struct tlb_value){
        .address = to->page,
        .word = (uint64_t)to->shift | (uint64_t)to->perms << TLB_PERMS |
                (uint64_t)to->pkey << TLB_PKEY | (uint64_t)to->cache << TLB_CACHE |
                (uint64_t)to->global << TLB_IS_GLOBAL | (uint64_t)to->dirty << TLB_DIRTY,
    };
}

/* The cached translation of @gva, or NULL. It may not permit the access
 * (mmu_translation_allows); then drop it (tlb_drop) and walk. Valid until the next call. */
struct mmu_translation *tlb_find(struct tlb *tlb, uint64_t gva, uint16_t pcid);

/* The same in one array. */
TLB_INLINE struct mmu_translation *tlb_find_in(struct tlb_array *array, uint64_t gva,
                                               unsigned size, uint16_t pcid)
{
    struct tlb_value *to =
        tlb_array_value(array, tlb_index(gva, size), tlb_key(gva, size, pcid),
                        tlb_key(gva, size, TLB_GLOBAL));

    return (struct mmu_translation *)(void *)to;
}

/* Cache @to, which is not there, in both levels. Sizes but 4 KiB, 2 MiB and 1 GiB are
 * cached as the 4 KiB page or 2 MiB page around @gva. */
void tlb_insert(struct tlb *tlb, uint64_t gva, uint16_t pcid,
                const struct mmu_translation *to);
/* The same for a page of these sizes: 0, 1, 2. */
TLB_INLINE void tlb_insert_value(struct tlb *tlb, uint64_t gva, uint16_t pcid,
                                 unsigned size, struct tlb_value value)
{
    bool global = value.word >> TLB_IS_GLOBAL & 1;
    uint64_t index = tlb_index(gva, size);
    uint64_t key = tlb_key(gva, size, global ? TLB_GLOBAL : pcid);

    tlb->large[gva >> 63][size] = true;
    tlb->any_large[gva >> 63] |= size > 0;
    *tlb_array_insert(&tlb->l1[size], index, key) = value;
    *tlb_array_insert(size == 2 ? &tlb->l2_1g : &tlb->l2, index, key) = value;
}
/* The same for a page of 4 KiB in a plain TLB. */
TLB_INLINE void tlb_insert_small(struct tlb *tlb, uint64_t gva, uint16_t pcid,
                                 struct tlb_value value)
{
    bool global = value.word >> TLB_IS_GLOBAL & 1;
    uint64_t index = tlb_index(gva, 0), key = tlb_key(gva, 0, global ? TLB_GLOBAL : pcid);

    tlb->large[gva >> 63][0] = true;
    *tlb_set_insert(&tlb->l1[0], index, key) = value;
    *tlb_set_insert(&tlb->l2, index, key) = value;
}

/* Forget @gva in @pcid and as a global page, and all of @pcid's paging-structure entries:
 * INVLPG (SDM 4.10.4.1). */
void tlb_invlpg(struct tlb *tlb, uint64_t gva, uint16_t pcid);
/* The translation alone: a fault forgets what caused it. */
void tlb_drop(struct tlb *tlb, uint64_t gva, uint16_t pcid);
/* All of @pcid but global pages: MOV to CR3. */
void tlb_flush_pcid(struct tlb *tlb, uint16_t pcid);
void tlb_flush_all(struct tlb *tlb);

/* ---- Walks ---- */

/* What a paging-structure cache knows: the table that the entry of a level leads to. With
 * nested paging it is where that table is in the host (SDM 29.4.2, combined mappings).
 * value.address is the table's; value.word: */
#define TLB_TABLE_PERMS 0xffu /* what the entries down to here permit */
#define TLB_TABLE_SAVED 32    /* shift to: references that a walk down to here takes */

/* What the nested TLB knows: a leaf of the nested tables. */
struct tlb_nested {
    uint64_t page;
    uint32_t shift, perms, saved;
    bool dirty;
};

/* The lowest level whose entry for @address need not be read, 2 to 5, and its table; 0:
 * all must be. @array: pwc or npwc. */
TLB_INLINE unsigned tlb_table_find(struct tlb_array array[4], uint64_t address,
                                   uint16_t tag, struct tlb_value *table)
{
    uint64_t index = tlb_index(address, 1);

    for (unsigned i = 0; i < 4; i++, index >>= 9) {
        uint64_t key = index << 16 | TLB_VALID | tag;
        const struct tlb_value *to = tlb_array_value(&array[i], index, key, key);

        if (to != NULL) {
            *table = *to;
            return i + 2;
        }
    }
    return 0;
}

/* The entry of @level for @address was read, and leads to @table. */
TLB_INLINE void tlb_table_fill(struct tlb_array array[4], uint64_t address, uint16_t tag,
                               unsigned level, struct tlb_value table)
{
    uint64_t index = tlb_index(address, 1) >> (9 * (level - 2));

    *tlb_array_insert(&array[level - 2], index, index << 16 | TLB_VALID | tag) = table;
}

/* The nested leaf around @gpa; with @dirty only one that may be written without a walk. */
bool tlb_nested_find(struct tlb *tlb, uint64_t gpa, bool dirty, struct tlb_nested *leaf);
void tlb_nested_fill(struct tlb *tlb, uint64_t gpa, const struct tlb_nested *leaf);

/* The rest of tlb_reference(): where the line is not in the first cache of a plain model,
 * and all of it for others. */
void tlb_reference_rest(struct tlb *tlb, uint64_t line, uint64_t key);
void tlb_reference_wide(struct tlb *tlb, uint64_t line, uint64_t key);

/* One reference to a table entry goes to memory through the data caches, and fills them. */
TLB_INLINE void tlb_reference(struct tlb *tlb, uint64_t address)
{
    uint64_t line = address >> 6, key = line << 16 | TLB_VALID;

    if (!tlb->plain) {
        tlb_reference_wide(tlb, line, key);
    } else if (tlb_set_find(&tlb->line[0], line, key)) {
        tlb->stats.line_hits[0]++;
    } else {
        tlb_reference_rest(tlb, line, key);
    }
}

#endif
