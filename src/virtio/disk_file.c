/* SPDX-License-Identifier: MIT */
/* Raw images and block devices, through io_uring. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"
#include "virtio/disk.h"
#include "virtio/disk_overlay.h"

enum { ZERO_CHUNK = 1 << 20, RW_MAX = 1 << 30, LOCK_TRIES = 50, LOCK_PAUSE_US = 10000 };

struct disk_file {
    struct disk disk;
    int fd;
    bool direct, block_device;
    unsigned memory_alignment; /* of O_DIRECT buffers, bytes */
    atomic_bool full_logged;   /* ENOSPC is said once until a write succeeds */
    char *path;
};

struct file_queue {
    struct disk_queue queue;
    void *zeroes; /* ZERO_CHUNK bytes, made when needed */
};

static struct disk_file *file_of(struct disk *disk)
{
    return container_of(disk, struct disk_file, disk);
}

static void file_issue(struct disk_request *request);

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

static void file_issue(struct disk_request *request)
{
    struct disk_file *file = file_of(request->queue->disk);
    struct io_ring *ring = request->queue->ring;
    struct io_uring_sqe *sqe = io_ring_sqe(ring, &request->io);
    const struct iovec *iov = request->rest != NULL ? request->rest : request->iov;
    unsigned count = request->rest != NULL ? request->rest_count : request->iov_count;
    uint64_t at = request->offset + request->progress;
    bool write = request->op != DISK_READ;

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

/* ---- Opening -------------------------------------------------------------------------------- */

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

static void file_destroy(struct disk *disk)
{
    struct disk_file *file = file_of(disk);

    if (file->fd >= 0) {
        close(file->fd);
    }
    free(file->path);
    free(file);
}

static const struct disk_ops file_ops = {
    .type = "file",
    .queue_open = file_queue_open,
    .queue_close = file_queue_close,
    .submit = file_submit,
    .refresh = file_refresh,
    .destroy = file_destroy,
};

/*
 * Two writers ruin an image: hold a lock on the whole file, shared for readers. Open file
 * description locks, so that two disks of one process count too. File systems without
 * locks are let through.
 */
static int file_lock(struct disk_file *file, struct umbra_error *error)
{
    struct flock lock = { .l_type = file->disk.readonly ? F_RDLCK : F_WRLCK,
                          .l_whence = SEEK_SET };

    /* A process that was killed lets go of its files a little later than it dies. */
    for (unsigned i = 0; i < LOCK_TRIES; i++) {
        if (fcntl(file->fd, F_OFD_SETLK, &lock) == 0 ||
            (errno != EAGAIN && errno != EACCES)) {
            return 0;
        }
        usleep(LOCK_PAUSE_US);
    }
    return error_set(
        error, UMBRA_ERROR_CONFIG, EBUSY, "disk %s is in use by another VM or disk%s",
        file->path,
        file->disk.readonly ? "" : " (share it read-only, or put an overlay over it)");
}

static unsigned file_direct_alignment(struct disk_file *file)
{
#ifdef STATX_DIOALIGN
    struct statx stx;

    if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) != 0 && stx.stx_dio_offset_align != 0) {
        file->memory_alignment = stx.stx_dio_mem_align;
        return stx.stx_dio_offset_align;
    }
#endif
    /* Kernels before 6.1 do not say; 4096 is right for all but old 512-byte disks. */
    file->memory_alignment = 4096;
    return 4096;
}

/* Sizes that the guest is told, and that O_DIRECT insists on. */
static int file_geometry(struct disk_file *file, const struct disk_file_options *options,
                         struct umbra_error *error)
{
    struct disk *disk = &file->disk;
    unsigned logical = DISK_SECTOR, physical = 4096;
    int value;

