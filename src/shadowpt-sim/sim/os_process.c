/* SPDX-License-Identifier: MIT */
/* The simulated guest's OS: fork, exit and switches between processes. */
#include "shadowpt-sim/sim/os_internal.h"

#include <errno.h>
#include <stdlib.h>

int os_process_make(struct sim_machine *machine, unsigned id)
{
    struct sim_os *os = &machine->os;
    uint64_t root;
    int err = os_table_alloc(os, &root);

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
        if (!os_is_leaf(entry, level)) {
            err = os_table_alloc(os, &next);
            if (err == 0) {
                err = sim_cpu_store(machine, to + 8 * (uint64_t)i, next | OS_TABLE_BITS);
            }
            if (err == 0) {
                err = fork_table(machine, entry & PTE_ADDRESS_MASK, next, level - 1);
            }
            continue;
        }
        os->refs[os_leaf_frame(entry, level) >> MMU_PAGE_SHIFT]++;
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
    err = os_process_make(machine, child);
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
    return err != 0 ? err : os_flush(machine);
}

int sim_os_switch(struct sim_machine *machine, unsigned id)
{
    struct sim_os *os = &machine->os;
    uint16_t pcid;
    bool flush;
    int err = os->process[id].root == 0 ? os_process_make(machine, id) : 0;

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
        if (os_is_leaf(entry, level)) {
            os_page_free(&machine->os, entry, level);
        } else {
            err = exit_table(machine, entry & PTE_ADDRESS_MASK, level - 1);
            os_table_free(&machine->os, entry & PTE_ADDRESS_MASK);
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
    os_table_free(os, process->root);
    free(process->area);
    memset(process, 0, sizeof(*process));
    return err;
}
