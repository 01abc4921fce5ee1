/* SPDX-License-Identifier: MIT */
/*
 * MSR policy. KVM handles the MSRs it knows; an access it refuses comes here
 * (KVM_CAP_X86_USER_SPACE_MSR), is logged once an MSR, and raises #GP in the guest, which
 * is what a processor without that MSR does.
 */
#include <inttypes.h>
#include <linux/kvm.h>

#include "vcpu/x86_64/x86.h"

static bool msr_first_time(struct vcpu_x86 *x86, uint32_t index)
{
    for (unsigned i = 0; i < x86->noted_count; i++) {
        if (x86->noted_msrs[i] == index) {
            return false;
        }
    }
    if (x86->noted_count == VCPU_MAX_NOTED_MSRS) {
        return false;
    }
    x86->noted_msrs[x86->noted_count++] = index;
    return true;
}

enum vcpu_verdict vcpu_exit_msr(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    bool write = run->exit_reason == KVM_EXIT_X86_WRMSR;
    uint32_t index = run->msr.index;

    vcpu->detail = (struct exit_detail){
        .kind = write ? EXIT_KEY_MSR_WRITE : EXIT_KEY_MSR_READ,
        .key = index,
        .value = run->msr.data,
        .size = 8,
    };
    run->msr.error = 1;
    if (msr_first_time(vcpu->arch, index)) {
        if (write) {
            log_info(vcpu->set->options.log,
                     "vcpu%u: WRMSR 0x%" PRIx32 " of 0x%" PRIx64
                     " refused by KVM (%s): raised #GP; further ones are not logged",
                     vcpu->index, index, (uint64_t)run->msr.data,
                     run->msr.reason == KVM_MSR_EXIT_REASON_UNKNOWN ? "unknown MSR"
                                                                    : "invalid value");
        } else {
            log_info(vcpu->set->options.log,
                     "vcpu%u: RDMSR 0x%" PRIx32
                     " refused by KVM: raised #GP; further ones are not logged",
                     vcpu->index, index);
        }
    }
    return VCPU_GO_ON;
}
