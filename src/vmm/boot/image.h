/* SPDX-License-Identifier: MIT */
/*
 * A kernel or initrd as the host has it: a file or bytes, read within bounds. A file is
 * read where it is needed, never mapped: one that is cut off meanwhile is an error, not a
 * SIGBUS.
 */
#ifndef VMM_BOOT_IMAGE_H
#define VMM_BOOT_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "memory/guest_mem.h"

struct image {
    const char *name;    /* for messages; borrowed */
    const char *role;    /* "kernel", "initrd"; static text */
    const uint8_t *data; /* what image_need() asked for is here; the rest is zeroes */
    size_t size;
    int fd;         /* -1: borrowed bytes, all of them here */
    size_t fetched; /* from the start on */
};

/* Open the regular, non-empty file @path of at most @limit bytes. */
int image_open(const char *path, const char *role, uint64_t limit, struct image *image,
               struct umbra_error *error);
/* The same, and have the whole of it in image->data. */
int image_read(const char *path, const char *role, uint64_t limit, struct image *image,
               struct umbra_error *error);
/* Look at bytes that the caller keeps. */
void image_borrow(const void *bytes, size_t size, const char *name, const char *role,
                  struct image *image);
void image_close(struct image *image);

/* Have @length bytes at @offset, a range inside the image, in image->data. */
int image_need(struct image *image, size_t offset, size_t length,
               struct umbra_error *error);
/* Put @length bytes at @offset, a range inside the image, into guest RAM at @base. */
int image_put(struct image *image, size_t offset, size_t length, struct guest_mem *mem,
              gpa base, struct umbra_error *error);

#endif
