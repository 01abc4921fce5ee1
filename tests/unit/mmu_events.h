/* SPDX-License-Identifier: MIT */
/* Random event sequences for a shadow MMU with two processors, checked step by step against
 * the oracle, and shrunk when they fail. */
#ifndef TESTS_UNIT_MMU_EVENTS_H
#define TESTS_UNIT_MMU_EVENTS_H

#include "mmu_world.h"
#include "shadowpt-sim/shadow_internal.h"

#include <errno.h>
#include <inttypes.h>

enum event_kind {
    EVENT_ACCESS,
    EVENT_STORE,   /* the guest writes a table entry through some mapping */
    EVENT_EMULATE, /* the hypervisor writes 1 to 8 bytes anywhere in a table */
    EVENT_CR3,
    EVENT_INVLPG,
    EVENT_INVPCID,
    EVENT_MODE,
    EVENT_PKRU,
    EVENT_EVICT,
    EVENT_SLOT, /* a memslot goes, comes, or comes back elsewhere */
    EVENT_ZAP,
};

struct event {
    enum event_kind kind;
    unsigned vcpu;
    uint64_t a, b;
    uint32_t c;
};

#define EVENT_VCPUS 2
#define EVENT_GVAS  16

struct events_config {
    enum shadow_policy policy;
    bool tlb;        /* with a model of the hardware's TLB in front */
    bool audit;      /* every invariant after every step */
    bool stores;     /* permitted writes to tables through the guest's mappings happen */
    bool keep_pages; /* ignore EVENT_EVICT and EVENT_ZAP */
    uint64_t seed;
};

static inline struct event event_make(uint64_t *rng)
{
    unsigned dice = rng_below(rng, 1000);
    struct event event = { EVENT_ACCESS, rng_below(rng, EVENT_VCPUS), rng_next(rng),
                           rng_next(rng), (uint32_t)rng_next(rng) };

    if (dice < 700) {
        event.kind = EVENT_ACCESS;
    } else if (dice < 850) {
        event.kind = EVENT_STORE;
    } else if (dice < 860) {
        event.kind = EVENT_EMULATE;
    } else if (dice < 905) {
        event.kind = EVENT_CR3;
    } else if (dice < 962) {
        event.kind = EVENT_INVLPG;
    } else if (dice < 970) {
        event.kind = EVENT_INVPCID;
    } else if (dice < 975) {
        event.kind = EVENT_MODE;
    } else if (dice < 980) {
        event.kind = EVENT_PKRU;
    } else if (dice < 996) {
        event.kind = EVENT_EVICT;
    } else if (dice < 999) {
        event.kind = EVENT_SLOT;
    } else {
        event.kind = EVENT_ZAP;
    }
    return event;
}

/* ---- What a processor may still remember ----------------------------------------------------- */

/* Between flushes a translation may be stale (SDM 4.10.2). So for every address of the pool we
 * keep all translations that the tables gave since the guest last flushed it. */
#define PAST_MAX 24

struct past {
    unsigned count;
    bool overflow; /* too many: anything goes */
    struct past_one {
        uint64_t frame;
        bool writable, user, executable, global;
        unsigned shift, key;
    } one[PAST_MAX];
};

/* An address space: CR3 and PCID under one set of registers. */
struct context {
    bool valid;
    uint64_t cr3, pdpte[4];
    struct past past[EVENT_GVAS];
};

#define CONTEXTS 6
#define TLB_SIZE 32

struct cached { /* a TLB entry */
    bool valid;
    unsigned context;
    uint64_t gva; /* of its first byte */
    struct mmu_translation to;
};

struct processor {
    struct shadow_vcpu *vcpu;
    unsigned current;
    struct context context[CONTEXTS];
    struct cached tlb[TLB_SIZE];
};

struct run {
    struct events_config config;
    struct world world;
    struct shadow_mmu *mmu;
    struct processor processor[EVENT_VCPUS];
    uint64_t gva[EVENT_GVAS];
    enum world_format format; /* mostly */
    bool slot_moved[ARRAY_SIZE(world_slots)];
    uint64_t step;
    struct shadow_result last; /* of the last access */
    struct shadow_stats total; /* over all runs played with this struct */
    char why[512];
};

#define BAD(run, ...) (snprintf((run)->why, sizeof((run)->why), __VA_ARGS__), false)

static inline void past_add(struct past *past, const struct oracle_result *now)
{
    struct past_one one = { now->gpa >> 12, now->writable, now->user, now->executable,
                            now->global,    now->shift,    now->key };

    if (!now->mapped) {
        return;
    }
    for (unsigned i = 0; i < past->count; i++) {
        const struct past_one *p = &past->one[i];

        if (p->frame == one.frame && p->writable == one.writable && p->user == one.user &&
            p->executable == one.executable && p->global == one.global &&
            p->shift == one.shift && p->key == one.key) {
            return;
        }
    }
    if (past->count == PAST_MAX) {
        past->overflow = true;
        return;
    }
    past->one[past->count++] = one;
}

