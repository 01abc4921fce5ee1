/* SPDX-License-Identifier: MIT */
/* CPUID policy and the capabilities that decide what exits. */
#include "vcpu/x86_64/cpu_model.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "base/util.h"

enum { EAX, EBX, ECX, EDX };
enum { CPUID_MAX_ENTRIES = 256 };

/* KVM_CPUID_FEATURES bits that a guest uses without a hypercall: both clocks, no PIO
 * delay, steal time, PV EOI, the stable clock (Documentation/virt/kvm/x86/cpuid.rst). */
#define KVM_FEATURES_WITHOUT_HYPERCALL 0x0100006bu

static unsigned bits_for(unsigned count)
{
    return count <= 1 ? 0 : 32 - (unsigned)__builtin_clz(count - 1);
}

int cpu_topology_complete(struct cpu_topology *topology, unsigned cpus)
{
    unsigned threads = topology->threads != 0 ? topology->threads : 1;
    unsigned sockets = topology->sockets, cores = topology->cores;

    if (sockets == 0 && cores == 0) {
        sockets = 1;
    }
    if (sockets == 0) {
        sockets = cpus / (cores * threads);
    } else if (cores == 0) {
        cores = cpus / (sockets * threads);
    }
    if (sockets * cores * threads != cpus || cpus == 0) {
        return -EINVAL;
    }
    *topology =
        (struct cpu_topology){ .sockets = sockets, .cores = cores, .threads = threads };
    return 0;
}

uint32_t cpu_topology_apic_id(const struct cpu_topology *topology, unsigned index)
{
    unsigned thread = index % topology->threads;
    unsigned core = index / topology->threads % topology->cores;
    unsigned socket = index / (topology->threads * topology->cores);
    unsigned thread_bits = bits_for(topology->threads);

    return thread | core << thread_bits |
           socket << (thread_bits + bits_for(topology->cores));
}

static uint32_t *entry_register(struct kvm_cpuid_entry2 *entry, unsigned reg)
{
    uint32_t *const registers[] = { &entry->eax, &entry->ebx, &entry->ecx, &entry->edx };

    return registers[reg];
}

static struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *cpuid, uint32_t leaf,
                                           uint32_t subleaf)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

        if (entry->function == leaf &&
            (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) ||
             entry->index == subleaf)) {
            return entry;
        }
    }
    return NULL;
}

uint32_t cpu_model_register(const struct cpu_model *model, uint32_t leaf,
                            uint32_t subleaf, unsigned reg)
{
    struct kvm_cpuid_entry2 *entry = cpuid_find(model->cpuid, leaf, subleaf);

    return entry == NULL ? 0 : *entry_register(entry, reg);
}

unsigned cpu_model_physical_bits(const struct cpu_model *model)
{
    unsigned bits = cpu_model_register(model, 0x80000008, 0, EAX) & 0xff;

    return bits != 0 ? bits : 36;
}

/* Drop every entry of @leaf. */
static void cpuid_remove(struct kvm_cpuid2 *cpuid, uint32_t leaf)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function != leaf) {
            cpuid->entries[kept++] = cpuid->entries[i];
        }
    }
    cpuid->nent = kept;
}

static void cpuid_append(struct kvm_cpuid2 *cpuid, const struct kvm_cpuid_entry2 *entry)
{
    if (cpuid->nent < CPUID_MAX_ENTRIES) {
        cpuid->entries[cpuid->nent++] = *entry;
    }
}

/* Extended topology, leaf 0xB or 0x1F: one subleaf a level (Intel SDM vol. 2A). */
static void cpuid_extended_topology(struct kvm_cpuid2 *cpuid, uint32_t leaf,
                                    const struct cpu_topology *topology)
{
    enum { LEVEL_THREAD = 1, LEVEL_CORE = 2 };
    unsigned thread_bits = bits_for(topology->threads);
    unsigned core_bits = bits_for(topology->cores);

    cpuid_remove(cpuid, leaf);
    for (uint32_t level = 0; level < 3; level++) {
        struct kvm_cpuid_entry2 entry = {
            .function = leaf,
            .index = level,
            .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            .ecx = level,
        };

        if (level == 0) {
            entry.eax = thread_bits;
            entry.ebx = topology->threads;
            entry.ecx |= LEVEL_THREAD << 8;
        } else if (level == 1) {
            entry.eax = thread_bits + core_bits;
            entry.ebx = topology->threads * topology->cores;
            entry.ecx |= LEVEL_CORE << 8;
        }
        cpuid_append(cpuid, &entry);
    }
}

