/* SPDX-License-Identifier: MIT */
/* Symbol tables of ELF files, kallsyms, unwind tables, their export, and unwinding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "symbol_images.h"
#include "vmm/debug/unwind.h"
#include "vmm/symbols/file.h"
#include "vmm/symbols/kallsyms.h"

/* ---- The table --------------------------------------------------------------------------------- */

static void add(struct symbol_table *table, uint64_t address, uint64_t size, char type,
                const char *name)
{
    assert_int_equal(symbol_table_add(table, address, size, type, name, strlen(name)), 0);
}

static void assert_at(const struct symbol_table *table, uint64_t address,
                      const char *name)
{
    const struct symbol *symbol = symbol_table_at(table, address);

    if (name == NULL) {
        assert_null(symbol);
    } else {
        assert_non_null(symbol);
        assert_string_equal(symbol_name(table, symbol), name);
    }
}

static void test_table(void **state)
{
    struct symbol_table table = { 0 };

    add(&table, 0x2000, 0x10, 'T', "sized");
    add(&table, 0x1000, 0, 't', "alias_local");
    add(&table, 0x1000, 0, 'T', "alias");
    add(&table, 0x3000, 0, 'd', "twice");
    add(&table, 0x2800, 0, 't', "twice");
    add(&table, 0x4000, 0, 'D', "last");
    add(&table, 0x1800, 0, 'A', "number");
    add(&table, 0x5000, 0, 'D', "");
    assert_int_equal(symbol_table_add(&table, 0, 0, 'T', "a\x1b[31m", 6), 0);
    assert_int_equal(symbol_table_seal(&table), 0);
    assert_int_equal(table.count, 8);
    assert_at(&table, 0x1000, "alias");
    assert_at(&table, 0x1fff, "alias"); /* not "number" */
    assert_at(&table, 0x200f, "sized");
    assert_at(&table, 0x2010, NULL);
    assert_at(&table, 0x4000, "last");
    assert_at(&table, 0x4000 + (1 << 20), NULL);
    assert_int_equal(symbol_table_find(&table, "twice")->address,
                     0x2800); /* code first */
    assert_int_equal(symbol_table_find(&table, "number")->address, 0x1800);
    assert_non_null(symbol_table_find(&table, "a?[31m")); /* no escapes for terminals */
    assert_null(symbol_table_find(&table, "none"));
    symbol_table_release(&table);
}

static void test_table_empty(void **state)
{
    struct symbol_table table = { 0 };

    assert_int_equal(symbol_table_seal(&table), 0);
    assert_null(symbol_table_find(&table, "x"));
    assert_null(symbol_table_at(&table, 1));
    symbol_table_release(&table);
}

/* ---- ELF files --------------------------------------------------------------------------------- */

static struct symbol_file *parse(const struct bytes *image)
{
    struct symbol_file *file = NULL;
    struct umbra_error error = { 0 };
    int ret = symbol_file_parse(image->data, image->size, "dir/test", &file, &error);

    if (ret < 0) {
        print_message("%s\n", error.message);
    }
    assert_int_equal(ret, 0);
    return file;
}

static void test_elf(void **state)
{
    struct bytes image = symbol_image_elf(true, SHT_SYMTAB);
    struct symbol_file *file = parse(&image);
    uint64_t address;

    assert_string_equal(file->origin, "test: symbol table");
    assert_int_equal(file->table.count, 4);
    assert_true(symbol_file_address(file, "code", &address));
    assert_int_equal(address, SYMBOL_IMAGE_TEXT);
    file->slide = 0x100000;
    assert_true(symbol_file_address(file, "code", &address));
    assert_int_equal(address, SYMBOL_IMAGE_TEXT + 0x100000);
    assert_true(symbol_file_address(file, "per_cpu", &address));
    assert_int_equal(address, 0x40);
    assert_at(&file->table, SYMBOL_IMAGE_TEXT + 0x1f, "code");
    assert_at(&file->table, SYMBOL_IMAGE_TEXT + 0x20, "helper");
    assert_at(&file->table, 0x48, NULL);
    assert_int_equal(file->build_id_size, 4);
    symbol_file_free(file);
    free(image.data);
}

static void test_elf32_and_dynamic(void **state)
{
    static const struct {
        bool is64;
        uint32_t type;
    } kinds[] = { { false, SHT_SYMTAB }, { true, SHT_DYNSYM }, { false, SHT_DYNSYM } };

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct bytes image = symbol_image_elf(kinds[i].is64, kinds[i].type);
        struct symbol_file *file = parse(&image);

        assert_int_equal(file->table.count, 4);
        symbol_file_free(file);
        free(image.data);
    }
}

