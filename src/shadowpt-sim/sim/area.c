/* SPDX-License-Identifier: MIT */
/* The simulated guest's list of areas: which addresses a process may use, and how. */
#include "shadowpt-sim/sim/internal.h"

#include <errno.h>
#include <stdlib.h>

/* The first area that ends above @gva. */
static unsigned area_position(const struct sim_process *process, uint64_t gva)
{
    unsigned low = 0, high = process->areas;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (process->area[middle].end > gva) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

struct sim_area *sim_area_find(const struct sim_process *process, uint64_t gva)
{
    unsigned i = area_position(process, gva);

    return i < process->areas && process->area[i].start <= gva ? &process->area[i] : NULL;
}

static int area_reserve(struct sim_process *process, unsigned more)
{
    if (process->areas + more > process->capacity) {
        unsigned capacity = 2 * process->capacity + 16;
        struct sim_area *grown = realloc(process->area, capacity * sizeof(*grown));

        if (grown == NULL) {
            return -ENOMEM;
        }
        process->area = grown;
        process->capacity = capacity;
    }
    return 0;
}

static void area_insert(struct sim_process *process, unsigned at, struct sim_area area)
{
    memmove(&process->area[at + 1], &process->area[at],
            (process->areas - at) * sizeof(area));
    process->area[at] = area;
    process->areas++;
}

int sim_area_set(struct sim_process *process, uint64_t start, uint64_t end, int flags)
{
    unsigned i;
    int err = area_reserve(process, 2);

    if (err != 0) {
        return err;
    }
    i = area_position(process, start);
    if (i < process->areas && process->area[i].start < start) {
        struct sim_area below = process->area[i];

        below.end = start;
        process->area[i].start = start;
        area_insert(process, i++, below);
    }
    while (i < process->areas && process->area[i].end <= end) {
        process->areas--;
        memmove(&process->area[i], &process->area[i + 1],
                (process->areas - i) * sizeof(process->area[i]));
    }
    if (i < process->areas && process->area[i].start < end) {
        process->area[i].start = end;
    }
    if (flags < 0) {
        return 0;
    }
    if (i > 0 && process->area[i - 1].end == start &&
        process->area[i - 1].flags == flags) {
        process->area[i - 1].end = end;
    } else {
        area_insert(process, i, (struct sim_area){ start, end, (uint8_t)flags });
    }
    return 0;
}
