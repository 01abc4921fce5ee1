/* SPDX-License-Identifier: MIT */
/* The VM descriptor: creation, memslots, irqchip, routes, doorbells. */
#include "vmm/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "vcpu/kvm_stats.h"
#include "vmm/board/board.h"

enum { KVM_MAX_ROUTES = 4096, KVM_IRQCHIP_ROUTES = 16 + IRQ_GSI_COUNT };

static const struct {
    int cap;
    const char *name;
} kvm_required[] = {
    { KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
    { KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
    { KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
    { KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
    { KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
    { KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
    { KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM" },
    { KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
};

static int kvm_open_device(struct kvm *kvm, const char *path, struct umbra_error *error)
{
    int version;

    kvm->fd = open(path, O_RDWR | O_CLOEXEC);
    if (kvm->fd < 0) {
        bool denied = errno == EACCES || errno == EPERM;

        return error_errno(
            error, denied ? UMBRA_ERROR_PERMISSION : UMBRA_ERROR_NO_KVM, errno,
            denied ? "cannot open %s (add yourself to its group: sudo usermod "
                     "-aG kvm $USER, then log in again)"
                   : "cannot open %s (load the kvm module, or enable "
                     "virtualization in the firmware; `umbra doctor` tells "
                     "more)",
            path);
    }
    version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        return error_set(
            error, UMBRA_ERROR_NO_KVM, ENOTSUP,
            "%s is not a KVM device umbra can use: API version %d, expected %d", path,
            version, KVM_API_VERSION);
    }
    for (size_t i = 0; i < ARRAY_SIZE(kvm_required); i++) {
        if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, kvm_required[i].cap) <= 0) {
            return error_set(
                error, UMBRA_ERROR_NO_KVM, ENOTSUP,
                "this kernel's KVM lacks %s, which umbra needs (Linux 4.14 or "
                "newer has it)",
                kvm_required[i].name);
        }
    }
    return 0;
}

static int kvm_create_vm(struct kvm *kvm, struct umbra_error *error)
{
    int size;

    do {
        kvm->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
    } while (kvm->vm_fd < 0 && errno == EINTR);
    if (kvm->vm_fd < 0) {
        return error_errno(error, UMBRA_ERROR_NO_KVM, errno,
                           "KVM_CREATE_VM failed (is another hypervisor using the "
                           "processor's virtualization?)");
    }
    size = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run)) {
        return error_set(error, UMBRA_ERROR_INTERNAL, EINVAL,
                         "KVM_GET_VCPU_MMAP_SIZE returned %d", size);
    }
    kvm->stats_fd = kvm_stats_open(kvm->vm_fd);
    kvm->run_size = (size_t)size;
    size = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    kvm->max_vcpus = size > 0 ? (unsigned)size : 4;
    return 0;
}

static struct kvm_irq_routing_entry kvm_msi_entry(unsigned gsi,
                                                  const struct kvm_route *route)
{
    struct kvm_irq_routing_entry entry = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };

    entry.u.msi.address_lo = (uint32_t)route->address;
    entry.u.msi.address_hi = (uint32_t)(route->address >> 32);
    entry.u.msi.data = route->data;
    return entry;
}

static int kvm_set_routes(struct kvm *kvm)
{
    size_t total = KVM_IRQCHIP_ROUTES + kvm->route_count;
    struct kvm_irq_routing *table;
    struct kvm_irq_routing_entry *entry;
    int ret;

    table = calloc(1, sizeof(*table) + total * sizeof(*entry));
    if (table == NULL) {
        return -ENOMEM;
    }
    entry = table->entries;
    for (unsigned gsi = 0; gsi < IRQ_GSI_COUNT && !kvm->split_irqchip; gsi++) {
        if (gsi < 16) {
            entry->gsi = gsi;
            entry->type = KVM_IRQ_ROUTING_IRQCHIP;
            entry->u.irqchip.irqchip =
                gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
            entry->u.irqchip.pin = gsi % 8;
            entry++;
        }
        /* The PIT is wired to pin 2 of the IOAPIC, as the MADT's override says. */
        entry->gsi = gsi;
        entry->type = KVM_IRQ_ROUTING_IRQCHIP;
        entry->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
        entry->u.irqchip.pin = gsi == 0 ? 2 : gsi;
        if (gsi != 2) {
            entry++;
        }
    }
    for (unsigned gsi = 0; gsi < IRQ_GSI_COUNT; gsi++) {
        if (kvm->pin_routes[gsi].used) {
            *entry++ = kvm_msi_entry(gsi, &kvm->pin_routes[gsi]);
        }
    }
    for (size_t i = 0; i < kvm->route_count; i++) {
        if (kvm->routes[i].used) {
            *entry++ = kvm_msi_entry(IRQ_GSI_COUNT + (unsigned)i, &kvm->routes[i]);
        }
    }
    table->nr = (uint32_t)(entry - table->entries);
    ret = ioctl(kvm->vm_fd, KVM_SET_GSI_ROUTING, table) < 0 ? -errno : 0;
    free(table);
    return ret;
}

static int kvm_create_irqchip(struct kvm *kvm, const struct kvm_options *options,
                              struct umbra_error *error)
{
    struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    uint64_t identity = BOARD_IDENTITY_BASE;
    int ret;

    /* Only Intel without unrestricted guest needs these two; others accept or refuse. */
    ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)BOARD_TSS_BASE);
    kvm->split_irqchip = options->split_irqchip;
    if (options->split_irqchip) {
        struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP,
                                      .args = { IRQ_GSI_COUNT } };

        if (ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap) < 0) {
            return error_errno(
                error, UMBRA_ERROR_INTERNAL, errno,
                "this KVM cannot split the irqchip (KVM_CAP_SPLIT_IRQCHIP)");
        }
        return 0;
    }
    if (ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "KVM_CREATE_IRQCHIP failed");
    }
    if (options->pit && ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "KVM_CREATE_PIT2 failed");
    }
    ret = kvm_set_routes(kvm);
    if (ret < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                           "KVM_SET_GSI_ROUTING failed");
    }
    return 0;
}