/* Leaf 4 (Intel) and 0x8000001D (AMD): who shares each cache, and the cores of a package.
 */
static void cpuid_cache_sharing(struct kvm_cpuid2 *cpuid,
                                const struct cpu_topology *topology)
{
    unsigned threads = 1u << bits_for(topology->threads);
    unsigned cores = 1u << bits_for(topology->cores);

    for (uint32_t i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        unsigned level = entry->eax >> 5 & 7;
        unsigned sharing = level >= 3 ? threads * cores : threads;

        if ((entry->function == 4 || entry->function == 0x8000001d) &&
            (entry->eax & 0x1f) != 0) {
            entry->eax &= 0x3fff;
            entry->eax |= (sharing - 1) << 14;
            if (entry->function == 4) {
                entry->eax |= (cores - 1) << 26;
            }
        }
    }
}

/* Everything about the topology that does not depend on the vCPU. */
static void cpuid_topology(struct kvm_cpuid2 *cpuid, const struct cpu_topology *topology)
{
    unsigned package = topology->threads * topology->cores;
    unsigned package_bits = bits_for(topology->threads) + bits_for(topology->cores);
    struct kvm_cpuid_entry2 *entry = cpuid_find(cpuid, 1, 0);

    if (entry != NULL) {
        entry->ebx = (entry->ebx & 0x0000ffff) | (1u << package_bits) << 16;
        entry->edx = package > 1 ? entry->edx | 1u << 28 : entry->edx & ~(1u << 28);
    }
    entry = cpuid_find(cpuid, 0, 0);
    if (entry != NULL && entry->eax >= 0xb) {
        cpuid_extended_topology(cpuid, 0xb, topology);
    }
    entry = cpuid_find(cpuid, 0, 0);
    if (entry != NULL && entry->eax >= 0x1f) {
        cpuid_extended_topology(cpuid, 0x1f, topology);
    }
    cpuid_cache_sharing(cpuid, topology);
    entry = cpuid_find(cpuid, 0x80000008, 0);
    if (entry != NULL) {
        entry->ecx = package > 1 ? package_bits << 12 | (package - 1) : 0;
    }
    entry = cpuid_find(cpuid, 0x80000001, 0);
    if (entry != NULL) {
        /* CmpLegacy: several logical processors, which are cores where threads == 1. */
        entry->ecx =
            package > 1 && topology->threads == 1 ? entry->ecx | 2u : entry->ecx & ~2u;
    }
}

static int cpuid_supported(int kvm_fd, struct kvm_cpuid2 **out, struct umbra_error *error)
{
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + CPUID_MAX_ENTRIES * sizeof(cpuid->entries[0]));

    if (cpuid == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot allocate CPUID");
    }
    cpuid->nent = CPUID_MAX_ENTRIES;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
        int errnum = errno;

        free(cpuid);
        return error_errno(error, UMBRA_ERROR_INTERNAL, errnum,
                           "KVM_GET_SUPPORTED_CPUID failed");
    }
    *out = cpuid;
    return 0;
}

/* The processor's name, which KVM leaves out: the host's, as other VMMs do. */
static void cpuid_brand(struct kvm_cpuid2 *cpuid)
{
    for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; leaf++) {
        struct kvm_cpuid_entry2 *entry = cpuid_find(cpuid, leaf, 0);

        if (entry != NULL && (entry->eax | entry->ebx | entry->ecx | entry->edx) == 0) {
            __get_cpuid(leaf, &entry->eax, &entry->ebx, &entry->ecx, &entry->edx);
        }
    }
}

