/* SPDX-License-Identifier: MIT */
/* Replaying logs of page tables. */
#include "shadowpt-sim/trace/replay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "shadowpt-sim/trace/replay_internal.h"

#define RAM_HPA  ((uint64_t)1 << 40)
#define POOL_HPA ((uint64_t)1 << 45) /* beyond all of RAM_SPAN */
#define RAM_SPAN ((uint64_t)1 << 44)

enum { WORDS = 512 };

/* ---- Life ----------------------------------------------------------------------------------- */

static int shadow_make(struct replay *replay)
{
    static const enum shadow_policy policies[] = {
        [SIM_SHADOW_WP] = SHADOW_WP,
        [SIM_SHADOW_UNSYNC] = SHADOW_UNSYNC,
        [SIM_SHADOW_VTLB] = SHADOW_VTLB,
        [SIM_SHADOW_AGILE] = SHADOW_AGILE,
    };
    const struct shadow_config config = {
        .memory = &replay->ram.memory,
        .slots = &replay->slots,
        .policy = policies[replay->kind],
        .pool_pages = replay->config.shadow_pages,
        .pool_hpa = POOL_HPA,
        .agile_writes = (uint8_t)replay->config.cost.agile_writes,
    };
    int err = shadow_create(&config, &replay->shadow);

    for (unsigned i = 0; i < replay->meta.cpus && err == 0; i++) {
        err = shadow_vcpu_create(replay->shadow, &replay->meta.cpu, &replay->cpu[i].vcpu);
    }
    return err;
}

static int replay_make(struct replay *replay)
{
    const struct nested_config nested = {
        .kind = NESTED_EPT,
        .levels = 4,
        .max_level = 3,
        .maxphyaddr = 52,
        .ad = true,
        .pool_pages = 1u << 20,
        .pool_hpa = POOL_HPA,
    };
    int err = 0;

    for (unsigned i = 0; i < replay->meta.ranges && err == 0; i++) {
        const struct ptlog_range *range = &replay->meta.range[i];
        const struct mmu_slot slot = { range->gpa, range->length, RAM_HPA + range->gpa,
                                       range->readonly, replay->config.host_shift };

        if (range->gpa + range->length > RAM_SPAN) {
            return -ERANGE;
        }
        /* Tables in ROM are written too, by who records them. */
        err = sim_ram_add(&replay->ram, range->gpa, range->length, false);
        if (err == 0) {
            err = mmu_slots_add(&replay->slots, &slot);
        }
    }
    if (err == 0 && replay->kind == SIM_NESTED) {
        err = nested_init(&replay->nested, &nested, &replay->slots, &replay->ram.memory);
    } else if (err == 0 && replay->kind != SIM_NATIVE) {
        err = shadow_make(replay);
    }
    return err;
}

int replay_create(const struct ptlog_meta *meta, const struct replay_config *config,
                  enum sim_kind kind, struct replay **result, struct umbra_error *error)
{
    struct replay *replay = calloc(1, sizeof(*replay));
    int err = replay != NULL ? 0 : -ENOMEM;

    *result = NULL;
    if (err == 0) {
        replay->kind = kind;
        replay->meta = *meta;
        replay->config = *config;
        if (replay->config.host_shift == 0) {
            replay->config.host_shift = 21;
        }
        if (replay->config.shadow_pages == 0) {
            replay->config.shadow_pages = 262144;
        }
        sim_ram_init(&replay->ram);
        mmu_slots_init(&replay->slots);
        err = replay_make(replay);
    }
    if (err != 0) {
        replay_destroy(replay);
        return error_errno(error, UMBRA_ERROR_CONFIG, -err,
                           "cannot make a guest like the log's for %s",
                           sim_kind_name(kind));
    }
    *result = replay;
    return 0;
}

