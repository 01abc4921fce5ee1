/* SPDX-License-Identifier: MIT */
/*
 * Copy on write: reads come from the store where it has the block, else from the base, and
 * behind its end from nowhere (zeroes); writes go to the store. A block only partly written
 * is filled up from the base first.
 */
#include "backend/disk/overlay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/util.h"

static const struct __kernel_timespec retry_after = { .tv_nsec = 200000 };

struct overlay_queue {
    struct disk_queue queue;
    struct disk_queue *base, *store;
};

/* A part of a request; frees itself. */
struct overlay_part {
    struct disk_request request;
    struct iovec *slice;
    void *bytes; /* freed with it */
    /* What to settle when a write to the store is done. */
    uint64_t first, last;
    bool claims;
};

static struct disk_overlay *overlay_of(const struct disk_request *request)
{
    return container_of(request->queue->disk, struct disk_overlay, disk);
}

static struct overlay_queue *queue_of(const struct disk_request *request)
{
    return container_of(request->queue, struct overlay_queue, queue);
}

static void overlay_submit(struct disk_queue *queue, struct disk_request *request);

/* ---- Parts -------------------------------------------------------------------------------- */

/* One of a parent's parts is over; the last one finishes the parent. */
static void parent_settle(struct disk_request *parent, int error)
{
    if (error != 0 && parent->error == 0) {
        parent->error = error;
    }
    if (--parent->pending == 0) {
        free(parent->bounce);
        parent->bounce = NULL;
        parent->done(parent, parent->error);
    }
}

static void part_done(struct disk_request *request, int error)
{
    struct overlay_part *part = container_of(request, struct overlay_part, request);
    struct disk_request *parent = request->parent;

    if (part->claims) {
        overlay_map_settle(&overlay_of(parent)->map, part->first, part->last, error == 0);
    }
    free(part->slice);
    free(part->bytes);
    free(part);
    parent_settle(parent, error);
}

static struct overlay_part *part_create(struct disk_request *parent, enum disk_op op,
                                        uint64_t offset, uint64_t length)
{
    struct overlay_part *part = calloc(1, sizeof(*part));

    if (part != NULL) {
        part->request.op = op;
        part->request.offset = offset;
        part->request.length = length;
        part->request.may_unmap = true;
        part->request.parent = parent;
        part->request.done = part_done;
        parent->pending++;
    }
    return part;
}

/* Give it the parent's buffers for its place. */
static bool part_slice(struct overlay_part *part)
{
    const struct disk_request *parent = part->request.parent;

    part->slice = disk_iov_slice(parent->iov, parent->iov_count,
                                 part->request.offset - parent->offset,
                                 part->request.length, &part->request.iov_count);
    part->request.iov = part->slice;
    return part->slice != NULL;
}

static void to_store(struct disk_request *request, struct overlay_queue *oq)
{
    request->offset +=
        container_of(oq->queue.disk, struct disk_overlay, disk)->data_offset;
    disk_submit(oq->store, request);
}

/* ---- Reads -------------------------------------------------------------------------------- */

enum source { FROM_STORE, FROM_BASE, FROM_NOWHERE };

static enum source source_of(const struct disk_overlay *overlay, uint64_t offset)
{
    if (overlay_has(&overlay->map, offset / OVERLAY_BLOCK)) {
        return FROM_STORE;
    }
    return offset < overlay->base_size ? FROM_BASE : FROM_NOWHERE;
}

/* How many bytes from @offset on, at most @length, come from the same place. */
static uint64_t same_source(const struct disk_overlay *overlay, uint64_t offset,
                            uint64_t length, enum source *source)
{
    uint64_t end = offset + length,
             at = align_down(offset, OVERLAY_BLOCK) + OVERLAY_BLOCK;

    *source = source_of(overlay, offset);
    if (*source == FROM_BASE && end > overlay->base_size) {
        end = overlay->base_size;
    }
    while (at < end && source_of(overlay, at) == *source) {
        at += OVERLAY_BLOCK;
    }
    return (at < end ? at : end) - offset;
}

static void read_from(struct disk_request *request, enum source source,
                      struct overlay_queue *oq)
{
    switch (source) {
    case FROM_STORE:
        to_store(request, oq);
        break;
    case FROM_BASE:
        disk_submit(oq->base, request);
        break;
    default:
        for (unsigned i = 0; i < request->iov_count; i++) {
            memset(request->iov[i].iov_base, 0, request->iov[i].iov_len);
        }
        request->done(request, 0);
        break;
    }
}

