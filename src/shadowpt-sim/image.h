/* SPDX-License-Identifier: MIT */
/* A sparse copy of guest memory in pages: fetched from where the guest is when first
 * read, and then the caller's own, so that looking at a guest changes nothing there. */
#ifndef SHADOWPT_SIM_IMAGE_H
#define SHADOWPT_SIM_IMAGE_H

#include "shadowpt-sim/memory.h"

struct page_image {
    struct mmu_memory memory; /* hand &image->memory to the MMUs */
    /* The contents of the page at @gpa into @page (4 KiB): 0, or -EFAULT where no memory
     * is. NULL: there are only the pages that image_page() made. */
    int (*fetch)(void *context, uint64_t gpa, void *page);
    void *context;
    struct image_slot {
        uint64_t key;   /* frame + 1; 0: empty */
        uint64_t *page; /* NULL: no memory there */
    } * slot;
    uint32_t capacity, count; /* capacity: a power of two, or 0 */
};

void image_init(struct page_image *image,
                int (*fetch)(void *context, uint64_t gpa, void *page), void *context);
void image_destroy(struct page_image *image);

/* A copy of @below as it is now and will be fetched; @below must outlive it. */
void image_init_over(struct page_image *image, struct page_image *below);

/* The page at @gpa as 512 little-endian words: NULL if it is nowhere. */
const uint64_t *image_find(struct page_image *image, uint64_t gpa);
/* The same for writing, made of zeroes if it is nowhere; NULL: out of memory. */
uint64_t *image_page(struct page_image *image, uint64_t gpa);

#endif