void replay_destroy(struct replay *replay)
{
    if (replay == NULL) {
        return;
    }
    for (unsigned i = 0; i < replay->meta.cpus; i++) {
        shadow_vcpu_destroy(replay->cpu[i].vcpu);
    }
    shadow_destroy(replay->shadow);
    if (replay->kind == SIM_NESTED) {
        nested_destroy(&replay->nested);
    }
    mmu_slots_destroy(&replay->slots);
    sim_ram_destroy(&replay->ram);
    free(replay);
}

/* ---- Registers ------------------------------------------------------------------------------------ */

static bool registers_load(struct replay *replay, unsigned index,
                           const struct ptlog_cpu *registers)
{
    struct replay_cpu *cpu = &replay->cpu[index];
    struct mmu_mode mode, *old = &cpu->mode;
    const char *reason;
    bool same;

    ptlog_mode(&replay->meta, registers, &mode);
    same = cpu->runs && mode.cr0 == old->cr0 && mode.cr4 == old->cr4 &&
           mode.efer == old->efer;
    if (mode.format != MMU_FORMAT_LONG || mmu_mode_check(&mode, &reason) != 0) {
        replay->log.refused += mode.format == MMU_FORMAT_LONG;
        return cpu->runs = false;
    }
    if (same && mode.cr3 == old->cr3) {
        if (cpu->vcpu != NULL && mode.pkru != old->pkru) {
            shadow_set_pkru(cpu->vcpu, mode.pkru);
        }
        *old = mode;
        return true;
    }
    if (cpu->vcpu != NULL && (same ? shadow_load_cr3(cpu->vcpu, mode.cr3)
                                   : shadow_set_mode(cpu->vcpu, &mode)) != 0) {
        replay->log.refused++;
        return cpu->runs = false;
    }
    if (same) {
        replay->log.cr3_loads++;
        replay->count.cr3_loads++;
        replay->count.cycles_guest += replay->config.cost.guest_cr3;
        if (cpu->vcpu != NULL) {
            shadow_set_pkru(cpu->vcpu, mode.pkru);
        }
    } else {
        replay->log.mode_changes++;
    }
    *old = mode;
    return cpu->runs = true;
}

/* ---- Flushes -------------------------------------------------------------------------------------- */

/* May a TLB hold of the old entry what the new one does not permit? */
static bool change_stale(const struct ptlog_change *change)
{
    const uint64_t where = PTE_ADDRESS_MASK | PTE_PS | PTE_G;
    uint64_t lost = change->old & ~change->value;

    return (change->old & PTE_P) &&
           (!(change->value & PTE_P) || ((change->old ^ change->value) & where) ||
            (lost & (PTE_W | PTE_U)) || (change->value & ~change->old & PTE_NX));
}

static uint64_t change_gva(const struct replay_cpu *cpu,
                           const struct ptlog_change *change)
{
    unsigned shift = cpu->mode.levels == 5 ? 64 - 57 : 64 - 48;

    return (uint64_t)((int64_t)(change->gva << shift) >> shift);
}

/* The kernel's half is everybody's; the user's is that of who has the same root. */
static void flush_note(struct replay *replay, const struct ptlog_change *change)
{
    const struct replay_cpu *owner = &replay->cpu[change->cpu];

    for (unsigned i = 0; i < replay->meta.cpus; i++) {
        struct replay_cpu *cpu = &replay->cpu[i];
        uint64_t gva = change_gva(cpu, change);

        if (!cpu->runs || ((int64_t)gva >= 0 &&
                           ((cpu->mode.cr3 ^ owner->mode.cr3) & PTE_ADDRESS_MASK) != 0)) {
            continue;
        }
        if (cpu->invlpgs == REPLAY_INVLPGS || change->level > 2) {
            cpu->flush = true;
        } else {
            cpu->invlpg[cpu->invlpgs++] = gva;
        }
    }
}

