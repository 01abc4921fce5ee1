/* SPDX-License-Identifier: MIT */
/*
 * Large transfers of virtio-blk, one piece after the other: back ends that need memory of
 * their own for a transfer (bounce buffers, an overlay's parts) never need it for more than
 * BLK_PIECE bytes a request, however large a guest makes its requests by naming the same
 * pages again and again.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "virtio/blk/queue.h"

static void pieces_end(struct blk_request *request)
{
    struct blk_pieces *pieces = &request->pieces;
    struct disk_request *disk = &request->disk;

    free(pieces->slice);
    pieces->slice = NULL;
    disk->iov = pieces->iov;
    disk->iov_count = pieces->iov_count;
    disk->offset = pieces->offset;
    disk->length = pieces->length;
    disk->done = blk_request_done;
    blk_request_done(disk, pieces->error);
}

static void piece_submit(struct blk_request *request)
{
    struct blk_pieces *pieces = &request->pieces;
    struct disk_request *disk = &request->disk;
    uint64_t left = pieces->length - pieces->submitted;

    free(pieces->slice);
    disk->length = left < BLK_PIECE ? left : BLK_PIECE;
    pieces->slice = disk_iov_slice(pieces->iov, pieces->iov_count, pieces->submitted,
                                   disk->length, &disk->iov_count);
    if (pieces->slice == NULL) {
        pieces->error = -ENOMEM;
        pieces->ended = true;
        return;
    }
    disk->iov = pieces->slice;
    disk->offset = pieces->offset + pieces->submitted;
    pieces->submitted += disk->length;
    disk_submit(request->queue->disk, disk);
}

static bool pieces_over(const struct blk_pieces *pieces)
{
    return pieces->error != 0 || pieces->submitted == pieces->length;
}

/* A loop, since pieces may end before their submission returns. */
static void pieces_go(struct blk_request *request)
{
    struct blk_pieces *pieces = &request->pieces;

    pieces->looping = true;
    do {
        pieces->ended = false;
        piece_submit(request);
    } while (pieces->ended && !pieces_over(pieces));
    pieces->looping = false;
    if (pieces->ended) {
        pieces_end(request);
    }
}

static void piece_done(struct disk_request *disk, int error)
{
    struct blk_request *request = container_of(disk, struct blk_request, disk);
    struct blk_pieces *pieces = &request->pieces;

    pieces->error = error;
    pieces->ended = true;
    if (pieces->looping) {
        return;
    }
    if (pieces_over(pieces)) {
        pieces_end(request);
    } else {
        pieces_go(request);
    }
}

void blk_pieces_issue(struct blk_request *request)
{
    struct disk_request *disk = &request->disk;

    request->pieces = (struct blk_pieces){ .iov = disk->iov,
                                           .iov_count = disk->iov_count,
                                           .offset = disk->offset,
                                           .length = disk->length };
    disk->done = piece_done;
    pieces_go(request);
}
