/* SPDX-License-Identifier: MIT */
/* Planned faults of disk requests: failed, short, spoilt and late ones. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "virtio/blk/queue.h"

static bool moves_data(const struct blk_request *request)
{
    return request->disk.op == DISK_READ || request->disk.op == DISK_WRITE;
}

/* Only the first blocks move; the request fails then, as a disk's does. */
static void fault_shorten(struct blk_request *request)
{
    struct disk_request *disk = &request->disk;
    uint64_t bytes =
        align_down(request->fault.hits.bytes, request->queue->blk->disk->block_size);

    request->fault.error = -EIO;
    if (bytes >= disk->length) {
        return;
    }
    disk->length = bytes;
    if (bytes > 0) {
        request->fault.slice =
            disk_iov_slice(disk->iov, disk->iov_count, 0, bytes, &disk->iov_count);
        disk->iov = request->fault.slice;
    }
}

static void flip_bit(const struct iovec *iov, unsigned count, uint64_t bit)
{
    uint64_t at = bit / 8;

    for (unsigned i = 0; i < count; i++) {
        if (at < iov[i].iov_len) {
            ((uint8_t *)iov[i].iov_base)[at] ^= (uint8_t)(1u << bit % 8);
            return;
        }
        at -= iov[i].iov_len;
    }
}

/* The guest's own copy of what it writes stays as it is. */
static int fault_spoil_write(struct blk_request *request)
{
    struct disk_request *disk = &request->disk;
    struct blk_fault *fault = &request->fault;
    uint64_t done = 0;

    fault->copy = malloc(disk->length);
    if (fault->copy == NULL) {
        return -ENOMEM;
    }
    for (unsigned i = 0; i < disk->iov_count; i++) {
        memcpy(fault->copy + done, disk->iov[i].iov_base, disk->iov[i].iov_len);
        done += disk->iov[i].iov_len;
    }
    fault->copy_iov = (struct iovec){ .iov_base = fault->copy, .iov_len = done };
    disk->iov = &fault->copy_iov;
    disk->iov_count = 1;
    flip_bit(disk->iov, 1, fault->hits.bit);
    return 0;
}

/* Everything but a delay. */
static void fault_issue(struct blk_request *request)
{
    struct blk_fault *fault = &request->fault;
    int error = 0;

    if (fault_hit(&fault->hits, UMBRA_FAULT_IO_ERROR)) {
        error = -EIO;
    }
    if (error == 0 && fault_hit(&fault->hits, UMBRA_FAULT_SHORT) && moves_data(request)) {
        fault_shorten(request);
        error = request->disk.length == 0                           ? fault->error
                : fault->slice == NULL && request->disk.iov == NULL ? -ENOMEM
                                                                    : 0;
    }
    if (error == 0 && fault_hit(&fault->hits, UMBRA_FAULT_CORRUPT) &&
        request->disk.op == DISK_WRITE) {
        error = fault_spoil_write(request);
    }
    if (error != 0) {
        blk_request_done(&request->disk, error);
    } else {
        blk_request_issue(request);
    }
}

static void fault_timer(struct io_op *op, int result, bool more)
{
    struct blk_request *request = container_of(op, struct blk_request, fault.timer);
    struct blk_request **link = &request->queue->delayed;

    (void)result; /* the time has passed, or must not be waited for */
    (void)more;
    while (*link != request) {
        link = &(*link)->fault.next_delayed;
    }
    *link = request->fault.next_delayed;
    fault_issue(request);
}

static void fault_delay(struct blk_request *request)
{
    struct blk_fault *fault = &request->fault;
    struct blk_queue *bq = request->queue;
    struct io_uring_sqe *sqe;

    fault->timer.done = fault_timer;
    fault->delay.tv_sec = (long long)(fault->hits.delay_ns / 1000000000u);
    fault->delay.tv_nsec = (long long)(fault->hits.delay_ns % 1000000000u);
    fault->next_delayed = bq->delayed;
    bq->delayed = request;
    sqe = io_ring_sqe(&bq->ring, &fault->timer);
    io_uring_prep_timeout(sqe, &fault->delay, 0, 0);
    io_uring_sqe_set_data(sqe, &fault->timer);
}

bool blk_fault_takes(struct blk_request *request)
{
    struct blk_fault *fault = &request->fault;
    bool out = request->disk.op != DISK_READ;

    if (!virtio_queue_draw(request->queue->queue, out ? UMBRA_FAULT_OUT : UMBRA_FAULT_IN,
                           moves_data(request) ? request->disk.length : 0,
                           &fault->hits)) {
        return false;
    }
    if (fault_hit(&fault->hits, UMBRA_FAULT_DELAY) &&
        !atomic_load(&request->queue->stop)) {
        fault_delay(request);
    } else {
        fault_issue(request);
    }
    return true;
}

int blk_fault_done(struct blk_request *request, int error)
{
    struct blk_fault *fault = &request->fault;

    if (fault->hits.kinds == 0) {
        return error;
    }
    if (error == 0 && fault_hit(&fault->hits, UMBRA_FAULT_CORRUPT) &&
        request->disk.op == DISK_READ) {
        flip_bit(request->disk.iov, request->disk.iov_count, fault->hits.bit);
    }
    return error == 0 ? fault->error : error;
}

void blk_fault_clear(struct blk_request *request)
{
    struct blk_fault *fault = &request->fault;

    if (fault->hits.kinds == 0) {
        return;
    }
    free(fault->slice);
    free(fault->copy);
    fault->slice = NULL;
    fault->copy = NULL;
    fault->hits.kinds = 0;
    fault->error = 0;
    fault->hurried = false;
}

void blk_fault_hurry(struct blk_queue *bq)
{
    for (struct blk_request *request = bq->delayed; request != NULL;
         request = request->fault.next_delayed) {
        if (!request->fault.hurried) {
            struct io_uring_sqe *sqe = io_ring_sqe(&bq->ring, NULL);

            request->fault.hurried = true;
            io_uring_prep_timeout_remove(sqe, (uintptr_t)&request->fault.timer, 0);
            io_uring_sqe_set_data(sqe, NULL);
        }
    }
}
