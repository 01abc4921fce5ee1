/* SPDX-License-Identifier: MIT */
/*
 * Raw images and block devices, through io_uring; except that the queue's thread itself
 * writes to the page cache. io_uring hands such writes, and all I/O of files in memory, to
 * a worker thread, which costs several times what the copy does. The page cache makes a
 * writer wait at times (too much is dirty); then the ring has the requests for a while,
 * so that others go on meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/disk/file.h"
#include "base/util.h"

enum { ZERO_CHUNK = 1 << 20, RW_MAX = 1 << 30 };
/* A transfer by the thread itself that took so long was a wait; the next ones are left to
 * the ring for this many times as long. */
enum { WAIT_NS = 2000000, WAIT_FACTOR = 20 };

struct file_queue {
    struct disk_queue queue;
    void *zeroes;        /* ZERO_CHUNK bytes, made when needed */
    uint64_t ring_until; /* clock_ns() before which the ring has all requests */
};

static void file_issue(struct disk_request *request);
static void file_rw_done(struct io_op *op, int result, bool more);

static void file_finish(struct disk_request *request, int error)
{
    struct disk_file *file = file_of(request->queue->disk);

    if (error == -ENOSPC || error == -EDQUOT) {
        if (!atomic_exchange(&file->full_logged, true)) {
            log_error(file->disk.log,
                      "%s: no space left on the host: the guest's writes fail",
                      file->path);
        }
    } else if (error != 0) {
        log_error(file->disk.log, "%s: %s of %llu bytes at %llu: %s", file->path,
                  request->op == DISK_READ ? "read" : "write or flush",
                  (unsigned long long)request->length,
                  (unsigned long long)request->offset, strerror(-error));
    }
    if (request->bounce != NULL) {
        free(request->bounce);
        request->bounce = NULL;
    }
    if (request->rest != NULL) {
        free(request->rest);
        request->rest = NULL;
    }
    request->done(request, error);
}

/* ---- Reads and writes ------------------------------------------------------------------ */

static bool file_aligned(const struct disk_file *file, const struct disk_request *request)
{
    size_t mask = file->memory_alignment - 1;

    for (unsigned i = 0; i < request->iov_count; i++) {
        if ((((uintptr_t)request->iov[i].iov_base) & mask) != 0 ||
            (request->iov[i].iov_len & (file->disk.block_size - 1)) != 0) {
            return false;
        }
    }
    return true;
}

/* O_DIRECT with buffers that it does not take: go through one that it does. */
static int file_bounce(const struct disk_file *file, struct disk_request *request)
{
    size_t alignment = file->memory_alignment < 4096 ? 4096 : file->memory_alignment;
    char *at;

    if (posix_memalign(&request->bounce, alignment, request->length) != 0) {
        request->bounce = NULL;
        return -ENOMEM;
    }
    request->rest = malloc(sizeof(*request->rest));
    if (request->rest == NULL) {
        return -ENOMEM;
    }
    at = request->bounce;
    for (unsigned i = 0; request->op == DISK_WRITE && i < request->iov_count; i++) {
        memcpy(at, request->iov[i].iov_base, request->iov[i].iov_len);
        at += request->iov[i].iov_len;
    }
    request->rest[0] =
        (struct iovec){ .iov_base = request->bounce, .iov_len = request->length };
    request->rest_count = 1;
    return 0;
}

static void file_unbounce(struct disk_request *request)
{
    const char *at = request->bounce;

    for (unsigned i = 0; i < request->iov_count; i++) {
        memcpy(request->iov[i].iov_base, at, request->iov[i].iov_len);
        at += request->iov[i].iov_len;
    }
}

/* Some bytes went; what is left starts @progress bytes in. */
static int file_advance(struct disk_request *request)
{
    struct iovec whole = { .iov_base = request->bounce, .iov_len = request->length };
    const struct iovec *iov = request->bounce != NULL ? &whole : request->iov;
    unsigned count = request->bounce != NULL ? 1 : request->iov_count;
    struct iovec *rest =
        disk_iov_slice(iov, count, request->progress, request->length - request->progress,
                       &request->rest_count);

    free(request->rest);
    request->rest = rest;
    return rest == NULL ? -ENOMEM : 0;
}

