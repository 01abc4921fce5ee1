/* SPDX-License-Identifier: MIT */
/*
 * What KVM on this host really does, measured with a guest of a few dozen bytes: API and
 * capabilities, whether CPUID masks reach the guest, whether guest kernels run on the
 * processor or in KVM's instruction emulator, and what an exit costs.
 */
#ifndef VCPU_PROBE_H
#define VCPU_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include <umbra/umbra.h>

enum kvm_flavour {
    KVM_FLAVOUR_UNKNOWN,
    KVM_FLAVOUR_INTEL, /* VT-x */
    KVM_FLAVOUR_AMD,   /* SVM */
    KVM_FLAVOUR_PVM,   /* no hardware support underneath */
    KVM_FLAVOUR_ARM,
};

enum kvm_paging { KVM_PAGING_UNKNOWN, KVM_PAGING_SHADOW, KVM_PAGING_NESTED };

/* Capabilities that doctor reports; present or not. */
struct kvm_probe_caps {
    bool irqchip, split_irqchip, irqfd, ioeventfd, signal_msi, immediate_exit;
    bool dirty_ring, readonly_mem, user_msr, exit_on_emulation_failure;
    bool vm_tsc_control, bus_lock_exit, notify_vmexit, disable_exits;
    unsigned max_vcpus, memslots;
};

struct kvm_probe {
    int api_version;
    enum kvm_flavour flavour;
    enum kvm_paging paging;
    struct kvm_probe_caps caps;

    bool measured;       /* the tiny guest ran: what follows is valid */
    bool masks_apply;    /* features masked by KVM_SET_CPUID2 are gone in the guest */
    bool pv_masks_apply; /* so are KVM's paravirtual feature bits */
    bool
        apic_ids_apply; /* CPUID says each vCPU's own APIC id, not the host processor's */
    bool cpl0_interpreted;   /* the guest's kernel mode runs in KVM's emulator */
    uint64_t instruction_ps; /* one simple instruction at CPL0, picoseconds */
    uint64_t exit_ns;        /* one `out` at CPL0, there and back */
    char why_not[256];       /* why it was not measured */
};

/*
 * Open @device ("/dev/kvm") and fill *probe; takes some ten milliseconds. Fails with
 * NO_KVM, MISSING or PERMISSION only when the device cannot be used at all.
 */
int kvm_probe_run(const char *device, struct kvm_probe *probe, struct umbra_error *error);

/* Physical address bits of this host's processor, which is what guests get. */
unsigned kvm_probe_physical_bits(void);

const char *kvm_flavour_name(enum kvm_flavour flavour);

#endif
