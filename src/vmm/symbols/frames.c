/* SPDX-License-Identifier: MIT */
/*
 * From ORC to DWARF (version 4, sections 6.4 and 7.23). Where the caller's stack pointer is
 * becomes the canonical frame address (CFA). There is one common entry for each kind of frame;
 * a frame of saved registers has the address of these as its CFA.
 */
#include "vmm/symbols/frames.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

enum {
    CFA_ADVANCE_LOC4 = 0x04,
    CFA_UNDEFINED = 0x07,
    CFA_SAME_VALUE = 0x08,
    CFA_DEF_CFA_EXPRESSION = 0x0f,
    CFA_EXPRESSION = 0x10,
    CFA_OFFSET_EXTENDED_SF = 0x11,
    CFA_DEF_CFA_SF = 0x12,
    OP_DEREF = 0x06,
    OP_CONSTS = 0x11,
    OP_PLUS = 0x22,
    OP_BREG0 = 0x70,
};

/* The numbers of registers (System V ABI for AMD64, figure 3.36). */
enum dwarf_register {
    DWARF_RDX = 1,
    DWARF_RDI = 5,
    DWARF_RBP = 6,
    DWARF_RSP = 7,
    DWARF_R10 = 10,
    DWARF_R13 = 13,
    DWARF_RETURN = 16,
};

enum frame_class {
    FRAME_CALL,
    FRAME_REGISTERS,
    FRAME_INTERRUPT,
    FRAME_END,
    FRAME_CLASSES
};

#define NO_FRAME FRAME_CLASSES

/* ---- Bytes ------------------------------------------------------------------------------------- */

void bytes_add(struct bytes *bytes, const void *data, size_t size)
{
    if (bytes->capacity - bytes->size < size) {
        size_t capacity = 2 * bytes->capacity + size + 4096;
        uint8_t *grown = realloc(bytes->data, capacity);

        if (grown == NULL) {
            bytes->failed = true;
            return;
        }
        bytes->data = grown;
        bytes->capacity = capacity;
    }
    if (size > 0) {
        memcpy(bytes->data + bytes->size, data, size);
        bytes->size += size;
    }
}

void bytes_add8(struct bytes *bytes, uint8_t value)
{
    bytes_add(bytes, &value, sizeof(value));
}

void bytes_add32(struct bytes *bytes, uint32_t value)
{
    uint8_t le[4];

    store_le32(le, value);
    bytes_add(bytes, le, sizeof(le));
}

void bytes_add64(struct bytes *bytes, uint64_t value)
{
    uint8_t le[8];

    store_le64(le, value);
    bytes_add(bytes, le, sizeof(le));
}

static void add_sleb(struct bytes *bytes, int64_t value)
{
    for (bool more = true; more;) {
        uint8_t byte = value & 0x7f;

        value >>= 7;
        more = !((value == 0 && !(byte & 0x40)) || (value == -1 && (byte & 0x40)));
        bytes_add8(bytes, byte | (more ? 0x80 : 0));
    }
}

/* ---- Entries ----------------------------------------------------------------------------------- */

/* Pad an entry that began at @start with no-operations and set its length. */
static void entry_end(struct bytes *out, size_t start)
{
    while ((out->size - start - 4) % 8 != 0 && !out->failed) {
        bytes_add8(out, 0);
    }
    if (!out->failed) {
        store_le32(out->data + start, (uint32_t)(out->size - start - 4));
    }
}

static void add_saved(struct bytes *out, enum dwarf_register reg, int64_t offset)
{
    bytes_add8(out, CFA_OFFSET_EXTENDED_SF);
    bytes_add8(out, (uint8_t)reg);
    add_sleb(out, offset);
}

