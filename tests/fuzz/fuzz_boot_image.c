/* SPDX-License-Identifier: MIT */
/*
 * Hostile kernels: every image loader (told by the bytes) and every decompressor. The first
 * byte of an input is options; what follows is the file. A refusal must say why, and an
 * accepted image must enter inside RAM.
 */
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "memory/guest_mem.h"
#include "vmm/boot/boot.h"

enum { OPTION_GUEST_UNPACKS = 1, OPTION_FLAT = 2, OPTION_FDT = 4, OPTION_NO_ACPI = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define EXPECT(what)                                                                     \
    do {                                                                                 \
        if (!(what)) {                                                                   \
            abort();                                                                     \
        }                                                                                \
    } while (0)

static void load(const uint8_t *bytes, size_t size, unsigned options)
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
        .flat = (options & OPTION_FLAT) != 0,
        .flat_load = 0x100000,
        .flat_entry = 0x100000,
        .decompress_in_guest = (options & OPTION_GUEST_UNPACKS) != 0,
        .fdt = (options & OPTION_FDT) != 0,
        .no_acpi = (options & OPTION_NO_ACPI) != 0,
    };
    struct umbra_error error = { 0 };
    struct boot_entry entry = { 0 };

    EXPECT(guest_mem_create(&memory, &request.mem, &error) == 0);
    EXPECT(guest_mem_add(request.mem, 0, 32 * MIB, GUEST_REGION_RAM, &error) == 0);
    if (boot_load(&request, &entry, &error) < 0) {
        EXPECT(error.message[0] != '\0');
    } else {
        EXPECT(entry.description[0] != '\0');
        EXPECT(entry.mode == BOOT_MODE_REAL ||
               guest_mem_const_ptr(request.mem, entry.rip, 1) != NULL);
    }
    guest_mem_destroy(request.mem);
}

static void unpack(const uint8_t *bytes, size_t size)
{
    struct umbra_error error = { 0 };
    const char *name = NULL;
    size_t unpacked = 0;
    void *output = NULL;

    if (boot_decompress(bytes, size, 4 * MIB, &output, &unpacked, &name, &error) < 0) {
        EXPECT(error.message[0] != '\0');
        return;
    }
    EXPECT(unpacked <= 4 * MIB && name != NULL);
    free(output);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size > 1) {
        load(bytes + 1, size - 1, bytes[0]);
        unpack(bytes + 1, size - 1);
    }
    return 0;
}