static inline struct oracle_cpu run_oracle(const struct run *run,
                                           const struct processor *processor,
                                           const struct context *context)
{
    struct mmu_mode mode = *shadow_vcpu_mode(processor->vcpu);

    mode.cr3 = context->cr3;
    memcpy(mode.pdpte, context->pdpte, sizeof(mode.pdpte));
    return world_oracle(&run->world, &mode);
}

static inline void past_now(struct run *run, struct processor *processor,
                            struct context *context, unsigned g)
{
    static const struct oracle_access any = { .kind = ORACLE_READ };
    struct oracle_cpu cpu = run_oracle(run, processor, context);
    struct oracle_result now = oracle_walk(&cpu, &any, run->gva[g]);

    past_add(&context->past[g], &now);
}

static inline bool keeps_past(const struct run *run)
{
    return run->config.tlb || run->config.policy != SHADOW_WP;
}

/* Tables changed: what every address space now translates to joins its past. */
static inline void past_all(struct run *run)
{
    if (!keeps_past(run)) {
        return;
    }
    for (unsigned v = 0; v < EVENT_VCPUS; v++) {
        for (unsigned c = 0; c < CONTEXTS; c++) {
            struct context *context = &run->processor[v].context[c];

            for (unsigned g = 0; g < EVENT_GVAS && context->valid; g++) {
                past_now(run, &run->processor[v], context, g);
            }
        }
    }
}

/* The guest flushed a context: nothing old may be seen, but global translations where
 * @keep_global. */
static inline void past_flush(struct run *run, struct processor *processor,
                              struct context *context, bool keep_global)
{
    for (unsigned g = 0; g < EVENT_GVAS && keeps_past(run); g++) {
        struct past *past = &context->past[g];
        unsigned kept = 0;

        past->overflow = past->overflow && keep_global;
        for (unsigned i = 0; i < past->count; i++) {
            if (keep_global && past->one[i].global) {
                past->one[kept++] = past->one[i];
            }
        }
        past->count = kept;
        past_now(run, processor, context, g);
    }
}

/* The guest flushed one address: every translation whose page holds it. */
static inline void past_flush_page(struct run *run, struct processor *processor,
                                   struct context *context, uint64_t gva,
                                   bool global_only)
{
    for (unsigned g = 0; g < EVENT_GVAS && keeps_past(run); g++) {
        struct past *past = &context->past[g];
        unsigned kept = 0;

        for (unsigned i = 0; i < past->count; i++) {
            unsigned shift = past->one[i].shift;

            if ((run->gva[g] >> shift != gva >> shift) ||
                (global_only && !past->one[i].global)) {
                past->one[kept++] = past->one[i];
            }
        }
        past->count = kept;
        if (run->gva[g] >> 12 == gva >> 12 && !global_only) {
            past->overflow = false;
        }
        past_now(run, processor, context, g);
    }
}

/* Whether a stale translation explains that @access went to @hpa. Upper and leaf entries may
 * be of different ages, so rights may be pieced together from several moments. */
static inline bool past_explains(const struct run *run, const struct processor *processor,
                                 unsigned g, uint64_t gva, uint32_t access, uint64_t hpa)
{
    const struct context *context = &processor->context[processor->current];
    const struct past *past = &context->past[g];
    struct oracle_cpu cpu = run_oracle(run, processor, context);
    struct oracle_access how = world_oracle_access(access);
    bool writable = false, executable = false, user[2] = { false, false };
    bool frame_seen = false;

    if (past->overflow) {
        return true;
    }
    for (unsigned i = 0; i < past->count; i++) {
        const struct past_one *one = &past->one[i];
        uint64_t gpa = one->frame << 12 | (gva & 4095);
        const struct mmu_slot *slot = mmu_slots_find(&run->world.slots, gpa);

        frame_seen |= slot != NULL && mmu_slot_hpa(slot, gpa) == hpa;
        writable |= one->writable;
        executable |= one->executable;
        user[one->user] = true;
    }
    if (!frame_seen) {
        return false;
    }
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = 0; k < past->count && user[i]; k++) {
            struct oracle_result as = { .mapped = true,
                                        .writable = writable,
                                        .executable = executable,
                                        .user = i,
                                        .key = past->one[k].key };

            if (oracle_rights(&cpu, &how, &as) && !oracle_key_forbids(&cpu, &how, &as)) {
                return true;
            }
        }
    }
    return false;
}