/* What holds in every frame of a class. */
static void class_rules(struct bytes *out, enum frame_class class)
{
    /* Where struct pt_regs has DWARF's registers 0 to 15. */
    static const uint8_t saved[] = { 80, 96, 88, 40, 104, 112, 32, 152,
                                     72, 64, 56, 48, 24,  16,  8,  0 };

    switch (class) {
    case FRAME_CALL:
        add_saved(out, DWARF_RETURN, -8);
        break;
    case FRAME_REGISTERS:
        for (size_t i = 0; i < ARRAY_SIZE(saved); i++) {
            add_saved(out, (enum dwarf_register)i, saved[i]);
        }
        add_saved(out, DWARF_RETURN, 128);
        break;
    case FRAME_INTERRUPT:
        add_saved(out, DWARF_RETURN, 0);
        add_saved(out, DWARF_RSP, 24);
        break;
    default:
        bytes_add8(out, CFA_DEF_CFA_SF);
        bytes_add8(out, DWARF_RSP);
        add_sleb(out, 0);
        bytes_add8(out, CFA_UNDEFINED);
        bytes_add8(out, DWARF_RETURN);
        break;
    }
}

/* Whether the frame's address is where code stands, not where a call returns to. */
static bool class_is_signal(enum frame_class class)
{
    return class == FRAME_REGISTERS || class == FRAME_INTERRUPT;
}

static void add_common(struct bytes *out, enum frame_class class)
{
    size_t start = out->size;

    bytes_add32(out, 0);
    bytes_add32(out, UINT32_MAX); /* a common entry */
    bytes_add8(out, 1);           /* version */
    bytes_add(out, class_is_signal(class) ? "zS" : "", class_is_signal(class) ? 3 : 1);
    bytes_add8(out, 1); /* code alignment */
    bytes_add8(out, 1); /* data alignment */
    bytes_add8(out, DWARF_RETURN);
    if (class_is_signal(class)) {
        bytes_add8(out, 0); /* of augmentation data */
    }
    class_rules(out, class);
    entry_end(out, start);
}

/* ---- Rules ------------------------------------------------------------------------------------- */

static enum frame_class rule_class(const struct orc_rule *rule)
{
    switch (rule->type) {
    case ORC_TYPE_CALL:
        return FRAME_CALL;
    case ORC_TYPE_REGISTERS:
        return FRAME_REGISTERS;
    case ORC_TYPE_INTERRUPT:
        return FRAME_INTERRUPT;
    case ORC_TYPE_END:
        return FRAME_END;
    default:
        return NO_FRAME;
    }
}

static void add_cfa(struct bytes *out, const struct orc_rule *rule)
{
    static const uint8_t registers[] = {
        [ORC_DX] = DWARF_RDX, [ORC_DI] = DWARF_RDI,  [ORC_BP] = DWARF_RBP,
        [ORC_SP] = DWARF_RSP, [ORC_R10] = DWARF_R10, [ORC_R13] = DWARF_R13,
    };
    struct bytes expression = { 0 };

    if (rule->sp == ORC_SP_INDIRECT || rule->sp == ORC_BP_INDIRECT) {
        bool by_sp = rule->sp == ORC_SP_INDIRECT;

        bytes_add8(&expression, OP_BREG0 + (by_sp ? DWARF_RSP : DWARF_RBP));
        add_sleb(&expression, by_sp ? 0 : rule->sp_offset);
        bytes_add8(&expression, OP_DEREF);
        if (by_sp) {
            bytes_add8(&expression, OP_CONSTS);
            add_sleb(&expression, rule->sp_offset);
            bytes_add8(&expression, OP_PLUS);
        }
        bytes_add8(out, CFA_DEF_CFA_EXPRESSION);
        bytes_add8(out, (uint8_t)expression.size);
        bytes_add(out, expression.data, expression.size);
        free(expression.data);
        return;
    }
    bytes_add8(out, CFA_DEF_CFA_SF);
    bytes_add8(out, rule->sp >= ORC_DX && rule->sp <= ORC_R13 ? registers[rule->sp]
                                                              : DWARF_RSP);
    /* Registers that ORC uses as they are have no offset there. */
    add_sleb(out, rule->sp == ORC_SP || rule->sp == ORC_BP ? rule->sp_offset : 0);
}

