/* SPDX-License-Identifier: MIT */
/*
 * Where a loader puts things: every piece that goes into guest memory is claimed here
 * first, so that no two overlap and none lies outside usable RAM.
 */
#ifndef VMM_BOOT_LAYOUT_H
#define VMM_BOOT_LAYOUT_H

#include "memory/guest_mem.h"
#include "vmm/board/memory_map.h"

enum { LAYOUT_MAX_CLAIMS = 64 };

struct layout_claim {
    gpa base;
    uint64_t size;
    const char *what; /* static text */
};

struct layout {
    struct memory_range map[MEMORY_MAP_MAX];
    size_t map_count;
    struct layout_claim claims[LAYOUT_MAX_CLAIMS]; /* sorted by base */
    size_t claim_count;
};

void layout_init(struct layout *layout, const struct board *board);

/*
 * Claim [base, base+size) for @what (static text). The message of an error says what it
 * collides with or where RAM ends; the caller adds the file's name.
 */
int layout_claim(struct layout *layout, gpa base, uint64_t size, const char *what,
                 struct umbra_error *error);

struct layout_wish {
    uint64_t size, align;
    gpa min, max; /* the piece lies within [min, max) */
    bool top;     /* the highest place instead of the lowest */
    const char *what;
};

/* Find a place for @wish and claim it. */
int layout_place(struct layout *layout, const struct layout_wish *wish, gpa *base,
                 struct umbra_error *error);

/* The end of the highest claim below @limit; 0 when there is none. */
gpa layout_end(const struct layout *layout, gpa limit);

#endif
