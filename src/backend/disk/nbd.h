/* SPDX-License-Identifier: MIT */
/* Inside the NBD back end: connections in use (nbd.c) and opening (nbd_open.c). */
#ifndef BACKEND_DISK_NBD_H
#define BACKEND_DISK_NBD_H

#include <libnbd.h>
#include <stdatomic.h>

#include "backend/disk/disk.h"
#include "base/util.h"

/* What is called of libnbd, which is loaded with the first NBD disk. */
/* clang-format off */
#define NBD_FUNCTIONS(X) \
    X(create) X(close) X(aio_connect_uri) X(aio_is_ready) X(aio_is_dead) \
    X(aio_is_closed) X(poll) X(aio_get_direction) X(aio_get_fd) X(aio_notify_read) \
    X(aio_notify_write) X(aio_pread) X(aio_pwrite) X(aio_flush) X(aio_trim) \
    X(aio_zero) X(get_errno) X(get_error) X(get_size) X(get_block_size) \
    X(is_read_only) X(can_trim) X(can_zero) X(can_flush) X(can_multi_conn)
/* clang-format on */

struct nbd_library {
#define NBD_POINTER(function) typeof(&nbd_##function) function;
    NBD_FUNCTIONS(NBD_POINTER)
};

struct disk_nbd {
    struct disk disk;
    struct nbd_library lib;
    char *uri;
    bool can_flush;
    /* Writes that were answered, and how many of them the last flush was behind. */
    atomic_ullong written, flushed;
    atomic_bool suspect; /* a server went away with some that were not flushed */
};

extern const struct disk_ops disk_nbd_ops;

static inline struct disk_nbd *nbd_of(struct disk *disk)
{
    return container_of(disk, struct disk_nbd, disk);
}

/* A connection that is ready, made in a few seconds or NULL; nbd_why() says why. */
struct nbd_handle *nbd_open_handle(const struct disk_nbd *nbd);
const char *nbd_why(const struct nbd_library *lib);

#endif
