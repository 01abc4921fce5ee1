/* SPDX-License-Identifier: MIT */
/*
 * Guest debugging of one vCPU: single step, breakpoints and watchpoints in the processor
 * (KVM_SET_GUEST_DEBUG). Used while the gate is closed, and by the debug callback.
 */
#ifndef VCPU_DEBUG_H
#define VCPU_DEBUG_H

#include <stdbool.h>
#include <stdint.h>

#include "vcpu/vcpu.h"

enum { VCPU_DEBUG_REGISTERS = 4 };

enum vcpu_debug_kind {
    VCPU_DEBUG_STEP,
    VCPU_DEBUG_SOFTWARE, /* an int3 */
    VCPU_DEBUG_EXECUTE,  /* a debug register: execution, write, or any access */
    VCPU_DEBUG_WRITE,
    VCPU_DEBUG_ACCESS,
};

struct vcpu_debug {
    bool step;
    bool interrupts; /* a step may go into an interrupt's handler */
    bool software;   /* int3 exits instead of reaching the guest */
    bool
        inject_breakpoint; /* deliver a #BP at the next entry: the int3 was the guest's */
    unsigned count;
    struct {
        enum vcpu_debug_kind kind; /* EXECUTE, WRITE or ACCESS */
        uint64_t address;
        unsigned length; /* 1, 2, 4 or 8 */
    } registers[VCPU_DEBUG_REGISTERS];
};

/* Turn debugging on as @debug says; all zero turns it off. 0 or -errno. */
int vcpu_debug_set(struct vcpu *vcpu, const struct vcpu_debug *debug);

/* What a debug exit was about. */
struct vcpu_debug_stop {
    enum vcpu_debug_kind kind;
    uint64_t pc;
    uint64_t address; /* of the watched data, or pc */
};

/* Decode the KVM_EXIT_DEBUG that the vCPU is at; @debug is what was set. */
void vcpu_debug_decode(struct vcpu *vcpu, const struct vcpu_debug *debug,
                       struct vcpu_debug_stop *stop);

/* Whether this host's processor is one that QEMU emulates: its SVM lets neither int3 nor debug
 * registers leave a guest (QEMU assigns DR7 and treats int3 as INT n), only single steps. */
bool vcpu_debug_only_steps(void);

/* The instruction pointer. */
int vcpu_get_pc(struct vcpu *vcpu, uint64_t *pc);

#endif
