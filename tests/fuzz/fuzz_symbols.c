/* SPDX-License-Identifier: MIT */
/*
 * Hostile programs to read symbols from: ELF files, bzImages, kallsyms in any bytes, BTF, and
 * modules in a guest's memory. The first byte of an input says which; what follows is it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "fuzz.h"
#include "unit/module_image.h"
#include "vmm/symbols/btf.h"
#include "vmm/symbols/file.h"
#include "vmm/symbols/frames.h"
#include "vmm/symbols/kallsyms.h"

enum { OF_FILE, OF_KALLSYMS, OF_BTF, OF_MODULES, KINDS };

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

static void read_btf(const uint8_t *bytes, size_t size)
{
    static const char *const names[] = { "module", "mod_kallsyms", "list", "kallsyms",
                                         "mem",    "base",         "size", "" };
    struct btf btf;

    if (btf_open(&btf, bytes, size) < 0) {
        return;
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        uint32_t type, other, count;
        struct btf_place place;

        if (!btf_struct(&btf, names[i], &type)) {
            continue;
        }
        FUZZ_EXPECT(type > 0 && type < btf.count);
        for (size_t m = 0; m < sizeof(names) / sizeof(names[0]); m++) {
            if (btf_member(&btf, type, names[m], &place)) {
                FUZZ_EXPECT(place.type < btf.count);
                btf_size(&btf, place.type);
                btf_target(&btf, place.type, &other);
                btf_elements(&btf, place.type, &other, &count);
            }
        }
    }
    btf_close(&btf);
}

/* Modules of a guest that writes what it likes where they are: pairs of a place and a word. */
static void read_modules(const uint8_t *bytes, size_t size)
{
    static struct module_image image;
    static struct modules *modules;

    if (modules == NULL) {
        struct bytes btf = btf_image(true);

        module_image_open(&image, &btf, 4);
        FUZZ_EXPECT(modules_open(image.mem, image.kernel, IMAGE_KERNEL, &modules) == 0);
        free(btf.data);
    }
    for (unsigned i = 0; i < 3; i++) {
        static const char *const names[] = { "net", "disk", "tape" };

        image_module(&image, i, names[i]);
    }
    image_chain(&image, 3);
    for (; size >= 10; bytes += 10, size -= 10) {
        uint64_t at = load_le16(bytes) % (4 * IMAGE_EACH - 8);

        image_word(&image, IMAGE_MODULE + at, load_le64(bytes + 2));
    }
    modules_refresh(modules);
    for (unsigned i = 0; i < modules_count(modules); i++) {
        struct symbol_file *file = modules_file(modules, i);

        if (file != NULL) {
            look_up(&file->table);
        }
        modules_at(modules, image_module_at(i % 3) + IMAGE_CODE + 0x100);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static void (*const readers[KINDS])(const uint8_t *bytes, size_t size) = {
        [OF_FILE] = read_file,
        [OF_KALLSYMS] = read_kallsyms,
        [OF_BTF] = read_btf,
        [OF_MODULES] = read_modules,
    };

    if (size > 1) {
        readers[bytes[0] % KINDS](bytes + 1, size - 1);
    }
    return 0;
}
