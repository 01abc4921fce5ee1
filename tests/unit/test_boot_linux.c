/* SPDX-License-Identifier: MIT */
/* bzImage loading: headers, every compression, zero page, initrd, hostile input. */
#include "unit/boot_fixture.h"
#include "unit/boot_images.h"

#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <sys/stat.h>

enum { KERNEL_BASE = 16 << 20, KERNEL_BODY = 40000, KERNEL_BSS = 3 << 20 };

static void make_vmlinux(struct bytes *out)
{
    const struct elf_piece pieces[] = {
        { KERNEL_BASE, 0xffffffff81000000, KERNEL_BODY, KERNEL_BODY },
        { KERNEL_BASE + 0x10000, 0, 100, KERNEL_BSS },
    };
    const struct elf_spec spec = { .entry = KERNEL_BASE,
                                   .pieces = pieces,
                                   .count = ARRAY_SIZE(pieces) };

    elf_make(out, &spec);
    bytes_add(out, "relocations", 11); /* as CONFIG_RELOCATABLE appends */
}

static void make_kernel(struct bytes *out, const struct bzimage_spec *spec,
                        enum packing packing)
{
    struct bytes vmlinux = { 0 }, payload = { 0 };

    make_vmlinux(&vmlinux);
    pack(&payload, packing, vmlinux.data, vmlinux.size);
    bzimage_make(out, spec, payload.data, payload.size);
    bytes_free(&vmlinux);
    bytes_free(&payload);
}

/* An error of @code whose message names the image and says @text. */
static void assert_refused(const struct boot_fixture *f, int result,
                           enum umbra_error_class code, const char *text)
{
    if (result >= 0 || f->error.code != code || strstr(f->error.message, text) == NULL) {
        fail_msg("result %d, class %d, message '%s', expected '%s'", result,
                 f->error.code, f->error.message, text);
    }
}

/* The page tables at cr3 map @addr onto itself. */
static void assert_identity(const struct boot_fixture *f, gpa addr)
{
    uint64_t entry = boot_fixture_read(f, f->entry.cr3 + 8 * (addr >> 39 & 511), 8);

    assert_int_equal(entry & 1, 1);
    entry = boot_fixture_read(f, (entry & ~0xfffull) + 8 * (addr >> 30 & 511), 8);
    assert_int_equal(entry & 0x81, 1);
    entry = boot_fixture_read(f, (entry & ~0xfffull) + 8 * (addr >> 21 & 511), 8);
    assert_int_equal(entry & 0x83, 0x83);
    assert_int_equal(entry & ~0x1fffffull, align_down(addr, 2 * MIB));
}

static void assert_entry_tables(const struct boot_fixture *f, uint64_t code)
{
    assert_int_equal(boot_fixture_read(f, f->entry.gdt + f->entry.cs, 8), code);
    assert_int_equal(boot_fixture_read(f, f->entry.gdt + f->entry.ds, 8),
                     0x00cf93000000ffff);
    assert_int_equal(f->entry.gdt_limit, f->entry.ds + 7);
    assert_non_null(guest_mem_ptr(f->mem, f->entry.rsp - 4096, 4096));
}

static void check_unpacked(const struct boot_fixture *f)
{
    uint8_t expected[KERNEL_BODY], *got = malloc(KERNEL_BODY);

    assert_non_null(got);
    pattern_fill(expected, sizeof(expected));
    assert_int_equal(guest_mem_read(f->mem, KERNEL_BASE, got, KERNEL_BODY), 0);
    assert_memory_equal(got, expected, KERNEL_BODY);
    free(got);
    /* .bss is zero to its last byte and the byte after it is not touched. */
    for (unsigned at = 100; at < KERNEL_BSS; at += 4093) {
        assert_int_equal(boot_fixture_read(f, KERNEL_BASE + 0x10000 + at, 1), 0);
    }
    assert_int_equal(boot_fixture_read(f, KERNEL_BASE + 0x10000 + KERNEL_BSS - 1, 2),
                     0xaa00);
}

