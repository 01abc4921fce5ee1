/* SPDX-License-Identifier: MIT */
/* Looking up Linux's unwind tables. */
#include "vmm/symbols/orc.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

static uint64_t orc_place(const struct orc_table *table, size_t index)
{
    return table->address + 4 * index + (uint64_t)(int64_t)table->places[index];
}

bool orc_table_set(struct orc_table *table, void *places, size_t places_size, void *rules,
                   size_t rules_size, uint64_t address, bool has_header)
{
    bool sorted = true;

    *table = (struct orc_table){
        .places = places,
        .rules = rules,
        .count = places_size / sizeof(int32_t),
        .address = address,
        .has_header = has_header,
    };
    for (size_t i = 1; i < table->count && sorted; i++) {
        sorted = orc_place(table, i - 1) <= orc_place(table, i);
    }
    if (!sorted || table->count == 0 || rules_size / ORC_RULE_SIZE != table->count) {
        orc_table_release(table);
        return false;
    }
    return true;
}

void orc_table_release(struct orc_table *table)
{
    free(table->places);
    free(table->rules);
    memset(table, 0, sizeof(*table));
}

/* Until 6.3 the type has two bits, and whether it is the last frame one of its own. */
static enum orc_type orc_old_type(unsigned bits, enum orc_register sp)
{
    static const enum orc_type types[] = { ORC_TYPE_CALL, ORC_TYPE_REGISTERS,
                                           ORC_TYPE_INTERRUPT, ORC_TYPE_UNKNOWN };

    if (sp == ORC_UNDEFINED) {
        /* 6.3 put a signal bit before the end bit; neither is set without the other's use. */
        return bits >> 2 != 0 ? ORC_TYPE_END : ORC_TYPE_UNKNOWN;
    }
    return types[bits & 3];
}

uint64_t orc_table_rule(const struct orc_table *table, size_t index,
                        struct orc_rule *rule)
{
    const uint8_t *at = table->rules + index * ORC_RULE_SIZE;
    unsigned registers = at[4], bits = at[5];

    *rule = (struct orc_rule){
        .sp_offset = (int16_t)load_le16(at),
        .bp_offset = (int16_t)load_le16(at + 2),
        .sp = (enum orc_register)(registers & 15),
        .bp = (enum orc_register)(registers >> 4),
    };
    if (!table->has_header) {
        rule->type = orc_old_type(bits & 15, rule->sp);
    } else {
        rule->type = (bits & 7) <= ORC_TYPE_INTERRUPT ? (enum orc_type)(bits & 7)
                                                      : ORC_TYPE_UNKNOWN;
    }
    return orc_place(table, index);
}

bool orc_table_find(const struct orc_table *table, uint64_t pc, struct orc_rule *rule)
{
    size_t low = 0, high = table->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (orc_place(table, middle) <= pc) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == 0) {
        return false;
    }
    orc_table_rule(table, low - 1, rule);
    return rule->type != ORC_TYPE_UNKNOWN;
}
