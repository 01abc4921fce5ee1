/* SPDX-License-Identifier: MIT */
/*
 * The names that a Linux kernel carries in itself (CONFIG_KALLSYMS): a stripped kernel, and
 * one in memory, still knows its symbols. Understood are the layouts of 4.6 and later for
 * 64-bit kernels, whose addresses are 32-bit offsets.
 */
#ifndef VMM_SYMBOLS_KALLSYMS_H
#define VMM_SYMBOLS_KALLSYMS_H

#include "vmm/symbols/table.h"

/* Find the tables in a kernel's @bytes (8-aligned as in memory) and add what they name;
 * -ENOENT when there are none. *base_at is where the address is that all others are relative
 * to, which a kernel changes when it moves itself. */
int kallsyms_read(const uint8_t *bytes, size_t size, struct symbol_table *table,
                  size_t *base_at);

/* Where the tables' fixed middle part is, from @from on; false: nowhere. It tells a kernel's
 * place in memory. */
bool kallsyms_probe(const uint8_t *bytes, size_t size, size_t *at);

#endif
