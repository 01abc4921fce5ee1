/* SPDX-License-Identifier: MIT */
/* The whole board of emulated devices on two buses, without a machine or a loop. */
#ifndef TESTS_FUZZ_BOARD_FIXTURE_H
#define TESTS_FUZZ_BOARD_FIXTURE_H

#include <stdint.h>
#include <stdlib.h>

#include "base/state.h"
#include "base/util.h"
#include "devices/board/acpi_pm.h"
#include "devices/board/debug_exit.h"
#include "devices/board/debugcon.h"
#include "devices/board/i8042.h"
#include "devices/board/pvpanic.h"
#include "devices/board/reset_port.h"
#include "devices/board/rtc.h"
#include "devices/board/uart16550.h"
#include "devices/bus.h"
#include "devices/irq.h"
#include "devices/pci/pci.h"
#include "fuzz.h"

/* A bug that the sanitizers cannot see. */
enum {
    BOARD_UART,
    BOARD_RTC,
    BOARD_I8042,
    BOARD_PM,
    BOARD_DEBUGCON,
    BOARD_DEBUG_EXIT,
    BOARD_PVPANIC,
    BOARD_RESET,
    BOARD_PCI,
    BOARD_CARD,
    BOARD_DEVICES,
};

#define BOARD_ECAM UINT64_C(0xe0000000)

struct board_fixture {
    struct irq_chip chip;
    struct device_env env;
    struct log log;
    struct bus *pio, *mmio;
    struct pci_host *pci;
    struct pci_function card;
    struct device *devices[BOARD_DEVICES];
    bool level[IRQ_GSI_COUNT];
    uint64_t time;
};

static int board_set_level(struct irq_chip *chip, unsigned gsi, bool level)
{
    struct board_fixture *board = container_of(chip, struct board_fixture, chip);

    FUZZ_EXPECT(board->level[gsi] != level); /* only changes are passed on */
    board->level[gsi] = level;
    return 0;
}

static int board_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
    return 0;
}

static const struct irq_chip_ops board_chip_ops = {
    .set_level = board_set_level,
    .send_msi = board_send_msi,
};

static uint64_t board_time(void *context)
{
    return ((struct board_fixture *)context)->time;
}

/* ---- A PCI card with every kind of BAR ---- */

static struct pci_function *card_of(struct device *device)
{
    return container_of(device, struct pci_function, device);
}

static uint64_t card_read(struct device *device, unsigned region, uint64_t offset,
                          unsigned size)
{
    uint64_t value;

    FUZZ_EXPECT(offset + size <= card_of(device)->bars[region].size);
    if (pci_msix_read(card_of(device), region, offset, size, &value)) {
        return value;
    }
    return offset;
}

static void card_write(struct device *device, unsigned region, uint64_t offset,
                       unsigned size, uint64_t value)
{
    FUZZ_EXPECT(offset + size <= card_of(device)->bars[region].size);
    if (!pci_msix_write(card_of(device), region, offset, size, value)) {
        pci_intx_set(card_of(device), (value & 1) != 0);
        pci_msix_notify(card_of(device), (unsigned)value);
    }
}

static void card_reset(struct device *device)
{
    pci_function_reset(card_of(device));
}

static int card_save(struct device *device, struct state_writer *writer)
{
    state_begin(writer, device->id, 1);
    pci_function_save(card_of(device), writer);
    state_end(writer);
    return 0;
}

static int card_load(struct device *device, struct state_reader *reader)
{
    int rc = state_open(reader, device->id, 1, NULL);

    return rc < 0 ? rc : pci_function_load(card_of(device), reader);
}

static const struct device_ops card_ops = {
    .type = "card",
    .read = card_read,
    .write = card_write,
    .reset = card_reset,
    .save = card_save,
    .load = card_load,
};

static void board_add_card(struct board_fixture *board)
{
    const struct pci_ids ids = { .vendor = 0x1234, .device = 1, .class_code = 0xff0000 };
    struct pci_function *card = &board->card;

    device_init(&card->device, &card_ops, &board->env, "card");
    pci_function_init(card, &ids, NULL);
    pci_bar_set(card, 0, PCI_BAR_IO, 16, false);
    pci_bar_set(card, 1, PCI_BAR_MEM32, 0x1000, false);
    pci_bar_set(card, 2, PCI_BAR_MEM64, 0x1000, true);
    FUZZ_EXPECT(pci_msix_add(card, 33, 1, 0, 0x800) == 0);
    FUZZ_EXPECT(pci_host_add(board->pci, card, 0, NULL) == 0);
    board->devices[BOARD_CARD] = &card->device;
}

