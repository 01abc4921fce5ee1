/* SPDX-License-Identifier: MIT */
/*
 * The modules of a Linux guest: their names and unwind tables, from its memory. Where a kernel
 * keeps them it says itself, in its BTF (CONFIG_DEBUG_INFO_BTF). All of it is the guest's and
 * may be anything, and may change while it is read.
 */
#ifndef VMM_SYMBOLS_MODULES_H
#define VMM_SYMBOLS_MODULES_H

#include "vmm/symbols/file.h"

struct modules;

/* For @kernel, which was read from the guest, with its virtual addresses @offset above the
 * physical ones. -ENODATA when it does not say what is needed. */
int modules_open(const struct guest_mem *mem, const struct symbol_file *kernel,
                 uint64_t offset, struct modules **modules);
void modules_free(struct modules *modules);

/* Look which modules there are now. */
void modules_refresh(struct modules *modules);
unsigned modules_count(const struct modules *modules);

/* The symbols of module @index, or of the one that has @address in its memory; NULL: none
 * that can be read. They stay until the next refresh. */
struct symbol_file *modules_file(struct modules *modules, unsigned index);
struct symbol_file *modules_at(struct modules *modules, uint64_t address);

#endif
