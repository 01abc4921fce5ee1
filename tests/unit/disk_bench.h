/* SPDX-License-Identifier: MIT */
/* A disk back end against a model in memory, with many requests in flight. Included behind
 * cmocka.h. */
#ifndef UNIT_DISK_BENCH_H
#define UNIT_DISK_BENCH_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/disk/overlay.h"
#include "base/util.h"

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

static inline void bench_dir(struct bench *b)
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

static inline void bench_start(struct bench *b)
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

static inline void bench_stop(struct bench *b)
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

static inline void bench_remove(struct bench *b)
{
    unlink(b->image);
    unlink(b->overlay);
    rmdir(b->dir);
    free(b->model);
}

static inline void slot_done(struct disk_request *request, int error)
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

static inline void turn(struct bench *b)
{
    assert_true(io_ring_turn(&b->ring, true) >= 0);
}

/* One request, waited for. */
static inline int once(struct bench *b, enum disk_op op, uint64_t offset, uint64_t length,
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

static inline unsigned pick(struct bench *b, unsigned below)
{
    return (unsigned)nrand48(b->seed) % below;
}

/* Where each slot's request is: the back end may change the request's own offset. */
struct place {
    uint64_t offset, length;
};

static inline bool place_free(const struct bench *b, const struct place *places,
                              uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        if (b->slots[i].busy && offset < places[i].offset + places[i].length &&
            places[i].offset < offset + length) {
            return false;
        }
    }
    return true;
}

static inline void start_random(struct bench *b, unsigned index, struct place *places,
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

static inline void drain(struct bench *b)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        while (b->slots[i].busy) {
            turn(b);
        }
        assert_int_equal(b->slots[i].error, 0);
    }
}

static inline void traffic(struct bench *b, unsigned steps, unsigned unit)
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

static inline void check_all(struct bench *b)
{
    uint8_t *bytes = aligned_alloc(4096, SIZE);

    assert_int_equal(once(b, DISK_READ, 0, SIZE, bytes), 0);
    assert_memory_equal(bytes, b->model, SIZE);
    free(bytes);
}

static inline void open_file(struct bench *b, bool readonly, bool direct)
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

#endif
