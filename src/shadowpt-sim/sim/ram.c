/* SPDX-License-Identifier: MIT */
/* RAM of a simulated guest: lazily backed mappings behind the memory interface. */
#include "shadowpt-sim/memory.h"

#include <errno.h>
#include <sys/mman.h>

static const struct sim_ram_region *ram_find(const struct sim_ram *ram, uint64_t gpa)
{
    for (unsigned i = 0; i < ram->count; i++) {
        const struct sim_ram_region *region = &ram->region[i];

        if (gpa - region->gpa < region->size) {
            return region;
        }
    }
    return NULL;
}

static int ram_load(void *context, uint64_t gpa, unsigned size, uint64_t *value)
{
    const struct sim_ram_region *region = ram_find(context, gpa);
    const uint8_t *p;

    if (region == NULL) {
        return -EFAULT;
    }
    p = region->host + (gpa - region->gpa);
    switch (size) {
    case 8:
        *value =
            le64toh(__atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED));
        break;
    case 4:
        *value =
            le32toh(__atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_RELAXED));
        break;
    case 2:
        *value =
            le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED));
        break;
    default:
        *value = __atomic_load_n(p, __ATOMIC_RELAXED);
        break;
    }
    return 0;
}

static int ram_store(void *context, uint64_t gpa, unsigned size, uint64_t value)
{
    const struct sim_ram_region *region = ram_find(context, gpa);
    uint8_t *p;

    if (region == NULL || region->readonly) {
        return -EFAULT;
    }
    p = region->host + (gpa - region->gpa);
    switch (size) {
    case 8:
        __atomic_store_n((uint64_t *)(void *)p, htole64(value), __ATOMIC_RELAXED);
        break;
    case 4:
        __atomic_store_n((uint32_t *)(void *)p, htole32((uint32_t)value),
                         __ATOMIC_RELAXED);
        break;
    case 2:
        __atomic_store_n((uint16_t *)(void *)p, htole16((uint16_t)value),
                         __ATOMIC_RELAXED);
        break;
    default:
        __atomic_store_n(p, (uint8_t)value, __ATOMIC_RELAXED);
        break;
    }
    return 0;
}

static int ram_cmpxchg(void *context, uint64_t gpa, unsigned size, uint64_t expected,
                       uint64_t desired)
{
    const struct sim_ram_region *region = ram_find(context, gpa);
    uint8_t *p;
    bool done;

    if (region == NULL || region->readonly) {
        return -EFAULT;
    }
    p = region->host + (gpa - region->gpa);
    if (size == 8) {
        uint64_t old = htole64(expected);

        done = __atomic_compare_exchange_n((uint64_t *)(void *)p, &old, htole64(desired),
                                           false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    } else if (size == 4) {
        uint32_t old = htole32((uint32_t)expected);

        done = __atomic_compare_exchange_n((uint32_t *)(void *)p, &old,
                                           htole32((uint32_t)desired), false,
                                           __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    } else {
        return -EINVAL;
    }
    return done ? 0 : -EAGAIN;
}

static const struct mmu_memory_ops ram_ops = {
    .load = ram_load,
    .store = ram_store,
    .cmpxchg = ram_cmpxchg,
};

void sim_ram_init(struct sim_ram *ram)
{
    memset(ram, 0, sizeof(*ram));
    ram->memory.ops = &ram_ops;
    ram->memory.context = ram;
}

int sim_ram_add(struct sim_ram *ram, uint64_t gpa, uint64_t size, bool readonly)
{
    struct sim_ram_region *region = &ram->region[ram->count];
    void *host;

    if (((gpa | size) & 0xfff) != 0 || size == 0 || gpa + size < gpa) {
        return -EINVAL;
    }
    if (ram->count == SIM_RAM_REGIONS) {
        return -ENOSPC;
    }
    for (unsigned i = 0; i < ram->count; i++) {
        if (gpa < ram->region[i].gpa + ram->region[i].size &&
            ram->region[i].gpa < gpa + size) {
            return -EEXIST;
        }
    }
    host = mmap(NULL, size, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (host == MAP_FAILED) {
        return -ENOMEM;
    }
    *region = (struct sim_ram_region){ gpa, size, host, readonly };
    ram->count++;
    return 0;
}

int sim_ram_remove(struct sim_ram *ram, uint64_t gpa)
{
    for (unsigned i = 0; i < ram->count; i++) {
        if (ram->region[i].gpa == gpa) {
            munmap(ram->region[i].host, ram->region[i].size);
            ram->region[i] = ram->region[--ram->count];
            return 0;
        }
    }
    return -ENOENT;
}

void sim_ram_destroy(struct sim_ram *ram)
{
    if (ram == NULL) {
        return;
    }
    while (ram->count > 0) {
        sim_ram_remove(ram, ram->region[0].gpa);
    }
}

void *sim_ram_host(const struct sim_ram *ram, uint64_t gpa, uint64_t size)
{
    const struct sim_ram_region *region = ram_find(ram, gpa);

    if (region == NULL || size > region->size - (gpa - region->gpa)) {
        return NULL;
    }
    return region->host + (gpa - region->gpa);
}
