/* SPDX-License-Identifier: MIT */
/* virtio/disk*: every back end against a model in memory, with many requests in flight. */
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

#include "base/util.h"
#include "virtio/disk_overlay.h"

enum { SIZE = 1 << 20, DEPTH = 16, LONGEST = 40 * 1024 };

struct slot {
    struct disk_request request;
    struct iovec iov[4];
    uint8_t *buffer, *expected;
    bool busy, check;
    int error;
};

struct bench {
    char dir[64], image[96], overlay[96];
    struct io_ring ring;
    struct disk *disk;
    struct disk_queue *queue;
    struct slot slots[DEPTH];
    uint8_t *model;
    unsigned short seed[3];
};

static void bench_dir(struct bench *b)
{
    int fd;

    memset(b, 0, sizeof(*b));
    snprintf(b->dir, sizeof(b->dir), "/tmp/umbra-disk-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    snprintf(b->image, sizeof(b->image), "%s/image", b->dir);
    snprintf(b->overlay, sizeof(b->overlay), "%s/overlay", b->dir);
    fd = open(b->image, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    b->model = malloc(SIZE);
    for (unsigned i = 0; i < SIZE; i++) {
        b->model[i] = (uint8_t)(i * 7 + i / 509);
    }
    assert_int_equal(write(fd, b->model, SIZE), SIZE);
    close(fd);
}

static void bench_start(struct bench *b)
{
    assert_int_equal(io_ring_init(&b->ring, 64), 0);
    assert_int_equal(b->disk->ops->queue_open(b->disk, &b->ring, &b->queue), 0);
    assert_int_equal(io_ring_start(&b->ring), 0);
    for (unsigned i = 0; i < DEPTH; i++) {
        assert_int_equal(posix_memalign((void **)&b->slots[i].buffer, 4096, LONGEST + 64),
                         0);
        b->slots[i].expected = malloc(LONGEST);
    }
}

static void bench_stop(struct bench *b)
{
    b->disk->ops->queue_close(b->queue);
    io_ring_stop(&b->ring);
    io_ring_fini(&b->ring);
    disk_destroy(b->disk);
    b->disk = NULL;
    for (unsigned i = 0; i < DEPTH; i++) {
        free(b->slots[i].buffer);
        free(b->slots[i].expected);
    }
    memset(b->slots, 0, sizeof(b->slots));
}

static void bench_remove(struct bench *b)
{
    unlink(b->image);
    unlink(b->overlay);
    rmdir(b->dir);
    free(b->model);
}

static void slot_done(struct disk_request *request, int error)
{
    struct slot *slot = container_of(request, struct slot, request);

    slot->busy = false;
    slot->error = error;
    if (slot->check && error == 0) {
        const uint8_t *at = slot->expected;

        for (unsigned i = 0; i < request->iov_count; i++) {
            assert_memory_equal(slot->iov[i].iov_base, at, slot->iov[i].iov_len);
            at += slot->iov[i].iov_len;
        }
    }
}

static void turn(struct bench *b)
{
    assert_true(io_ring_turn(&b->ring, true) >= 0);
}

/* One request, waited for. */
static int once(struct bench *b, enum disk_op op, uint64_t offset, uint64_t length,
                void *buffer)
{
    struct slot slot = { .busy = true };

    slot.iov[0] = (struct iovec){ .iov_base = buffer, .iov_len = length };
    slot.request = (struct disk_request){ .op = op,
                                          .offset = offset,
                                          .length = length,
                                          .iov = slot.iov,
                                          .iov_count = 1,
                                          .done = slot_done };
    disk_submit(b->queue, &slot.request);
    while (slot.busy) {
        turn(b);
    }
    return slot.error;
}

static unsigned pick(struct bench *b, unsigned below)
{
    return (unsigned)nrand48(b->seed) % below;
}

/* Where each slot's request is: the back end may change the request's own offset. */
struct place {
    uint64_t offset, length;
};

static bool place_free(const struct bench *b, const struct place *places, uint64_t offset,
                       uint64_t length)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        if (b->slots[i].busy && offset < places[i].offset + places[i].length &&
            places[i].offset < offset + length) {
            return false;
        }
    }
    return true;
}

