/* SPDX-License-Identifier: MIT */
/* Placing a loader's pieces in guest memory without overlap. */
#include "vmm/boot/layout.h"

#include <errno.h>
#include <inttypes.h>

#include "base/error.h"

void layout_init(struct layout *layout, const struct board *board)
{
    memset(layout, 0, sizeof(*layout));
    layout->map_count = memory_map_build(board, layout->map);
}

static int layout_insert(struct layout *layout, gpa base, uint64_t size, const char *what,
                         struct umbra_error *error)
{
    size_t at = layout->claim_count;

    if (layout->claim_count == LAYOUT_MAX_CLAIMS) {
        return error_set(error, UMBRA_ERROR_CONFIG, E2BIG,
                         "it has more than %d separate pieces to load; link it into "
                         "fewer segments",
                         LAYOUT_MAX_CLAIMS);
    }
    while (at > 0 && layout->claims[at - 1].base > base) {
        layout->claims[at] = layout->claims[at - 1];
        at--;
    }
    layout->claims[at] = (struct layout_claim){ base, size, what };
    layout->claim_count++;
    return 0;
}

/* The usable range that holds @addr, or NULL. */
static const struct memory_range *layout_usable(const struct layout *layout, gpa addr)
{
    for (size_t i = 0; i < layout->map_count; i++) {
        const struct memory_range *range = &layout->map[i];

        if (range->type == MEMORY_USABLE && addr >= range->base &&
            addr - range->base < range->size) {
            return range;
        }
    }
    return NULL;
}

int layout_claim(struct layout *layout, gpa base, uint64_t size, const char *what,
                 struct umbra_error *error)
{
    const struct memory_range *range = layout_usable(layout, base);

    if (size == 0 || base + size < base) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "%s has an impossible extent: 0x%" PRIx64 " bytes at 0x%" PRIx64,
                         what, size, base);
    }
    if (range == NULL || size > range->size - (base - range->base)) {
        gpa end = range != NULL ? range->base + range->size : 0;

        return error_set(error, UMBRA_ERROR_CONFIG, ENOMEM,
                         "%s needs guest memory 0x%" PRIx64 "..0x%" PRIx64
                         " but %s 0x%" PRIx64
                         "; give the guest more memory or link the image elsewhere",
                         what, base, base + size - 1,
                         range != NULL ? "usable memory there ends at"
                                       : "there is no usable memory at",
                         range != NULL ? end : base);
    }
    for (size_t i = 0; i < layout->claim_count; i++) {
        const struct layout_claim *claim = &layout->claims[i];

        if (base < claim->base + claim->size && claim->base < base + size) {
            return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                             "%s (0x%" PRIx64 "..0x%" PRIx64 ") overlaps %s (0x%" PRIx64
                             "..0x%" PRIx64 ")",
                             what, base, base + size - 1, claim->what, claim->base,
                             claim->base + claim->size - 1);
        }
    }
    return layout_insert(layout, base, size, what, error);
}

/* The claim that [base, base+size) runs into, or NULL. */
static const struct layout_claim *layout_obstacle(const struct layout *layout, gpa base,
                                                  uint64_t size)
{
    for (size_t i = 0; i < layout->claim_count; i++) {
        const struct layout_claim *claim = &layout->claims[i];

        if (base < claim->base + claim->size && claim->base < base + size) {
            return claim;
        }
    }
    return NULL;
}

/* The lowest or highest fit of @wish within [min, max), all of it usable; 0 is none. */
static gpa layout_fit(const struct layout *layout, const struct layout_wish *wish,
                      gpa min, gpa max)
{
    const struct layout_claim *claim;
    gpa base;

    if (min >= max || max - min < wish->size) {
        return 0;
    }
    base = wish->top ? align_down(max - wish->size, wish->align)
                     : align_up(min, wish->align);
    while (base >= min && base <= max - wish->size) {
        claim = layout_obstacle(layout, base, wish->size);
        if (claim == NULL) {
            return base;
        }
        if (!wish->top) {
            base = align_up(claim->base + claim->size, wish->align);
        } else if (claim->base < min + wish->size) {
            return 0;
        } else {
            base = align_down(claim->base - wish->size, wish->align);
        }
    }
    return 0;
}

int layout_place(struct layout *layout, const struct layout_wish *wish, gpa *base,
                 struct umbra_error *error)
{
    gpa found = 0;

    for (size_t i = 0; i < layout->map_count; i++) {
        const struct memory_range *range =
            &layout->map[wish->top ? layout->map_count - 1 - i : i];
        gpa min = range->base > wish->min ? range->base : wish->min;
        gpa end = range->base + range->size;
        gpa max = end < wish->max ? end : wish->max;

        /* Never page 0: it reads as "none" in every boot protocol. */
        if (range->type == MEMORY_USABLE) {
            found = layout_fit(layout, wish, min > 4096 ? min : 4096, max);
        }
        if (found != 0) {
            *base = found;
            return layout_insert(layout, found, wish->size, wish->what, error);
        }
    }
    return error_set(error, UMBRA_ERROR_CONFIG, ENOMEM,
                     "%s (0x%" PRIx64 " bytes) finds no room in guest memory between "
                     "0x%" PRIx64 " and 0x%" PRIx64 "; give the guest more memory",
                     wish->what, wish->size, wish->min, wish->max);
}

gpa layout_end(const struct layout *layout, gpa limit)
{
    gpa end = 0;

    for (size_t i = 0; i < layout->claim_count; i++) {
        const struct layout_claim *claim = &layout->claims[i];

        if (claim->base < limit && claim->base + claim->size > end) {
            end = claim->base + claim->size;
        }
    }
    return end;
}
