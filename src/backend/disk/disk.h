/* SPDX-License-Identifier: MIT */
/*
 * Disk back ends: where a block device's bytes are. A disk is opened once and used
 * through queues, one a thread, each over that thread's io_ring. Requests are
 * asynchronous: their callback runs on the queue's thread, possibly before submit
 * returns. An error is always reported, never swallowed: a request either did all of
 * what it says or fails.
 */
#ifndef BACKEND_DISK_DISK_H
#define BACKEND_DISK_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include <umbra/umbra.h>

#include "base/log.h"
#include "loop/io_ring.h"

enum { DISK_SECTOR = 512 };

struct disk;
struct disk_queue;

enum disk_op {
    DISK_READ,
    DISK_WRITE,
    DISK_FLUSH,   /* everything completed before is durable afterwards */
    DISK_DISCARD, /* a hint: contents may become anything, space may be given back */
    DISK_WRITE_ZEROES,
};

struct disk_request {
    enum disk_op op;
    uint64_t offset, length; /* inside the disk; iov holds exactly length bytes */
    const struct iovec *iov; /* READ, WRITE; stays until done */
    unsigned iov_count;
    bool may_unmap; /* WRITE_ZEROES: a hole will do */
    void (*done)(struct disk_request *request, int error); /* 0 or -errno */

    /* The back end's while in flight. */
    struct io_op io;
    struct disk_queue *queue;
    uint64_t progress;  /* bytes done already */
    struct iovec *rest; /* iov behind them */
    unsigned rest_count;
    void *bounce;
    struct disk_request *parent, *next;
    unsigned pending; /* children in flight */
    int error;        /* the first of theirs */
};

struct disk_ops {
    const char *type; /* "file", "overlay", "nbd" */
    /* A queue for the thread that will own @ring; called before io_ring_start(). */
    int (*queue_open)(struct disk *disk, struct io_ring *ring, struct disk_queue **queue);
    void (*queue_close)(struct disk_queue *queue); /* nothing is in flight */
    void (*submit)(struct disk_queue *queue, struct disk_request *request);
    /* Waiting is over: have all that is in flight fail soon, and all that follows. NULL
     * where requests always end by themselves. */
    void (*abort)(struct disk_queue *queue);
    /* Look at the size again; @disk->size changes. Any thread. */
    int (*refresh)(struct disk *disk);
    /* Make it @bytes long, more than it is; refresh() follows. NULL: it cannot. */
    int (*grow)(struct disk *disk, uint64_t bytes);
    void (*destroy)(struct disk *disk);
};

/* What the back end is like: facts for the guest. */
struct disk {
    const struct disk_ops *ops;
    const struct log *log;
    const char *name;      /* for messages: the path or URI; owned by the back end */
    _Atomic uint64_t size; /* bytes, a multiple of DISK_SECTOR */
    bool readonly;
    bool can_discard, can_write_zeroes;
    unsigned block_size;          /* logical: requests are multiples of it */
    unsigned physical_block_size; /* what is written without reading first */
    unsigned optimal_size;        /* preferred request, bytes; 0: nothing known */
    unsigned discard_alignment;   /* bytes */
    unsigned max_queues;          /* that may write at once; 0: any number */
};

struct disk_queue {
    struct disk *disk;
    struct io_ring *ring;
};

static inline void disk_submit(struct disk_queue *queue, struct disk_request *request)
{
    queue->disk->ops->submit(queue, request);
}

/* NULL is fine. */
void disk_destroy(struct disk *disk);

struct disk_file_options {
    const char *path;
    bool readonly;
    bool direct;                              /* bypass the host's page cache */
    unsigned block_size, physical_block_size; /* 0: as the host's file wants it */
};
/* A raw image or a block device. */
int disk_file_open(const struct disk_file_options *options, const struct log *log,
                   struct disk **disk, struct umbra_error *error);

struct disk_overlay_options {
    const char *path; /* NULL: what is written vanishes with the disk; else it is kept
                         there, in the format of docs/disks.md */
    uint64_t size;    /* at least so many bytes, the base's or more; 0: as it is */
};
/* Copy on write over @base, which is only read (and taken over, also on failure). */
int disk_overlay_open(struct disk *base, const struct disk_overlay_options *options,
                      const struct log *log, struct disk **disk,
                      struct umbra_error *error);

/* An NBD export, by URI ("nbd://host/name", "nbd+unix:///name?socket=path"). */
int disk_nbd_open(const char *uri, bool readonly, const struct log *log,
                  struct disk **disk, struct umbra_error *error);

/* Helpers for back ends. */

/* A copy of @iov without its first @skip bytes, at most @max bytes of it; free() it.
 * NULL: out of memory. */
struct iovec *disk_iov_slice(const struct iovec *iov, unsigned count, uint64_t skip,
                             uint64_t max, unsigned *out_count);

#endif
