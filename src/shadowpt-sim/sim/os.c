/* SPDX-License-Identifier: MIT */
/* The simulated guest's operating system: it keeps page tables by storing into them
 * through its own mappings, and flushes as the architecture asks, much as Linux does. */
#include "shadowpt-sim/sim/os_internal.h"

#include <errno.h>
#include <stdlib.h>

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

int os_table_alloc(struct sim_os *os, uint64_t *gpa)
{
    int err = frame_alloc(os, &os->free_tables, gpa); /* zero: they were emptied */

    if (err == 0 && ++os->tables > os->tables_most) {
        os->tables_most = os->tables;
    }
    return err;
}

void os_table_free(struct sim_os *os, uint64_t gpa)
{
    os->tables--;
    stack_push(&os->free_tables, gpa);
}

void os_page_free(struct sim_os *os, uint64_t entry, unsigned level)
{
    uint64_t gpa = os_leaf_frame(entry, level);

    if (--os->refs[gpa >> MMU_PAGE_SHIFT] == 0) {
        stack_push(level == 2 ? &os->free_large : &os->free_pages, gpa);
    }
}

/* ---- Tables --------------------------------------------------------------------------- */

int os_entry_find(struct sim_machine *machine, uint64_t root, uint64_t gva,
                  unsigned *level, bool make, uint64_t *at)
{
    uint64_t table = root;

    for (unsigned here = machine->config.levels;; here--) {
        uint64_t entry;

        *at = os_entry_at(table, gva, here);
        if (here == *level) {
            return 0;
        }
        entry = os_table_load(machine, *at);
        if (!(entry & PTE_P) && make) {
            uint64_t next;
            int err = os_table_alloc(&machine->os, &next);

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

/* ---- Flushes ------------------------------------------------------------------------- */

uint16_t os_pcid(const struct sim_machine *machine)
{
    return machine->config.pcid ? (uint16_t)(1 + machine->os.current % SIM_PCIDS) : 0;
}

int os_flush(struct sim_machine *machine)
{
    return sim_cpu_load_cr3(machine, os_now(machine)->root, os_pcid(machine), true);
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
    err = os_entry_find(machine, os_now(machine)->root, gva, &level, true, &at);
    if (err != 0 || level != 2 || (os_table_load(machine, at) & PTE_P)) {
        return err != 0 ? err : 1;
    }
    err = frame_alloc(&machine->os, &machine->os.free_large, &page);
    if (err != 0) {
        return 1;
    }
    machine->os.refs[page >> MMU_PAGE_SHIFT] = 1;
    return sim_cpu_store(machine, at, page | PTE_PS | os_leaf_bits(area->flags, write));
}

int os_map_page(struct sim_machine *machine, const struct sim_area *area, uint64_t gva,
                bool write)
{
    uint64_t at, page;
    unsigned level = 1;
    int err = map_large(machine, area, gva, write);

    if (err <= 0) {
        return err;
    }
    err = os_entry_find(machine, os_now(machine)->root, gva, &level, true, &at);
    if (err == 0) {
        err = frame_alloc(&machine->os, &machine->os.free_pages, &page);
    }
    if (err != 0) {
        return err;
    }
    machine->os.refs[page >> MMU_PAGE_SHIFT] = 1;
    return sim_cpu_store(machine, at, page | os_leaf_bits(area->flags, write));
}

/* A write to a page that is shared since a fork. */
static int copy_page(struct sim_machine *machine, uint64_t gva, uint64_t at,
                     uint64_t entry, unsigned level)
{
    struct sim_os *os = &machine->os;
    uint64_t old = os_leaf_frame(entry, level), page = old;
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
    err = os_entry_find(machine, process->root, gva, &level, false, &at);
    if (err != 0) {
        return err;
    }
    entry = os_table_load(machine, at);
    if (!(entry & PTE_P)) {
        return os_map_page(machine, area, gva, access & MMU_WRITE);
    }
    if ((access & MMU_WRITE) && !(entry & PTE_W)) {
        return copy_page(machine, gva, at, entry, level);
    }
    return 0;
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
        err = os_table_alloc(os, &table);
        for (uint64_t gpa = 0; err == 0 && level == 3 && gpa < machine->config.ram;
             gpa += GIB) {
            err = sim_cpu_store(machine, os_entry_at(table, os->direct_map + gpa, 3),
                                gpa | PTE_P | PTE_W | PTE_A | PTE_D | PTE_G | PTE_PS |
                                    PTE_NX);
        }
        if (err == 0 && level > 3) {
            err = sim_cpu_store(machine, os_entry_at(table, os->direct_map, level),
                                lower | PTE_P | PTE_W | PTE_A);
        }
        if (err != 0) {
            return err;
        }
        lower = table;
    }
    os->kernel_entry = lower | PTE_P | PTE_W | PTE_A;
    err = os_process_make(machine, 0);
    if (err == 0) {
        err = sim_cpu_start(machine, os->process[0].root);
    }
    return err != 0 ? err : os_flush(machine);
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
