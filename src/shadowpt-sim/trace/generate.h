/* SPDX-License-Identifier: MIT */
/* Synthetic workloads. */
#ifndef SHADOWPT_SIM_TRACE_GENERATE_H
#define SHADOWPT_SIM_TRACE_GENERATE_H

#include "shadowpt-sim/sim/sim.h"

enum generate_kind {
    GENERATE_RANDOM,   /* random accesses to a large region */
    GENERATE_FORK,     /* fork storm: children write some pages and exit */
    GENERATE_CHURN,    /* mmap, touch, munmap, again and again */
    GENERATE_PINGPONG, /* two processes take turns */
    GENERATE_UPDATES,  /* random accesses with mprotect among them: for the crossover */
    GENERATE_KINDS,
};

struct generate_config {
    uint64_t bytes;    /* of the region */
    uint64_t accesses; /* to be measured, about */
    uint64_t seed;
    double updates; /* GENERATE_UPDATES: table updates an access */
    bool large;     /* 2 MiB pages */
};

const char *generate_name(enum generate_kind kind);
const char *generate_summary(enum generate_kind kind);
/* 0 or -EINVAL. */
int generate_parse(const char *name, enum generate_kind *kind);

/* The defaults of a kind. */
void generate_defaults(enum generate_kind kind, struct generate_config *config);

/* 0; -EINVAL: bytes or accesses are out of bounds; -ENOMEM. */
int generate_open(enum generate_kind kind, const struct generate_config *config,
                  struct sim_source **source);

static inline void sim_source_close(struct sim_source *source)
{
    if (source != NULL && source->destroy != NULL) {
        source->destroy(source);
    }
}

#endif
