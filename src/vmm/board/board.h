/* SPDX-License-Identifier: MIT */
/*
 * The board: the single description of where everything sits in a machine. The machine is
 * assembled from it, and the ACPI tables, the E820 map and the FDT are generated from it.
 */
#ifndef VMM_BOARD_BOARD_H
#define VMM_BOARD_BOARD_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/guest_mem.h"

enum {
    BOARD_MAX_CPUS = 255,
    BOARD_MAX_DEVICES = 64,
    BOARD_MAX_RAM = 4,
};

/* Fixed addresses of the x86 board. */
#define BOARD_LOW_RAM_END   UINT64_C(0xd0000000) /* low RAM ends here at the latest */
#define BOARD_MMIO32_BASE   UINT64_C(0xd0000000) /* PCI window below 4 GiB, 256 MiB */
#define BOARD_MMIO32_SIZE   UINT64_C(0x10000000)
#define BOARD_ECAM_BASE     UINT64_C(0xe0000000) /* one bus: see acpi_mcfg() */
#define BOARD_ECAM_SIZE     UINT64_C(0x100000)
#define BOARD_VIRTIO_BASE   UINT64_C(0xfea00000) /* virtio-mmio devices, 4 KiB apart */
#define BOARD_IOAPIC_BASE   UINT64_C(0xfec00000)
#define BOARD_LAPIC_BASE    UINT64_C(0xfee00000)
#define BOARD_TSS_BASE      UINT64_C(0xfffbd000) /* KVM's TSS and identity map, on Intel */
#define BOARD_IDENTITY_BASE UINT64_C(0xfffbc000)
#define BOARD_HIGH_RAM_BASE UINT64_C(0x100000000)
#define BOARD_MMIO64_SIZE   (UINT64_C(64) << 30) /* PCI window above high RAM */
#define BOARD_EBDA_BASE     UINT64_C(0x9fc00)    /* first reserved byte below 1 MiB */
#define BOARD_ROM_BASE      UINT64_C(0xe0000)    /* RSDP, ACPI and SMBIOS tables */
#define BOARD_ROM_SIZE      UINT64_C(0x20000)

/* ACPI fixed hardware (ACPI 6.4, 4.8). */
#define BOARD_PM_BASE     0x600 /* PM1a event block: status, enable (16 bits each) */
#define BOARD_PM1_CNT     0x604 /* PM1a control, 16 bits */
#define BOARD_PM_TMR      0x608 /* power management timer, 32 bits, 3.579545 MHz */
#define BOARD_PM_SIZE     0x10
#define BOARD_SCI_GSI     9
#define BOARD_RESET_PORT  0xcf9 /* write BOARD_RESET_VALUE */
#define BOARD_RESET_VALUE 0x06
#define BOARD_SLP_TYP_S5  5
#define BOARD_PANIC_PORT  0x505
#define BOARD_EXIT_PORT   0xf4
#define BOARD_DEBUG_PORT  0xe9

/* GSIs: INTA..INTD of the PCI slots, then those shared by the virtio-mmio devices. */
#define BOARD_INTX_GSI   16
#define BOARD_VIRTIO_GSI 20

/* The GSI of @pin (0 is INTA) of PCI @slot: the swizzle that _PRT describes. */
static inline unsigned board_intx_gsi(unsigned slot, unsigned pin)
{
    return BOARD_INTX_GSI + (slot + pin) % 4;
}

enum board_space { BOARD_PIO, BOARD_MMIO };

enum board_device_kind {
    BOARD_UART16550,
    BOARD_RTC,
    BOARD_I8042,
    BOARD_ACPI_PM,
    BOARD_RESET,
    BOARD_DEBUGCON,
    BOARD_DEBUG_EXIT,
    BOARD_PVPANIC,
    BOARD_VIRTIO_MMIO,
    BOARD_OTHER, /* an embedder's own device: not described to the guest */
};

struct board_device {
    enum board_device_kind kind;
    char id[32];
    enum board_space space;
    uint64_t base, size;
    int gsi;        /* -1: none */
    unsigned index; /* among its kind */
};

struct board_ram {
    gpa base;
    uint64_t size;
};

/* CPU topology; cpus = sockets * cores * threads. */
struct board {
    unsigned cpus;
    unsigned sockets, cores, threads; /* threads a core, cores a socket */
    uint32_t apic_ids[BOARD_MAX_CPUS];
    bool split_irqchip;
    bool x2apic; /* some APIC id is above 254 */
    struct board_ram ram[BOARD_MAX_RAM];
    unsigned ram_count;
    uint64_t mmio64_base, mmio64_size;
    unsigned physical_bits; /* MAXPHYADDR of the guest */
    struct board_device devices[BOARD_MAX_DEVICES];
    unsigned device_count;
};

/* The processors that a board gets. */
struct board_cpus {
    unsigned count, sockets, cores, threads;
    unsigned physical_bits; /* MAXPHYADDR */
    uint32_t (*apic_id)(const void *context, unsigned index);
    const void *context;
};

/* Lay out CPUs, @memory bytes of RAM and the PCI windows; no devices yet. */
int board_init(struct board *board, uint64_t memory, const struct board_cpus *cpus,
               struct umbra_error *error);

/* Note a device's place; its index counts those of its kind. -ENOSPC when the board is full. */
int board_add(struct board *board, enum board_device_kind kind, const char *id,
              enum board_space space, uint64_t base, uint64_t size, int gsi);

#endif
