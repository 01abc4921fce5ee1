/* SPDX-License-Identifier: MIT */
/* An address space of devices: two sorted arrays, ranges and those nested in them. */
#include "devices/bus.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"

struct bus_range {
    uint64_t base;
    uint64_t last; /* inclusive, so a range may end at 2^64 */
    struct device *device;
    unsigned region;
};

struct bus_level {
    struct bus_range *ranges; /* sorted by base, disjoint */
    size_t count, capacity;
};

struct bus {
    pthread_rwlock_t lock;      /* leaf: never held while a device is called */
    struct bus_level levels[2]; /* 0: ordinary, 1: nested, which wins */
    char name[16];
};

int bus_create(const char *name, struct bus **bus)
{
    struct bus *new = calloc(1, sizeof(*new));

    if (new == NULL) {
        return -ENOMEM;
    }
    pthread_rwlock_init(&new->lock, NULL);
    strncpy(new->name, name, sizeof(new->name) - 1);
    *bus = new;
    return 0;
}

void bus_destroy(struct bus *bus)
{
    if (bus != NULL) {
        free(bus->levels[0].ranges);
        free(bus->levels[1].ranges);
        pthread_rwlock_destroy(&bus->lock);
        free(bus);
    }
}

/* The index of the first range whose base is above @address. */
static size_t level_upper(const struct bus_level *level, uint64_t address)
{
    size_t low = 0, high = level->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (level->ranges[middle].base <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static const struct bus_range *level_find(const struct bus_level *level, uint64_t address,
                                          uint64_t last)
{
    size_t i = level_upper(level, address);

    if (i == 0 || last > level->ranges[i - 1].last) {
        return NULL;
    }
    return &level->ranges[i - 1];
}

static int level_insert(struct bus_level *level, const struct bus_range *range)
{
    size_t i = level_upper(level, range->base);

    if ((i > 0 && level->ranges[i - 1].last >= range->base) ||
        (i < level->count && level->ranges[i].base <= range->last)) {
        return -EEXIST;
    }
    if (level->count == level->capacity) {
        size_t capacity = level->capacity != 0 ? level->capacity * 2 : 16;
        struct bus_range *ranges = reallocarray(level->ranges, capacity, sizeof(*ranges));

        if (ranges == NULL) {
            return -ENOMEM;
        }
        level->ranges = ranges;
        level->capacity = capacity;
    }
    memmove(&level->ranges[i + 1], &level->ranges[i],
            (level->count - i) * sizeof(*level->ranges));
    level->ranges[i] = *range;
    level->count++;
    return 0;
}

static int bus_insert(struct bus *bus, unsigned level, const struct bus_range *range)
{
    int rc;

    pthread_rwlock_wrlock(&bus->lock);
    rc = level_insert(&bus->levels[level], range);
    pthread_rwlock_unlock(&bus->lock);
    return rc;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t size, struct device *device,
            unsigned region)
{
    struct bus_range range = { base, base + (size - 1), device, region };

    if (size == 0 || range.last < base) {
        return -EINVAL;
    }
    return bus_insert(bus, 0, &range);
}

int bus_add_nested(struct bus *bus, uint64_t base, uint64_t size, struct device *device,
                   unsigned region)
{
    struct bus_range range = { base, base + (size - 1), device, region };

    if (size == 0 || range.last < base) {
        return -EINVAL;
    }
    return bus_insert(bus, 1, &range);
}

int bus_remove(struct bus *bus, uint64_t base)
{
    int rc = -ENOENT;

    pthread_rwlock_wrlock(&bus->lock);
    for (unsigned l = ARRAY_SIZE(bus->levels); l-- > 0 && rc != 0;) {
        struct bus_level *level = &bus->levels[l];
        size_t i = level_upper(level, base);

        if (i > 0 && level->ranges[i - 1].base == base) {
            memmove(&level->ranges[i - 1], &level->ranges[i],
                    (level->count - i) * sizeof(*level->ranges));
            level->count--;
            rc = 0;
        }
    }
    pthread_rwlock_unlock(&bus->lock);
    return rc;
}

/* The innermost range that holds [address, address + size); a copy, since the array may
 * move once the lock is dropped (devices themselves stay). */
static bool bus_lookup(struct bus *bus, uint64_t address, unsigned size,
                       struct bus_range *range)
{
    uint64_t last = address + (size - 1);
    const struct bus_range *found = NULL;

    if (last < address) {
        return false;
    }
    pthread_rwlock_rdlock(&bus->lock);
    if (bus->levels[1].count != 0) {
        found = level_find(&bus->levels[1], address, last);
    }
    if (found == NULL) {
        found = level_find(&bus->levels[0], address, last);
    }
    if (found != NULL) {
        *range = *found;
    }
    pthread_rwlock_unlock(&bus->lock);
    return found != NULL;
}

static uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
}

/* Is this access, by a planned fault, to reach nobody? */
static bool access_fails(const struct device *device,
                         enum umbra_fault_direction direction)
{
    struct fault_hits hits;

    return device->env != NULL && device->fault_point == FAULT_ACCESS &&
           faults_draw(device->env->faults, device->id, FAULT_ACCESS, direction, 0,
                       &hits) &&
           fault_hit(&hits, UMBRA_FAULT_IO_ERROR);
}

bool bus_read(struct bus *bus, uint64_t address, unsigned size, uint64_t *value)
{
    struct bus_range range;
    struct device *device;

    *value = ones(size);
    if (!bus_lookup(bus, address, size, &range)) {
        return false;
    }
    device = range.device;
    if (device->ops->read != NULL && !access_fails(device, UMBRA_FAULT_IN)) {
        pthread_mutex_lock(&device->lock);
        *value &= device->ops->read(device, range.region, address - range.base, size);
        pthread_mutex_unlock(&device->lock);
    }
    return true;
}

bool bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
    struct bus_range range;
    struct device *device;

    if (!bus_lookup(bus, address, size, &range)) {
        return false;
    }
    device = range.device;
    if (device->ops->write != NULL && !access_fails(device, UMBRA_FAULT_OUT)) {
        pthread_mutex_lock(&device->lock);
        device->ops->write(device, range.region, address - range.base, size,
                           value & ones(size));
        pthread_mutex_unlock(&device->lock);
    }
    return true;
}

struct device *bus_find(struct bus *bus, uint64_t address, uint64_t *base)
{
    struct bus_range range;

    if (!bus_lookup(bus, address, 1, &range)) {
        return NULL;
    }
    if (base != NULL) {
        *base = range.base;
    }
    return range.device;
}
