/* SPDX-License-Identifier: MIT */
/* Modules of a Linux guest: where its BTF says they are, through its page tables; and guests
 * that say anything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "unit/module_image.h"
#include "vmm/symbols/btf.h"

static void assert_at(struct modules *modules, uint64_t address, const char *name,
                      char type)
{
    struct symbol_file *file = modules_at(modules, address);
    const struct symbol *symbol =
        file != NULL ? symbol_table_at(&file->table, address) : NULL;

    if (name == NULL) {
        assert_null(symbol);
        return;
    }
    assert_non_null(symbol);
    assert_string_equal(symbol_name(&file->table, symbol), name);
    assert_int_equal(symbol_type(&file->table, symbol), type);
}

static struct modules *open_image(struct module_image *image)
{
    struct modules *modules;

    assert_int_equal(modules_open(image->mem, image->kernel, IMAGE_KERNEL, &modules), 0);
    return modules;
}

/* Both layouts of struct module, both depths of page tables; modules come and go. */
static void test_modules(void **state)
{
    for (unsigned kind = 0; kind < 4; kind++) {
        struct bytes btf = btf_image(kind & 1);
        struct module_image image;
        struct modules *modules;
        struct symbol_file *file;

        module_image_open(&image, &btf, kind & 2 ? 5 : 4);
        modules = open_image(&image);
        assert_null(modules_at(modules, image_module_at(0) + IMAGE_CODE));
        image_module(&image, 0, "net");
        image_module(&image, 1, "disk");
        image_chain(&image, 2);
        file = modules_at(modules, image_module_at(1) + IMAGE_CODE + 0x105);
        assert_non_null(file);
        assert_int_equal(modules_count(modules), 2);
        assert_string_equal(file->module, "disk");
        assert_at(modules, image_module_at(1) + IMAGE_CODE + 0x105, "disk_open", 't');
        assert_at(modules, image_module_at(1) + IMAGE_CODE + 0x10f, "disk_open", 't');
        assert_at(modules, image_module_at(1) + IMAGE_CODE + 0x110, NULL, 0);
        assert_at(modules, image_module_at(1) + IMAGE_CODE + 0x220, "disk_close", 'T');
        assert_at(modules, image_module_at(0) + IMAGE_CODE + 0x220, "net_close", 'T');
        assert_at(modules, image_module_at(0) + IMAGE_CODE + IMAGE_CODE_SIZE, NULL, 0);
        assert_at(modules, 0x105, NULL, 0);
        /* What was read stays while the module does. */
        assert_ptr_equal(modules_at(modules, image_module_at(1) + IMAGE_CODE), file);
        image_module(&image, 1, "tape");
        assert_at(modules, image_module_at(1) + IMAGE_CODE + 0x100, "tape_open", 't');
        image_chain(&image, 1);
        assert_at(modules, image_module_at(1) + IMAGE_CODE + 0x100, NULL, 0);
        modules_refresh(modules);
        assert_int_equal(modules_count(modules), 1);
        assert_string_equal(modules_file(modules, 0)->module, "net");
        modules_free(modules);
        module_image_close(&image);
        free(btf.data);
    }
}

/* A module's unwind tables lie where its structure says. */
static void test_orc(void **state)
{
    struct bytes btf = btf_image(true);
    uint64_t at = image_module_at(0), code = at + IMAGE_CODE, places = at + 0x3100;
    const uint8_t rules[2][ORC_RULE_SIZE] = { { 8, 0, 0, 0, 5, 2 },
                                              { 16, 0, 0, 0, 5, 2 } };
    struct module_image image;
    struct modules *modules;
    struct symbol_file *file;
    struct orc_rule rule;

    module_image_open(&image, &btf, 4);
    image.kernel->orc.has_header = true;
    modules = open_image(&image);
    image_module(&image, 0, "net");
    image_word(&image, at + AT_ARCH, 2);
    image_word(&image, at + AT_ARCH + 8, places);
    image_word(&image, at + AT_ARCH + 16, at + 0x3200);
    for (unsigned i = 0; i < 2; i++) {
        const uint32_t away = (uint32_t)(code + i * 0x100 - (places + 4 * i));

        image_store(&image, places + 4 * i, &away, sizeof(away));
    }
    image_store(&image, at + 0x3200, rules, sizeof(rules));
    image_chain(&image, 1);
    file = modules_at(modules, code);
    assert_non_null(file);
    assert_int_equal(file->orc.count, 2);
    assert_true(orc_table_find(&file->orc, code + 0x150, &rule));
    assert_int_equal(rule.sp_offset, 16);
    modules_free(modules);
    module_image_close(&image);
    free(btf.data);
}

