/* SPDX-License-Identifier: MIT */
/* Instructions that KVM's emulator gave up on. */
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdio.h>

#include "vcpu/x86_64/state.h"
#include "vcpu/x86_64/x86.h"

void vcpu_arch_stats(struct vcpu *vcpu, void *json)
{
    (void)vcpu;
    (void)json;
}

enum vcpu_verdict vcpu_arch_emulation_failure(struct vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    char bytes[64] = "";
    size_t used = 0;

    if (run->emulation_failure.ndata > 0 &&
        (run->emulation_failure.flags &
         KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        for (unsigned i = 0; i < run->emulation_failure.insn_size && i < 15; i++) {
            used += (size_t)snprintf(bytes + used, sizeof(bytes) - used, " %02x",
                                     run->emulation_failure.insn_bytes[i]);
        }
    }
    return vcpu_end(vcpu, VCPU_END_ERROR,
                    "KVM cannot emulate the instruction of vCPU %u:%s", vcpu->index,
                    bytes);
}
