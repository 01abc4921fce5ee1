/* SPDX-License-Identifier: MIT */
/* Inside the simulated guest's OS: its frames and tables (os.c), what happens to ranges
 * (os_range.c) and to processes (os_process.c). */
#ifndef SHADOWPT_SIM_SIM_OS_INTERNAL_H
#define SHADOWPT_SIM_SIM_OS_INTERNAL_H

#include "shadowpt-sim/sim/internal.h"

#define OS_LARGE      ((uint64_t)1 << 21)
#define OS_TABLE_BITS (PTE_P | PTE_W | PTE_U | PTE_A)

static inline uint64_t os_leaf_frame(uint64_t entry, unsigned level)
{
    return entry & PTE_ADDRESS_MASK & ~(level == 2 ? OS_LARGE - 1 : (uint64_t)0);
}

static inline uint64_t os_table_load(const struct sim_machine *machine, uint64_t gpa)
{
    uint64_t value = 0;

    (void)mmu_load(&machine->ram.memory, gpa, 8, &value);
    return value;
}

static inline bool os_is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || (entry & PTE_PS);
}

static inline uint64_t os_entry_at(uint64_t table, uint64_t gva, unsigned level)
{
    return table + 8 * ((gva >> (12 + 9 * (level - 1))) & 511);
}

static inline struct sim_process *os_now(struct sim_machine *machine)
{
    return &machine->os.process[machine->os.current];
}

static inline uint64_t os_leaf_bits(uint8_t flags, bool write)
{
    return PTE_P | PTE_U | PTE_A | ((flags & SIM_WRITABLE) ? PTE_W : 0) |
           (write ? PTE_D : 0) | ((flags & SIM_EXECUTABLE) ? 0 : PTE_NX);
}

int os_table_alloc(struct sim_os *os, uint64_t *gpa);
void os_table_free(struct sim_os *os, uint64_t gpa);
/* One mapping less of the page that @entry maps. */
void os_page_free(struct sim_os *os, uint64_t entry, unsigned level);

/* The GPA of @gva's entry at *@level or, where the walk ends above it, at a higher level.
 * With @make, missing tables are made. */
int os_entry_find(struct sim_machine *machine, uint64_t root, uint64_t gva,
                  unsigned *level, bool make, uint64_t *at);
/* A fresh page at @gva of the current process. */
int os_map_page(struct sim_machine *machine, const struct sim_area *area, uint64_t gva,
                bool write);

uint16_t os_pcid(const struct sim_machine *machine);
/* All of the current process. */
int os_flush(struct sim_machine *machine);
int os_process_make(struct sim_machine *machine, unsigned id);

#endif