/* ---- The TLB in front --------------------------------------------------------------------------- */

static inline void tlb_flush(void *data, int vcpu, uint64_t gva)
{
    struct run *run = data;

    (void)gva;
    for (int v = 0; v < EVENT_VCPUS; v++) {
        if (vcpu == SHADOW_ALL_VCPUS || vcpu == v) {
            memset(run->processor[v].tlb, 0, sizeof(run->processor[v].tlb));
        }
    }
}

static inline void tlb_drop_context(struct processor *processor, unsigned context)
{
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        if (processor->tlb[i].context == context) {
            processor->tlb[i].valid = false;
        }
    }
}

static inline void tlb_drop_page(struct processor *processor, uint64_t gva)
{
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        struct cached *cached = &processor->tlb[i];

        if (gva >> cached->to.shift == cached->gva >> cached->to.shift) {
            cached->valid = false;
        }
    }
}

static inline struct cached *tlb_find(struct processor *processor, uint64_t gva)
{
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        struct cached *cached = &processor->tlb[i];

        if (cached->valid && cached->context == processor->current &&
            gva >> cached->to.shift == cached->gva >> cached->to.shift) {
            return cached;
        }
    }
    return NULL;
}

/* One access as the processor does it: TLB, shadow tables, fault handler. */
static inline enum shadow_outcome run_access(struct run *run, struct processor *processor,
                                             uint64_t gva, uint32_t access,
                                             struct shadow_result *result)
{
    const struct mmu_mode *hardware = shadow_vcpu_hardware(processor->vcpu);
    uint64_t linear = hardware->format == MMU_FORMAT_LONG ? gva : (uint32_t)gva;
    struct cached *cached;
    enum shadow_outcome outcome;

    if (!run->config.tlb) {
        return shadow_access(processor->vcpu, gva, access, result);
    }
    cached = tlb_find(processor, linear);
    if (cached != NULL && mmu_translation_allows(hardware, &cached->to, access)) {
        *result = (struct shadow_result){ .outcome = SHADOW_OK, .event = SHADOW_EVENTS };
        result->to = cached->to;
        result->hpa =
            cached->to.page | (linear & (((uint64_t)1 << cached->to.shift) - 1));
        return SHADOW_OK;
    }
    if (cached != NULL) {
        cached->valid = false; /* a fault drops the entry (SDM 4.10.4.1) */
    }
    outcome = shadow_access(processor->vcpu, gva, access, result);
    if (outcome == SHADOW_OK) {
        processor->tlb[run->step % TLB_SIZE] =
            (struct cached){ true, processor->current, linear, result->to };
    }
    return outcome;
}

/* ---- Checking an access -------------------------------------------------------------------------- */

static inline bool in_rom(uint64_t gpa)
{
    return gpa - world_slots[2].gpa < world_slots[2].size;
}

/* After an exit the guest's tables were walked: everything must be as the oracle says. */
static inline bool check_exit(struct run *run, struct processor *processor,
                              uint32_t access, const struct oracle_result *want,
                              const struct shadow_result *got)
{
    const struct mmu_mode *mode = shadow_vcpu_mode(processor->vcpu);
    const struct mmu_slot *slot;
    bool emulate;

    if (want->end != ORACLE_OK) {
        static const uint8_t outcome[] = { [ORACLE_PF] = SHADOW_FAULT,
                                           [ORACLE_GP] = SHADOW_NONCANONICAL,
                                           [ORACLE_NO_MEMORY] = SHADOW_UNBACKED };

        if (got->outcome != outcome[want->end] ||
            (want->end == ORACLE_PF && got->error_code != want->error)) {
            return BAD(run, "outcome %u error %#x, should be %u error %#x", got->outcome,
                       got->error_code, outcome[want->end], want->error);
        }
        return true;
    }
    slot = mmu_slots_find(&run->world.slots, want->gpa);
    if (got->gpa != want->gpa) {
        return BAD(run, "GPA %#" PRIx64 ", should be %#" PRIx64 " (outcome %u error %#x)",
                   got->gpa, want->gpa, got->outcome, got->error_code);
    }
    if (slot == NULL || (slot->readonly && (access & MMU_WRITE))) {
        return got->outcome == SHADOW_MMIO ||
               BAD(run, "outcome %u, not MMIO", got->outcome);
    }
    emulate = (access & MMU_WRITE) && !(mode->cr0 & CR0_WP) && want->user &&
              (mode->cr4 & (CR4_SMAP | CR4_PKE));
    switch (got->outcome) {
    case SHADOW_OK:
        return got->hpa == mmu_slot_hpa(slot, want->gpa) ||
               BAD(run, "HPA %#" PRIx64 " is not that of GPA %#" PRIx64, got->hpa,
                   want->gpa);
    case SHADOW_TABLE_WRITE:
        return ((access & MMU_WRITE) && frame_protected(run->mmu, want->gpa >> 12)) ||
               BAD(run, "table write at GPA %#" PRIx64 ", no table", want->gpa);
    case SHADOW_EMULATE:
        return emulate || BAD(run, "emulation without need at GPA %#" PRIx64, want->gpa);
    default:
        return BAD(run, "outcome %u error %#x at GPA %#" PRIx64 ", which is permitted",
                   got->outcome, got->error_code, want->gpa);
    }
}

