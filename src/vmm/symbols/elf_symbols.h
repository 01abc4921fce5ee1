/* SPDX-License-Identifier: MIT */
/* What an ELF file says about its program: symbols, build id, sections by name. */
#ifndef VMM_SYMBOLS_ELF_SYMBOLS_H
#define VMM_SYMBOLS_ELF_SYMBOLS_H

#include <umbra/umbra.h>

#include "vmm/symbols/table.h"

enum { BUILD_ID_MAX = 32 };

/* A file, or bytes that somebody keeps. */
struct elf_source {
    int fd; /* -1: bytes */
    const uint8_t *bytes;
    uint64_t size;
};

struct elf_section {
    uint32_t name, type, link;
    uint64_t flags, address, offset, size, entry_size;
};

/* The section headers of a little-endian ELF file, checked. */
struct elf_file {
    struct elf_source source;
    bool is64, relocatable; /* relocatable: ET_REL, addresses mean nothing */
    struct elf_section *sections;
    size_t count;
    char *names; /* terminated; of names_size bytes */
    size_t names_size;
};

/* 0, -ENOEXEC when it is not such a file, -ENOMEM or -EIO. A file without section headers
 * has none. */
int elf_file_open(const struct elf_source *source, struct elf_file *file,
                  struct umbra_error *error);
void elf_file_close(struct elf_file *file);

/* The first section of that name that is in the file; NULL: none. */
const struct elf_section *elf_file_section(const struct elf_file *file, const char *name);
/* A malloc'd copy of it with a zero byte behind; -EFBIG beyond @limit. */
int elf_file_read(const struct elf_file *file, const struct elf_section *section,
                  uint64_t limit, void **data);

/* Add the symbols of .symtab, or else of .dynsym; -ENODATA when there are none. */
int elf_file_symbols(const struct elf_file *file, struct symbol_table *table);

/* The GNU build id; its size, 0 when there is none. */
size_t elf_file_build_id(const struct elf_file *file, uint8_t id[BUILD_ID_MAX]);

/* The same in a note section's bytes. */
size_t notes_build_id(const uint8_t *notes, size_t size, uint8_t id[BUILD_ID_MAX]);

#endif
