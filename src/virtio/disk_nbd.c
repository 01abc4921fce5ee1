/* SPDX-License-Identifier: MIT */
/*
 * NBD exports by libnbd: a connection a queue, driven by polls in the queue's io_ring. A
 * connection that dies fails what is in flight and what comes after, until the driver
 * resets the device, which connects anew; a reset does not wait for a server that hangs.
 */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/library.h"
#include "base/util.h"
#include "virtio/disk.h"

enum {
    NBD_REQUEST_MAX = 32 << 20, /* what servers take at least */
    NBD_CONNECT_MS = 5000,
};

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

static const struct library_symbol nbd_symbols[] = {
#define NBD_SYMBOL(function) { "nbd_" #function, offsetof(struct nbd_library, function) },
    NBD_FUNCTIONS(NBD_SYMBOL)
};

struct disk_nbd {
    struct disk disk;
    struct nbd_library lib;
    char *uri;
    bool can_flush;
};

struct nbd_queue {
    struct disk_queue queue;
    const struct nbd_library *lib; /* the disk's */
    struct nbd_handle *handle;
    struct io_op reads, writes;
    bool read_armed, write_armed;
    bool dead_logged;
};

static struct disk_nbd *nbd_of(struct disk *disk)
{
    return container_of(disk, struct disk_nbd, disk);
}

static struct nbd_queue *queue_of(struct disk_request *request)
{
    return container_of(request->queue, struct nbd_queue, queue);
}

/* ---- The connection in the ring ------------------------------------------------------- */

static void nbd_arm(struct nbd_queue *nq);