static void flush_due(struct replay *replay)
{
    for (unsigned i = 0; i < replay->meta.cpus; i++) {
        struct replay_cpu *cpu = &replay->cpu[i];

        for (unsigned n = 0; n < cpu->invlpgs && !cpu->flush; n++) {
            replay->log.invlpgs++;
            replay->count.invlpgs++;
            replay->count.cycles_guest += replay->config.cost.guest_invlpg;
            if (cpu->vcpu != NULL && shadow_traps_invlpg(replay->shadow)) {
                shadow_invlpg(cpu->vcpu, cpu->invlpg[n]);
            }
        }
        if (cpu->flush) {
            replay->log.full_flushes++;
            replay->count.cycles_guest += replay->config.cost.guest_cr3;
            if (cpu->vcpu != NULL) {
                (void)shadow_invpcid(cpu->vcpu, INVPCID_ALL, 0, 0);
            }
        }
        cpu->flush = false;
        cpu->invlpgs = 0;
    }
}

/* ---- Stops ----------------------------------------------------------------------------------------- */

static bool change_leaf(const struct ptlog_change *change)
{
    return change->level == 1 || (change->level <= 3 && (change->value & PTE_PS));
}

/* Did the processor set flags, and nothing else happen? */
static bool change_flags_only(const struct ptlog_change *change)
{
    return (change->old & PTE_P) &&
           ((change->old ^ change->value) & ~(PTE_A | PTE_D)) == 0 &&
           (change->old & ~change->value) == 0;
}

static bool gpa_readonly(const struct ptlog_meta *meta, uint64_t gpa)
{
    for (unsigned i = 0; i < meta->ranges; i++) {
        if (gpa - meta->range[i].gpa < meta->range[i].length) {
            return meta->range[i].readonly;
        }
    }
    return false;
}

/* The access that set A, or D, of a leaf. User pages are mapped at the moment they are used, so
 * flags that come with one tell of an access too; kernels map their own with flags preset. */
static void access_again(struct replay *replay, const struct ptlog_change *change)
{
    const struct replay_cpu *cpu = &replay->cpu[change->cpu];
    uint64_t set = change->value & (PTE_A | PTE_D), gpa, gva;
    uint32_t access = MMU_AC;
    struct mmu_walk walk;

    if (!cpu->runs || !change_leaf(change) || !(change->value & PTE_P)) {
        return;
    }
    gva = change_gva(cpu, change);
    if (mmu_walk(&cpu->mode, &replay->ram.memory, gva, MMU_PROBE | MMU_AC, &walk) !=
            MMU_OK ||
        walk.entry_gpa[walk.level] != change->gpa ||
        !ptlog_backed(&replay->meta, walk.gpa)) {
        return;
    }
    if ((change->old & PTE_P) &&
        ((change->old ^ change->value) & PTE_ADDRESS_MASK) == 0) {
        set &= ~change->old;
    } else if (!(walk.to.perms & MMU_PERM_U)) {
        set = 0;
    }
    if (set == 0) {
        return;
    }
    access |= walk.to.perms & MMU_PERM_U ? MMU_USER : 0;
    if ((set & PTE_D) && (walk.to.perms & MMU_PERM_W) &&
        !gpa_readonly(&replay->meta, walk.gpa)) {
        access |= MMU_WRITE;
    }
    replay->log.accesses++;
    replay->count.accesses++;
    if (replay_access(replay, cpu, gva, access, &gpa) == REPLAY_NOT) {
        replay->count.guest_faults++;
    }
}

static void sizes_note(struct replay *replay, const struct ptlog_stop *stop)
{
    uint64_t guest = stop->tables * MMU_PAGE_SIZE;
    uint64_t host = replay->shadow != NULL       ? shadow_pages(replay->shadow)
                    : replay->kind == SIM_NESTED ? replay->nested.pool.in_use
                                                 : 0;

    host *= MMU_PAGE_SIZE;
    replay->guest_tables = guest > replay->guest_tables ? guest : replay->guest_tables;
    replay->host_tables = host > replay->host_tables ? host : replay->host_tables;
}

/* Tables that are new are filled before anything leads to them, and entries change from the
 * leaves upwards, so that freed tables are emptied before they are let go. */