static void assert_refused(const uint8_t *data, size_t size, const char *part)
{
    struct symbol_file *file = NULL;
    struct umbra_error error = { 0 };

    assert_true(symbol_file_parse(data, size, "x", &file, &error) < 0);
    if (strstr(error.message, part) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", error.message, part);
    }
}

/* Every truncation and every byte changed: refused or understood, never a crash. */
static void test_elf_hostile(void **state)
{
    struct bytes image = symbol_image_elf(true, SHT_SYMTAB);
    uint8_t *copy = malloc(image.size);

    for (size_t size = 0; size < image.size; size++) {
        struct symbol_file *file = NULL;
        struct umbra_error error = { 0 };

        memcpy(copy, image.data, size);
        if (symbol_file_parse(copy, size, "x", &file, &error) == 0) {
            symbol_file_free(file);
        } else {
            assert_true(error.message[0] != '\0');
        }
    }
    for (size_t at = 0; at < image.size; at++) {
        static const uint8_t values[] = { 0x00, 0xff, 0x7f, 0x80 };

        for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
            struct symbol_file *file = NULL;

            memcpy(copy, image.data, image.size);
            copy[at] = values[v];
            if (symbol_file_parse(copy, image.size, "x", &file, NULL) == 0) {
                symbol_file_free(file);
            }
        }
    }
    assert_refused((const uint8_t *)"text", 4, "not a little-endian ELF");
    free(copy);
    free(image.data);
}

static void test_file_errors(void **state)
{
    struct symbol_file *file = NULL;
    struct umbra_error error = { 0 };

    assert_int_equal(symbol_file_read("/nonexistent", &file, &error), -ENOENT);
    assert_int_equal(error.code, UMBRA_ERROR_MISSING);
    assert_true(symbol_file_read("/dev/zero", &file, &error) < 0);
    assert_non_null(strstr(error.message, "regular file"));
    assert_true(symbol_file_read("/", &file, &error) < 0);
}

/* ---- kallsyms ---------------------------------------------------------------------------------- */

static void test_kallsyms(void **state)
{
    for (int layout = 0; layout < SYMBOL_LAYOUTS; layout++) {
        struct bytes image = symbol_image_kallsyms((enum symbol_layout)layout);
        struct symbol_table table = { 0 };
        size_t at, base_at = 0;
        char name[32];

        assert_true(kallsyms_probe(image.data, image.size, &at));
        assert_int_equal(kallsyms_read(image.data, image.size, &table, &base_at), 0);
        assert_int_equal(symbol_table_seal(&table), 0);
        assert_int_equal(table.count, SYMBOL_IMAGE_COUNT);
        assert_int_equal(load_le64(image.data + base_at), SYMBOL_IMAGE_BASE);
        for (unsigned i = 0; i < SYMBOL_IMAGE_COUNT; i++) {
            const struct symbol *symbol;

            symbol_image_name(i, name);
            symbol = symbol_table_find(&table, name);
            assert_non_null(symbol);
            if (i < SYMBOL_IMAGE_PER_CPU && layout != SYMBOL_LAYOUT_PLAIN) {
                assert_int_equal(symbol->address, 16 * i);
                assert_int_equal(symbol_type(&table, symbol), 'A');
            } else {
                assert_int_equal(symbol->address, SYMBOL_IMAGE_BASE + 16 * i);
                assert_at(&table, symbol->address + 15, name);
            }
        }
        symbol_table_release(&table);
        free(image.data);
    }
}

static void test_kallsyms_damaged(void **state)
{
    struct bytes image = symbol_image_kallsyms(SYMBOL_LAYOUT_OLD);
    size_t found = 0;

    for (size_t at = 0; at < image.size; at += 7) {
        uint8_t before = image.data[at];
        struct symbol_table table = { 0 };
        size_t base_at;

        image.data[at] ^= 0xff;
        found += kallsyms_read(image.data, image.size, &table, &base_at) == 0;
        symbol_table_release(&table);
        image.data[at] = before;
    }
    /* Most damage is noticed or harmless; a change of padding or offsets is not. */
    assert_true(found < image.size / 7);
    free(image.data);
}

/* What the testbed's kernels say about themselves. */
static void test_real_kernels(void **state)
{
    char *list = getenv("UMBRA_TEST_KERNELS"), *copy, *rest = NULL;

    if (list == NULL) {
        skip();
    }
    copy = strdup(list);
    for (char *path = strtok_r(copy, ":", &rest); path != NULL;
         path = strtok_r(NULL, ":", &rest)) {
        struct symbol_file *file = NULL;
        struct umbra_error error = { 0 };
        struct orc_rule rule;
        uint64_t address;

        if (symbol_file_read(path, &file, &error) < 0) {
            fail_msg("%s: %s", path, error.message);
        }
        assert_true(file->table.count > 50000);
        assert_true(symbol_file_address(file, "start_kernel", &address));
        assert_at(&file->table, address + 1, "start_kernel");
        assert_true(file->orc.count > 50000);
        assert_true(orc_table_find(&file->orc, address, &rule));
        assert_int_equal(rule.type, ORC_TYPE_CALL);
        assert_int_equal(rule.sp, ORC_SP);
        assert_int_equal(rule.sp_offset, 8);
        assert_true(file->build_id_size > 0);
        symbol_file_free(file);
    }
    free(copy);
}