static void overlay_read(struct disk_request *request)
{
    struct disk_overlay *overlay = overlay_of(request);
    struct overlay_queue *oq = queue_of(request);
    uint64_t end = request->offset + request->length;
    enum source source;

    if (same_source(overlay, request->offset, request->length, &source) ==
        request->length) {
        read_from(request, source, oq);
        return;
    }
    request->pending = 1; /* keeps it alive until all parts are under way */
    for (uint64_t at = request->offset; at < end;) {
        uint64_t run = same_source(overlay, at, end - at, &source);
        struct overlay_part *part = part_create(request, DISK_READ, at, run);

        if (part == NULL) {
            request->error = -ENOMEM;
            break;
        }
        if (!part_slice(part)) {
            part_done(&part->request, -ENOMEM);
            break;
        }
        read_from(&part->request, source, oq);
        at += run;
    }
    parent_settle(request, 0);
}

/* ---- Writes ------------------------------------------------------------------------------- */

static void retry_done(struct io_op *op, int result, bool more)
{
    struct disk_request *request = container_of(op, struct disk_request, io);

    (void)result;
    (void)more;
    overlay_submit(request->queue, request);
}

/* Another request is filling one of the blocks: look again a little later. */
static void overlay_retry(struct disk_request *request)
{
    struct io_uring_sqe *sqe;

    request->io.done = retry_done;
    sqe = io_ring_sqe(request->queue->ring, &request->io);
    io_uring_prep_timeout(sqe, (struct __kernel_timespec *)(uintptr_t)&retry_after, 0, 0);
    io_uring_sqe_set_data(sqe, &request->io);
}

static bool all_present(const struct disk_overlay *overlay, uint64_t first, uint64_t last)
{
    for (uint64_t b = first; b <= last; b++) {
        if (!overlay_has(&overlay->map, b)) {
            return false;
        }
    }
    return true;
}

/*
 * Where a write to the store begins and ends: at the request's own ends, except that a
 * block which is not there yet is written whole. The blocks are claimed, so absent ones
 * stay absent; blocks that are there are not touched beyond the request, since others may
 * be writing to them.
 */
struct extent {
    uint64_t start, end;
};

static struct extent write_extent(const struct disk_request *request)
{
    const struct overlay_map *map = &overlay_of(request)->map;
    uint64_t end = request->offset + request->length;
    struct extent extent = { request->offset, end };

    if (!overlay_has(map, request->offset / OVERLAY_BLOCK)) {
        extent.start = align_down(request->offset, OVERLAY_BLOCK);
    }
    if (!overlay_has(map, (end - 1) / OVERLAY_BLOCK)) {
        extent.end = align_up(end, OVERLAY_BLOCK);
    }
    return extent;
}

/* Send the claimed write on its way, from the bounce buffer if there is one. */
static void write_issue(struct disk_request *parent)
{
    struct extent extent = write_extent(parent);
    uint64_t first = parent->offset / OVERLAY_BLOCK;
    uint64_t last = (parent->offset + parent->length - 1) / OVERLAY_BLOCK;
    struct overlay_part *part = NULL;

    if (parent->error == 0) {
        part =
            part_create(parent, parent->op == DISK_WRITE ? DISK_WRITE : DISK_WRITE_ZEROES,
                        extent.start, extent.end - extent.start);
    }
    if (part != NULL && parent->bounce != NULL) {
        part->slice = malloc(sizeof(*part->slice));
        if (part->slice != NULL) {
            part->slice[0] = (struct iovec){ .iov_base = parent->bounce,
                                             .iov_len = extent.end - extent.start };
            part->request.iov = part->slice;
            part->request.iov_count = 1;
        }
    } else if (part != NULL && parent->op == DISK_WRITE) {
        part_slice(part);
    }
    if (part == NULL || (parent->op == DISK_WRITE && part->slice == NULL)) {
        overlay_map_settle(&overlay_of(parent)->map, first, last, false);
        parent->error = parent->error != 0 ? parent->error : -ENOMEM;
        if (part != NULL) {
            part_done(&part->request, -ENOMEM);
        }
        return;
    }
    part->first = first;
    part->last = last;
    part->claims = true;
    to_store(&part->request, queue_of(parent));
}

