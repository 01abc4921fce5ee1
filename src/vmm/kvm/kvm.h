/* SPDX-License-Identifier: MIT */
/*
 * The VM descriptor: /dev/kvm, memslots, irqchip, interrupt routes, doorbells. The one
 * file outside vcpu/ that speaks the KVM ABI (Documentation/virt/kvm/api.rst).
 */
#ifndef VMM_KVM_KVM_H
#define VMM_KVM_KVM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "devices/irq.h"
#include "memory/guest_mem.h"

struct kvm_route {
    bool used;
    uint64_t address;
    uint32_t data;
};

struct kvm {
    struct irq_chip irqs; /* first: what devices drive */
    int fd;               /* /dev/kvm */
    int vm_fd;
    int stats_fd;    /* of KVM's own statistics; below 0: none */
    size_t run_size; /* of a vCPU's struct kvm_run mapping */
    unsigned max_vcpus;
    bool split_irqchip;
    /* With the split irqchip the pins are not KVM's: the userspace IOAPIC takes them. */
    void (*pin)(void *context, unsigned gsi, bool level);
    void *pin_context;
    struct kvm_route pin_routes[IRQ_GSI_COUNT]; /* the userspace IOAPIC's messages */
    pthread_mutex_t route_lock;
    struct kvm_route *routes; /* MSI routes; index + IRQ_GSI_COUNT is the GSI */
    size_t route_count;
};

struct kvm_options {
    const char *path; /* NULL: /dev/kvm */
    bool split_irqchip;
    bool pit;
};

/* Open KVM and make a VM with its irqchip; on failure nothing is left open. */
int kvm_open(struct kvm *kvm, const struct kvm_options *options,
             struct umbra_error *error);
void kvm_close(struct kvm *kvm);

/* Is a hardware KVM module loaded (VT-x, SVM)? A cheap look at /sys, false when in doubt. */
bool kvm_has_hardware(void);

/* Does KVM on this host page with EPT or NPT? From the modules' parameters. */
bool kvm_has_nested_paging(void);

/* Give every region of @mem to the VM as a memslot; @log_dirty turns KVM's dirty log on.
 */
int kvm_map_memory(struct kvm *kvm, const struct guest_mem *mem, bool log_dirty,
                   struct umbra_error *error);

/* Bring the memslots of every region in line with what of @mem is hidden. The VM stands
 * still, and what KVM logged as dirty was gathered. 0 or -errno. */
int kvm_remap_memory(struct kvm *kvm, const struct guest_mem *mem, bool log_dirty);

/* Have kvm-clock jump by @ns. 0 or -errno. */
int kvm_clock_jump(struct kvm *kvm, int64_t ns);

/* device_env.doorbell: context is the struct kvm. */
int kvm_doorbell(void *context, bool mmio, uint64_t address, unsigned length, bool match,
                 uint64_t value, int fd, bool add);

/* Split irqchip: pin @gsi sends this message now (!used: none); KVM then returns EOIs. */
int kvm_route_pin(struct kvm *kvm, unsigned gsi, const struct kvm_route *route);

/* Put the in-kernel irqchip and PIT back to power-on state. */
int kvm_reset_irqchip(struct kvm *kvm, bool pit);

#endif
