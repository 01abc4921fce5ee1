/* SPDX-License-Identifier: MIT */
/*
 * MSR policy. KVM handles the MSRs it knows; an access it refuses comes here
 * (KVM_CAP_X86_USER_SPACE_MSR), is logged once an MSR, and raises #GP in the guest, which
 * is what a processor without that MSR does.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "vcpu/x86_64/state.h"
#include "vcpu/x86_64/x86.h"

/*
 * By the offset, where KVM has it (5.16): a write of the MSR that is near what the other
 * vCPUs have is taken for an attempt to synchronise them, and changes nothing.
 */
int vcpu_tsc_jump(struct vcpu *vcpu, int64_t ns)
{
    uint64_t offset = 0, tsc;
    struct kvm_device_attr attribute = { .group = KVM_VCPU_TSC_CTRL,
                                         .attr = KVM_VCPU_TSC_OFFSET,
                                         .addr = (uintptr_t)&offset };
    int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0), ret;
    int64_t ticks;

    if (khz <= 0) {
        return khz < 0 ? -errno : -ENOTSUP;
    }
    ticks = (int64_t)((__int128)ns * khz / 1000000);
    if (ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attribute) == 0) {
        offset += (uint64_t)ticks;
        return ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attribute) < 0 ? -errno : 0;
    }
    ret = vcpu_msr_get(vcpu, 0x10, &tsc);
    return ret < 0 ? ret : vcpu_msr_set(vcpu, 0x10, tsc + (uint64_t)ticks);
}

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

int vcpu_arch_filter_msrs(struct vcpu_set *set, const uint32_t *list, unsigned count)
{
    /* One range of one MSR each: a clear bit denies, and a denied access exits. */
    static uint8_t deny[8];
    struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };

    if (count > KVM_MSR_FILTER_MAX_RANGES) {
        return -ENOSPC;
    }
    for (unsigned i = 0; i < count; i++) {
        filter.ranges[i] = (struct kvm_msr_filter_range){
            .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
            .nmsrs = 1,
            .base = list[i],
            .bitmap = deny,
        };
    }
    return ioctl(set->options.vm_fd, KVM_X86_SET_MSR_FILTER, &filter) < 0 ? -errno : 0;
}

/* An access that the filter took from KVM and no hook wanted: do what KVM would have done. */
static int msr_pass(struct vcpu *vcpu, bool write)
{
    struct kvm_run *run = vcpu->run;
    uint64_t value = 0;
    int ret;

    if (write) {
        return vcpu_msr_set(vcpu, run->msr.index, run->msr.data);
    }
    ret = vcpu_msr_get(vcpu, run->msr.index, &value);
    run->msr.data = value;
    return ret;
}

static void msr_log_refusal(struct vcpu *vcpu, bool write)
{
    const struct kvm_run *run = vcpu->run;

    if (!msr_first_time(vcpu->arch, run->msr.index)) {
        return;
    }
    if (write) {
        log_info(vcpu->set->options.log,
                 "vcpu%u: WRMSR 0x%" PRIx32 " of 0x%" PRIx64
                 " refused by KVM (%s): raised #GP; further ones are not logged",
                 vcpu->index, run->msr.index, (uint64_t)run->msr.data,
                 run->msr.reason == KVM_MSR_EXIT_REASON_UNKNOWN ? "unknown MSR"
                                                                : "invalid value");
    } else {
        log_info(vcpu->set->options.log,
                 "vcpu%u: RDMSR 0x%" PRIx32
                 " refused by KVM: raised #GP; further ones are not logged",
                 vcpu->index, run->msr.index);
    }
}

enum vcpu_verdict vcpu_exit_msr(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    bool write = run->exit_reason == KVM_EXIT_X86_WRMSR;
    enum exit_key_kind kind = write ? EXIT_KEY_MSR_WRITE : EXIT_KEY_MSR_READ;
    uint64_t value = write ? run->msr.data : 0;
    bool fault = false;

    if (vcpu_hook(vcpu, kind, run->msr.index, 8, &value, &fault)) {
        run->msr.data = value;
        run->msr.error = fault;
    } else if (run->msr.reason == KVM_MSR_EXIT_REASON_FILTER) {
        run->msr.data = value;
        run->msr.error = msr_pass(vcpu, write) < 0;
    } else {
        run->msr.error = 1;
        msr_log_refusal(vcpu, write);
    }
    vcpu->detail = (struct exit_detail){
        .kind = kind,
        .key = run->msr.index,
        .value = run->msr.data,
        .size = 8,
    };
    return VCPU_GO_ON;
}
