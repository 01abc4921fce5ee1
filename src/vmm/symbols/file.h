/* SPDX-License-Identifier: MIT */
/* The symbols and unwind tables of one program: from its file, or from the guest's memory. */
#ifndef VMM_SYMBOLS_FILE_H
#define VMM_SYMBOLS_FILE_H

#include <umbra/umbra.h>

#include "memory/guest_mem.h"
#include "vmm/boot/boot.h"
#include "vmm/symbols/elf_symbols.h"
#include "vmm/symbols/orc.h"
#include "vmm/symbols/table.h"

struct symbol_file {
    struct symbol_table table;
    struct orc_table orc; /* count 0: none */
    uint8_t build_id[BUILD_ID_MAX];
    size_t build_id_size; /* 0: unknown */
    uint64_t slide;       /* added to its addresses */
    char origin[96];      /* "vmlinux: symbol table" */
    char module[60];      /* of which kernel module; "": the kernel itself, or another */
    /* From guest memory: where the kernel has its base address, and which it was. */
    gpa base_at;
    uint64_t base;
    /* Its virtual addresses less the physical ones, where that is known. */
    bool located;
    uint64_t offset;
};

/*
 * Read an ELF file's symbol table; or, when it has none or is a bzImage, what a Linux kernel
 * in it says about itself. Messages begin with the reason.
 */
int symbol_file_read(const char *path, struct symbol_file **file,
                     struct umbra_error *error);
/* Only an ELF file's symbol table; -ENODATA when it has none. */
int symbol_file_read_table(const char *path, struct symbol_file **file,
                           struct umbra_error *error);
/* The same of bytes. */
int symbol_file_parse(const uint8_t *bytes, size_t size, const char *name,
                      struct symbol_file **file, struct umbra_error *error);

/* Find a Linux kernel in guest memory, loaded as @entry tells, and read what it says about
 * itself; -ENOENT when there is none (yet). The guest may run meanwhile. */
int symbol_file_of_guest(const struct guest_mem *mem, const struct boot_entry *entry,
                         struct symbol_file **file);

/* Whether the kernel has moved since: read it again. */
bool symbol_file_moved(const struct symbol_file *file, const struct guest_mem *mem);

void symbol_file_free(struct symbol_file *file);

/* The build id that the guest has in memory where @file's symbols say; 0: unknown. @offset is
 * the kernel's virtual minus its physical addresses. */
size_t symbol_file_guest_id(const struct symbol_file *file, const struct guest_mem *mem,
                            uint64_t offset, uint8_t id[BUILD_ID_MAX]);

/* A symbol by its name, its address with the slide applied. */
bool symbol_file_address(const struct symbol_file *file, const char *name,
                         uint64_t *address);

#endif
