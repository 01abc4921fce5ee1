/* SPDX-License-Identifier: MIT */
/* Just enough ELF to load a kernel: program headers and Xen's PVH note. */
#ifndef VMM_BOOT_ELF_H
#define VMM_BOOT_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/boot/loader.h"

enum { ELF_MAX_SEGMENTS = 32 };

struct elf_segment {
    uint64_t offset, file_size;    /* inside the image, checked */
    uint64_t address, memory_size; /* physical; memory_size >= file_size, no wrap */
    uint64_t virtual_address;
};

struct elf_image {
    bool is64;
    uint64_t entry; /* physical, inside a segment */
    unsigned count; /* of segments that take memory, at least 1 */
    struct elf_segment segments[ELF_MAX_SEGMENTS];
    bool has_pvh;
    uint64_t pvh_entry;
};

bool elf_probe(const void *data, size_t size);

/* Check the whole of an x86 ELF executable's headers. */
int elf_parse(struct image *image, struct elf_image *elf, struct umbra_error *error);

/* Claim and fill every segment of @elf, parsed from @image. */
int elf_put(struct loader *loader, const struct elf_image *elf, struct image *image,
            struct umbra_error *error);

/* The version of the Linux that was put; false if it is no Linux. */
bool elf_linux_version(const struct loader *loader, const struct elf_image *elf,
                       char *text, size_t text_size);

/* Whether @address lies in a segment. */
bool elf_contains(const struct elf_image *elf, uint64_t address);

#endif