static void start_random(struct bench *b, unsigned index, struct place *places,
                         unsigned unit)
{
    static const enum disk_op ops[] = { DISK_READ,        DISK_READ,  DISK_WRITE,
                                        DISK_WRITE,       DISK_FLUSH, DISK_DISCARD,
                                        DISK_WRITE_ZEROES };
    struct slot *slot = &b->slots[index];
    enum disk_op op = ops[pick(b, ARRAY_SIZE(ops))];
    uint64_t length = unit * (uint64_t)(1 + pick(b, LONGEST / unit));
    uint64_t offset = unit * (uint64_t)pick(b, SIZE / unit);
    size_t rest;
    unsigned parts = 1 + pick(b, 4);

    if (pick(b, 3) == 0) { /* often the same few blocks */
        offset = unit * (uint64_t)pick(b, 32768 / unit);
        length = unit * (uint64_t)(1 + pick(b, 8192 / unit));
    }
    if (offset + length > SIZE) {
        length = SIZE - offset;
    }
    if (op == DISK_DISCARD) { /* what it leaves behind is not defined: whole blocks */
        offset = align_down(offset, 4096);
        length = align_up(length, 4096);
        length = offset + length > SIZE ? SIZE - offset : length;
    }
    if (!place_free(b, places, offset, length)) {
        return;
    }
    places[index] = (struct place){ offset, length };
    slot->check = op == DISK_READ;
    slot->busy = true;
    memcpy(slot->expected, b->model + offset, length);
    for (uint64_t i = 0; i < length; i++) {
        slot->buffer[i] = (uint8_t)nrand48(b->seed);
    }
    if (op == DISK_WRITE) {
        memcpy(b->model + offset, slot->buffer, length);
    } else if (op == DISK_DISCARD || op == DISK_WRITE_ZEROES) {
        memset(b->model + offset, 0, length);
    }
    rest = length;
    for (unsigned i = 0; i < parts; i++) {
        size_t piece =
            i + 1 == parts ? rest : unit * (size_t)pick(b, (unsigned)(rest / unit));

        slot->iov[i].iov_base = slot->buffer + (length - rest);
        slot->iov[i].iov_len = piece;
        rest -= piece;
    }
    slot->request = (struct disk_request){ .op = op,
                                           .offset = offset,
                                           .length = length,
                                           .iov = slot->iov,
                                           .iov_count = parts,
                                           .may_unmap = pick(b, 2),
                                           .done = slot_done };
    disk_submit(b->queue, &slot->request);
}

static void drain(struct bench *b)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        while (b->slots[i].busy) {
            turn(b);
        }
        assert_int_equal(b->slots[i].error, 0);
    }
}

static void traffic(struct bench *b, unsigned steps, unsigned unit)
{
    struct place places[DEPTH] = { 0 };

    for (unsigned i = 0; i < steps; i++) {
        unsigned index = pick(b, DEPTH);

        if (!b->slots[index].busy) {
            assert_int_equal(b->slots[index].error, 0);
            start_random(b, index, places, unit);
        } else if (pick(b, 2)) {
            assert_true(io_ring_turn(&b->ring, false) >= 0);
        }
    }
    drain(b);
}

static void check_all(struct bench *b)
{
    uint8_t *bytes = aligned_alloc(4096, SIZE);

    assert_int_equal(once(b, DISK_READ, 0, SIZE, bytes), 0);
    assert_memory_equal(bytes, b->model, SIZE);
    free(bytes);
}

