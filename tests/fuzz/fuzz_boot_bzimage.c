/* SPDX-License-Identifier: MIT */
/* Hostile bzImages: setup headers, payloads and the kernels in them. */
#include "boot_fuzz.h"

static void repair(uint8_t *file, size_t size)
{
    if (size >= 0x208) {
        store_le16(file + 0x1fe, 0xaa55);
        memcpy(file + 0x202, "HdrS", 4);
        file[0x207] = 2; /* the protocol's major version */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return boot_fuzz(bytes, size, size > 0 ? bytes[0] & ~BOOT_FUZZ_FLAT : 0, repair);
}
