/* SPDX-License-Identifier: MIT */
/* Inside virtio-blk's queues: the thread (queue.c) and planned faults (faults.c). */
#ifndef VIRTIO_BLK_QUEUE_H
#define VIRTIO_BLK_QUEUE_H

#include "virtio/blk/blk.h"
#include "virtio/watch.h"

/* What is planned to go wrong with a request; all zero: nothing. */
struct blk_fault {
    struct fault_hits hits;
    int error;           /* the request fails with it whatever the disk says; 0: not */
    struct iovec *slice; /* of a short transfer */
    uint8_t *copy;       /* of what is written, to be spoilt */
    struct iovec copy_iov;
    struct io_op timer; /* of a delay */
    struct __kernel_timespec delay;
    struct blk_request *next_delayed;
    bool hurried;
};

struct blk_range { /* of a discard or write-zeroes command */
    uint64_t offset, length;
    bool unmap;
};

enum { BLK_PIECE = 2 << 20 };

/* A transfer of more than that: what it is as a whole, and how far it is. */
struct blk_pieces {
    const struct iovec *iov;
    unsigned iov_count;
    uint64_t offset, length, submitted;
    struct iovec *slice; /* the buffers of the piece in flight */
    int error;
    bool ended, looping;
};

struct blk_request {
    struct disk_request disk;
    struct virtqueue_chain chain;
    struct blk_queue *queue;
    struct blk_request *next_free, *next_all;
    uint64_t start_ns;
    uint32_t type;
    bool flushing;       /* the write is done, its flush is not */
    struct iovec *slice; /* the data, when the driver's layout is unusual */
    struct blk_range ranges[BLK_DISCARD_SEGMENTS];
    unsigned range_count, range_next;
    struct blk_pieces pieces;
    struct blk_fault fault;
};

struct blk_queue {
    struct virtio_blk *blk;
    struct virtio_queue *queue;
    struct io_ring ring;
    struct disk_queue *disk;
    struct io_op kick;
    bool kick_armed;
    struct io_op deadline; /* of the last requests, once it has to stop */
    bool deadline_armed;
    atomic_bool stop; /* set by blk_queue_stop, which then signals kick_fd */
    pthread_t thread;
    unsigned in_flight;
    struct blk_request *free, *all;
    struct blk_request *delayed; /* by planned faults */
    uint64_t finished_bytes;     /* of requests that the driver was not shown yet */
    bool kicks_off;
    struct watch watch;
};

/* Submit what the request says, or its first range. */
void blk_request_issue(struct blk_request *request);
/* disk_request.done of every request. */
void blk_request_done(struct disk_request *disk, int error);

/* pieces.c: submit a transfer of more than BLK_PIECE bytes. */
void blk_pieces_issue(struct blk_request *request);

/* Planned faults of a request about to be issued: true when it is taken care of. */
bool blk_fault_takes(struct blk_request *request);
/* The disk is done: what the request's end is after its faults. */
int blk_fault_done(struct blk_request *request, int error);
void blk_fault_clear(struct blk_request *request);
/* The queue stops: delays are over. */
void blk_fault_hurry(struct blk_queue *bq);

#endif
