/* SPDX-License-Identifier: MIT */
/* A kernel or initrd as the host has it: a file or bytes, read within bounds. */
#ifndef VMM_BOOT_IMAGE_H
#define VMM_BOOT_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "memory/guest_mem.h"

struct image {
    const char *name; /* for messages; borrowed */
    const char *role; /* "kernel", "initrd"; static text */
    const uint8_t *data;
    size_t size;
    void *owned; /* what image_release frees; NULL for borrowed bytes */
};

/* Read the whole of @path, at most @limit bytes. */
int image_read(const char *path, const char *role, uint64_t limit, struct image *image,
               struct umbra_error *error);
/* Look at bytes that the caller keeps. */
void image_borrow(const void *bytes, size_t size, const char *name, const char *role,
                  struct image *image);
void image_release(struct image *image);

/* The size of the regular file @path, which must not be empty. */
int image_file_size(const char *path, const char *role, uint64_t *size,
                    struct umbra_error *error);
/* Read the first @size bytes of @path straight into guest memory at @base. */
int image_file_load(const char *path, const char *role, struct guest_mem *mem, gpa base,
                    uint64_t size, struct umbra_error *error);

#endif