static void test_compressions(void **state)
{
    (void)state;
    for (unsigned i = 0; i < PACK_COUNT; i++) {
        struct boot_fixture f;
        struct bytes image = { 0 };
        char expected[80];

        boot_fixture_setup(&f, 1, 64 * MIB);
        assert_int_equal(guest_mem_fill(f.mem, KERNEL_BASE, 0xaa, 8 * MIB), 0);
        f.request.append = "console=ttyS0 panic=-1";
        make_kernel(&image, &bzimage_default, i);
        if (boot_fixture_load(&f, image.data, image.size) != 0) {
            fail_msg("%s: %s", packing_names[i], f.error.message);
        }
        snprintf(expected, sizeof(expected),
                 "bzImage 6.1.0-test (%s, unpacked on the host)", packing_names[i]);
        assert_string_equal(f.entry.description, expected);
        assert_int_equal(f.entry.kind, BOOT_IMAGE_BZIMAGE);
        assert_int_equal(f.entry.mode, BOOT_MODE_LONG);
        assert_int_equal(f.entry.rip, KERNEL_BASE);
        check_unpacked(&f);
        assert_entry_tables(&f, 0x00af9b000000ffff);
        assert_identity(&f, KERNEL_BASE);
        assert_identity(&f, BOARD_HIGH_RAM_BASE - 1);
        bytes_free(&image);
        boot_fixture_teardown(&f);
    }
}

static void test_zero_page(void **state)
{
    struct boot_fixture f;
    struct bytes image = { 0 };
    uint64_t usable = 0;
    gpa page;

    (void)state;
    boot_fixture_setup(&f, 1, 6 * GIB);
    f.request.append = "root=/dev/vda quiet";
    make_kernel(&image, &bzimage_default, PACK_GZIP);
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    page = f.entry.rsi;
    assert_int_equal(boot_fixture_read(&f, page + 0x1fe, 2), 0xaa55);
    assert_int_equal(boot_fixture_read(&f, page + 0x202, 4), 0x53726448);
    assert_int_equal(boot_fixture_read(&f, page + 0x206, 2), 0x20f);
    assert_int_equal(boot_fixture_read(&f, page + 0x210, 1), 0xff);
    assert_int_equal(boot_fixture_read(&f, page + 0x1ef, 1), 0);
    assert_int_equal(boot_fixture_read(&f, page + 0x070, 8), BOARD_ROM_BASE);
    assert_int_equal(boot_fixture_read(&f, BOARD_ROM_BASE, 8), 0x2052545020445352);
    boot_fixture_assert_text(&f, boot_fixture_read(&f, page + 0x228, 4),
                             f.request.append);
    for (unsigned i = 0; i < boot_fixture_read(&f, page + 0x1e8, 1); i++) {
        gpa at = page + 0x2d0 + 20 * i;

        if (boot_fixture_read(&f, at + 16, 4) == 1) {
            usable += boot_fixture_read(&f, at + 8, 8);
        }
    }
    assert_int_equal(usable, 6 * GIB - (MIB - BOARD_EBDA_BASE));
    f.request.no_acpi = true;
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    assert_int_equal(boot_fixture_read(&f, f.entry.rsi + 0x070, 8), 0);
    bytes_free(&image);
    boot_fixture_teardown(&f);
}

static void test_guest_unpacks(void **state)
{
    struct bzimage_spec spec = bzimage_default;
    struct boot_fixture f;
    struct bytes image = { 0 };
    uint8_t *copy;

    (void)state;
    boot_fixture_setup(&f, 1, 64 * MIB);
    make_kernel(&image, &spec, PACK_XZ);
    f.request.decompress_in_guest = true;
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    assert_int_equal(f.entry.mode, BOOT_MODE_LONG);
    assert_int_equal(f.entry.rip, spec.pref_address + 0x200);
    copy = malloc(image.size);
    assert_non_null(copy);
    assert_int_equal(
        guest_mem_read(f.mem, spec.pref_address, copy, image.size - BZIMAGE_SETUP), 0);
    assert_memory_equal(copy, image.data + BZIMAGE_SETUP, image.size - BZIMAGE_SETUP);
    free(copy);
    bytes_free(&image);
    /* Without the 64-bit entry: the 32-bit one, with paging off. */
    spec.xloadflags = 0;
    make_kernel(&image, &spec, PACK_XZ);
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    assert_int_equal(f.entry.mode, BOOT_MODE_PROTECTED);
    assert_int_equal(f.entry.rip, spec.pref_address);
    assert_entry_tables(&f, 0x00cf9b000000ffff);
    bytes_free(&image);
    /* A protocol too old to say where the payload is: the stub at 1 MiB, unasked. */
    f.request.decompress_in_guest = false;
    spec.version = 0x207;
    make_kernel(&image, &spec, PACK_XZ);
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    assert_int_equal(f.entry.rip, MIB);
    bytes_free(&image);
    /* A compression nobody knows: likewise. */
    spec = bzimage_default;
    bzimage_make(&image, &spec, "BRAND-NEW-PACKER", 16);
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    assert_string_equal(f.entry.description,
                        "bzImage 6.1.0-test (unpacked by the guest)");
    bytes_free(&image);
    boot_fixture_teardown(&f);
}

