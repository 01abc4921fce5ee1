/* SPDX-License-Identifier: MIT */
/* The simulated guest's operating system: it keeps page tables by storing into them
 * through its own mappings, and flushes as the architecture asks, much as Linux does. */
#include "shadowpt-sim/sim_internal.h"

#include <errno.h>
#include <stdlib.h>

/* Beyond as many pages Linux reloads CR3 (tlb_single_page_flush_ceiling). */
#define OS_INVLPG_MAX 33
#define OS_LARGE      ((uint64_t)1 << 21)
#define OS_TABLE_BITS (PTE_P | PTE_W | PTE_U | PTE_A)

/* ---- Frames --------------------------------------------------------------------------- */

static void stack_push(struct sim_stack *stack, uint64_t gpa)
{
    if (stack->count == stack->capacity) {
        uint32_t capacity = 2 * stack->capacity + 1024;
        uint32_t *grown = realloc(stack->frame, capacity * sizeof(*grown));

        if (grown == NULL) {
            return; /* the frame is lost to the guest, as a leak: no harm */
        }
        stack->frame = grown;
        stack->capacity = capacity;
    }
    stack->frame[stack->count++] = (uint32_t)(gpa >> MMU_PAGE_SHIFT);
}

static int frame_alloc(struct sim_os *os, struct sim_stack *stack, uint64_t *gpa)
{
    uint32_t frame;

    if (stack->count > 0) {
        frame = stack->frame[--stack->count];
    } else if (stack == &os->free_tables) {
        /* In blocks of 2 MiB, as Linux groups what it cannot move. */
        if (os->table_fresh % 512 == 0) {
            if (os->large_fresh < os->fresh + 1024) {
                return -ENOSPC;
            }
            os->table_fresh = os->large_fresh -= 512;
        }
        frame = os->table_fresh++;
    } else if (stack == &os->free_large) {
        if (os->large_fresh < os->fresh + 1024) {
            return -ENOSPC;
        }
        frame = os->large_fresh -= 512;
    } else {
        if (os->fresh + 512 >= os->large_fresh) {
            return -ENOSPC;
        }
        frame = os->fresh++;
    }
    *gpa = (uint64_t)frame << MMU_PAGE_SHIFT;
    return 0;
}

static int table_alloc(struct sim_os *os, uint64_t *gpa)
{
    int err = frame_alloc(os, &os->free_tables, gpa); /* zero: they were emptied */

    if (err == 0 && ++os->tables > os->tables_most) {
        os->tables_most = os->tables;
    }
    return err;
}

static void table_free(struct sim_os *os, uint64_t gpa)
{
    os->tables--;
    stack_push(&os->free_tables, gpa);
}

static uint64_t leaf_frame(uint64_t entry, unsigned level)
{
    return entry & PTE_ADDRESS_MASK & ~(level == 2 ? OS_LARGE - 1 : (uint64_t)0);
}

static void page_free(struct sim_os *os, uint64_t entry, unsigned level)
{
    uint64_t gpa = leaf_frame(entry, level);

    if (--os->refs[gpa >> MMU_PAGE_SHIFT] == 0) {
        stack_push(level == 2 ? &os->free_large : &os->free_pages, gpa);
    }
}

/* ---- Tables --------------------------------------------------------------------------- */

static inline uint64_t table_load(const struct sim_machine *machine, uint64_t gpa)
{
    uint64_t value = 0;

    (void)mmu_load(&machine->ram.memory, gpa, 8, &value);
    return value;
}

static inline bool is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || (entry & PTE_PS);
}

static inline uint64_t entry_at(uint64_t table, uint64_t gva, unsigned level)
{
    return table + 8 * ((gva >> (12 + 9 * (level - 1))) & 511);
}

static struct sim_process *os_now(struct sim_machine *machine)
{
    return &machine->os.process[machine->os.current];
}

/* The GPA of @gva's entry at *@level or, where the walk ends above it, at a higher level.
 * With @make, missing tables are made. */
static int entry_find(struct sim_machine *machine, uint64_t root, uint64_t gva,
                      unsigned *level, bool make, uint64_t *at)
{
    uint64_t table = root;

    for (unsigned here = machine->config.levels;; here--) {
        uint64_t entry;

        *at = entry_at(table, gva, here);
        if (here == *level) {
            return 0;
        }
        entry = table_load(machine, *at);
        if (!(entry & PTE_P) && make) {
            uint64_t next;
            int err = table_alloc(&machine->os, &next);

            if (err == 0) {
                entry = next | OS_TABLE_BITS;
                err = sim_cpu_store(machine, *at, entry);
            }
            if (err != 0) {
                return err;
            }
        }
        if (!(entry & PTE_P) || (here <= 3 && (entry & PTE_PS))) {
            *level = here;
            return 0;
        }
        table = entry & PTE_ADDRESS_MASK;
    }
}