    if (file->block_device) {
        if (ioctl(file->fd, BLKSSZGET, &value) == 0 && value >= DISK_SECTOR) {
            logical = (unsigned)value;
        }
        if (ioctl(file->fd, BLKPBSZGET, &value) == 0 && value >= DISK_SECTOR) {
            physical = (unsigned)value;
        }
    }
    file->memory_alignment = 1;
    if (file->direct) {
        unsigned needed = file_direct_alignment(file);

        if (options->block_size != 0 && options->block_size < needed) {
            return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                             "disk %s: direct access needs blocks of %u bytes, not %u "
                             "(leave block_size out, or use cache=cached)",
                             file->path, needed, options->block_size);
        }
        logical = needed > logical ? needed : logical;
    }
    disk->block_size = options->block_size != 0 ? options->block_size : logical;
    disk->physical_block_size =
        options->physical_block_size != 0 ? options->physical_block_size : physical;
    if (disk->physical_block_size < disk->block_size) {
        disk->physical_block_size = disk->block_size;
    }
    disk->discard_alignment = disk->physical_block_size;
    disk->can_discard = disk->can_write_zeroes = !disk->readonly;
    return 0;
}

static int file_open_fd(struct disk_file *file, const struct disk_file_options *options,
                        struct umbra_error *error)
{
    int flags = O_CLOEXEC | (options->readonly ? O_RDONLY : O_RDWR) |
                (options->direct ? O_DIRECT : 0);
    struct stat st;

    file->fd = open(file->path, flags);
    if (file->fd < 0 && errno == EINVAL && options->direct) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "disk %s: its file system has no direct access (O_DIRECT); use "
                         "cache=cached",
                         file->path);
    }
    if (file->fd < 0 || fstat(file->fd, &st) != 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "open disk %s%s",
                           file->path, options->readonly ? "" : " for writing");
    }
    file->block_device = S_ISBLK(st.st_mode);
    if (!file->block_device && !S_ISREG(st.st_mode)) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "disk %s is neither a file nor a block device", file->path);
    }
    return file_lock(file, error);
}

int disk_file_open(const struct disk_file_options *options, const struct log *log,
                   struct disk **disk, struct umbra_error *error)
{
    struct disk_file *file = calloc(1, sizeof(*file));
    int ret = -ENOMEM;

    if (file == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open disk %s",
                           options->path);
    }
    file->fd = -1;
    file->disk.ops = &file_ops;
    file->disk.log = log;
    file->disk.readonly = options->readonly;
    file->direct = options->direct;
    file->disk.name = file->path = strdup(options->path);
    if (file->path == NULL) {
        error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open disk %s", options->path);
        goto fail;
    }
    ret = file_open_fd(file, options, error);
    if (ret == 0) {
        ret = file_geometry(file, options, error);
    }
    if (ret != 0) {
        goto fail;
    }
    ret = file_refresh(&file->disk);
    if (ret != 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "find the size of disk %s",
                    file->path);
        goto fail;
    }
    *disk = &file->disk;
    return 0;
fail:
    file_destroy(&file->disk);
    return ret;
}

int disk_file_fd(struct disk *disk)
{
    return file_of(disk)->fd;
}

int disk_file_adopt(int fd, const char *name, const struct log *log, struct disk **disk,
                    struct umbra_error *error)
{
    struct disk_file *file = calloc(1, sizeof(*file));
    int ret = -ENOMEM;

    if (file == NULL) {
        close(fd);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open %s", name);
    }
    file->fd = fd;
    file->memory_alignment = 1;
    file->disk = (struct disk){ .ops = &file_ops,
                                .log = log,
                                .block_size = DISK_SECTOR,
                                .physical_block_size = 4096,
                                .can_discard = true,
                                .can_write_zeroes = true };
    file->disk.name = file->path = strdup(name);
    if (file->path != NULL) {
        ret = file_lock(file, error);
    } else {
        error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open %s", name);
    }
    if (ret != 0) {
        file_destroy(&file->disk);
        return ret;
    }
    file_refresh(&file->disk);
    *disk = &file->disk;
    return 0;
}