/* Without an exit: as the tables are now, or as they were since the last flush. */
static inline bool check_silent(struct run *run, struct processor *processor, unsigned g,
                                uint64_t gva, uint32_t access,
                                const struct oracle_result *want,
                                const struct shadow_result *got)
{
    const struct mmu_slot *slot = NULL;

    if (!mmu_slots_own_hpa(&run->world.slots, got->hpa, 1)) {
        return BAD(run, "HPA %#" PRIx64 " outside all slots", got->hpa);
    }
    if (want->end == ORACLE_OK) {
        slot = mmu_slots_find(&run->world.slots, want->gpa);
    }
    if (slot != NULL && got->hpa == mmu_slot_hpa(slot, want->gpa)) {
        for (unsigned i = 0; i < want->count && !keeps_past(run); i++) {
            if (want->becomes[i] != want->was[i] && !in_rom(want->where[i])) {
                return BAD(run, "no exit, but A or D is to be set at %#" PRIx64,
                           want->where[i]);
            }
        }
        return true;
    }
    if (!keeps_past(run)) {
        return BAD(run,
                   "HPA %#" PRIx64 " from stale tables (oracle: end %u GPA %#" PRIx64 ")",
                   got->hpa, want->end, want->gpa);
    }
    return past_explains(run, processor, g, gva, access, got->hpa) ||
           BAD(run, "HPA %#" PRIx64 " was never right since the last flush", got->hpa);
}

/* A and D in memory as the oracle says; the model follows. */
static inline bool check_marks(struct run *run, const struct processor *processor,
                               const struct oracle_result *want, bool exited)
{
    unsigned size =
        shadow_vcpu_mode(processor->vcpu)->format == MMU_FORMAT_LEGACY ? 4 : 8;

    for (unsigned i = 0; i < want->count; i++) {
        uint64_t now = 0, then = exited ? want->becomes[i] : want->was[i];

        if (in_rom(want->where[i]) || world_memory(&run->world, want->where[i]) == NULL) {
            continue;
        }
        memcpy(&now, world_memory(&run->world, want->where[i]), size);
        if (now != then) {
            return BAD(run, "entry at %#" PRIx64 " is %#" PRIx64 ", should be %#" PRIx64,
                       want->where[i], now, then);
        }
        world_model(&run->world, want->where[i], size, then);
    }
    return true;
}

/* ---- Events ---------------------------------------------------------------------------------------- */

/* The guest stores @value (8 or 4 bytes) through a mapping that lets it, or is trapped. */
static inline void run_store(struct run *run, uint64_t gpa, unsigned size, uint64_t value)
{
    bool trapped = frame_protected(run->mmu, gpa >> 12);

    if (trapped) {
        uint32_t node = frames_find(&run->mmu->frames, gpa >> 12, 1);

        trapped = !run->mmu->policy->may_write(run->mmu, node);
    }
    if (trapped) {
        shadow_write(run->mmu, gpa, size, value);
    } else {
        mmu_store(&run->world.ram.memory, gpa, size, value);
    }
    world_model(&run->world, gpa, size, value);
    past_all(run);
}

/* The guest's write went through: if to a table, the table changes. */
static inline void access_stores(struct run *run, const struct shadow_result *got,
                                 uint64_t rng)
{
    for (unsigned i = 0; i < WORLD_TABLES; i++) {
        const struct mmu_slot *slot =
            mmu_slots_find(&run->world.slots, run->world.table[i]);
        uint64_t gpa = run->world.table[i], offset, value;

        if (slot == NULL) {
            continue;
        }
        if (got->outcome == SHADOW_OK) {
            offset = got->hpa - mmu_slot_hpa(slot, gpa);
        } else {
            offset = got->gpa - gpa;
        }
        if (offset >= 4096) {
            continue;
        }
        value =
            world_entry(&run->world, &rng, world_level[i], run->format != WORLD_LEGACY);
        if (got->outcome == SHADOW_OK) {
            mmu_store(&run->world.ram.memory, gpa + offset, 8, value);
        } else {
            shadow_write(run->mmu, gpa + offset, 8, value);
        }
        world_model(&run->world, gpa + offset, 8, value);
        past_all(run);
        return;
    }
}

