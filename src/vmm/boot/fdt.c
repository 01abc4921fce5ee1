/* SPDX-License-Identifier: MIT */
/* A flattened device tree of the board (Devicetree Specification 0.4), by libfdt. */
#include <libfdt.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/util.h"
#include "vmm/board/memory_map.h"
#include "vmm/boot/boot.h"

enum {
    FDT_BLOB_MAX = 1 << 20,
    FDT_PHANDLE_IOAPIC = 1,
    FDT_LEVEL_HIGH = 1, /* the second interrupt cell as Linux's x86 IOAPIC reads it */
    FDT_EDGE_RISING = 0,
};

/* libfdt's sequential writer; the first error sticks. */
struct fdt_writer {
    void *blob;
    int error;
};

static void fdt_keep(struct fdt_writer *w, int result)
{
    if (w->error == 0) {
        w->error = result;
    }
}

static void fdt_open(struct fdt_writer *w, const char *name, uint64_t address)
{
    char text[64];

    snprintf(text, sizeof(text), "%s@%llx", name, (unsigned long long)address);
    fdt_keep(w, fdt_begin_node(w->blob, text));
}

static void fdt_open_plain(struct fdt_writer *w, const char *name)
{
    fdt_keep(w, fdt_begin_node(w->blob, name));
}

static void fdt_close(struct fdt_writer *w)
{
    fdt_keep(w, fdt_end_node(w->blob));
}

static void fdt_text(struct fdt_writer *w, const char *name, const char *value)
{
    fdt_keep(w, fdt_property_string(w->blob, name, value));
}

static void fdt_word(struct fdt_writer *w, const char *name, uint32_t value)
{
    fdt_keep(w, fdt_property_u32(w->blob, name, value));
}

static void fdt_empty(struct fdt_writer *w, const char *name)
{
    fdt_keep(w, fdt_property(w->blob, name, NULL, 0));
}

static void fdt_cells(struct fdt_writer *w, const char *name, const uint32_t *cells,
                      size_t count)
{
    void *to = NULL;

    fdt_keep(w, fdt_property_placeholder(w->blob, name, (int)(4 * count), &to));
    for (size_t i = 0; w->error == 0 && i < count; i++) {
        fdt32_st((uint8_t *)to + 4 * i, cells[i]);
    }
}

#define FDT_CELLS(w, name, ...)                                                          \
    fdt_cells((w), (name), (const uint32_t[]){ __VA_ARGS__ },                            \
              sizeof((const uint32_t[]){ __VA_ARGS__ }) / 4)

static uint32_t fdt_high(uint64_t value)
{
    return (uint32_t)(value >> 32);
}

static uint32_t fdt_low(uint64_t value)
{
    return (uint32_t)value;
}

static void fdt_reg(struct fdt_writer *w, uint64_t base, uint64_t size)
{
    FDT_CELLS(w, "reg", fdt_high(base), fdt_low(base), fdt_high(size), fdt_low(size));
}

static void fdt_chosen(struct fdt_writer *w, const char *append, gpa initrd,
                       uint64_t size)
{
    fdt_open_plain(w, "chosen");
    fdt_text(w, "bootargs", append);
    if (size != 0) {
        FDT_CELLS(w, "linux,initrd-start", fdt_high(initrd), fdt_low(initrd));
        FDT_CELLS(w, "linux,initrd-end", fdt_high(initrd + size), fdt_low(initrd + size));
    }
    fdt_close(w);
}

static void fdt_memory(struct fdt_writer *w, const struct board *board)
{
    struct memory_range map[MEMORY_MAP_MAX];
    size_t count = memory_map_build(board, map);

    for (size_t i = 0; i < count; i++) {
        if (map[i].type == MEMORY_USABLE) {
            fdt_open(w, "memory", map[i].base);
            fdt_text(w, "device_type", "memory");
            fdt_reg(w, map[i].base, map[i].size);
            fdt_close(w);
        }
    }
}