static int kvm_irq_set_level(struct irq_chip *chip, unsigned gsi, bool level)
{
    struct kvm *kvm = container_of(chip, struct kvm, irqs);
    struct kvm_irq_level line = { .irq = gsi, .level = level };

    if (kvm->split_irqchip) {
        if (kvm->pin != NULL) {
            kvm->pin(kvm->pin_context, gsi, level);
        }
        return 0;
    }
    return ioctl(kvm->vm_fd, KVM_IRQ_LINE, &line) < 0 ? -errno : 0;
}

static int kvm_irq_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
    struct kvm *kvm = container_of(chip, struct kvm, irqs);
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address,
        .address_hi = (uint32_t)(address >> 32),
        .data = data,
    };

    return ioctl(kvm->vm_fd, KVM_SIGNAL_MSI, &msi) < 0 ? -errno : 0;
}

static int kvm_irqfd(struct kvm *kvm, unsigned gsi, int fd, int resample_fd, bool add)
{
    struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = gsi };

    if (!add) {
        irqfd.flags |= KVM_IRQFD_FLAG_DEASSIGN;
    } else if (resample_fd >= 0) {
        irqfd.flags |= KVM_IRQFD_FLAG_RESAMPLE;
        irqfd.resamplefd = (uint32_t)resample_fd;
    }
    return ioctl(kvm->vm_fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

/* A free route, or -ENOSPC. The caller holds route_lock. */
static int kvm_route_new(struct kvm *kvm)
{
    struct kvm_route *routes;

    for (size_t i = 0; i < kvm->route_count; i++) {
        if (!kvm->routes[i].used) {
            return (int)i;
        }
    }
    if (kvm->route_count == KVM_MAX_ROUTES - IRQ_GSI_COUNT) {
        return -ENOSPC;
    }
    routes = realloc(kvm->routes, (kvm->route_count + 1) * sizeof(*routes));
    if (routes == NULL) {
        return -ENOMEM;
    }
    kvm->routes = routes;
    routes[kvm->route_count] = (struct kvm_route){ 0 };
    return (int)kvm->route_count++;
}

static int kvm_msi_bind(struct irq_chip *chip, int *route, uint64_t address,
                        uint32_t data, int fd)
{
    struct kvm *kvm = container_of(chip, struct kvm, irqs);
    bool fresh = *route < 0;
    int index, ret;

    pthread_mutex_lock(&kvm->route_lock);
    index = fresh ? kvm_route_new(kvm) : *route;
    ret = index < 0 ? index : 0;
    if (ret == 0) {
        kvm->routes[index] =
            (struct kvm_route){ .used = true, .address = address, .data = data };
        ret = kvm_set_routes(kvm);
        if (ret == 0 && fresh) {
            ret = kvm_irqfd(kvm, IRQ_GSI_COUNT + (unsigned)index, fd, -1, true);
        }
        if (ret < 0 && fresh) {
            kvm->routes[index].used = false;
        }
    }
    pthread_mutex_unlock(&kvm->route_lock);
    if (ret == 0) {
        *route = index;
    }
    return ret;
}

static void kvm_msi_unbind(struct irq_chip *chip, int *route, int fd)
{
    struct kvm *kvm = container_of(chip, struct kvm, irqs);

    if (*route < 0) {
        return;
    }
    pthread_mutex_lock(&kvm->route_lock);
    kvm_irqfd(kvm, IRQ_GSI_COUNT + (unsigned)*route, fd, -1, false);
    kvm->routes[*route].used = false;
    kvm_set_routes(kvm);
    pthread_mutex_unlock(&kvm->route_lock);
    *route = -1;
}

int kvm_route_pin(struct kvm *kvm, unsigned gsi, const struct kvm_route *route)
{
    int ret;

    pthread_mutex_lock(&kvm->route_lock);
    kvm->pin_routes[gsi] = *route;
    ret = kvm_set_routes(kvm);
    pthread_mutex_unlock(&kvm->route_lock);
    return ret;
}

static int kvm_line_bind(struct irq_chip *chip, unsigned gsi, int fd, int resample_fd)
{
    struct kvm *kvm = container_of(chip, struct kvm, irqs);

    return kvm->split_irqchip ? -ENOTSUP : kvm_irqfd(kvm, gsi, fd, resample_fd, true);
}

static void kvm_line_unbind(struct irq_chip *chip, unsigned gsi, int fd)
{
    kvm_irqfd(container_of(chip, struct kvm, irqs), gsi, fd, -1, false);
}

static const struct irq_chip_ops kvm_irq_ops = {
    .set_level = kvm_irq_set_level,
    .send_msi = kvm_irq_send_msi,
    .msi_bind = kvm_msi_bind,
    .msi_unbind = kvm_msi_unbind,
    .line_bind = kvm_line_bind,
    .line_unbind = kvm_line_unbind,
};

int kvm_open(struct kvm *kvm, const struct kvm_options *options,
             struct umbra_error *error)
{
    int ret;

    *kvm = (struct kvm){ .fd = -1, .vm_fd = -1, .stats_fd = -1 };
    irq_chip_init(&kvm->irqs, &kvm_irq_ops);
    pthread_mutex_init(&kvm->route_lock, NULL);
    ret = kvm_open_device(kvm, options->path != NULL ? options->path : "/dev/kvm", error);
    if (ret == 0) {
        ret = kvm_create_vm(kvm, error);
    }
    if (ret == 0) {
        ret = kvm_create_irqchip(kvm, options, error);
    }
    if (ret < 0) {
        kvm_close(kvm);
    }
    return ret;
}

void kvm_close(struct kvm *kvm)
{
    if (kvm->stats_fd >= 0) {
        close(kvm->stats_fd);
    }
    if (kvm->vm_fd >= 0) {
        close(kvm->vm_fd);
    }
    if (kvm->fd >= 0) {
        close(kvm->fd);
    }
    kvm->fd = -1;
    kvm->vm_fd = -1;
    kvm->stats_fd = -1;
    free(kvm->routes);
    kvm->routes = NULL;
    pthread_mutex_destroy(&kvm->route_lock);
    irq_chip_fini(&kvm->irqs);
}

bool kvm_has_hardware(void)
{
    return access("/sys/module/kvm_intel", F_OK) == 0 ||
           access("/sys/module/kvm_amd", F_OK) == 0;
}

static bool kvm_module_flag(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char flag = 'N';

    if (fd >= 0) {
        if (read(fd, &flag, 1) != 1) {
            flag = 'N';
        }
        close(fd);
    }
    return flag == 'Y' || flag == '1';
}

bool kvm_has_nested_paging(void)
{
    return kvm_module_flag("/sys/module/kvm_intel/parameters/ept") ||
           kvm_module_flag("/sys/module/kvm_amd/parameters/npt");
}

int kvm_map_memory(struct kvm *kvm, const struct guest_mem *mem, bool log_dirty,
                   struct umbra_error *error)
{
    const struct guest_region *regions;
    size_t count;

    regions = guest_mem_regions(mem, &count);
    for (size_t i = 0; i < count; i++) {
        const struct guest_region *region = &regions[i];
        struct kvm_userspace_memory_region slot = {
            .slot = region->slot,
            .flags =
                (region->kind == GUEST_REGION_ROM ? KVM_MEM_READONLY : 0) |
                (log_dirty && region->kind == GUEST_REGION_RAM ? KVM_MEM_LOG_DIRTY_PAGES
                                                               : 0),
            .guest_phys_addr = region->base,
            .memory_size = region->size,
            .userspace_addr = (uintptr_t)region->host,
        };

        if (ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0) {
            return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                               "KVM refused the memslot of %" PRIu64
                               " KiB at GPA 0x%" PRIx64,
                               region->size / KIB, region->base);
        }
    }
    return 0;
}

