/* SPDX-License-Identifier: MIT */
/*
 * What this host offers a VM, what stands in the way, and what to do about it. Each check
 * is one function that adds one entry or a few.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"
#include "vcpu/probe.h"

enum status { STATUS_GOOD, STATUS_NOTE, STATUS_BAD };

struct doctor {
    json_t *checks;
    const char *kvm; /* "usable", "absent", "forbidden" */
    bool failed;     /* out of memory */
};

/* @remedy may be NULL. */
__attribute__((format(printf, 5, 6))) static void
add(struct doctor *doctor, const char *name, enum status status, const char *remedy,
    const char *format, ...)
{
    static const char *const names[] = { "good", "note", "bad" };
    char value[512];
    va_list args;
    json_t *check;

    va_start(args, format);
    vsnprintf(value, sizeof(value), format, args);
    va_end(args);
    check = json_pack("{s:s, s:s, s:s}", "name", name, "status", names[status], "value",
                      value);
    if (remedy != NULL) {
        json_object_set_new(check, "remedy", json_string(remedy));
    }
    if (json_array_append_new(doctor->checks, check) != 0) {
        doctor->failed = true;
    }
}

/* The first line of a small file; false when it cannot be read. */
static bool read_line(const char *path, char *line, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, line, size - 1) : -1;

    if (fd >= 0) {
        close(fd);
    }
    line[n > 0 ? n : 0] = '\0';
    line[strcspn(line, "\n")] = '\0';
    return n >= 0;
}

static uint64_t read_number(const char *path)
{
    char line[64];

    return read_line(path, line, sizeof(line)) ? strtoull(line, NULL, 10) : 0;
}

/* ---- KVM --------------------------------------------------------------------- */

static void check_kind(struct doctor *doctor, const struct kvm_probe *probe)
{
    const char *kind = kvm_flavour_name(probe->flavour);

    if (probe->flavour == KVM_FLAVOUR_PVM) {
        add(doctor, "virtualization", STATUS_NOTE,
            "use a host with VT-x or SVM (bare metal, or an instance with nested "
            "virtualization) where speed matters",
            "%s: KVM without hardware support underneath", kind);
    } else {
        add(doctor, "virtualization", STATUS_GOOD, NULL, "%s", kind);
    }
    switch (probe->paging) {
    case KVM_PAGING_NESTED:
        add(doctor, "nested paging", STATUS_GOOD, NULL, "on");
        break;
    case KVM_PAGING_SHADOW:
        add(doctor, "nested paging", STATUS_NOTE,
            probe->flavour == KVM_FLAVOUR_PVM
                ? "none with PVM: guests that change their page tables much are slow"
                : "load kvm_intel with ept=1 or kvm_amd with npt=1, if the processor can",
            "off: KVM keeps shadow page tables");
        break;
    case KVM_PAGING_UNKNOWN:
        add(doctor, "nested paging", STATUS_NOTE, NULL, "unknown");
        break;
    }
}

static void check_measured(struct doctor *doctor, const struct kvm_probe *probe)
{
    if (!probe->measured) {
        add(doctor, "test guest", STATUS_BAD,
            "this KVM cannot run a 64-bit guest; see the kernel's log (dmesg)", "%s",
            probe->why_not);
        return;
    }
    if (probe->masks_apply) {
        add(doctor, "CPUID masks", STATUS_GOOD, NULL, "apply");
    } else {
        add(doctor, "CPUID masks", STATUS_NOTE,
            "nothing to do for Linux guests: umbra run masks features on their command "
            "line; other guests must not rely on CPUID",
            "do not apply: guests see the processor's own features");
    }
    if (probe->apic_ids_apply) {
        add(doctor, "CPUID APIC ids", STATUS_GOOD, NULL, "each processor's own");
    } else {
        add(doctor, "CPUID APIC ids", STATUS_NOTE,
            "guests must take APIC ids and processor counts from the APIC and from "
            "ACPI's "
            "tables, as Linux does, not from CPUID",
            "the host processor's, and so is the topology");
    }
    if (probe->cpl0_interpreted) {
        add(doctor, "guest kernels", STATUS_NOTE,
            "prefer small guests; a stock Linux boot takes minutes and cannot reach user "
            "space: run it in the testbed (scripts/testbed)",
            "run in KVM's instruction emulator: %.0f ns an instruction",
            (double)probe->instruction_ps / 1000);
    } else {
        add(doctor, "guest kernels", STATUS_GOOD, NULL,
            "run on the processor: %.1f ns an instruction",
            (double)probe->instruction_ps / 1000);
    }
    add(doctor, "exit round trip", probe->exit_ns < 5000 ? STATUS_GOOD : STATUS_NOTE,
        probe->exit_ns < 5000 ? NULL
                              : "fewer exits: virtio devices rather than emulated ones",
        "%.1f us", (double)probe->exit_ns / 1000);
}