/* On x86 a cpu's reg is its APIC id. */
static void fdt_cpus(struct fdt_writer *w, const struct board *board)
{
    fdt_open_plain(w, "cpus");
    fdt_word(w, "#address-cells", 1);
    fdt_word(w, "#size-cells", 0);
    for (unsigned i = 0; i < board->cpus; i++) {
        fdt_open(w, "cpu", board->apic_ids[i]);
        fdt_text(w, "device_type", "cpu");
        fdt_text(w, "compatible", "intel,x86");
        fdt_word(w, "reg", board->apic_ids[i]);
        fdt_close(w);
    }
    fdt_close(w);
}

static void fdt_interrupt_controllers(struct fdt_writer *w)
{
    fdt_open(w, "interrupt-controller", BOARD_IOAPIC_BASE);
    fdt_text(w, "compatible", "intel,ce4100-ioapic");
    fdt_reg(w, BOARD_IOAPIC_BASE, 0x1000);
    fdt_empty(w, "interrupt-controller");
    fdt_word(w, "#interrupt-cells", 2);
    fdt_word(w, "#address-cells", 0);
    fdt_word(w, "phandle", FDT_PHANDLE_IOAPIC);
    fdt_close(w);
    fdt_open(w, "interrupt-controller", BOARD_LAPIC_BASE);
    fdt_text(w, "compatible", "intel,ce4100-lapic");
    fdt_reg(w, BOARD_LAPIC_BASE, 0x1000);
    fdt_close(w);
}

/* How each kind of device appears; the kinds without a binding are left out. */
static const struct fdt_kind {
    const char *node, *compatible;
} fdt_kinds[] = {
    [BOARD_UART16550] = { "serial", "ns16550a" },
    [BOARD_RTC] = { "rtc", "motorola,mc146818" },
    [BOARD_I8042] = { "i8042", "intel,8042" },
    [BOARD_VIRTIO_MMIO] = { "virtio_mmio", "virtio,mmio" },
    [BOARD_OTHER] = { NULL, NULL },
};

static void fdt_device(struct fdt_writer *w, const struct board_device *device)
{
    const struct fdt_kind *kind = &fdt_kinds[device->kind];
    bool isa = device->space == BOARD_PIO;

    fdt_open(w, kind->node, device->base);
    fdt_text(w, "compatible", kind->compatible);
    if (isa) {
        FDT_CELLS(w, "reg", 1, fdt_low(device->base), fdt_low(device->size));
    } else {
        fdt_reg(w, device->base, device->size);
        fdt_empty(w, "dma-coherent");
    }
    if (device->kind == BOARD_UART16550) {
        fdt_word(w, "clock-frequency", 1843200);
        fdt_word(w, "current-speed", 115200);
    }
    if (device->gsi >= 0) {
        FDT_CELLS(w, "interrupts", (uint32_t)device->gsi,
                  isa ? FDT_EDGE_RISING : FDT_LEVEL_HIGH);
    }
    fdt_close(w);
}

/* Devices on I/O ports sit on an ISA bus (cells: 1 for I/O, port; size). */
static void fdt_devices(struct fdt_writer *w, const struct board *board,
                        enum board_space space)
{
    if (space == BOARD_PIO) {
        fdt_open_plain(w, "isa");
        fdt_text(w, "compatible", "isa");
        fdt_text(w, "device_type", "isa");
        fdt_word(w, "#address-cells", 2);
        fdt_word(w, "#size-cells", 1);
        FDT_CELLS(w, "ranges", 1, 0, 0, 0, 0x10000);
    }
    for (unsigned i = 0; i < board->device_count; i++) {
        const struct board_device *device = &board->devices[i];

        if (device->space == space && fdt_kinds[device->kind].node != NULL) {
            fdt_device(w, device);
        }
    }
    if (space == BOARD_PIO) {
        fdt_close(w);
    }
}

/* INTA..INTD of each slot (IEEE 1275 PCI binding, interrupt-map). */
static void fdt_pci_interrupts(struct fdt_writer *w)
{
    enum { SLOTS = 32, PINS = 4, CELLS = 7 };
    uint32_t map[SLOTS * PINS * CELLS], *at = map;

    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        for (uint32_t pin = 0; pin < PINS; pin++, at += CELLS) {
            const uint32_t entry[CELLS] = { slot << 11,
                                            0,
                                            0,
                                            pin + 1,
                                            FDT_PHANDLE_IOAPIC,
                                            board_intx_gsi(slot, pin),
                                            FDT_LEVEL_HIGH };

            memcpy(at, entry, sizeof(entry));
        }
    }
    fdt_word(w, "#interrupt-cells", 1);
    FDT_CELLS(w, "interrupt-map-mask", 0xf800, 0, 0, 7);
    fdt_cells(w, "interrupt-map", map, ARRAY_SIZE(map));
}

