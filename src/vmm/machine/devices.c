/* SPDX-License-Identifier: MIT */
/* The machine's parts list: every device of the board and where it sits. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "devices/board/acpi_pm.h"
#include "devices/board/debug_exit.h"
#include "devices/board/debugcon.h"
#include "devices/board/i8042.h"
#include "devices/board/ioapic.h"
#include "devices/board/pvpanic.h"
#include "devices/board/reset_port.h"
#include "devices/board/rtc.h"
#include "devices/board/uart16550.h"
#include "vmm/machine/machine.h"

/* Claim @place for @device on its bus. */
static int machine_claim(struct machine *machine, struct device *device,
                         const struct board_device *place)
{
    struct bus *bus = place->space == BOARD_PIO ? machine->pio : machine->mmio;

    if (place->size == 0) {
        return 0;
    }
    /* The reset port lies inside the PCI address register (devices/board/reset_port.h). */
    return place->kind == BOARD_RESET
               ? bus_add_nested(bus, place->base, place->size, device, 0)
               : bus_add(bus, place->base, place->size, device, 0);
}

int machine_place(struct machine *machine, struct device *device,
                  const struct board_device *place, struct umbra_error *error)
{
    int ret;

    if (machine->device_count == MACHINE_MAX_DEVICES ||
        machine->board.device_count == BOARD_MAX_DEVICES) {
        ret = error_set(error, UMBRA_ERROR_CONFIG, ENOSPC,
                        "device %s: the board has no room for more devices", device->id);
        device_destroy(device);
        return ret;
    }
    ret = machine_claim(machine, device, place);
    if (ret < 0) {
        ret =
            error_set(error, UMBRA_ERROR_CONFIG, -ret,
                      "device %s at 0x%" PRIx64 "+0x%" PRIx64 " overlaps another device",
                      device->id, place->base, place->size);
        device_destroy(device);
        return ret;
    }
    machine->devices[machine->device_count++] = device;
    return board_add(&machine->board, place->kind, device->id, place->space, place->base,
                     place->size, place->gsi);
}

struct char_end_config machine_char_end(const struct config_serial *serial,
                                        struct console *console)
{
    static const enum char_end_kind kinds[] = {
        [CONFIG_SERIAL_NONE] = CHAR_END_NONE, [CONFIG_SERIAL_STDIO] = CHAR_END_CALLBACK,
        [CONFIG_SERIAL_FILE] = CHAR_END_FILE, [CONFIG_SERIAL_PTY] = CHAR_END_PTY,
        [CONFIG_SERIAL_UNIX] = CHAR_END_UNIX, [CONFIG_SERIAL_FD] = CHAR_END_FD,
    };

    return (struct char_end_config){
        .kind = kinds[serial->kind],
        .path = serial->path,
        .fd = serial->fd,
        .output = console != NULL ? console_output : NULL,
        .output_context = console,
    };
}

static int machine_add_serial(struct machine *machine, unsigned index,
                              struct umbra_error *error)
{
    static const struct board_device places[MACHINE_SERIAL_PORTS] = {
        { BOARD_UART16550, "com1", BOARD_PIO, 0x3f8, UART16550_PORTS, 4, 0 },
        { BOARD_UART16550, "com2", BOARD_PIO, 0x2f8, UART16550_PORTS, 3, 1 },
        { BOARD_UART16550, "com3", BOARD_PIO, 0x3e8, UART16550_PORTS, 4, 2 },
        { BOARD_UART16550, "com4", BOARD_PIO, 0x2e8, UART16550_PORTS, 3, 3 },
    };
    struct console *console = &machine->consoles[index];
    struct uart16550_config config = {
        .id = places[index].id,
        .gsi = (unsigned)places[index].gsi,
        .end = machine_char_end(&machine->config->serial[index], console),
    };
    int ret;

    ret = uart16550_create(&machine->env, &config, &machine->serial[index], error);
    if (ret < 0) {
        return ret;
    }
    return machine_place(machine, machine->serial[index], &places[index], error);
}

static int machine_add_i8042(struct machine *machine, struct umbra_error *error)
{
    const struct i8042_config config = { .id = "i8042", .gsi = 1 };
    const struct board_device place = { .kind = BOARD_I8042,
                                        .space = BOARD_PIO,
                                        .base = I8042_DATA_PORT,
                                        .size = 1,
                                        .gsi = 1 };
    int ret;

    ret = i8042_create(&machine->env, &config, &machine->keyboard, error);
    if (ret == 0) {
        ret = machine_place(machine, machine->keyboard, &place, error);
    }
    if (ret == 0) {
        ret = bus_add(machine->pio, I8042_COMMAND_PORT, 1, machine->keyboard,
                      I8042_REGION_COMMAND);
    }
    if (ret == 0) {
        ret = bus_add(machine->pio, I8042_FAST_A20_PORT, 1, machine->keyboard,
                      I8042_REGION_FAST_A20);
    }
    return ret;
}

/* A part of the board that takes nothing but its place. */
#define MACHINE_ADD(machine, error, type, where, ...)                                    \
    ({                                                                                   \
        const struct type##_config config_ = { __VA_ARGS__ };                            \
        struct device *device_;                                                          \
        int ret_ = type##_create(&(machine)->env, &config_, &device_, (error));          \
                                                                                         \
        ret_ < 0 ? ret_ : machine_place((machine), device_, &(where), (error));          \
    })

