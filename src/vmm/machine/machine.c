/* SPDX-License-Identifier: MIT */
/* Assembles the machine: processors, memory, loop, buses, and the board's parts list. */
#include "vmm/machine/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/util.h"
#include "vcpu/dirty.h"
#include "vcpu/x86_64/cpu_model.h"
#include "vcpu/x86_64/state.h"
#include "vmm/boot/adapt.h"
#include "vmm/guest/demo_image.h"
#include "vmm/machine/faults.h"

/* ---- Processors and memory ------------------------------------------------------------ */

static uint32_t machine_apic_id(const void *context, unsigned index)
{
    return cpu_topology_apic_id(context, index);
}

static int machine_create_processors(struct machine *machine,
                                     const struct kvm_probe *probe,
                                     struct umbra_error *error)
{
    const struct umbra_config *config = machine->config;
    struct cpu_model_options options = {
        .topology = { config->sockets, config->cores, config->threads },
        .features = (const char *const *)config->features,
        .feature_count = config->feature_count,
        .exit_hlt = config->exit_hlt,
        .exit_pause = config->exit_pause,
        .exit_mwait = config->exit_mwait,
        .bus_lock_exit = config->bus_lock_exit,
        .notify_window = config->notify_window,
        .no_hypercalls = probe->measured && probe->cpl0_interpreted,
        .log = machine->log,
    };
    struct board_cpus cpus = { .count = config->cpus };
    int ret;

    if (config->cpus > machine->kvm.max_vcpus || config->cpus > BOARD_MAX_CPUS) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%u CPUs: this host's KVM allows %u and umbra's board %u",
                         config->cpus, machine->kvm.max_vcpus, BOARD_MAX_CPUS);
    }
    ret = cpu_topology_complete(&options.topology, config->cpus);
    if (ret < 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%u CPUs cannot be %u sockets of %u cores of %u threads",
                         config->cpus, config->sockets, config->cores, config->threads);
    }
    ret = cpu_model_create(machine->kvm.fd, &options, &machine->model, error);
    if (ret == 0) {
        ret = cpu_model_apply_vm(machine->model, machine->kvm.fd, machine->kvm.vm_fd,
                                 error);
    }
    if (ret < 0) {
        return ret;
    }
    cpus.sockets = options.topology.sockets;
    cpus.cores = options.topology.cores;
    cpus.threads = options.topology.threads;
    cpus.physical_bits = cpu_model_physical_bits(machine->model);
    cpus.apic_id = machine_apic_id;
    cpus.context = &machine->model->options.topology;
    return board_init(&machine->board, config->memory, &cpus, error);
}

/* RAM as the board lays it out, except that the BIOS area is ROM for the tables in it. */
static int machine_create_memory(struct machine *machine, struct umbra_error *error)
{
    const struct umbra_config *config = machine->config;
    struct guest_mem_options options = config->memory_options;
    const gpa rom_end = BOARD_ROM_BASE + BOARD_ROM_SIZE;
    int ret;

    options.shared = options.shared || config_needs_shared_memory(config);
    ret = guest_mem_create(&options, &machine->mem, error);
    for (unsigned i = 0; ret == 0 && i < machine->board.ram_count; i++) {
        const struct board_ram *ram = &machine->board.ram[i];

        if (ram->base != 0 || options.backing >= GUEST_MEM_2M) {
            ret = guest_mem_add(machine->mem, ram->base, ram->size, GUEST_REGION_RAM,
                                error);
            continue;
        }
        ret = guest_mem_add(machine->mem, 0, BOARD_ROM_BASE, GUEST_REGION_RAM, error);
        if (ret == 0) {
            ret = guest_mem_add(machine->mem, BOARD_ROM_BASE, BOARD_ROM_SIZE,
                                GUEST_REGION_ROM, error);
        }
        if (ret == 0) {
            ret = guest_mem_add(machine->mem, rom_end, ram->size - rom_end,
                                GUEST_REGION_RAM, error);
        }
    }
    if (ret < 0) {
        return ret;
    }
    ret = config->dirty == CONFIG_DIRTY_RING     ? dirty_ring_enable(machine->kvm.vm_fd)
          : config->dirty == CONFIG_DIRTY_BITMAP ? dirty_bitmap_enable(machine->kvm.vm_fd)
                                                 : 0;
    if (ret < 0) {
        return error_errno(
            error, UMBRA_ERROR_CONFIG, -ret,
            "this host's KVM cannot track dirty pages by %s (choose the other "
            "way, or none)",
            config->dirty == CONFIG_DIRTY_RING ? "ring" : "bitmap");
    }
    return kvm_map_memory(&machine->kvm, machine->mem, config->dirty != CONFIG_DIRTY_OFF,
                          error);
}