static void test_command_line_limit(void **state)
{
    struct bzimage_spec spec = bzimage_default;
    struct boot_fixture f;
    struct bytes image = { 0 };
    char text[130];

    (void)state;
    boot_fixture_setup(&f, 1, 64 * MIB);
    spec.cmdline_size = 128;
    make_kernel(&image, &spec, PACK_LZ4);
    memset(text, 'x', sizeof(text));
    text[128] = '\0';
    f.request.append = text;
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    boot_fixture_assert_text(&f, boot_fixture_read(&f, f.entry.rsi + 0x228, 4), text);
    text[128] = 'x';
    text[129] = '\0';
    assert_refused(&f, boot_fixture_load(&f, image.data, image.size), UMBRA_ERROR_CONFIG,
                   "at most 128");
    bytes_free(&image);
    boot_fixture_teardown(&f);
}

/* A file of @size bytes, the last one 0x5a, under a new name in @path. */
static void make_file(char *path, uint64_t size)
{
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    if (size > 0) {
        assert_int_equal(pwrite(fd, "\x5a", 1, (off_t)size - 1), 1);
    }
    close(fd);
}

static void test_initrd(void **state)
{
    struct bzimage_spec spec = bzimage_default;
    char path[] = "/tmp/umbra-initrd-XXXXXX";
    struct boot_fixture f;
    struct bytes image = { 0 };
    gpa base;

    (void)state;
    make_file(path, 5 * MIB + 3);
    boot_fixture_setup(&f, 1, 6 * GIB);
    f.request.initrd_path = path;
    spec.initrd_addr_max = 0x37ffffff;
    make_kernel(&image, &spec, PACK_ZSTD);
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    base = boot_fixture_read(&f, f.entry.rsi + 0x218, 4);
    assert_int_equal(base, 0x38000000 - 6 * MIB + (MIB - 4096));
    assert_int_equal(boot_fixture_read(&f, f.entry.rsi + 0x21c, 4), 5 * MIB + 3);
    assert_int_equal(boot_fixture_read(&f, base + 5 * MIB + 2, 1), 0x5a);
    bytes_free(&image);
    /* No room below the limit: above 4 GiB, where the kernel says it can. */
    spec.initrd_addr_max = 18 * MIB;
    make_kernel(&image, &spec, PACK_ZSTD);
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    base = boot_fixture_read(&f, f.entry.rsi + 0x218, 4) |
           boot_fixture_read(&f, f.entry.rsi + 0x0c0, 4) << 32;
    assert_true(base >= BOARD_HIGH_RAM_BASE || base < MIB + 15 * MIB);
    assert_int_equal(boot_fixture_read(&f, base + 5 * MIB + 2, 1), 0x5a);
    bytes_free(&image);
    boot_fixture_teardown(&f);
    unlink(path);
}

