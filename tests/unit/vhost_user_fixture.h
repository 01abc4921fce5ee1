/* SPDX-License-Identifier: MIT */
/* A device that another process serves, with the back end of vhost_user_peer.h, its loop
 * running, and a guest driver by hand. */
#ifndef TESTS_VHOST_USER_FIXTURE_H
#define TESTS_VHOST_USER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <sched.h>

#include <linux/virtio_blk.h>

#include "unit/fake_env.h"
#include "unit/mmio_driver.h"
#include "unit/vhost_user_peer.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"
#include "virtio/vhost/user.h"

enum { RAM = 4 << 20, BUFFERS = 1 << 20, STRIDE = 8192, QUEUE = 64, REQUESTS = 48 };

/* How long answers are waited for: short where they are to be late. */
static unsigned answer_ms = 20000;

struct request {
    uint8_t *header, *data, *status;
    uint64_t at;
    bool done;
    uint32_t written;
};

struct rig {
    struct fake_env fake;
    struct guest_mem *mem;
    struct virtio_device *vdev;
    struct device *device;
    struct drv drv;
    struct request requests[REQUESTS];
    atomic_uint warnings, errors;
    struct peer peer;
};

static inline void rig_log(void *context, enum umbra_log_level level, const char *line)
{
    struct rig *r = context;

    if (getenv("UMBRA_TEST_LOG") != NULL) {
        print_message("%s\n", line);
    }
    atomic_fetch_add(level == UMBRA_LOG_ERROR ? &r->errors : &r->warnings, 1);
}

static inline void rig_open(struct rig *r)
{
    struct guest_mem_options options = { .shared = true };
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    fake_env_init(&r->fake, true);
    r->fake.log = (struct log){ .fn = rig_log, .context = r, .level = UMBRA_LOG_WARNING };
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM / 2, GUEST_REGION_RAM, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, RAM / 2, RAM / 2, GUEST_REGION_RAM, &error),
                     0);
    r->fake.env.mem = r->mem;
    for (unsigned i = 0; i < REQUESTS; i++) {
        struct request *q = &r->requests[i];

        q->at = BUFFERS + (uint64_t)i * STRIDE;
        q->header = guest_mem_ptr(r->mem, q->at, STRIDE);
        q->status = q->header + 16;
        q->data = q->header + 4096;
    }
    peer_start(&r->peer);
}

static inline int blk_open(struct rig *r, uint64_t patience_ms, struct umbra_error *error)
{
    const struct vhost_user_blk_options options = { .id = "disk0",
                                                    .socket = r->peer.path,
                                                    .queues = 1,
                                                    .queue_size = QUEUE,
                                                    .patience_ms = patience_ms,
                                                    .timeout_ms = answer_ms };

    return vhost_user_blk_create(&r->fake.env, &options, &r->vdev, error);
}

/* With a back end that works. */
static inline void rig_create(struct rig *r, uint64_t patience_ms)
{
    struct umbra_error error;

    rig_open(r);
    peer_go(&r->peer);
    assert_int_equal(blk_open(r, patience_ms, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error),
                     0);
    assert_int_equal(loop_start(r->fake.env.loop, &error), 0);
}

static inline void rig_start(struct rig *r, bool packed)
{
    uint64_t features = VIRTIO_FEATURE(32) | VIRTIO_FEATURE(28) | VIRTIO_FEATURE(29) |
                        VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH) |
                        VIRTIO_FEATURE(VIRTIO_BLK_F_CONFIG_WCE);
    const struct mmio_rings rings = { r->mem, 0x10000, QUEUE, packed, true };

    features |= packed ? VIRTIO_FEATURE(34) : 0;
    features &= mmio_offered(r->device);
    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, &r->drv, 1, &rings);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static inline void rig_close(struct rig *r)
{
    if (r->drv.mem != NULL) {
        drv_fini(&r->drv);
    }
    loop_stop(r->fake.env.loop);
    device_destroy(r->device);
    fake_env_fini(&r->fake);
    guest_mem_destroy(r->mem);
    peer_end(&r->peer);
}

static inline void submit(struct rig *r, struct request *q, uint32_t type,
                          uint64_t sector, uint32_t length)
{
    struct drv_buffer b[3] = { { q->at, 16, false },
                               { q->at + 4096, length, type == VIRTIO_BLK_T_IN },
                               { q->at + 16, 1, true } };

    store_le32(q->header, type);
    store_le32(q->header + 4, 0);
    store_le64(q->header + 8, sector);
    *q->status = 0xee;
    q->done = false;
    assert_true(drv_add(&r->drv, b, 3, q, 0));
    mmio_kick(r->device, 0, &r->drv);
}

static inline void collect(struct rig *r)
{
    struct request *q;
    uint32_t written;

    while ((q = drv_get(&r->drv, &written)) != NULL) {
        assert_false(q->done);
        q->done = true;
        q->written = written;
    }
}

static inline uint8_t finish(struct rig *r, struct request *q)
{
    while (!q->done) {
        collect(r);
        sched_yield();
    }
    return *(volatile uint8_t *)q->status;
}

static inline void round_trip(struct rig *r, unsigned seed)
{
    struct request *q = &r->requests[seed % REQUESTS];

    memset(q->data, (int)seed, 2048);
    submit(r, q, VIRTIO_BLK_T_OUT, seed % 1000, 2048);
    assert_int_equal(finish(r, q), VIRTIO_BLK_S_OK);
    assert_int_equal(q->written, 1);
    memset(q->data, 0xee, 2048);
    submit(r, q, VIRTIO_BLK_T_IN, seed % 1000, 2048);
    assert_int_equal(finish(r, q), VIRTIO_BLK_S_OK);
    assert_int_equal(q->written, 2049);
    assert_true(q->data[0] == (uint8_t)seed && q->data[2047] == (uint8_t)seed);
}

static inline long stat(struct rig *r, const char *name)
{
    json_t *stats = json_object();
    const json_t *value;
    long number;

    device_stats(r->device, stats);
    value = json_object_get(stats, name);
    number = json_is_true(value) ? 1 : (long)json_integer_value(value);
    json_decref(stats);
    return number;
}

#endif