static void nbd_ready(struct nbd_queue *nq, int result)
{
    unsigned direction = nq->lib->aio_get_direction(nq->handle);

    if (result < 0) {
        result = POLLERR;
    }
    if ((result & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        nq->lib->aio_notify_read(nq->handle);
    } else if ((result & POLLOUT) != 0 && (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        nq->lib->aio_notify_write(nq->handle);
    }
    nbd_arm(nq);
}

static void nbd_readable(struct io_op *op, int result, bool more)
{
    struct nbd_queue *nq = container_of(op, struct nbd_queue, reads);

    (void)more;
    nq->read_armed = false;
    nbd_ready(nq, result);
}

static void nbd_writable(struct io_op *op, int result, bool more)
{
    struct nbd_queue *nq = container_of(op, struct nbd_queue, writes);

    (void)more;
    nq->write_armed = false;
    nbd_ready(nq, result);
}

static void nbd_watch(struct nbd_queue *nq, struct io_op *op, unsigned events)
{
    struct io_uring_sqe *sqe = io_ring_sqe(nq->queue.ring, op);

    io_uring_prep_poll_add(sqe, nq->lib->aio_get_fd(nq->handle), events);
    io_uring_sqe_set_data(sqe, op);
}

/* Wait for what libnbd waits for. */
static void nbd_arm(struct nbd_queue *nq)
{
    unsigned direction;

    if (nq->lib->aio_is_dead(nq->handle) != 0 ||
        nq->lib->aio_is_closed(nq->handle) != 0) {
        if (!nq->dead_logged) {
            nq->dead_logged = true;
            log_error(nq->queue.disk->log, "%s: the NBD connection is lost",
                      nq->queue.disk->name);
        }
        return;
    }
    direction = nq->lib->aio_get_direction(nq->handle);
    if (!nq->read_armed && (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        nq->read_armed = true;
        nbd_watch(nq, &nq->reads, POLLIN);
    }
    if (!nq->write_armed && (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        nq->write_armed = true;
        nbd_watch(nq, &nq->writes, POLLOUT);
    }
}

/* ---- Requests ------------------------------------------------------------------------- */

static void request_end(struct disk_request *request)
{
    char *at = request->bounce;

    if (--request->pending > 0) {
        return;
    }
    for (unsigned i = 0; at != NULL && request->op == DISK_READ && request->error == 0 &&
                         i < request->iov_count;
         i++) {
        memcpy(request->iov[i].iov_base, at, request->iov[i].iov_len);
        at += request->iov[i].iov_len;
    }
    free(request->bounce);
    request->bounce = NULL;
    request->done(request, request->error);
}

static int nbd_completed(void *context, int *error)
{
    struct disk_request *request = context;

    if (*error != 0 && request->error == 0) {
        request->error = -*error;
    }
    request_end(request);
    return 1; /* libnbd forgets the command */
}

/* One command of at most NBD_REQUEST_MAX bytes, @at bytes into the request. */
static int64_t nbd_issue(struct disk_request *request, char *buffer, uint64_t at,
                         uint64_t length)
{
    const struct nbd_library *lib = queue_of(request)->lib;
    struct nbd_handle *handle = queue_of(request)->handle;
    nbd_completion_callback done = { .callback = nbd_completed, .user_data = request };
    uint64_t offset = request->offset + at;

    switch (request->op) {
    case DISK_READ:
        return lib->aio_pread(handle, buffer + at, length, offset, done, 0);
    case DISK_WRITE:
        return lib->aio_pwrite(handle, buffer + at, length, offset, done, 0);
    case DISK_FLUSH:
        return lib->aio_flush(handle, done, 0);
    case DISK_DISCARD:
        return lib->aio_trim(handle, length, offset, done, 0);
    default:
        return lib->aio_zero(handle, length, offset, done,
                             request->may_unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
    }
}

/* NBD takes one buffer a command; several go through a bounce buffer. */
static char *nbd_buffer(struct disk_request *request)
{
    char *at;

    if (request->op != DISK_READ && request->op != DISK_WRITE) {
        return NULL;
    }
    if (request->iov_count == 1) {
        return request->iov[0].iov_base;
    }
    at = request->bounce = malloc(request->length);
    for (unsigned i = 0;
         at != NULL && request->op == DISK_WRITE && i < request->iov_count; i++) {
        memcpy(at, request->iov[i].iov_base, request->iov[i].iov_len);
        at += request->iov[i].iov_len;
    }
    return request->bounce;
}

static void nbd_submit(struct disk_queue *queue, struct disk_request *request)
{
    struct nbd_queue *nq = container_of(queue, struct nbd_queue, queue);
    char *buffer;
    uint64_t at = 0;

    request->queue = queue;
    request->bounce = NULL;
    request->error = 0;
    request->pending = 1; /* our own, while commands are issued */
    buffer = nbd_buffer(request);
    if (request->op == DISK_FLUSH) {
        request->length = 0;
    }
    if (buffer == NULL && (request->op == DISK_READ || request->op == DISK_WRITE)) {
        request->error = -ENOMEM;
    } else if (request->op != DISK_FLUSH || nbd_of(queue->disk)->can_flush) {
        do {
            uint64_t left = request->length - at;
            uint64_t length = left < NBD_REQUEST_MAX ? left : NBD_REQUEST_MAX;

            request->pending++;
            if (nbd_issue(request, buffer, at, length) < 0) {
                int error = nq->lib->get_errno();

                request->pending--; /* its callback does not come */
                request->error = error != 0 ? -error : -EIO;
                break;
            }
            at += length;
        } while (at < request->length);
    }
    nbd_arm(nq);
    request_end(request);
}

/* A server that hangs: with its end of the stream gone, libnbd fails every command. */
static void nbd_abort(struct disk_queue *queue)
{
    struct nbd_queue *nq = container_of(queue, struct nbd_queue, queue);
    int fd = nq->lib->aio_get_fd(nq->handle);

    log_error(queue->disk->log, "%s: the NBD server does not answer", queue->disk->name);
    if (fd >= 0) {
        shutdown(fd, SHUT_RDWR);
    }
}

/* ---- Opening -------------------------------------------------------------------------- */

/* Connect and shake hands, for so long and no longer. */
static bool nbd_connect(const struct nbd_library *lib, struct nbd_handle *handle,
                        const char *uri)
{
    uint64_t deadline = clock_ns() + (uint64_t)NBD_CONNECT_MS * 1000000u;

    if (lib->aio_connect_uri(handle, uri) != 0) {
        return false;
    }
    while (lib->aio_is_ready(handle) != 1) {
        if (lib->aio_is_dead(handle) != 0 || lib->aio_is_closed(handle) != 0 ||
            clock_ns() >= deadline || lib->poll(handle, 200) < 0) {
            return false;
        }
    }
    return true;
}

static struct nbd_handle *nbd_open_handle(const struct disk_nbd *nbd)
{
    const struct nbd_library *lib = &nbd->lib;
    struct nbd_handle *handle = lib->create();

    if (handle != NULL && !nbd_connect(lib, handle, nbd->uri)) {
        lib->close(handle);
        handle = NULL;
    }
    return handle;
}

static const char *nbd_why(const struct nbd_library *lib)
{
    const char *why = lib->get_error();

    return why != NULL ? why : "the server does not answer";
}

static void nbd_queue_close(struct disk_queue *queue)
{
    struct nbd_queue *nq = container_of(queue, struct nbd_queue, queue);

    nq->lib->close(nq->handle);
    free(nq);
}

static int nbd_queue_open(struct disk *disk, struct io_ring *ring,
                          struct disk_queue **queue)
{
    struct nbd_queue *nq = calloc(1, sizeof(*nq));

    if (nq == NULL) {
        return -ENOMEM;
    }
    nq->lib = &nbd_of(disk)->lib;
    nq->handle = nbd_open_handle(nbd_of(disk));
    if (nq->handle == NULL) {
        log_error(disk->log, "%s: %s", disk->name, nbd_why(nq->lib));
        free(nq);
        return -EIO;
    }
    nq->queue.disk = disk;
    nq->queue.ring = ring;
    nq->reads.done = nbd_readable;
    nq->writes.done = nbd_writable;
    *queue = &nq->queue;
    return 0;
}

/* The protocol has no news of a size; a new connection has. */
static int nbd_refresh(struct disk *disk)
{
    const struct nbd_library *lib = &nbd_of(disk)->lib;
    struct nbd_handle *handle = nbd_open_handle(nbd_of(disk));
    int64_t size = handle == NULL ? -1 : lib->get_size(handle);

    if (handle != NULL) {
        lib->close(handle);
    }
    if (size < 0) {
        return -EIO;
    }
    atomic_store(&disk->size, align_down((uint64_t)size, DISK_SECTOR));
    return 0;
}

static void nbd_destroy(struct disk *disk)
{
    struct disk_nbd *nbd = nbd_of(disk);

    free(nbd->uri);
    free(nbd);
}

static const struct disk_ops nbd_ops = {
    .type = "nbd",
    .queue_open = nbd_queue_open,
    .queue_close = nbd_queue_close,
    .submit = nbd_submit,
    .abort = nbd_abort,
    .refresh = nbd_refresh,
    .destroy = nbd_destroy,
};

static int nbd_learn(struct disk_nbd *nbd, struct nbd_handle *handle, bool readonly,
                     struct umbra_error *error)
{
    const struct nbd_library *lib = &nbd->lib;
    struct disk *disk = &nbd->disk;
    int64_t size = lib->get_size(handle);
    int64_t preferred = lib->get_block_size(handle, LIBNBD_SIZE_PREFERRED);
    int64_t minimum = lib->get_block_size(handle, LIBNBD_SIZE_MINIMUM);

    if (size < 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EIO, "disk %s: no size: %s", nbd->uri,
                         nbd_why(lib));
    }
    if (!readonly && lib->is_read_only(handle) != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EROFS,
                         "disk %s: the export is read-only (say readonly)", nbd->uri);
    }
    atomic_init(&disk->size, align_down((uint64_t)size, DISK_SECTOR));
    disk->readonly = readonly;
    disk->can_discard = lib->can_trim(handle) == 1;
    disk->can_write_zeroes = lib->can_zero(handle) == 1;
    nbd->can_flush = lib->can_flush(handle) == 1;
    disk->max_queues = lib->can_multi_conn(handle) == 1 ? 0 : 1;
    disk->block_size = minimum > DISK_SECTOR ? (unsigned)minimum : DISK_SECTOR;
    disk->physical_block_size =
        preferred > (int64_t)disk->block_size ? (unsigned)preferred : disk->block_size;
    disk->discard_alignment = disk->physical_block_size;
    return 0;
}

int disk_nbd_open(const char *uri, bool readonly, const struct log *log,
                  struct disk **disk, struct umbra_error *error)
{
    struct disk_nbd *nbd = calloc(1, sizeof(*nbd));
    struct nbd_handle *handle = NULL;
    int ret = -ENOMEM;

    if (nbd == NULL || (nbd->uri = strdup(uri)) == NULL) {
        free(nbd);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open disk %s", uri);
    }
    nbd->disk.ops = &nbd_ops;
    nbd->disk.log = log;
    nbd->disk.name = nbd->uri;
    ret = library_load("libnbd.so.0", "libnbd0", nbd_symbols, ARRAY_SIZE(nbd_symbols),
                       &nbd->lib, error);
    if (ret != 0) {
        error_prefix(error, "disk %s", uri);
        nbd_destroy(&nbd->disk);
        return ret;
    }
    handle = nbd_open_handle(nbd);
    if (handle == NULL) {
        ret = error_set(error, UMBRA_ERROR_CONFIG, EIO, "connect disk %s: %s", uri,
                        nbd_why(&nbd->lib));
    } else {
        ret = nbd_learn(nbd, handle, readonly, error);
        nbd->lib.close(handle);
    }
    if (ret != 0) {
        nbd_destroy(&nbd->disk);
        return ret;
    }
    *disk = &nbd->disk;
    return 0;
}