/* ---- Export ------------------------------------------------------------------------------------ */

static void test_export(void **state)
{
    char from[] = "/tmp/umbra-symbols-XXXXXX", to[64];
    struct bytes image = symbol_image_elf(true, SHT_SYMTAB);
    struct symbol_file *file = NULL;
    struct umbra_error error = { 0 };
    uint64_t address;
    int fd = mkstemp(from);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, image.data, image.size), image.size);
    close(fd);
    snprintf(to, sizeof(to), "%s.elf", from);
    assert_int_equal(umbra_symbols_export(from, to, &error), 0);
    assert_true(umbra_symbols_export(from, to, &error) < 0);
    assert_non_null(strstr(error.message, "not overwritten"));
    assert_int_equal(symbol_file_read(to, &file, &error), 0);
    assert_int_equal(file->table.count, 4);
    assert_true(symbol_file_address(file, "helper", &address));
    assert_int_equal(address, SYMBOL_IMAGE_TEXT + 0x20);
    symbol_file_free(file);
    unlink(to);
    assert_true(umbra_symbols_export("/dev/null", to, &error) < 0);
    unlink(from);
    free(image.data);
}

/* ---- Unwinding --------------------------------------------------------------------------------- */

enum { STACK = 0x7000, STACK_SIZE = 0x1000, CODE = 0x1000, CODE_SIZE = 0x1000 };

struct world {
    uint8_t stack[STACK_SIZE], code[CODE_SIZE];
    struct {
        uint64_t from, to;
        struct orc_rule rule;
    } rules[8];
    unsigned count;
};

static bool world_read(void *context, uint64_t address, void *buffer, size_t size)
{
    struct world *world = context;

    if (address >= STACK && address - STACK <= STACK_SIZE - size) {
        memcpy(buffer, world->stack + (address - STACK), size);
        return true;
    }
    if (address >= CODE && address - CODE <= CODE_SIZE - size) {
        memcpy(buffer, world->code + (address - CODE), size);
        return true;
    }
    return false;
}

static bool world_rule(void *context, uint64_t pc, struct orc_rule *rule)
{
    struct world *world = context;

    for (unsigned i = 0; i < world->count; i++) {
        if (pc >= world->rules[i].from && pc < world->rules[i].to) {
            *rule = world->rules[i].rule;
            return true;
        }
    }
    return false;
}

static bool world_is_code(void *context, uint64_t address)
{
    return address >= CODE && address < CODE + CODE_SIZE;
}

static void put(struct world *world, uint64_t address, uint64_t value)
{
    store_le64(world->stack + (address - STACK), value);
}

/* A return address behind a call of five bytes. */
static uint64_t call_at(struct world *world, uint64_t address)
{
    world->code[address - CODE] = 0xe8;
    return address + 5;
}

static unsigned unwind_world(struct world *world, const struct unwind_registers *regs,
                             struct unwind_frame *frames, unsigned max, bool *complete)
{
    const struct unwind_ops ops = { world_read, world_rule, world_is_code, world };

    return unwind(&ops, regs, frames, max, complete);
}

