/* SPDX-License-Identifier: MIT */
/*
 * Numbers kept for every queue. One thread at a time writes (the queue's owner), anybody
 * may read, so relaxed loads and stores do and no locked instruction is needed.
 */
#ifndef VIRTIO_STATS_H
#define VIRTIO_STATS_H

#include <stdatomic.h>
#include <stdint.h>

enum { VIRTIO_LATENCY_BUCKETS = 32 };

struct virtio_queue_stats {
    atomic_ulong kicks, interrupts, chains, errors;
    atomic_ulong bytes_in;  /* from the driver */
    atomic_ulong bytes_out; /* to the driver */
    /* Bucket b counts requests that took [2^b, 2^(b+1)) nanoseconds. */
    atomic_ulong latency[VIRTIO_LATENCY_BUCKETS];
};

static inline void virtio_stat_add(atomic_ulong *counter, uint64_t amount)
{
    unsigned long now = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, now + amount, memory_order_relaxed);
}

static inline void virtio_stat_latency(struct virtio_queue_stats *stats, uint64_t ns)
{
    unsigned bucket = ns == 0 ? 0 : 63 - (unsigned)__builtin_clzll(ns);

    if (bucket >= VIRTIO_LATENCY_BUCKETS) {
        bucket = VIRTIO_LATENCY_BUCKETS - 1;
    }
    virtio_stat_add(&stats->latency[bucket], 1);
}

#endif
