/* SPDX-License-Identifier: MIT */
/* The private x86-64 part of a vCPU (struct vcpu's arch). */
#ifndef VCPU_X86_64_X86_H
#define VCPU_X86_64_X86_H

#include <stdint.h>

#include "vcpu/vcpu.h"

struct emulation;
struct vcpu_state;

enum { VCPU_MAX_NOTED_MSRS = 32 };

struct vcpu_x86 {
    struct vcpu_state *initial; /* what a reset goes back to */
    uint32_t msr_count;
    uint32_t *msr_list; /* MSRs that are part of the state, for vcpu_state_get */
    uint32_t noted_msrs[VCPU_MAX_NOTED_MSRS]; /* unknown ones already logged */
    unsigned noted_count;
    struct emulation *emulation; /* NULL until an instruction had to be completed */
};

/* An RDMSR or WRMSR that KVM left to userspace (vcpu/x86_64/msr.c). */
enum vcpu_verdict vcpu_exit_msr(struct vcpu *vcpu);

#endif
