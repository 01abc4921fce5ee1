/* SPDX-License-Identifier: MIT */
/* backend/disk/file: raw images, read and written every way, and what goes wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit/dirty_pages.h"
#include "unit/disk_bench.h"

static void test_file(void **state)
{
    struct bench b;

    bench_dir(&b);
    open_file(&b, false, false);
    assert_int_equal(b.disk->size, SIZE);
    bench_start(&b);
    traffic(&b, 3000, DISK_SECTOR);
    check_all(&b);
    bench_stop(&b);
    open_file(&b, true, false); /* and it is in the file */
    bench_start(&b);
    check_all(&b);
    bench_stop(&b);
    bench_remove(&b);
}

static void test_file_direct(void **state)
{
    struct disk_file_options options = { .direct = true };
    static const struct log none;
    struct umbra_error error;
    struct bench b;
    uint8_t *bytes;

    bench_dir(&b);
    options.path = b.image;
    if (disk_file_open(&options, &none, &b.disk, &error) != 0) {
        bench_remove(&b);
        skip(); /* no O_DIRECT here (tmpfs) */
    }
    bench_start(&b);
    traffic(&b, 1500, b.disk->block_size);
    check_all(&b);
    /* Buffers that O_DIRECT does not take. */
    bytes = aligned_alloc(4096, 3 * 4096);
    assert_int_equal(once(&b, DISK_READ, 4096, 4096, bytes + 3), 0);
    assert_memory_equal(bytes + 3, b.model + 4096, 4096);
    memset(bytes, 0x5a, 3 * 4096);
    memset(b.model + 8192, 0x5a, 4096);
    assert_int_equal(once(&b, DISK_WRITE, 8192, 4096, bytes + 1), 0);
    check_all(&b);
    free(bytes);
    bench_stop(&b);
    bench_remove(&b);
}

/* A file that shrinks under us: an error, no silence and no stale data. */
static void test_file_truncated(void **state)
{
    struct bench b;
    uint8_t bytes[8192];

    bench_dir(&b);
    open_file(&b, false, false);
    bench_start(&b);
    assert_int_equal(truncate(b.image, SIZE / 2), 0);
    assert_int_equal(once(&b, DISK_READ, SIZE / 2 - 4096, 8192, bytes), -EIO);
    assert_int_equal(once(&b, DISK_READ, SIZE - 4096, 4096, bytes), -EIO);
    assert_int_equal(once(&b, DISK_READ, 0, 4096, bytes), 0);
    assert_int_equal(b.disk->ops->refresh(b.disk), 0);
    assert_int_equal(b.disk->size, SIZE / 2);
    bench_stop(&b);
    bench_remove(&b);
}

static void test_file_full(void **state)
{
    struct disk_file_options options = { .path = "/dev/full" };
    static const struct log none;
    struct umbra_error error;
    struct disk *disk;

    /* Neither file nor block device. */
    assert_int_equal(disk_file_open(&options, &none, &disk, &error), -EINVAL);
    options.path = "/nonexistent/image";
    assert_int_equal(disk_file_open(&options, &none, &disk, &error), -ENOENT);
    assert_non_null(strstr(error.message, "/nonexistent/image"));
}

static void count_line(void *context, enum umbra_log_level level, const char *line)
{
    (void)level;
    *(unsigned *)context += strstr(line, "no space left") != NULL;
}

/* A full file system: every write fails, the log says it once. */
static void test_no_space(void **state)
{
    unsigned lines = 0;
    const struct log log = { .fn = count_line,
                             .context = &lines,
                             .level = UMBRA_LOG_WARNING };
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    uint8_t bytes[4096] = { 0 };
    struct umbra_error error;
    struct bench b;

    bench_dir(&b);
    assert_int_equal(disk_file_adopt(fd, "full", &log, &b.disk, &error), 0);
    bench_start(&b);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(once(&b, DISK_WRITE, i * 4096, 4096, bytes), -ENOSPC);
    }
    assert_int_equal(lines, 1);
    bench_stop(&b);
    bench_remove(&b);
}

static void test_file_lock(void **state)
{
    struct disk_file_options options = { 0 };
    static const struct log none;
    struct umbra_error error;
    struct disk *first, *second;
    struct bench b;

    bench_dir(&b);
    options.path = b.image;
    assert_int_equal(disk_file_open(&options, &none, &first, &error), 0);
    assert_int_equal(disk_file_open(&options, &none, &second, &error), -EBUSY);
    disk_destroy(first);
    options.readonly = true;
    assert_int_equal(disk_file_open(&options, &none, &first, &error), 0);
    assert_int_equal(disk_file_open(&options, &none, &second, &error), 0);
    disk_destroy(first);
    disk_destroy(second);
    bench_remove(&b);
}

static void test_discard_frees(void **state)
{
    struct bench b;
    struct stat before, after;

    bench_dir(&b);
    open_file(&b, false, false);
    bench_start(&b);
    assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(stat(b.image, &before), 0);
    /* Zeroes that must not be holes leave the blocks where they are. */
    assert_int_equal(once(&b, DISK_WRITE_ZEROES, 0, SIZE / 2, NULL), 0);
    assert_int_equal(stat(b.image, &after), 0);
    assert_int_equal(after.st_blocks, before.st_blocks);
    assert_int_equal(once(&b, DISK_DISCARD, 0, SIZE / 2, NULL), 0);
    assert_int_equal(stat(b.image, &after), 0);
    assert_true(after.st_blocks <= before.st_blocks - SIZE / 2 / 512);
    bench_stop(&b);
    bench_remove(&b);
}

/* A flush that completes leaves nothing that a loss of power would take. */
static void test_flush(void **state)
{
    uint8_t *bytes = aligned_alloc(4096, 8 * 4096);
    struct bench b;

    bench_dir(&b);
    if (!dirty_pages_told(b.image)) {
        bench_remove(&b);
        free(bytes);
        skip(); /* tmpfs, or a kernel before 6.5 */
    }
    open_file(&b, false, false);
    bench_start(&b);
    for (unsigned i = 0; i < 4; i++) {
        memset(bytes, (int)i, 8 * 4096);
        assert_int_equal(once(&b, DISK_WRITE, 65536 * i, 8 * 4096, bytes), 0);
        assert_true(dirty_pages(b.image) > 0); /* or it would prove nothing */
        assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
        assert_int_equal(dirty_pages(b.image), 0);
    }
    bench_stop(&b);
    bench_remove(&b);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),           cmocka_unit_test(test_file_direct),
        cmocka_unit_test(test_file_truncated), cmocka_unit_test(test_file_full),
        cmocka_unit_test(test_no_space),       cmocka_unit_test(test_file_lock),
        cmocka_unit_test(test_discard_frees),  cmocka_unit_test(test_flush),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
