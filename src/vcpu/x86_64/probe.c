/* SPDX-License-Identifier: MIT */
/* Asks KVM what it is, and runs a guest of a few dozen bytes to see what it does. */
#include "vcpu/probe.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"

/* The guest's memory: page tables that map the first 2 MiB to themselves, then code. */
enum {
    GUEST_PML4 = 0x0000,
    GUEST_PDPT = 0x1000,
    GUEST_PD = 0x2000,
    GUEST_CODE = 0x3000,
    GUEST_USER_CODE = 0x3800,
    GUEST_SIZE = 0x4000,
};

enum {
    LOOP_COUNT = 500, /* iterations of two instructions; in guest_code */
    LOOP_OUTS = 17,   /* exits a cycle, the first one behind the loop */
    CYCLES = 8,
    CPUID_MAX = 256,
    INTERPRETED_PS = 50000, /* no processor takes this long for `dec` and `jnz` */
};

#define TSS_ADDRESS 0xfffbd000u /* Intel without unrestricted guest wants three pages */

/* Masked in the guest's CPUID; a guest that still sees one knows that masks do nothing. */
#define LEAF1_ECX_MASKED (1u << 13 | 1u << 17 | 1u << 23) /* cx16 pcid popcnt */
#define LEAF7_EBX_MASKED                                                                 \
    (1u << 0 | 1u << 7 | 1u << 9 | 1u << 10 | 1u << 20) /* fsgsbase smep
                                                                  erms invpcid smap */

/* An APIC id that the host's processor does not have: a program in the guest sees it, or
 * that processor's own. */
#define LEAF1_EBX_APIC_ID 0xff000000u
#define PLANTED_APIC_ID   0xa5000000u

static const uint8_t guest_code[] = {
    0xb8, 0x07, 0x00, 0x00, 0x00,                         /* mov eax, 7 */
    0x31, 0xc9,                                           /* xor ecx, ecx */
    0x0f, 0xa2,                                           /* cpuid */
    0x89, 0xd8,                                           /* mov eax, ebx */
    0x66, 0xba, 0xf0, 0x00,                               /* mov dx, 0xf0 */
    0xef,                                                 /* out dx, eax */
    0xb8, 0x01, 0x00, 0x00, 0x00,                         /* mov eax, 1 */
    0x0f, 0xa2,                                           /* cpuid */
    0x89, 0xc8,                                           /* mov eax, ecx */
    0x66, 0xba, 0xf0, 0x00,                               /* mov dx, 0xf0 */
    0xef,                                                 /* out dx, eax */
    0xb8, 0x01, 0x00, 0x00, 0x40,                         /* mov eax, 0x40000001 */
    0x0f, 0xa2,                                           /* cpuid */
    0x66, 0xba, 0xf0, 0x00,                               /* mov dx, 0xf0 */
    0xef,                                                 /* out dx, eax */
    0xb9, 0xf4, 0x01, 0x00, 0x00,                         /* cycle: mov ecx, LOOP_COUNT */
    0xff, 0xc9,                                           /* again: dec ecx */
    0x75, 0xfc,                                           /* jnz again */
    0xef, 0xef, 0xef, 0xef, 0xef, 0xef, 0xef, 0xef, 0xef, /* out dx, eax: LOOP_OUTS */
    0xef, 0xef, 0xef, 0xef, 0xef, 0xef, 0xef, 0xef, 0xeb, 0xe4, /* jmp cycle */
};

/* At CPL 3, which some KVMs leave to the processor where they interpret CPL 0. */
static const uint8_t user_code[] = {
    0xb8, 0x01, 0x00, 0x00, 0x00, /* mov eax, 1 */
    0x0f, 0xa2,                   /* cpuid */
    0x89, 0xd8,                   /* mov eax, ebx */
    0x66, 0xba, 0xf0, 0x00,       /* mov dx, 0xf0 */
    0xef,                         /* out dx, eax */
};

struct probe_guest {
    int kvm_fd, vm_fd, vcpu_fd;
    void *memory;
    struct kvm_run *run;
    size_t run_size;
    const char *step; /* what was tried last */
};

/* ---- Facts ------------------------------------------------------------------- */

const char *kvm_flavour_name(enum kvm_flavour flavour)
{
    static const char *const names[] = {
        [KVM_FLAVOUR_UNKNOWN] = "unknown", [KVM_FLAVOUR_INTEL] = "Intel VT-x",
        [KVM_FLAVOUR_AMD] = "AMD SVM",     [KVM_FLAVOUR_PVM] = "PVM",
        [KVM_FLAVOUR_ARM] = "ARM",
    };

    return names[flavour];
}

