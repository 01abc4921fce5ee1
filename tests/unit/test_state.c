/* SPDX-License-Identifier: MIT */
/* base/state: round trips, refusals, and damage of every byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/state.h"
#include "base/util.h"

static struct state_writer *write_sample(const void **bytes, size_t *size)
{
    struct state_writer *writer;

    assert_int_equal(state_writer_create(&writer), 0);
    state_begin(writer, "com1", 2);
    state_put_u64(writer, "a", 42);
    state_put_bytes(writer, "b", "hello", 5);
    state_put_bytes(writer, "empty", NULL, 0);
    state_end(writer);
    state_begin(writer, "rtc", 1);
    state_end(writer);
    assert_int_equal(state_writer_finish(writer, bytes, size), 0);
    return writer;
}

static void test_round_trip(void **state)
{
    struct state_writer *writer;
    struct state_reader *reader;
    const void *bytes, *blob;
    char buffer[5];
    uint32_t version;
    size_t size, length;

    writer = write_sample(&bytes, &size);
    assert_int_equal(state_reader_create(bytes, size, &reader, NULL), 0);
    assert_true(state_has(reader, "rtc"));
    assert_false(state_has(reader, "disk"));
    assert_int_equal(state_open(reader, "com1", 2, &version), 0);
    assert_int_equal(version, 2);
    assert_int_equal(state_get_u64(reader, "a", 100), 42);
    state_get_bytes(reader, "b", buffer, 5);
    assert_memory_equal(buffer, "hello", 5);
    blob = state_get_blob(reader, "empty", 10, &length);
    assert_non_null(blob);
    assert_int_equal(length, 0);
    assert_true(state_field(reader, "a"));
    assert_false(state_field(reader, "z"));
    assert_int_equal(state_reader_error(reader, NULL), 0);
    state_reader_destroy(reader);
    state_writer_destroy(writer);
}

static void expect_error(const char *part, int expected,
                         void (*use)(struct state_reader *reader))
{
    struct umbra_error error = { 0 };
    struct state_writer *writer;
    struct state_reader *reader;
    const void *bytes;
    size_t size;

    writer = write_sample(&bytes, &size);
    assert_int_equal(state_reader_create(bytes, size, &reader, NULL), 0);
    use(reader);
    assert_int_equal(state_reader_error(reader, &error), expected);
    assert_non_null(strstr(error.message, part));
    state_reader_destroy(reader);
    state_writer_destroy(writer);
}

static void use_missing_section(struct state_reader *reader)
{
    assert_int_equal(state_open(reader, "disk", 1, NULL), -ENOENT);
    assert_int_equal(state_get_u64(reader, "a", 1), 0);
}

static void use_newer(struct state_reader *reader)
{
    assert_int_equal(state_open(reader, "com1", 1, NULL), -ENOTSUP);
}

static void use_range(struct state_reader *reader)
{
    state_open(reader, "com1", 2, NULL);
    assert_int_equal(state_get_u64(reader, "a", 41), 0);
}

static void use_wrong_type(struct state_reader *reader)
{
    state_open(reader, "com1", 2, NULL);
    assert_int_equal(state_get_u64(reader, "b", UINT64_MAX), 0);
}

static void use_wrong_size(struct state_reader *reader)
{
    char buffer[4] = { 1, 1, 1, 1 };

    state_open(reader, "com1", 2, NULL);
    state_get_bytes(reader, "b", buffer, sizeof(buffer));
    assert_int_equal(buffer[0], 0);
}

static void use_rejected(struct state_reader *reader)
{
    state_open(reader, "com1", 2, NULL);
    state_reject(reader, "it is nonsense");
    state_reject(reader, "the first one counts");
}

static void test_errors(void **state)
{
    expect_error("disk", -ENOENT, use_missing_section);
    expect_error("newer", -ENOTSUP, use_newer);
    expect_error("field a: out of range", -ERANGE, use_range);
    expect_error("field b: not a number", -EINVAL, use_wrong_type);
    expect_error("field b: of the wrong size", -EINVAL, use_wrong_size);
    expect_error("it is nonsense", -EINVAL, use_rejected);
}

static void test_writer_misuse(void **state)
{
    struct state_writer *writer;
    const void *bytes;
    size_t size;

    assert_int_equal(state_writer_create(&writer), 0);
    state_put_u64(writer, "a", 1); /* outside of a section */
    assert_int_equal(state_writer_finish(writer, &bytes, &size), -EINVAL);
    state_writer_destroy(writer);
    assert_int_equal(state_writer_create(&writer), 0);
    state_begin(writer, "a", 1);
    assert_int_equal(state_writer_finish(writer, &bytes, &size), -EINVAL);
    state_writer_destroy(writer);
    state_writer_destroy(NULL);
    state_reader_destroy(NULL);
}

/* The outer CRC is made right again, so that the inner checks have to hold. */
static void reseal(uint8_t *bytes, size_t size)
{
    store_le32(bytes + size - 4, (uint32_t)crc32_z(crc32_z(0, NULL, 0), bytes, size - 4));
}

static void test_damage(void **state)
{
    struct state_writer *writer;
    struct state_reader *reader;
    const void *bytes;
    uint8_t *copy;
    size_t size;

    writer = write_sample(&bytes, &size);
    for (size_t i = 0; i < size; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            copy = malloc(size);
            memcpy(copy, bytes, size);
            copy[i] ^= (uint8_t)(1u << bit);
            assert_true(state_reader_create(copy, size, &reader, NULL) < 0);
            if (i < size - 4) {
                reseal(copy, size);
                assert_true(state_reader_create(copy, size, &reader, NULL) < 0);
            }
            free(copy);
        }
        copy = malloc(i + 1); /* cut short, and with an honest outer CRC */
        memcpy(copy, bytes, i + 1);
        assert_true(i + 1 == size || state_reader_create(copy, i + 1, &reader, NULL) < 0);
        if (i + 1 >= 20 && i + 1 < size) {
            reseal(copy, i + 1);
            assert_true(state_reader_create(copy, i + 1, &reader, NULL) < 0);
        }
        free(copy);
    }
    state_writer_destroy(writer);
}

static void test_duplicate(void **state)
{
    struct state_writer *writer;
    struct state_reader *reader;
    const void *bytes;
    size_t size;

    assert_int_equal(state_writer_create(&writer), 0);
    for (int i = 0; i < 2; i++) {
        state_begin(writer, "same", 1);
        state_end(writer);
    }
    assert_int_equal(state_writer_finish(writer, &bytes, &size), 0);
    assert_true(state_reader_create(bytes, size, &reader, NULL) < 0);
    state_writer_destroy(writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_errors),
        cmocka_unit_test(test_writer_misuse), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_duplicate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
