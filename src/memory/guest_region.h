/* SPDX-License-Identifier: MIT */
/* What guest_mem.c asks of one region's host memory; others see memory/guest_mem.h. */
#ifndef MEMORY_GUEST_REGION_H
#define MEMORY_GUEST_REGION_H

#include "memory/guest_mem.h"

/* The size of the pages that @backing insists on; 4 KiB where it does not. */
uint64_t guest_mem_backing_page(enum guest_mem_backing backing);
/* Private anonymous memory rather than a memfd? */
bool guest_mem_is_private(const struct guest_mem_options *options);

/* Give @region, whose place and size are set, its host memory: address space first, then
 * what else @options want of it. What a failure leaves goes with guest_region_release(). */
int guest_region_map(const struct guest_mem_options *options, struct guest_region *region,
                     struct umbra_error *error);
int guest_region_advise(const struct guest_mem_options *options,
                        const struct guest_region *region, struct umbra_error *error);
void guest_region_release(struct guest_region *region);

/* Have the pages in [offset, offset + length) go: zeroes, and holes, from now on. */
int guest_region_drop(const struct guest_mem_options *options,
                      const struct guest_region *region, uint64_t offset,
                      uint64_t length);

/* The bytes of host memory that it takes now; slow on private memory. */
uint64_t guest_region_resident(const struct guest_region *region);

#endif
