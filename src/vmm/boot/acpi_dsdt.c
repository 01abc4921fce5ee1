/* SPDX-License-Identifier: MIT */
/* The DSDT, from the board: processors, PCI root, legacy devices, sleep state S5. */
#include "vmm/boot/acpi_dsdt.h"

#include <stdio.h>

/* A device's name from two letters and its index: "CP00", "VR1F". */
static void dsdt_name(char name[5], const char *prefix, unsigned index)
{
    snprintf(name, 5, "%.2s%02X", prefix, index & 0xff);
}

static void dsdt_processors(const struct board *board, struct aml *aml)
{
    for (unsigned i = 0; i < board->cpus; i++) {
        struct aml_open device;
        char name[5];

        dsdt_name(name, "CP", i);
        device = aml_device(aml, name);
        aml_name_string(aml, "_HID", "ACPI0007");
        aml_name_integer(aml, "_UID", i);
        aml_close(aml, device);
    }
}

/* PCI Firmware Specification 3.2, 4.5.1. */
static const uint8_t dsdt_osc_uuid[16] = {
    0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
    0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66
};

/*
 * _OSC: the OS may control what it asks for of native hot-plug, PME, AER, the PCI
 * Express capability and LTR (there is no firmware that would do it); SHPC is refused.
 */
static void dsdt_osc(struct aml *aml)
{
    enum { GRANTED = 0x3d, UNKNOWN_UUID = 0x04, UNKNOWN_REVISION = 0x08, MASKED = 0x10 };
    struct aml_open method = aml_method(aml, "_OSC", 4), branch, inner;

    aml_dword_field(aml, 3, 0, "CDW1");
    branch = aml_if(aml);
    aml_operator(aml, AML_EQUAL);
    aml_argument(aml, 0);
    aml_buffer(aml, dsdt_osc_uuid, sizeof(dsdt_osc_uuid));
    aml_dword_field(aml, 3, 8, "CDW3");
    /* Local0 = CDW3 & GRANTED */
    aml_operator(aml, AML_AND);
    aml_path(aml, "CDW3");
    aml_integer(aml, GRANTED);
    aml_local(aml, 0);
    /* If (!(Arg1 == 1)) { CDW1 |= UNKNOWN_REVISION } */
    inner = aml_if(aml);
    aml_operator(aml, AML_NOT_OP);
    aml_operator(aml, AML_EQUAL);
    aml_argument(aml, 1);
    aml_integer(aml, 1);
    aml_operator(aml, AML_OR);
    aml_path(aml, "CDW1");
    aml_integer(aml, UNKNOWN_REVISION);
    aml_path(aml, "CDW1");
    aml_close(aml, inner);
    /* If (!(CDW3 == Local0)) { CDW1 |= MASKED } */
    inner = aml_if(aml);
    aml_operator(aml, AML_NOT_OP);
    aml_operator(aml, AML_EQUAL);
    aml_path(aml, "CDW3");
    aml_local(aml, 0);
    aml_operator(aml, AML_OR);
    aml_path(aml, "CDW1");
    aml_integer(aml, MASKED);
    aml_path(aml, "CDW1");
    aml_close(aml, inner);
    aml_operator(aml, AML_STORE);
    aml_local(aml, 0);
    aml_path(aml, "CDW3");
    aml_close(aml, branch);
    branch = aml_else(aml);
    aml_operator(aml, AML_OR);
    aml_path(aml, "CDW1");
    aml_integer(aml, UNKNOWN_UUID);
    aml_path(aml, "CDW1");
    aml_close(aml, branch);
    aml_operator(aml, AML_RETURN);
    aml_argument(aml, 3);
    aml_close(aml, method);
}

/* INTA..INTD of every slot, wired straight to GSIs (no link devices). */
static void dsdt_prt(struct aml *aml)
{
    enum { SLOTS = 32, PINS = 4 };
    struct aml_open package;

    aml_name(aml, "_PRT");
    package = aml_package(aml, SLOTS * PINS);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        for (unsigned pin = 0; pin < PINS; pin++) {
            struct aml_open entry = aml_package(aml, 4);

            aml_integer(aml, (uint64_t)slot << 16 | 0xffff);
            aml_integer(aml, pin);
            aml_integer(aml, 0);
            aml_integer(aml, board_intx_gsi(slot, pin));
            aml_close(aml, entry);
        }
    }
    aml_close(aml, package);
}