unsigned kvm_probe_physical_bits(void)
{
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx) != 0 ? eax & 0xff : 36;
}

/* A module parameter that reads Y or 1. */
static enum kvm_paging paging_parameter(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char c = '\0';

    if (fd < 0 || read(fd, &c, 1) != 1) {
        c = '\0';
    }
    if (fd >= 0) {
        close(fd);
    }
    return c == 'Y' || c == '1'   ? KVM_PAGING_NESTED
           : c == 'N' || c == '0' ? KVM_PAGING_SHADOW
                                  : KVM_PAGING_UNKNOWN;
}

static void probe_flavour(struct kvm_probe *probe)
{
    if (access("/sys/module/kvm_intel", F_OK) == 0) {
        probe->flavour = KVM_FLAVOUR_INTEL;
        probe->paging = paging_parameter("/sys/module/kvm_intel/parameters/ept");
    } else if (access("/sys/module/kvm_amd", F_OK) == 0) {
        probe->flavour = KVM_FLAVOUR_AMD;
        probe->paging = paging_parameter("/sys/module/kvm_amd/parameters/npt");
    } else if (access("/sys/module/kvm_pvm", F_OK) == 0) {
        probe->flavour = KVM_FLAVOUR_PVM;
        probe->paging = KVM_PAGING_SHADOW;
    }
}

static int capability(int fd, unsigned long number)
{
    int value = ioctl(fd, KVM_CHECK_EXTENSION, number);

    return value > 0 ? value : 0;
}

static void probe_caps(int fd, struct kvm_probe_caps *caps)
{
    *caps = (struct kvm_probe_caps){
        .irqchip = capability(fd, KVM_CAP_IRQCHIP) != 0,
        .split_irqchip = capability(fd, KVM_CAP_SPLIT_IRQCHIP) != 0,
        .irqfd = capability(fd, KVM_CAP_IRQFD) != 0,
        .ioeventfd = capability(fd, KVM_CAP_IOEVENTFD) != 0,
        .signal_msi = capability(fd, KVM_CAP_SIGNAL_MSI) != 0,
        .immediate_exit = capability(fd, KVM_CAP_IMMEDIATE_EXIT) != 0,
        .dirty_ring = capability(fd, KVM_CAP_DIRTY_LOG_RING) != 0 ||
                      capability(fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) != 0,
        .readonly_mem = capability(fd, KVM_CAP_READONLY_MEM) != 0,
        .user_msr = capability(fd, KVM_CAP_X86_USER_SPACE_MSR) != 0,
        .exit_on_emulation_failure =
            capability(fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE) != 0,
        .vm_tsc_control = capability(fd, KVM_CAP_TSC_CONTROL) != 0,
        .bus_lock_exit = capability(fd, KVM_CAP_X86_BUS_LOCK_EXIT) != 0,
        .notify_vmexit = capability(fd, KVM_CAP_X86_NOTIFY_VMEXIT) != 0,
        .disable_exits = capability(fd, KVM_CAP_X86_DISABLE_EXITS) != 0,
        .max_vcpus = (unsigned)capability(fd, KVM_CAP_MAX_VCPUS),
        .memslots = (unsigned)capability(fd, KVM_CAP_NR_MEMSLOTS),
    };
}

/* ---- The guest --------------------------------------------------------------- */

static int try_ioctl(struct probe_guest *guest, int fd, const char *step,
                     unsigned long request, void *argument)
{
    int rc = ioctl(fd, request, argument);

    guest->step = step;
    return rc < 0 ? -errno : rc;
}

static int guest_cpuid(struct probe_guest *guest)
{
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + CPUID_MAX * sizeof(cpuid->entries[0]));
    int rc;

    if (cpuid == NULL) {
        return -ENOMEM;
    }
    cpuid->nent = CPUID_MAX;
    rc = try_ioctl(guest, guest->kvm_fd, "KVM_GET_SUPPORTED_CPUID",
                   KVM_GET_SUPPORTED_CPUID, cpuid);
    for (unsigned i = 0; rc == 0 && i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

        if (entry->function == 1) {
            entry->ecx &= ~LEAF1_ECX_MASKED;
            entry->ebx = (entry->ebx & ~LEAF1_EBX_APIC_ID) | PLANTED_APIC_ID;
        } else if (entry->function == 7 && entry->index == 0) {
            entry->ebx &= ~LEAF7_EBX_MASKED;
        } else if (entry->function == 0x40000001) {
            entry->eax = 0;
        }
    }
    if (rc == 0) {
        rc = try_ioctl(guest, guest->vcpu_fd, "KVM_SET_CPUID2", KVM_SET_CPUID2, cpuid);
    }
    free(cpuid);
    return rc;
}

