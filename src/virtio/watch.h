/* SPDX-License-Identifier: MIT */
/*
 * Whether a queue that ran dry watches its ring for a while before it sleeps: a kick is an
 * exit of the guest and a wake-up here, which cost more than many a request. It does so
 * while two watches in three find something, and tries once in WATCH_PROBE sleeps whether
 * they would. Watching keeps a processor from the guest's, so not on hosts with one.
 */
#ifndef VIRTIO_WATCH_H
#define VIRTIO_WATCH_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"

enum {
    WATCH_NS = 50000,
    WATCH_ALWAYS_NS = 100000,
    WATCH_PROBE = 16,
    WATCH_HIT = 1,
    WATCH_MISS = 2,
    WATCH_SCORE_MAX = 8,
};

struct watch {
    bool never, always;
    uint64_t until; /* clock_ns(); 0: not watching */
    unsigned score, sleeps;
};

static inline void watch_init(struct watch *watch, bool always)
{
    cpu_set_t set;

    *watch = (struct watch){ .always = always };
    watch->never =
        !always && sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1;
}

/* There was nothing to do: look again, rather than sleep? */
static inline bool watch_goes_on(struct watch *watch)
{
    uint64_t now;

    if (!watch->always &&
        (watch->never || (watch->score == 0 && watch->sleeps % WATCH_PROBE != 0))) {
        return false;
    }
    now = clock_ns();
    if (watch->until == 0) {
        watch->until = now + (watch->always ? WATCH_ALWAYS_NS : WATCH_NS);
    }
    return now < watch->until;
}

/* There was something to do. */
static inline void watch_found(struct watch *watch)
{
    if (watch->until != 0) {
        watch->until = 0;
        watch->score += watch->score < WATCH_SCORE_MAX ? WATCH_HIT : 0;
    }
}

/* There was nothing: about to sleep. */
static inline void watch_missed(struct watch *watch)
{
    watch->sleeps++;
    if (watch->until != 0) {
        watch->until = 0;
        watch->score -= watch->score < WATCH_MISS ? watch->score : WATCH_MISS;
    }
}

#endif
