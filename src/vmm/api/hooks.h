/* SPDX-License-Identifier: MIT */
/* The embedder's hooks on ports, MMIO and MSRs of one VM. */
#ifndef VMM_API_HOOKS_H
#define VMM_API_HOOKS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "vcpu/vcpu.h"

enum { HOOKS_MAX = 64 };

struct hook {
    uint32_t id;
    unsigned kinds; /* 0: a free place */
    uint64_t base, length;
    umbra_hook_fn fn;
    void *context;
};

struct event_hook {
    uint32_t id;
    unsigned kinds;
    char device[32]; /* "": all of them */
    umbra_event_fn fn;
    void *context;
};

struct hooks {
    pthread_rwlock_t lock; /* read while a hook runs, so removal waits for it */
    struct hook list[HOOKS_MAX];
    unsigned count;
    struct event_hook events[HOOKS_MAX];
    unsigned event_count;
    uint32_t next_id;
};

struct hooks *hooks_create(void);        /* NULL: no memory */
void hooks_destroy(struct hooks *hooks); /* NULL is fine */

/* vcpu_set_options.hook: context is the VM. */
bool hooks_access(void *context, struct vcpu *vcpu, enum exit_key_kind kind,
                  uint64_t address, unsigned size, uint64_t *value, bool *fault);

/* device_observer.tell and faults_options.fired: context is the VM. */
void hooks_observe(void *context, const struct umbra_event *event);
void hooks_fault(void *context, const struct umbra_fault_event *event);

#endif
