/* SPDX-License-Identifier: MIT */
/* Linux's list of modules (kernel/module/ of the kernel), read through its page tables. */
#include "vmm/symbols/modules.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "vmm/symbols/btf.h"

/* Modules lie in the highest 2 GiB, with the kernel. */
#define MODULES_LOWEST (UINT64_C(0) - 2 * GIB)
#define BTF_MAX        (64 * MIB)

enum {
    MODULES_MAX = 512,
    MODULE_NAME = 56, /* as much of it as is kept */
    MODULE_STRUCT = 8192,
    MODULE_RANGES = 8,
    MODULE_SYMBOLS = 1 << 18,
    ALL_SYMBOLS = 1 << 20, /* of all modules together */
    MODULE_STRINGS = 16 << 20,
    MODULE_RULES = 1 << 20,
    STATE_UNFORMED = 3,
    PAGE = 4096,
};

/* Where what is needed is in the kernel's structures. */
struct module_layout {
    uint32_t size; /* of struct module */
    uint32_t list, state, name, kallsyms;
    struct module_range_at {
        uint32_t base, size;
    } ranges[MODULE_RANGES];
    unsigned range_count;
    uint32_t symtab, num_symtab, strtab, typetab, kallsyms_size;
    bool has_types;
    uint32_t num_orcs, orc_places, orc_rules;
    bool has_orc;
};

struct module {
    uint64_t address; /* of its struct module */
    char name[MODULE_NAME + 1];
    struct {
        uint64_t base, size;
    } ranges[MODULE_RANGES];
    uint64_t symtab, strtab, typetab;
    uint32_t symbol_count;
    uint64_t orc_places, orc_rules;
    uint32_t orc_count;
    /* Read when first asked for. */
    struct symbol_file *file;
    bool tried;
};

struct modules {
    const struct guest_mem *mem;
    struct module_layout layout;
    uint64_t head;   /* of the list */
    gpa tables;      /* the kernel's page tables */
    unsigned levels; /* of them */
    bool orc_header; /* the kernel's unwind tables are of the newer kind */
    struct module list[MODULES_MAX];
    unsigned count;
};

/* ---- Guest-virtual memory -------------------------------------------------------------------- */

/* Where @address is in physical memory (Intel SDM vol. 3, 4.5); false: nowhere. */
static bool modules_walk(const struct modules *modules, uint64_t address, gpa *to)
{
    const uint64_t mask = UINT64_C(0x000ffffffffff000);
    gpa table = modules->tables;

    for (unsigned level = modules->levels; level > 0; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        uint8_t bytes[8];
        uint64_t entry;

        if (guest_mem_read(modules->mem, table + (address >> shift & 511) * 8, bytes, 8) <
            0) {
            return false;
        }
        entry = load_le64(bytes);
        if (!(entry & 1)) {
            return false;
        }
        if (level == 1 || (level <= 3 && entry & 0x80)) {
            uint64_t inside = (UINT64_C(1) << shift) - 1;

            *to = (entry & mask & ~inside) | (address & inside);
            return true;
        }
        table = entry & mask;
    }
    return false;
}

/* Copy from guest-virtual @address; how many bytes are there, up to @size. */
static size_t modules_read(const struct modules *modules, uint64_t address, void *buffer,
                           size_t size)
{
    size_t done = 0;

    while (done < size) {
        uint64_t at = address + done;
        size_t part = PAGE - at % PAGE;
        gpa from;

        part = part < size - done ? part : size - done;
        if (!modules_walk(modules, at, &from) ||
            guest_mem_read(modules->mem, from, (uint8_t *)buffer + done, part) < 0) {
            break;
        }
        done += part;
    }
    return done;
}

