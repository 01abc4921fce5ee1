/* SPDX-License-Identifier: MIT */
/*
 * Loading a guest: recognise the image, put it, its initrd, its command line and the
 * tables it expects into guest memory, and say in which state the boot processor enters
 * it.
 */
#ifndef VMM_BOOT_BOOT_H
#define VMM_BOOT_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "base/log.h"
#include "memory/guest_mem.h"
#include "vmm/board/board.h"

enum boot_image_kind {
    BOOT_IMAGE_BZIMAGE,
    BOOT_IMAGE_ELF64,     /* entered at its 64-bit entry with a zero page */
    BOOT_IMAGE_ELF32,     /* entered at its 32-bit entry with a zero page */
    BOOT_IMAGE_PVH,       /* ELF with XEN_ELFNOTE_PHYS32_ENTRY */
    BOOT_IMAGE_MULTIBOOT, /* multiboot 1, ELF or address fields */
    BOOT_IMAGE_FLAT,
};

const char *boot_image_kind_name(enum boot_image_kind kind);

struct boot_request {
    const struct board *board;
    struct guest_mem *mem;
    const struct log *log;
    const char *kernel_path; /* NULL: kernel_bytes */
    const void *kernel_bytes;
    size_t kernel_size;
    const char *initrd_path; /* NULL: none */
    const char *append;      /* never NULL */
    bool flat;
    uint64_t flat_load, flat_entry;
    bool decompress_in_guest;
    bool no_acpi, fdt;
};

/* The mode the boot processor starts in. */
enum boot_mode {
    BOOT_MODE_REAL,      /* CS:IP = cs:rip */
    BOOT_MODE_PROTECTED, /* flat 32-bit segments, paging off */
    BOOT_MODE_LONG,      /* 64-bit, paging on through page tables that the loader wrote */
};

enum { BOOT_MAX_SEGMENTS = 8 };

/* A part of an ELF image where it was loaded. */
struct boot_segment {
    uint64_t virtual_address, address, size;
};

/* What the vCPU layer turns into KVM registers. */
struct boot_entry {
    enum boot_image_kind kind;
    enum boot_mode mode;
    uint64_t rip, rsp;
    uint64_t rax, rbx, rsi, rdi;
    uint64_t cr3; /* LONG */
    gpa gdt;      /* of the GDT that the loader wrote (PROTECTED, LONG) */
    uint16_t gdt_limit;
    uint16_t cs, ds;       /* selectors into it, or the real-mode CS paragraph */
    char description[128]; /* "bzImage 6.1.0-56-amd64 (zstd), unpacked on the host" */
    bool linux_kernel;     /* takes Linux command-line options */
    /* The first segments of an ELF image; none of one that unpacks itself. */
    struct boot_segment segments[BOOT_MAX_SEGMENTS];
    unsigned segment_count;
};

/* Where the loader put what the image has at @address; false: not known. It holds before the
 * guest maps anything. */
bool boot_entry_physical(const struct boot_entry *entry, uint64_t address, gpa *physical);

int boot_load(const struct boot_request *request, struct boot_entry *entry,
              struct umbra_error *error);

/* ---- Pieces, each usable (and fuzzed) by itself --------------------------------------
 */

/*
 * Unpack a compressed stream (gzip, xz, zstd, lz4 legacy, bzip2, lzma, lzo, told by its
 * magic) into a malloc'd buffer of at most @limit bytes. *name is the format's name.
 */
int boot_decompress(const void *input, size_t size, size_t limit, void **output,
                    size_t *output_size, const char **name, struct umbra_error *error);

/*
 * Write the ACPI tables of @board into [base, base+size) of guest memory, RSDP first;
 * *rsdp is its address.
 */
int acpi_write(const struct board *board, struct guest_mem *mem, gpa base, uint64_t size,
               gpa *rsdp, struct umbra_error *error);

/* One table by its signature ("DSDT", "FACP", "APIC", "MCFG", "XSDT", "RSD PTR ") as a
 * malloc'd buffer; -ENOENT for an unknown name. */
int acpi_table(const struct board *board, const char *signature, void **table,
               size_t *size);

/* An FDT of @board as a malloc'd blob. @append and initrd addresses go to /chosen. */
int fdt_build(const struct board *board, const char *append, gpa initrd,
              uint64_t initrd_size, void **blob, size_t *size, struct umbra_error *error);

#endif
