/* SPDX-License-Identifier: MIT */
/* The ACPI tables (ACPI 6.4, 5.2), generated from the board and laid out as one block. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "vmm/boot/acpi_dsdt.h"
#include "vmm/boot/boot.h"

enum {
    ACPI_HEADER_SIZE = 36,
    ACPI_CHECKSUM = 9, /* within the header */
    ACPI_RSDP_SIZE = 36,
    ACPI_FACS_SIZE = 64,
    ACPI_FADT_SIZE = 276,
    ACPI_ALIGN = 64, /* what FACS needs; good for all */
};

enum acpi_part {
    ACPI_RSDP,
    ACPI_FACS,
    ACPI_DSDT,
    ACPI_FADT,
    ACPI_MADT,
    ACPI_MCFG,
    ACPI_RSDT,
    ACPI_XSDT,
    ACPI_PARTS
};

static const char *const acpi_signatures[ACPI_PARTS] = {
    [ACPI_RSDP] = "RSD PTR ", [ACPI_FACS] = "FACS", [ACPI_DSDT] = "DSDT",
    [ACPI_FADT] = "FACP",     [ACPI_MADT] = "APIC", [ACPI_MCFG] = "MCFG",
    [ACPI_RSDT] = "RSDT",     [ACPI_XSDT] = "XSDT",
};

/* The tables that RSDT and XSDT list. */
static const enum acpi_part acpi_listed[] = { ACPI_FADT, ACPI_MADT, ACPI_MCFG };

/* All tables in one buffer as they will lie from @base on. */
struct acpi_block {
    const struct board *board;
    gpa base;
    struct aml aml; /* the bytes */
    size_t offset[ACPI_PARTS], size[ACPI_PARTS];
};

static uint8_t acpi_sum(const uint8_t *bytes, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    return sum;
}

static gpa acpi_address(const struct acpi_block *block, enum acpi_part part)
{
    return block->base + block->offset[part];
}

static void acpi_zeroes(struct acpi_block *block, size_t size)
{
    static const uint8_t zero[ACPI_FADT_SIZE];

    assert(size <= sizeof(zero));
    aml_bytes(&block->aml, zero, size);
}

/* Begin a part: alignment, then @size bytes of zeroes. */
static void acpi_begin(struct acpi_block *block, enum acpi_part part, size_t size)
{
    acpi_zeroes(block, (size_t)align_up(block->aml.size, ACPI_ALIGN) - block->aml.size);
    block->offset[part] = block->aml.size;
    acpi_zeroes(block, size);
}

/* The bytes of a part that acpi_begin (and more) made; NULL when out of memory. */
static uint8_t *acpi_bytes(struct acpi_block *block, enum acpi_part part)
{
    return block->aml.failed ? NULL : block->aml.bytes + block->offset[part];
}

/* End a table: fill in its header (ACPI 6.4, table 5.4) and checksum. */
static void acpi_end(struct acpi_block *block, enum acpi_part part, uint8_t revision)
{
    size_t size = block->aml.size - block->offset[part];
    uint8_t *table = acpi_bytes(block, part);

    block->size[part] = size;
    if (table == NULL) {
        return;
    }
    memcpy(table, acpi_signatures[part], 4);
    store_le32(table + 4, (uint32_t)size);
    table[8] = revision;
    memcpy(table + 10, "UMBRA ", 6);
    memcpy(table + 16, "UMBRABRD", 8);
    store_le32(table + 24, 1); /* OEM revision */
    memcpy(table + 28, "UMBR", 4);
    store_le32(table + 32, 1); /* creator revision */
    table[ACPI_CHECKSUM] = 0;
    table[ACPI_CHECKSUM] = (uint8_t)-acpi_sum(table, size);
}

static bool acpi_has(const struct board *board, enum board_device_kind kind)
{
    for (unsigned i = 0; i < board->device_count; i++) {
        if (board->devices[i].kind == kind) {
            return true;
        }
    }
    return false;
}

/* A generic address of I/O ports (ACPI 6.4, table 5.1). */
static void acpi_port_address(uint8_t *at, uint16_t port, unsigned bits, unsigned access)
{
    at[0] = 1; /* system I/O */
    at[1] = (uint8_t)bits;
    at[3] = (uint8_t)access; /* 1 byte, 2 word, 3 dword */
    store_le64(at + 4, port);
}

