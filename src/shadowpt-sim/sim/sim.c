/* SPDX-License-Identifier: MIT */
/* The simulation: events in, counters out. */
#include "shadowpt-sim/sim/sim.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "shadowpt-sim/sim/internal.h"

#define FAULT_TRIES 4
/* Events that are run at a time, and from how many misses on the next are prefetched. */
#define CHUNK        64
#define CHUNK_MISSES 8

static const char *const kind_names[SIM_KINDS] = {
    [SIM_NATIVE] = "native",           [SIM_NESTED] = "nested",
    [SIM_SHADOW_WP] = "shadow-wp",     [SIM_SHADOW_UNSYNC] = "shadow-unsync",
    [SIM_SHADOW_VTLB] = "shadow-vtlb", [SIM_SHADOW_AGILE] = "shadow-agile",
};

const char *sim_kind_name(enum sim_kind kind)
{
    return kind_names[kind];
}

int sim_kind_parse(const char *name, enum sim_kind *kind)
{
    for (unsigned i = 0; i < SIM_KINDS; i++) {
        const char *full = kind_names[i];

        if (strcmp(name, full) == 0 ||
            (i > SIM_NESTED && strcmp(name, full + strlen("shadow-")) == 0)) {
            *kind = (enum sim_kind)i;
            return 0;
        }
    }
    return -EINVAL;
}

int sim_create(const struct sim_config *config, enum sim_kind kind,
               struct sim_machine **out, struct umbra_error *error)
{
    struct sim_machine *machine = calloc(1, sizeof(*machine));
    int err = machine != NULL ? 0 : -ENOMEM;

    *out = NULL;
    if (err == 0) {
        struct sim_config *own = &machine->config;

        *own = *config;
        own->ram = align_up(own->ram != 0 ? own->ram : 64 * GIB, GIB);
        own->levels = own->levels != 0 ? own->levels : 4;
        own->host_shift = own->host_shift != 0 ? own->host_shift : 21;
        own->shadow_pages = own->shadow_pages != 0 ? own->shadow_pages : 262144;
        own->cost.agile_interval += own->cost.agile_interval == 0;
        machine->kind = kind;
        err = own->ram <= 512 * GIB ? sim_cpu_init(machine) : -EINVAL;
    }
    if (err == 0) {
        err = sim_os_boot(machine);
    }
    if (err != 0) {
        sim_destroy(machine);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -err, "making the %s simulation",
                           sim_kind_name(kind));
    }
    *out = machine;
    return 0;
}

void sim_destroy(struct sim_machine *machine)
{
    if (machine != NULL) {
        sim_cpu_destroy(machine);
        sim_os_destroy(&machine->os);
        free(machine);
    }
}

/* ---- Events --------------------------------------------------------------------------- */

static void tables_note(struct sim_machine *machine)
{
    uint64_t pages = machine->shadow != NULL       ? shadow_pages(machine->shadow)
                     : machine->kind == SIM_NESTED ? machine->nested.pool.in_use
                                                   : 0;

    if (pages > machine->host_tables_most) {
        machine->host_tables_most = pages;
    }
}

/* An access that missed, or may not be made. */
static int access_slow(struct sim_machine *machine, uint64_t gva, uint32_t access,
                       enum access_end end, uint64_t gpa)
{
    for (unsigned i = 0; i < FAULT_TRIES; i++) {
        int err;

        switch (end) {
        case ACCESS_DONE:
            return 0;
        case ACCESS_STORE:
            return shadow_write(machine->shadow, align_down(gpa, 8), 8, 0);
        case ACCESS_BAD:
            return -ENOMEM;
        case ACCESS_FAULT:
            err = sim_os_fault(machine, gva, access);
            if (err != 0) {
                return err < 0 ? err : 0;
            }
            tables_note(machine);
            end = sim_cpu_access(machine, gva, access, &gpa);
        }
    }
    return end == ACCESS_DONE ? 0 : -EPROTO;
}

static void counters_reset(struct sim_machine *machine)
{
    memset(&machine->count, 0, sizeof(machine->count));
    memset(&machine->tlb.stats, 0, sizeof(machine->tlb.stats));
    if (machine->shadow != NULL) {
        shadow_stats_reset(machine->shadow);
    }
}