static int guest_memory(struct probe_guest *guest)
{
    struct kvm_userspace_memory_region region = { .memory_size = GUEST_SIZE };
    uint8_t *memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    guest->step = "mmap";
    if (memory == MAP_FAILED) {
        return -errno;
    }
    guest->memory = memory;
    store_le64(memory + GUEST_PML4, GUEST_PDPT | 0x7); /* present, writable, user */
    store_le64(memory + GUEST_PDPT, GUEST_PD | 0x7);
    store_le64(memory + GUEST_PD, 0x87); /* and 2 MiB */
    memcpy(memory + GUEST_CODE, guest_code, sizeof(guest_code));
    memcpy(memory + GUEST_USER_CODE, user_code, sizeof(user_code));
    region.userspace_addr = (uintptr_t)memory;
    return try_ioctl(guest, guest->vm_fd, "KVM_SET_USER_MEMORY_REGION",
                     KVM_SET_USER_MEMORY_REGION, &region);
}

/* 64-bit mode at @rip with privilege level @cpl, ports allowed, interrupts off. */
static int guest_registers(struct probe_guest *guest, uint64_t rip, uint8_t cpl)
{
    struct kvm_regs regs = { .rip = rip, .rflags = 0x2 | (uint64_t)cpl << 12 };
    struct kvm_segment code = { .limit = 0xffffffff,
                                .selector = (uint16_t)(0x8 | cpl),
                                .dpl = cpl,
                                .type = 11,
                                .present = 1,
                                .s = 1,
                                .l = 1,
                                .g = 1 };
    struct kvm_segment data = { .limit = 0xffffffff,
                                .selector = (uint16_t)(0x10 | cpl),
                                .dpl = cpl,
                                .type = 3,
                                .present = 1,
                                .s = 1,
                                .db = 1,
                                .g = 1 };
    struct kvm_sregs sregs;
    int rc;

    rc = try_ioctl(guest, guest->vcpu_fd, "KVM_GET_SREGS", KVM_GET_SREGS, &sregs);
    if (rc != 0) {
        return rc;
    }
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 = 0x80000011; /* PG, ET, PE */
    sregs.cr3 = GUEST_PML4;
    sregs.cr4 = 0x20;   /* PAE */
    sregs.efer = 0x500; /* LMA, LME */
    rc = try_ioctl(guest, guest->vcpu_fd, "KVM_SET_SREGS", KVM_SET_SREGS, &sregs);
    if (rc != 0) {
        return rc;
    }
    return try_ioctl(guest, guest->vcpu_fd, "KVM_SET_REGS", KVM_SET_REGS, &regs);
}

static int guest_create(struct probe_guest *guest)
{
    int rc = try_ioctl(guest, guest->kvm_fd, "KVM_CREATE_VM", KVM_CREATE_VM, NULL);

    if (rc < 0) {
        return rc;
    }
    guest->vm_fd = rc;
    /* Fails where it is not needed; then it does not matter. */
    ioctl(guest->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_ADDRESS);
    rc = guest_memory(guest);
    if (rc != 0) {
        return rc;
    }
    rc = try_ioctl(guest, guest->vm_fd, "KVM_CREATE_VCPU", KVM_CREATE_VCPU, NULL);
    if (rc < 0) {
        return rc;
    }
    guest->vcpu_fd = rc;
    rc = try_ioctl(guest, guest->kvm_fd, "KVM_GET_VCPU_MMAP_SIZE", KVM_GET_VCPU_MMAP_SIZE,
                   NULL);
    if (rc < 0) {
        return rc;
    }
    guest->run_size = (size_t)rc;
    guest->run = mmap(NULL, guest->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                      guest->vcpu_fd, 0);
    if (guest->run == MAP_FAILED) {
        guest->run = NULL;
        return -errno;
    }
    rc = guest_cpuid(guest);
    return rc != 0 ? rc : guest_registers(guest, GUEST_CODE, 0);
}

static void guest_destroy(struct probe_guest *guest)
{
    if (guest->run != NULL) {
        munmap(guest->run, guest->run_size);
    }
    if (guest->vcpu_fd >= 0) {
        close(guest->vcpu_fd);
    }
    if (guest->vm_fd >= 0) {
        close(guest->vm_fd);
    }
    if (guest->memory != NULL) {
        munmap(guest->memory, GUEST_SIZE);
    }
}

