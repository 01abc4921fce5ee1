/* SPDX-License-Identifier: MIT */
/* virtio/disk_overlay: thrown away, kept, shared by queues, killed, refused. */
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

#include "unit/disk_bench.h"

static int open_overlay(struct bench *b, bool kept, struct umbra_error *error)
{
    static const struct log none;

    open_file(b, true, false);
    return disk_overlay_open(b->disk, kept ? b->overlay : NULL, &none, &b->disk, error);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overlay),         cmocka_unit_test(test_overlay_shared),
        cmocka_unit_test(test_overlay_kept),    cmocka_unit_test(test_overlay_killed),
        cmocka_unit_test(test_overlay_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