static void open_file(struct bench *b, bool readonly, bool direct)
{
    struct disk_file_options options = { .path = b->image,
                                         .readonly = readonly,
                                         .direct = direct };
    static const struct log none;
    struct umbra_error error = { 0 };

    if (disk_file_open(&options, &none, &b->disk, &error) != 0) {
        fail_msg("%s", error.message);
    }
}

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
    assert_int_equal(once(&b, DISK_DISCARD, 0, SIZE / 2, NULL), 0);
    assert_int_equal(stat(b.image, &after), 0);
    assert_true(after.st_blocks <= before.st_blocks - SIZE / 2 / 512);
    bench_stop(&b);
    bench_remove(&b);
}

/* ---- Overlays -------------------------------------------------------------------------- */

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

/* ---- NBD ------------------------------------------------------------------------------- */

static pid_t nbd_server(struct bench *b, char *uri, size_t size)
{
    char node[256], server[256], export[256], path[128];
    pid_t child;

    snprintf(path, sizeof(path), "%s/socket", b->dir);
    snprintf(uri, size, "nbd+unix:///disk?socket=%s", path);
    snprintf(node, sizeof(node), "driver=file,node-name=disk,filename=%s,discard=unmap",
             b->image);
    snprintf(server, sizeof(server), "addr.type=unix,addr.path=%s", path);
    snprintf(export, sizeof(export),
             "type=nbd,id=e,node-name=disk,name=disk,writable=on");
    child = fork();
    if (child == 0) {
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

static void test_nbd(void **state)
{
    static const struct log none;
    struct umbra_error error;
    char uri[256], path[128];
    uint8_t bytes[4096];
    struct bench b;
    pid_t server;

    bench_dir(&b);
    server = nbd_server(&b, uri, sizeof(uri));
    if (server < 0) {
        bench_remove(&b);
        skip(); /* no qemu-storage-daemon */
    }
    assert_int_equal(disk_nbd_open(uri, false, &none, &b.disk, &error), 0);
    assert_int_equal(b.disk->size, SIZE);
    bench_start(&b);
    traffic(&b, 1500, DISK_SECTOR);
    check_all(&b);
    /* The server hangs: giving up fails what is in flight, in time. */
    kill(server, SIGSTOP);
    b.slots[0].busy = true;
    b.slots[0].iov[0] = (struct iovec){ bytes, sizeof(bytes) };
    b.slots[0].request = (struct disk_request){ .op = DISK_READ,
                                                .length = sizeof(bytes),
                                                .iov = b.slots[0].iov,
                                                .iov_count = 1,
                                                .done = slot_done };
    disk_submit(b.queue, &b.slots[0].request);
    assert_true(io_ring_turn(&b.ring, false) >= 0);
    assert_true(b.slots[0].busy);
    b.disk->ops->abort(b.queue);
    while (b.slots[0].busy) {
        turn(&b);
    }
    assert_int_not_equal(b.slots[0].error, 0);
    kill(server, SIGCONT);
    bench_stop(&b);
    assert_int_equal(disk_nbd_open(uri, false, &none, &b.disk, &error), 0);
    bench_start(&b);
    check_all(&b);
    /* The server dies: errors from then on, at once. */
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    assert_int_not_equal(once(&b, DISK_READ, 0, 4096, bytes), 0);
    assert_int_not_equal(once(&b, DISK_WRITE, 0, 4096, bytes), 0);
    bench_stop(&b);
    assert_true(disk_nbd_open(uri, false, &none, &b.disk, &error) < 0);
    snprintf(path, sizeof(path), "%s/socket", b.dir);
    unlink(path);
    bench_remove(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_file_direct),
        cmocka_unit_test(test_file_truncated),
        cmocka_unit_test(test_file_full),
        cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_file_lock),
        cmocka_unit_test(test_discard_frees),
        cmocka_unit_test(test_overlay),
        cmocka_unit_test(test_overlay_shared),
        cmocka_unit_test(test_overlay_kept),
        cmocka_unit_test(test_overlay_killed),
        cmocka_unit_test(test_overlay_refused),
        cmocka_unit_test(test_nbd),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
