/* SPDX-License-Identifier: MIT */
/* Address spaces as a whole: every page that a guest's tables map, and what shadow tables
 * of all of them would cost. */
#ifndef SHADOWPT_SIM_SHADOW_SPACE_H
#define SHADOWPT_SIM_SHADOW_SPACE_H

#include "shadowpt-sim/shadow/shadow.h"

#include <umbra/umbra.h>

/* One mapped page: what the entries on its path say. */
struct space_page {
    uint64_t gva;
    struct mmu_translation to;
    bool accessed; /* A of the leaf */
};

/* What a walk of the tables met, besides pages. */
struct space_stats {
    uint64_t pages, bytes; /* mapped */
    uint64_t by_shift[31]; /* pages by log2 of their size */
    uint64_t tables[6];    /* tables by level, as often as they were reached */
    uint64_t reserved;     /* present entries with reserved bits set: they fault */
    uint64_t unbacked;     /* pointers to tables where no memory is */
    uint64_t entries;      /* read */
    bool truncated;        /* the limit was reached */
};

/* False: stop. */
typedef bool (*space_page_fn)(void *context, const struct space_page *page);

/* Call @fn for every page mapped in @mode, by address. After @limit entries (tables may lead
 * in circles, so hostile ones map any number of pages) it ends and says so. Without paging
 * there is nothing to walk. */
void space_walk(const struct mmu_mode *mode, const struct mmu_memory *memory,
                uint64_t limit, space_page_fn fn, void *context,
                struct space_stats *stats);

/* ---- What shadow tables cost ------------------------------------------------------------ */

struct shadow_census {
    uint32_t pages[6];   /* shadow pages in use, by level */
    uint64_t leaves[4];  /* by level: 1, 2, 3 for 4 KiB, 2 MiB, 1 GiB */
    uint64_t splintered; /* of these, the parts of larger guest pages */
    uint64_t writable;   /* of these */
    uint64_t bytes;      /* of the pages; what the library itself needs comes on top */
    uint64_t faults, emulated, refused; /* by space_touch(): see there */
};

/* Count what @mmu has now. */
void shadow_census(const struct shadow_mmu *mmu, struct shadow_census *census);

/* Make the shadow entries of every page of the address space that @vcpu has loaded, as its
 * guest would by touching all of them, writing those that are dirty. census->faults are hidden
 * fills, ->emulated what has no entry (writes to tables), ->refused pages in no slot.
 * -ENOMEM when the library could not. */
int space_touch(struct shadow_vcpu *vcpu, const struct mmu_memory *memory, uint64_t limit,
                struct shadow_census *census);

#endif
