/* SPDX-License-Identifier: MIT */
/*
 * Hostile programs to read symbols from: ELF files, bzImages, kallsyms in any bytes. The first
 * byte of an input is options; what follows is the file, or its kallsyms.
 */
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "fuzz.h"
#include "vmm/symbols/file.h"
#include "vmm/symbols/frames.h"
#include "vmm/symbols/kallsyms.h"

enum { OPTION_KALLSYMS = 1 };

/* What was read answers every question about itself. */
static void look_up(const struct symbol_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct symbol *symbol = &table->list[i], *found;

        found = symbol_table_find(table, symbol_name(table, symbol));
        FUZZ_EXPECT(found != NULL &&
                    strcmp(symbol_name(table, found), symbol_name(table, symbol)) == 0);
        for (const char *c = symbol_name(table, symbol); *c != '\0'; c++) {
            FUZZ_EXPECT(*c > ' ' && *c < 0x7f);
        }
        found = symbol_table_at(table, symbol->address);
        FUZZ_EXPECT(symbol_type(table, symbol) == 'A' || found != NULL);
    }
}

static void read_file(const uint8_t *bytes, size_t size)
{
    struct symbol_file *file = NULL;
    struct umbra_error error = { 0 };
    struct bytes frames = { 0 };
    struct orc_rule rule;

    if (symbol_file_parse(bytes, size, "fuzz", &file, &error) < 0) {
        FUZZ_EXPECT(error.message[0] != '\0');
        return;
    }
    look_up(&file->table);
    if (file->orc.count > 0) {
        orc_table_find(&file->orc, file->table.list[0].address, &rule);
        frames_write(&file->orc, &file->table, &frames);
        FUZZ_EXPECT(frames.size > 0);
        free(frames.data);
    }
    symbol_file_free(file);
}

static void read_kallsyms(const uint8_t *bytes, size_t size)
{
    struct symbol_table table = { 0 };
    size_t base_at = 0;

    if (kallsyms_read(bytes, size, &table, &base_at) == 0) {
        FUZZ_EXPECT(base_at <= size - sizeof(uint64_t));
        FUZZ_EXPECT(symbol_table_seal(&table) == 0);
        look_up(&table);
    }
    symbol_table_release(&table);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size > 1 && bytes[0] & OPTION_KALLSYMS) {
        read_kallsyms(bytes + 1, size - 1);
    } else if (size > 1) {
        read_file(bytes + 1, size - 1);
    }
    return 0;
}
