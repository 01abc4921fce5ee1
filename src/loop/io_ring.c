/* SPDX-License-Identifier: MIT */
/* One thread's io_uring. */
#include "loop/io_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"

int io_ring_init(struct io_ring *ring, unsigned entries)
{
    /* From the best to what kernel 5.10 has. Disabled at first: SINGLE_ISSUER means the
     * thread that enables it. */
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int ret = -EINVAL;

    memset(ring, 0, sizeof(*ring));
    for (unsigned i = 0; ret == -EINVAL && i < ARRAY_SIZE(flags); i++) {
        ret =
            io_uring_queue_init(entries, &ring->uring,
                                flags[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP);
    }
    ring->open = ret == 0;
    if (ring->open) {
        io_uring_ring_dontfork(&ring->uring);
    }
    return ret;
}

void io_ring_register_file(struct io_ring *ring, int fd)
{
    if (ring->file_count < IO_RING_FILES) {
        ring->files[ring->file_count++] = fd;
    }
}

int io_ring_start(struct io_ring *ring)
{
    int ret;

    if (ring->file_count > 0 &&
        io_uring_register_files(&ring->uring, ring->files, ring->file_count) != 0) {
        ring->file_count = 0; /* plain descriptors do as well */
    }
    /* liburing 2.3 declares io_uring_enable_rings() but does not export it. */
    ret = (int)syscall(__NR_io_uring_register, ring->uring.ring_fd,
                       IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    return ret < 0 ? -errno : 0;
}

void io_ring_stop(struct io_ring *ring)
{
    if (ring->file_count > 0) {
        io_uring_unregister_files(&ring->uring);
        ring->file_count = 0;
    }
}

void io_ring_fini(struct io_ring *ring)
{
    if (ring->open) {
        io_uring_queue_exit(&ring->uring);
        ring->open = false;
    }
}

struct io_uring_sqe *io_ring_sqe(struct io_ring *ring, struct io_op *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

    while (sqe == NULL) {
        /* The kernel takes entries unless its completion queue overflows (EBUSY): then
         * they wait there, and the next turn fetches them. */
        int ret = io_uring_submit(&ring->uring);

        if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY) {
            ret = io_uring_get_events(&ring->uring);
        }
        sqe = io_uring_get_sqe(&ring->uring);
    }
    io_uring_sqe_set_data(sqe, op);
    return sqe;
}

void io_ring_sqe_file(const struct io_ring *ring, struct io_uring_sqe *sqe, int fd)
{
    sqe->fd = fd;
    for (unsigned i = 0; i < ring->file_count; i++) {
        if (ring->files[i] == fd) {
            sqe->fd = (int)i;
            sqe->flags |= IOSQE_FIXED_FILE;
            return;
        }
    }
}

int io_ring_turn(struct io_ring *ring, bool wait)
{
    struct {
        struct io_op *op;
        int result;
        bool more;
    } batch[64];
    struct io_uring_cqe *cqes[ARRAY_SIZE(batch)];
    unsigned count, ran = 0;
    int ret = 0;

    if (wait) {
        ret = io_uring_submit_and_wait(&ring->uring, 1);
    } else if (io_uring_sq_ready(&ring->uring) > 0) {
        ret = io_uring_submit_and_get_events(&ring->uring);
    } /* else the peek below enters the kernel if a flag says that it has something */

    if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY && ret != -ETIME) {
        return ret;
    }
    do {
        count = io_uring_peek_batch_cqe(&ring->uring, cqes, ARRAY_SIZE(batch));
        /* Copied first: callbacks may submit, which may need the places. */
        for (unsigned i = 0; i < count; i++) {
            batch[i].op = io_uring_cqe_get_data(cqes[i]);
            batch[i].result = cqes[i]->res;
            batch[i].more = cqes[i]->flags & IORING_CQE_F_MORE;
        }
        io_uring_cq_advance(&ring->uring, count);
        for (unsigned i = 0; i < count; i++) {
            if (batch[i].op != NULL) {
                batch[i].op->done(batch[i].op, batch[i].result, batch[i].more);
            }
        }
        ran += count;
    } while (count == ARRAY_SIZE(batch));
    return (int)ran;
}
