/* SPDX-License-Identifier: MIT */
/* Linux's unwind tables (ORC, arch/x86/include/asm/orc_types.h of the kernel): for each range
 * of code, how the caller's stack pointer, frame pointer and program counter are found. */
#ifndef VMM_SYMBOLS_ORC_H
#define VMM_SYMBOLS_ORC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum orc_register {
    ORC_UNDEFINED,
    ORC_PREVIOUS_SP,
    ORC_DX,
    ORC_DI,
    ORC_BP,
    ORC_SP,
    ORC_R10,
    ORC_R13,
    ORC_BP_INDIRECT,
    ORC_SP_INDIRECT,
};

enum orc_type {
    ORC_TYPE_UNKNOWN,
    ORC_TYPE_END, /* the outermost frame */
    ORC_TYPE_CALL,
    ORC_TYPE_REGISTERS, /* all of them were saved */
    ORC_TYPE_INTERRUPT, /* only what the processor saves: RIP, CS, RFLAGS, RSP, SS */
};

struct orc_rule {
    int16_t sp_offset, bp_offset;
    enum orc_register sp, bp;
    enum orc_type type;
};

/* The two tables of a kernel; the bytes are the owner's. */
struct orc_table {
    int32_t *places; /* each relative to its own address */
    uint8_t *rules;  /* ORC_RULE_SIZE bytes each */
    size_t count;
    uint64_t address; /* of places in the kernel */
    bool has_header;  /* since 6.4: rules are encoded differently */
};

enum { ORC_RULE_SIZE = 6 };

/* Take the tables over; false (and they are freed) when they are not sorted or empty. */
bool orc_table_set(struct orc_table *table, void *places, size_t places_size, void *rules,
                   size_t rules_size, uint64_t address, bool has_header);
void orc_table_release(struct orc_table *table);

/* The rule for code at @pc; false: none. */
bool orc_table_find(const struct orc_table *table, uint64_t pc, struct orc_rule *rule);

/* Rule @index and where it begins to hold. */
uint64_t orc_table_rule(const struct orc_table *table, size_t index,
                        struct orc_rule *rule);

#endif