static inline bool event_access(struct run *run, struct processor *processor,
                                const struct event *event)
{
    unsigned g = (unsigned)(event->a % EVENT_GVAS);
    uint64_t gva = run->gva[g] | (event->b & 0xff8), rng = event->a;
    uint32_t access = world_access(&rng);
    struct oracle_cpu cpu =
        run_oracle(run, processor, &processor->context[processor->current]);
    struct oracle_access how = world_oracle_access(access);
    struct oracle_result want = oracle_walk(&cpu, &how, gva);
    struct shadow_result got;
    bool exited, good;

    run_access(run, processor, gva, access, &got);
    run->last = got;
    exited = got.event != SHADOW_EVENTS;
    good = exited ? check_exit(run, processor, access, &want, &got)
                  : check_silent(run, processor, g, gva, access, &want, &got);
    if (!good || !check_marks(run, processor, &want, exited)) {
        return false;
    }
    if (run->config.stores && (access & MMU_WRITE) &&
        (got.outcome == SHADOW_OK || got.outcome == SHADOW_TABLE_WRITE ||
         got.outcome == SHADOW_EMULATE)) {
        access_stores(run, &got, event->b);
    }
    return true;
}

static inline bool event_store(struct run *run, const struct event *event)
{
    static const uint8_t flips[12] = { 0, 1, 1, 2, 2, 5, 5, 6, 6, 8, 9, 63 };
    uint64_t rng = event->a;
    bool wide = rng_percent(&rng, run->format == WORLD_LEGACY ? 10 : 95);
    unsigned size = wide ? 8 : 4, table = rng_below(&rng, WORLD_TABLES);
    uint64_t gpa = run->world.table[table] + world_index(&rng, 4096 / size) * size;
    uint64_t value = world_entry(&run->world, &rng, world_level[table], wide);

    if (rng_percent(&rng, 50)) { /* change one bit only: protections, A, D */
        uint64_t now = 0;

        memcpy(&now, world_memory(&run->world, gpa), size);
        value = now ^ (uint64_t)1 << flips[rng_below(&rng, 12)] % (8 * size);
    }
    run_store(run, gpa, size, value);
    return true;
}

static inline bool event_emulate(struct run *run, const struct event *event)
{
    uint64_t rng = event->a;
    unsigned size = 1 + rng_below(&rng, 8), table = rng_below(&rng, WORLD_TABLES);
    bool wild = rng_percent(&rng, 15);
    unsigned offset = world_index(&rng, 512) * 8 + (wild ? rng_below(&rng, 8) : 0);
    uint64_t gpa, value = event->b;

    if (offset + size > 4096) {
        offset = 4096 - size;
    }
    gpa = run->world.table[table] + offset;
    if (!wild) {
        value = world_entry(&run->world, &rng, world_level[table], true);
    }
    shadow_write(run->mmu, gpa, size, value);
    world_model(&run->world, gpa, size, value);
    past_all(run);
    return true;
}

static inline bool same_space(const struct context *a, const struct context *b)
{
    return a->cr3 == b->cr3 && memcmp(a->pdpte, b->pdpte, sizeof(a->pdpte)) == 0;
}

/* Find or make the context for the registers as they are now. */
static inline void context_enter(struct run *run, struct processor *processor, bool flush)
{
    const struct mmu_mode *mode = shadow_vcpu_mode(processor->vcpu);
    bool pcide = mode->format == MMU_FORMAT_LONG && (mode->cr4 & CR4_PCIDE);
    uint64_t pcid = pcide ? mode->cr3 & 0xfff : 0;
    static struct context now;
    unsigned place = CONTEXTS;

    memset(&now, 0, sizeof(now));
    now.valid = true;
    now.cr3 = mode->cr3;
    memcpy(now.pdpte, mode->pdpte, sizeof(now.pdpte));
    for (unsigned i = 0; i < CONTEXTS; i++) {
        struct context *context = &processor->context[i];

        if (!context->valid) {
            continue;
        }
        if (same_space(context, &now)) {
            place = i;
        } else if (flush && (!pcide || (context->cr3 & 0xfff) == pcid)) {
            context->valid = false;
            tlb_drop_context(processor, i);
        }
    }
    if (place == CONTEXTS) {
        for (place = 0; place < CONTEXTS - 1 && processor->context[place].valid;
             place++) {
        }
        tlb_drop_context(processor, place);
        processor->context[place] = now;
        past_flush(run, processor, &processor->context[place], false);
    } else if (flush) {
        past_flush(run, processor, &processor->context[place], true);
        tlb_drop_context(processor, place);
    }
    processor->current = place;
}