static void check_capabilities(struct doctor *doctor, const struct kvm_probe_caps *caps)
{
    const struct {
        const char *name;
        bool present, needed;
    } rows[] = {
        { "irqchip", caps->irqchip, true },
        { "irqfd", caps->irqfd, true },
        { "ioeventfd", caps->ioeventfd, true },
        { "MSI", caps->signal_msi, true },
        { "immediate exit", caps->immediate_exit, true },
        { "read-only slots", caps->readonly_mem, true },
        { "split irqchip", caps->split_irqchip, false },
        { "dirty ring", caps->dirty_ring, false },
        { "MSR exits", caps->user_msr, false },
        { "emulation failure exits", caps->exit_on_emulation_failure, false },
        { "TSC scaling", caps->vm_tsc_control, false },
        { "bus lock exits", caps->bus_lock_exit, false },
        { "notify exits", caps->notify_vmexit, false },
        { "exit controls", caps->disable_exits, false },
    };
    char absent[256] = "", missing[256] = "";

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char *list = rows[i].needed ? missing : absent;
        size_t used = strlen(list);

        if (!rows[i].present) {
            snprintf(list + used, sizeof(absent) - used, "%s%s", used > 0 ? ", " : "",
                     rows[i].name);
        }
    }
    add(doctor, "KVM capabilities", missing[0] != '\0' ? STATUS_BAD : STATUS_GOOD,
        missing[0] != '\0' ? "a newer host kernel" : NULL,
        "%u vCPUs, %u memory slots%s%s%s%s", caps->max_vcpus, caps->memslots,
        missing[0] != '\0' ? "; needed but absent: " : "", missing,
        absent[0] != '\0' ? "; not here: " : "", absent);
}

static void check_kvm(struct doctor *doctor, const char *device)
{
    struct umbra_error error;
    struct kvm_probe probe;

    if (kvm_probe_run(device, &probe, &error) != 0) {
        const char *remedy = strstr(error.message, "; "); /* "what: why; remedy" */

        doctor->kvm = error.code == UMBRA_ERROR_PERMISSION ? "forbidden" : "absent";
        add(doctor, "KVM", STATUS_BAD, remedy != NULL ? remedy + 2 : NULL, "%.*s",
            (int)(remedy != NULL ? remedy - error.message : (long)sizeof(error.message)),
            error.message);
        return;
    }
    add(doctor, "KVM", STATUS_GOOD, NULL, "%s, API version %d", device,
        probe.api_version);
    check_kind(doctor, &probe);
    check_measured(doctor, &probe);
    check_capabilities(doctor, &probe.caps);
}

/* ---- Memory ------------------------------------------------------------------ */

static void check_huge_pages(struct doctor *doctor)
{
    uint64_t two =
        read_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    uint64_t one =
        read_number("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages");
    char thp[64];
    bool reserved = two > 0 || one > 0;

    if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", thp, sizeof(thp))) {
        bool off = strstr(thp, "[never]") != NULL;

        add(doctor, "transparent huge pages", off ? STATUS_NOTE : STATUS_GOOD,
            off ? "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled: "
                  "guests boot sooner"
                : NULL,
            "%s", thp);
    } else {
        add(doctor, "transparent huge pages", STATUS_NOTE,
            "a kernel with CONFIG_TRANSPARENT_HUGEPAGE", "this kernel has none");
    }
    add(doctor, "reserved huge pages", reserved ? STATUS_GOOD : STATUS_NOTE,
        reserved ? NULL
                 : "sudo sysctl vm.nr_hugepages=N, for \"hugepages\": \"2M\" or \"1G\"",
        "%" PRIu64 " of 2 MiB, %" PRIu64 " of 1 GiB free", two, one);
}

static void check_memlock(struct doctor *doctor)
{
    struct rlimit limit;
    char text[32];

    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        add(doctor, "lockable memory", STATUS_GOOD, NULL, "unlimited");
    } else {
        bool small = limit.rlim_cur < GIB && geteuid() != 0;

        add(doctor, "lockable memory", small ? STATUS_NOTE : STATUS_GOOD,
            small ? "raise memlock in /etc/security/limits.conf, for \"locked\" and VFIO"
                  : NULL,
            "%s", size_format(limit.rlim_cur, text, sizeof(text)));
    }
}

