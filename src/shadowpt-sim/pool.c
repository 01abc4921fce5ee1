/* SPDX-License-Identifier: MIT */
/* The pool of page-table pages: a window, a mark of what was ever used, and a free list.
 */
#include "shadowpt-sim/pool.h"

#include <errno.h>
#include <sys/mman.h>

int pool_init(struct table_pool *pool, uint32_t pages, void *base, uint64_t hpa)
{
    memset(pool, 0, sizeof(*pool));
    if (pages == 0 || (hpa & (MMU_PAGE_SIZE - 1)) != 0 ||
        hpa + ((uint64_t)pages << MMU_PAGE_SHIFT) > PTE_ADDRESS_MASK) {
        return -EINVAL;
    }
    if (base == NULL) {
        base = mmap(NULL, (size_t)pages << MMU_PAGE_SHIFT, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) {
            return -ENOMEM;
        }
        pool->owned = true;
    }
    pool->base = base;
    pool->hpa = hpa;
    pool->pages = pages;
    pool->free_head = POOL_NONE;
    return 0;
}

void pool_destroy(struct table_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    if (pool->owned) {
        munmap(pool->base, (size_t)pool->pages << MMU_PAGE_SHIFT);
    }
    memset(pool, 0, sizeof(*pool));
}

uint32_t pool_alloc(struct table_pool *pool)
{
    uint32_t index = pool->free_head;

    if (index != POOL_NONE) {
        pool->free_head = (uint32_t)(pool_page(pool, index)[0] >> 32);
    } else if (pool->fresh < pool->pages) {
        index = pool->fresh++;
    } else {
        return POOL_NONE;
    }
    pool->in_use++;
    memset(pool_page(pool, index), 0, MMU_PAGE_SIZE);
    return index;
}

/* The link must not look like a present entry to a processor that still walks the page.
 */
void pool_free(struct table_pool *pool, uint32_t index)
{
    uint64_t *page = pool_page(pool, index);

    memset(page, 0, MMU_PAGE_SIZE);
    page[0] = (uint64_t)pool->free_head << 32;
    pool->free_head = index;
    pool->in_use--;
}