static int machine_add_small(struct machine *machine, struct umbra_error *error)
{
    static const struct board_device rtc = { BOARD_RTC, "",      BOARD_PIO, 0x70,
                                             RTC_PORTS, RTC_GSI, 0 };
    static const struct board_device reset = {
        BOARD_RESET, "", BOARD_PIO, BOARD_RESET_PORT, 1, -1, 0
    };
    static const struct board_device debugcon = {
        BOARD_DEBUGCON, "", BOARD_PIO, BOARD_DEBUG_PORT, 1, -1, 0
    };
    static const struct board_device debug_exit = {
        BOARD_DEBUG_EXIT, "", BOARD_PIO, BOARD_EXIT_PORT, DEBUG_EXIT_PORTS, -1, 0
    };
    static const struct board_device pvpanic = {
        BOARD_PVPANIC, "", BOARD_PIO, BOARD_PANIC_PORT, 1, -1, 0
    };
    const struct board *board = &machine->board;
    int ret;

    ret = MACHINE_ADD(machine, error, rtc, rtc, .id = "rtc", .gsi = RTC_GSI,
                      .ram_low = board->ram[0].size,
                      .ram_high = board->ram_count > 1 ? board->ram[1].size : 0);
    if (ret == 0) {
        ret = MACHINE_ADD(machine, error, reset_port, reset, .id = "reset");
    }
    if (ret == 0) {
        ret = MACHINE_ADD(machine, error, debugcon, debugcon, .id = "debugcon",
                          .end = machine_char_end(&machine->config->debug_port, NULL));
    }
    if (ret == 0) {
        ret = MACHINE_ADD(machine, error, debug_exit, debug_exit, .id = "debug-exit");
    }
    if (ret == 0) {
        ret = MACHINE_ADD(machine, error, pvpanic, pvpanic, .id = "pvpanic");
    }
    return ret;
}

static int machine_add_pm(struct machine *machine, struct umbra_error *error)
{
    static const struct board_device place = {
        BOARD_ACPI_PM, "", BOARD_PIO, BOARD_PM_BASE, ACPI_PM_SIZE, BOARD_SCI_GSI, 0
    };
    const struct acpi_pm_config config = { .id = "acpi-pm",
                                           .gsi = BOARD_SCI_GSI,
                                           .slp_typ_s5 = BOARD_SLP_TYP_S5 };
    int ret = acpi_pm_create(&machine->env, &config, &machine->pm, error);

    return ret < 0 ? ret : machine_place(machine, machine->pm, &place, error);
}

static int machine_add_pci(struct machine *machine, struct umbra_error *error)
{
    static const struct pci_host_config config = {
        .ecam_base = BOARD_ECAM_BASE,
        .ecam_size = BOARD_ECAM_SIZE,
        .intx_gsi = { BOARD_INTX_GSI, BOARD_INTX_GSI + 1, BOARD_INTX_GSI + 2,
                      BOARD_INTX_GSI + 3 },
    };

    return pci_host_create(&machine->env, &config, machine->pio, machine->mmio,
                           &machine->pci, error);
}

int machine_assign_bars(struct machine *machine, struct umbra_error *error)
{
    const struct board *board = &machine->board;

    return pci_host_assign_bars(machine->pci, BOARD_MMIO32_BASE, BOARD_MMIO32_SIZE,
                                board->mmio64_base, board->mmio64_size, error);
}

static void machine_ioapic_route(void *context, unsigned pin, bool masked,
                                 uint64_t address, uint32_t data)
{
    struct machine *machine = context;
    const struct kvm_route route = { .used = !masked, .address = address, .data = data };
    int ret = kvm_route_pin(&machine->kvm, pin, &route);

    if (ret < 0) {
        log_error(machine->log, "KVM refused the route of IOAPIC pin %u: %s", pin,
                  strerrorname_np(-ret));
    }
}

static void machine_ioapic_pin(void *context, unsigned gsi, bool level)
{
    ioapic_set_pin(context, gsi, level);
}

/* With the split irqchip the IOAPIC is ours. The board's tables describe it either way. */
static int machine_add_ioapic(struct machine *machine, struct umbra_error *error)
{
    const struct ioapic_config config = { .id = "ioapic",
                                          .route = machine_ioapic_route,
                                          .context = machine };
    const struct board_device place = { .kind = BOARD_OTHER,
                                        .space = BOARD_MMIO,
                                        .base = BOARD_IOAPIC_BASE,
                                        .size = IOAPIC_SIZE,
                                        .gsi = -1 };
    int ret;

    machine->board.split_irqchip = machine->config->split_irqchip;
    if (!machine->config->split_irqchip) {
        return 0;
    }
    ret = ioapic_create(&machine->env, &config, &machine->ioapic, error);
    if (ret < 0) {
        return ret;
    }
    machine->kvm.pin_context = machine->ioapic;
    machine->kvm.pin = machine_ioapic_pin;
    return machine_place(machine, machine->ioapic, &place, error);
}

/* The parts list. */
int machine_create_devices(struct machine *machine, struct umbra_error *error)
{
    int ret;

    ret = machine_add_ioapic(machine, error);
    if (ret == 0) {
        ret = machine_add_pci(machine, error);
    }
    for (unsigned i = 0; ret == 0 && i < machine->config->serial_count; i++) {
        ret = machine_add_serial(machine, i, error);
    }
    if (ret == 0) {
        ret = machine_add_small(machine, error);
    }
    if (ret == 0) {
        ret = machine_add_i8042(machine, error);
    }
    if (ret == 0) {
        ret = machine_add_pm(machine, error);
    }
    if (ret == 0) {
        ret = machine_create_virtio(machine, error);
    }
    if (ret == 0) {
        ret = machine_assign_bars(machine, error);
    }
    return ret;
}
