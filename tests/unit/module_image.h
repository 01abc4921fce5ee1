/* SPDX-License-Identifier: MIT */
/* A Linux guest with modules, made up byte by byte: its BTF, page tables, list of modules. */
#ifndef TESTS_UNIT_MODULE_IMAGE_H
#define TESTS_UNIT_MODULE_IMAGE_H

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "vmm/symbols/frames.h"
#include "vmm/symbols/modules.h"

#define IMAGE_KERNEL UINT64_C(0xffffffff81000000) /* virtual, of physical 0 */
#define IMAGE_MODULE UINT64_C(0xffffffffc0200000) /* of IMAGE_MODULES */

enum {
    IMAGE_RAM = 4 << 20,
    IMAGE_BTF = 0x10000,
    IMAGE_HEAD = 0x2000, /* struct list_head modules */
    IMAGE_SHIFT = 0x2100,
    IMAGE_TABLES = 0x4000, /* a page for each level, the top one first */
    IMAGE_MODULES = 0x200000,
    IMAGE_EACH = 0x8000, /* of a module: its structures, then what it is */
    IMAGE_CODE = 0x4000,
    IMAGE_CODE_SIZE = 0x1000,
    IMAGE_PAGES = 512,
};

/* struct module as it is in this guest. */
enum {
    AT_STATE = 0,
    AT_LIST = 8,
    AT_NAME = 24,
    AT_KALLSYMS = 80,
    AT_RANGES = 96, /* each: base, padding, size at 12 */
    AT_ARCH = 200,  /* num_orcs, padding, places, rules */
    AT_END = 240,
    RANGE_STEP = 24,
    KALLSYMS_SYMTAB = 0,
    KALLSYMS_COUNT = 8,
    KALLSYMS_STRTAB = 16,
    KALLSYMS_TYPETAB = 24,
    KALLSYMS_END = 32,
};

struct module_image {
    struct guest_mem *mem;
    struct symbol_file *kernel;
};

/* ---- BTF ------------------------------------------------------------------------------------- */

struct btf_image {
    struct bytes types, strings;
};

static inline uint32_t btf_name(struct btf_image *b, const char *name)
{
    uint32_t at = (uint32_t)b->strings.size;

    bytes_add(&b->strings, name, strlen(name) + 1);
    return name[0] == '\0' ? 0 : at;
}

static inline void btf_type(struct btf_image *b, const char *name, unsigned kind,
                            unsigned members, uint32_t word)
{
    bytes_add32(&b->types, btf_name(b, name));
    bytes_add32(&b->types, kind << 24 | members);
    bytes_add32(&b->types, word);
}

static inline void btf_field(struct btf_image *b, const char *name, uint32_t type,
                             uint32_t offset)
{
    bytes_add32(&b->types, btf_name(b, name));
    bytes_add32(&b->types, type);
    bytes_add32(&b->types, 8 * offset);
}

/* The whole of it: a header, types, strings. */
static inline struct bytes btf_finish(struct btf_image *b)
{
    struct bytes out = { 0 };

    bytes_add(&out, (const uint8_t[]){ 0x9f, 0xeb, 1, 0 }, 4);
    bytes_add32(&out, 24);
    bytes_add32(&out, 0);
    bytes_add32(&out, (uint32_t)b->types.size);
    bytes_add32(&out, (uint32_t)b->types.size);
    bytes_add32(&out, (uint32_t)b->strings.size);
    bytes_add(&out, b->types.data, b->types.size);
    bytes_add(&out, b->strings.data, b->strings.size);
    free(b->types.data);
    free(b->strings.data);
    return out;
}

