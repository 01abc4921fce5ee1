/* SPDX-License-Identifier: MIT */
/* The guest's memory map: one source for E820, PVH and multiboot. */
#ifndef VMM_BOARD_MEMORY_MAP_H
#define VMM_BOARD_MEMORY_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/board/board.h"

/* Types as in ACPI 6.4, table 15.374 (E820), which PVH and multiboot share. */
enum memory_type {
    MEMORY_USABLE = 1,
    MEMORY_RESERVED = 2,
};

struct memory_range {
    uint64_t base, size;
    enum memory_type type;
};

/* The most ranges that memory_map_build makes. */
enum { MEMORY_MAP_MAX = 2 * BOARD_MAX_RAM + 8 };

/*
 * The map of @board, sorted and free of overlaps: its RAM as usable less the legacy hole
 * between the EBDA and 1 MiB, and as reserved that hole's tables, the PCI configuration
 * space and KVM's own pages. Returns the number of ranges.
 */
size_t memory_map_build(const struct board *board,
                        struct memory_range map[static MEMORY_MAP_MAX]);

#endif