static uint64_t leaf_bits(uint8_t flags, bool write)
{
    return PTE_P | PTE_U | PTE_A | ((flags & SIM_WRITABLE) ? PTE_W : 0) |
           (write ? PTE_D : 0) | ((flags & SIM_EXECUTABLE) ? 0 : PTE_NX);
}

/* ---- Flushes -------------------------------------------------------------------------- */

static uint16_t os_pcid(const struct sim_machine *machine)
{
    return machine->config.pcid ? (uint16_t)(1 + machine->os.current % SIM_PCIDS) : 0;
}

static int flush_process(struct sim_machine *machine)
{
    return sim_cpu_load_cr3(machine, os_now(machine)->root, os_pcid(machine), true);
}

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
        return flush_process(machine);
    }
    for (unsigned i = 0; i < changes->count; i++) {
        sim_cpu_invlpg(machine, changes->gva[i]);
    }
    return 0;
}

/* ---- Page faults ------------------------------------------------------------------------ */

/* A 2 MiB page at first touch, if the area asks for it and has room. 1: it does not. */
static int map_large(struct sim_machine *machine, const struct sim_area *area,
                     uint64_t gva, bool write)
{
    uint64_t start = align_down(gva, OS_LARGE), at, page;
    unsigned level = 2;
    int err;

    if (!(area->flags & SIM_LARGE) || start < area->start ||
        start + OS_LARGE > area->end) {
        return 1;
    }
    err = entry_find(machine, os_now(machine)->root, gva, &level, true, &at);
    if (err != 0 || level != 2 || (table_load(machine, at) & PTE_P)) {
        return err != 0 ? err : 1;
    }
    err = frame_alloc(&machine->os, &machine->os.free_large, &page);
    if (err != 0) {
        return 1;
    }
    machine->os.refs[page >> MMU_PAGE_SHIFT] = 1;
    return sim_cpu_store(machine, at, page | PTE_PS | leaf_bits(area->flags, write));
}

static int map_page(struct sim_machine *machine, const struct sim_area *area,
                    uint64_t gva, bool write)
{
    uint64_t at, page;
    unsigned level = 1;
    int err = map_large(machine, area, gva, write);

    if (err <= 0) {
        return err;
    }
    err = entry_find(machine, os_now(machine)->root, gva, &level, true, &at);
    if (err == 0) {
        err = frame_alloc(&machine->os, &machine->os.free_pages, &page);
    }
    if (err != 0) {
        return err;
    }
    machine->os.refs[page >> MMU_PAGE_SHIFT] = 1;
    return sim_cpu_store(machine, at, page | leaf_bits(area->flags, write));
}

/* A write to a page that is shared since a fork. */
static int copy_page(struct sim_machine *machine, uint64_t gva, uint64_t at,
                     uint64_t entry, unsigned level)
{
    struct sim_os *os = &machine->os;
    uint64_t old = leaf_frame(entry, level), page = old;
    int err;

    if (os->refs[old >> MMU_PAGE_SHIFT] > 1) {
        err = frame_alloc(os, level == 2 ? &os->free_large : &os->free_pages, &page);
        if (err != 0) {
            return err;
        }
        os->refs[old >> MMU_PAGE_SHIFT]--;
        os->refs[page >> MMU_PAGE_SHIFT] = 1;
    }
    err = sim_cpu_store(machine, at, (entry & ~old) | page | PTE_W | PTE_D);
    if (err == 0) {
        sim_cpu_invlpg(machine, gva);
    }
    return err;
}

int sim_os_fault(struct sim_machine *machine, uint64_t gva, uint32_t access)
{
    struct sim_process *process = os_now(machine);
    uint8_t needed = (access & MMU_WRITE)   ? SIM_WRITABLE
                     : (access & MMU_FETCH) ? SIM_EXECUTABLE
                                            : SIM_READABLE;
    const struct sim_area *area = sim_area_find(process, gva);
    unsigned level = 1;
    uint64_t at, entry;
    int err;

    machine->count.guest_faults++;
    machine->count.cycles_guest += machine->config.cost.guest_fault;
    if (area == NULL && machine->config.auto_map && gva < (uint64_t)1 << 47) {
        uint64_t page = align_down(gva, MMU_PAGE_SIZE);

        err = sim_area_set(process, page, page + MMU_PAGE_SIZE,
                           SIM_READABLE | SIM_WRITABLE | SIM_EXECUTABLE);
        if (err != 0) {
            return err;
        }
        area = sim_area_find(process, gva);
    }
    if (area == NULL || !(area->flags & needed)) {
        machine->count.segfaults++;
        return 1;
    }
    err = entry_find(machine, process->root, gva, &level, false, &at);
    if (err != 0) {
        return err;
    }
    entry = table_load(machine, at);
    if (!(entry & PTE_P)) {
        return map_page(machine, area, gva, access & MMU_WRITE);
    }
    if ((access & MMU_WRITE) && !(entry & PTE_W)) {
        return copy_page(machine, gva, at, entry, level);
    }
    return 0;
}

