/* SPDX-License-Identifier: MIT */
/*
 * An io_uring that belongs to one thread: operations are objects with a callback, and
 * submissions are gathered until the thread waits. Everything but io_ring_init() and
 * io_ring_register_file() runs on the thread that called io_ring_start().
 */
#ifndef LOOP_IO_RING_H
#define LOOP_IO_RING_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

struct io_op {
    /* @result as the operation's CQE has it; @more: a multishot operation goes on. */
    void (*done)(struct io_op *op, int result, bool more);
};

enum { IO_RING_FILES = 4 };

struct io_ring {
    struct io_uring uring;
    bool open;
    unsigned file_count; /* registered */
    int files[IO_RING_FILES];
};

/* Make a ring of @entries that is not started yet. 0 or -errno. */
int io_ring_init(struct io_ring *ring, unsigned entries);
/* Have the kernel hold on to @fd: saves a lookup an operation. Before io_ring_start(). */
void io_ring_register_file(struct io_ring *ring, int fd);
/* The calling thread owns the ring from here on. */
int io_ring_start(struct io_ring *ring);
/* The owner's last call: lets go of the registered files at once, where the kernel would
 * do that some time after io_ring_fini(). */
void io_ring_stop(struct io_ring *ring);
void io_ring_fini(struct io_ring *ring); /* nothing is in flight any more */

/* A submission entry for @op; never NULL (a full queue is submitted first). */
struct io_uring_sqe *io_ring_sqe(struct io_ring *ring, struct io_op *op);
/* Point a prepared entry at @fd, registered or not. */
void io_ring_sqe_file(const struct io_ring *ring, struct io_uring_sqe *sqe, int fd);

/* Submit what was gathered, and run the callbacks of what is finished; with @wait, of at
 * least one. Returns how many ran, or -errno. */
int io_ring_turn(struct io_ring *ring, bool wait);

#endif