/* Run to the next `out`; *value is what it wrote, *ns how long it took. */
static int guest_step(struct probe_guest *guest, uint32_t *value, uint64_t *ns)
{
    uint64_t start = clock_ns();
    int rc;

    do {
        rc = try_ioctl(guest, guest->vcpu_fd, "KVM_RUN", KVM_RUN, NULL);
    } while (rc == -EINTR);
    *ns = clock_ns() - start;
    if (rc < 0) {
        return rc;
    }
    if (guest->run->exit_reason != KVM_EXIT_IO) {
        guest->step = "the guest's first instructions";
        return -ENOEXEC;
    }
    memcpy(value, (const char *)guest->run + guest->run->io.data_offset, sizeof(*value));
    return 0;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void guest_measure_user(struct probe_guest *guest, struct kvm_probe *probe)
{
    uint32_t leaf1;
    uint64_t ns;

    /* Where this cannot be looked at, it is taken to be as with the masks. */
    probe->apic_ids_apply = probe->masks_apply;
    if (guest_registers(guest, GUEST_USER_CODE, 3) == 0 &&
        guest_step(guest, &leaf1, &ns) == 0) {
        probe->apic_ids_apply = (leaf1 & LEAF1_EBX_APIC_ID) == PLANTED_APIC_ID;
    }
}

static int guest_measure(struct probe_guest *guest, struct kvm_probe *probe)
{
    uint64_t ns, loop = UINT64_MAX, plain = UINT64_MAX, total = 0;
    uint32_t leaf7, leaf1, pv, ignored;
    int rc;

    if ((rc = guest_step(guest, &leaf7, &ns)) != 0 ||
        (rc = guest_step(guest, &leaf1, &ns)) != 0 ||
        (rc = guest_step(guest, &pv, &ns)) != 0) {
        return rc;
    }
    for (unsigned i = 0; i < CYCLES * LOOP_OUTS; i++) {
        rc = guest_step(guest, &ignored, &ns);
        if (rc != 0) {
            return rc;
        }
        if (i % LOOP_OUTS == 0) {
            loop = smaller(loop, ns);
        } else {
            plain = smaller(plain, ns);
            total += ns;
        }
    }
    probe->masks_apply =
        (leaf7 & LEAF7_EBX_MASKED) == 0 && (leaf1 & LEAF1_ECX_MASKED) == 0;
    probe->pv_masks_apply = pv == 0;
    probe->exit_ns = total / (CYCLES * (LOOP_OUTS - 1));
    probe->instruction_ps = loop > plain ? (loop - plain) * 1000 / (2 * LOOP_COUNT) : 0;
    probe->cpl0_interpreted = probe->instruction_ps > INTERPRETED_PS;
    guest_measure_user(guest, probe);
    return 0;
}

static void probe_measure(int kvm_fd, struct kvm_probe *probe)
{
    struct probe_guest guest = { .kvm_fd = kvm_fd, .vm_fd = -1, .vcpu_fd = -1 };
    int rc = guest_create(&guest);

    if (rc == 0) {
        rc = guest_measure(&guest, probe);
    }
    if (rc == 0) {
        probe->measured = true;
    } else if (guest.run != NULL && rc == -ENOEXEC) {
        snprintf(probe->why_not, sizeof(probe->why_not), "%s: exit reason %u", guest.step,
                 guest.run->exit_reason);
    } else {
        snprintf(probe->why_not, sizeof(probe->why_not), "%s: %s", guest.step,
                 strerror(-rc));
    }
    guest_destroy(&guest);
}

int kvm_probe_run(const char *device, struct kvm_probe *probe, struct umbra_error *error)
{
    int fd = open(device, O_RDWR | O_CLOEXEC), errnum = errno;

    *probe = (struct kvm_probe){ 0 };
    probe_flavour(probe);
    if (fd < 0 && (errnum == EACCES || errnum == EPERM)) {
        return error_set(error, UMBRA_ERROR_PERMISSION, errnum,
                         "no permission to open %s; add yourself to its group (often: "
                         "sudo usermod -aG kvm $USER, then log in again)",
                         device);
    }
    if (fd < 0) {
        return error_set(error, UMBRA_ERROR_NO_KVM, errnum,
                         "cannot open %s: %s; load kvm_intel or kvm_amd, and enable "
                         "virtualization in the firmware (or in the cloud's instance)",
                         device, strerror(errnum));
    }
    probe->api_version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (probe->api_version != KVM_API_VERSION) {
        int version = probe->api_version;

        close(fd);
        return error_set(error, UMBRA_ERROR_NO_KVM, ENOTSUP,
                         "%s: KVM API version %d, expected %d; this is not a KVM device "
                         "that umbra can use",
                         device, version, KVM_API_VERSION);
    }
    probe_caps(fd, &probe->caps);
    probe_measure(fd, probe);
    close(fd);
    return 0;
}