/* All old contents that are needed are in the bounce buffer: over them the new data. */
static void fill_done(struct disk_request *request, int error)
{
    struct overlay_part *fill = container_of(request, struct overlay_part, request);
    struct disk_request *parent = request->parent;

    free(fill->slice);
    free(fill);
    if (error != 0 && parent->error == 0) {
        parent->error = error;
    }
    if (--parent->pending == 1) { /* only our own count is left */
        uint8_t *at =
            (uint8_t *)parent->bounce + (parent->offset - write_extent(parent).start);

        for (unsigned i = 0; i < parent->iov_count; i++) {
            memcpy(at, parent->iov[i].iov_base, parent->iov[i].iov_len);
            at += parent->iov[i].iov_len;
        }
        write_issue(parent);
        parent_settle(parent, 0);
    }
}

/* Read the base's contents of @block into its place of the bounce buffer, which has zeroes
 * for what is behind the base's end. */
static void fill_block(struct disk_request *parent, uint64_t block)
{
    struct disk_overlay *overlay = overlay_of(parent);
    uint64_t at = block * OVERLAY_BLOCK, start = write_extent(parent).start;
    uint64_t size = overlay->base_size, length;
    struct overlay_part *part;

    if (at >= size) {
        return;
    }
    length = size - at < OVERLAY_BLOCK ? size - at : OVERLAY_BLOCK;
    part = part_create(parent, DISK_READ, at, length);
    if (part == NULL) {
        parent->error = -ENOMEM;
        return;
    }
    part->request.done = fill_done;
    part->slice = malloc(sizeof(*part->slice));
    if (part->slice == NULL) {
        fill_done(&part->request, -ENOMEM);
        return;
    }
    part->slice[0] = (struct iovec){ .iov_base = (uint8_t *)parent->bounce + (at - start),
                                     .iov_len = length };
    part->request.iov = part->slice;
    part->request.iov_count = 1;
    disk_submit(queue_of(parent)->base, &part->request);
}

static void write_with_fill(struct disk_request *request, struct extent extent)
{
    uint64_t first = request->offset / OVERLAY_BLOCK;
    uint64_t end = request->offset + request->length;
    uint64_t last = (end - 1) / OVERLAY_BLOCK;
    bool head = extent.start != request->offset;

    /* Direct access to the base wants aligned memory. */
    if (posix_memalign(&request->bounce, OVERLAY_BLOCK, extent.end - extent.start) != 0) {
        request->bounce = NULL;
        overlay_map_settle(&overlay_of(request)->map, first, last, false);
        parent_settle(request, -ENOMEM);
        return;
    }
    memset(request->bounce, 0, extent.end - extent.start);
    request
        ->pending++; /* fill_done() goes on when only one count beside its own is left */
    if (head) {
        fill_block(request, first);
    }
    if (extent.end != end && !(head && first == last)) {
        fill_block(request, last);
    }
    /* Take that count back as if it were a read of nothing. */
    if (--request->pending == 1) {
        /* The reads finished already; the last of them could not tell. */
        struct overlay_part *none = part_create(request, DISK_READ, 0, 0);

        if (none == NULL) {
            overlay_map_settle(&overlay_of(request)->map, first, last, false);
            parent_settle(request, -ENOMEM);
            return;
        }
        fill_done(&none->request, 0);
    }
}

/* WRITE, and WRITE_ZEROES of whole blocks. */
static void overlay_write(struct disk_request *request)
{
    struct disk_overlay *overlay = overlay_of(request);
    uint64_t first = request->offset / OVERLAY_BLOCK;
    uint64_t end = request->offset + request->length;
    uint64_t last = (end - 1) / OVERLAY_BLOCK;
    struct extent extent;

    if (all_present(overlay, first, last)) {
        to_store(request, queue_of(request));
        return;
    }
    if (overlay_map_claim(&overlay->map, first, last) != 0) {
        overlay_retry(request);
        return;
    }
    request->pending = 1;
    extent = write_extent(request);
    if (request->op == DISK_WRITE &&
        (extent.start != request->offset || extent.end != end)) {
        write_with_fill(request, extent);
        return;
    }
    write_issue(request);
    parent_settle(request, 0);
}

