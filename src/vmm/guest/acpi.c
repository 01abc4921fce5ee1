/* SPDX-License-Identifier: MIT */
/* ACPI: finding the tables and taking from them what a guest needs. The search runs in
 * ring 3, where it costs nothing. Offsets are of ACPI 6.5, chapter 5.2. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

struct acpi acpi;

static uint64_t le_load(const void *from, unsigned size)
{
    const uint8_t *p = from;
    uint64_t v = 0;

    while (size--)
        v = v << 8 | p[size];
    return v;
}

static uint64_t field(const struct acpi_header *table, unsigned offset, unsigned size)
{
    return offset + size <= table->length ? le_load((const uint8_t *)table + offset, size)
                                          : 0;
}

static bool sum_is_zero(const void *start, size_t size)
{
    const uint8_t *p = start;
    uint8_t sum = 0;

    while (size--)
        sum += *p++;
    return sum == 0;
}

static const uint8_t *rsdp_search(void)
{
    uint64_t at;

    for (at = 0xe0000; at < 0x100000; at += 16)
        if (memcmp((const void *)at, "RSD PTR ", 8) == 0 &&
            sum_is_zero((const void *)at, 20))
            return (const uint8_t *)at;
    return NULL;
}

static void table_add(uint64_t address)
{
    const struct acpi_header *table = (const void *)address;

    if (!address || acpi.table_count == ARRAY_SIZE(acpi.tables))
        return;
    if (!sum_is_zero(table, table->length))
        acpi.bad_checksums++;
    acpi.tables[acpi.table_count++] = table;
}

const struct acpi_header *acpi_table(const char *signature)
{
    unsigned i;

    for (i = 0; i < acpi.table_count; i++)
        if (memcmp(acpi.tables[i]->signature, signature, 4) == 0)
            return acpi.tables[i];
    return NULL;
}

/* Multiple APIC description table: 8-byte body, then typed entries. */
static void madt_parse(const struct acpi_header *madt)
{
    unsigned at = 44, irq;

    acpi.lapic = field(madt, 36, 4);
    acpi.has_8259 = field(madt, 40, 4) & 1; /* PCAT_COMPAT */
    while (at + 2 <= madt->length) {
        unsigned type = (unsigned)field(madt, at, 1),
                 size = (unsigned)field(madt, at + 1, 1);

        if (size < 2)
            break;
        if (type == 0 && field(madt, at + 4, 4) & 1 && acpi.cpu_count < MAX_CPUS)
            acpi.apic_ids[acpi.cpu_count++] = (uint32_t)field(madt, at + 3, 1);
        if (type == 9 && field(madt, at + 8, 4) & 1 && acpi.cpu_count < MAX_CPUS &&
            field(madt, at + 4, 4) < 255)
            acpi.apic_ids[acpi.cpu_count++] = (uint32_t)field(madt, at + 4, 4);
        if (type == 1 && field(madt, at + 8, 4) == 0)
            acpi.ioapic = field(madt, at + 4, 4);
        irq = (unsigned)field(madt, at + 3, 1);
        if (type == 2 && irq < 16) {
            acpi.isa_gsi[irq] = (uint32_t)field(madt, at + 4, 4);
            acpi.isa_flags[irq] = (uint16_t)field(madt, at + 8, 2);
        }
        at += size;
    }
}

static void fadt_parse(const struct acpi_header *fadt)
{
    uint64_t dsdt = field(fadt, 140, 8);

    acpi.sci_irq = (uint16_t)field(fadt, 46, 2);
    acpi.pm1a_event = (uint16_t)field(fadt, 56, 4);
    acpi.pm1a_control = (uint16_t)field(fadt, 64, 4);
    acpi.pm_timer = (uint16_t)field(fadt, 76, 4);
    if (field(fadt, 112, 4) & 1 << 10) { /* RESET_REG_SUP */
        acpi.has_reset = true;
        acpi.reset_space = (uint8_t)field(fadt, 116, 1);
        acpi.reset_address = field(fadt, 120, 8);
        acpi.reset_value = (uint8_t)field(fadt, 128, 1);
    }
    table_add(dsdt ? dsdt : field(fadt, 40, 4));
}

/* Name(\_S5_, Package() { SLP_TYPa, ... }), as the AML of every PC spells it. */
static void s5_search(const struct acpi_header *dsdt)
{
    const uint8_t *aml = (const uint8_t *)dsdt;
    uint32_t i, at;

    for (i = sizeof(*dsdt); i + 9 < dsdt->length; i++) {
        if (memcmp(aml + i, "_S5_", 4) != 0 || aml[i + 4] != 0x12) /* PackageOp */
            continue;
        if (aml[i - 1] != 0x08 &&
            !(aml[i - 1] == '\\' && aml[i - 2] == 0x08)) /* NameOp */
            continue;
        at = i + 5;
        at += 1u + (aml[at] >> 6); /* PkgLength */
        at += 1;                   /* NumElements */
        if (aml[at] == 0x0a)       /* BytePrefix; else ZeroOp or OneOp */
            at++;
        if (at >= dsdt->length)
            return;
        acpi.s5_type = aml[at] & 7;
        acpi.has_s5 = true;
        return;
    }
}

static void root_parse(const uint8_t *rsdp)
{
    bool wide = rsdp[15] >= 2 && le_load(rsdp + 24, 8);
    const struct acpi_header *root =
        (const void *)(wide ? le_load(rsdp + 24, 8) : le_load(rsdp + 16, 4));
    unsigned size = wide ? 8 : 4, at;

    acpi.rsdp = (uint64_t)rsdp;
    if (wide && !sum_is_zero(rsdp, 36))
        acpi.bad_checksums++;
    if (!sum_is_zero(root, root->length))
        acpi.bad_checksums++;
    for (at = sizeof(*root); at + size <= root->length; at += size)
        table_add(field(root, at, size));
}

static uint64_t discover(void *argument)
{
    const uint8_t *rsdp = boot.rsdp ? (const uint8_t *)boot.rsdp : rsdp_search();
    const struct acpi_header *table;

    if (!rsdp)
        return false;
    root_parse(rsdp);
    if ((table = acpi_table("FACP")))
        fadt_parse(table);
    if ((table = acpi_table("APIC")))
        madt_parse(table);
    if ((table = acpi_table("MCFG")) && table->length >= 60) {
        acpi.ecam = field(table, 44, 8);
        acpi.bus_start = (uint8_t)field(table, 54, 1);
        acpi.bus_end = (uint8_t)field(table, 55, 1);
    }
    if ((table = acpi_table("DSDT")))
        s5_search(table);
    return true;
}

void acpi_init(void)
{
    unsigned irq;

    for (irq = 0; irq < 16; irq++)
        acpi.isa_gsi[irq] = irq;
    acpi.found = user_run(discover, NULL, NULL);
}

void acpi_poweroff(void)
{
    uint16_t type = acpi.has_s5 ? acpi.s5_type : 5;

    if (!acpi.pm1a_control)
        return;
    interrupts_off();
    out16(acpi.pm1a_control, (uint16_t)(type << 10 | 1 << 13));
    time_delay(100000);
}
