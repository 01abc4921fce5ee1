/* SPDX-License-Identifier: MIT */
/* virtio-balloon, shared by its two files: balloon.c (the device) and pages.c. */
#ifndef VIRTIO_BALLOON_BALLOON_H
#define VIRTIO_BALLOON_BALLOON_H

#include <limits.h>

#include <linux/virtio_balloon.h>

#include "base/util.h"
#include "virtio/registry.h"

enum { BALLOON_PAGE_SHIFT = VIRTIO_BALLOON_PFN_SHIFT };

/*
 * Queues (5.5.2). Without FREE_PAGE_HINT, which is not offered, its queue 3 does not exist;
 * drivers differ on whether the reporting queue keeps its number 4 or moves up to the first
 * free one (Linux before 6.11), so both places serve it.
 */
enum {
    QUEUE_INFLATE,
    QUEUE_DEFLATE,
    QUEUE_STATS,
    QUEUE_REPORTING_LINUX,
    QUEUE_REPORTING
};

struct virtio_balloon {
    struct virtio_device device;
    struct virtqueue_chain chain;
    struct loop_timer *timer; /* interval only */
    uint64_t interval_ns;     /* between statistics; 0: when someone asks */
    unsigned long *inside;    /* a bit a page: it is in the balloon */
    uint64_t page_count;      /* in it, up to the end of RAM */
    uint64_t pages_inside;
    uint64_t released, reported; /* bytes given to the host, ever: inflated, reported */
    uint64_t deflated;           /* pages that came back, ever */
    uint64_t bad_pages;          /* page numbers outside RAM, ever */
    uint64_t failures;           /* releases that the host refused, ever */
    bool bad_said, failure_said; /* in the log, since the reset */
    uint64_t values[UMBRA_BALLOON_STAT_COUNT];
    uint64_t values_ns; /* clock_ns() when they came; 0: never */
    bool values_read;   /* those of the buffer that is in the ring now */
};

static inline uint32_t balloon_config(const struct virtio_balloon *balloon, size_t offset)
{
    return load_le32(balloon->device.config + offset);
}

#define BALLOON_CONFIG(balloon, member)                                                  \
    balloon_config((balloon), offsetof(struct virtio_balloon_config, member))

/* pages.c: */

/* For what the guest's memory is made of now; -ENOMEM. */
int balloon_pages_init(struct virtio_balloon *balloon);
/* Nothing is in the balloon any more. */
void balloon_pages_reset(struct virtio_balloon *balloon);
/* The inflate, deflate and reporting queues. */
void balloon_serve(struct virtio_balloon *balloon, struct virtio_queue *queue);
void balloon_pages_save(const struct virtio_balloon *balloon,
                        struct state_writer *writer);
void balloon_pages_load(struct virtio_balloon *balloon, struct state_reader *reader);

#endif