/* ---- Zeroes and discards ------------------------------------------------------------------- */

/* Zeroes for a piece of a block: an ordinary write. */
static void zero_piece(struct disk_request *parent, uint64_t offset, uint64_t length)
{
    struct overlay_part *part = part_create(parent, DISK_WRITE, offset, length);

    if (part == NULL) {
        parent->error = -ENOMEM;
        return;
    }
    part->bytes = calloc(1, length);
    part->slice = malloc(sizeof(*part->slice));
    if (part->bytes == NULL || part->slice == NULL) {
        part_done(&part->request, -ENOMEM);
        return;
    }
    part->slice[0] = (struct iovec){ .iov_base = part->bytes, .iov_len = length };
    part->request.iov = part->slice;
    part->request.iov_count = 1;
    overlay_submit(parent->queue, &part->request);
}

static void zero_blocks(struct disk_request *parent, uint64_t offset, uint64_t length)
{
    struct overlay_part *part = part_create(parent, DISK_WRITE_ZEROES, offset, length);

    if (part == NULL) {
        parent->error = -ENOMEM;
        return;
    }
    part->request.queue = parent->queue;
    overlay_write(&part->request);
}

/*
 * Discarded blocks read as zeroes, never as the base again: their bit is set over a hole.
 * The ends that are no whole blocks are zeroed, or left alone by a discard.
 */
static void overlay_zero(struct disk_request *request)
{
    uint64_t end = request->offset + request->length;
    uint64_t size = atomic_load(&overlay_of(request)->disk.size);
    uint64_t start = align_up(request->offset, OVERLAY_BLOCK);
    uint64_t stop = end == size ? end : align_down(end, OVERLAY_BLOCK);
    bool zero_ends = request->op == DISK_WRITE_ZEROES;

    request->pending = 1;
    if (start >= stop) { /* no whole block */
        if (zero_ends) {
            zero_piece(request, request->offset, request->length);
        }
        parent_settle(request, 0);
        return;
    }
    if (zero_ends && request->offset < start) {
        zero_piece(request, request->offset, start - request->offset);
    }
    if (zero_ends && stop < end) {
        zero_piece(request, stop, end - stop);
    }
    zero_blocks(request, start, stop - start);
    parent_settle(request, 0);
}

static void overlay_flush_or_retry(struct disk_request *request)
{
    struct disk_overlay *overlay = overlay_of(request);
    int ret = 0;

    if (overlay->kept) { /* else there is nothing to outlive us */
        ret = overlay_flush(overlay, queue_of(request)->store, request);
        if (ret == 0) {
            return;
        }
    }
    if (ret == -EBUSY) {
        overlay_retry(request);
    } else {
        request->done(request, ret);
    }
}

/* ---- Life -------------------------------------------------------------------------------------- */

static void overlay_submit(struct disk_queue *queue, struct disk_request *request)
{
    request->queue = queue;
    request->error = 0;
    request->bounce = NULL;
    request->rest = NULL;
    switch (request->op) {
    case DISK_READ:
        overlay_read(request);
        break;
    case DISK_WRITE:
        overlay_write(request);
        break;
    case DISK_FLUSH:
        overlay_flush_or_retry(request);
        break;
    default:
        overlay_zero(request);
        break;
    }
}

static void overlay_queue_close(struct disk_queue *queue)
{
    struct overlay_queue *oq = container_of(queue, struct overlay_queue, queue);

    if (oq->base != NULL) {
        oq->base->disk->ops->queue_close(oq->base);
    }
    if (oq->store != NULL) {
        oq->store->disk->ops->queue_close(oq->store);
    }
    free(oq);
}

static void overlay_abort(struct disk_queue *queue)
{
    struct disk_queue *base = container_of(queue, struct overlay_queue, queue)->base;

    if (base->disk->ops->abort != NULL) {
        base->disk->ops->abort(base);
    }
}

static int overlay_queue_open(struct disk *disk, struct io_ring *ring,
                              struct disk_queue **queue)
{
    struct disk_overlay *overlay = container_of(disk, struct disk_overlay, disk);
    struct overlay_queue *oq = calloc(1, sizeof(*oq));
    int ret;