static int machine_create_io(struct machine *machine, const struct machine_events *events,
                             struct umbra_error *error)
{
    const struct faults_options faults = { .act = events->fault_act,
                                           .fired = events->fault_fired,
                                           .context = events->context };
    int ret;

    for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
        console_init(&machine->consoles[i]);
    }
    for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
        if (machine_is_console(machine, i)) {
            machine->consoles[i].panicked = events->console_panicked;
            machine->consoles[i].panicked_context = events->context;
        }
    }
    ret = loop_create(machine->log, &machine->loop, error);
    if (ret < 0) {
        return ret;
    }
    ret = bus_create("pio", &machine->pio);
    if (ret == 0) {
        ret = bus_create("mmio", &machine->mmio);
    }
    if (ret < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot create the buses");
    }
    ret = faults_create(&faults, &machine->faults);
    if (ret < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot plan faults");
    }
    machine->observer.tell = events->observe;
    machine->observer.context = events->context;
    machine->env = (struct device_env){
        .mem = machine->mem,
        .irqs = &machine->kvm.irqs,
        .loop = machine->loop,
        .log = machine->log,
        .event = events->device_event,
        .event_context = events->context,
        .doorbell = kvm_doorbell,
        .doorbell_context = &machine->kvm,
        .faults = machine->faults,
        .observer = &machine->observer,
    };
    return machine_create_devices(machine, error);
}

/* ---- vCPUs and the guest ---------------------------------------------------------------- */

static int machine_create_vcpus(struct machine *machine,
                                const struct machine_events *events,
                                struct umbra_error *error)
{
    const struct vcpu_set_options options = {
        .kvm_fd = machine->kvm.fd,
        .vm_fd = machine->kvm.vm_fd,
        .run_size = machine->kvm.run_size,
        .count = machine->config->cpus,
        .pio = machine->pio,
        .mmio = machine->mmio,
        .mem = machine->mem,
        .log = machine->log,
        .model = machine->model,
        .ended = events->vcpu_ended,
        .debug = events->vcpu_debug,
        .int3 = events->vcpu_int3,
        .hook = events->hook,
        .dirty_ring_full = events->dirty_ring_full,
        .ioapic_eoi = machine->ioapic != NULL ? events->ioapic_eoi : NULL,
        .context = events->context,
    };
    int ret;

    ret = vcpu_set_create(&options, &machine->vcpus, error);
    for (unsigned i = 0; ret == 0 && i < options.count; i++) {
        ret = vcpu_arch_capture(&machine->vcpus->vcpus[i], error);
    }
    if (ret == 0 && machine->config->dirty != CONFIG_DIRTY_OFF) {
        ret = dirty_tracker_create(machine->vcpus, machine->mem,
                                   machine->config->dirty == CONFIG_DIRTY_RING,
                                   &machine->dirty, error);
    }
    return ret;
}

/* Hardware KVM applies CPUID masks; only a KVM without hardware underneath needs probing,
 * and only for kernels: a flat binary has no command line to adapt, and starts at once. */
static int machine_probe(const struct umbra_config *config, struct kvm_probe *probe,
                         struct umbra_error *error)
{
    memset(probe, 0, sizeof(*probe));
    if (config->no_adapt || config->kernel_format == CONFIG_KERNEL_FLAT ||
        kvm_has_hardware()) {
        return 0;
    }
    return kvm_probe_run(config->kvm_path, probe, error);
}

