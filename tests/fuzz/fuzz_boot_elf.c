/* SPDX-License-Identifier: MIT */
/* Hostile ELF kernels (vmlinux), of both classes. */
#include "boot_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return boot_fuzz(bytes, size, size > 0 ? bytes[0] & ~BOOT_FUZZ_FLAT : 0,
                     boot_fuzz_elf);
}
