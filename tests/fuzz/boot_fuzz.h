/* SPDX-License-Identifier: MIT */
/*
 * Hostile kernels, a libFuzzer target for each loader (fuzz_boot_*.c). An input's first
 * byte is options, what follows is the file; a target puts its format's magic numbers back,
 * so that no input is spent on not being recognised. A refusal must say why, and an
 * accepted image must enter inside RAM.
 */
#ifndef FUZZ_BOOT_FUZZ_H
#define FUZZ_BOOT_FUZZ_H

#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "fuzz.h"
#include "memory/guest_mem.h"
#include "vmm/boot/boot.h"

enum {
    BOOT_FUZZ_GUEST_UNPACKS = 1,
    BOOT_FUZZ_FLAT = 2,
    BOOT_FUZZ_FDT = 4,
    BOOT_FUZZ_NO_ACPI = 8,
};

static inline void boot_fuzz_load(const uint8_t *bytes, size_t size, unsigned options)
{
    const struct guest_mem_options memory = { .backing = GUEST_MEM_4K };
    const struct log log = { 0 };
    struct board board = {
        .cpus = 1,
        .sockets = 1,
        .cores = 1,
        .threads = 1,
        .ram = { { 0, 32 * MIB } },
        .ram_count = 1,
        .mmio64_base = UINT64_C(0x4000000000),
        .mmio64_size = BOARD_MMIO64_SIZE,
        .physical_bits = 40,
    };
    struct boot_request request = {
        .board = &board,
        .log = &log,
        .kernel_bytes = bytes,
        .kernel_size = size,
        .append = "console=ttyS0",
        .flat = (options & BOOT_FUZZ_FLAT) != 0,
        .flat_load = 0x100000,
        .flat_entry = 0x100000,
        .decompress_in_guest = (options & BOOT_FUZZ_GUEST_UNPACKS) != 0,
        .fdt = (options & BOOT_FUZZ_FDT) != 0,
        .no_acpi = (options & BOOT_FUZZ_NO_ACPI) != 0,
    };
    struct umbra_error error = { 0 };
    struct boot_entry entry = { 0 };

    FUZZ_EXPECT(guest_mem_create(&memory, &request.mem, &error) == 0);
    FUZZ_EXPECT(guest_mem_add(request.mem, 0, 32 * MIB, GUEST_REGION_RAM, &error) == 0);
    if (boot_load(&request, &entry, &error) < 0) {
        FUZZ_EXPECT(error.message[0] != '\0');
    } else {
        FUZZ_EXPECT(entry.description[0] != '\0');
        FUZZ_EXPECT(entry.mode == BOOT_MODE_REAL ||
                    guest_mem_const_ptr(request.mem, entry.rip, 1) != NULL);
    }
    guest_mem_destroy(request.mem);
}

/* The input's file in a copy of its own (exactly as long, so that ASan sees its end), with
 * @repair applied; then loaded. */
static inline int boot_fuzz(const uint8_t *bytes, size_t size, unsigned options,
                            void (*repair)(uint8_t *file, size_t size))
{
    uint8_t *file;

    if (size < 2) {
        return 0;
    }
    file = malloc(size - 1);
    FUZZ_EXPECT(file != NULL);
    memcpy(file, bytes + 1, size - 1);
    repair(file, size - 1);
    boot_fuzz_load(file, size - 1, options);
    free(file);
    return 0;
}

/* The identification and type that every ELF kernel for x86 has. */
static inline void boot_fuzz_elf(uint8_t *file, size_t size)
{
    static const uint8_t magic[] = { 0x7f, 'E', 'L', 'F' };

    if (size >= 20) {
        memcpy(file, magic, sizeof(magic));
        file[4] = file[4] == 1 ? 1 : 2;
        file[5] = 1;
        store_le16(file + 16, 2);
        store_le16(file + 18, file[4] == 1 ? 3 : 62);
    }
}

#endif
