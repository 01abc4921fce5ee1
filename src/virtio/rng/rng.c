/* SPDX-License-Identifier: MIT */
/* virtio-rng (virtio 1.2, 5.4): the host's random bytes, at a bounded rate if wanted. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/random.h>

#include <linux/virtio_ids.h>

#include "base/error.h"
#include "base/util.h"
#include "virtio/registry.h"

enum {
    RNG_QUEUE_SIZE = 64,
    RNG_BYTES_MAX = 64 << 10, /* a request: keeps one driver from holding the loop */
    RNG_PERIOD_NS = 100000000,
};

struct virtio_rng {
    struct virtio_device device;
    struct virtqueue_chain chain;
    struct loop_timer *timer; /* of a rate limit, or a planned delay */
    uint64_t rate;            /* bytes a second, 0: unlimited */
    uint64_t budget;          /* bytes until the period ends */
    uint64_t period_end_ns;
    uint64_t waits; /* for the next period */
    bool delayed;   /* the next request waits for the timer, by a planned fault */
    uint64_t limit; /* of its bytes, by another */
};

static struct virtio_rng *rng_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_rng, device);
}

/* Bytes that may go now; 0 arms the timer. */
static uint64_t rng_budget(struct virtio_rng *rng)
{
    uint64_t now;

    if (rng->rate == 0) {
        return RNG_BYTES_MAX;
    }
    now = clock_ns();
    if (now >= rng->period_end_ns) {
        uint64_t share = rng->rate / (1000000000u / RNG_PERIOD_NS);

        rng->period_end_ns = now + RNG_PERIOD_NS;
        rng->budget = share > 0 ? share : 1;
    }
    if (rng->budget == 0) {
        rng->waits++;
        loop_timer_arm(rng->timer, rng->period_end_ns);
    }
    return rng->budget < RNG_BYTES_MAX ? rng->budget : RNG_BYTES_MAX;
}

static uint32_t rng_fill(const struct virtqueue_chain *chain, uint64_t limit)
{
    const struct iovec *iov = virtqueue_chain_writable(chain);
    uint64_t done = 0;

    for (unsigned i = 0; i < chain->writable_count && done < limit; i++) {
        size_t want = iov[i].iov_len < limit - done ? iov[i].iov_len : limit - done;
        ssize_t got = getrandom(iov[i].iov_base, want, 0);

        if (got < 0) {
            break; /* EINTR: fewer bytes are fine, the driver asks again */
        }
        done += (uint64_t)got;
        if ((size_t)got < want) {
            break;
        }
    }
    return (uint32_t)done;
}

/* Planned faults of the popped request: false when it has to wait. */
static bool rng_faults(struct virtio_rng *rng, struct virtio_queue *queue)
{
    struct fault_hits hits;

    rng->limit = RNG_BYTES_MAX;
    if (!virtio_queue_draw(queue, UMBRA_FAULT_IN, rng->chain.writable_bytes, &hits)) {
        return true;
    }
    if (fault_hit(&hits, UMBRA_FAULT_IO_ERROR)) {
        rng->limit = 0;
    } else if (fault_hit(&hits, UMBRA_FAULT_SHORT)) {
        rng->limit = hits.bytes;
    }
    if (fault_hit(&hits, UMBRA_FAULT_DELAY) && rng->timer != NULL) {
        rng->delayed = true;
        loop_timer_arm(rng->timer, clock_ns() + hits.delay_ns);
    }
    return !rng->delayed;
}

static void rng_serve(struct virtio_rng *rng, struct virtio_queue *queue)
{
    bool again = rng->delayed; /* its faults were drawn already */

    rng->delayed = false;
    do {
        virtio_queue_disable_kicks(queue);
        for (;;) {
            uint64_t budget = rng_budget(rng);
            uint32_t done;

            if (budget == 0) {
                virtio_queue_flush(queue);
                return; /* the timer goes on from here */
            }
            if (!virtio_queue_pop(queue, &rng->chain)) {
                break;
            }
            if (!again && !rng_faults(rng, queue)) {
                virtio_queue_unpop(queue, &rng->chain);
                virtio_queue_flush(queue);
                return;
            }
            again = false;
            done = rng_fill(&rng->chain, budget < rng->limit ? budget : rng->limit);
            rng->budget -= rng->rate != 0 ? done : 0;
            virtio_queue_push(queue, &rng->chain, done);
        }
        virtio_queue_flush(queue);
    } while (virtio_queue_enable_kicks(queue));
}

static void rng_notify(struct virtio_device *device, struct virtio_queue *queue)
{
    if (!rng_of(device)->delayed) {
        rng_serve(rng_of(device), queue);
    }
}

static void rng_timer(void *context)
{
    struct virtio_rng *rng = context;
    struct virtio_queue *queue = &rng->device.queues[0];

    if (queue->running) {
        rng_serve(rng, queue);
    }
}

static void rng_reset(struct virtio_device *device)
{
    struct virtio_rng *rng = rng_of(device);

    rng->delayed = false;
    if (rng->timer != NULL) {
        loop_timer_disarm(rng->timer);
    }
}

static void rng_stats(struct virtio_device *device, void *json)
{
    const struct virtio_rng *rng = rng_of(device);

    json_object_set_new(json, "rate", json_integer((json_int_t)rng->rate));
    json_object_set_new(json, "rate_waits", json_integer((json_int_t)rng->waits));
}

static void rng_destroy(struct virtio_device *device)
{
    struct virtio_rng *rng = rng_of(device);

    loop_timer_destroy(rng->timer);
    virtio_device_fini(device);
    virtqueue_chain_fini(&rng->chain);
    free(rng);
}

static const struct virtio_device_facts rng_facts = {
    .type = "virtio-rng",
    .device_id = VIRTIO_ID_RNG,
    .pci_class = 0x00ff00, /* unclassified */
    .faults = FAULT_BIT(UMBRA_FAULT_IO_ERROR) | FAULT_BIT(UMBRA_FAULT_SHORT) |
              FAULT_BIT(UMBRA_FAULT_DELAY),
    .config_size = 0,
    .ops = {
        .reset = rng_reset,
        .notify = rng_notify,
        .stats = rng_stats,
        .destroy = rng_destroy,
    },
};

int virtio_rng_create(const struct device_env *env, const char *id, uint64_t rate,
                      struct virtio_device **device, struct umbra_error *error)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    int ret = -ENOMEM;

    if (rng != NULL) {
        rng->rate = rate;
        ret = virtio_device_init(&rng->device, &rng_facts, env, id,
                                 VIRTIO_RING_FEATURES | VIRTIO_RING_IN_ORDER);
        if (ret != 0) {
            free(rng);
            rng = NULL;
        }
    }
    if (ret == 0) {
        ret = virtio_device_add_queues(&rng->device, 1, RNG_QUEUE_SIZE);
    }
    if (ret == 0 && env->loop != NULL) {
        ret =
            loop_timer_create(env->loop, &rng->device.lock, rng_timer, rng, &rng->timer);
    }
    if (ret != 0) {
        if (rng != NULL) {
            rng_destroy(&rng->device);
        }
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "create %s", id);
    }
    *device = &rng->device;
    return 0;
}