/* The types that matter, and some others; @mem: as since 6.4. */
static inline struct bytes btf_image(bool mem)
{
    enum { INT = 1, RANGE, ARRAY, KALLSYMS, CONST, POINTER, ARCH, INNER, MODULE };
    struct btf_image b = { 0 };

    btf_name(&b, "");
    bytes_add8(&b.strings, 0);
    btf_type(&b, "int", 1, 0, 4); /* INT */
    bytes_add32(&b.types, 32);
    btf_type(&b, "module_range", 4, 2, RANGE_STEP);
    btf_field(&b, "base", INT, 0);
    btf_field(&b, "size", INT, 12);
    btf_type(&b, "", 3, 0, 0); /* an array of ranges */
    bytes_add32(&b.types, RANGE);
    bytes_add32(&b.types, INT);
    bytes_add32(&b.types, 3);
    btf_type(&b, "mod_kallsyms", 4, 4, KALLSYMS_END);
    btf_field(&b, "symtab", INT, KALLSYMS_SYMTAB);
    btf_field(&b, "num_symtab", INT, KALLSYMS_COUNT);
    btf_field(&b, "strtab", INT, KALLSYMS_STRTAB);
    btf_field(&b, "typetab", INT, KALLSYMS_TYPETAB);
    btf_type(&b, "", 10, 0, KALLSYMS); /* const */
    btf_type(&b, "", 2, 0, CONST);     /* a pointer to that */
    btf_type(&b, "mod_arch_specific", 4, 3, 24);
    btf_field(&b, "num_orcs", INT, 0);
    btf_field(&b, "orc_unwind_ip", INT, 8);
    btf_field(&b, "orc_unwind", INT, 16);
    btf_type(&b, "", 5, 1, 8); /* a union without a name */
    btf_field(&b, "kallsyms", POINTER, 0);
    btf_type(&b, "module", 4, mem ? 6 : 7, AT_END);
    btf_field(&b, "state", INT, AT_STATE);
    btf_field(&b, "list", INT, AT_LIST);
    btf_field(&b, "name", INT, AT_NAME);
    btf_field(&b, "", INNER, AT_KALLSYMS);
    btf_field(&b, "arch", ARCH, AT_ARCH);
    if (mem) {
        btf_field(&b, "mem", ARRAY, AT_RANGES);
    } else {
        btf_field(&b, "core_layout", RANGE, AT_RANGES);
        btf_field(&b, "init_layout", RANGE, AT_RANGES + RANGE_STEP);
    }
    return btf_finish(&b);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static inline void image_put(struct module_image *image, uint64_t at, uint64_t value,
                             unsigned size)
{
    uint8_t bytes[8];

    store_le64(bytes, value);
    guest_mem_write(image->mem, at, bytes, size);
}

/* Map IMAGE_PAGES pages of the modules' area, which lie in memory in reverse order. */
static inline uint64_t image_physical(uint64_t address)
{
    uint64_t page = (address - IMAGE_MODULE) / 4096;

    return IMAGE_MODULES + (IMAGE_PAGES / 2 - 1 - page) * 4096 + address % 4096;
}

static inline void image_map(struct module_image *image, unsigned levels)
{
    uint64_t table = IMAGE_TABLES;

    for (unsigned level = levels; level > 1; level--, table += 4096) {
        image_put(image, table + (IMAGE_MODULE >> (12 + 9 * (level - 1)) & 511) * 8,
                  (table + 4096) | 3, 8);
    }
    for (unsigned i = 0; i < IMAGE_PAGES / 2; i++) {
        uint64_t address = IMAGE_MODULE + i * UINT64_C(4096);

        image_put(image, table + (address >> 12 & 511) * 8,
                  image_physical(address) | UINT64_C(1) << 63 | 0x63, 8);
    }
    image_put(image, IMAGE_SHIFT, levels == 5 ? 48 : 39, 4);
}

/* In the modules' area. */
static inline void image_store(struct module_image *image, uint64_t address,
                               const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        guest_mem_write(image->mem, image_physical(address + i),
                        (const uint8_t *)bytes + i, 1);
    }
}

static inline void image_word(struct module_image *image, uint64_t address,
                              uint64_t value)
{
    uint8_t bytes[8];

    store_le64(bytes, value);
    image_store(image, address, bytes, sizeof(bytes));
}

static inline uint64_t image_module_at(unsigned index)
{
    return IMAGE_MODULE + index * (uint64_t)IMAGE_EACH;
}

