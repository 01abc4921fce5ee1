/* SPDX-License-Identifier: MIT */
/* The simulated guest's OS: mmap, munmap and mprotect of ranges. */
#include "shadowpt-sim/sim/os_internal.h"

#include <errno.h>

/* Beyond as many pages Linux reloads CR3 (tlb_single_page_flush_ceiling). */
#define OS_INVLPG_MAX 33

/* The pages whose entries changed. */
struct changes {
    uint64_t gva[OS_INVLPG_MAX];
    uint64_t count;
    bool tables; /* some went away */
};

static void changes_add(struct changes *changes, uint64_t gva)
{
    if (changes->count < OS_INVLPG_MAX) {
        changes->gva[changes->count] = gva;
    }
    changes->count++;
}

static int changes_flush(struct sim_machine *machine, const struct changes *changes)
{
    if (changes->tables || changes->count > OS_INVLPG_MAX) {
        return os_flush(machine);
    }
    for (unsigned i = 0; i < changes->count; i++) {
        sim_cpu_invlpg(machine, changes->gva[i]);
    }
    return 0;
}

/* ---- Entries ---------------------------------------------------------------------------- */

static bool range_of(const struct sim_event *event, uint64_t *start, uint64_t *end)
{
    *start = align_down(event->address, MMU_PAGE_SIZE);
    *end = *start + ((uint64_t)event->pages << MMU_PAGE_SHIFT);
    return event->pages != 0 && *end <= (uint64_t)1 << 47;
}

/* Free the table that @gva's entry of @level leads to, if it is empty. */
static int table_reap(struct sim_machine *machine, uint64_t gva, unsigned level,
                      bool *reaped)
{
    unsigned found = level;
    uint64_t at, entry;
    const uint64_t *table;
    int err = os_entry_find(machine, os_now(machine)->root, gva, &found, false, &at);

    *reaped = false;
    entry = err == 0 && found == level ? os_table_load(machine, at) : 0;
    if (err != 0 || !(entry & PTE_P) || (entry & PTE_PS)) {
        return err;
    }
    table = sim_ram_host(&machine->ram, entry & PTE_ADDRESS_MASK, MMU_PAGE_SIZE);
    for (unsigned i = 0; i < 512; i++) {
        if (table[i] != 0) {
            return 0;
        }
    }
    *reaped = true;
    os_table_free(&machine->os, entry & PTE_ADDRESS_MASK);
    return sim_cpu_store(machine, at, 0);
}

/* Clear the entry of @gva, or with @keep set it to that area's rights. A large page that
 * the range has only a part of goes as a whole: pages have no contents here, and what is
 * still wanted of it faults in again. *@span: how far the entry reaches. */
static int page_change(struct sim_machine *machine, uint64_t gva, uint64_t end,
                       const int *keep, struct changes *changes, uint64_t *span)
{
    unsigned level = 1;
    uint64_t at, entry, changed = 0, first;
    int err = os_entry_find(machine, os_now(machine)->root, gva, &level, false, &at);

    *span = (uint64_t)1 << (12 + 9 * (level - 1));
    entry = err == 0 ? os_table_load(machine, at) : 0;
    if (err != 0 || !(entry & PTE_P)) {
        return err;
    }
    first = align_down(gva, *span);
    if (keep != NULL && *keep != 0 &&
        (level == 1 || (first == gva && gva + *span <= end))) {
        bool shared = machine->os.refs[os_leaf_frame(entry, level) >> MMU_PAGE_SHIFT] > 1;

        changed = (entry & ~(PTE_W | PTE_NX)) |
                  (os_leaf_bits((uint8_t)*keep, false) & ~(shared ? PTE_W : (uint64_t)0));
        if (changed == entry) {
            return 0;
        }
    } else {
        os_page_free(&machine->os, entry, level);
    }
    changes_add(changes, gva);
    return sim_cpu_store(machine, at, changed);
}

static int range_change(struct sim_machine *machine, uint64_t start, uint64_t end,
                        const int *keep)
{
    struct changes changes = { .count = 0 };
    uint64_t span, gva;
    bool reaped;
    int err = 0;

    for (gva = start; gva < end && err == 0; gva = align_down(gva, span) + span) {
        err = page_change(machine, gva, end, keep, &changes, &span);
    }
    for (unsigned level = 2; level <= 3 && keep == NULL && changes.count > 0; level++) {
        span = (uint64_t)1 << (12 + 9 * (level - 1));
        for (gva = start; gva < end && err == 0; gva = align_down(gva, span) + span) {
            err = table_reap(machine, gva, level, &reaped);
            changes.tables |= reaped;
        }
    }
    return err != 0 ? err : changes_flush(machine, &changes);
}

int sim_os_unmap(struct sim_machine *machine, const struct sim_event *event)
{
    uint64_t start, end;
    int err;

    if (!range_of(event, &start, &end)) {
        machine->count.refused++;
        return 0;
    }
    err = sim_area_set(os_now(machine), start, end, -1);
    return err != 0 ? err : range_change(machine, start, end, NULL);
}

int sim_os_map(struct sim_machine *machine, const struct sim_event *event)
{
    uint64_t start, end;
    int err = sim_os_unmap(machine, event); /* as MAP_FIXED */

    if (err != 0 || !range_of(event, &start, &end)) {
        return err;
    }
    err = sim_area_set(os_now(machine), start, end, event->flags);
    for (uint64_t gva = start; (event->flags & SIM_POPULATE) && gva < end && err == 0;) {
        unsigned level = 1;
        uint64_t at;

        err = os_map_page(machine, sim_area_find(os_now(machine), gva), gva,
                          event->flags & SIM_WRITABLE);
        if (err == 0) {
            err = os_entry_find(machine, os_now(machine)->root, gva, &level, false, &at);
        }
        gva += (uint64_t)1 << (12 + 9 * (level - 1));
    }
    return err;
}

int sim_os_protect(struct sim_machine *machine, const struct sim_event *event)
{
    struct sim_process *process = os_now(machine);
    const struct sim_area *area;
    uint64_t start, end;
    int flags = event->flags & (SIM_READABLE | SIM_WRITABLE | SIM_EXECUTABLE), err;

    if (!range_of(event, &start, &end)) {
        machine->count.refused++;
        return 0;
    }
    area = sim_area_find(process, start);
    if (area == NULL && !machine->config.auto_map) {
        machine->count.refused++;
        return 0;
    }
    if (area != NULL && flags != 0) {
        flags |= area->flags & SIM_LARGE;
    }
    err = sim_area_set(process, start, end, flags);
    return err != 0 ? err : range_change(machine, start, end, &flags);
}