static void check_userfaultfd(struct doctor *doctor)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    int device = access("/dev/userfaultfd", R_OK | W_OK);

    if (fd >= 0) {
        close(fd);
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    }
    if (fd >= 0 || device == 0) {
        add(doctor, "userfaultfd", STATUS_GOOD, NULL, "kernel faults too");
    } else {
        add(doctor, "userfaultfd", STATUS_NOTE,
            "sudo sysctl vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd",
            "not for faults of the kernel: %s", strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void check_ksm(struct doctor *doctor)
{
    char run[16];

    if (!read_line("/sys/kernel/mm/ksm/run", run, sizeof(run))) {
        add(doctor, "same-page merging", STATUS_NOTE, "a kernel with CONFIG_KSM",
            "this kernel has none");
    } else if (strcmp(run, "1") == 0) {
        add(doctor, "same-page merging", STATUS_GOOD, NULL, "on");
    } else {
        add(doctor, "same-page merging", STATUS_NOTE,
            "echo 1 | sudo tee /sys/kernel/mm/ksm/run, for \"mergeable\"", "off");
    }
}

/* ---- Devices ----------------------------------------------------------------- */

static void check_device(struct doctor *doctor, const char *name, const char *path,
                         const char *absent_remedy, const char *denied_remedy)
{
    if (access(path, R_OK | W_OK) == 0) {
        add(doctor, name, STATUS_GOOD, NULL, "%s", path);
    } else if (errno == ENOENT) {
        add(doctor, name, STATUS_NOTE, absent_remedy, "%s is not there", path);
    } else {
        add(doctor, name, STATUS_NOTE, denied_remedy, "%s: %s", path, strerror(errno));
    }
}

static size_t count_entries(const char *path)
{
    DIR *folder = opendir(path);
    size_t count = 0;

    if (folder == NULL) {
        return 0;
    }
    for (const struct dirent *entry = readdir(folder); entry != NULL;
         entry = readdir(folder)) {
        count += entry->d_name[0] != '.';
    }
    closedir(folder);
    return count;
}

static void check_vfio(struct doctor *doctor)
{
    size_t groups = count_entries("/sys/kernel/iommu_groups");

    check_device(doctor, "VFIO", "/dev/vfio/vfio", "sudo modprobe vfio-pci",
                 "access to /dev/vfio/vfio and the device's group");
    add(doctor, "IOMMU", groups > 0 ? STATUS_GOOD : STATUS_NOTE,
        groups > 0
            ? NULL
            : "enable VT-d or AMD-Vi in the firmware, and boot with intel_iommu=on",
        "%zu groups", groups);
}

/* Where src/virtio/fs/virtiofsd.c looks first. */
static void check_virtiofsd(struct doctor *doctor)
{
    static const char *const places[] = { "/usr/libexec/virtiofsd",
                                          "/usr/lib/qemu/virtiofsd" };

    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (access(places[i], X_OK) == 0) {
            add(doctor, "virtiofsd", STATUS_GOOD, NULL, "%s", places[i]);
            return;
        }
    }
    add(doctor, "virtiofsd", STATUS_NOTE,
        "sudo apt-get install virtiofsd (Debian 12: qemu-system-common)",
        "not there: --share needs it");
}

static void check_devices(struct doctor *doctor)
{
    check_device(doctor, "tap", "/dev/net/tun", "sudo modprobe tun",
                 "sudo ip tuntap add dev tap0 mode tap user $USER");
    check_device(doctor, "vhost-net", "/dev/vhost-net", "sudo modprobe vhost_net",
                 "access to /dev/vhost-net (group kvm on many systems)");
    check_virtiofsd(doctor);
    check_vfio(doctor);
}

int umbra_doctor_json(const char *kvm_device, char **json, struct umbra_error *error)
{
    struct doctor doctor = { .checks = json_array(), .kvm = "usable" };
    uint64_t start = clock_ns();
    json_t *report;

    check_kvm(&doctor, kvm_device != NULL ? kvm_device : "/dev/kvm");
    check_huge_pages(&doctor);
    check_memlock(&doctor);
    check_userfaultfd(&doctor);
    check_ksm(&doctor);
    check_devices(&doctor);
    report =
        json_pack("{s:s, s:s, s:o, s:f}", "version", UMBRA_VERSION, "kvm", doctor.kvm,
                  "checks", doctor.checks, "seconds", (double)(clock_ns() - start) / 1e9);
    *json = report != NULL && !doctor.failed ? json_dumps(report, JSON_INDENT(2)) : NULL;
    json_decref(report);
    if (*json == NULL) {
        return error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM, "doctor: out of memory");
    }
    return 0;
}
