/* SPDX-License-Identifier: MIT */
/* backend/disk/overlay: thrown away, kept, shared by queues, killed, refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "unit/dirty_pages.h"
#include "unit/disk_bench.h"

/* Who writes the bitmap, and how many pages of data are not durable then. */
static struct {
    int fd;
    uint64_t bitmap, data; /* where they begin */
    unsigned writes;
    long dirty;
} spy = { .fd = -1 };

/* In place of the C library's. */
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (fd == spy.fd && (uint64_t)offset >= spy.bitmap && (uint64_t)offset < spy.data) {
        spy.writes++;
        spy.dirty += dirty_pages_of(fd, spy.data, 0);
    }
    return syscall(SYS_pwrite64, fd, bytes, size, offset);
}

static int open_overlay(struct bench *b, bool kept, struct umbra_error *error)
{
    static const struct log none;

    const struct disk_overlay_options options = { .path = kept ? b->overlay : NULL };

    open_file(b, true, false);
    return disk_overlay_open(b->disk, &options, &none, &b->disk, error);
}

static void base_is_untouched(struct bench *b)
{
    uint8_t *model = b->model;

    b->model = malloc(SIZE);
    for (unsigned i = 0; i < SIZE; i++) {
        b->model[i] = (uint8_t)(i * 7 + i / 509);
    }
    open_file(b, true, false);
    bench_start(b);
    check_all(b);
    bench_stop(b);
    free(b->model);
    b->model = model;
}

static void test_overlay(void **state)
{
    for (unsigned unit = 512; unit <= 4096; unit *= 2) {
        struct umbra_error error;
        struct bench b;

        bench_dir(&b);
        b.seed[0] = (unsigned short)unit;
        assert_int_equal(open_overlay(&b, false, &error), 0);
        bench_start(&b);
        traffic(&b, 3000, unit);
        check_all(&b);
        bench_stop(&b);
        base_is_untouched(&b);
        bench_remove(&b);
    }
}

/* Two queues fill the same blocks: each writes every other sector, in its own order. */
struct writer {
    struct bench b; /* its own ring and queue over a shared disk */
    unsigned parity;
    pthread_t thread;
    int error;
};

static void *write_sectors(void *context)
{
    struct writer *w = context;
    uint8_t bytes[DISK_SECTOR];

    for (unsigned i = 0; i < SIZE / DISK_SECTOR / 2 && w->error == 0; i++) {
        unsigned n = w->parity == 0 ? i : (i ^ 3);
        unsigned sector = 2 * n + w->parity;

        memset(bytes, (int)(sector % 251), sizeof(bytes));
        w->error =
            once(&w->b, DISK_WRITE, (uint64_t)sector * DISK_SECTOR, DISK_SECTOR, bytes);
        if (w->error == 0 && i % 256 == 255) {
            w->error = once(&w->b, DISK_FLUSH, 0, 0, NULL);
        }
    }
    return NULL;
}

static void *writer_run(void *context)
{
    struct writer *w = context;

    bench_start(&w->b);
    write_sectors(w);
    w->b.disk->ops->queue_close(w->b.queue);
    io_ring_stop(&w->b.ring);
    io_ring_fini(&w->b.ring);
    for (unsigned i = 0; i < DEPTH; i++) {
        free(w->b.slots[i].buffer);
        free(w->b.slots[i].expected);
    }
    return NULL;
}

