/* SPDX-License-Identifier: MIT */
/* A board and guest memory for the tests of the boot loaders; no KVM needed. */
#ifndef TESTS_UNIT_BOOT_FIXTURE_H
#define TESTS_UNIT_BOOT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory/guest_mem.h"
#include "vmm/boot/boot.h"

struct boot_fixture {
    struct board board;
    struct guest_mem *mem;
    struct log log;
    struct boot_request request;
    struct boot_entry entry;
    struct umbra_error error;
};

static inline void boot_fixture_device(struct board *board, enum board_device_kind kind,
                                       enum board_space space, uint64_t base,
                                       uint64_t size, int gsi)
{
    struct board_device *device = &board->devices[board->device_count++];

    *device = (struct board_device){
        .kind = kind, .space = space, .base = base, .size = size, .gsi = gsi
    };
    for (unsigned i = 0; i + 1 < board->device_count; i++) {
        device->index += board->devices[i].kind == kind;
    }
    snprintf(device->id, sizeof(device->id), "dev%u", board->device_count);
}

/* A board of @cpus CPUs and @memory bytes with every kind of device. */
static inline void boot_fixture_board(struct board *board, unsigned cpus, uint64_t memory)
{
    memset(board, 0, sizeof(*board));
    board->cpus = cpus;
    for (unsigned i = 0; i < cpus; i++) {
        board->apic_ids[i] = i;
    }
    board->ram[board->ram_count++] =
        (struct board_ram){ 0, memory < BOARD_LOW_RAM_END ? memory : BOARD_LOW_RAM_END };
    if (memory > BOARD_LOW_RAM_END) {
        board->ram[board->ram_count++] =
            (struct board_ram){ BOARD_HIGH_RAM_BASE, memory - BOARD_LOW_RAM_END };
    }
    board->mmio64_base = UINT64_C(0x4000000000);
    board->mmio64_size = BOARD_MMIO64_SIZE;
    board->physical_bits = 40;
    boot_fixture_device(board, BOARD_UART16550, BOARD_PIO, 0x3f8, 8, 4);
    boot_fixture_device(board, BOARD_UART16550, BOARD_PIO, 0x2f8, 8, 3);
    boot_fixture_device(board, BOARD_RTC, BOARD_PIO, 0x70, 2, 8);
    boot_fixture_device(board, BOARD_I8042, BOARD_PIO, 0x60, 5, 1);
    boot_fixture_device(board, BOARD_ACPI_PM, BOARD_PIO, BOARD_PM_BASE, BOARD_PM_SIZE, 9);
    boot_fixture_device(board, BOARD_RESET, BOARD_PIO, BOARD_RESET_PORT, 1, -1);
    boot_fixture_device(board, BOARD_DEBUGCON, BOARD_PIO, BOARD_DEBUG_PORT, 1, -1);
    boot_fixture_device(board, BOARD_DEBUG_EXIT, BOARD_PIO, BOARD_EXIT_PORT, 4, -1);
    boot_fixture_device(board, BOARD_PVPANIC, BOARD_PIO, BOARD_PANIC_PORT, 1, -1);
    boot_fixture_device(board, BOARD_VIRTIO_MMIO, BOARD_MMIO, BOARD_VIRTIO_BASE, 0x1000,
                        BOARD_VIRTIO_GSI);
    boot_fixture_device(board, BOARD_VIRTIO_MMIO, BOARD_MMIO, BOARD_VIRTIO_BASE + 0x1000,
                        0x1000, BOARD_VIRTIO_GSI + 1);
    boot_fixture_device(board, BOARD_OTHER, BOARD_MMIO, 0xfeb00000, 0x1000, -1);
}

static inline void boot_fixture_setup(struct boot_fixture *f, unsigned cpus,
                                      uint64_t memory)
{
    struct guest_mem_options options = { .backing = GUEST_MEM_4K };

    memset(f, 0, sizeof(*f));
    boot_fixture_board(&f->board, cpus, memory);
    assert_int_equal(guest_mem_create(&options, &f->mem, &f->error), 0);
    for (unsigned i = 0; i < f->board.ram_count; i++) {
        assert_int_equal(guest_mem_add(f->mem, f->board.ram[i].base, f->board.ram[i].size,
                                       GUEST_REGION_RAM, &f->error),
                         0);
    }
    f->request = (struct boot_request){
        .board = &f->board, .mem = f->mem, .log = &f->log, .append = ""
    };
}

static inline void boot_fixture_teardown(struct boot_fixture *f)
{
    guest_mem_destroy(f->mem);
    f->mem = NULL;
}

/* Load @size bytes of @image. */
static inline int boot_fixture_load(struct boot_fixture *f, const void *image,
                                    size_t size)
{
    f->request.kernel_bytes = image;
    f->request.kernel_size = size;
    memset(&f->error, 0, sizeof(f->error));
    return boot_load(&f->request, &f->entry, &f->error);
}

static inline uint64_t boot_fixture_read(const struct boot_fixture *f, gpa addr,
                                         unsigned size)
{
    uint8_t bytes[8] = { 0 };

    assert_int_equal(guest_mem_read(f->mem, addr, bytes, size), 0);
    return load_le64(bytes);
}

/* The NUL-terminated text at @addr equals @text. */
static inline void boot_fixture_assert_text(const struct boot_fixture *f, gpa addr,
                                            const char *text)
{
    char *copy = calloc(1, strlen(text) + 1);

    assert_non_null(copy);
    assert_int_equal(guest_mem_read(f->mem, addr, copy, strlen(text) + 1), 0);
    assert_memory_equal(copy, text, strlen(text) + 1);
    free(copy);
}

#endif