static void test_initrd_refused(void **state)
{
    struct bzimage_spec spec = bzimage_default;
    char path[] = "/tmp/umbra-initrd-XXXXXX", empty[] = "/tmp/umbra-empty-XXXXXX";
    struct boot_fixture f;
    struct bytes image = { 0 };

    (void)state;
    spec.xloadflags = 1;
    make_kernel(&image, &spec, PACK_GZIP);
    boot_fixture_setup(&f, 1, 64 * MIB);
    make_file(path, 60 * MIB);
    f.request.initrd_path = path;
    assert_refused(&f, boot_fixture_load(&f, image.data, image.size), UMBRA_ERROR_CONFIG,
                   "give the guest more memory");
    assert_non_null(strstr(f.error.message, path));
    unlink(path);
    assert_refused(&f, boot_fixture_load(&f, image.data, image.size), UMBRA_ERROR_MISSING,
                   path);
    f.request.initrd_path = "/tmp";
    assert_refused(&f, boot_fixture_load(&f, image.data, image.size), UMBRA_ERROR_CONFIG,
                   "'/tmp' is a directory");
    make_file(empty, 0);
    f.request.initrd_path = empty;
    assert_refused(&f, boot_fixture_load(&f, image.data, image.size), UMBRA_ERROR_CONFIG,
                   "is empty");
    unlink(empty);
    /* A FIFO that nobody writes must not block. */
    assert_int_equal(mkfifo(empty, 0600), 0);
    assert_refused(&f, boot_fixture_load(&f, image.data, image.size), UMBRA_ERROR_CONFIG,
                   "not a regular file");
    unlink(empty);
    bytes_free(&image);
    boot_fixture_teardown(&f);
}

static void test_kernel_files(void **state)
{
    struct boot_fixture f;

    (void)state;
    boot_fixture_setup(&f, 1, 64 * MIB);
    f.request.kernel_path = "/nonexistent/vmlinuz";
    assert_refused(&f, boot_fixture_load(&f, NULL, 0), UMBRA_ERROR_MISSING,
                   "the kernel '/nonexistent/vmlinuz'");
    f.request.kernel_path = "/dev/null";
    assert_refused(&f, boot_fixture_load(&f, NULL, 0), UMBRA_ERROR_CONFIG,
                   "not a regular file");
    f.request.kernel_path = NULL;
    assert_refused(&f, boot_fixture_load(&f, NULL, 0), UMBRA_ERROR_USAGE, "--kernel");
    assert_refused(&f, boot_fixture_load(&f, "\x1f\x8b\x08", 3), UMBRA_ERROR_CONFIG,
                   "an initrd?");
    assert_refused(&f, boot_fixture_load(&f, "garbage", 7), UMBRA_ERROR_CONFIG,
                   "--kernel-format flat");
    boot_fixture_teardown(&f);
}

/* Every prefix of an image ends in a good load or a message, never in a crash. */
static void test_truncated(void **state)
{
    struct boot_fixture f;
    struct bytes image = { 0 };

    (void)state;
    boot_fixture_setup(&f, 1, 64 * MIB);
    make_kernel(&image, &bzimage_default, PACK_GZIP);
    for (size_t size = 1; size < image.size; size += size < 4096 ? 13 : 1021) {
        uint8_t *exact = malloc(size); /* so that ASan sees the end */

        assert_non_null(exact);
        memcpy(exact, image.data, size);
        assert_refused(&f, boot_fixture_load(&f, exact, size), UMBRA_ERROR_CONFIG,
                       "kernel '(embedded)': it");
        free(exact);
    }
    bytes_free(&image);
    boot_fixture_teardown(&f);
}

static void test_truncated_payloads(void **state)
{
    struct bytes vmlinux = { 0 };

    (void)state;
    make_vmlinux(&vmlinux);
    for (unsigned i = 0; i < PACK_COUNT; i++) {
        struct bytes payload = { 0 };

        pack(&payload, i, vmlinux.data, vmlinux.size);
        for (size_t cut = 16; cut < payload.size; cut += payload.size / 7) {
            struct umbra_error error = { 0 };
            const char *name = NULL;
            void *output = NULL;
            size_t size = 0;

            assert_int_not_equal(boot_decompress(payload.data, payload.size - cut,
                                                 64 * MIB, &output, &size, &name, &error),
                                 0);
            assert_int_equal(error.code, UMBRA_ERROR_CONFIG);
            assert_null(output);
        }
        bytes_free(&payload);
    }
    bytes_free(&vmlinux);
}