enum {
    FADT_FACS = 36,
    FADT_DSDT = 40,
    FADT_SCI = 46,
    FADT_PM1A_EVT = 56,
    FADT_PM1A_CNT = 64,
    FADT_PM_TMR = 76,
    FADT_PM1_EVT_LEN = 88,
    FADT_PM1_CNT_LEN = 89,
    FADT_PM_TMR_LEN = 91,
    FADT_C2_LATENCY = 96,
    FADT_C3_LATENCY = 98,
    FADT_BOOT_ARCH = 109,
    FADT_FLAGS = 112,
    FADT_RESET_REG = 116,
    FADT_RESET_VALUE = 128,
    FADT_MINOR = 131,
    FADT_X_DSDT = 140,
    FADT_X_PM1A_EVT = 148,
    FADT_X_PM1A_CNT = 172,
    FADT_X_PM_TMR = 208,

    FADT_NO_C2 = 0x0fff, /* above 100 us: not supported */
    FADT_NO_C3 = 0x0fff,

    FADT_BOOT_LEGACY = 1 << 0, /* COM ports and such that can be touched */
    FADT_BOOT_8042 = 1 << 1,
    FADT_BOOT_NO_VGA = 1 << 2,
    FADT_BOOT_NO_RTC = 1 << 5,

    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_NO_SLEEP_BUTTON = 1 << 5, /* and bit 4 clear: the power button is fixed */
    FADT_NO_FIXED_RTC_WAKE = 1 << 6,
    FADT_TIMER_32 = 1 << 8,
    FADT_RESET = 1 << 10,
};

static void acpi_fadt(struct acpi_block *block)
{
    const struct board *board = block->board;
    uint16_t arch = FADT_BOOT_LEGACY | FADT_BOOT_NO_VGA;
    uint8_t *fadt;

    acpi_begin(block, ACPI_FADT, ACPI_FADT_SIZE);
    fadt = acpi_bytes(block, ACPI_FADT);
    if (fadt == NULL) {
        return;
    }
    arch |= acpi_has(board, BOARD_I8042) ? FADT_BOOT_8042 : 0;
    arch |= acpi_has(board, BOARD_RTC) ? 0 : FADT_BOOT_NO_RTC;
    store_le32(fadt + FADT_FACS, (uint32_t)acpi_address(block, ACPI_FACS));
    store_le32(fadt + FADT_DSDT, (uint32_t)acpi_address(block, ACPI_DSDT));
    store_le64(fadt + FADT_X_DSDT, acpi_address(block, ACPI_DSDT));
    store_le16(fadt + FADT_SCI, BOARD_SCI_GSI);
    store_le32(fadt + FADT_PM1A_EVT, BOARD_PM_BASE);
    store_le32(fadt + FADT_PM1A_CNT, BOARD_PM1_CNT);
    store_le32(fadt + FADT_PM_TMR, BOARD_PM_TMR);
    fadt[FADT_PM1_EVT_LEN] = 4;
    fadt[FADT_PM1_CNT_LEN] = 2;
    fadt[FADT_PM_TMR_LEN] = 4;
    acpi_port_address(fadt + FADT_X_PM1A_EVT, BOARD_PM_BASE, 32, 2);
    acpi_port_address(fadt + FADT_X_PM1A_CNT, BOARD_PM1_CNT, 16, 2);
    acpi_port_address(fadt + FADT_X_PM_TMR, BOARD_PM_TMR, 32, 3);
    store_le16(fadt + FADT_C2_LATENCY, FADT_NO_C2);
    store_le16(fadt + FADT_C3_LATENCY, FADT_NO_C3);
    store_le16(fadt + FADT_BOOT_ARCH, arch);
    store_le32(fadt + FADT_FLAGS, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON |
                                      FADT_NO_FIXED_RTC_WAKE | FADT_TIMER_32 |
                                      FADT_RESET);
    acpi_port_address(fadt + FADT_RESET_REG, BOARD_RESET_PORT, 8, 1);
    fadt[FADT_RESET_VALUE] = BOARD_RESET_VALUE;
    fadt[FADT_MINOR] = 3;
    acpi_end(block, ACPI_FADT, 6);
}

