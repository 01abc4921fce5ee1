/* SPDX-License-Identifier: MIT */
/* Guest memory as the MMU sees it: naturally aligned words at guest-physical addresses.
 */
#ifndef SHADOWPT_SIM_MEMORY_H
#define SHADOWPT_SIM_MEMORY_H

#include "base/util.h"

#include <umbra/umbra.h>

/* Sizes are 1, 2, 4 or 8 and @gpa is a multiple of the size. Each call is one atomic
 * access, as if by a lock-free load, store or compare-and-swap of the host. */
struct mmu_memory_ops {
    /* 0, or -EFAULT where no RAM or ROM is. */
    int (*load)(void *context, uint64_t gpa, unsigned size, uint64_t *value);
    /* 0, or -EFAULT where no RAM is. */
    int (*store)(void *context, uint64_t gpa, unsigned size, uint64_t value);
    /* 0 when exchanged, -EAGAIN when the word was not @expected, -EFAULT where no RAM is.
     */
    int (*cmpxchg)(void *context, uint64_t gpa, unsigned size, uint64_t expected,
                   uint64_t desired);
};

struct mmu_memory {
    const struct mmu_memory_ops *ops;
    void *context;
};

static inline int mmu_load(const struct mmu_memory *memory, uint64_t gpa, unsigned size,
                           uint64_t *value)
{
    return memory->ops->load(memory->context, gpa, size, value);
}

static inline int mmu_store(const struct mmu_memory *memory, uint64_t gpa, unsigned size,
                            uint64_t value)
{
    return memory->ops->store(memory->context, gpa, size, value);
}

static inline int mmu_cmpxchg(const struct mmu_memory *memory, uint64_t gpa,
                              unsigned size, uint64_t expected, uint64_t desired)
{
    return memory->ops->cmpxchg(memory->context, gpa, size, expected, desired);
}

/* ---- RAM of a simulated guest ---------------------------------------------------- */

#define SIM_RAM_REGIONS 16

/* Zero-filled regions; host memory is used only for pages that were written. */
struct sim_ram {
    struct mmu_memory memory; /* hand &ram->memory to the MMUs */
    unsigned count;
    struct sim_ram_region {
        uint64_t gpa, size;
        uint8_t *host;
        bool readonly;
    } region[SIM_RAM_REGIONS];
};

void sim_ram_init(struct sim_ram *ram);
/* Page-aligned, not overlapping; -EINVAL, -EEXIST, -ENOSPC or -ENOMEM. */
int sim_ram_add(struct sim_ram *ram, uint64_t gpa, uint64_t size, bool readonly);
/* Forget the region that starts at @gpa; -ENOENT. */
int sim_ram_remove(struct sim_ram *ram, uint64_t gpa);
void sim_ram_destroy(struct sim_ram *ram);

/* The host bytes behind [gpa, gpa + size), NULL unless all of it is in one region. */
void *sim_ram_host(const struct sim_ram *ram, uint64_t gpa, uint64_t size);

#endif
