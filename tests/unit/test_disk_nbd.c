/* SPDX-License-Identifier: MIT */
/* backend/disk/nbd: traffic, and servers that hang, die and come back. */
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
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit/dirty_pages.h"
#include "unit/disk_bench.h"

static pid_t nbd_server(struct bench *b, char *uri, size_t size)
{
    char node[256], server[256], export[256], path[128];
    pid_t child;

    snprintf(path, sizeof(path), "%s/socket", b->dir);
    snprintf(uri, size, "nbd+unix:///disk?socket=%s", path);
    snprintf(node, sizeof(node),
             "driver=file,node-name=disk,filename=%s,discard=unmap,"
             "locking=off",
             b->image);
    snprintf(server, sizeof(server), "addr.type=unix,addr.path=%s", path);
    snprintf(export, sizeof(export),
             "type=nbd,id=e,node-name=disk,name=disk,writable=on");
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("qemu-storage-daemon", "qemu-storage-daemon", "--blockdev", node,
               "--nbd-server", server, "--export", export, (char *)NULL);
        _exit(127);
    }
    for (unsigned i = 0; i < 500 && access(path, F_OK) != 0; i++) {
        if (waitpid(child, NULL, WNOHANG) == child) {
            return -1;
        }
        usleep(10000);
    }
    return child;
}

static const struct log none;

static pid_t nbd_open(struct bench *b, char *uri, size_t size)
{
    struct umbra_error error;
    pid_t server;

    bench_dir(b);
    server = nbd_server(b, uri, size);
    if (server < 0) {
        bench_remove(b);
        skip(); /* no qemu-storage-daemon */
    }
    assert_int_equal(disk_nbd_open(uri, false, &none, &b->disk, &error), 0);
    assert_int_equal(b->disk->size, SIZE);
    return server;
}

static void nbd_kill(struct bench *b, pid_t server)
{
    char path[128];

    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    snprintf(path, sizeof(path), "%s/socket", b->dir);
    unlink(path);
}

/* Start to read block 0 into slot 0. */
static void read_begin(struct bench *b)
{
    struct slot *slot = &b->slots[0];

    slot->busy = true;
    slot->check = false;
    slot->iov[0] = (struct iovec){ slot->buffer, 4096 };
    slot->request = (struct disk_request){ .op = DISK_READ,
                                           .length = 4096,
                                           .iov = slot->iov,
                                           .iov_count = 1,
                                           .done = slot_done };
    disk_submit(b->queue, &slot->request);
    assert_true(io_ring_turn(&b->ring, false) >= 0);
}

static int read_end(struct bench *b)
{
    while (b->slots[0].busy) {
        turn(b);
    }
    return b->slots[0].error;
}

static void test_nbd(void **state)
{
    char uri[256];
    struct bench b;
    pid_t server = nbd_open(&b, uri, sizeof(uri));

    (void)state;
    bench_start(&b);
    traffic(&b, 1500, DISK_SECTOR);
    check_all(&b);
    bench_stop(&b);
    nbd_kill(&b, server);
    bench_remove(&b);
}

/* A flush is the server's, too. */
static void test_nbd_flush(void **state)
{
    uint8_t *bytes = aligned_alloc(4096, 8 * 4096);
    char uri[256];
    struct bench b;
    pid_t server = nbd_open(&b, uri, sizeof(uri));

    (void)state;
    bench_start(&b);
    for (unsigned i = 0; i < 2 && dirty_pages_told(b.image); i++) {
        memset(bytes, (int)i, 8 * 4096);
        assert_int_equal(once(&b, DISK_WRITE, 65536 * i, 8 * 4096, bytes), 0);
        assert_true(dirty_pages(b.image) > 0);
        assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
        assert_int_equal(dirty_pages(b.image), 0);
    }
    bench_stop(&b);
    nbd_kill(&b, server);
    bench_remove(&b);
    free(bytes);
}

/* Giving up fails what is in flight, in time, whether the server hangs or is gone. */
static void test_nbd_hangs(void **state)
{
    struct umbra_error error;
    char uri[256];
    struct bench b;
    pid_t server = nbd_open(&b, uri, sizeof(uri));

    (void)state;
    bench_start(&b);
    kill(server, SIGSTOP);
    read_begin(&b);
    assert_true(b.slots[0].busy);
    b.disk->ops->abort(b.queue);
    assert_int_not_equal(read_end(&b), 0);
    kill(server, SIGCONT);
    bench_stop(&b);
    assert_int_equal(disk_nbd_open(uri, false, &none, &b.disk, &error), 0);
    bench_start(&b);
    check_all(&b);
    nbd_kill(&b, server);
    read_begin(&b);
    for (unsigned i = 0; i < 5; i++) {
        turn(&b);
    }
    assert_true(b.slots[0].busy); /* held: the server may come back */
    b.disk->ops->abort(b.queue);
    assert_int_not_equal(read_end(&b), 0);
    assert_int_not_equal(once(&b, DISK_WRITE, 0, 4096, b.slots[0].buffer), 0);
    bench_stop(&b);
    assert_true(disk_nbd_open(uri, false, &none, &b.disk, &error) < 0);
    bench_remove(&b);
}

/* A server that comes back gets what was asked meanwhile; a flush does not vouch for
 * writes that went with the old one. */
