/* SPDX-License-Identifier: MIT */
/* A shadow MMU with two processors under test: what each may still remember, and a model of
 * its TLB. */
#ifndef TESTS_UNIT_MMU_RUN_H
#define TESTS_UNIT_MMU_RUN_H

#include "mmu_world.h"
#include "shadowpt-sim/shadow/internal.h"

#include <errno.h>
#include <inttypes.h>

#define EVENT_VCPUS 2
#define EVENT_GVAS  16

struct events_config {
    enum shadow_policy policy;
    bool tlb;        /* with a model of the hardware's TLB in front */
    bool audit;      /* every invariant after every step */
    bool stores;     /* permitted writes to tables through the guest's mappings happen */
    bool keep_pages; /* ignore EVENT_EVICT and EVENT_ZAP */
    bool modern;     /* mostly with CR0.WP and EFER.NXE, as agile paging wants it */
    uint64_t seed;
};

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
    bool walked;               /* the last access was not served by the TLB */
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
    return run->config.tlb ||
           (run->config.policy != SHADOW_WP && run->config.policy != SHADOW_AGILE);
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

static inline void tlb_flush(void *data)
{
    struct run *run = data;

    for (unsigned v = 0; v < EVENT_VCPUS; v++) {
        memset(run->processor[v].tlb, 0, sizeof(run->processor[v].tlb));
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

    run->walked = true;
    if (!run->config.tlb) {
        return shadow_access(processor->vcpu, gva, access, result);
    }
    cached = tlb_find(processor, linear);
    if (cached != NULL && mmu_translation_allows(hardware, &cached->to, access)) {
        run->walked = false;
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

#endif
