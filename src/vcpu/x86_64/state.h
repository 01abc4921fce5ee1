/* SPDX-License-Identifier: MIT */
/*
 * All architectural state of an x86-64 vCPU through one get/set layer. Used while the
 * vCPU is not in KVM_RUN: by its own thread in a handler, or by a controller while the
 * gate is closed.
 */
#ifndef VCPU_X86_64_STATE_H
#define VCPU_X86_64_STATE_H

#include <linux/kvm.h>
#include <stdint.h>

#include "vcpu/vcpu.h"

enum vcpu_state_part {
    VCPU_STATE_REGS = 1 << 0,
    VCPU_STATE_SREGS = 1 << 1,
    VCPU_STATE_DEBUG = 1 << 2,
    VCPU_STATE_XSAVE = 1 << 3, /* with XCR0 */
    VCPU_STATE_MSRS = 1 << 4,
    VCPU_STATE_LAPIC = 1 << 5,
    VCPU_STATE_EVENTS = 1 << 6,
    VCPU_STATE_MP = 1 << 7,
    VCPU_STATE_ALL = (1 << 8) - 1,
};

enum { VCPU_STATE_MAX_MSRS = 256 };

struct vcpu_msrs { /* struct kvm_msrs with its entries */
    uint32_t count, pad;
    struct kvm_msr_entry entries[VCPU_STATE_MAX_MSRS];
};

struct vcpu_state {
    unsigned parts; /* which of the following are valid */
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_debugregs debug;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct vcpu_msrs msrs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
};

/* Fetch @parts. 0 or -errno with @error saying which ioctl. */
int vcpu_state_get(struct vcpu *vcpu, unsigned parts, struct vcpu_state *state,
                   struct umbra_error *error);
/* Put back @parts of @state, in the order that KVM needs. */
int vcpu_state_set(struct vcpu *vcpu, unsigned parts, const struct vcpu_state *state,
                   struct umbra_error *error);

/* One MSR; -ENOENT when KVM does not know it. */
int vcpu_msr_get(struct vcpu *vcpu, uint32_t index, uint64_t *value);
int vcpu_msr_set(struct vcpu *vcpu, uint32_t index, uint64_t value);

/* The TSC jumps by @ns; the vCPU is not in KVM_RUN. 0 or -errno. */
int vcpu_tsc_jump(struct vcpu *vcpu, int64_t ns);

/* How the boot processor enters the guest; see vmm/boot/boot.h for where values come
 * from. */
struct vcpu_entry {
    enum { VCPU_ENTRY_REAL, VCPU_ENTRY_PROTECTED, VCPU_ENTRY_LONG } mode;
    uint64_t rip, rsp, rax, rbx, rsi, rdi, cr3;
    uint64_t gdt;
    uint16_t gdt_limit, cs, ds;
};

int vcpu_set_entry(struct vcpu *vcpu, const struct vcpu_entry *entry,
                   struct umbra_error *error);

/* Translate a GVA by the vCPU's current page tables (KVM_TRANSLATE); false: not mapped.
 */
bool vcpu_translate(struct vcpu *vcpu, uint64_t gva, uint64_t *gpa);

#endif