static void add_bp(struct bytes *out, const struct orc_rule *rule)
{
    struct bytes expression = { 0 };

    if (rule->bp == ORC_PREVIOUS_SP) {
        add_saved(out, DWARF_RBP, rule->bp_offset);
    } else if (rule->bp == ORC_BP) {
        bytes_add8(&expression, OP_BREG0 + DWARF_RBP);
        add_sleb(&expression, rule->bp_offset);
        bytes_add8(out, CFA_EXPRESSION);
        bytes_add8(out, DWARF_RBP);
        bytes_add8(out, (uint8_t)expression.size);
        bytes_add(out, expression.data, expression.size);
        free(expression.data);
    } else {
        bytes_add8(out, CFA_SAME_VALUE);
        bytes_add8(out, DWARF_RBP);
    }
}

/* ---- The section ------------------------------------------------------------------------------- */

/* The frames of one stretch of code. */
struct stretch {
    struct bytes *out;
    enum frame_class class; /* NO_FRAME: none begun */
    size_t start;           /* of the entry */
    uint64_t from, at;      /* first address, and that of the last row */
};

static void stretch_end(struct stretch *s, uint64_t end)
{
    if (s->class != NO_FRAME && !s->out->failed) {
        store_le64(s->out->data + s->start + 16, end - s->from);
        entry_end(s->out, s->start);
    }
    s->class = NO_FRAME;
}

static void stretch_begin(struct stretch *s, enum frame_class class, uint64_t from,
                          const size_t common[FRAME_CLASSES])
{
    *s = (struct stretch){ s->out, class, s->out->size, from, from };
    bytes_add32(s->out, 0);
    bytes_add32(s->out, (uint32_t)common[class]);
    bytes_add64(s->out, from);
    bytes_add64(s->out, 0);
    if (class_is_signal(class)) {
        bytes_add8(s->out, 0);
    }
}

static void stretch_row(struct stretch *s, uint64_t at, const struct orc_rule *rule)
{
    if (at != s->at) {
        bytes_add8(s->out, CFA_ADVANCE_LOC4);
        bytes_add32(s->out, (uint32_t)(at - s->at));
        s->at = at;
    }
    if (s->class != FRAME_END) {
        add_cfa(s->out, rule);
    }
    if (s->class == FRAME_CALL) {
        add_bp(s->out, rule);
    }
}

/* A new function begins: its frames are found without reading those before it. */
static bool function_begins(const struct symbol_table *table, uint64_t address)
{
    const struct symbol *symbol = symbol_table_at(table, address);

    return symbol != NULL && symbol->address == address;
}

void frames_write(const struct orc_table *orc, const struct symbol_table *table,
                  struct bytes *out)
{
    struct stretch s = { .out = out, .class = NO_FRAME };
    size_t common[FRAME_CLASSES], section = out->size;

    for (int class = 0; class < FRAME_CLASSES; class ++) {
        common[class] = out->size - section;
        add_common(out, (enum frame_class) class);
    }
    for (size_t i = 0; i < orc->count && !out->failed; i++) {
        struct orc_rule rule;
        uint64_t at = orc_table_rule(orc, i, &rule);
        enum frame_class class = rule_class(&rule);

        if (s.class != NO_FRAME &&
            (class != s.class || function_begins(table, at) || at - s.at > UINT32_MAX)) {
            stretch_end(&s, at);
        }
        if (class != NO_FRAME && s.class == NO_FRAME) {
            stretch_begin(&s, class, at, common);
        }
        if (class != NO_FRAME) {
            stretch_row(&s, at, &rule);
        }
    }
    /* The last rule holds to the end of code, which only begins another if it is known. */
    if (s.class != NO_FRAME) {
        stretch_end(&s, s.at + 1);
    }
}
