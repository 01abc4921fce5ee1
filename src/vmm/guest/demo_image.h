/* SPDX-License-Identifier: MIT */
/* The guest of `umbra demo`: an ELF64 file with a multiboot header and a PVH note. */
#ifndef VMM_GUEST_DEMO_IMAGE_H
#define VMM_GUEST_DEMO_IMAGE_H

#include <stddef.h>

extern const unsigned char demo_image[] __attribute__((visibility("hidden")));
extern const unsigned char demo_image_end[] __attribute__((visibility("hidden")));

/* 0 on an architecture that has no demo guest. */
static inline size_t demo_image_size(void)
{
    return (size_t)(demo_image_end - demo_image);
}

#endif
