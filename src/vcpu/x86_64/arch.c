/* SPDX-License-Identifier: MIT */
/* What makes a vCPU an x86-64 one: creation, reset, its own exits. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "vcpu/x86_64/cpu_model.h"
#include "vcpu/x86_64/emulation.h"
#include "vcpu/x86_64/state.h"
#include "vcpu/x86_64/x86.h"

/* The MSRs that KVM says are state, in KVM's order. */
static int x86_list_msrs(struct vcpu *vcpu, struct vcpu_x86 *x86,
                         struct umbra_error *error)
{
    struct kvm_msr_list *list;
    struct kvm_msr_list probe = { 0 };
    int kvm_fd = vcpu->set->options.kvm_fd;

    /* Fails with E2BIG and the count, by design (KVM_GET_MSR_INDEX_LIST). */
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &probe) < 0 && errno != E2BIG) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "KVM_GET_MSR_INDEX_LIST failed");
    }
    list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
    if (list == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot list MSRs");
    }
    list->nmsrs = probe.nmsrs;
    x86->msr_list = calloc(VCPU_STATE_MAX_MSRS, sizeof(x86->msr_list[0]));
    if (x86->msr_list == NULL || ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
        free(list);
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "KVM_GET_MSR_INDEX_LIST failed");
    }
    for (uint32_t i = 0; i < list->nmsrs; i++) {
        uint64_t value;

        /* Listed for the host does not mean readable under this guest's CPUID. */
        if (x86->msr_count < VCPU_STATE_MAX_MSRS &&
            vcpu_msr_get(vcpu, list->indices[i], &value) == 0) {
            x86->msr_list[x86->msr_count++] = list->indices[i];
        }
    }
    free(list);
    return 0;
}

int vcpu_arch_create(struct vcpu *vcpu, struct umbra_error *error)
{
    enum { MSR_MISC_ENABLE = 0x1a0, MISC_ENABLE_FAST_STRING = 1 };
    struct vcpu_x86 *x86 = calloc(1, sizeof(*x86));
    int ret;

    if (x86 == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot allocate vCPU %u",
                           vcpu->index);
    }
    vcpu->arch = x86;
    ret = cpu_model_apply_vcpu(vcpu->set->options.model, vcpu->fd, vcpu->index, error);
    if (ret < 0) {
        return ret;
    }
    vcpu_msr_set(vcpu, MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING);
    return 0;
}

void vcpu_arch_destroy(struct vcpu *vcpu)
{
    struct vcpu_x86 *x86 = vcpu->arch;

    if (x86 != NULL) {
        emulation_destroy(x86->emulation);
        free(x86->initial);
        free(x86->msr_list);
        free(x86);
        vcpu->arch = NULL;
    }
}

int vcpu_arch_capture(struct vcpu *vcpu, struct umbra_error *error)
{
    struct vcpu_x86 *x86 = vcpu->arch;
    int ret;

    if (x86->initial != NULL) {
        return 0;
    }
    ret = x86_list_msrs(vcpu, x86, error);
    if (ret < 0) {
        return ret;
    }
    x86->initial = calloc(1, sizeof(*x86->initial));
    if (x86->initial == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot save vCPU state");
    }
    return vcpu_state_get(vcpu, VCPU_STATE_ALL, x86->initial, error);
}

int vcpu_arch_reset(struct vcpu *vcpu, struct umbra_error *error)
{
    const struct vcpu_x86 *x86 = vcpu->arch;

    if (x86->initial == NULL) {
        return error_set(error, UMBRA_ERROR_STATE, EINVAL,
                         "vCPU %u has no saved initial state to go back to", vcpu->index);
    }
    vcpu->end_exit[0] = '\0';
    return vcpu_state_set(vcpu, VCPU_STATE_ALL, x86->initial, error);
}

int vcpu_inject_nmi(struct vcpu *vcpu)
{
    return ioctl(vcpu->fd, KVM_NMI) < 0 ? -errno : 0;
}

/* The guest kept the processor from taking events for a whole notify window. */
static enum vcpu_verdict exit_notify(struct vcpu *vcpu)
{
    if (vcpu->run->notify.flags & KVM_NOTIFY_CONTEXT_INVALID) {
        return vcpu_end(
            vcpu, VCPU_END_ERROR,
            "notify window: vCPU %u blocked the processor and its context is lost",
            vcpu->index);
    }
    log_warning(vcpu->set->options.log,
                "vcpu%u: no interrupt window within the notify window", vcpu->index);
    return VCPU_GO_ON;
}

enum vcpu_verdict vcpu_arch_exit(struct vcpu *vcpu, bool *handled)
{
    *handled = true;
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        return vcpu_exit_msr(vcpu);
    case KVM_EXIT_NOTIFY:
        return exit_notify(vcpu);
    default:
        *handled = false;
        return VCPU_GO_ON;
    }
}