/* Eight megabytes from a few bytes, where four are allowed; and where eight are. */
static void test_bombs(void **state)
{
    enum { SIZE = 8 << 20 };
    uint8_t *zeroes = calloc(1, SIZE);

    (void)state;
    assert_non_null(zeroes);
    for (unsigned i = 0; i < PACK_COUNT; i++) {
        struct bytes payload = { 0 };
        struct umbra_error error = { 0 };
        const char *name = NULL;
        void *output = NULL;
        size_t size = 0;

        pack(&payload, i, zeroes, SIZE);
        assert_int_equal(boot_decompress(payload.data, payload.size, SIZE / 2, &output,
                                         &size, &name, &error),
                         -EFBIG);
        assert_non_null(strstr(error.message, packing_names[i]));
        assert_non_null(strstr(error.message, "more memory"));
        assert_int_equal(boot_decompress(payload.data, payload.size, SIZE + 4096, &output,
                                         &size, &name, &error),
                         0);
        assert_string_equal(name, packing_names[i]);
        assert_int_equal(size, SIZE);
        assert_memory_equal(output, zeroes, SIZE);
        free(output);
        bytes_free(&payload);
    }
    free(zeroes);
}

/* Headers that lie. */
static void test_hostile_headers(void **state)
{
    static const struct {
        unsigned offset, size;
        uint64_t value;
        bool in_guest;
        const char *text;
    } lies[] = {
        { 0x1f1, 1, 255, false, "cut off" },
        { 0x248, 4, 0xfffffff0, false, "compressed kernel" },
        { 0x24c, 4, 0xffffffff, false, "compressed kernel" },
        { 0x211, 1, 0, false, "zImage" },
        { 0x206, 2, 0x0105, false, "older than" },
        { 0x238, 4, 0, false, "at most 0" },
        { 0x260, 4, 0xffffffff, true, "usable memory there ends" },
        { 0x258, 8, 0xfffffffffffff000, true, "impossible extent" },
        { 0x258, 8, 0x90000, true, "usable memory there ends" },
        { 0x258, 8, BOARD_ECAM_BASE, true, "no usable memory" },
    };
    struct boot_fixture f;

    (void)state;
    boot_fixture_setup(&f, 1, 64 * MIB);
    f.request.append = "x";
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        struct bytes image = { 0 };
        uint64_t value = htole64(lies[i].value);

        make_kernel(&image, &bzimage_default, PACK_GZIP);
        memcpy(image.data + lies[i].offset, &value, lies[i].size);
        f.request.decompress_in_guest = lies[i].in_guest;
        assert_refused(&f, boot_fixture_load(&f, image.data, image.size),
                       UMBRA_ERROR_CONFIG, lies[i].text);
        bytes_free(&image);
    }
    boot_fixture_teardown(&f);
}

static void test_fdt(void **state)
{
    struct boot_fixture f;
    struct bytes image = { 0 };
    uint8_t *blob;
    uint32_t size;
    gpa node;

    (void)state;
    boot_fixture_setup(&f, 3, 64 * MIB);
    f.request.fdt = true;
    f.request.append = "earlycon";
    make_kernel(&image, &bzimage_default, PACK_GZIP);
    assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
    node = boot_fixture_read(&f, f.entry.rsi + 0x250, 8);
    assert_int_equal(boot_fixture_read(&f, node, 8), 0);
    assert_int_equal(boot_fixture_read(&f, node + 8, 4), 2);
    size = (uint32_t)boot_fixture_read(&f, node + 12, 4);
    blob = malloc(size);
    assert_non_null(blob);
    assert_int_equal(guest_mem_read(f.mem, node + 16, blob, size), 0);
    assert_int_equal(fdt_check_full(blob, size), 0);
    assert_string_equal(
        fdt_getprop(blob, fdt_path_offset(blob, "/chosen"), "bootargs", NULL),
        "earlycon");
    free(blob);
    bytes_free(&image);
    boot_fixture_teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compressions),
        cmocka_unit_test(test_zero_page),
        cmocka_unit_test(test_guest_unpacks),
        cmocka_unit_test(test_command_line_limit),
        cmocka_unit_test(test_initrd),
        cmocka_unit_test(test_initrd_refused),
        cmocka_unit_test(test_kernel_files),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_truncated_payloads),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_fdt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