/* ---- The board ---- */

static void board_place(struct board_fixture *board, unsigned index, uint64_t base,
                        uint64_t size)
{
    FUZZ_EXPECT(bus_add(board->pio, base, size, board->devices[index], 0) == 0);
}

#define BOARD_CREATE(board, index, type, ...)                                            \
    do {                                                                                 \
        const struct type##_config config_ = { __VA_ARGS__ };                            \
        FUZZ_EXPECT(type##_create(&(board)->env, &config_, &(board)->devices[index],     \
                                  NULL) == 0);                                           \
    } while (0)

static void board_assign(struct board_fixture *board)
{
    FUZZ_EXPECT(pci_host_assign_bars(board->pci, 0xd0000000, 0x100000, 0, 0, NULL) == 0);
}

static void board_init(struct board_fixture *board)
{
    const struct pci_host_config pci = { .ecam_base = BOARD_ECAM,
                                         .ecam_size = 0x10000000,
                                         .intx_gsi = { 16, 17, 18, 19 } };

    memset(board, 0, sizeof(*board));
    board->time = UINT64_C(1700000000000000000);
    irq_chip_init(&board->chip, &board_chip_ops);
    board->env = (struct device_env){ .irqs = &board->chip, .log = &board->log };
    FUZZ_EXPECT(bus_create("pio", &board->pio) == 0 &&
                bus_create("mmio", &board->mmio) == 0);
    BOARD_CREATE(board, BOARD_UART, uart16550, .id = "com1", .gsi = 4,
                 .end = { .kind = CHAR_END_NONE });
    BOARD_CREATE(board, BOARD_RTC, rtc, .id = "rtc", .gsi = 8, .ram_low = GIB,
                 .realtime_ns = board_time, .realtime_context = board);
    BOARD_CREATE(board, BOARD_I8042, i8042, .id = "i8042", .gsi = 1);
    BOARD_CREATE(board, BOARD_PM, acpi_pm, .id = "acpi-pm", .gsi = 9, .slp_typ_s5 = 5);
    BOARD_CREATE(board, BOARD_DEBUGCON, debugcon, .id = "debugcon");
    BOARD_CREATE(board, BOARD_DEBUG_EXIT, debug_exit, .id = "debug-exit");
    BOARD_CREATE(board, BOARD_PVPANIC, pvpanic, .id = "pvpanic");
    BOARD_CREATE(board, BOARD_RESET, reset_port, .id = "reset");
    FUZZ_EXPECT(pci_host_create(&board->env, &pci, board->pio, board->mmio, &board->pci,
                                NULL) == 0);
    board->devices[BOARD_PCI] = pci_host_device(board->pci);
    board_place(board, BOARD_UART, 0x3f8, UART16550_PORTS);
    board_place(board, BOARD_RTC, 0x70, RTC_PORTS);
    board_place(board, BOARD_PM, 0x600, ACPI_PM_SIZE);
    board_place(board, BOARD_DEBUGCON, 0xe9, 1);
    board_place(board, BOARD_DEBUG_EXIT, 0xf4, DEBUG_EXIT_PORTS);
    board_place(board, BOARD_PVPANIC, 0x505, 1);
    FUZZ_EXPECT(bus_add_nested(board->pio, 0xcf9, 1, board->devices[BOARD_RESET], 0) ==
                0);
    for (unsigned region = 0; region < 3; region++) {
        static const uint16_t ports[3] = { I8042_DATA_PORT, I8042_COMMAND_PORT,
                                           I8042_FAST_A20_PORT };

        FUZZ_EXPECT(bus_add(board->pio, ports[region], 1, board->devices[BOARD_I8042],
                            region) == 0);
    }
    board_add_card(board);
    board_assign(board);
}

static void board_reset(struct board_fixture *board)
{
    for (unsigned i = 0; i < BOARD_DEVICES; i++) {
        device_reset(board->devices[i]);
    }
    board_assign(board);
}

static void board_fini(struct board_fixture *board)
{
    pci_function_fini(&board->card);
    device_fini(&board->card.device);
    pci_host_destroy(board->pci);
    for (unsigned i = 0; i < BOARD_PCI; i++) {
        device_destroy(board->devices[i]);
    }
    for (unsigned i = 0; i < IRQ_GSI_COUNT; i++) {
        FUZZ_EXPECT(!board->level[i]); /* nobody leaves a line raised behind */
    }
    bus_destroy(board->pio);
    bus_destroy(board->mmio);
    irq_chip_fini(&board->chip);
}

#endif
