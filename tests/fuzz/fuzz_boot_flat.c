/* SPDX-License-Identifier: MIT */
/* Flat binaries of any size and content. */
#include "boot_fuzz.h"

static void repair(uint8_t *file, size_t size)
{
    (void)file;
    (void)size;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return boot_fuzz(bytes, size, size > 0 ? bytes[0] | BOOT_FUZZ_FLAT : 0, repair);
}