static int event_run(struct sim_machine *machine, const struct sim_event *event)
{
    if (event->process >= SIM_PROCESSES) {
        machine->count.refused++;
        return 0;
    }
    switch (event->kind) {
    case SIM_MAP:
        return sim_os_map(machine, event);
    case SIM_UNMAP:
        return sim_os_unmap(machine, event);
    case SIM_PROTECT:
        return sim_os_protect(machine, event);
    case SIM_FORK:
        return sim_os_fork(machine, event->process);
    case SIM_SWITCH:
        return sim_os_switch(machine, event->process);
    case SIM_EXIT:
        return sim_os_exit(machine, event->process);
    case SIM_MARK:
        counters_reset(machine);
        return 0;
    default:
        machine->count.refused++;
        return 0;
    }
}

/* The access at @event, which ended with @end if that is not ACCESS_DONE. */
static int access_run(struct sim_machine *machine, const struct sim_event *event,
                      enum access_end end, uint64_t gpa)
{
    uint32_t access = sim_access(event);

    if (end == ACCESS_DONE) {
        end = sim_cpu_access(machine, event->address, access, &gpa);
    }
    return end == ACCESS_DONE ? 0
                              : access_slow(machine, event->address, access, end, gpa);
}

/* Events up to @stop, of a batch up to @end. 0, or an error and in *@at the event. */
static int events_run(struct sim_machine *machine, const struct sim_event **at,
                      const struct sim_event *stop, const struct sim_event *end)
{
    uint64_t missed = machine->tlb.stats.misses - machine->misses_before;
    struct sim_burst burst = { .ahead = missed >= CHUNK_MISSES && end - stop >= SIM_FAR };
    int err = 0;

    machine->misses_before = machine->tlb.stats.misses;
    while (err == 0) {
        *at += sim_cpu_burst(machine, *at, (unsigned)(stop - *at), &burst);
        if (*at == stop) {
            break;
        }
        if ((*at)->kind == SIM_ACCESS) {
            err = access_run(machine, *at, burst.end, burst.gpa);
        } else {
            err = event_run(machine, *at);
            tables_note(machine);
        }
        *at += err == 0;
    }
    return err;
}

/* Agile paging's interval is a number of events here. */
static uint64_t until_tick(const struct sim_machine *machine)
{
    return machine->kind == SIM_SHADOW_AGILE
               ? machine->config.cost.agile_interval - machine->since_tick
               : UINT64_MAX;
}

int sim_run(struct sim_machine *machine, const struct sim_event *events, unsigned count,
            struct umbra_error *error)
{
    const struct sim_event *end = events + count;

    while (events < end) {
        const struct sim_event *at = events;
        unsigned chunk = end - at < CHUNK ? (unsigned)(end - at) : CHUNK;
        int err;

        chunk = until_tick(machine) < chunk ? (unsigned)until_tick(machine) : chunk;
        err = events_run(machine, &at, at + chunk, end);
        machine->since_tick += chunk;
        events += chunk;
        if (until_tick(machine) == 0) {
            machine->since_tick = 0;
            shadow_tick(machine->shadow);
            tables_note(machine);
        }
        if (err != 0) {
            return error_errno(error, UMBRA_ERROR_INTERNAL, -err,
                               "simulating %s: event of kind %u at address %#llx%s",
                               sim_kind_name(machine->kind), at->kind,
                               (unsigned long long)at->address,
                               err == -ENOSPC ? ": the guest's memory is used up" : "");
        }
    }
    return 0;
}

/* ---- Results --------------------------------------------------------------------------- */

uint64_t sim_shadow_cycles(const struct cost_model *cost, const uint64_t *count,
                           uint64_t *exits)
{
    const uint32_t handler[SHADOW_EXITS] = {
        [SHADOW_EXIT_TRUE_FAULT] = cost->reflect,
        [SHADOW_EXIT_HIDDEN_FILL] = cost->fill,
        [SHADOW_EXIT_DIRTY] = cost->dirty,
        [SHADOW_EXIT_UNSYNC] = cost->unsync,
        [SHADOW_EXIT_TABLE_WRITE] = cost->emulate,
        [SHADOW_EXIT_WP_CLEAR] = cost->fill,
        [SHADOW_EXIT_EMULATE] = cost->emulate,
        [SHADOW_EXIT_NESTED] = cost->fill,
        [SHADOW_EXIT_MMIO] = cost->emulate,
        [SHADOW_EXIT_CR3] = cost->cr3,
        [SHADOW_EXIT_INVLPG] = cost->invlpg,
        [SHADOW_EXIT_INVPCID] = cost->invlpg,
        [SHADOW_EXIT_MODE] = cost->cr3,
    };
    uint64_t cycles =
        count[SHADOW_REMOTE_FLUSH] * cost->flush +
        count[SHADOW_PAGE_NEW] * cost->page_new +
        count[SHADOW_PAGE_ZAP] * cost->page_zap +
        count[SHADOW_PAGE_SYNC] * cost->sync_page +
        count[SHADOW_TABLE_COMPARE] * cost->sync_page +
        (count[SHADOW_ENTRY_SYNC] + count[SHADOW_ENTRY_PREFILL]) * cost->sync_entry;

    for (unsigned i = 0; i < SHADOW_EXITS; i++) {
        *exits += count[i];
        cycles += count[i] * (cost->vm_exit + handler[i]);
    }
    return cycles;
}