static int kvm_set_piece(struct kvm *kvm, const struct guest_region *region,
                         const struct guest_piece *piece, bool log_dirty)
{
    struct kvm_userspace_memory_region memory = {
        .slot = piece->slot,
        .flags = log_dirty && piece->size > 0 ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = piece->base,
        .memory_size = piece->size,
        .userspace_addr = (uintptr_t)region->host + (piece->base - region->base),
    };

    return ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &memory) < 0 ? -errno : 0;
}

static int kvm_remap_region(struct kvm *kvm, const struct guest_mem *mem,
                            const struct guest_region *region, bool log_dirty)
{
    struct guest_piece pieces[GUEST_MEM_PIECES];
    struct guest_piece none = { .base = region->base, .slot = region->slot };
    unsigned count = guest_mem_pieces(mem, region, pieces);
    int ret = 0;

    /* Of slots that are not there KVM says EINVAL: that is fine. */
    kvm_set_piece(kvm, region, &none, false);
    for (unsigned i = 0; i < GUEST_MEM_PIECES; i++) {
        none.slot = guest_mem_piece_slot(region, i);
        kvm_set_piece(kvm, region, &none, false);
    }
    for (unsigned i = 0; ret == 0 && i < count; i++) {
        ret = kvm_set_piece(kvm, region, &pieces[i], log_dirty);
    }
    return ret;
}