static void file_rw_done(struct io_op *op, int result, bool more)
{
    struct disk_request *request = container_of(op, struct disk_request, io);
    struct disk_file *file = file_of(request->queue->disk);

    (void)more;
    if (result == -EINTR || result == -EAGAIN) {
        file_issue(request);
        return;
    }
    if (result <= 0) {
        /* 0: the file ends before its size: it shrank, and the data is gone */
        file_finish(request, result == 0 ? -EIO : result);
        return;
    }
    request->progress += (unsigned)result;
    if (request->progress < request->length) {
        int ret = file_advance(request);

        if (ret != 0) {
            file_finish(request, ret);
        } else {
            file_issue(request);
        }
        return;
    }
    if (request->op == DISK_READ && request->bounce != NULL) {
        file_unbounce(request);
    }
    if (request->op == DISK_WRITE) {
        atomic_store_explicit(&file->full_logged, false, memory_order_relaxed);
    }
    file_finish(request, 0);
}

/* By this thread, into or out of memory; false: better by the ring. */
static bool file_issue_here(struct disk_request *request, const struct iovec *iov,
                            unsigned count, uint64_t at)
{
    struct file_queue *fq = container_of(request->queue, struct file_queue, queue);
    struct disk_file *file = file_of(request->queue->disk);
    bool write = request->op != DISK_READ;
    uint64_t start;
    ssize_t result;

    if (file->direct || !(write || file->in_memory)) {
        return false;
    }
    start = clock_ns();
    if (start < fq->ring_until) {
        return false;
    }
    count = count < IOV_MAX ? count : IOV_MAX;
    result = write ? pwritev(file->fd, iov, (int)count, (off_t)at)
                   : preadv(file->fd, iov, (int)count, (off_t)at);
    if (result < 0 && (errno == EINTR || errno == EAGAIN)) {
        return false;
    }
    if (result < 0) {
        result = -errno;
    }
    if (clock_ns() - start > WAIT_NS) {
        fq->ring_until = clock_ns() + WAIT_FACTOR * (clock_ns() - start);
    }
    file_rw_done(&request->io, (int)result, false);
    return true;
}

static void file_issue(struct disk_request *request)
{
    struct disk_file *file = file_of(request->queue->disk);
    struct io_ring *ring = request->queue->ring;
    const struct iovec *iov = request->rest != NULL ? request->rest : request->iov;
    unsigned count = request->rest != NULL ? request->rest_count : request->iov_count;
    uint64_t at = request->offset + request->progress;
    bool write = request->op != DISK_READ;
    struct io_uring_sqe *sqe;

    if (file_issue_here(request, iov, count, at)) {
        return;
    }
    sqe = io_ring_sqe(ring, &request->io);
    if (count == 1) {
        size_t length = iov->iov_len < RW_MAX ? iov->iov_len : RW_MAX;

        io_uring_prep_rw(write ? IORING_OP_WRITE : IORING_OP_READ, sqe, file->fd,
                         iov->iov_base, (unsigned)length, at);
    } else { /* what is beyond IOV_MAX follows as after a short transfer */
        io_uring_prep_rw(write ? IORING_OP_WRITEV : IORING_OP_READV, sqe, file->fd, iov,
                         count < IOV_MAX ? count : IOV_MAX, at);
    }
    io_uring_sqe_set_data(sqe, &request->io);
    io_ring_sqe_file(ring, sqe, file->fd);
}

static void file_rw(struct disk_file *file, struct disk_request *request)
{
    request->io.done = file_rw_done;
    if (file->direct) {
        unsigned mask = file->disk.block_size - 1;

        if (((request->offset | request->length) & mask) != 0) {
            file_finish(request, -EINVAL);
            return;
        }
        if (!file_aligned(file, request)) {
            int ret = file_bounce(file, request);

            if (ret != 0) {
                file_finish(request, ret);
                return;
            }
        }
    }
    file_issue(request);
}

/* ---- Flush, discard, zeroes -------------------------------------------------------------- */

static void file_zero_done(struct io_op *op, int result, bool more);

/* Where the file system cannot make zeroes: write them, a chunk at a time. */
static void file_zero_chunk(struct disk_request *request)
{
    struct file_queue *fq = container_of(request->queue, struct file_queue, queue);
    struct disk_file *file = file_of(request->queue->disk);
    uint64_t left = request->length - request->progress;
    struct io_uring_sqe *sqe;

    if (fq->zeroes == NULL) {
        if (posix_memalign(&fq->zeroes, 4096, ZERO_CHUNK) != 0) {
            fq->zeroes = NULL;
            file_finish(request, -ENOMEM);
            return;
        }
        memset(fq->zeroes, 0, ZERO_CHUNK);
    }
    request->io.done = file_zero_done;
    sqe = io_ring_sqe(request->queue->ring, &request->io);
    io_uring_prep_write(sqe, file->fd, fq->zeroes,
                        left < ZERO_CHUNK ? (unsigned)left : ZERO_CHUNK,
                        request->offset + request->progress);
    io_uring_sqe_set_data(sqe, &request->io);
    io_ring_sqe_file(request->queue->ring, sqe, file->fd);
}