/* Refuse to run where KVM does not page as the config demands. */
static int machine_check_paging(const struct umbra_config *config,
                                struct umbra_error *error)
{
    bool nested = kvm_has_nested_paging();

    if (config->paging == CONFIG_PAGING_AUTO ||
        nested == (config->paging == CONFIG_PAGING_NESTED)) {
        return 0;
    }
    return error_set(
        error, UMBRA_ERROR_NO_KVM, ENOTSUP,
        nested ? "the config demands shadow paging, but KVM uses nested paging "
                 "here (load kvm_intel with ept=0 or kvm_amd with npt=0)"
               : "the config demands nested paging, but KVM shadows page tables "
                 "here (umbra doctor tells why)");
}

int machine_create(struct machine *machine, const struct umbra_config *config,
                   const struct machine_events *events, struct umbra_error *error)
{
    const struct kvm_options kvm_options = {
        .path = config->kvm_path,
        .split_irqchip = config->split_irqchip,
        .pit = !config->no_pit,
    };
    struct kvm_probe probe;
    int ret;

    memset(machine, 0, sizeof(*machine));
    machine->config = config;
    machine->log = &config->log;
    machine->created_ns = clock_ns();
    machine->created_ticks = exit_clock();
    ret = machine_probe(config, &probe, error);
    if (ret == 0) {
        ret = machine_check_paging(config, error);
    }
    if (ret == 0) {
        ret = kvm_open(&machine->kvm, &kvm_options, error);
        machine->has_kvm = ret == 0;
    }
    if (ret == 0) {
        ret = machine_create_processors(machine, &probe, error);
    }
    if (ret == 0) {
        ret = machine_create_memory(machine, error);
    }
    if (ret == 0) {
        ret = machine_create_io(machine, events, error);
    }
    if (ret == 0) {
        ret = machine_create_vcpus(machine, events, error);
    }
    if (ret == 0) {
        machine->probe = probe;
        ret = machine_load(machine, error);
    }
    if (ret == 0) {
        ret = machine_plan_faults(machine, error);
    }
    if (ret < 0) {
        machine_destroy(machine);
    }
    return ret;
}

static int machine_boot(struct machine *machine, const char *append,
                        struct umbra_error *error)
{
    const struct umbra_config *config = machine->config;
    struct boot_request request = {
        .board = &machine->board,
        .mem = machine->mem,
        .log = machine->log,
        .kernel_path = config->kernel,
        .initrd_path = config->initrd,
        .append = append,
        .flat = config->kernel_format == CONFIG_KERNEL_FLAT,
        .flat_load = config->kernel_load,
        .flat_entry = config->kernel_entry,
        .decompress_in_guest = config->decompress_in_guest,
        .no_acpi = config->no_acpi,
        .fdt = config->fdt,
    };

    if (config->demo) {
        request.kernel_path = NULL;
        request.kernel_bytes = demo_image;
        request.kernel_size = demo_image_size();
    }
    return boot_load(&request, &machine->entry, error);
}

int machine_load(struct machine *machine, struct umbra_error *error)
{
    const char *append = machine->config->append != NULL ? machine->config->append : "";
    struct vcpu_entry entry;
    int ret;

    ret =
        machine_boot(machine, machine->append != NULL ? machine->append : append, error);
    if (ret == 0 && machine->append == NULL && machine->entry.linux_kernel &&
        machine->probe.measured) {
        ret = adapt_command_line(&machine->probe, append, &machine->append);
        if (ret == 0 && machine->append != NULL) {
            log_warning(machine->log, "%s", adapt_reason(&machine->probe));
            ret = machine_boot(machine, machine->append, error);
        }
    }
    if (ret < 0) {
        return ret;
    }
    log_info(machine->log, "kernel: %s", machine->entry.description);
    entry = (struct vcpu_entry){
        .mode = machine->entry.mode == BOOT_MODE_REAL        ? VCPU_ENTRY_REAL
                : machine->entry.mode == BOOT_MODE_PROTECTED ? VCPU_ENTRY_PROTECTED
                                                             : VCPU_ENTRY_LONG,
        .rip = machine->entry.rip,
        .rsp = machine->entry.rsp,
        .rax = machine->entry.rax,
        .rbx = machine->entry.rbx,
        .rsi = machine->entry.rsi,
        .rdi = machine->entry.rdi,
        .cr3 = machine->entry.cr3,
        .gdt = machine->entry.gdt,
        .gdt_limit = machine->entry.gdt_limit,
        .cs = machine->entry.cs,
        .ds = machine->entry.ds,
    };
    return vcpu_set_entry(&machine->vcpus->vcpus[0], &entry, error);
}