/* What KVM provides beyond what KVM_GET_SUPPORTED_CPUID lists. */
static void cpuid_platform(struct cpu_model *model, int kvm_fd)
{
    struct kvm_cpuid_entry2 *entry = cpuid_find(model->cpuid, 1, 0);

    if (entry != NULL) {
        entry->ecx |= 1u << 31 | 1u << 21; /* hypervisor, x2APIC */
        if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0) {
            entry->ecx |= 1u << 24;
        }
    }
    entry = cpuid_find(model->cpuid, 6, 0);
    if (entry != NULL) {
        entry->eax =
            1u << 2; /* ARAT: the APIC timer never stops; nothing else of power */
        entry->ebx = 0;
        entry->ecx = 0;
        entry->edx = 0;
    }
    entry = cpuid_find(model->cpuid, 0x40000001, 0);
    if (entry != NULL && model->options.no_hypercalls) {
        entry->eax &= KVM_FEATURES_WITHOUT_HYPERCALL;
    }
}

static int cpuid_mask_one(struct cpu_model *model, const char *text,
                          struct umbra_error *error)
{
    const struct cpu_feature *feature;
    struct kvm_cpuid_entry2 *entry;
    uint32_t bit;

    if (text[0] != '+' && text[0] != '-') {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "CPU feature \"%s\" has no sign: write \"+%s\" to demand it or "
                         "\"-%s\" to hide it",
                         text, text, text);
    }
    feature = cpu_feature_find(text + 1);
    if (feature == NULL) {
        const char *near = cpu_feature_suggest(text + 1);

        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "unknown CPU feature \"%s\"%s%s%s", text + 1,
                         near != NULL ? " (did you mean \"" : "",
                         near != NULL ? near : "", near != NULL ? "\"?)" : "");
    }
    bit = 1u << feature->bit;
    entry = cpuid_find(model->cpuid, feature->leaf, feature->subleaf);
    if (text[0] == '-') {
        if (entry != NULL) {
            *entry_register(entry, feature->reg) &= ~bit;
        }
        return 0;
    }
    if (entry == NULL || !(*entry_register(entry, feature->reg) & bit)) {
        return error_set(
            error, UMBRA_ERROR_CONFIG, ENOTSUP,
            "the host cannot give guests the CPU feature \"%s\": its processor "
            "or its KVM lacks it (remove \"+%s\" or choose another host)",
            feature->name, text + 1);
    }
    return 0;
}

int cpu_model_create(int kvm_fd, const struct cpu_model_options *options,
                     struct cpu_model **out, struct umbra_error *error)
{
    struct cpu_model *model = calloc(1, sizeof(*model));
    int ret;

    if (model == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                           "cannot allocate the CPU model");
    }
    model->options = *options;
    ret = cpuid_supported(kvm_fd, &model->cpuid, error);
    if (ret < 0) {
        goto fail;
    }
    cpuid_platform(model, kvm_fd);
    cpuid_brand(model->cpuid);
    for (size_t i = 0; i < options->feature_count; i++) {
        ret = cpuid_mask_one(model, options->features[i], error);
        if (ret < 0) {
            goto fail;
        }
    }
    cpuid_topology(model->cpuid, &options->topology);
    *out = model;
    return 0;
fail:
    cpu_model_destroy(model);
    return ret;
}

void cpu_model_destroy(struct cpu_model *model)
{
    if (model != NULL) {
        free(model->cpuid);
        free(model);
    }
}

static int vm_enable(int vm_fd, uint32_t cap, uint64_t argument)
{
    struct kvm_enable_cap enable = { .cap = cap, .args = { argument } };

    return ioctl(vm_fd, KVM_ENABLE_CAP, &enable) < 0 ? -errno : 0;
}

