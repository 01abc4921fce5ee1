/* SPDX-License-Identifier: MIT */
/* What the guest of a replayed log does: accesses, and stores to its tables. */
#include "shadowpt-sim/shadow/space.h"
#include "shadowpt-sim/trace/replay_internal.h"

enum {
    TRIES = 64,
    SEARCHES = 4, /* whole address spaces walked for an alias at one stop */
    ALIAS_ENTRIES = 1 << 22,
};

/* ---- Accesses --------------------------------------------------------------------------------- */

static void references(struct replay *replay, const struct mmu_trace *trace)
{
    replay->count.walks++;
    replay->count.references += trace->count;
    replay->count
        .histogram[trace->count < SIM_REFERENCES ? trace->count : SIM_REFERENCES]++;
}

static enum replay_ending access_native(struct replay *replay,
                                        const struct replay_cpu *cpu, uint64_t gva,
                                        uint32_t access)
{
    struct mmu_trace trace = { .count = 0 };
    struct mmu_walk walk;
    enum mmu_outcome outcome =
        mmu_walk(&cpu->mode, &replay->ram.memory, gva, access, &walk);

    mmu_walk_trace(&walk, &trace);
    references(replay, &trace);
    return outcome == MMU_OK ? REPLAY_DONE : REPLAY_NOT;
}

static enum replay_ending access_nested(struct replay *replay,
                                        const struct replay_cpu *cpu, uint64_t gva,
                                        uint32_t access)
{
    for (unsigned i = 0; i < TRIES; i++) {
        struct mmu_trace trace = { .count = 0 };
        struct nested_walk walk = { .trace = &trace };
        enum mmu_outcome outcome =
            nested_translate(&replay->nested, &cpu->mode, gva, access, &walk);

        if (outcome != MMU_NESTED_FAULT) {
            references(replay, &trace);
            return outcome == MMU_OK ? REPLAY_DONE : REPLAY_NOT;
        }
        if (nested_fill(&replay->nested, walk.fault.gpa, NESTED_WRITE) != 0 &&
            nested_fill(&replay->nested, walk.fault.gpa, NESTED_READ) != 0) {
            return REPLAY_NOT;
        }
        replay->count.nested_violations++;
    }
    return REPLAY_NOT;
}

static enum replay_ending access_shadow(struct replay *replay,
                                        const struct replay_cpu *cpu, uint64_t gva,
                                        uint32_t access, uint64_t *gpa)
{
    struct shadow_result result = { .outcome = SHADOW_OK };
    struct mmu_trace trace = { .count = 0 };
    enum shadow_outcome outcome = shadow_access(cpu->vcpu, gva, access, &result);

    replay->no_memory |= outcome == SHADOW_NO_MEMORY;
    shadow_trace(cpu->vcpu, gva, &trace);
    references(replay, &trace);
    *gpa = result.gpa;
    return outcome == SHADOW_OK                                         ? REPLAY_DONE
           : outcome == SHADOW_TABLE_WRITE || outcome == SHADOW_EMULATE ? REPLAY_STORE
                                                                        : REPLAY_NOT;
}

enum replay_ending replay_access(struct replay *replay, const struct replay_cpu *cpu,
                                 uint64_t gva, uint32_t access, uint64_t *gpa)
{
    switch (replay->kind) {
    case SIM_NATIVE:
        return access_native(replay, cpu, gva, access);
    case SIM_NESTED:
        return access_nested(replay, cpu, gva, access);
    default:
        return access_shadow(replay, cpu, gva, access, gpa);
    }
}

/* ---- Stores to tables --------------------------------------------------------------------------- */

static bool alias_leads(const struct replay *replay, const struct replay_cpu *cpu,
                        uint64_t alias, uint64_t gpa)
{
    struct mmu_walk walk;

    return mmu_walk(&cpu->mode, &replay->ram.memory, alias + gpa,
                    MMU_PROBE | MMU_WRITE | MMU_AC, &walk) == MMU_OK &&
           walk.gpa == gpa;
}

struct alias_search {
    uint64_t gpa, alias;
    bool found;
};

static bool alias_try(void *context, const struct space_page *page)
{
    struct alias_search *search = context;

    if ((page->to.perms & MMU_PERM_W) &&
        search->gpa - page->to.page < (uint64_t)1 << page->to.shift) {
        search->alias = page->gva - page->to.page;
        search->found = true;
    }
    return !search->found;
}

/* Where the guest's kernel could write to @gpa. */
static bool alias_find(struct replay *replay, const struct replay_cpu *cpu, uint64_t gpa)
{
    struct alias_search search = { .gpa = gpa };
    struct space_stats stats;

    if (alias_leads(replay, cpu, replay->alias, gpa)) {
        return true;
    }
    if (replay->searches == SEARCHES) {
        return false;
    }
    space_walk(&cpu->mode, &replay->ram.memory, ALIAS_ENTRIES, alias_try, &search,
               &stats);
    if (search.found && alias_leads(replay, cpu, search.alias, gpa)) {
        replay->alias = search.alias;
        return true;
    }
    replay->searches++;
    return false;
}

/* A store that no instruction of the guest makes. */
static void store_behind(struct replay *replay, uint64_t gpa, uint64_t value)
{
    if (replay->shadow != NULL) {
        (void)shadow_write(replay->shadow, gpa, 8, value);
    } else {
        (void)mmu_store(&replay->ram.memory, gpa, 8, value);
    }
}

void replay_store(struct replay *replay, unsigned index, uint64_t gpa, uint64_t value)
{
    const struct replay_cpu *cpu = &replay->cpu[index];
    uint64_t at = gpa;

    replay->log.stores++;
    replay->count.table_stores++;
    replay->count.cycles_guest += replay->config.cost.table_store;
    if (!cpu->runs || !alias_find(replay, cpu, gpa)) {
        replay->log.unseen++;
        store_behind(replay, gpa, value);
        return;
    }
    if (replay_access(replay, cpu, replay->alias + gpa, MMU_WRITE | MMU_AC, &at) ==
        REPLAY_DONE) {
        (void)mmu_store(&replay->ram.memory, gpa, 8, value);
    } else {
        store_behind(replay, gpa, value);
    }
}