static void test_unwind_tables(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    const struct unwind_registers regs = {
        .rip = CODE + 0x10, .rsp = STACK + 0x100, .rbp = 0x1234, .word = 8
    };
    struct unwind_frame frames[8];
    bool complete;

    /* A leaf called by a function that an exception interrupted in a function of a thread. */
    world->rules[0].from = CODE;
    world->rules[0].to = CODE + 0x20;
    world->rules[0].rule =
        (struct orc_rule){ .sp = ORC_SP, .sp_offset = 8, .type = ORC_TYPE_CALL };
    world->rules[1].from = CODE + 0x40;
    world->rules[1].to = CODE + 0x46;
    world->rules[1].rule =
        (struct orc_rule){ .sp = ORC_SP, .sp_offset = 0, .type = ORC_TYPE_REGISTERS };
    world->rules[2].from = CODE + 0x80;
    world->rules[2].to = CODE + 0xa0;
    world->rules[2].rule = (struct orc_rule){ .sp = ORC_BP,
                                              .sp_offset = 16,
                                              .bp = ORC_PREVIOUS_SP,
                                              .bp_offset = -16,
                                              .type = ORC_TYPE_CALL };
    world->rules[3].from = CODE + 0xc0;
    world->rules[3].to = CODE + 0xe0;
    world->rules[3].rule = (struct orc_rule){ .type = ORC_TYPE_END };
    world->count = 4;
    put(world, STACK + 0x100, call_at(world, CODE + 0x41));
    put(world, STACK + 0x108 + 32, STACK + 0x300);  /* pt_regs: rbp */
    put(world, STACK + 0x108 + 128, CODE + 0x80);   /* rip, its function's first byte */
    put(world, STACK + 0x108 + 152, STACK + 0x2f0); /* rsp */
    put(world, STACK + 0x300, 0x5678);
    put(world, STACK + 0x308, call_at(world, CODE + 0xc0));
    assert_int_equal(unwind_world(world, &regs, frames, 8, &complete), 4);
    assert_true(complete);
    assert_int_equal(frames[0].pc, CODE + 0x10);
    assert_int_equal(frames[1].pc, CODE + 0x46);
    assert_int_equal(frames[1].how, UNWIND_TABLE);
    assert_int_equal(frames[2].pc, CODE + 0x80);
    assert_int_equal(frames[2].how, UNWIND_INTERRUPT);
    assert_int_equal(frames[2].sp, STACK + 0x2f0);
    assert_int_equal(frames[3].pc, CODE + 0xc5);
    free(world);
}

static void test_unwind_frame_pointers(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    const struct unwind_registers regs = {
        .rip = CODE + 0x10, .rsp = STACK + 0x100, .rbp = STACK + 0x120, .word = 8
    };
    struct unwind_frame frames[8];
    bool complete;

    put(world, STACK + 0x120, STACK + 0x180);
    put(world, STACK + 0x128, call_at(world, CODE + 0x40));
    put(world, STACK + 0x180, 0);
    put(world, STACK + 0x188, call_at(world, CODE + 0x80));
    put(world, STACK + 0x1a0, CODE + 0x60);                 /* not behind a call */
    put(world, STACK + 0x1a8, call_at(world, CODE + 0xa0)); /* a guess */
    assert_int_equal(unwind_world(world, &regs, frames, 8, &complete), 4);
    assert_false(complete);
    assert_int_equal(frames[1].pc, CODE + 0x45);
    assert_int_equal(frames[1].how, UNWIND_FRAME_POINTER);
    assert_int_equal(frames[2].pc, CODE + 0x85);
    assert_int_equal(frames[3].pc, CODE + 0xa5);
    assert_int_equal(frames[3].how, UNWIND_GUESS);
    free(world);
}

/* Stacks that a hostile guest may have: loops, wild pointers, nothing mapped. */
static void test_unwind_hostile(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct unwind_registers regs = {
        .rip = CODE + 0x10, .rsp = STACK + 0x100, .rbp = STACK + 0x100, .word = 8
    };
    struct unwind_frame frames[8];
    bool complete;

    put(world, STACK + 0x100, STACK + 0x100); /* its own caller's frame */
    put(world, STACK + 0x108, call_at(world, CODE + 0x40));
    assert_true(unwind_world(world, &regs, frames, 8, &complete) <= 8);
    /* A rule that stays where it is. */
    world->rules[0].from = 0;
    world->rules[0].to = UINT64_MAX;
    world->rules[0].rule = (struct orc_rule){ .sp = ORC_BP, .type = ORC_TYPE_REGISTERS };
    world->count = 1;
    put(world, STACK + 0x100 + 32, STACK + 0x100);
    put(world, STACK + 0x100 + 128, CODE + 0x10);
    put(world, STACK + 0x100 + 152, STACK + 0x100);
    assert_int_equal(unwind_world(world, &regs, frames, 8, &complete), 8);
    regs.rsp = UINT64_MAX - 3;
    regs.rbp = UINT64_MAX - 15;
    assert_int_equal(unwind_world(world, &regs, frames, 8, &complete), 1);
    world->count = 0;
    assert_int_equal(unwind_world(world, &regs, frames, 8, &complete), 1);
    assert_int_equal(unwind_world(world, &regs, frames, 1, &complete), 1);
    free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_table_empty),
        cmocka_unit_test(test_elf),
        cmocka_unit_test(test_elf32_and_dynamic),
        cmocka_unit_test(test_elf_hostile),
        cmocka_unit_test(test_file_errors),
        cmocka_unit_test(test_kallsyms),
        cmocka_unit_test(test_kallsyms_damaged),
        cmocka_unit_test(test_real_kernels),
        cmocka_unit_test(test_export),
        cmocka_unit_test(test_unwind_tables),
        cmocka_unit_test(test_unwind_frame_pointers),
        cmocka_unit_test(test_unwind_hostile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