static inline bool check_synced(struct run *run, struct processor *processor)
{
    struct umbra_error error;

    if (run->config.audit && shadow_audit_synced(processor->vcpu, &error) != 0) {
        return BAD(run, "%.400s", error.message);
    }
    return true;
}

/* We can remember only so many address spaces: let the guest forget them all. */
static inline void contexts_make_room(struct run *run, struct processor *processor)
{
    unsigned used = 0;

    for (unsigned i = 0; i < CONTEXTS; i++) {
        used += processor->context[i].valid;
    }
    if (used < CONTEXTS) {
        return;
    }
    shadow_invpcid(processor->vcpu, INVPCID_ALL, 0, 0);
    memset(processor->tlb, 0, sizeof(processor->tlb));
    for (unsigned i = 0; i < CONTEXTS; i++) {
        processor->context[i].valid = i == processor->current;
    }
    past_flush(run, processor, &processor->context[processor->current], false);
}

static inline bool event_cr3(struct run *run, struct processor *processor,
                             const struct event *event)
{
    uint64_t rng = event->a;
    struct mmu_mode mode = *shadow_vcpu_mode(processor->vcpu);
    bool pcide = mode.format == MMU_FORMAT_LONG && (mode.cr4 & CR4_PCIDE);
    uint64_t cr3 =
        run->world.table[rng_below(&rng, rng_percent(&rng, 80) ? 3 : WORLD_TABLES)];
    bool keep = rng_percent(&rng, 60);
    struct oracle_cpu cpu;
    int err;

    if (pcide) {
        cr3 |= keep ? CR3_NOFLUSH : 0;
    }
    contexts_make_room(run, processor);
    err = shadow_load_cr3(processor->vcpu, cr3);
    mode.cr3 = cr3;
    cpu = world_oracle(&run->world, &mode);
    if (mode.format == MMU_FORMAT_PAE && !oracle_load_pdptes(&cpu)) {
        return err == -EINVAL || BAD(run, "PDPTEs with reserved bits were accepted");
    }
    if (err != 0) {
        return BAD(run, "CR3 load: error %d", err);
    }
    if (mode.format == MMU_FORMAT_PAE &&
        memcmp(cpu.pdpte, shadow_vcpu_mode(processor->vcpu)->pdpte, sizeof(cpu.pdpte)) !=
            0) {
        return BAD(run, "PDPTEs were loaded wrongly");
    }
    context_enter(run, processor, !(pcide && keep));
    return (pcide && keep) || check_synced(run, processor);
}

static inline bool event_invlpg(struct run *run, struct processor *processor,
                                const struct event *event)
{
    const struct mmu_mode *mode = shadow_vcpu_mode(processor->vcpu);
    uint64_t gva = run->gva[event->a % EVENT_GVAS];

    shadow_invlpg(processor->vcpu, gva);
    if (!mmu_canonical(mode, gva)) {
        return true;
    }
    for (unsigned i = 0; i < CONTEXTS; i++) {
        if (processor->context[i].valid) {
            past_flush_page(run, processor, &processor->context[i], gva,
                            i != processor->current);
        }
    }
    tlb_drop_page(processor, mode->format == MMU_FORMAT_LONG ? gva : (uint32_t)gva);
    return true;
}

static inline bool event_invpcid(struct run *run, struct processor *processor,
                                 const struct event *event)
{
    const struct mmu_mode *mode = shadow_vcpu_mode(processor->vcpu);
    bool pcide = mode->format == MMU_FORMAT_LONG && (mode->cr4 & CR4_PCIDE);
    enum invpcid_type type = (enum invpcid_type)(event->b % 4);
    uint16_t pcid = (uint16_t)(pcide ? event->c % 3 : 0);
    uint64_t gva = run->gva[event->a % EVENT_GVAS];
    int err = shadow_invpcid(processor->vcpu, type, pcid, gva);

    if (type == INVPCID_ADDRESS && !mmu_canonical(mode, gva)) {
        return err == -EINVAL || BAD(run, "INVPCID of no address was accepted");
    }
    if (err != 0) {
        return BAD(run, "INVPCID: error %d", err);
    }
    for (unsigned i = 0; i < CONTEXTS; i++) {
        struct context *context = &processor->context[i];
        bool ours = !pcide || (context->cr3 & 0xfff) == pcid;

        if (!context->valid) {
            continue;
        }
        if (type == INVPCID_ADDRESS && ours) {
            past_flush_page(run, processor, context, gva, false);
        } else if (type >= INVPCID_ALL || (type == INVPCID_CONTEXT && ours)) {
            past_flush(run, processor, context, type != INVPCID_ALL);
        }
        if (type != INVPCID_ADDRESS || ours) {
            tlb_drop_context(processor, i);
        }
    }
    return true;
}

