/* SPDX-License-Identifier: MIT */
/* Random events for a shadow MMU, each checked against the oracle. */
#ifndef TESTS_UNIT_MMU_EVENTS_H
#define TESTS_UNIT_MMU_EVENTS_H

#include "mmu_run.h"

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
    EVENT_TICK,   /* an interval ends */
    EVENT_SWITCH, /* a table is made nested, or shadowed, by decree */
};

struct event {
    enum event_kind kind;
    unsigned vcpu;
    uint64_t a, b;
    uint32_t c;
};

static inline struct event event_make(uint64_t *rng)
{
    unsigned dice = rng_below(rng, 1000);
    struct event event = { EVENT_ACCESS, rng_below(rng, EVENT_VCPUS), rng_next(rng),
                           rng_next(rng), (uint32_t)rng_next(rng) };

    if (dice < 690) {
        event.kind = EVENT_ACCESS;
    } else if (dice < 694) {
        event.kind = EVENT_TICK;
    } else if (dice < 700) {
        event.kind = EVENT_SWITCH;
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
        if (got->to.cache != want->cache || got->to.global != want->global ||
            (mode->pkeys && got->to.pkey != want->key) || got->to.shift > 12 + 9 * 2 ||
            (want->count > 0 && got->to.shift > want->shift)) {
            return BAD(run, "attributes of HPA %#" PRIx64 " are not the guest's",
                       got->hpa);
        }
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
        bool agile = run->config.policy == SHADOW_AGILE; /* the processor sets them */

        for (unsigned i = 0; i < want->count && !keeps_past(run) && !agile; i++) {
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

/* After an exit that ended well the tables serve the access. */
static inline bool check_served(struct run *run, const struct processor *processor,
                                uint64_t gva, uint32_t access,
                                const struct shadow_result *got)
{
    struct mmu_translation to;

    if (got->event == SHADOW_EVENTS || got->outcome != SHADOW_OK) {
        return true;
    }
    if (shadow_vcpu_mode(processor->vcpu)->format != MMU_FORMAT_LONG) {
        gva = (uint32_t)gva;
    }
    if (!shadow_translate(processor->vcpu, gva, access, &to)) {
        return BAD(run, "the tables do not serve the access to HPA %#" PRIx64 ", exit %u",
                   got->hpa, got->event);
    }
    if (to.page != got->to.page || to.shift != got->to.shift ||
        to.perms != got->to.perms || to.pkey != got->to.pkey ||
        to.cache != got->to.cache || to.global != got->to.global ||
        to.dirty != got->to.dirty) {
        return BAD(run,
                   "page %#" PRIx64 " shift %u perms %u dirty %u, promised %#" PRIx64
                   " %u %u %u (exit %u)",
                   to.page, to.shift, to.perms, to.dirty, got->to.page, got->to.shift,
                   got->to.perms, got->to.dirty, got->event);
    }
    return got->hpa == (to.page | (gva & (((uint64_t)1 << to.shift) - 1))) ||
           BAD(run, "HPA %#" PRIx64 " is not in its page", got->hpa);
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
    bool exited, marked, good;

    run_access(run, processor, gva, access, &got);
    run->last = got;
    /* The processor may deliver a fault, and set flags, by itself where it walks nested. */
    exited = got.event != SHADOW_EVENTS || got.outcome == SHADOW_FAULT;
    marked = exited || (run->config.policy == SHADOW_AGILE && run->walked);
    good = exited ? check_exit(run, processor, access, &want, &got)
                  : check_silent(run, processor, g, gva, access, &want, &got);
    if (!good || !check_marks(run, processor, &want, marked) ||
        !check_served(run, processor, gva, access, &got)) {
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
    struct oracle_cpu oracle;
    int err;

    if (run->config.modern && event->b % 4 != 0) {
        mode.cr0 |= CR0_WP;
        mode.efer |= EFER_NXE;
        mmu_mode_update(&mode);
    }
    oracle = world_oracle(&run->world, &mode);
    err = shadow_set_mode(processor->vcpu, &mode);

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
    case EVENT_TICK:
        shadow_tick(run->mmu);
        break;
    case EVENT_SWITCH:
        shadow_switch_table(run->mmu, run->world.table[event->a % WORLD_TABLES],
                            event->b % 4 != 0);
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

#endif
