/* SPDX-License-Identifier: MIT */
/* Lays out a board: RAM around the 32-bit hole, CPUs, PCI windows. */
#include "vmm/board/board.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum { BOARD_MMIO64_ALIGN_SHIFT = 30 };

int board_init(struct board *board, uint64_t memory, const struct board_cpus *cpus,
               struct umbra_error *error)
{
    uint64_t low = memory < BOARD_LOW_RAM_END ? memory : BOARD_LOW_RAM_END;
    uint64_t high = memory - low, top;

    memset(board, 0, sizeof(*board));
    if (memory < 2 * MIB || memory % (4 * KIB) != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%" PRIu64 " bytes of memory: a guest needs at least 2M, in "
                         "multiples of 4K",
                         memory);
    }
    board->ram[board->ram_count++] = (struct board_ram){ .base = 0, .size = low };
    if (high != 0) {
        board->ram[board->ram_count++] =
            (struct board_ram){ .base = BOARD_HIGH_RAM_BASE, .size = high };
    }
    top = BOARD_HIGH_RAM_BASE + high;
    if (cpus->physical_bits < 64 && top > UINT64_C(1) << cpus->physical_bits) {
        char text[32];

        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%s of memory do not fit into the %u physical address bits that "
                         "this host gives to guests",
                         size_format(memory, text, sizeof(text)), cpus->physical_bits);
    }
    board->mmio64_base = align_up(top, UINT64_C(1) << BOARD_MMIO64_ALIGN_SHIFT);
    board->mmio64_size = BOARD_MMIO64_SIZE;
    if (board->mmio64_base + board->mmio64_size > UINT64_C(1) << cpus->physical_bits) {
        board->mmio64_size = 0; /* a small processor: everything goes below 4 GiB */
    }
    board->physical_bits = cpus->physical_bits;
    board->cpus = cpus->count;
    board->sockets = cpus->sockets;
    board->cores = cpus->cores;
    board->threads = cpus->threads;
    for (unsigned i = 0; i < cpus->count; i++) {
        board->apic_ids[i] = cpus->apic_id(cpus->context, i);
        board->x2apic |= board->apic_ids[i] > 254;
    }
    return 0;
}

int board_add(struct board *board, enum board_device_kind kind, const char *id,
              enum board_space space, uint64_t base, uint64_t size, int gsi)
{
    struct board_device *device;
    unsigned index = 0;

    if (board->device_count == BOARD_MAX_DEVICES) {
        return -ENOSPC;
    }
    for (unsigned i = 0; i < board->device_count; i++) {
        index += board->devices[i].kind == kind;
    }
    device = &board->devices[board->device_count++];
    *device = (struct board_device){ .kind = kind,
                                     .space = space,
                                     .base = base,
                                     .size = size,
                                     .gsi = gsi,
                                     .index = index };
    snprintf(device->id, sizeof(device->id), "%s", id);
    return 0;
}
