/* SPDX-License-Identifier: MIT */
/* Looking at what a vCPU sees, without changing it: its registers and linear memory. */
#ifndef VCPU_X86_64_LOOK_H
#define VCPU_X86_64_LOOK_H

#include <linux/kvm.h>

#include "vcpu/vcpu.h"
#include "vcpu/x86_64/insn/insn.h"

struct vcpu_look {
    struct guest_mem *mem;
    struct kvm_regs regs;
    struct insn_cpu cpu;  /* only what walks need */
    unsigned bits;        /* of the code: 16, 32 or 64 */
    uint64_t code, stack; /* segment bases */
};

/* The gate is closed. 0 or -errno. */
int vcpu_look_begin(struct vcpu *vcpu, struct vcpu_look *look);

/* Copy @size bytes at a linear address; false when not all of them are mapped memory. */
bool vcpu_look_read(const struct vcpu_look *look, uint64_t address, void *buffer,
                    size_t size);

/* Whether code can be fetched from there. */
bool vcpu_look_executable(const struct vcpu_look *look, uint64_t address);

#endif
