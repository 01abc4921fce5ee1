/* SPDX-License-Identifier: MIT */
/*
 * NBD exports by libnbd: a connection a queue, driven by polls in the queue's io_ring. When
 * it is lost, requests are held and the server is tried again every second; connected anew,
 * they are sent once more, and after NBD_HOLD_SECONDS they fail, as do those that come.
 * What was written and not flushed before the loss may be lost with the server: the next
 * flush says so by failing. A reset does not wait for a server that hangs.
 *
 * A connection knows the size that the export had when it was made. When the disk has grown
 * since and somebody asks for what is behind that size, the connection is made anew, between
 * requests.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/disk/nbd.h"

enum {
    NBD_REQUEST_MAX = 32 << 20, /* what servers take at least */
    NBD_AGAIN_MS = 200,         /* to the first attempt to connect anew, */
    NBD_RETRY_MS = 1000,        /* and between those after it */
    NBD_HOLD_SECONDS = 30,
};

enum nbd_state {
    NBD_READY,
    NBD_LOST,       /* the old connection's polls are still in the ring */
    NBD_WAITING,    /* for the timer */
    NBD_CONNECTING, /* shaking hands */
};

struct nbd_queue {
    struct disk_queue queue;
    const struct nbd_library *lib; /* the disk's */
    struct nbd_handle *handle;
    enum nbd_state state;
    struct io_op reads, writes, timer;
    bool read_armed, write_armed;
    struct __kernel_timespec pause;
    unsigned again_ms; /* from the loss to the first attempt to connect anew */
    uint64_t lost_ns;
    bool giving_up; /* the queue stops */
    uint64_t size;  /* of the export, as this connection has it */
    bool renewing; /* the disk is larger by now: new requests wait for a new connection */
    unsigned in_flight;
    struct disk_request *held, **held_end;
};

static struct nbd_queue *queue_of(struct disk_request *request)
{
    return container_of(request->queue, struct nbd_queue, queue);
}

/* ---- The connection in the ring ------------------------------------------------------- */

static void nbd_step(struct nbd_queue *nq);

