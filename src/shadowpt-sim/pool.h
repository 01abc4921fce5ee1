/* SPDX-License-Identifier: MIT */
/* A pool of page-table pages: one window of host memory with consecutive HPAs, so that
 * the address in an entry leads to the table by arithmetic alone. */
#ifndef SHADOWPT_SIM_POOL_H
#define SHADOWPT_SIM_POOL_H

#include "shadowpt-sim/paging.h"

#define POOL_NONE UINT32_MAX

struct table_pool {
    uint64_t *base; /* 512 words a page */
    uint64_t hpa;   /* of page 0 */
    uint32_t pages; /* capacity */
    uint32_t fresh; /* pages below were handed out at least once */
    uint32_t in_use;
    uint32_t free_head; /* list through the pages' first words */
    bool owned;         /* we mapped it */
};

/* @base NULL: map memory, used only as pages are handed out. 0, -EINVAL or -ENOMEM. */
int pool_init(struct table_pool *pool, uint32_t pages, void *base, uint64_t hpa);
void pool_destroy(struct table_pool *pool);

/* A zeroed page's index, POOL_NONE when all are in use. */
uint32_t pool_alloc(struct table_pool *pool);
void pool_free(struct table_pool *pool, uint32_t index);

static inline uint64_t *pool_page(const struct table_pool *pool, uint32_t index)
{
    return pool->base + (size_t)index * 512;
}

static inline uint64_t pool_hpa(const struct table_pool *pool, uint32_t index)
{
    return pool->hpa + ((uint64_t)index << MMU_PAGE_SHIFT);
}

/* The table an entry points at; the entry's address must be one of pool_hpa()'s. */
static inline uint64_t *pool_table(const struct table_pool *pool, uint64_t entry)
{
    return pool->base + ((entry & PTE_ADDRESS_MASK) - pool->hpa) / sizeof(uint64_t);
}

static inline uint32_t pool_index(const struct table_pool *pool, uint64_t entry)
{
    return (uint32_t)(((entry & PTE_ADDRESS_MASK) - pool->hpa) >> MMU_PAGE_SHIFT);
}

#endif