static void test_hostile(void **state)
{
    struct bytes btf = btf_image(false);
    uint64_t at = image_module_at(0), code = at + IMAGE_CODE;
    struct module_image image;
    struct modules *modules;

    module_image_open(&image, &btf, 4);
    modules = open_image(&image);
    image_module(&image, 0, "a\x1b[31m");
    image_module(&image, 1, "b");
    image_chain(&image, 2);
    assert_string_equal(modules_at(modules, code)->module, "a?[31m");
    /* A list without an end. */
    image_word(&image, image_module_at(1) + AT_LIST, at + AT_LIST);
    modules_refresh(modules);
    assert_int_equal(modules_count(modules), 512);
    assert_at(modules, code + 0x100, "a?[31m_open", 't');
    /* One that leads nowhere, or to where no module is. */
    image_word(&image, at + AT_LIST, IMAGE_MODULE + (UINT64_C(1) << 30));
    modules_refresh(modules);
    assert_int_equal(modules_count(modules), 1);
    image_put(&image, IMAGE_HEAD, 0x1000, 8);
    modules_refresh(modules);
    assert_int_equal(modules_count(modules), 0);
    image_chain(&image, 1);
    /* Far too many symbols; names outside; tables outside. */
    image_word(&image, at + 0x400 + KALLSYMS_COUNT, UINT32_MAX);
    assert_at(modules, code + 0x100, NULL, 0);
    image_word(&image, at + 0x400 + KALLSYMS_COUNT, 1 << 17);
    assert_at(modules, code + 0x100, NULL, 0);
    image_module(&image, 0, "net");
    image_word(&image, at + 0x1000 - 40 + sizeof(Elf64_Sym), UINT32_MAX);
    assert_at(modules, code + 0x100, NULL, 0);
    image_module(&image, 0, "net2");
    image_word(&image, at + 0x400 + KALLSYMS_STRTAB, 0x1234);
    assert_at(modules, code + 0x100, NULL, 0);
    /* Not formed yet. */
    image_module(&image, 0, "net3");
    image_word(&image, at + AT_STATE, 3);
    modules_refresh(modules);
    assert_int_equal(modules_count(modules), 0);
    image_word(&image, at + AT_STATE, 0);
    assert_at(modules, code + 0x100, "net3_open", 't');
    /* Unwind tables that are none. */
    image_module(&image, 0, "net4");
    image_word(&image, at + AT_ARCH, 1 << 19);
    image_word(&image, at + AT_ARCH + 8, at);
    assert_int_equal(modules_at(modules, code)->orc.count, 0);
    modules_free(modules);
    module_image_close(&image);
    free(btf.data);
}

/* Type information cut short anywhere, and with any byte changed: an error, or an answer. */
static void test_btf(void **state)
{
    struct bytes image = btf_image(true);
    struct btf_place place;
    uint32_t type, element, count;
    struct btf btf;

    assert_int_equal(btf_open(&btf, image.data, image.size), 0);
    assert_true(btf_struct(&btf, "module", &type));
    assert_int_equal(btf_size(&btf, type), AT_END);
    assert_true(btf_member(&btf, type, "kallsyms", &place));
    assert_int_equal(place.offset, AT_KALLSYMS);
    assert_false(btf_elements(&btf, place.type, &element, &count));
    assert_true(btf_target(&btf, place.type, &element));
    assert_true(btf_member(&btf, element, "strtab", &place));
    assert_int_equal(place.offset, KALLSYMS_STRTAB);
    assert_true(btf_member(&btf, type, "mem", &place));
    assert_true(btf_elements(&btf, place.type, &element, &count));
    assert_int_equal(count, 3);
    assert_int_equal(btf_size(&btf, element), RANGE_STEP);
    assert_false(btf_member(&btf, type, "core_layout", &place));
    assert_false(btf_struct(&btf, "nodule", &type));
    btf_close(&btf);
    for (size_t cut = 0; cut < image.size; cut++) {
        uint8_t *bytes = malloc(cut > 0 ? cut : 1);

        memcpy(bytes, image.data, cut);
        assert_int_equal(btf_open(&btf, bytes, cut), -EPROTO);
        free(bytes);
    }
    for (size_t at = 0; at < image.size; at++) {
        struct module_image guest;
        struct modules *modules;

        image.data[at] ^= (uint8_t)(1 + at % 255);
        module_image_open(&guest, &image, 4);
        image_module(&guest, 0, "net");
        image_chain(&guest, 1);
        if (modules_open(guest.mem, guest.kernel, IMAGE_KERNEL, &modules) == 0) {
            modules_at(modules, image_module_at(0) + IMAGE_CODE);
            modules_free(modules);
        }
        module_image_close(&guest);
        image.data[at] ^= (uint8_t)(1 + at % 255);
    }
    free(image.data);
}

/* Structures inside each other without end are not followed without end. */
static void test_btf_nested(void **state)
{
    enum { TYPES = 20, MEMBERS = 60 };
    struct btf_image b = { 0 };
    struct bytes out;
    struct btf_place place;
    struct btf btf;

    bytes_add8(&b.strings, 0);
    for (unsigned i = 0; i < TYPES; i++) {
        btf_type(&b, i == 0 ? "module" : "", 4, MEMBERS, 8);
        for (unsigned m = 0; m < MEMBERS; m++) {
            btf_field(&b, "", 1 + (i + m) % TYPES, 0);
        }
    }
    out = btf_finish(&b);
    assert_int_equal(btf_open(&btf, out.data, out.size), 0);
    assert_false(btf_member(&btf, 1, "list", &place));
    btf_close(&btf);
    free(out.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modules),    cmocka_unit_test(test_orc),
        cmocka_unit_test(test_hostile),    cmocka_unit_test(test_btf),
        cmocka_unit_test(test_btf_nested),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