void sim_result(const struct sim_machine *machine, struct sim_result *result)
{
    const struct cost_model *cost = &machine->config.cost;
    struct sim_counters *count = &result->count;

    *result = (struct sim_result){
        .kind = machine->kind,
        .count = machine->count,
        .tlb = machine->tlb.stats,
        .exits = machine->count.nested_violations,
        .guest_tables = machine->os.tables_most * MMU_PAGE_SIZE,
        .host_tables = machine->host_tables_most * MMU_PAGE_SIZE,
    };
    count->accesses = result->tlb.l1_hits + result->tlb.l2_hits + result->tlb.misses;
    count->cycles_access =
        count->accesses * cost->access + result->tlb.l2_hits * cost->tlb_l2;
    for (unsigned i = 0; i <= SIM_REFERENCES; i++) {
        count->walks += count->histogram[i];
    }
    count->references = result->tlb.line_misses;
    count->cycles_walk = result->tlb.line_misses * cost->memory;
    for (unsigned i = 0; i < TLB_LINES; i++) {
        count->references += result->tlb.line_hits[i];
        count->cycles_walk += result->tlb.line_hits[i] * cost->line[i];
    }
    count->cycles_exit =
        count->nested_violations * (uint64_t)(cost->vm_exit + cost->fill);
    if (machine->shadow != NULL) {
        result->shadow = *shadow_stats(machine->shadow);
        count->cycles_exit +=
            sim_shadow_cycles(cost, result->shadow.count, &result->exits);
    }
    result->cycles = count->cycles_access + count->cycles_walk + count->cycles_guest +
                     count->cycles_exit;
}

static void digest_add(uint64_t *digest, uint64_t value)
{
    *digest = (*digest ^ value) * 0x9e3779b97f4a7c15ull;
    *digest ^= *digest >> 29;
}

static void digest_table(const struct sim_machine *machine, uint64_t gpa, unsigned level,
                         uint64_t *digest)
{
    const uint64_t *table = sim_ram_host(&machine->ram, gpa, MMU_PAGE_SIZE);
    unsigned count = level == machine->config.levels ? 256 : 512;

    for (unsigned i = 0; i < count; i++) {
        if (table[i] == 0) {
            continue;
        }
        digest_add(digest, (uint64_t)level << 32 | i);
        digest_add(digest, table[i] & ~(PTE_A | PTE_D));
        if (level > 1 && !(table[i] & PTE_PS)) {
            digest_table(machine, table[i] & PTE_ADDRESS_MASK, level - 1, digest);
        }
    }
}

uint64_t sim_digest(const struct sim_machine *machine)
{
    uint64_t digest = 1;

    for (unsigned i = 0; i < SIM_PROCESSES; i++) {
        if (machine->os.process[i].root != 0) {
            digest_add(&digest, i);
            digest_table(machine, machine->os.process[i].root, machine->config.levels,
                         &digest);
        }
    }
    digest_add(&digest, machine->count.guest_faults);
    digest_add(&digest, machine->count.segfaults);
    digest_add(&digest, machine->count.table_stores);
    return digest;
}

const struct mmu_mode *sim_mode(const struct sim_machine *machine)
{
    return &machine->mode;
}

const struct nested_table *sim_nested(const struct sim_machine *machine)
{
    return machine->kind == SIM_NESTED ? &machine->nested : NULL;
}

int sim_audit(struct sim_machine *machine, struct umbra_error *error)
{
    return machine->shadow != NULL ? shadow_audit(machine->shadow, error) : 0;
}
