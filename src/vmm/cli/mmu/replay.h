/* SPDX-License-Identifier: MIT */
/* umbra mmu run --log. */
#ifndef VMM_CLI_MMU_REPLAY_H
#define VMM_CLI_MMU_REPLAY_H

#include <stdbool.h>
#include <stdio.h>

#include <umbra/umbra.h>

#include "shadowpt-sim/sim/sim.h"

struct mmu_replay {
    const char *log;
    const struct sim_config *config; /* costs, host pages, shadow pages */
    const bool *only;                /* by sim_kind; NULL: all */
    void (*report)(FILE *out, const struct sim_result *results, unsigned count);
    bool json;  /* instead, with the log's own members and KVM's statistics */
    bool quiet; /* no account of the log itself */
};

/* Map a log's bytes; munmap() them. 0 or -errno. */
int mmu_log_map(const char *path, void **bytes, size_t *size, struct umbra_error *error);

/* Replay and report; an exit status. */
int mmu_replay(const struct mmu_replay *options);

#endif