static inline bool event_mode(struct run *run, struct processor *processor,
                              const struct event *event)
{
    uint64_t rng = event->a;
    struct mmu_cpu cpu = shadow_vcpu_mode(processor->vcpu)->cpu;
    enum world_format format = rng_percent(&rng, 90) ? run->format : world_format(&rng);
    bool again = rng_percent(&rng, 40); /* the same registers once more: only a flush */
    struct mmu_mode mode = again ? *shadow_vcpu_mode(processor->vcpu)
                                 : world_mode(&run->world, &cpu, format, &rng);
    struct oracle_cpu oracle = world_oracle(&run->world, &mode);
    int err = shadow_set_mode(processor->vcpu, &mode);

    if (mode.format == MMU_FORMAT_PAE && !oracle_load_pdptes(&oracle)) {
        return err == -EINVAL || BAD(run, "PDPTEs with reserved bits were accepted");
    }
    if (err != 0) {
        return BAD(run, "mode change: error %d", err);
    }
    memset(processor->tlb, 0, sizeof(processor->tlb));
    for (unsigned i = 0; i < CONTEXTS; i++) {
        processor->context[i].valid = false;
    }
    context_enter(run, processor, true);
    return check_synced(run, processor);
}

static inline bool slot_add(struct run *run, unsigned i)
{
    struct mmu_slot slot = world_slots[i];

    run->slot_moved[i] = !run->slot_moved[i];
    slot.hpa += run->slot_moved[i] ? 0x2000000000 : 0;
    return mmu_slots_add(&run->world.slots, &slot) == 0 || BAD(run, "slot refused");
}

/* Mostly a slot moves; sometimes it stays away until the next such event. */
static inline bool event_slot(struct run *run, const struct event *event)
{
    unsigned chosen = (unsigned)(event->a % ARRAY_SIZE(world_slots));

    for (unsigned i = 0; i < ARRAY_SIZE(world_slots); i++) {
        if (mmu_slots_find(&run->world.slots, world_slots[i].gpa) == NULL) {
            return slot_add(run, i);
        }
    }
    shadow_slot_zap(run->mmu, world_slots[chosen].gpa, world_slots[chosen].size);
    if (mmu_slots_remove(&run->world.slots, world_slots[chosen].gpa) != 0) {
        return BAD(run, "slot stuck");
    }
    return event->b % 4 == 0 || slot_add(run, chosen);
}

static inline bool run_event(struct run *run, const struct event *event)
{
    struct processor *processor = &run->processor[event->vcpu];
    struct umbra_error error;
    bool good = true;

    switch (event->kind) {
    case EVENT_ACCESS:
        good = event_access(run, processor, event);
        break;
    case EVENT_STORE:
        good = event_store(run, event);
        break;
    case EVENT_EMULATE:
        good = event_emulate(run, event);
        break;
    case EVENT_CR3:
        good = event_cr3(run, processor, event);
        break;
    case EVENT_INVLPG:
        good = event_invlpg(run, processor, event);
        break;
    case EVENT_INVPCID:
        good = event_invpcid(run, processor, event);
        break;
    case EVENT_MODE:
        good = event_mode(run, processor, event);
        break;
    case EVENT_PKRU: {
        uint64_t rng = event->a;

        shadow_set_pkru(processor->vcpu, world_pkru(&rng));
        break;
    }
    case EVENT_EVICT:
        if (!run->config.keep_pages) {
            shadow_evict(run->mmu, event->c);
        }
        break;
    case EVENT_SLOT:
        good = event_slot(run, event);
        break;
    case EVENT_ZAP:
        if (!run->config.keep_pages) {
            shadow_zap_all(run->mmu);
        }
        break;
    }
    if (good && run->config.audit && shadow_audit(run->mmu, &error) != 0) {
        good = BAD(run, "%.400s", error.message);
    }
    if (good && (run->config.audit || run->step % 256 == 0) &&
        !world_as_modelled(&run->world)) {
        good = BAD(run, "table memory changed behind the model");
    }
    return good;
}

/* ---- A run -------------------------------------------------------------------------------------------- */