/* A malloc'd copy of @size bytes; NULL when not all are there. */
static void *modules_copy(const struct modules *modules, uint64_t address, size_t size)
{
    void *bytes = malloc(size > 0 ? size : 1);

    if (bytes != NULL && modules_read(modules, address, bytes, size) != size) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

/* ---- The kernel's structures ------------------------------------------------------------------ */

static bool member(const struct btf *btf, uint32_t type, const char *name, uint32_t *at,
                   uint32_t *member_type)
{
    struct btf_place place;

    if (!btf_member(btf, type, name, &place)) {
        return false;
    }
    *at = place.offset;
    if (member_type != NULL) {
        *member_type = place.type;
    }
    return true;
}

/* A range of memory: a structure with a base and a size, @offset into struct module. */
static bool layout_range(const struct btf *btf, struct module_layout *layout,
                         uint32_t type, uint32_t offset)
{
    struct module_range_at range;

    if (layout->range_count == MODULE_RANGES ||
        !member(btf, type, "base", &range.base, NULL) ||
        !member(btf, type, "size", &range.size, NULL)) {
        return false;
    }
    range.base += offset;
    range.size += offset;
    layout->ranges[layout->range_count++] = range;
    return true;
}

/* What a module takes: two layouts until 6.3, an array of kinds of memory since 6.4. */
static bool layout_ranges(const struct btf *btf, struct module_layout *layout,
                          uint32_t module)
{
    static const char *const old[] = { "core_layout", "init_layout" };
    uint32_t at, type, count, element;

    for (unsigned i = 0; i < ARRAY_SIZE(old); i++) {
        if (member(btf, module, old[i], &at, &type)) {
            layout_range(btf, layout, type, at);
        }
    }
    if (layout->range_count == 0 && member(btf, module, "mem", &at, &type) &&
        btf_elements(btf, type, &element, &count)) {
        uint32_t step = btf_size(btf, element);

        for (uint32_t i = 0; i < count && i < MODULE_RANGES && step < MODULE_STRUCT;
             i++) {
            layout_range(btf, layout, element, at + i * step);
        }
    }
    return layout->range_count > 0;
}

static void layout_orc(const struct btf *btf, struct module_layout *layout,
                       uint32_t module)
{
    uint32_t at = 0, type;

    layout->has_orc = member(btf, module, "arch", &at, &type) &&
                      member(btf, type, "num_orcs", &layout->num_orcs, NULL) &&
                      member(btf, type, "orc_unwind_ip", &layout->orc_places, NULL) &&
                      member(btf, type, "orc_unwind", &layout->orc_rules, NULL);
    layout->num_orcs += at;
    layout->orc_places += at;
    layout->orc_rules += at;
}

/* Everything at @at is @size bytes inside @whole. */
static bool inside(uint32_t at, uint32_t size, uint32_t whole)
{
    return size <= whole && at <= whole - size;
}

static bool layout_sound(const struct module_layout *l)
{
    bool sound = l->size <= MODULE_STRUCT && inside(l->list, 16, l->size) &&
                 inside(l->state, 4, l->size) && inside(l->name, MODULE_NAME, l->size) &&
                 inside(l->kallsyms, 8, l->size) && l->kallsyms_size <= PAGE &&
                 inside(l->symtab, 8, l->kallsyms_size) &&
                 inside(l->num_symtab, 4, l->kallsyms_size) &&
                 inside(l->strtab, 8, l->kallsyms_size) &&
                 (!l->has_types || inside(l->typetab, 8, l->kallsyms_size)) &&
                 (!l->has_orc ||
                  (inside(l->num_orcs, 4, l->size) && inside(l->orc_places, 8, l->size) &&
                   inside(l->orc_rules, 8, l->size)));

    for (unsigned i = 0; i < l->range_count; i++) {
        sound &= inside(l->ranges[i].base, 8, l->size) &&
                 inside(l->ranges[i].size, 4, l->size);
    }
    return sound;
}

static int layout_read(const void *bytes, size_t size, struct module_layout *layout)
{
    uint32_t module, kallsyms, pointer;
    struct btf btf;
    int ret = btf_open(&btf, bytes, size);

    if (ret < 0) {
        return ret;
    }
    ret = -ENODATA;
    if (btf_struct(&btf, "module", &module) &&
        member(&btf, module, "list", &layout->list, NULL) &&
        member(&btf, module, "state", &layout->state, NULL) &&
        member(&btf, module, "name", &layout->name, NULL) &&
        member(&btf, module, "kallsyms", &layout->kallsyms, &pointer) &&
        btf_target(&btf, pointer, &kallsyms) &&
        member(&btf, kallsyms, "symtab", &layout->symtab, NULL) &&
        member(&btf, kallsyms, "num_symtab", &layout->num_symtab, NULL) &&
        member(&btf, kallsyms, "strtab", &layout->strtab, NULL) &&
        layout_ranges(&btf, layout, module)) {
        layout->size = btf_size(&btf, module);
        layout->kallsyms_size = btf_size(&btf, kallsyms);
        layout->has_types = member(&btf, kallsyms, "typetab", &layout->typetab, NULL);
        layout_orc(&btf, layout, module);
        ret = layout_sound(layout) ? 0 : -ENODATA;
    }
    btf_close(&btf);
    return ret;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* The kernel's BTF, copied; NULL: none. */
static void *btf_copy(const struct guest_mem *mem, const struct symbol_file *kernel,
                      uint64_t offset, size_t *size)
{
    uint64_t from, to;
    void *bytes;

    if (!symbol_file_address(kernel, "__start_BTF", &from) ||
        !symbol_file_address(kernel, "__stop_BTF", &to) || to <= from ||
        to - from > BTF_MAX) {
        return NULL;
    }
    *size = to - from;
    bytes = malloc(*size);
    if (bytes != NULL && guest_mem_read(mem, from - offset, bytes, *size) < 0) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

int modules_open(const struct guest_mem *mem, const struct symbol_file *kernel,
                 uint64_t offset, struct modules **out)
{
    struct modules *modules = calloc(1, sizeof(*modules));
    uint64_t tables, shift_at;
    uint8_t shift[4] = { 0 };
    size_t size;
    void *btf;
    int ret = -ENODATA;

    if (modules == NULL) {
        return -ENOMEM;
    }
    btf = btf_copy(mem, kernel, offset, &size);
    if (btf != NULL && symbol_file_address(kernel, "modules", &modules->head) &&
        symbol_file_address(kernel, "init_top_pgt", &tables)) {
        ret = layout_read(btf, size, &modules->layout);
        modules->tables = tables - offset;
    }
    free(btf);
    /* A kernel that can have five levels of page tables says whether it has. */
    if (symbol_file_address(kernel, "pgdir_shift", &shift_at)) {
        guest_mem_read(mem, shift_at - offset, shift, sizeof(shift));
    }
    modules->levels = load_le32(shift) == 48 ? 5 : 4;
    modules->mem = mem;
    modules->orc_header = kernel->orc.has_header;
    if (ret < 0) {
        free(modules);
        return ret;
    }
    *out = modules;
    return 0;
}

void modules_free(struct modules *modules)
{
    if (modules != NULL) {
        for (unsigned i = 0; i < modules->count; i++) {
            symbol_file_free(modules->list[i].file);
        }
        free(modules);
    }
}

/* ---- The list -------------------------------------------------------------------------------- */

/* Read the module at @address; false: it has no symbols (yet). */
static bool module_read(const struct modules *modules, uint64_t address,
                        struct module *module, uint64_t *next)
{
    const struct module_layout *l = &modules->layout;
    uint8_t bytes[MODULE_STRUCT], kallsyms[PAGE];

    *next = 0;
    if (modules_read(modules, address, bytes, l->size) != l->size) {
        return false;
    }
    *next = load_le64(bytes + l->list);
    *module = (struct module){ .address = address };
    memcpy(module->name, bytes + l->name, MODULE_NAME);
    for (char *c = module->name; *c != '\0'; c++) {
        *c = *c > ' ' && *c < 0x7f ? *c : '?';
    }
    for (unsigned i = 0; i < l->range_count; i++) {
        module->ranges[i].base = load_le64(bytes + l->ranges[i].base);
        module->ranges[i].size = load_le32(bytes + l->ranges[i].size);
    }
    if (l->has_orc) {
        module->orc_count = load_le32(bytes + l->num_orcs);
        module->orc_places = load_le64(bytes + l->orc_places);
        module->orc_rules = load_le64(bytes + l->orc_rules);
    }
    if (load_le32(bytes + l->state) == STATE_UNFORMED ||
        modules_read(modules, load_le64(bytes + l->kallsyms), kallsyms,
                     l->kallsyms_size) != l->kallsyms_size) {
        return false;
    }
    module->symtab = load_le64(kallsyms + l->symtab);
    module->strtab = load_le64(kallsyms + l->strtab);
    module->typetab = l->has_types ? load_le64(kallsyms + l->typetab) : 0;
    module->symbol_count = load_le32(kallsyms + l->num_symtab);
    return true;
}

/* The same module in the same place: what was read of it holds. */
static bool module_same(const struct module *a, const struct module *b)
{
    return a->address == b->address && strcmp(a->name, b->name) == 0 &&
           memcmp(a->ranges, b->ranges, sizeof(a->ranges)) == 0 &&
           a->symtab == b->symtab && a->strtab == b->strtab &&
           a->symbol_count == b->symbol_count;
}

/* Have @module keep what was read of it before. */
static void module_keep(struct modules *old, struct module *module)
{
    for (unsigned i = 0; i < old->count; i++) {
        if (module_same(&old->list[i], module)) {
            module->file = old->list[i].file;
            module->tried = old->list[i].tried;
            old->list[i].file = NULL;
            return;
        }
    }
}

void modules_refresh(struct modules *modules)
{
    struct module *list = calloc(MODULES_MAX, sizeof(*list));
    uint8_t first[8];
    uint64_t at = 0;
    unsigned count = 0;

    if (list == NULL) {
        return;
    }
    if (modules_read(modules, modules->head, first, sizeof(first)) == sizeof(first)) {
        at = load_le64(first);
    }
    for (unsigned i = 0; i < MODULES_MAX && at >= MODULES_LOWEST && at != modules->head;
         i++) {
        struct module *module = &list[count];

        if (module_read(modules, at - modules->layout.list, module, &at)) {
            module_keep(modules, module);
            count++;
        }
    }
    for (unsigned i = 0; i < modules->count; i++) {
        symbol_file_free(modules->list[i].file);
    }
    memcpy(modules->list, list, sizeof(modules->list));
    modules->count = count;
    free(list);
}

unsigned modules_count(const struct modules *modules)
{
    return modules->count;
}

/* ---- Symbols --------------------------------------------------------------------------------- */

static bool module_has(const struct module *module, uint64_t address)
{
    for (unsigned i = 0; i < MODULE_RANGES; i++) {
        if (address - module->ranges[i].base < module->ranges[i].size) {
            return true;
        }
    }
    return false;
}

/* nm(1)'s type. */
static char symbol_letter(const struct module *module, const uint8_t *types,
                          uint32_t index, const Elf64_Sym *symbol)
{
    if (types != NULL && strchr("tTdDbBrRvVwW", types[index]) != NULL &&
        types[index] != '\0') {
        return (char)types[index];
    }
    return module->typetab == 0 && ELF64_ST_TYPE(symbol->st_info) == STT_OBJECT ? 'd'
                                                                                : 't';
}

/* The names of @symbols, as many bytes of them as there are. */
static char *module_strings(const struct modules *modules, const struct module *module,
                            const Elf64_Sym *symbols, size_t *size)
{
    uint32_t most = 0;
    char *strings;

    for (uint32_t i = 0; i < module->symbol_count; i++) {
        most = symbols[i].st_name > most ? symbols[i].st_name : most;
    }
    if (most > MODULE_STRINGS) {
        return NULL;
    }
    *size = most + SYMBOL_MAX_NAME + 1;
    strings = malloc(*size);
    if (strings != NULL) {
        *size = modules_read(modules, module->strtab, strings, *size);
    }
    return strings;
}

static int module_add_symbols(const struct modules *modules, const struct module *module,
                              struct symbol_table *table)
{
    uint32_t count = module->symbol_count;
    Elf64_Sym *symbols = modules_copy(modules, module->symtab, count * sizeof(*symbols));
    uint8_t *types =
        module->typetab != 0 ? modules_copy(modules, module->typetab, count) : NULL;
    char *strings = NULL;
    size_t size = 0;
    int ret = -ENODATA;

    if (symbols != NULL) {
        strings = module_strings(modules, module, symbols, &size);
    }
    if (strings != NULL) {
        ret = 0;
    }
    for (uint32_t i = 0; ret == 0 && i < count; i++) {
        const Elf64_Sym *symbol = &symbols[i];

        if (symbol->st_shndx != SHN_UNDEF && symbol->st_name < size &&
            module_has(module, symbol->st_value)) {
            const char *name = strings + symbol->st_name;

            ret = symbol_table_add(table, symbol->st_value,
                                   module->typetab != 0 ? symbol->st_size : 0,
                                   symbol_letter(module, types, i, symbol), name,
                                   strnlen(name, size - symbol->st_name));
        }
    }
    free(symbols);
    free(types);
    free(strings);
    return ret;
}

static void module_add_orc(const struct modules *modules, const struct module *module,
                           struct orc_table *orc)
{
    size_t places_size = module->orc_count * sizeof(int32_t);
    size_t rules_size = (size_t)module->orc_count * ORC_RULE_SIZE;
    void *places, *rules;

    if (module->orc_count == 0 || module->orc_count > MODULE_RULES) {
        return;
    }
    places = modules_copy(modules, module->orc_places, places_size);
    rules = modules_copy(modules, module->orc_rules, rules_size);
    if (places != NULL && rules != NULL) {
        orc_table_set(orc, places, places_size, rules, rules_size, module->orc_places,
                      modules->orc_header);
    } else {
        free(places);
        free(rules);
    }
}

/* How many symbols were read of all modules. */
static size_t modules_symbols(const struct modules *modules)
{
    size_t sum = 0;

    for (unsigned i = 0; i < modules->count; i++) {
        const struct symbol_file *file = modules->list[i].file;

        sum += file != NULL ? file->table.count : 0;
    }
    return sum;
}

static void module_load(const struct modules *modules, struct module *module)
{
    struct symbol_file *file = calloc(1, sizeof(*file));

    module->tried = true;
    if (file == NULL) {
        return;
    }
    snprintf(file->module, sizeof(file->module), "%s", module->name);
    if (module->symbol_count > MODULE_SYMBOLS ||
        module->symbol_count > ALL_SYMBOLS - modules_symbols(modules) ||
        module_add_symbols(modules, module, &file->table) < 0 ||
        symbol_table_seal(&file->table) < 0) {
        symbol_file_free(file);
        return;
    }
    module_add_orc(modules, module, &file->orc);
    module->file = file;
}

struct symbol_file *modules_file(struct modules *modules, unsigned index)
{
    struct module *module = &modules->list[index];

    if (!module->tried) {
        module_load(modules, module);
    }
    return module->file;
}

struct symbol_file *modules_at(struct modules *modules, uint64_t address)
{
    if (address < MODULES_LOWEST) {
        return NULL;
    }
    modules_refresh(modules);
    for (unsigned i = 0; i < modules->count; i++) {
        if (module_has(&modules->list[i], address)) {
            return modules_file(modules, i);
        }
    }
    return NULL;
}
