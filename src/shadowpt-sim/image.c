/* SPDX-License-Identifier: MIT */
/* Sparse copies of guest memory: a hash table of pages. */
#include "shadowpt-sim/image.h"

#include <errno.h>
#include <stdlib.h>

#include "shadowpt-sim/paging.h"

enum { FIRST_CAPACITY = 256 };

static struct image_slot *slot_of(struct image_slot *slots, uint32_t capacity,
                                  uint64_t key)
{
    uint32_t at = (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 32) & (capacity - 1);

    while (slots[at].key != 0 && slots[at].key != key) {
        at = (at + 1) & (capacity - 1);
    }
    return &slots[at];
}

static int image_grow(struct page_image *image)
{
    uint32_t capacity = image->capacity != 0 ? 2 * image->capacity : FIRST_CAPACITY;
    struct image_slot *slots = calloc(capacity, sizeof(*slots));

    if (slots == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < image->capacity; i++) {
        if (image->slot[i].key != 0) {
            *slot_of(slots, capacity, image->slot[i].key) = image->slot[i];
        }
    }
    free(image->slot);
    image->slot = slots;
    image->capacity = capacity;
    return 0;
}

/* The slot of @gpa's frame, filled by a fetch; NULL: out of memory. */
static struct image_slot *image_get(struct page_image *image, uint64_t gpa)
{
    uint64_t key = (gpa >> MMU_PAGE_SHIFT) + 1;
    struct image_slot *slot;

    if (image->capacity != 0) {
        slot = slot_of(image->slot, image->capacity, key);
        if (slot->key != 0) {
            return slot;
        }
    }
    if (2 * (image->count + 1) > image->capacity && image_grow(image) != 0) {
        return NULL;
    }
    slot = slot_of(image->slot, image->capacity, key);
    if (image->fetch != NULL) {
        slot->page = malloc(MMU_PAGE_SIZE);
        if (slot->page == NULL) {
            return NULL;
        }
        if (image->fetch(image->context, (key - 1) << MMU_PAGE_SHIFT, slot->page) != 0) {
            free(slot->page);
            slot->page = NULL;
        }
    }
    slot->key = key;
    image->count++;
    return slot;
}

const uint64_t *image_find(struct page_image *image, uint64_t gpa)
{
    struct image_slot *slot = image_get(image, gpa);

    return slot != NULL ? slot->page : NULL;
}

uint64_t *image_page(struct page_image *image, uint64_t gpa)
{
    struct image_slot *slot = image_get(image, gpa);

    if (slot != NULL && slot->page == NULL) {
        slot->page = calloc(1, MMU_PAGE_SIZE);
    }
    return slot != NULL ? slot->page : NULL;
}

/* ---- The memory interface -------------------------------------------------------------- */

static int image_load(void *context, uint64_t gpa, unsigned size, uint64_t *value)
{
    const uint64_t *page = image_find(context, gpa);
    uint64_t word;

    if (page == NULL) {
        return -EFAULT;
    }
    word = le64toh(page[(gpa & (MMU_PAGE_SIZE - 1)) / 8]) >> (8 * (gpa & 7));
    *value = size == 8 ? word : word & (((uint64_t)1 << (8 * size)) - 1);
    return 0;
}

static int image_store(void *context, uint64_t gpa, unsigned size, uint64_t value)
{
    struct image_slot *slot = image_get(context, gpa);
    uint64_t mask = size == 8 ? UINT64_MAX : ((uint64_t)1 << (8 * size)) - 1, *word;
    unsigned shift = 8 * (gpa & 7);

    if (slot == NULL || slot->page == NULL) {
        return -EFAULT;
    }
    word = &slot->page[(gpa & (MMU_PAGE_SIZE - 1)) / 8];
    *word = htole64((le64toh(*word) & ~(mask << shift)) | (value & mask) << shift);
    return 0;
}

static int image_cmpxchg(void *context, uint64_t gpa, unsigned size, uint64_t expected,
                         uint64_t desired)
{
    uint64_t value;

    if (image_load(context, gpa, size, &value) != 0) {
        return -EFAULT;
    }
    return value != expected ? -EAGAIN : image_store(context, gpa, size, desired);
}

/* ---- Life ------------------------------------------------------------------------------ */

void image_init(struct page_image *image,
                int (*fetch)(void *context, uint64_t gpa, void *page), void *context)
{
    static const struct mmu_memory_ops ops = { image_load, image_store, image_cmpxchg };

    *image = (struct page_image){
        .memory = { &ops, image },
        .fetch = fetch,
        .context = context,
    };
}

static int fetch_below(void *context, uint64_t gpa, void *page)
{
    const uint64_t *below = image_find(context, gpa);

    if (below == NULL) {
        return -EFAULT;
    }
    memcpy(page, below, MMU_PAGE_SIZE);
    return 0;
}

void image_init_over(struct page_image *image, struct page_image *below)
{
    image_init(image, fetch_below, below);
}

void image_destroy(struct page_image *image)
{
    for (uint32_t i = 0; i < image->capacity; i++) {
        free(image->slot[i].page);
    }
    free(image->slot);
    *image = (struct page_image){ 0 };
}