static void stop_stores(struct replay *replay, const struct ptlog_stop *stop, bool fresh)
{
    for (unsigned level = 1; level <= 5; level++) {
        for (size_t i = 0; i < stop->changes; i++) {
            const struct ptlog_change *change = &stop->change[i];

            if (change->level != level || change->fresh != fresh ||
                change_flags_only(change)) {
                continue;
            }
            replay_store(replay, change->cpu, change->gpa, change->value);
            if (change_stale(change)) {
                flush_note(replay, change);
            }
        }
    }
}

static void stop_first(struct replay *replay, const struct ptlog_stop *stop)
{
    for (size_t i = 0; i < stop->changes; i++) {
        (void)mmu_store(&replay->ram.memory, stop->change[i].gpa, 8,
                        stop->change[i].value);
    }
}

int replay_stop(struct replay *replay, const struct ptlog_stop *stop,
                struct umbra_error *error)
{
    bool first = replay->log.stops++ == 0;

    if (replay->shadow != NULL) {
        shadow_tick(replay->shadow); /* a stop is an interval's end, too */
    }
    replay->log.changes += stop->changes;
    replay->searches = 0;
    if (first) {
        stop_first(replay, stop);
    } else {
        stop_stores(replay, stop, true);
    }
    for (unsigned i = 0; i < replay->meta.cpus; i++) {
        registers_load(replay, i, &stop->cpu[i]);
    }
    if (!first) {
        stop_stores(replay, stop, false);
        flush_due(replay);
        for (size_t i = 0; i < stop->changes; i++) {
            access_again(replay, &stop->change[i]);
        }
    }
    sizes_note(replay, stop);
    return replay->no_memory ? error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                                           "replaying as %s", sim_kind_name(replay->kind))
                             : 0;
}

/* ---- Results --------------------------------------------------------------------------------------- */

void replay_result(const struct replay *replay, struct sim_result *result)
{
    const struct cost_model *cost = &replay->config.cost;
    struct sim_counters *count = &result->count;

    *result = (struct sim_result){
        .kind = replay->kind,
        .count = replay->count,
        .exits = replay->count.nested_violations,
        .guest_tables = replay->guest_tables,
        .host_tables = replay->host_tables,
    };
    count->cycles_exit =
        count->nested_violations * (uint64_t)(cost->vm_exit + cost->fill);
    if (replay->shadow != NULL) {
        result->shadow = *shadow_stats(replay->shadow);
        count->cycles_exit +=
            sim_shadow_cycles(cost, result->shadow.count, &result->exits);
    }
    result->cycles = count->cycles_guest + count->cycles_exit;
}

const struct replay_counters *replay_counters(const struct replay *replay)
{
    return &replay->log;
}

int replay_compare(const struct replay *replay, struct page_image *image,
                   struct umbra_error *error)
{
    for (uint32_t i = 0; i < image->capacity; i++) {
        const struct image_slot *slot = &image->slot[i];
        uint64_t gpa = (slot->key - 1) << MMU_PAGE_SHIFT;

        for (unsigned n = 0; slot->key != 0 && slot->page != NULL && n < WORDS; n++) {
            uint64_t logged = le64toh(slot->page[n]), value = 0;

            (void)mmu_load(&replay->ram.memory, gpa + 8 * (uint64_t)n, 8, &value);
            if ((logged ^ value) & ~(PTE_A | PTE_D)) {
                return error_set(error, UMBRA_ERROR_INTERNAL, EPROTO,
                                 "%s: the entry at GPA 0x%" PRIx64 " is 0x%" PRIx64
                                 ", the log has 0x%" PRIx64,
                                 sim_kind_name(replay->kind), gpa + 8 * (uint64_t)n,
                                 value, logged);
            }
        }
    }
    return 0;
}

int replay_audit(struct replay *replay, struct umbra_error *error)
{
    return replay->shadow != NULL ? shadow_audit(replay->shadow, error) : 0;
}
