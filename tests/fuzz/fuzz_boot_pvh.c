/* SPDX-License-Identifier: MIT */
/* Hostile PVH kernels: whatever note segment there is starts with Xen's entry note. */
#include <elf.h>

#include "boot_fuzz.h"

static void repair(uint8_t *file, size_t size)
{
    Elf64_Ehdr header;

    boot_fuzz_elf(file, size);
    if (size < sizeof(header)) {
        return;
    }
    file[4] = ELFCLASS64;
    memcpy(&header, file, sizeof(header));
    for (size_t i = 0; i < header.e_phnum; i++) {
        uint64_t at = header.e_phoff + i * sizeof(Elf64_Phdr);
        Elf64_Phdr program;

        if (at > size || size - at < sizeof(program)) {
            return;
        }
        memcpy(&program, file + at, sizeof(program));
        if (program.p_type == PT_NOTE && program.p_offset <= size &&
            size - program.p_offset >= 16) {
            uint8_t *note = file + program.p_offset;

            store_le32(note, 4);
            store_le32(note + 8, 18); /* XEN_ELFNOTE_PHYS32_ENTRY */
            memcpy(note + 12, "Xen", 4);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return boot_fuzz(bytes, size, size > 0 ? bytes[0] & ~BOOT_FUZZ_FLAT : 0, repair);
}