/* Let the guest run HLT, PAUSE and MWAIT itself where the config says so and KVM can. */
static int vm_disable_exits(struct cpu_model *model, int vm_fd, struct umbra_error *error)
{
    const struct cpu_model_options *options = &model->options;
    int able = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_DISABLE_EXITS);
    uint64_t want = (options->exit_hlt ? 0 : KVM_X86_DISABLE_EXITS_HLT) |
                    (options->exit_pause ? 0 : KVM_X86_DISABLE_EXITS_PAUSE) |
                    (options->exit_mwait ? 0 : KVM_X86_DISABLE_EXITS_MWAIT);
    uint64_t mask = want & (able > 0 ? (uint64_t)able : 0);
    int ret;

    if (mask != want) {
        log_warning(options->log,
                    "KVM cannot let the guest run%s%s%s without exits on this host",
                    want & ~mask & KVM_X86_DISABLE_EXITS_HLT ? " HLT" : "",
                    want & ~mask & KVM_X86_DISABLE_EXITS_PAUSE ? " PAUSE" : "",
                    want & ~mask & KVM_X86_DISABLE_EXITS_MWAIT ? " MWAIT" : "");
    }
    if (mask == 0) {
        return 0;
    }
    ret = vm_enable(vm_fd, KVM_CAP_X86_DISABLE_EXITS, mask);
    if (ret < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                           "KVM_CAP_X86_DISABLE_EXITS 0x%llx failed",
                           (unsigned long long)mask);
    }
    if (mask & KVM_X86_DISABLE_EXITS_MWAIT) {
        struct kvm_cpuid_entry2 *entry = cpuid_find(model->cpuid, 1, 0);

        if (entry != NULL) {
            entry->ecx |= 1u << 3;
        }
    }
    return 0;
}

int cpu_model_apply_vm(struct cpu_model *model, int kvm_fd, int vm_fd,
                       struct umbra_error *error)
{
    const struct cpu_model_options *options = &model->options;
    int ret;

    (void)kvm_fd;
    /* These three make failures visible; a KVM without them is merely less talkative. */
    vm_enable(vm_fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    vm_enable(vm_fd, KVM_CAP_X86_USER_SPACE_MSR,
              KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL |
                  KVM_MSR_EXIT_REASON_FILTER);
    vm_enable(vm_fd, KVM_CAP_X2APIC_API,
              KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
    ret = vm_disable_exits(model, vm_fd, error);
    if (ret < 0) {
        return ret;
    }
    if (options->bus_lock_exit) {
        ret = vm_enable(vm_fd, KVM_CAP_X86_BUS_LOCK_EXIT, KVM_BUS_LOCK_DETECTION_EXIT);
        if (ret < 0) {
            return error_errno(error, UMBRA_ERROR_CONFIG, -ret,
                               "bus-lock exits were asked for, but this host's KVM or "
                               "processor lacks them");
        }
    }
    if (options->notify_window != 0) {
        ret = vm_enable(vm_fd, KVM_CAP_X86_NOTIFY_VMEXIT,
                        (uint64_t)options->notify_window << 32 |
                            KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER);
        if (ret < 0) {
            return error_errno(error, UMBRA_ERROR_CONFIG, -ret,
                               "a notify window was asked for, but this host's KVM or "
                               "processor lacks it");
        }
    }
    return 0;
}

int cpu_model_apply_vcpu(const struct cpu_model *model, int vcpu_fd, unsigned index,
                         struct umbra_error *error)
{
    uint32_t apic_id = cpu_topology_apic_id(&model->options.topology, index);
    unsigned thread_bits = bits_for(model->options.topology.threads);

    for (uint32_t i = 0; i < model->cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &model->cpuid->entries[i];

        switch (entry->function) {
        case 1:
            entry->ebx = (entry->ebx & 0x00ffffff) | apic_id << 24;
            break;
        case 0xb:
        case 0x1f:
            entry->edx = apic_id;
            break;
        case 0x8000001e:
            entry->eax = apic_id;
            entry->ebx = (apic_id >> thread_bits & 0xff) |
                         (model->options.topology.threads - 1) << 8;
            entry->ecx =
                apic_id >> (thread_bits + bits_for(model->options.topology.cores));
            break;
        default:
            break;
        }
    }
    if (ioctl(vcpu_fd, KVM_SET_CPUID2, model->cpuid) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "KVM refused the CPUID of vCPU %u", index);
    }
    return 0;
}
