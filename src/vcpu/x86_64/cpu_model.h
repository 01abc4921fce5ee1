/* SPDX-License-Identifier: MIT */
/*
 * The processor that guests see: CPUID leaves from what KVM supports, the topology, and
 * the feature masks of the config; and the VM-wide capabilities that decide what exits.
 */
#ifndef VCPU_X86_64_CPU_MODEL_H
#define VCPU_X86_64_CPU_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "base/log.h"

struct kvm_cpuid2;

/* cpus = sockets * cores * threads. */
struct cpu_topology {
    unsigned sockets, cores, threads;
};

/* Fill in what is 0 so that the product is @cpus; -EINVAL when it cannot be. */
int cpu_topology_complete(struct cpu_topology *topology, unsigned cpus);

/* The APIC id of vCPU @index: thread, core and socket fields of power-of-two width (Intel
 * SDM vol. 3, 9.9.3), so ids have gaps where a width is not a power of two. */
uint32_t cpu_topology_apic_id(const struct cpu_topology *topology, unsigned index);

struct cpu_model_options {
    struct cpu_topology topology;
    const char *const *features; /* "-avx512f", "+x2apic" */
    size_t feature_count;
    bool exit_hlt, exit_pause,
        exit_mwait; /* false: the guest runs it natively if KVM lets it */
    bool bus_lock_exit;
    uint32_t notify_window; /* cycles, 0: off */
    bool no_hypercalls; /* hypercalls do not work here: offer no PV feature that needs one
                         */
    const struct log *log;
};

struct cpu_model {
    struct cpu_model_options options;
    struct kvm_cpuid2 *cpuid; /* of vCPU 0; others differ in their APIC id */
    bool mwait_native;
};

/* Make the model; refuses by name a feature that this host's KVM cannot give. */
int cpu_model_create(int kvm_fd, const struct cpu_model_options *options,
                     struct cpu_model **model, struct umbra_error *error);
void cpu_model_destroy(struct cpu_model *model);

/* Set the VM-wide capabilities; before the first vCPU. */
int cpu_model_apply_vm(struct cpu_model *model, int kvm_fd, int vm_fd,
                       struct umbra_error *error);
/* Give vCPU @index its CPUID. */
int cpu_model_apply_vcpu(const struct cpu_model *model, int vcpu_fd, unsigned index,
                         struct umbra_error *error);

/* MAXPHYADDR as the guest sees it. */
unsigned cpu_model_physical_bits(const struct cpu_model *model);

/* A CPUID register of the model, 0 when the leaf is absent; reg 0..3 = EAX..EDX. */
uint32_t cpu_model_register(const struct cpu_model *model, uint32_t leaf,
                            uint32_t subleaf, unsigned reg);

/* ---- Names of features (cpu_features.c)
 * ------------------------------------------------- */

struct cpu_feature {
    const char *name; /* as Linux's /proc/cpuinfo or QEMU spell it */
    uint32_t leaf, subleaf;
    uint8_t reg, bit; /* reg 0..3 = EAX..EDX */
};

const struct cpu_feature *cpu_feature_find(const char *name);
/* The known name nearest to a mistyped one, or NULL. */
const char *cpu_feature_suggest(const char *name);
/* The table, for listings and tests. */
const struct cpu_feature *cpu_features(size_t *count);

#endif
