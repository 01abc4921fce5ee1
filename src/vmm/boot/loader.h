/* SPDX-License-Identifier: MIT */
/* What the image loaders share: the load under way, and how a processor enters it. */
#ifndef VMM_BOOT_LOADER_H
#define VMM_BOOT_LOADER_H

#include "vmm/boot/boot.h"
#include "vmm/boot/image.h"
#include "vmm/boot/layout.h"

/* The most that is read of a kernel image, and the most that one unpacks to. */
#define LOADER_IMAGE_MAX (UINT64_C(1) << 30)

struct loader {
    const struct boot_request *request;
    struct guest_mem *mem;
    struct boot_entry *entry;
    struct layout layout;
    struct image image; /* the kernel as given */
    gpa rsdp;           /* 0: none */
    bool file_named;    /* an error's message already names its file */
};

/* The loaders; boot_load has set up @loader and zeroed loader->entry. Messages begin with
 * the reason; boot_load puts the file's name before them. */
int bzimage_load(struct loader *loader, struct umbra_error *error);
int elf_load(struct loader *loader, struct umbra_error *error);
int pvh_load(struct loader *loader, struct umbra_error *error);
int multiboot_load(struct loader *loader, struct umbra_error *error);
int flat_load(struct loader *loader, struct umbra_error *error);

/* Whether the image's first bytes are of that kind. */
bool bzimage_probe(const void *data, size_t size);
bool multiboot_probe(const void *data, size_t size);

/* The kernel inside a bzImage as a malloc'd buffer of at most @limit bytes. */
int bzimage_unpack(const void *data, size_t size, size_t limit, void **vmlinux,
                   size_t *vmlinux_size, struct umbra_error *error);

/* Claim [base, base+memory_size) and fill it: @size bytes at @offset of @image, which
 * holds as many, then zeroes. */
struct loader_piece {
    gpa base;
    struct image *image;
    uint64_t offset, size, memory_size;
    const char *what;
};
int loader_put(struct loader *loader, const struct loader_piece *piece,
               struct umbra_error *error);

/* Place a copy of @data low (below 640 KiB where it fits, else below 4 GiB). */
int loader_put_low(struct loader *loader, const void *data, uint64_t size,
                   const char *what, gpa *base, struct umbra_error *error);

/* Place the initrd within [min, max), as high (or low) as it goes. *size 0: no initrd. */
int loader_put_initrd(struct loader *loader, gpa min, gpa max, bool top, gpa *base,
                      uint64_t *size, struct umbra_error *error);

/* Write GDT, stack and, for LONG, page tables that map the first 4 GiB onto themselves;
 * set entry->mode, rip, rsp and the segment members. */
int loader_enter(struct loader *loader, enum boot_mode mode, uint64_t rip,
                 struct umbra_error *error);

/* "6.1.0-56-amd64" after "Linux version " in @size bytes of loaded kernel at @base; false
 * if not there. */
bool loader_linux_version(const struct loader *loader, gpa base, uint64_t size,
                          char *text, size_t text_size);

#endif