int kvm_remap_memory(struct kvm *kvm, const struct guest_mem *mem, bool log_dirty)
{
    const struct guest_region *regions;
    size_t count;
    int ret = 0;

    regions = guest_mem_regions(mem, &count);
    for (size_t i = 0; ret == 0 && i < count; i++) {
        if (regions[i].kind == GUEST_REGION_RAM) {
            ret = kvm_remap_region(kvm, mem, &regions[i], log_dirty);
        }
    }
    return ret;
}

int kvm_clock_jump(struct kvm *kvm, int64_t ns)
{
    struct kvm_clock_data clock = { 0 };

    if (ioctl(kvm->vm_fd, KVM_GET_CLOCK, &clock) < 0) {
        return -errno;
    }
    clock = (struct kvm_clock_data){ .clock = clock.clock + (uint64_t)ns };
    return ioctl(kvm->vm_fd, KVM_SET_CLOCK, &clock) < 0 ? -errno : 0;
}

int kvm_doorbell(void *context, bool mmio, uint64_t address, unsigned length, bool match,
                 uint64_t value, int fd, bool add)
{
    struct kvm *kvm = context;
    struct kvm_ioeventfd doorbell = {
        .datamatch = value,
        .addr = address,
        .len = length,
        .fd = fd,
        .flags = (mmio ? 0u : KVM_IOEVENTFD_FLAG_PIO) |
                 (match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u) |
                 (add ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    return ioctl(kvm->vm_fd, KVM_IOEVENTFD, &doorbell) < 0 ? -errno : 0;
}

/* Power-on state of the PICs and of the IOAPIC: every pin masked. */
static void kvm_irqchip_initial(struct kvm_irqchip *chip, unsigned id)
{
    memset(chip, 0, sizeof(*chip));
    chip->chip_id = id;
    if (id == KVM_IRQCHIP_IOAPIC) {
        chip->chip.ioapic.base_address = BOARD_IOAPIC_BASE;
        for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
            chip->chip.ioapic.redirtbl[i].fields.mask = 1;
        }
    } else {
        chip->chip.pic.elcr_mask = id == KVM_IRQCHIP_PIC_MASTER ? 0xf8 : 0xde;
    }
}

int kvm_reset_irqchip(struct kvm *kvm, bool pit)
{
    if (kvm->split_irqchip) {
        return 0;
    }
    for (unsigned id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_IOAPIC; id++) {
        struct kvm_irqchip chip;

        kvm_irqchip_initial(&chip, id);
        if (ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip) < 0) {
            return -errno;
        }
    }
    if (pit) {
        struct kvm_pit_state2 state = { 0 };

        for (unsigned i = 0; i < ARRAY_SIZE(state.channels); i++) {
            state.channels[i].mode = 0xff;
            state.channels[i].gate = i != 2;
        }
        if (ioctl(kvm->vm_fd, KVM_SET_PIT2, &state) < 0) {
            return -errno;
        }
    }
    return 0;
}