/* Module @index called @name with functions "name_open" (16 bytes) and "name_close". */
static inline void image_module(struct module_image *image, unsigned index,
                                const char *name)
{
    uint64_t at = image_module_at(index), kallsyms = at + 0x400, code = at + IMAGE_CODE;
    char strings[256] = { 0 }, text[57] = { 0 };
    size_t used = 1;
    Elf64_Sym symbols[4] = { { 0 } };

    strncpy(text, name, 56);
    image_store(image, at + AT_NAME, text, 56);
    image_word(image, at + AT_KALLSYMS, kallsyms);
    image_word(image, at + AT_RANGES, code);
    image_word(image, at + AT_RANGES + 8, (uint64_t)IMAGE_CODE_SIZE << 32);
    for (unsigned i = 1; i < 4; i++) {
        static const char *const suffixes[] = { "", "open", "close", "undefined" };

        symbols[i].st_name = (Elf64_Word)used;
        symbols[i].st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC);
        symbols[i].st_shndx = i == 3 ? SHN_UNDEF : 1;
        symbols[i].st_value = code + i * 0x100;
        symbols[i].st_size = i == 1 ? 16 : 0;
        used += 1 + (size_t)snprintf(strings + used, sizeof(strings) - used, "%.40s_%s",
                                     name, suffixes[i]);
    }
    image_store(image, at + 0x1000 - 40, symbols, sizeof(symbols)); /* over two pages */
    image_store(image, at + 0x2000, strings, sizeof(strings));
    image_store(image, at + 0x3000, "?tTt", 4);
    image_word(image, kallsyms + KALLSYMS_SYMTAB, at + 0x1000 - 40);
    image_word(image, kallsyms + KALLSYMS_COUNT, 4);
    image_word(image, kallsyms + KALLSYMS_STRTAB, at + 0x2000);
    image_word(image, kallsyms + KALLSYMS_TYPETAB, at + 0x3000);
}

/* Chain modules 0 to @count - 1. */
static inline void image_chain(struct module_image *image, unsigned count)
{
    uint64_t head = IMAGE_KERNEL + IMAGE_HEAD;

    image_put(image, IMAGE_HEAD, count > 0 ? image_module_at(0) + AT_LIST : head, 8);
    for (unsigned i = 0; i < count; i++) {
        image_word(image, image_module_at(i) + AT_LIST,
                   i + 1 < count ? image_module_at(i + 1) + AT_LIST : head);
    }
}

static inline void image_name(struct module_image *image, const char *name, uint64_t at)
{
    symbol_table_add(&image->kernel->table, IMAGE_KERNEL + at, 8, 'D', name,
                     strlen(name));
}

/* A guest with @btf and no modules yet. */
static inline void module_image_open(struct module_image *image, const struct bytes *btf,
                                     unsigned levels)
{
    struct guest_mem_options options = { 0 };
    struct umbra_error error;

    if (guest_mem_create(&options, &image->mem, &error) < 0 ||
        guest_mem_add(image->mem, 0, IMAGE_RAM, GUEST_REGION_RAM, &error) < 0) {
        abort();
    }
    image->kernel = calloc(1, sizeof(*image->kernel));
    image_name(image, "modules", IMAGE_HEAD);
    image_name(image, "pgdir_shift", IMAGE_SHIFT);
    image_name(image, "init_top_pgt", IMAGE_TABLES);
    image_name(image, "__start_BTF", IMAGE_BTF);
    image_name(image, "__stop_BTF", IMAGE_BTF + btf->size);
    symbol_table_seal(&image->kernel->table);
    guest_mem_write(image->mem, IMAGE_BTF, btf->data, btf->size);
    image_map(image, levels);
    image_chain(image, 0);
    /* The list's head is read through the tables as well. */
    for (unsigned level = levels, table = IMAGE_TABLES; level > 2;
         level--, table += 4096) {
        image_put(image, table + (IMAGE_KERNEL >> (12 + 9 * (level - 1)) & 511) * 8,
                  (table + 4096) | 3, 8);
    }
    image_put(image,
              IMAGE_TABLES + (levels - 2) * UINT64_C(4096) +
                  (IMAGE_KERNEL >> 21 & 511) * 8,
              0x80 | 3, 8);
}

static inline void module_image_close(struct module_image *image)
{
    symbol_file_free(image->kernel);
    guest_mem_destroy(image->mem);
}

#endif
