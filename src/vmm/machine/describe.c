/* SPDX-License-Identifier: MIT */
/*
 * The tables that describe a config's board, without KVM and without touching what the
 * config names: the machine's own parts list is placed on a board that never runs.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "vcpu/probe.h"
#include "vcpu/x86_64/cpu_model.h"
#include "virtio/registry.h"
#include "vmm/config/keys.h"
#include "vmm/config/value.h"
#include "vmm/machine/machine.h"

static int silent_level(struct irq_chip *chip, unsigned gsi, bool level)
{
    return 0;
}

static int silent_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
    return 0;
}

static int no_bind(struct irq_chip *chip, int *route, uint64_t address, uint32_t data,
                   int fd)
{
    return -ENOTSUP;
}

static int no_line_bind(struct irq_chip *chip, unsigned gsi, int fd, int resample_fd)
{
    return -ENOTSUP;
}

static const struct irq_chip_ops silent_ops = {
    .set_level = silent_level,
    .send_msi = silent_msi,
    .msi_bind = no_bind,
    .line_bind = no_line_bind,
};

/* As @config, but no device has an end outside. *virtio is how many virtio devices it had. */
static int harmless_copy(const struct umbra_config *config, struct umbra_config **copy,
                         unsigned *virtio)
{
    static const char *const cleared[] = { "disks", "net", "share", "consoles",
                                           "debug_port" };
    unsigned serial_count = config->serial_count;
    int rc = config_copy(config, copy);

    if (rc != 0) {
        return rc;
    }
    *virtio = (unsigned)(config->disk_count + config->net_count + config->share_count) +
              (config->console_count > 0) + config->rng + config->balloon +
              (config->vsock_cid != 0);
    for (size_t i = 0; i < ARRAY_SIZE(cleared); i++) {
        config_value_clear(config_key_find(&config_root, cleared[i]), *copy);
    }
    config_value_clear(config_key_find(&config_root, "serial"), *copy);
    (*copy)->serial_count = serial_count; /* CONFIG_SERIAL_NONE each */
    (*copy)->rng = (*copy)->balloon = false;
    (*copy)->vsock_cid = 0;
    (*copy)->split_irqchip = false; /* its userspace IOAPIC drives KVM */
    return 0;
}

static uint32_t apic_id(const void *context, unsigned index)
{
    return cpu_topology_apic_id(context, index);
}

static int init_board(struct machine *machine, struct umbra_error *error)
{
    const struct umbra_config *config = machine->config;
    struct cpu_topology topology = { config->sockets, config->cores, config->threads };
    struct board_cpus cpus = { .count = config->cpus,
                               .physical_bits = kvm_probe_physical_bits(),
                               .apic_id = apic_id,
                               .context = &topology };

    if (cpu_topology_complete(&topology, config->cpus) != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%u CPUs do not fit the topology", config->cpus);
    }
    cpus.sockets = topology.sockets;
    cpus.cores = topology.cores;
    cpus.threads = topology.threads;
    return board_init(&machine->board, config->memory, &cpus, error);
}

/* On a bus of MMIO devices only their places are described: any device stands in. */
static int add_stand_ins(struct machine *machine, unsigned count,
                         struct umbra_error *error)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && machine->config->virtio_mmio && i < count; i++) {
        struct virtio_device *vdev;

        rc = virtio_rng_create(&machine->env, "rng", 0, &vdev, error);
        rc = rc != 0 ? rc : machine_add_virtio(machine, vdev, error);
    }
    return rc;
}

static int place_parts(struct machine *machine, unsigned virtio,
                       struct umbra_error *error)
{
    const struct guest_mem_options memory = { .backing = GUEST_MEM_4K };
    int rc = init_board(machine, error);

    for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
        console_init(&machine->consoles[i]);
    }
    rc = rc != 0 ? rc : guest_mem_create(&memory, &machine->mem, error);
    rc = rc != 0 ? rc : loop_create(machine->log, &machine->loop, error);
    if (rc != 0) {
        return rc;
    }
    if (bus_create("pio", &machine->pio) != 0 ||
        bus_create("mmio", &machine->mmio) != 0) {
        return error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM, "board: out of memory");
    }
    machine->env = (struct device_env){ .mem = machine->mem,
                                        .irqs = &machine->kvm.irqs,
                                        .loop = machine->loop,
                                        .log = machine->log };
    rc = machine_create_devices(machine, error);
    return rc != 0 ? rc : add_stand_ins(machine, virtio, error);
}

static int describe(const struct umbra_config *config, struct board *board,
                    struct umbra_error *error)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    struct umbra_config *copy = NULL;
    unsigned virtio = 0;
    int rc;

    if (machine == NULL || harmless_copy(config, &copy, &virtio) != 0) {
        free(machine);
        return error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM, "board: out of memory");
    }
    machine->config = copy;
    machine->log = &copy->log;
    irq_chip_init(&machine->kvm.irqs, &silent_ops);
    rc = place_parts(machine, virtio, error);
    *board = machine->board;
    board->split_irqchip = config->split_irqchip;
    machine_destroy(machine);
    config_destroy(copy);
    free(machine);
    return rc;
}

int umbra_acpi_table(const struct umbra_config *config, const char *signature,
                     void **table, size_t *size, struct umbra_error *error)
{
    struct board board;
    int rc = describe(config, &board, error);

    if (rc != 0) {
        return rc;
    }
    rc = acpi_table(&board, signature, table, size);
    if (rc == -ENOENT) {
        return error_set(
            error, UMBRA_ERROR_USAGE, ENOENT,
            "there is no ACPI table '%.16s'; there are DSDT, FACP, APIC, MCFG, "
            "XSDT, RSDT, FACS and 'RSD PTR '",
            signature);
    }
    return rc == 0 ? 0 : error_errno(error, UMBRA_ERROR_INTERNAL, -rc, "ACPI table");
}

int umbra_fdt(const struct umbra_config *config, void **blob, size_t *size,
              struct umbra_error *error)
{
    struct board board;
    int rc = describe(config, &board, error);

    return rc != 0 ? rc
                   : fdt_build(&board, config->append != NULL ? config->append : "", 0, 0,
                               blob, size, error);
}