/* A Local APIC structure, or a Local x2APIC one for ids that need it. */
static void acpi_madt_processor(struct acpi_block *block, uint32_t uid, uint32_t apic_id)
{
    if (apic_id < 255) {
        uint8_t entry[8] = { 0, sizeof(entry), (uint8_t)uid, (uint8_t)apic_id };

        store_le32(entry + 4, 1); /* enabled */
        aml_bytes(&block->aml, entry, sizeof(entry));
    } else {
        uint8_t entry[16] = { 9, sizeof(entry) };

        store_le32(entry + 4, apic_id);
        store_le32(entry + 8, 1);
        store_le32(entry + 12, uid);
        aml_bytes(&block->aml, entry, sizeof(entry));
    }
}

/* ISA interrupt @source arrives at @gsi; flags as in ACPI 6.4, table 5.26. */
static void acpi_madt_override(struct acpi_block *block, uint8_t source, uint32_t gsi,
                               uint16_t flags)
{
    uint8_t entry[10] = { 2, sizeof(entry), 0, source };

    store_le32(entry + 4, gsi);
    store_le16(entry + 8, flags);
    aml_bytes(&block->aml, entry, sizeof(entry));
}

static void acpi_madt(struct acpi_block *block)
{
    enum { PCAT_COMPAT = 1, LEVEL_ACTIVE_HIGH = 0x0d, NMI_LINT = 1 };
    const struct board *board = block->board;
    static const uint8_t nmi[6] = { 4, sizeof(nmi), 0xff, 0, 0, NMI_LINT };
    static const uint8_t x2nmi[12] = { 10,   sizeof(x2nmi), 0,    0,       0xff,
                                       0xff, 0xff,          0xff, NMI_LINT };
    uint8_t fixed[8], ioapic[12] = { 1, sizeof(ioapic) };

    acpi_begin(block, ACPI_MADT, ACPI_HEADER_SIZE);
    store_le32(fixed, BOARD_LAPIC_BASE);
    /* The pair of 8259s: a split irqchip has none. */
    store_le32(fixed + 4, board->split_irqchip ? 0 : PCAT_COMPAT);
    aml_bytes(&block->aml, fixed, sizeof(fixed));
    for (unsigned i = 0; i < board->cpus; i++) {
        acpi_madt_processor(block, i, board->apic_ids[i]);
    }
    store_le32(ioapic + 4, BOARD_IOAPIC_BASE);
    aml_bytes(&block->aml, ioapic, sizeof(ioapic));
    acpi_madt_override(block, 0, 2, 0);
    acpi_madt_override(block, BOARD_SCI_GSI, BOARD_SCI_GSI, LEVEL_ACTIVE_HIGH);
    aml_bytes(&block->aml, nmi, sizeof(nmi));
    if (board->x2apic) {
        aml_bytes(&block->aml, x2nmi, sizeof(x2nmi));
    }
    acpi_end(block, ACPI_MADT, 5);
}

/* Linux looks through every bus that is announced here, one access by ports for each slot
 * (pcibios_fixup_peer_bridges): 16,000 exits for 255 empty buses, so it is one bus. */
static void acpi_mcfg(struct acpi_block *block)
{
    uint8_t body[8 + 16] = { 0 };

    store_le64(body + 8, BOARD_ECAM_BASE);
    body[8 + 11] = (uint8_t)(BOARD_ECAM_SIZE / MIB - 1); /* the last bus */
    acpi_begin(block, ACPI_MCFG, ACPI_HEADER_SIZE);
    aml_bytes(&block->aml, body, sizeof(body));
    acpi_end(block, ACPI_MCFG, 1);
}

static void acpi_facs(struct acpi_block *block)
{
    uint8_t *facs;

    acpi_begin(block, ACPI_FACS, ACPI_FACS_SIZE);
    block->size[ACPI_FACS] = ACPI_FACS_SIZE;
    facs = acpi_bytes(block, ACPI_FACS);
    if (facs != NULL) {
        memcpy(facs, acpi_signatures[ACPI_FACS], 4);
        store_le32(facs + 4, ACPI_FACS_SIZE);
        facs[32] = 2; /* version */
    }
}