static inline bool run_begin(struct run *run)
{
    uint64_t rng = run->config.seed;
    struct mmu_cpu cpu = world_cpu(&rng);
    struct shadow_config config = { .memory = &run->world.ram.memory,
                                    .slots = &run->world.slots,
                                    .policy = run->config.policy,
                                    .hooks = { run, tlb_flush },
                                    .pool_pages = rng_percent(&rng, 50) ? 64 : 1024,
                                    .pool_hpa = 0x9000000000,
                                    .flood_limit = rng_percent(&rng, 50) ? 255 : 3,
                                    .max_level = (uint8_t)(1 + rng_below(&rng, 3)) };

    if (world_init(&run->world) != 0 || shadow_create(&config, &run->mmu) != 0) {
        return BAD(run, "cannot set up");
    }
    run->format = world_format(&rng);
    world_fill(&run->world, &rng, run->format == WORLD_LEGACY ? 90 : 5);
    for (unsigned g = 0; g < EVENT_GVAS; g++) {
        run->gva[g] = world_gva(&rng, run->format) & ~0xfffull;
    }
    for (unsigned v = 0; v < EVENT_VCPUS; v++) {
        if (shadow_vcpu_create(run->mmu, &cpu, &run->processor[v].vcpu) != 0) {
            return BAD(run, "cannot make processors");
        }
        context_enter(run, &run->processor[v], true);
    }
    return true;
}

/* Play @count events; the number of the one that failed, or @count. */
static inline size_t run_play(struct run *run, const struct events_config *config,
                              const struct event *events, size_t count)
{
    struct shadow_stats total = run->total;
    size_t i = 0;

    memset(run, 0, sizeof(*run));
    run->total = total;
    run->config = *config;
    if (run_begin(run)) {
        for (i = 0; i < count; i++) {
            run->step = i;
            if (!run_event(run, &events[i])) {
                break;
            }
        }
    }
    for (unsigned e = 0; e < SHADOW_EVENTS && run->mmu != NULL; e++) {
        run->total.count[e] += shadow_stats(run->mmu)->count[e];
    }
    shadow_destroy(run->mmu);
    world_destroy(&run->world);
    return i;
}

static inline void events_make(struct event *events, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        events[i] = event_make(&seed);
        if (i < EVENT_VCPUS) {
            events[i].kind = EVENT_MODE;
            events[i].vcpu = (unsigned)i;
        }
    }
}

/* ---- Shrinking ------------------------------------------------------------------------------------------ */

static inline void event_print(size_t at, const struct event *event)
{
    static const char *const names[] = { "access", "store",   "emulate", "cr3",
                                         "invlpg", "invpcid", "mode",    "pkru",
                                         "evict",  "slot",    "zap" };

    fprintf(stderr, "  %3zu: vcpu %u %s a=%#" PRIx64 " b=%#" PRIx64 " c=%#x\n", at,
            event->vcpu, names[event->kind], event->a, event->b, event->c);
}

/* Leave out ever smaller parts as long as the rest still fails; then say what remains. */
static inline void run_shrink(struct run *run, const struct events_config *config,
                              struct event *events, size_t count)
{
    struct event *fewer = malloc(count * sizeof(*fewer));

    for (size_t part = count / 2; part > 0 && fewer != NULL; part /= 2) {
        for (size_t from = 0; from + part <= count;) {
            size_t rest = count - from - part, at;

            memcpy(fewer, events, from * sizeof(*fewer));
            memcpy(fewer + from, events + from + part, rest * sizeof(*fewer));
            at = run_play(run, config, fewer, count - part);
            if (at < count - part) { /* it still fails, and no later than at @at */
                count = at + 1;
                memcpy(events, fewer, count * sizeof(*fewer));
            } else {
                from += part;
            }
        }
    }
    free(fewer);
    run_play(run, config, events, count);
    fprintf(stderr,
            "policy %s tlb %d stores %d seed %" PRIu64 ", shrunk to %zu events:\n",
            shadow_policy_name(config->policy), config->tlb, config->stores, config->seed,
            count);
    for (size_t i = 0; i < count; i++) {
        event_print(i, &events[i]);
    }
    fprintf(stderr, "  %s\n", run->why);
}

/* @steps events from @seed on, in runs of a few thousand. 0, or -1 after a report. */
static inline int events_check(struct events_config config, uint64_t steps, uint64_t seed,
                               struct shadow_stats *total)
{
    enum { RUN = 3000 };
    static struct event events[RUN];
    struct run *run = malloc(sizeof(*run));
    int err = run == NULL ? -1 : 0;

    if (run != NULL) {
        memset(&run->total, 0, sizeof(run->total));
    }
    for (uint64_t done = 0; done < steps && err == 0; done += RUN) {
        config.seed = seed++;
        events_make(events, RUN, config.seed);
        size_t at = run_play(run, &config, events, RUN);
        if (at < RUN) {
            run_shrink(run, &config, events, at + 1);
            err = -1;
        }
    }
    if (run != NULL) {
        *total = run->total;
    }
    free(run);
    return err;
}

#endif