static void test_nbd_returns(void **state)
{
    char uri[256];
    struct bench b;
    pid_t server = nbd_open(&b, uri, sizeof(uri));

    (void)state;
    bench_start(&b);
    traffic(&b, 300, DISK_SECTOR);
    assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        nbd_kill(&b, server);
        read_begin(&b);
        turn(&b);
        turn(&b);
        assert_true(b.slots[0].busy);
        server = nbd_server(&b, uri, sizeof(uri));
        assert_int_equal(read_end(&b), 0);
        assert_memory_equal(b.slots[0].buffer, b.model, 4096);
        assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
        traffic(&b, 300, DISK_SECTOR);
        assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
    }
    assert_int_equal(once(&b, DISK_WRITE, 0, 4096, b.model), 0);
    nbd_kill(&b, server);
    server = nbd_server(&b, uri, sizeof(uri));
    assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), -EIO);
    assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
    check_all(&b);
    bench_stop(&b);
    nbd_kill(&b, server);
    bench_remove(&b);
}

/* An image on another machine, changed on this one. */
static void test_nbd_overlay(void **state)
{
    struct umbra_error error;
    uint8_t bytes[4096];
    char uri[256];
    struct bench b;
    pid_t server = nbd_open(&b, uri, sizeof(uri));
    const struct disk_overlay_options options = { 0 };
    struct disk *base = b.disk;
    int fd;

    (void)state;
    assert_int_equal(disk_overlay_open(base, &options, &none, &b.disk, &error), 0);
    bench_start(&b);
    traffic(&b, 800, DISK_SECTOR);
    check_all(&b);
    bench_stop(&b);
    nbd_kill(&b, server);
    fd = open(b.image, O_RDONLY);
    for (unsigned i = 0; i < SIZE; i += sizeof(bytes)) {
        assert_int_equal(pread(fd, bytes, sizeof(bytes), i), sizeof(bytes));
        for (unsigned k = 0; k < sizeof(bytes); k++) {
            assert_int_equal(bytes[k], (uint8_t)((i + k) * 7 + (i + k) / 509));
        }
    }
    close(fd);
    bench_remove(&b);
}

/*
 * An export that is larger for those who connect now: the disk's new end is reached through a
 * new connection, without losing what is in flight, and without a flush that fails. What an
 * export has no size for, an overlay has.
 */
static void test_nbd_grows(void **state)
{
    const struct disk_overlay_options options = { .size = 4 * SIZE };
    uint8_t *bytes = aligned_alloc(4096, 4096);
    struct umbra_error error;
    char uri[256], path[128];
    struct bench b;
    pid_t old = nbd_open(&b, uri, sizeof(uri)), new;

    (void)state;
    bench_start(&b);
    assert_null(b.disk->ops->grow);
    traffic(&b, 200, DISK_SECTOR);
    snprintf(path, sizeof(path), "%s/socket", b.dir);
    unlink(path); /* the old server stays, and serves who is connected */
    assert_int_equal(truncate(b.image, 2 * SIZE), 0);
    new = nbd_server(&b, uri, sizeof(uri));
    assert_true(new > 0);
    assert_int_equal(b.disk->ops->refresh(b.disk), 0);
    assert_int_equal(b.disk->size, 2 * SIZE);
    traffic(&b, 200, DISK_SECTOR);
    read_begin(&b); /* in flight when the connection is made anew */
    memset(bytes, 0x5a, 4096);
    assert_int_equal(once(&b, DISK_WRITE, 2 * SIZE - 4096, 4096, bytes), 0);
    assert_int_equal(read_end(&b), 0);
    assert_int_equal(once(&b, DISK_FLUSH, 0, 0, NULL), 0);
    memset(bytes, 0, 4096);
    assert_int_equal(once(&b, DISK_READ, 2 * SIZE - 4096, 4096, bytes), 0);
    assert_int_equal(bytes[0] + bytes[4095], 2 * 0x5a);
    nbd_kill(&b, old); /* nobody misses it */
    traffic(&b, 200, DISK_SECTOR);
    check_all(&b);
    bench_stop(&b);

    snprintf(path, sizeof(path), "%s/socket", b.dir);
    kill(new, SIGKILL);
    waitpid(new, NULL, 0);
    unlink(path);
    new = nbd_server(&b, uri, sizeof(uri));
    assert_int_equal(disk_nbd_open(uri, true, &none, &b.disk, &error), 0);
    assert_int_equal(disk_overlay_open(b.disk, &options, &none, &b.disk, &error), 0);
    bench_start(&b);
    assert_int_equal(b.disk->ops->grow(b.disk, 6 * SIZE), 0);
    traffic(&b, 200, DISK_SECTOR);
    check_all(&b);
    assert_int_equal(once(&b, DISK_READ, 2 * SIZE - 4096, 4096, bytes), 0);
    assert_int_equal(bytes[0] + bytes[4095], 2 * 0x5a);
    assert_int_equal(once(&b, DISK_READ, 6 * SIZE - 4096, 4096, bytes), 0);
    assert_int_equal(bytes[0] + bytes[4095], 0);
    bench_stop(&b);
    nbd_kill(&b, new);
    bench_remove(&b);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nbd),         cmocka_unit_test(test_nbd_flush),
        cmocka_unit_test(test_nbd_hangs),   cmocka_unit_test(test_nbd_returns),
        cmocka_unit_test(test_nbd_overlay), cmocka_unit_test(test_nbd_grows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