static void dsdt_pci(const struct board *board, struct aml *aml)
{
    enum { LAST_BUS = BOARD_ECAM_SIZE / 0x100000 - 1 };
    struct aml_open device = aml_device(aml, "PCI0"), resources;

    aml_name_eisa_id(aml, "_HID", "PNP0A08");
    aml_name_eisa_id(aml, "_CID", "PNP0A03");
    aml_name_integer(aml, "_UID", 0);
    aml_name_integer(aml, "_SEG", 0);
    aml_name_integer(aml, "_BBN", 0);
    aml_name_integer(aml, "_CCA", 1);
    aml_name(aml, "_CRS");
    resources = aml_resources(aml);
    aml_word_range(aml, AML_RANGE_BUS, 0, LAST_BUS);
    aml_io(aml, 0xcf8, 8); /* configuration access, not passed on */
    aml_word_range(aml, AML_RANGE_IO, 0x0000, 0x0cf7);
    aml_word_range(aml, AML_RANGE_IO, 0x0d00, 0xffff);
    aml_dword_memory(aml, BOARD_MMIO32_BASE, BOARD_MMIO32_SIZE);
    if (board->mmio64_size != 0) {
        aml_qword_memory(aml, board->mmio64_base, board->mmio64_size);
    }
    aml_close(aml, resources);
    dsdt_osc(aml);
    dsdt_prt(aml);
    aml_close(aml, device);
}

/* What is taken but belongs to no device: ECAM (as the PCI Firmware Specification 3.2,
 * 4.1.2 wants) and the fixed ACPI ports. */
static void dsdt_motherboard(struct aml *aml)
{
    struct aml_open device = aml_device(aml, "MBRD"), resources;

    aml_name_eisa_id(aml, "_HID", "PNP0C02");
    aml_name_integer(aml, "_UID", 0);
    aml_name(aml, "_CRS");
    resources = aml_resources(aml);
    aml_memory32(aml, BOARD_ECAM_BASE, BOARD_ECAM_SIZE, true);
    aml_io(aml, BOARD_PM_BASE, BOARD_PM_SIZE);
    aml_close(aml, resources);
    aml_close(aml, device);
}

/* How each kind of board device is told to the guest. */
static const struct dsdt_kind {
    const char *prefix;
    const char *hid; /* NULL: not described */
    bool eisa;
} dsdt_kinds[] = {
    [BOARD_UART16550] = { "CO", "PNP0501", true },
    [BOARD_RTC] = { "RT", "PNP0B00", true },
    [BOARD_I8042] = { "KB", "PNP0303", true },
    [BOARD_PVPANIC] = { "PE", "QEMU0001", false },
    [BOARD_VIRTIO_MMIO] = { "VR", "LNRO0005", false },
    [BOARD_OTHER] = { NULL, NULL, false },
};

static void dsdt_device_resources(const struct board_device *device, struct aml *aml)
{
    struct aml_open resources;

    aml_name(aml, "_CRS");
    resources = aml_resources(aml);
    if (device->kind == BOARD_I8042) {
        aml_io(aml, 0x60, 1);
        aml_io(aml, 0x64, 1);
    } else if (device->space == BOARD_PIO) {
        aml_io(aml, (uint16_t)device->base, (uint8_t)device->size);
    } else {
        aml_memory32(aml, (uint32_t)device->base, (uint32_t)device->size, true);
    }
    if (device->gsi >= 0 && device->gsi < 16 && device->space == BOARD_PIO) {
        aml_irq(aml, (unsigned)device->gsi);
    } else if (device->gsi >= 0) {
        aml_interrupt(aml, (uint32_t)device->gsi);
    }
    aml_close(aml, resources);
}

static void dsdt_device(const struct board_device *device, struct aml *aml)
{
    const struct dsdt_kind *kind = &dsdt_kinds[device->kind];
    struct aml_open open;
    char name[5];

    if (kind->hid == NULL) {
        return;
    }
    dsdt_name(name, kind->prefix, device->index);
    open = aml_device(aml, name);
    if (kind->eisa) {
        aml_name_eisa_id(aml, "_HID", kind->hid);
    } else {
        aml_name_string(aml, "_HID", kind->hid);
    }
    aml_name_integer(aml, "_UID", device->index);
    aml_name_integer(aml, "_STA", 0xf);
    if (device->kind == BOARD_VIRTIO_MMIO) {
        aml_name_integer(aml, "_CCA", 1);
    }
    dsdt_device_resources(device, aml);
    aml_close(aml, open);
}

/* \_S5: what PM1a_CNT.SLP_TYP takes to switch off. */
static void dsdt_sleep(struct aml *aml)
{
    struct aml_open package;

    aml_name(aml, "\\_S5");
    package = aml_package(aml, 4);
    aml_integer(aml, BOARD_SLP_TYP_S5);
    aml_integer(aml, BOARD_SLP_TYP_S5);
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_close(aml, package);
}

void acpi_dsdt_build(const struct board *board, struct aml *aml)
{
    struct aml_open scope = aml_scope(aml, "\\_SB");

    dsdt_processors(board, aml);
    dsdt_pci(board, aml);
    dsdt_motherboard(aml);
    for (unsigned i = 0; i < board->device_count; i++) {
        dsdt_device(&board->devices[i], aml);
    }
    aml_close(aml, scope);
    dsdt_sleep(aml);
}
