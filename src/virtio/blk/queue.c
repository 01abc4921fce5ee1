/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk's queues: one thread each, which waits in its io_uring for kicks (a multishot
 * poll of kick_fd) and for finished I/O alike, so that under load one system call submits
 * a batch and fetches another. Before it sleeps it watches ring and completions for a
 * while if that paid lately: a kick is an exit of the guest and a wake-up here, which
 * cost more than a request out of the page cache.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/poll.h>

#include <linux/virtio_blk.h>

#include "base/thread.h"
#include "base/util.h"
#include "virtio/blk/queue.h"

enum { HEADER_SIZE = 16, RANGE_SIZE = 16, STOP_SECONDS = 5 };
enum { SHOW_BYTES = 65536 }; /* finished while a batch is started: shown in between */

/* ---- Requests ------------------------------------------------------------------------- */

static struct blk_request *request_get(struct blk_queue *bq)
{
    struct blk_request *request = bq->free;

    if (request != NULL) {
        bq->free = request->next_free;
        return request;
    }
    request = calloc(1, sizeof(*request));
    if (request != NULL) {
        request->queue = bq;
        request->next_all = bq->all;
        bq->all = request;
    }
    return request;
}

static void request_put(struct blk_queue *bq, struct blk_request *request)
{
    free(request->slice);
    request->slice = NULL;
    blk_fault_clear(request);
    request->next_free = bq->free;
    bq->free = request;
}

/* Answer with @status, the last byte of the writable part. */
static void request_finish(struct blk_request *request, uint8_t status)
{
    struct blk_queue *bq = request->queue;
    struct virtqueue_chain *chain = &request->chain;

    virtqueue_chain_write(chain, chain->writable_bytes - 1, &status, 1);
    if (status != VIRTIO_BLK_S_OK) {
        virtio_stat_add(&bq->queue->stats.errors, 1);
    }
    /* The status is at the end, so all of it counts as written: dirty tracking, too. */
    virtio_queue_push(bq->queue, chain, (uint32_t)chain->writable_bytes);
    virtio_stat_latency(&bq->queue->stats, clock_ns() - request->start_ns);
    bq->finished_bytes += chain->readable_bytes + chain->writable_bytes;
    request_put(bq, request);
}

static void request_issue_range(struct blk_request *request)
{
    const struct blk_range *range = &request->ranges[request->range_next++];

    request->disk.offset = range->offset;
    request->disk.length = range->length;
    request->disk.may_unmap = range->unmap;
    disk_submit(request->queue->disk, &request->disk);
}

