/* SPDX-License-Identifier: MIT */
/* Models of what a processor caches of translations: TLBs, paging-structure caches, the
 * TLB of the nested dimension, and the page-table lines in its data caches. */
#ifndef SHADOWPT_SIM_TLB_H
#define SHADOWPT_SIM_TLB_H

#include "shadowpt-sim/walker.h"

/* Entries of a structure, and how many of them one set has; @entries 0: there is none. */
struct tlb_shape {
    uint32_t entries, ways;
};

struct tlb_geometry {
    struct tlb_shape l1_4k, l1_2m, l1_1g;
    struct tlb_shape l2;      /* 4 KiB and 2 MiB pages share it */
    struct tlb_shape l2_1g;   /* 1 GiB pages */
    struct tlb_shape pwc[4];  /* entries of levels 2, 3, 4, 5 that lead to a table */
    struct tlb_shape nested;  /* GPA to HPA, by leaf of the nested tables */
    struct tlb_shape line[3]; /* 64-byte lines with entries, in L1, L2 and L3 */
};

/* A set-associative array with true LRU: each set is in order of use, the newest first. */
struct tlb_array {
    uint32_t mask, ways;        /* sets - 1 */
    uint64_t *key;              /* 0: empty */
    struct mmu_translation *to; /* NULL in arrays that only say "here" */
};

struct tlb_stats {
    uint64_t l1_hits, l2_hits, misses;
    uint64_t pwc_hits, pwc_misses, nested_hits, nested_misses;
    uint64_t line_hits[3], line_misses;
    uint64_t flushes;
};

struct tlb {
    struct tlb_array l1[3], l2, l2_1g; /* l1: by page size */
    struct tlb_array pwc[4], nested, line[3];
    bool large[3]; /* pages of this size were inserted since the last full flush */
    struct tlb_stats stats;
};

/* 0; -EINVAL: a number of sets is no power of two, or too large; -ENOMEM. */
int tlb_init(struct tlb *tlb, const struct tlb_geometry *geometry);
void tlb_destroy(struct tlb *tlb);

/* ---- Translations ---- */

#define TLB_GLOBAL ((uint64_t)1 << 12)
#define TLB_VALID  ((uint64_t)1 << 15)

/* VPN << 16 | valid << 15 | size << 13 | global << 12 | PCID */
static inline uint64_t tlb_key(uint64_t gva, unsigned size, uint64_t tag)
{
    return ((gva & 0x01ffffffffffffffull) >> (12 + 9 * size)) << 16 | TLB_VALID |
           (uint64_t)size << 13 | tag;
}

struct mmu_translation *tlb_find_rest(struct tlb *tlb, uint64_t gva, uint16_t pcid);

/* The cached translation of @gva, or NULL. It may not permit the access
 * (mmu_translation_allows); then drop it (tlb_drop) and walk. Valid until the next call. */
static inline struct mmu_translation *tlb_find(struct tlb *tlb, uint64_t gva,
                                               uint16_t pcid)
{
    const struct tlb_array *l1 = &tlb->l1[0];
    uint64_t key = tlb_key(gva, 0, pcid);
    size_t first = (size_t)((gva >> 12) & l1->mask) * l1->ways;

    if (l1->key[first] == key) {
        tlb->stats.l1_hits++;
        return &l1->to[first];
    }
    return tlb_find_rest(tlb, gva, pcid);
}

/* Cache @to in both levels. Sizes but 4 KiB, 2 MiB and 1 GiB are cached as the 4 KiB page
 * or 2 MiB page around @gva. */
void tlb_insert(struct tlb *tlb, uint64_t gva, uint16_t pcid,
                const struct mmu_translation *to);

/* Forget @gva in @pcid and as a global page, and all of @pcid's paging-structure entries:
 * INVLPG (SDM 4.10.4.1). */
void tlb_invlpg(struct tlb *tlb, uint64_t gva, uint16_t pcid);
/* The translation alone: a fault forgets what caused it. */
void tlb_drop(struct tlb *tlb, uint64_t gva, uint16_t pcid);
/* All of @pcid but global pages: MOV to CR3. */
void tlb_flush_pcid(struct tlb *tlb, uint16_t pcid);
void tlb_flush_all(struct tlb *tlb);

/* ---- Walks ---- */

/* What of a walk's references the caches leave. */
struct tlb_walk_cost {
    unsigned references; /* that were made */
    unsigned hits[3];    /* of these, in the data caches */
    unsigned memory;     /* ... and in none */
    unsigned skipped;    /* saved by the PWC and the nested TLB */
};

/* Replay the references of a walk for @gva against paging-structure caches, nested TLB and
 * data caches, and fill these. @trace is of mmu_walk, shadow_trace or nested_translate. */
void tlb_walk(struct tlb *tlb, uint64_t gva, uint16_t pcid, const struct mmu_trace *trace,
              struct tlb_walk_cost *cost);

#endif