    if (oq == NULL) {
        return -ENOMEM;
    }
    oq->queue.disk = disk;
    oq->queue.ring = ring;
    ret = overlay->base->ops->queue_open(overlay->base, ring, &oq->base);
    if (ret == 0) {
        ret = overlay->store->ops->queue_open(overlay->store, ring, &oq->store);
    }
    if (ret != 0) {
        overlay_queue_close(&oq->queue);
        return ret;
    }
    *queue = &oq->queue;
    return 0;
}

/* Nobody else changes an overlay's size. */
static int overlay_refresh(struct disk *disk)
{
    (void)disk;
    return 0;
}

static int overlay_grow(struct disk *disk, uint64_t bytes)
{
    struct disk_overlay *overlay = container_of(disk, struct disk_overlay, disk);
    int ret;

    pthread_mutex_lock(&overlay->grow_lock);
    ret = bytes < atomic_load(&disk->size) ? -ERANGE : overlay_store_grow(overlay, bytes);
    if (ret == 0) {
        atomic_store(&disk->size, bytes);
    }
    pthread_mutex_unlock(&overlay->grow_lock);
    return ret;
}

static void overlay_destroy(struct disk *disk)
{
    struct disk_overlay *overlay = container_of(disk, struct disk_overlay, disk);

    if (overlay->store != NULL && overlay->kept) {
        overlay_keep(overlay);
    }
    disk_destroy(overlay->store);
    disk_destroy(overlay->base);
    overlay_map_fini(&overlay->map);
    pthread_mutex_destroy(&overlay->map.lock);
    pthread_mutex_destroy(&overlay->grow_lock);
    free(overlay);
}

static const struct disk_ops overlay_ops = {
    .type = "overlay",
    .queue_open = overlay_queue_open,
    .queue_close = overlay_queue_close,
    .submit = overlay_submit,
    .abort = overlay_abort,
    .refresh = overlay_refresh,
    .grow = overlay_grow,
    .destroy = overlay_destroy,
};

static int overlay_check_size(const struct disk_overlay *overlay, uint64_t size,
                              struct umbra_error *error)
{
    if (size == 0 || (size >= overlay->base_size && size <= INT64_MAX / 2 &&
                      size % overlay->disk.block_size == 0)) {
        return 0;
    }
    return error_set(error, UMBRA_ERROR_CONFIG, ERANGE,
                     "an overlay of %" PRIu64 " bytes over disk %s, which has %" PRIu64
                     ": it can be larger only, by blocks of %u bytes",
                     size, overlay->base->name, overlay->base_size,
                     overlay->disk.block_size);
}

int disk_overlay_open(struct disk *base, const struct disk_overlay_options *options,
                      const struct log *log, struct disk **disk,
                      struct umbra_error *error)
{
    struct disk_overlay *overlay = calloc(1, sizeof(*overlay));
    int ret;

    if (overlay == NULL) {
        disk_destroy(base);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open an overlay");
    }
    pthread_mutex_init(&overlay->map.lock, NULL);
    pthread_mutex_init(&overlay->grow_lock, NULL);
    overlay->base = base;
    overlay->base_size = atomic_load(&base->size);
    overlay->kept = options->path != NULL;
    overlay->disk = *base; /* the facts are the base's, but for these */
    overlay->disk.ops = &overlay_ops;
    overlay->disk.log = log;
    overlay->disk.readonly = false;
    overlay->disk.can_discard = overlay->disk.can_write_zeroes = true;
    if (overlay->disk.physical_block_size < OVERLAY_BLOCK) {
        overlay->disk.physical_block_size = OVERLAY_BLOCK;
    }
    overlay->disk.discard_alignment = OVERLAY_BLOCK;
    ret = overlay_check_size(overlay, options->size, error);
    if (ret == 0) {
        if (options->size != 0) {
            atomic_store(&overlay->disk.size, options->size);
        }
        ret = overlay_store_open(overlay, options->path, error);
    }
    if (ret == 0 && options->size > atomic_load(&overlay->disk.size)) {
        ret = overlay_grow(&overlay->disk, options->size);
        if (ret != 0) {
            error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                        "grow overlay %s to %" PRIu64 " bytes", options->path,
                        options->size);
        }
    }
    if (ret != 0) {
        overlay_destroy(&overlay->disk);
        return ret;
    }
    *disk = &overlay->disk;
    return 0;
}
