/* SPDX-License-Identifier: MIT */
/* One address space of a guest: its pages, KVM's opinion of them, the cost of its shadow. */
#ifndef VMM_CLI_MMU_SPACE_H
#define VMM_CLI_MMU_SPACE_H

#include <jansson.h>
#include <stdio.h>

#include "shadowpt-sim/shadow/space.h"
#include "vmm/cli/mmu/guest.h"

/* How a CR3 came to be known. */
enum mmu_space_origin {
    MMU_SPACE_LOADED, /* a vCPU has it */
    MMU_SPACE_SEEN,   /* a vCPU had it at an earlier stop */
    MMU_SPACE_NAMED,  /* given on the command line */
    MMU_SPACE_FOUND,  /* a page of RAM that looks like a root table */
};

/* Consecutive pages of one size and one set of rights. */
struct mmu_range {
    uint64_t gva, length, gpa;
    uint64_t pages, accessed, dirty;
    uint8_t shift, perms, cache;
    bool global, linear; /* linear: GPAs are consecutive too */
};

struct mmu_space {
    enum mmu_space_origin origin;
    unsigned vcpu;
    struct mmu_mode mode;
    struct space_stats stats;
    struct mmu_range *range;
    size_t ranges, range_capacity;
    uint64_t user, kernel, write_execute, accessed, dirty; /* pages */
    /* KVM_TRANSLATE: addresses asked for, and how many were not as the walker says. */
    uint64_t checked, holes_checked, differ;
    struct mmu_difference {
        uint64_t gva, walker, kvm; /* UINT64_MAX: not mapped */
    } difference[8];
    bool costed;
    struct shadow_census census;
};

struct mmu_space_options {
    uint64_t limit;      /* entries to read of one space */
    uint64_t check;      /* every how manyth page is asked of KVM; 0: none */
    unsigned host_shift; /* host pages */
    enum shadow_policy policy;
    bool quiet;
};

/* Walk the space at @cr3 with the registers of @vcpu. 0 or -errno, guest->error filled. */
int mmu_space_read(struct mmu_guest *guest, struct page_image *image,
                   const struct mmu_space_options *options, uint64_t cr3,
                   struct mmu_space *space);
/* Ask KVM about each page, and about the addresses beside each range. */
int mmu_space_check(struct mmu_guest *guest, struct page_image *image,
                    const struct mmu_space_options *options, struct mmu_space *space);
/* Shadow @count spaces with one MMU, on a copy of memory; the totals to @census. */
int mmu_space_cost(struct mmu_guest *guest, struct page_image *image,
                   const struct mmu_space_options *options,
                   const struct mmu_space *spaces, size_t count,
                   struct shadow_census *census);
void mmu_space_free(struct mmu_space *space);

/* ---- Reports (space_report.c) ---- */

void mmu_space_print(FILE *out, const struct mmu_space *space, bool ranges);
json_t *mmu_space_json(const struct mmu_space *space, bool ranges);
void mmu_census_print(FILE *out, const struct shadow_census *census);
json_t *mmu_census_json(const struct shadow_census *census);

#endif