int machine_reset(struct machine *machine, struct umbra_error *error)
{
    const struct guest_region *regions;
    size_t count;
    int ret = machine_show_memory(machine);

    regions = guest_mem_regions(machine->mem, &count);
    for (size_t i = 0; ret == 0 && i < count; i++) {
        ret = guest_mem_discard(machine->mem, regions[i].base, regions[i].size);
    }
    if (ret == 0) {
        ret = kvm_reset_irqchip(&machine->kvm, !machine->config->no_pit);
    }
    if (ret < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot reset the machine");
    }
    for (unsigned i = 0; i < machine->device_count; i++) {
        device_reset(machine->devices[i]);
    }
    device_reset(pci_host_device(machine->pci));
    ret = machine_assign_bars(machine, error);
    for (unsigned i = 0; ret == 0 && i < machine->vcpus->options.count; i++) {
        ret = vcpu_arch_reset(&machine->vcpus->vcpus[i], error);
    }
    for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
        console_reset(&machine->consoles[i]);
    }
    return ret < 0 ? ret : machine_load(machine, error);
}

void machine_pause_devices(struct machine *machine)
{
    loop_stop(machine->loop);
    for (unsigned i = 0; i < machine->device_count; i++) {
        struct device *device = machine->devices[i];

        if (device->ops->pause != NULL) {
            pthread_mutex_lock(&device->lock);
            device->ops->pause(device);
            pthread_mutex_unlock(&device->lock);
        }
    }
}

int machine_resume_devices(struct machine *machine, struct umbra_error *error)
{
    for (unsigned i = 0; i < machine->device_count; i++) {
        struct device *device = machine->devices[i];

        if (device->ops->resume != NULL) {
            pthread_mutex_lock(&device->lock);
            device->ops->resume(device);
            pthread_mutex_unlock(&device->lock);
        }
    }
    return loop_start(machine->loop, error);
}

bool machine_is_console(const struct machine *machine, unsigned port)
{
    const struct umbra_config *config = machine->config;
    unsigned virtio = port - MACHINE_SERIAL_PORTS;

    if (port < MACHINE_SERIAL_PORTS) {
        return port == 0;
    }
    return virtio < config->console_count &&
           strncmp(config->consoles[virtio].name, "hvc", 3) == 0;
}

struct device *machine_device(struct machine *machine, const char *id)
{
    for (unsigned i = 0; i < machine->device_count; i++) {
        if (strcmp(machine->devices[i]->id, id) == 0) {
            return machine->devices[i];
        }
    }
    return NULL;
}

void machine_destroy(struct machine *machine)
{
    if (machine->vcpus != NULL) {
        vcpu_set_stop(machine->vcpus);
    }
    dirty_tracker_destroy(machine->dirty);
    vcpu_set_destroy(machine->vcpus);
    if (machine->loop != NULL) {
        loop_stop(machine->loop);
    }
    for (unsigned i = machine->device_count; i > 0; i--) {
        device_destroy(machine->devices[i - 1]);
    }
    pci_host_destroy(machine->pci);
    bus_destroy(machine->pio);
    bus_destroy(machine->mmio);
    if (machine->loop != NULL) {
        loop_destroy(machine->loop);
        for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
            console_fini(&machine->consoles[i]);
        }
    }
    if (machine->has_kvm) {
        kvm_close(&machine->kvm);
    }
    faults_destroy(machine->faults);
    cpu_model_destroy(machine->model);
    guest_mem_destroy(machine->mem);
    free(machine->append);
    memset(machine, 0, sizeof(*machine));
}
