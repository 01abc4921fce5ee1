/* SPDX-License-Identifier: MIT */
/* The page tables and accesses that the guest `paging` tries, for it and for the host test
 * (tests/api/test_mmu_oracle.c) that makes the simulator do the same. */
#ifndef GUESTS_PAGING_H
#define GUESTS_PAGING_H

#include <stdbool.h>
#include <stdint.h>

/* Guest-physical addresses, in 64 MiB of RAM. */
#define PAGING_TABLES  0x1000000ull /* 16 MiB */
#define PAGING_PAGE    0x1400000ull /* the page that everything maps; 2 MiB-aligned */
#define PAGING_RESULTS 0x1800000ull

#define PAGING_MAGIC 0x5a

/* Bits of entries. */
#define PAGING_P    0x001ull
#define PAGING_W    0x002ull
#define PAGING_U    0x004ull
#define PAGING_A    0x020ull
#define PAGING_D    0x040ull
#define PAGING_PS   0x080ull
#define PAGING_RSVD (1ull << 51) /* above any MAXPHYADDR here */
#define PAGING_NX   (1ull << 63)

/* Three trees: leaves of 4 KiB, 2 MiB, 1 GiB. In each, the entry above the leaves' table has
 * each combination of W, U and NX. */
enum {
    PAGING_TREES = 3,
    PAGING_UPPERS = 8,
    PAGING_LEAVES = 40,  /* flags of a leaf */
    PAGING_ACCESSES = 3, /* read, write, fetch; each has leaves of its own */
    PAGING_SLOTS = PAGING_LEAVES * PAGING_ACCESSES,
    PAGING_CASES = PAGING_TREES * PAGING_UPPERS * PAGING_SLOTS,
};

/* Tables, by their number from PAGING_TABLES on. */
enum {
    TABLE_ROOT, /* supervisor root: the guest's own, with its kernel mapped for ring 0 only */
    TABLE_SMALL_3,
    TABLE_SMALL_2,
    TABLE_LARGE_3,
    TABLE_LEAVES, /* [tree][upper] */
    TABLE_COUNT = TABLE_LEAVES + PAGING_TREES * PAGING_UPPERS,
};

/* Registers under which all cases are tried. */
struct paging_group {
    uint8_t user; /* CPL 3; otherwise CPL 0 */
    uint8_t nxe, wp, smep, smap, ac;
};

enum {
    PAGING_USER_GROUPS = 4,    /* NXE, WP */
    PAGING_KERNEL_GROUPS = 24, /* NXE, WP, SMEP, (SMAP, AC) */
    PAGING_GROUPS = PAGING_USER_GROUPS + PAGING_KERNEL_GROUPS,
};

static inline struct paging_group paging_group(unsigned index)
{
    struct paging_group group = { .nxe = index & 1, .wp = index >> 1 & 1 };

    if (index < PAGING_USER_GROUPS) {
        group.user = 1;
        return group;
    }
    index -= PAGING_USER_GROUPS;
    group = (struct paging_group){ .nxe = index & 1,
                                   .wp = index >> 1 & 1,
                                   .smep = index >> 2 & 1,
                                   .smap = index / 8 > 0,
                                   .ac = index / 8 == 2 };
    return group;
}

/* What the guest leaves at PAGING_RESULTS. */
struct paging_results {
    uint32_t magic, groups;
    uint32_t gbpages, pad;
    uint32_t ran[PAGING_GROUPS]; /* 0: the processor does not take these registers */
    uint32_t seen[PAGING_GROUPS][PAGING_CASES];
    uint8_t upper[PAGING_GROUPS][PAGING_TREES][PAGING_UPPERS]; /* A of these entries */
};

#define PAGING_DONE 0x70616765

/* Bits of seen: error code in 0-15. */
#define SEEN_FAULT   (1u << 16)
#define SEEN_ADDRESS (1u << 17) /* CR2 was the address */
#define SEEN_VALUE   (1u << 18) /* no fault, and the right page */
#define SEEN_A       (1u << 19) /* of the leaf, afterwards */
#define SEEN_D       (1u << 20)