static void file_zero_done(struct io_op *op, int result, bool more)
{
    struct disk_request *request = container_of(op, struct disk_request, io);

    (void)more;
    if (result == -EINTR || result == -EAGAIN) {
        result = 0;
    } else if (result <= 0) {
        file_finish(request, result == 0 ? -EIO : result);
        return;
    }
    request->progress += (unsigned)result;
    if (request->progress < request->length) {
        file_zero_chunk(request);
    } else {
        file_finish(request, 0);
    }
}

static void file_control_done(struct io_op *op, int result, bool more)
{
    struct disk_request *request = container_of(op, struct disk_request, io);

    (void)more;
    if (result == -EOPNOTSUPP || result == -ENOTTY || result == -ENOSYS) {
        if (request->op == DISK_DISCARD) {
            result = 0; /* it was a hint */
        } else if (request->op == DISK_WRITE_ZEROES) {
            file_zero_chunk(request);
            return;
        }
    }
    file_finish(request, result);
}

static void file_control(struct disk_file *file, struct disk_request *request)
{
    struct io_ring *ring = request->queue->ring;
    struct io_uring_sqe *sqe = io_ring_sqe(ring, &request->io);
    bool punch = request->op == DISK_DISCARD || request->may_unmap;

    request->io.done = file_control_done;
    if (request->op == DISK_FLUSH) {
        io_uring_prep_fsync(sqe, file->fd, IORING_FSYNC_DATASYNC);
    } else {
        io_uring_prep_fallocate(sqe, file->fd,
                                FALLOC_FL_KEEP_SIZE |
                                    (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
                                (off_t)request->offset, (off_t)request->length);
    }
    io_uring_sqe_set_data(sqe, &request->io);
    io_ring_sqe_file(ring, sqe, file->fd);
}

static void file_submit(struct disk_queue *queue, struct disk_request *request)
{
    struct disk_file *file = file_of(queue->disk);

    request->queue = queue;
    request->progress = 0;
    request->rest = NULL;
    request->bounce = NULL;
    if (request->op == DISK_READ || request->op == DISK_WRITE) {
        file_rw(file, request);
    } else {
        file_control(file, request);
    }
}

/* ---- Queues and life -------------------------------------------------------------------- */

static int file_queue_open(struct disk *disk, struct io_ring *ring,
                           struct disk_queue **queue)
{
    struct file_queue *fq = calloc(1, sizeof(*fq));

    if (fq == NULL) {
        return -ENOMEM;
    }
    fq->queue.disk = disk;
    fq->queue.ring = ring;
    io_ring_register_file(ring, file_of(disk)->fd);
    *queue = &fq->queue;
    return 0;
}

static void file_queue_close(struct disk_queue *queue)
{
    struct file_queue *fq = container_of(queue, struct file_queue, queue);

    free(fq->zeroes);
    free(fq);
}

static int file_refresh(struct disk *disk)
{
    struct disk_file *file = file_of(disk);
    struct stat st;
    uint64_t size;

    if (file->block_device) {
        if (ioctl(file->fd, BLKGETSIZE64, &size) != 0) {
            return -errno;
        }
    } else {
        if (fstat(file->fd, &st) != 0) {
            return -errno;
        }
        size = (uint64_t)st.st_size;
    }
    /* Whole blocks: with direct access the rest could not be read anyway. */
    atomic_store(&disk->size, align_down(size, disk->block_size));
    return 0;
}

static int file_grow(struct disk *disk, uint64_t bytes)
{
    struct disk_file *file = file_of(disk);

    if (file->block_device || disk->readonly) {
        return -EPERM;
    }
    return ftruncate(file->fd, (off_t)bytes) == 0 ? 0 : -errno;
}

static void file_destroy(struct disk *disk)
{
    struct disk_file *file = file_of(disk);

    if (file->fd >= 0) {
        close(file->fd);
    }
    free(file->path);
    free(file);
}

const struct disk_ops disk_file_ops = {
    .type = "file",
    .queue_open = file_queue_open,
    .queue_close = file_queue_close,
    .submit = file_submit,
    .refresh = file_refresh,
    .grow = file_grow,
    .destroy = file_destroy,
};
