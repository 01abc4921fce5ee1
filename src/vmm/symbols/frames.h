/* SPDX-License-Identifier: MIT */
/* Linux's unwind tables as DWARF call frame information, which debuggers understand. */
#ifndef VMM_SYMBOLS_FRAMES_H
#define VMM_SYMBOLS_FRAMES_H

#include "vmm/symbols/orc.h"
#include "vmm/symbols/table.h"

/* Bytes that grow. */
struct bytes {
    uint8_t *data;
    size_t size, capacity;
    bool failed; /* out of memory; what came since is missing */
};

void bytes_add(struct bytes *bytes, const void *data, size_t size);
void bytes_add8(struct bytes *bytes, uint8_t value);
void bytes_add32(struct bytes *bytes, uint32_t value);
void bytes_add64(struct bytes *bytes, uint64_t value);

/* Write a .debug_frame section for the code that @table names. */
void frames_write(const struct orc_table *orc, const struct symbol_table *table,
                  struct bytes *out);

#endif