static void test_overlay_shared(void **state)
{
    struct writer writers[2];
    struct umbra_error error;
    struct bench b;

    bench_dir(&b);
    assert_int_equal(open_overlay(&b, true, &error), 0);
    for (unsigned i = 0; i < 2; i++) {
        writers[i] = (struct writer){ .b = { .disk = b.disk }, .parity = i };
        pthread_create(&writers[i].thread, NULL, writer_run, &writers[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(writers[i].thread, NULL);
        assert_int_equal(writers[i].error, 0);
    }
    for (unsigned i = 0; i < SIZE; i++) {
        b.model[i] = (uint8_t)(i / DISK_SECTOR % 251);
    }
    bench_start(&b);
    check_all(&b);
    bench_stop(&b);
    bench_remove(&b);
}

static void test_overlay_kept(void **state)
{
    struct umbra_error error;
    struct bench b;

    bench_dir(&b);
    for (unsigned round = 0; round < 4; round++) {
        assert_int_equal(open_overlay(&b, true, &error), 0);
        bench_start(&b);
        check_all(&b); /* what the last round left */
        traffic(&b, 800, DISK_SECTOR);
        check_all(&b);
        bench_stop(&b);
    }
    base_is_untouched(&b);
    bench_remove(&b);
}

/*
 * Killed without warning: everything flushed is there. The child writes block after block
 * and reports each flush that was acknowledged; the parent kills it in the middle.
 */
static void killed_child(struct bench *b, int report)
{
    struct umbra_error error;
    uint8_t block[4096];

    if (open_overlay(b, true, &error) != 0) {
        _exit(1);
    }
    bench_start(b);
    for (uint32_t n = 0;; n = (n + 1) % (SIZE / 4096)) {
        memset(block, (int)(n % 251 + 1), sizeof(block));
        /* An odd place now and then, so that blocks are filled up. */
        if (once(b, DISK_WRITE, (uint64_t)n * 4096, n % 3 == 0 ? 512 : 4096, block) !=
                0 ||
            once(b, DISK_FLUSH, 0, 0, NULL) != 0 ||
            write(report, &n, sizeof(n)) != (ssize_t)sizeof(n)) {
            _exit(1);
        }
    }
}

static void test_overlay_killed(void **state)
{
    struct umbra_error error;
    uint32_t n, flushed = 0;
    int pipes[2], status;
    struct bench b;
    pid_t child;

    bench_dir(&b);
    assert_int_equal(pipe(pipes), 0);
    child = fork();
    if (child == 0) {
        close(pipes[0]);
        killed_child(&b, pipes[1]);
    }
    close(pipes[1]);
    while (flushed < 40 && read(pipes[0], &n, sizeof(n)) == (ssize_t)sizeof(n)) {
        flushed++;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    while (read(pipes[0], &n, sizeof(n)) == (ssize_t)sizeof(n)) {
        flushed++; /* acknowledged before the kill as well */
    }
    close(pipes[0]);
    assert_true(flushed >= 40);
    for (uint32_t i = 0; i < flushed && i < SIZE / 4096; i++) {
        memset(b.model + (size_t)i * 4096, (int)(i % 251 + 1), i % 3 == 0 ? 512 : 4096);
    }
    assert_int_equal(open_overlay(&b, true, &error), 0);
    bench_start(&b);
    {
        size_t sure = 4096 * (size_t)(flushed < SIZE / 4096 ? flushed : SIZE / 4096);
        uint8_t *bytes = malloc(sure);

        assert_int_equal(once(&b, DISK_READ, 0, sure, bytes), 0);
        assert_memory_equal(bytes, b.model, sure);
        free(bytes);
    }
    bench_stop(&b);
    bench_remove(&b);
}

static void test_overlay_refused(void **state)
{
    struct umbra_error error;
    struct bench b;
    FILE *file;

    bench_dir(&b);
    file = fopen(b.overlay, "w");
    fputs("something else altogether", file);
    fclose(file);
    assert_int_equal(open_overlay(&b, true, &error), -EINVAL);
    assert_non_null(strstr(error.message, "not one of umbra's overlays"));
    unlink(b.overlay);
    assert_int_equal(open_overlay(&b, true, &error), 0);
    disk_destroy(b.disk);
    assert_int_equal(truncate(b.image, SIZE / 2), 0);
    assert_int_equal(open_overlay(&b, true, &error), -EINVAL);
    assert_non_null(strstr(error.message, "another size"));
    assert_int_equal(truncate(b.image, SIZE), 0);
    file = fopen(b.overlay, "r+");
    fseek(file, 100, SEEK_SET);
    fputc('x', file);
    fclose(file);
    assert_int_equal(open_overlay(&b, true, &error), -EINVAL);
    assert_non_null(strstr(error.message, "damaged"));
    bench_remove(&b);
}

/* A file that lost its end, and bits for blocks behind the disk's. */
static void test_overlay_cut_off(void **state)
{
    const uint64_t bit = UINT64_C(1) << 63;
    struct umbra_error error;
    struct bench b;
    struct stat st;
    int fd;

    bench_dir(&b);
    assert_int_equal(open_overlay(&b, true, &error), 0);
    disk_destroy(b.disk);
    assert_int_equal(stat(b.overlay, &st), 0);
    assert_int_equal(truncate(b.overlay, st.st_size - 1), 0);
    assert_int_equal(open_overlay(&b, true, &error), -EINVAL);
    assert_non_null(strstr(error.message, "cut off"));
    assert_int_equal(truncate(b.overlay, st.st_size), 0);
    fd = open(b.overlay, O_WRONLY);
    assert_int_equal(pwrite(fd, &bit, 8, 4096 + 4096 - 8),
                     8); /* the bitmap's first page */
    close(fd);
    assert_int_equal(open_overlay(&b, true, &error), -EUCLEAN);
    assert_non_null(strstr(error.message, "behind the disk's end"));
    bench_remove(&b);
}

/* Opens the overlay as soon as its predecessor lets go of it. */
static void *successor(void *context)
{
    struct umbra_error error;
    int ret;

    do { /* who waits too long is told so */
        ret = open_overlay(context, true, &error);
    } while (ret == -EBUSY);
    assert_int_equal(ret, 0);
    return NULL;
}

/* What one VM flushed while the next waited for its overlay is there for that one. */
static void test_overlay_successor(void **state)
{
    uint8_t block[4096], bytes[4096];
    struct umbra_error error;
    pthread_t thread;
    struct bench b, next;

    bench_dir(&b);
    assert_int_equal(open_overlay(&b, true, &error), 0);
    bench_start(&b);
    next = b;
    pthread_create(&thread, NULL, successor, &next);
    usleep(50000); /* it waits by now, or sees less of what could go wrong */
    memset(block, 0x5a, sizeof(block));
    assert_int_equal(once(&b, DISK_WRITE, 5 * 4096, sizeof(block), block), 0);
    assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
    bench_stop(&b);
    pthread_join(thread, NULL);
    bench_start(&next);
    assert_int_equal(once(&next, DISK_READ, 5 * 4096, sizeof(bytes), bytes), 0);
    assert_memory_equal(bytes, block, sizeof(block));
    bench_stop(&next);
    bench_remove(&b);
}

/*
 * What a flush promises, and in which order: the bitmap is written when the data that it
 * speaks of is durable, and is durable itself in the end. So with the header of a disk that
 * grew.
 */
static void test_overlay_order(void **state)
{
    uint8_t *bytes = aligned_alloc(4096, 8 * 4096);
    struct disk_overlay *overlay;
    struct umbra_error error;
    struct bench b;

    bench_dir(&b);
    assert_int_equal(open_overlay(&b, true, &error), 0);
    overlay = container_of(b.disk, struct disk_overlay, disk);
    if (!dirty_pages_told(b.overlay)) {
        disk_destroy(b.disk);
        bench_remove(&b);
        free(bytes);
        skip(); /* tmpfs, or a kernel before 6.5 */
    }
    bench_start(&b);
    spy.fd = disk_file_fd(overlay->store);
    spy.bitmap = overlay->bitmap_offset;
    spy.data = overlay->data_offset;
    for (unsigned i = 0; i < 4; i++) {
        spy.writes = 0;
        spy.dirty = 0;
        memset(bytes, (int)i, 8 * 4096);
        assert_int_equal(once(&b, DISK_WRITE, 65536 * i, 8 * 4096, bytes), 0);
        assert_true(dirty_pages(b.overlay) > 0); /* or it would prove nothing */
        assert_int_equal(spy.writes, 0);
        assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
        assert_int_equal(spy.writes, 1);
        assert_int_equal(spy.dirty, 0);
        assert_int_equal(dirty_pages(b.overlay), 0);
    }
    assert_int_equal(b.disk->ops->grow(b.disk, 2 * SIZE), 0);
    assert_int_equal(dirty_pages(b.overlay), 0);
    spy.fd = -1;
    bench_stop(&b);
    bench_remove(&b);
    free(bytes);
}

/* ---- Growing ----------------------------------------------------------------------------- */

enum { GROWN = 3 << 20, ODD = SIZE - 1536 };

static int open_sized(struct bench *b, bool kept, uint64_t size,
                      struct umbra_error *error)
{
    const struct disk_overlay_options options = { .path = kept ? b->overlay : NULL,
                                                  .size = size };
    static const struct log none;

    open_file(b, true, false);
    return disk_overlay_open(b->disk, &options, &none, &b->disk, error);
}

/* The bytes of @b's disk are the model's first @base, then what was written, else zeroes. */
static void check_grown(struct bench *b, const uint8_t *expected, uint64_t size)
{
    uint8_t *bytes = aligned_alloc(4096, align_up(size, 4096));

    memset(bytes, 0xee, size);
    assert_int_equal(atomic_load(&b->disk->size), size);
    assert_int_equal(once(b, DISK_READ, 0, size, bytes), 0);
    for (uint64_t i = 0; i < size; i++) {
        if (bytes[i] != expected[i]) {
            fail_msg("byte %llu is %02x, not %02x", (unsigned long long)i, bytes[i],
                     expected[i]);
        }
    }
    free(bytes);
}

static void put(struct bench *b, uint8_t *expected, uint64_t offset, uint64_t length,
                uint8_t value)
{
    uint8_t *bytes = aligned_alloc(4096, align_up(length, 4096));

    memset(bytes, value, length);
    memset(expected + offset, value, length);
    assert_int_equal(once(b, DISK_WRITE, offset, length, bytes), 0);
    free(bytes);
}

/*
 * The base ends in the middle of a block: what is behind it is zeroes, whether its block is
 * the base's, was filled up for a write, or was never there; so after growing once more
 * under open queues, and after opening again.
 */
static void grow_and_check(bool kept, bool at_opening)
{
    uint8_t *expected = calloc(1, 2 * GROWN);
    struct umbra_error error;
    struct bench b;

    bench_dir(&b);
    assert_int_equal(truncate(b.image, ODD), 0);
    memcpy(expected, b.model, ODD);
    assert_int_equal(open_sized(&b, kept, at_opening ? GROWN : 0, &error), 0);
    bench_start(&b);
    if (!at_opening) {
        check_grown(&b, expected, ODD);
        assert_int_equal(b.disk->ops->grow(b.disk, GROWN), 0);
    }
    check_grown(&b, expected, GROWN);
    put(&b, expected, ODD + 512, 512, 0x11);   /* filled from the base and from nothing */
    put(&b, expected, GROWN - 512, 512, 0x22); /* filled from nothing alone */
    put(&b, expected, 2 << 20, 8192, 0x33);    /* whole blocks */
    put(&b, expected, SIZE - 512, 1024, 0x44); /* two blocks, a sector each */
    check_grown(&b, expected, GROWN);
    assert_int_equal(once(&b, DISK_DISCARD, 2 << 20, 4096, NULL), 0);
    memset(expected + (2 << 20), 0, 4096);
    assert_int_equal(b.disk->ops->grow(b.disk, GROWN - 512), -ERANGE);
    assert_int_equal(b.disk->ops->grow(b.disk, 2 * GROWN), 0);
    put(&b, expected, 2 * GROWN - 4096, 4096, 0x55);
    check_grown(&b, expected, 2 * GROWN);
    bench_stop(&b);
    if (kept) {
        assert_int_equal(open_sized(&b, true, GROWN, &error),
                         0); /* it is larger already */
        bench_start(&b);
        check_grown(&b, expected, 2 * GROWN);
        bench_stop(&b);
    }
    bench_remove(&b);
    free(expected);
}

static void test_overlay_grows(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        grow_and_check(i & 1, i & 2);
    }
}

/* Traffic on one queue while another thread grows the disk again and again. */
static void *grower(void *context)
{
    struct bench *b = context;

    for (uint64_t size = SIZE; size <= 64 * (uint64_t)SIZE; size += SIZE) {
        assert_int_equal(b->disk->ops->grow(b->disk, size), 0);
    }
    return NULL;
}

static void test_overlay_grows_busy(void **state)
{
    struct umbra_error error;
    pthread_t thread;
    struct bench b;

    bench_dir(&b);
    assert_int_equal(open_sized(&b, true, 0, &error), 0);
    bench_start(&b);
    pthread_create(&thread, NULL, grower, &b);
    traffic(&b, 800, DISK_SECTOR);
    pthread_join(thread, NULL);
    check_all(&b);
    bench_stop(&b);
    bench_remove(&b);
}

/* Header fields of a kept overlay as somebody else would have them. */
static void header_patch(const struct bench *b, unsigned offset, uint64_t value)
{
    uint8_t header[4096];
    int fd = open(b->overlay, O_RDWR);

    assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
    store_le64(header + offset, value);
    store_le32(header + 40, 0);
    store_le32(header + 40, (uint32_t)crc32(0, header, sizeof(header)));
    assert_int_equal(pwrite(fd, header, sizeof(header), 0), sizeof(header));
    close(fd);
}

/* Sizes that cannot be, under a checksum that is right. */
static void test_overlay_hostile(void **state)
{
    static const struct {
        unsigned offset;
        uint64_t value;
        const char *says; /* NULL: it is fine */
    } cases[] = {
        { 16, 0, "impossible size" },
        { 16, SIZE - 512, "impossible size" },
        { 16, SIZE + 1, "impossible size" },
        { 16, UINT64_MAX, "does not fit" },
        { 16, UINT64_MAX - 511, "does not fit" },
        { 16, INT64_MAX, "does not fit" },
        { 16, UINT64_C(1) << 55, "does not fit" },
        { 16, UINT64_C(1) << 42, "does not fit" },
        { 24, 0, "does not fit" },
        { 24, 8192, "does not fit" },
        { 24, UINT64_MAX - 4095, "does not fit" },
        { 32, 0, "does not fit" },
        { 32, 4096, "does not fit" },
        { 32, UINT64_C(1) << 62, "does not fit" },
        { 32, UINT64_MAX - MIB + 1, "does not fit" },
        { 48, SIZE / 2, "another size" },
        { 48, UINT64_MAX, "another size" },
        { 16, SIZE + 512, "cut off" }, /* the file comes before the header */
        { 16, UINT64_C(1) << 40, "cut off" },
        { 48, SIZE, NULL },
    };
    struct umbra_error error;
    struct bench b;

    bench_dir(&b);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        int ret;

        assert_int_equal(open_overlay(&b, true, &error), 0);
        disk_destroy(b.disk);
        header_patch(&b, cases[i].offset, cases[i].value);
        ret = open_overlay(&b, true, &error);
        if (cases[i].says == NULL) {
            assert_int_equal(ret, 0);
            bench_start(&b);
            check_all(&b);
            bench_stop(&b);
        } else if (ret != -EINVAL || strstr(error.message, cases[i].says) == NULL) {
            fail_msg("case %u: %d, %s", i, ret, ret != 0 ? error.message : "accepted");
        }
        unlink(b.overlay);
    }
    /* A field that older overlays have not: the base was as large as the disk. */
    assert_int_equal(open_overlay(&b, true, &error), 0);
    disk_destroy(b.disk);
    header_patch(&b, 48, 0);
    assert_int_equal(open_sized(&b, true, 2 * SIZE, &error), 0);
    disk_destroy(b.disk);
    assert_int_equal(open_sized(&b, true, SIZE - 512, &error), -ERANGE);
    assert_non_null(strstr(error.message, "larger only"));
    assert_int_equal(open_sized(&b, true, SIZE + 100, &error), -ERANGE);
    /* A bitmap without room for what is asked. */
    assert_int_equal(open_sized(&b, true, UINT64_C(1) << 49, &error), -EFBIG);
    unlink(b.overlay);
    assert_int_equal(open_sized(&b, true, UINT64_C(1) << 43, &error), 0);
    disk_destroy(b.disk);
    bench_remove(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overlay),
        cmocka_unit_test(test_overlay_shared),
        cmocka_unit_test(test_overlay_kept),
        cmocka_unit_test(test_overlay_killed),
        cmocka_unit_test(test_overlay_refused),
        cmocka_unit_test(test_overlay_cut_off),
        cmocka_unit_test(test_overlay_successor),
        cmocka_unit_test(test_overlay_grows),
        cmocka_unit_test(test_overlay_order),
        cmocka_unit_test(test_overlay_grows_busy),
        cmocka_unit_test(test_overlay_hostile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