/* ---- Ranges ----------------------------------------------------------------------------- */

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
    int err = entry_find(machine, os_now(machine)->root, gva, &found, false, &at);

    *reaped = false;
    entry = err == 0 && found == level ? table_load(machine, at) : 0;
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
    table_free(&machine->os, entry & PTE_ADDRESS_MASK);
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
    int err = entry_find(machine, os_now(machine)->root, gva, &level, false, &at);

    *span = (uint64_t)1 << (12 + 9 * (level - 1));
    entry = err == 0 ? table_load(machine, at) : 0;
    if (err != 0 || !(entry & PTE_P)) {
        return err;
    }
    first = align_down(gva, *span);
    if (keep != NULL && *keep != 0 &&
        (level == 1 || (first == gva && gva + *span <= end))) {
        bool shared = machine->os.refs[leaf_frame(entry, level) >> MMU_PAGE_SHIFT] > 1;

        changed = (entry & ~(PTE_W | PTE_NX)) |
                  (leaf_bits((uint8_t)*keep, false) & ~(shared ? PTE_W : (uint64_t)0));
        if (changed == entry) {
            return 0;
        }
    } else {
        page_free(&machine->os, entry, level);
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

        err = map_page(machine, sim_area_find(os_now(machine), gva), gva,
                       event->flags & SIM_WRITABLE);
        if (err == 0) {
            err = entry_find(machine, os_now(machine)->root, gva, &level, false, &at);
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

/* ---- Processes -------------------------------------------------------------------------- */

static int process_make(struct sim_machine *machine, unsigned id)
{
    struct sim_os *os = &machine->os;
    uint64_t root;
    int err = table_alloc(os, &root);

    if (err != 0) {
        return err;
    }
    err = sim_cpu_store(machine, root + (uint64_t)8 * os->kernel_index, os->kernel_entry);
    os->process[id].root = root;
    return err;
}

static int fork_table(struct sim_machine *machine, uint64_t from, uint64_t to,
                      unsigned level)
{
    struct sim_os *os = &machine->os;
    const uint64_t *table = sim_ram_host(&machine->ram, from, MMU_PAGE_SIZE);
    unsigned count = level == machine->config.levels ? 256 : 512;
    int err = 0;

    for (unsigned i = 0; i < count && err == 0; i++) {
        uint64_t entry = table[i], next;

        if (!(entry & PTE_P)) {
            continue;
        }
        if (!is_leaf(entry, level)) {
            err = table_alloc(os, &next);
            if (err == 0) {
                err = sim_cpu_store(machine, to + 8 * (uint64_t)i, next | OS_TABLE_BITS);
            }
            if (err == 0) {
                err = fork_table(machine, entry & PTE_ADDRESS_MASK, next, level - 1);
            }
            continue;
        }
        os->refs[leaf_frame(entry, level) >> MMU_PAGE_SHIFT]++;
        if (entry & PTE_W) {
            entry &= ~PTE_W;
            err = sim_cpu_store(machine, from + 8 * (uint64_t)i, entry);
        }
        if (err == 0) {
            err = sim_cpu_store(machine, to + 8 * (uint64_t)i, entry & ~PTE_D);
        }
    }
    return err;
}

int sim_os_fork(struct sim_machine *machine, unsigned child)
{
    struct sim_process *parent = os_now(machine), *process = &machine->os.process[child];
    int err;

    if (process->root != 0) {
        machine->count.refused++;
        return 0;
    }
    err = process_make(machine, child);
    if (err == 0 && parent->areas > 0) {
        process->area = malloc(parent->areas * sizeof(*process->area));
        if (process->area == NULL) {
            return -ENOMEM;
        }
        memcpy(process->area, parent->area, parent->areas * sizeof(*process->area));
        process->areas = process->capacity = parent->areas;
    }
    if (err == 0) {
        err = fork_table(machine, parent->root, process->root, machine->config.levels);
    }
    return err != 0 ? err : flush_process(machine);
}

int sim_os_switch(struct sim_machine *machine, unsigned id)
{
    struct sim_os *os = &machine->os;
    uint16_t pcid;
    bool flush;
    int err = os->process[id].root == 0 ? process_make(machine, id) : 0;

    if (err != 0 || id == os->current) {
        return err;
    }
    os->current = id;
    pcid = os_pcid(machine);
    flush = pcid == 0 || os->pcid_owner[pcid] != id + 1;
    os->pcid_owner[pcid] = (uint16_t)(id + 1);
    return sim_cpu_load_cr3(machine, os->process[id].root, pcid, flush);
}

static int exit_table(struct sim_machine *machine, uint64_t gpa, unsigned level)
{
    const uint64_t *table = sim_ram_host(&machine->ram, gpa, MMU_PAGE_SIZE);
    unsigned count = level == machine->config.levels ? 256 : 512;
    int err = 0;

    for (unsigned i = 0; i < count && err == 0; i++) {
        uint64_t entry = table[i];

        if (!(entry & PTE_P)) {
            continue;
        }
        if (is_leaf(entry, level)) {
            page_free(&machine->os, entry, level);
        } else {
            err = exit_table(machine, entry & PTE_ADDRESS_MASK, level - 1);
            table_free(&machine->os, entry & PTE_ADDRESS_MASK);
        }
        if (err == 0) {
            err = sim_cpu_store(machine, gpa + 8 * (uint64_t)i, 0);
        }
    }
    return err;
}

int sim_os_exit(struct sim_machine *machine, unsigned id)
{
    struct sim_os *os = &machine->os;
    struct sim_process *process = &os->process[id];
    int err;

    if (id == 0 || process->root == 0) {
        machine->count.refused++;
        return 0;
    }
    err = exit_table(machine, process->root, machine->config.levels);
    if (err == 0 && os->current == id) {
        err = sim_os_switch(machine, 0);
    }
    for (unsigned i = 1; i <= SIM_PCIDS; i++) {
        if (os->pcid_owner[i] == id + 1) {
            os->pcid_owner[i] = 0;
        }
    }
    if (err == 0) {
        err = sim_cpu_store(machine, process->root + 8 * (uint64_t)os->kernel_index, 0);
    }
    table_free(os, process->root);
    free(process->area);
    memset(process, 0, sizeof(*process));
    return err;
}

/* ---- Life ------------------------------------------------------------------------------- */

/* The kernel's map of all memory, 1 GiB a page, in one table. */
int sim_os_boot(struct sim_machine *machine)
{
    struct sim_os *os = &machine->os;
    unsigned levels = machine->config.levels;
    uint64_t table, lower = 0;
    int err;

    os->frames = (uint32_t)(machine->config.ram >> MMU_PAGE_SHIFT);
    os->fresh = 256;
    os->large_fresh = (uint32_t)align_down(os->frames, 512);
    os->refs = calloc(os->frames, sizeof(*os->refs));
    if (os->refs == NULL) {
        return -ENOMEM;
    }
    os->direct_map = levels == 5 ? 0xff11000000000000ull : 0xffff888000000000ull;
    os->kernel_index = (os->direct_map >> (12 + 9 * (levels - 1))) & 511;
    for (unsigned level = 3; level < levels; level++) {
        err = table_alloc(os, &table);
        for (uint64_t gpa = 0; err == 0 && level == 3 && gpa < machine->config.ram;
             gpa += GIB) {
            err = sim_cpu_store(machine, entry_at(table, os->direct_map + gpa, 3),
                                gpa | PTE_P | PTE_W | PTE_A | PTE_D | PTE_G | PTE_PS |
                                    PTE_NX);
        }
        if (err == 0 && level > 3) {
            err = sim_cpu_store(machine, entry_at(table, os->direct_map, level),
                                lower | PTE_P | PTE_W | PTE_A);
        }
        if (err != 0) {
            return err;
        }
        lower = table;
    }
    os->kernel_entry = lower | PTE_P | PTE_W | PTE_A;
    err = process_make(machine, 0);
    if (err == 0) {
        err = sim_cpu_start(machine, os->process[0].root);
    }
    return err != 0 ? err : flush_process(machine);
}

void sim_os_destroy(struct sim_os *os)
{
    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        free(os->process[i].area);
    }
    free(os->refs);
    free(os->free_pages.frame);
    free(os->free_tables.frame);
    free(os->free_large.frame);
}
