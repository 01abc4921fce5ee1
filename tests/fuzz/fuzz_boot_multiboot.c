/* SPDX-License-Identifier: MIT */
/* Hostile multiboot kernels: the first header's checksum is made right. */
#include "boot_fuzz.h"

static void repair(uint8_t *file, size_t size)
{
    for (size_t at = 0; at + 12 <= size && at < 8192; at += 4) {
        if (load_le32(file + at) == 0x1badb002) {
            store_le32(file + at + 8, -(0x1badb002 + load_le32(file + at + 4)));
            return;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return boot_fuzz(bytes, size, size > 0 ? bytes[0] & ~BOOT_FUZZ_FLAT : 0, repair);
}