static void nbd_ready(struct nbd_queue *nq, int result)
{
    unsigned direction;

    if (nq->state == NBD_LOST) {
        nbd_step(nq);
        return;
    }
    direction = nq->lib->aio_get_direction(nq->handle);

    if (result < 0) {
        result = POLLERR;
    }
    if ((result & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        nq->lib->aio_notify_read(nq->handle);
    } else if ((result & POLLOUT) != 0 && (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        nq->lib->aio_notify_write(nq->handle);
    }
    nbd_step(nq);
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
    unsigned direction = nq->lib->aio_get_direction(nq->handle);

    if (!nq->read_armed && (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        nq->read_armed = true;
        nbd_watch(nq, &nq->reads, POLLIN);
    }
    if (!nq->write_armed && (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        nq->write_armed = true;
        nbd_watch(nq, &nq->writes, POLLOUT);
    }
}

static bool nbd_is_gone(const struct nbd_queue *nq)
{
    return nq->lib->aio_is_dead(nq->handle) != 0 ||
           nq->lib->aio_is_closed(nq->handle) != 0;
}

/* ---- Connecting anew ------------------------------------------------------------------ */

static void nbd_start(struct disk_request *request);

static bool nbd_holds(const struct nbd_queue *nq)
{
    return !nq->giving_up &&
           (nq->state == NBD_READY ||
            clock_ns() - nq->lost_ns < (uint64_t)NBD_HOLD_SECONDS * 1000000000u);
}

static void nbd_hold(struct nbd_queue *nq, struct disk_request *request)
{
    request->next = NULL;
    *nq->held_end = request;
    nq->held_end = &request->next;
}

/* Send what was held, or have it fail. */
static void nbd_release(struct nbd_queue *nq, bool send)
{
    struct disk_request *request = nq->held, *next;

    nq->held = NULL;
    nq->held_end = &nq->held;
    for (; request != NULL; request = next) {
        next = request->next;
        if (send) {
            nbd_start(request);
        } else {
            request->done(request, -EIO);
        }
    }
}

static void nbd_arm_timer(struct nbd_queue *nq, unsigned ms)
{
    struct io_uring_sqe *sqe = io_ring_sqe(nq->queue.ring, &nq->timer);

    nq->pause = (struct __kernel_timespec){ .tv_sec = ms / 1000,
                                            .tv_nsec = ms % 1000 * 1000000L };
    io_uring_prep_timeout(sqe, &nq->pause, 0, 0);
    io_uring_sqe_set_data(sqe, &nq->timer);
}

static void nbd_wait(struct nbd_queue *nq, unsigned ms)
{
    nq->state = NBD_WAITING;
    nbd_arm_timer(nq, ms);
}

static void nbd_cancel(struct nbd_queue *nq, struct io_op *op)
{
    struct io_uring_sqe *sqe = io_ring_sqe(nq->queue.ring, NULL);

    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data(sqe, NULL);
}

/* Away with the old connection, once its polls have ended; not inside of libnbd. */
static void nbd_lost(struct nbd_queue *nq, unsigned pause_ms)
{
    if (nq->state != NBD_LOST) {
        nq->state = NBD_LOST;
        nq->again_ms = pause_ms;
        if (nq->read_armed) {
            nbd_cancel(nq, &nq->reads);
        }
        if (nq->write_armed) {
            nbd_cancel(nq, &nq->writes);
        }
    }
    if (!nq->read_armed && !nq->write_armed) {
        nq->lib->close(nq->handle);
        nq->handle = NULL;
        nbd_wait(nq, pause_ms);
    }
}

static void nbd_connected(struct nbd_queue *nq)
{
    struct disk *disk = nq->queue.disk;
    int64_t size = nq->lib->get_size(nq->handle);

    if (size < 0 || (uint64_t)size < atomic_load(&disk->size)) {
        log_error(disk->log, "%s: what the server has now is smaller", disk->name);
        nbd_lost(nq, NBD_RETRY_MS);
        return;
    }
    if (!nq->renewing) {
        log_info(disk->log, "%s: the NBD connection is back", disk->name);
    }
    nq->renewing = false;
    nq->size = (uint64_t)size;
    nq->state = NBD_READY;
    nbd_arm(nq);
    nbd_release(nq, true);
}

/* After anything that may have changed the connection's state. */
static void nbd_step(struct nbd_queue *nq)
{
    struct disk_nbd *nbd = nbd_of(nq->queue.disk);

    switch (nq->state) {
    case NBD_READY:
        if (!nbd_is_gone(nq)) {
            if (nq->renewing && nq->in_flight == 0) {
                nq->lost_ns = clock_ns();
                nbd_lost(nq, 0);
            } else {
                nbd_arm(nq);
            }
            break;
        }
        log_error(nbd->disk.log, "%s: the NBD connection is lost; trying again",
                  nbd->disk.name);
        if (atomic_load(&nbd->written) != atomic_load(&nbd->flushed)) {
            atomic_store(&nbd->suspect, true);
        }
        nq->renewing = false;
        nq->lost_ns = clock_ns();
        nbd_lost(nq, NBD_AGAIN_MS);
        break;
    case NBD_CONNECTING:
        if (nbd_is_gone(nq)) {
            nbd_lost(nq, NBD_RETRY_MS);
        } else if (nq->lib->aio_is_ready(nq->handle) == 1) {
            nbd_connected(nq);
        } else {
            nbd_arm(nq);
        }
        break;
    case NBD_LOST:
        nbd_lost(nq, nq->again_ms);
        break;
    case NBD_WAITING:
        break;
    }
}

static void nbd_timer(struct io_op *op, int result, bool more)
{
    struct nbd_queue *nq = container_of(op, struct nbd_queue, timer);

    (void)result;
    (void)more;
    if (nq->state != NBD_WAITING) {
        nbd_step(nq);
        return;
    }
    if (!nbd_holds(nq)) {
        nbd_release(nq, false);
    }
    if (nq->giving_up) {
        return;
    }
    nq->handle = nq->lib->create();
    if (nq->handle == NULL) {
        nbd_wait(nq, NBD_RETRY_MS);
        return;
    }
    nq->state = NBD_CONNECTING;
    nq->lib->aio_connect_uri(nq->handle, nbd_of(nq->queue.disk)->uri);
    nbd_step(nq);
}

/* ---- Requests ------------------------------------------------------------------------- */

/* What a flush may vouch for. @progress: what was written when it was sent. */
static void request_account(struct disk_request *request)
{
    struct disk_nbd *nbd = nbd_of(request->queue->disk);

    if (request->error != 0 || request->op == DISK_READ) {
        return;
    }
    if (request->op != DISK_FLUSH) {
        atomic_fetch_add(&nbd->written, 1);
    } else if (atomic_exchange(&nbd->suspect, false)) {
        log_error(nbd->disk.log,
                  "%s: the server that went away may have taken writes with it that were "
                  "not flushed: this flush fails",
                  nbd->disk.name);
        request->error = -EIO;
    } else {
        atomic_store(&nbd->flushed, request->progress);
    }
}

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
    if (--queue_of(request)->in_flight == 0 && queue_of(request)->renewing) {
        nbd_arm_timer(queue_of(request), 0); /* not in a callback of libnbd's */
    }
    if (request->error == -ENOTCONN && nbd_holds(queue_of(request))) {
        nbd_hold(queue_of(request), request);
        return;
    }
    request_account(request);
    request->done(request, request->error == -ENOTCONN ? -EIO : request->error);
}

static int nbd_completed(void *context, int *error)
{
    struct disk_request *request = context;

    if (*error != 0 && request->error == 0) {
        /* Of these two a server says at most the second: it goes away, too. */
        request->error = *error == ENOTCONN || *error == ESHUTDOWN ? -ENOTCONN : -*error;
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

/* Send the request's commands; its connection is there, or was until now. */
static void nbd_start(struct disk_request *request)
{
    struct nbd_queue *nq = queue_of(request);
    struct disk_nbd *nbd = nbd_of(nq->queue.disk);
    char *buffer;
    uint64_t at = 0;

    request->bounce = NULL;
    request->error = 0;
    request->pending = 1; /* our own, while commands are issued */
    nq->in_flight++;
    buffer = nbd_buffer(request);
    if (request->op == DISK_FLUSH) {
        request->length = 0;
        request->progress = atomic_load(&nbd->written);
    }
    if (buffer == NULL && (request->op == DISK_READ || request->op == DISK_WRITE)) {
        request->error = -ENOMEM;
    } else if (request->op != DISK_FLUSH || nbd->can_flush) {
        do {
            uint64_t left = request->length - at;
            uint64_t length = left < NBD_REQUEST_MAX ? left : NBD_REQUEST_MAX;

            request->pending++;
            if (nbd_issue(request, buffer, at, length) < 0) {
                int error = nq->lib->get_errno();

                request->pending--; /* its callback does not come */
                request->error = nbd_is_gone(nq) ? -ENOTCONN : error != 0 ? -error : -EIO;
                break;
            }
            at += length;
        } while (at < request->length);
    }
    request_end(request);
    if (nq->state == NBD_READY && nbd_is_gone(nq)) {
        nbd_arm_timer(nq, 0); /* this may be a callback of libnbd's: later */
    } else if (nq->state == NBD_READY) {
        nbd_arm(nq);
    }
}

static void nbd_submit(struct disk_queue *queue, struct disk_request *request)
{
    struct nbd_queue *nq = container_of(queue, struct nbd_queue, queue);

    request->queue = queue;
    if (nq->state == NBD_READY && !nq->renewing && request->op != DISK_FLUSH &&
        request->offset + request->length > nq->size) {
        nq->renewing = true;
        if (nq->in_flight == 0) {
            nbd_arm_timer(nq, 0);
        }
    }
    if (nq->state == NBD_READY && !nq->renewing) {
        nbd_start(request);
    } else if (nbd_holds(nq)) {
        nbd_hold(nq, request);
    } else {
        request->done(request, -EIO);
    }
}

/* A server that hangs: with its end of the stream gone, libnbd fails every command. */
static void nbd_abort(struct disk_queue *queue)
{
    struct nbd_queue *nq = container_of(queue, struct nbd_queue, queue);
    int fd = nq->handle != NULL ? nq->lib->aio_get_fd(nq->handle) : -1;

    log_error(queue->disk->log, "%s: the NBD server does not answer", queue->disk->name);
    nq->giving_up = true;
    if (fd >= 0) {
        shutdown(fd, SHUT_RDWR);
    }
    nbd_release(nq, false);
}

/* ---- Queues ---------------------------------------------------------------------------- */

static void nbd_queue_close(struct disk_queue *queue)
{
    struct nbd_queue *nq = container_of(queue, struct nbd_queue, queue);

    if (nq->handle != NULL) {
        nq->lib->close(nq->handle);
    }
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
    nq->size = (uint64_t)nq->lib->get_size(nq->handle);
    nq->held_end = &nq->held;
    nq->timer.done = nbd_timer;
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

const struct disk_ops disk_nbd_ops = {
    .type = "nbd",
    .queue_open = nbd_queue_open,
    .queue_close = nbd_queue_close,
    .submit = nbd_submit,
    .abort = nbd_abort,
    .refresh = nbd_refresh,
    .destroy = nbd_destroy,
};