static void fdt_pci(struct fdt_writer *w, const struct board *board)
{
    enum { IO = 0x01000000, MEMORY32 = 0x02000000, MEMORY64 = 0x43000000 };
    const uint64_t m32 = BOARD_MMIO32_BASE, s32 = BOARD_MMIO32_SIZE;
    const uint64_t m64 = board->mmio64_base, s64 = board->mmio64_size;
    const uint32_t ranges[] = {
        IO,
        0,
        0x1000,
        0,
        0x1000,
        0,
        0xf000,
        MEMORY32,
        fdt_high(m32),
        fdt_low(m32),
        fdt_high(m32),
        fdt_low(m32),
        fdt_high(s32),
        fdt_low(s32),
        MEMORY64,
        fdt_high(m64),
        fdt_low(m64),
        fdt_high(m64),
        fdt_low(m64),
        fdt_high(s64),
        fdt_low(s64),
    };

    fdt_open(w, "pci", BOARD_ECAM_BASE);
    fdt_text(w, "compatible", "pci-host-ecam-generic");
    fdt_text(w, "device_type", "pci");
    fdt_word(w, "#address-cells", 3);
    fdt_word(w, "#size-cells", 2);
    fdt_reg(w, BOARD_ECAM_BASE, BOARD_ECAM_SIZE);
    FDT_CELLS(w, "bus-range", 0, BOARD_ECAM_SIZE / MIB - 1);
    fdt_cells(w, "ranges", ranges, ARRAY_SIZE(ranges) - (s64 == 0 ? 7 : 0));
    fdt_empty(w, "dma-coherent");
    fdt_pci_interrupts(w);
    fdt_close(w);
}

static void fdt_tree(struct fdt_writer *w, const struct board *board, const char *append,
                     gpa initrd, uint64_t initrd_size)
{
    fdt_keep(w, fdt_create(w->blob, FDT_BLOB_MAX));
    fdt_keep(w, fdt_finish_reservemap(w->blob));
    fdt_open_plain(w, "");
    fdt_text(w, "compatible", "umbra,x86-board");
    fdt_text(w, "model", "Umbra x86 board");
    fdt_word(w, "#address-cells", 2);
    fdt_word(w, "#size-cells", 2);
    fdt_word(w, "interrupt-parent", FDT_PHANDLE_IOAPIC);
    fdt_chosen(w, append, initrd, initrd_size);
    fdt_memory(w, board);
    fdt_cpus(w, board);
    fdt_open_plain(w, "soc");
    fdt_text(w, "compatible", "simple-bus");
    fdt_word(w, "#address-cells", 2);
    fdt_word(w, "#size-cells", 2);
    fdt_empty(w, "ranges");
    fdt_interrupt_controllers(w);
    fdt_devices(w, board, BOARD_MMIO);
    fdt_devices(w, board, BOARD_PIO);
    fdt_pci(w, board);
    fdt_close(w);
    fdt_close(w);
    fdt_keep(w, fdt_finish(w->blob));
}

int fdt_build(const struct board *board, const char *append, gpa initrd,
              uint64_t initrd_size, void **blob, size_t *size, struct umbra_error *error)
{
    struct fdt_writer writer = { .blob = calloc(1, FDT_BLOB_MAX) };
    void *fitted;

    if (writer.blob == NULL) {
        return error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM, "no memory for the FDT");
    }
    fdt_tree(&writer, board, append, initrd, initrd_size);
    if (writer.error != 0) {
        free(writer.blob);
        return error_set(error, UMBRA_ERROR_INTERNAL, EINVAL,
                         "libfdt cannot build the FDT: %s", fdt_strerror(writer.error));
    }
    *size = fdt_totalsize(writer.blob);
    fitted = realloc(writer.blob, *size);
    *blob = fitted != NULL ? fitted : writer.blob;
    return 0;
}