static void acpi_root(struct acpi_block *block, enum acpi_part part, unsigned width)
{
    acpi_begin(block, part, ACPI_HEADER_SIZE);
    for (size_t i = 0; i < ARRAY_SIZE(acpi_listed); i++) {
        uint8_t address[8];

        store_le64(address, acpi_address(block, acpi_listed[i]));
        aml_bytes(&block->aml, address, width);
    }
    acpi_end(block, part, 1);
}

/* The RSDP comes first in the block but knows the others, so it is filled in last. */
static void acpi_rsdp(struct acpi_block *block)
{
    enum { FIRST_PART = 20, EXTENDED_CHECKSUM = 32 };
    uint8_t *rsdp = acpi_bytes(block, ACPI_RSDP);

    block->size[ACPI_RSDP] = ACPI_RSDP_SIZE;
    if (rsdp == NULL) {
        return;
    }
    memcpy(rsdp, acpi_signatures[ACPI_RSDP], 8);
    memcpy(rsdp + 9, "UMBRA ", 6);
    rsdp[15] = 2; /* revision */
    store_le32(rsdp + 16, (uint32_t)acpi_address(block, ACPI_RSDT));
    store_le32(rsdp + 20, ACPI_RSDP_SIZE);
    store_le64(rsdp + 24, acpi_address(block, ACPI_XSDT));
    rsdp[8] = (uint8_t)-acpi_sum(rsdp, FIRST_PART);
    rsdp[EXTENDED_CHECKSUM] = (uint8_t)-acpi_sum(rsdp, ACPI_RSDP_SIZE);
}

static int acpi_build(const struct board *board, gpa base, struct acpi_block *block)
{
    memset(block, 0, sizeof(*block));
    block->board = board;
    block->base = base;
    aml_init(&block->aml);
    acpi_begin(block, ACPI_RSDP, ACPI_RSDP_SIZE);
    acpi_facs(block);
    acpi_begin(block, ACPI_DSDT, ACPI_HEADER_SIZE);
    acpi_dsdt_build(board, &block->aml);
    acpi_end(block, ACPI_DSDT, 2);
    acpi_fadt(block);
    acpi_madt(block);
    acpi_mcfg(block);
    acpi_root(block, ACPI_RSDT, 4);
    acpi_root(block, ACPI_XSDT, 8);
    acpi_rsdp(block);
    return aml_finish(&block->aml);
}

int acpi_write(const struct board *board, struct guest_mem *mem, gpa base, uint64_t size,
               gpa *rsdp, struct umbra_error *error)
{
    struct acpi_block block;
    int result = acpi_build(board, base, &block);

    if (result != 0) {
        error_set(error, UMBRA_ERROR_INTERNAL, -result, "no memory for the ACPI tables");
    } else if (block.aml.size > size) {
        result = error_set(error, UMBRA_ERROR_INTERNAL, ENOSPC,
                           "the ACPI tables of %u CPUs and %u devices take %zu bytes; "
                           "there is room for %" PRIu64,
                           board->cpus, board->device_count, block.aml.size, size);
    } else if (guest_mem_load(mem, base, block.aml.bytes, block.aml.size) != 0) {
        result = error_set(error, UMBRA_ERROR_INTERNAL, EFAULT,
                           "the ACPI tables do not fit guest memory at 0x%" PRIx64, base);
    } else {
        *rsdp = base;
    }
    aml_free(&block.aml);
    return result;
}

int acpi_table(const struct board *board, const char *signature, void **table,
               size_t *size)
{
    struct acpi_block block;
    int result = acpi_build(board, BOARD_ROM_BASE, &block);
    unsigned part = 0;

    while (part < ACPI_PARTS && strcmp(acpi_signatures[part], signature) != 0) {
        part++;
    }
    if (result == 0 && part == ACPI_PARTS) {
        result = -ENOENT;
    }
    if (result == 0) {
        *size = block.size[part];
        *table = malloc(*size);
        result = *table == NULL ? -ENOMEM : 0;
    }
    if (result == 0) {
        memcpy(*table, acpi_bytes(&block, part), *size);
    }
    aml_free(&block.aml);
    return result;
}
