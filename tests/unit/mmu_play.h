/* SPDX-License-Identifier: MIT */
/* Sequences of random events: played from a seed, and shrunk when one fails. */
#ifndef TESTS_UNIT_MMU_PLAY_H
#define TESTS_UNIT_MMU_PLAY_H

#include "mmu_events.h"

/* ---- A run -------------------------------------------------------------------------------------------- */

static inline bool run_begin(struct run *run)
{
    uint64_t rng = run->config.seed;
    struct mmu_cpu cpu = world_cpu(&rng);
    uint32_t pool_least = run->config.policy == SHADOW_AGILE ? 128 : 64;
    struct shadow_config config = { .memory = &run->world.ram.memory,
                                    .slots = &run->world.slots,
                                    .policy = run->config.policy,
                                    .hooks = { run, tlb_flush },
                                    .pool_pages =
                                        rng_percent(&rng, 50) ? pool_least : 1024,
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
    static const char *const names[] = { "access",  "store", "emulate", "cr3",   "invlpg",
                                         "invpcid", "mode",  "pkru",    "evict", "slot",
                                         "zap",     "tick",  "switch" };

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