static inline uint64_t paging_table(unsigned number)
{
    return PAGING_TABLES + 4096ull * number;
}

/* Flags of a leaf: all of W, U, A, D, NX; then some with a reserved bit; then absent ones. */
static inline uint64_t paging_leaf_flags(unsigned leaf)
{
    uint64_t flags = (leaf & 1 ? PAGING_W : 0) | (leaf & 2 ? PAGING_U : 0);

    if (leaf < 32) {
        return PAGING_P | flags | (leaf & 4 ? PAGING_A : 0) | (leaf & 8 ? PAGING_D : 0) |
               (leaf & 16 ? PAGING_NX : 0);
    }
    return leaf < 36 ? PAGING_P | PAGING_RSVD | flags
                     : flags | (leaf == 39 ? PAGING_NX | PAGING_RSVD | PAGING_A : 0);
}

static inline uint64_t paging_upper_flags(unsigned upper)
{
    return PAGING_P | (upper & 1 ? PAGING_W : 0) | (upper & 2 ? PAGING_U : 0) |
           (upper & 4 ? PAGING_NX : 0);
}

/* The entry above the leaves' table: which table it is in, and where there. Slot 1 of the root
 * is the tree of small pages, 2 that of large ones, 3 to 10 lead to huge ones. */
static inline unsigned paging_upper_table(unsigned tree)
{
    return tree == 0 ? TABLE_SMALL_2 : tree == 1 ? TABLE_LARGE_3 : TABLE_ROOT;
}

static inline unsigned paging_upper_slot(unsigned tree, unsigned upper)
{
    return tree == 2 ? 3 + upper : upper;
}

/* Where a case's page is mapped, and where in it the access goes: behind the first bytes,
 * which are code. */
static inline uint64_t paging_address(unsigned tree, unsigned upper, unsigned slot)
{
    uint64_t in_page = slot / PAGING_LEAVES == 2 ? 0 : 64;

    switch (tree) {
    case 0:
        return 1ull << 39 | (uint64_t)upper << 21 | (uint64_t)slot << 12 | in_page;
    case 1:
        return 2ull << 39 | (uint64_t)upper << 30 | (uint64_t)slot << 21 | in_page;
    default:
        return (3ull + upper) << 39 | (uint64_t)slot << 30 | (PAGING_PAGE + in_page);
    }
}

static inline uint64_t *paging_leaf(uint64_t (*tables)[512], unsigned tree,
                                    unsigned upper, unsigned slot)
{
    return &tables[TABLE_LEAVES + tree * PAGING_UPPERS + upper][slot];
}

/* Write all of it afresh, but the root's slot 0. @tables: the bytes at PAGING_TABLES. */
static inline void paging_fill(uint64_t (*tables)[512], bool gbpages)
{
    const uint64_t all = PAGING_P | PAGING_W | PAGING_U;

    tables[TABLE_ROOT][1] = paging_table(TABLE_SMALL_3) | all;
    tables[TABLE_ROOT][2] = paging_table(TABLE_LARGE_3) | all;
    tables[TABLE_SMALL_3][0] = paging_table(TABLE_SMALL_2) | all;
    for (unsigned tree = 0; tree < PAGING_TREES; tree++) {
        for (unsigned upper = 0; upper < PAGING_UPPERS; upper++) {
            tables[paging_upper_table(tree)][paging_upper_slot(tree, upper)] =
                tree == 2 && !gbpages
                    ? 0
                    : paging_table(TABLE_LEAVES + tree * PAGING_UPPERS + upper) |
                          paging_upper_flags(upper);
            for (unsigned slot = 0; slot < PAGING_SLOTS; slot++) {
                *paging_leaf(tables, tree, upper, slot) =
                    (tree == 2 ? 0 : PAGING_PAGE) | (tree > 0 ? PAGING_PS : 0) |
                    paging_leaf_flags(slot % PAGING_LEAVES);
            }
        }
    }
}

#endif
