/* SPDX-License-Identifier: MIT */
/* Breakpoints, watchpoints and single steps of one VM. */
#ifndef VMM_DEBUG_DEBUG_H
#define VMM_DEBUG_DEBUG_H

#include <stdbool.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "vcpu/debug.h"

enum { DEBUG_MAX_BREAKPOINTS = 256 };

struct debug_breakpoint {
    enum umbra_breakpoint_kind kind;
    uint64_t gva, gpa;
    unsigned length;
    bool placed;      /* gpa is known */
    uint64_t value;   /* WRITE: what was there at the last look; atomic */
    uint8_t original; /* SOFTWARE: the byte that the int3 replaced */
};

struct debug {
    struct debug_breakpoint list[DEBUG_MAX_BREAKPOINTS]; /* under control, gate closed */
    unsigned count;
    struct vcpu_debug active; /* what the vCPUs were told, without the step */
    bool only_steps;          /* vcpu_debug_only_steps() */
    bool stepped; /* the guest runs in steps, since KVM here does not stop it otherwise */
};

/* machine_events.vcpu_debug: a vCPU hit something. On its thread. */
void debug_hit(void *context, struct vcpu *vcpu);

/* machine_events.vcpu_int3: the same where int3 arrives as an emulation failure. */
bool debug_int3(void *context, struct vcpu *vcpu, uint64_t pc);

/* Before the gate opens: get every vCPU off the software breakpoint it stands on. The caller
 * holds control. */
int debug_step_over(struct umbra_vm *vm, struct umbra_error *error);

#endif
