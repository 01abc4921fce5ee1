/* SPDX-License-Identifier: MIT */
/* Guest debugging on x86-64: debug registers and KVM's guest debug controls. */
#include "vcpu/debug.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

/* Debug registers (Intel SDM vol. 3, 18.2). */
enum { VECTOR_BP = 3, DR_EXECUTE = 0, DR_WRITE = 1, DR_ACCESS = 3 };

/* The two type bits and two length bits that DR7 holds for a breakpoint. */
static uint64_t dr7_bits(enum vcpu_debug_kind kind, unsigned length)
{
    static const unsigned lengths[] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };
    unsigned type = kind == VCPU_DEBUG_EXECUTE ? DR_EXECUTE
                    : kind == VCPU_DEBUG_WRITE ? DR_WRITE
                                               : DR_ACCESS;

    return type | (type == DR_EXECUTE ? 0 : lengths[length]) << 2;
}

int vcpu_debug_set(struct vcpu *vcpu, const struct vcpu_debug *debug)
{
    struct kvm_guest_debug control = { 0 };
    int blockirq =
        ioctl(vcpu->set->options.vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_GUEST_DEBUG2);

    if (debug->step || debug->software || debug->count > 0) {
        control.control = KVM_GUESTDBG_ENABLE;
    }
    if (debug->step) {
        control.control |= KVM_GUESTDBG_SINGLESTEP;
        /* A step is over the next instruction, not into a timer's handler. */
        control.control |= blockirq > 0 && !debug->interrupts
                               ? (uint32_t)blockirq & KVM_GUESTDBG_BLOCKIRQ
                               : 0;
    }
    if (debug->software) {
        control.control |= KVM_GUESTDBG_USE_SW_BP;
    }
    if (debug->inject_breakpoint) {
        control.control |= KVM_GUESTDBG_INJECT_BP;
    }
    if (debug->count > 0) {
        control.control |= KVM_GUESTDBG_USE_HW_BP;
        control.arch.debugreg[7] = 0x400 | 0x200; /* reserved-one, global exact */
    }
    for (unsigned i = 0; i < debug->count; i++) {
        control.arch.debugreg[i] = debug->registers[i].address;
        control.arch.debugreg[7] |= UINT64_C(2) << (2 * i);
        control.arch.debugreg[7] |=
            dr7_bits(debug->registers[i].kind, debug->registers[i].length)
            << (16 + 4 * i);
    }
    vcpu->stepped = debug->step;
    return ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &control) < 0 ? -errno : 0;
}

bool vcpu_debug_only_steps(void)
{
    enum { LEAF_HYPERVISOR = 0x40000000, FEATURE_HYPERVISOR = 1u << 31 };
    uint32_t eax, name[3], ecx;

    __asm__("cpuid" : "=a"(eax), "=c"(ecx) : "0"(1), "1"(0) : "ebx", "edx");
    if (!(ecx & FEATURE_HYPERVISOR)) {
        return false;
    }
    __asm__("cpuid"
            : "=a"(eax), "=b"(name[0]), "=c"(name[1]), "=d"(name[2])
            : "0"(LEAF_HYPERVISOR), "2"(0));
    return memcmp(name, "TCGTCGTCGTCG", sizeof(name)) == 0;
}

void vcpu_debug_decode(struct vcpu *vcpu, const struct vcpu_debug *debug,
                       struct vcpu_debug_stop *stop)
{
    const struct kvm_debug_exit_arch *exit = &vcpu->run->debug.arch;

    *stop = (struct vcpu_debug_stop){ .pc = exit->pc, .address = exit->pc };
    if (exit->exception == VECTOR_BP) {
        stop->kind = VCPU_DEBUG_SOFTWARE;
        return;
    }
    stop->kind = VCPU_DEBUG_STEP;
    for (unsigned i = 0; i < debug->count; i++) {
        if (exit->dr6 & UINT64_C(1) << i) {
            stop->kind = debug->registers[i].kind;
            stop->address = debug->registers[i].address;
            return;
        }
    }
}

int vcpu_get_pc(struct vcpu *vcpu, uint64_t *pc)
{
    struct kvm_regs regs;

    if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0) {
        return -errno;
    }
    *pc = regs.rip;
    return 0;
}