void blk_request_done(struct disk_request *disk, int error)
{
    struct blk_request *request = container_of(disk, struct blk_request, disk);
    struct blk_queue *bq = request->queue;
    bool changes = request->type == VIRTIO_BLK_T_OUT ||
                   request->type == VIRTIO_BLK_T_DISCARD ||
                   request->type == VIRTIO_BLK_T_WRITE_ZEROES;

    error = blk_fault_done(request, error);
    if (error == 0 && request->range_next < request->range_count) {
        request_issue_range(request);
        return;
    }
    if (error == 0 && changes && !request->flushing &&
        !atomic_load(&bq->blk->writeback)) {
        request->flushing = true;
        request->disk.op = DISK_FLUSH;
        disk_submit(bq->disk, &request->disk);
        return;
    }
    bq->in_flight--;
    request_finish(request, error == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
}

void blk_request_issue(struct blk_request *request)
{
    if (request->range_count > 0) {
        request_issue_range(request);
    } else if (request->disk.op != DISK_FLUSH && request->disk.length > BLK_PIECE) {
        blk_pieces_issue(request);
    } else {
        disk_submit(request->queue->disk, &request->disk);
    }
}

static void request_submit(struct blk_request *request, enum disk_op op)
{
    request->disk.op = op;
    request->disk.done = blk_request_done;
    request->flushing = false;
    request->queue->in_flight++;
    if (!blk_fault_takes(request)) {
        blk_request_issue(request);
    }
}

bool blk_command_parse(const struct virtqueue_chain *chain, struct blk_command *command)
{
    uint8_t header[HEADER_SIZE];

    if (chain->writable_bytes == 0 ||
        virtqueue_chain_read(chain, 0, header, sizeof(header)) != sizeof(header)) {
        return false;
    }
    command->type = load_le32(header);
    command->sector = load_le64(header + 8);
    command->data_length =
        command->type == VIRTIO_BLK_T_IN || command->type == VIRTIO_BLK_T_GET_ID
            ? chain->writable_bytes - 1
            : chain->readable_bytes - HEADER_SIZE;
    return true;
}

/* Is [sector, sector + length bytes) inside the disk? Yields the byte offset. */
static bool range_inside(const struct disk *disk, uint64_t sector, uint64_t length,
                         uint64_t *offset)
{
    uint64_t size = atomic_load_explicit(&disk->size, memory_order_relaxed);

    if (sector > size / DISK_SECTOR || length > size - sector * DISK_SECTOR) {
        return false;
    }
    *offset = sector * DISK_SECTOR;
    return true;
}

/*
 * Point the disk request at the data. Drivers put header and status into descriptors of
 * their own, so their neighbours are the data as they are; any other layout (2.7.4) is
 * sliced.
 */
static int request_map_data(struct blk_request *request, bool reads)
{
    const struct virtqueue_chain *chain = &request->chain;
    struct disk_request *disk = &request->disk;
    struct iovec *readable = virtqueue_chain_readable(chain);
    struct iovec *writable = virtqueue_chain_writable(chain);

    if (reads && writable[chain->writable_count - 1].iov_len == 1) {
        disk->iov = writable;
        disk->iov_count = chain->writable_count - 1;
        return 0;
    }
    if (!reads && readable[0].iov_len == HEADER_SIZE) {
        disk->iov = readable + 1;
        disk->iov_count = chain->readable_count - 1;
        return 0;
    }
    request->slice = reads ? disk_iov_slice(writable, chain->writable_count, 0,
                                            disk->length, &disk->iov_count)
                           : disk_iov_slice(readable, chain->readable_count, HEADER_SIZE,
                                            disk->length, &disk->iov_count);
    disk->iov = request->slice;
    return request->slice == NULL ? -ENOMEM : 0;
}

static void request_transfer(struct blk_request *request,
                             const struct blk_command *command)
{
    const struct disk *disk = request->queue->blk->disk;
    bool reads = command->type == VIRTIO_BLK_T_IN;

    request->disk.length = command->data_length;
    if (command->data_length % DISK_SECTOR != 0 || (!reads && disk->readonly) ||
        !range_inside(disk, command->sector, command->data_length,
                      &request->disk.offset)) {
        request_finish(request, VIRTIO_BLK_S_IOERR);
    } else if (command->data_length == 0) {
        request_finish(request, VIRTIO_BLK_S_OK);
    } else if (request_map_data(request, reads) != 0) {
        request_finish(request, VIRTIO_BLK_S_IOERR);
    } else {
        request_submit(request, reads ? DISK_READ : DISK_WRITE);
    }
}

/* Discard and write zeroes (5.2.6.2): an array of ranges, copied out and checked. */
static uint8_t request_read_ranges(struct blk_request *request,
                                   const struct blk_command *command)
{
    const struct disk *disk = request->queue->blk->disk;
    unsigned count = (unsigned)(command->data_length / RANGE_SIZE);
    bool zeroes = command->type == VIRTIO_BLK_T_WRITE_ZEROES;

    if (command->data_length == 0 || command->data_length % RANGE_SIZE != 0 ||
        command->data_length / RANGE_SIZE > BLK_DISCARD_SEGMENTS || disk->readonly) {
        return VIRTIO_BLK_S_IOERR;
    }
    for (unsigned i = 0; i < count; i++) {
        struct blk_range *range = &request->ranges[request->range_count];
        uint8_t bytes[RANGE_SIZE];
        uint32_t flags;

        virtqueue_chain_read(&request->chain, HEADER_SIZE + (uint64_t)i * RANGE_SIZE,
                             bytes, sizeof(bytes));
        flags = load_le32(bytes + 12);
        if ((flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0 ||
            (flags != 0 && !zeroes)) {
            return VIRTIO_BLK_S_UNSUPP;
        }
        range->length = (uint64_t)load_le32(bytes + 8) * DISK_SECTOR;
        range->unmap = flags != 0;
        if (range->length > (uint64_t)BLK_DISCARD_SECTORS * DISK_SECTOR ||
            !range_inside(disk, load_le64(bytes), range->length, &range->offset)) {
            return VIRTIO_BLK_S_IOERR;
        }
        request->range_count += range->length > 0;
    }
    return VIRTIO_BLK_S_OK;
}

static void request_start(struct blk_request *request)
{
    struct virtio_blk *blk = request->queue->blk;
    struct blk_command command;
    uint8_t status;

    request->range_count = request->range_next = 0;
    request->start_ns = clock_ns();
    if (!blk_command_parse(&request->chain, &command)) {
        virtio_device_fail(&blk->device,
                           "a request has no header or no place for a status");
        request_put(request->queue, request);
        return;
    }
    request->type = command.type;
    switch (command.type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        request_transfer(request, &command);
        break;
    case VIRTIO_BLK_T_FLUSH:
        request_submit(request, DISK_FLUSH);
        break;
    case VIRTIO_BLK_T_GET_ID:
        if (command.data_length > sizeof(blk->serial)) {
            command.data_length = sizeof(blk->serial);
        }
        virtqueue_chain_write(&request->chain, 0, blk->serial, command.data_length);
        request_finish(request, VIRTIO_BLK_S_OK);
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        status = request_read_ranges(request, &command);
        if (status != VIRTIO_BLK_S_OK || request->range_count == 0) {
            request->range_count = 0;
            request_finish(request, status);
        } else {
            request_submit(request, command.type == VIRTIO_BLK_T_DISCARD
                                        ? DISK_DISCARD
                                        : DISK_WRITE_ZEROES);
        }
        break;
    default:
        request_finish(request, VIRTIO_BLK_S_UNSUPP);
        break;
    }
}

/* ---- The thread -------------------------------------------------------------------------- */

static void queue_kicked(struct io_op *op, int result, bool more)
{
    struct blk_queue *bq = container_of(op, struct blk_queue, kick);

    /* A multishot poll completes at every signal, so the eventfd need not be read. */
    bq->kick_armed = more;
    if (result > 0) {
        virtio_queue_notified(bq->queue);
    }
}

static void queue_arm_kick(struct blk_queue *bq)
{
    struct io_uring_sqe *sqe;

    if (bq->kick_armed) {
        return;
    }
    sqe = io_ring_sqe(&bq->ring, &bq->kick);
    io_uring_prep_poll_multishot(sqe, bq->queue->kick_fd, POLLIN);
    io_uring_sqe_set_data(sqe, &bq->kick);
    bq->kick_armed = true;
}

/* A guest's reset and the VM's end wait for requests in flight, but not for ever. */
static void queue_overdue(struct io_op *op, int result, bool more)
{
    struct blk_queue *bq = container_of(op, struct blk_queue, deadline);

    (void)result;
    (void)more;
    if (bq->in_flight > 0) {
        bq->disk->disk->ops->abort(bq->disk);
    }
}

static void queue_arm_deadline(struct blk_queue *bq)
{
    static const struct __kernel_timespec patience = { .tv_sec = STOP_SECONDS };
    struct io_uring_sqe *sqe;

    if (bq->deadline_armed || bq->disk->disk->ops->abort == NULL) {
        return;
    }
    bq->deadline_armed = true;
    bq->deadline.done = queue_overdue;
    sqe = io_ring_sqe(&bq->ring, &bq->deadline);
    io_uring_prep_timeout(sqe, (struct __kernel_timespec *)(uintptr_t)&patience, 0, 0);
    io_uring_sqe_set_data(sqe, &bq->deadline);
}

static void queue_show(struct blk_queue *bq)
{
    bq->finished_bytes = 0;
    virtio_queue_flush(bq->queue);
}

/* Start all that the driver made available; true if there was anything. */
static bool queue_drain(struct blk_queue *bq)
{
    bool any = false;

    if (!bq->kicks_off) {
        bq->kicks_off = true;
        virtio_queue_disable_kicks(bq->queue);
    }
    for (;;) {
        struct blk_request *request = request_get(bq);

        if (request == NULL) {
            virtio_device_fail(&bq->blk->device, "no memory for a request");
            return any;
        }
        if (!virtio_queue_pop(bq->queue, &request->chain)) {
            request_put(bq, request);
            return any;
        }
        any = true;
        request_start(request);
        if (bq->finished_bytes >= SHOW_BYTES) {
            queue_show(bq);
        }
    }
}

/* Sleep until there is a kick or a completion; as io_ring_turn(). */
static int queue_sleep(struct blk_queue *bq, bool stop)
{
    watch_missed(&bq->watch);
    if (!stop) {
        bq->kicks_off = false;
        if (virtio_queue_enable_kicks(bq->queue)) {
            return 0;
        }
    }
    return io_ring_turn(&bq->ring, true);
}

static void *queue_thread(void *context)
{
    struct blk_queue *bq = context;
    int ret = io_ring_start(&bq->ring);

    while (ret >= 0) {
        bool stop = atomic_load(&bq->stop);
        bool busy = !stop && queue_drain(bq);

        if (stop && bq->in_flight == 0) {
            queue_show(bq);
            break;
        }
        if (stop) {
            queue_arm_deadline(bq);
            blk_fault_hurry(bq);
        }
        queue_arm_kick(bq);
        ret = io_ring_turn(&bq->ring, false);
        queue_show(bq);
        if (busy || ret > 0) {
            watch_found(&bq->watch);
        } else if (ret == 0 && (stop || !watch_goes_on(&bq->watch))) {
            ret = queue_sleep(bq, stop);
        }
    }
    if (ret < 0) {
        char why[96];

        snprintf(why, sizeof(why), "queue %u: io_uring: %s", bq->queue->index,
                 strerror(-ret));
        virtio_device_fail(&bq->blk->device, why);
    }
    io_ring_stop(&bq->ring);
    return NULL;
}

static void queue_free(struct blk_queue *bq)
{
    if (bq->disk != NULL) {
        bq->disk->disk->ops->queue_close(bq->disk);
    }
    io_ring_fini(&bq->ring);
    while (bq->all != NULL) {
        struct blk_request *request = bq->all;

        bq->all = request->next_all;
        virtqueue_chain_fini(&request->chain);
        free(request->slice);
        blk_fault_clear(request);
        free(request);
    }
    free(bq);
}

static int queue_thread_create(struct blk_queue *bq)
{
    char name[16];

    snprintf(name, sizeof(name), "%.10s:%u", bq->blk->device.id, bq->queue->index % 1000);
    return thread_start(&bq->thread, name, queue_thread, bq);
}

int blk_queue_start(struct virtio_device *device, struct virtio_queue *queue)
{
    struct virtio_blk *blk = container_of(device, struct virtio_blk, device);
    struct blk_queue *bq = calloc(1, sizeof(*bq));
    int ret;

    if (bq == NULL) {
        return -ENOMEM;
    }
    bq->blk = blk;
    bq->queue = queue;
    bq->kick.done = queue_kicked;
    watch_init(&bq->watch, blk->poll);
    ret = io_ring_init(&bq->ring, queue->size < 16 ? 32 : 2u * queue->size);
    if (ret == 0) {
        ret = blk->disk->ops->queue_open(blk->disk, &bq->ring, &bq->disk);
    }
    if (ret == 0) {
        ret = queue_thread_create(bq);
    }
    if (ret != 0) {
        queue_free(bq);
        return ret;
    }
    queue->opaque = bq;
    return 0;
}

void blk_queue_stop(struct virtio_device *device, struct virtio_queue *queue)
{
    struct blk_queue *bq = queue->opaque;

    (void)device;
    atomic_store(&bq->stop, true);
    virtio_queue_rekick(queue);
    pthread_join(bq->thread, NULL);
    queue->opaque = NULL;
    queue_free(bq);
}
