/* SPDX-License-Identifier: MIT */
/* A virtio-net behind virtio-mmio with its loop running, a guest driver by hand, and a back
 * end with offloads. */
#ifndef TESTS_NET_FIXTURE_H
#define TESTS_NET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/virtio_net.h>

#include "backend/net/net.h"
#include "base/state.h"
#include "base/util.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"

enum { RAM = 8 << 20, BUFFERS = 4 << 20, QUEUE = 64, STRIDE = 4096 };

/* Two queue pairs; remembers what was sent, delivers what it is given. */
struct fake {
    struct net_backend backend;
    pthread_mutex_t mutex;
    uint8_t sent[NET_HEADER + NET_FRAME_MAX];
    atomic_size_t sent_size;
    atomic_uint sent_count, pairs, destroyed;
    atomic_ulong offloads;
    uint8_t given[NET_HEADER + NET_FRAME_MAX];
    size_t given_size; /* 0: none */
};

static inline struct fake *fake_of(struct net_backend *backend)
{
    return container_of(backend, struct fake, backend);
}

static inline int fake_send(struct net_backend *backend, unsigned pair,
                            const struct iovec *iov, unsigned count)
{
    struct fake *fake = fake_of(backend);
    size_t size = 0;

    (void)pair;
    for (unsigned i = 0; i < count; i++) {
        memcpy(fake->sent + size, iov[i].iov_base, iov[i].iov_len);
        size += iov[i].iov_len;
    }
    atomic_store(&fake->sent_size, size);
    atomic_fetch_add(&fake->sent_count, 1);
    return 0;
}

static inline ssize_t fake_receive(struct net_backend *backend, unsigned pair,
                                   void *frame, size_t size)
{
    struct fake *fake = fake_of(backend);
    ssize_t ret = -EAGAIN;
    uint64_t count;

    (void)size;
    pthread_mutex_lock(&fake->mutex);
    if (pair == 0 && fake->given_size > 0) {
        memcpy(frame, fake->given, fake->given_size);
        ret = (ssize_t)fake->given_size;
        fake->given_size = 0;
    } else if (read(backend->fds[pair], &count, sizeof(count)) < 0) {
        assert_int_equal(errno, EAGAIN);
    }
    pthread_mutex_unlock(&fake->mutex);
    return ret;
}

static inline void fake_give(struct fake *fake, const void *frame, size_t size)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&fake->mutex);
    memcpy(fake->given, frame, size);
    fake->given_size = size;
    pthread_mutex_unlock(&fake->mutex);
    assert_int_equal(write(fake->backend.fds[0], &one, sizeof(one)), sizeof(one));
}

static inline int fake_set_offloads(struct net_backend *backend, uint64_t features)
{
    atomic_store(&fake_of(backend)->offloads, features);
    return 0;
}

static inline int fake_set_pairs(struct net_backend *backend, unsigned pairs)
{
    atomic_store(&fake_of(backend)->pairs, pairs);
    return 0;
}

static inline void fake_destroy(struct net_backend *backend)
{
    for (unsigned i = 0; i < backend->pairs; i++) {
        close(backend->fds[i]);
    }
    atomic_fetch_add(&fake_of(backend)->destroyed, 1);
}

static const struct net_backend_ops fake_ops = {
    .type = "fake",
    .send = fake_send,
    .receive = fake_receive,
    .set_offloads = fake_set_offloads,
    .set_pairs = fake_set_pairs,
    .destroy = fake_destroy,
};

static inline void fake_init(struct fake *fake)
{
    memset(fake, 0, sizeof(*fake));
    pthread_mutex_init(&fake->mutex, NULL);
    fake->backend.ops = &fake_ops;
    fake->backend.pairs = 2;
    fake->backend.features = 1u << VIRTIO_NET_F_CSUM | 1u << VIRTIO_NET_F_HOST_TSO4 |
                             1u << VIRTIO_NET_F_GUEST_CSUM |
                             1u << VIRTIO_NET_F_GUEST_TSO4;
    fake->backend.fds[0] = eventfd(0, EFD_NONBLOCK);
    fake->backend.fds[1] = eventfd(0, EFD_NONBLOCK);
}

struct rig {
    struct guest_mem *mem;
    struct log log;
    struct loop *loop;
    struct device_env env;
    struct virtio_device *vdev;
    struct device *device;
    struct drv queues[5];
    unsigned queue_count;
    atomic_uint warnings;
    uint64_t next; /* free guest memory for buffers */
};

static inline void rig_log(void *context, enum umbra_log_level level, const char *line)
{
    struct rig *r = context;

    (void)level;
    (void)line;
    atomic_fetch_add(&r->warnings, 1);
}

static inline void rig_open(struct rig *r, struct net_backend *backend)
{
    struct virtio_net_options net = {
        .id = "net0", .mac = { 0x52, 0x54, 0, 1, 2, 3 }, .mtu = 1500, .queue_size = QUEUE
    };
    struct guest_mem_options options = { 0 };
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM, GUEST_REGION_RAM, &error), 0);
    r->log = (struct log){ .fn = rig_log, .context = r, .level = UMBRA_LOG_WARNING };
    assert_int_equal(loop_create(&r->log, &r->loop, &error), 0);
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log, .loop = r->loop };
    assert_int_equal(virtio_net_create(&r->env, &net, backend, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error), 0);
    r->queue_count = 2 * backend->pairs + 1;
    assert_int_equal(loop_start(r->loop, &error), 0);
}

static inline void rig_start(struct rig *r, bool packed, uint64_t features)
{
    const struct mmio_rings rings = { r->mem, 0x10000, QUEUE, packed, true };

    features |= VIRTIO_FEATURE(32) | VIRTIO_FEATURE(28) | VIRTIO_FEATURE(29);
    features |= packed ? VIRTIO_FEATURE(34) : 0;
    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, r->queues, r->queue_count, &rings);
    r->next = BUFFERS;
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static inline void rig_close(struct rig *r)
{
    for (unsigned i = 0; i < r->queue_count; i++) {
        drv_fini(&r->queues[i]);
    }
    loop_stop(r->loop);
    device_destroy(r->device);
    loop_destroy(r->loop);
    guest_mem_destroy(r->mem);
}

/* A buffer of guest memory; its host address is its token. */
static inline uint8_t *buffer(struct rig *r, uint32_t size, struct drv_buffer *b,
                              bool write)
{
    *b = (struct drv_buffer){ r->next, size, write };
    r->next += (size + STRIDE - 1) / STRIDE * STRIDE;
    return guest_mem_ptr(r->mem, b->addr, size);
}

static inline void kick(struct rig *r, unsigned queue)
{
    mmio_kick(r->device, queue, &r->queues[queue]);
}

static inline void *used(struct rig *r, unsigned queue, uint32_t *length)
{
    void *token;

    while ((token = drv_get(&r->queues[queue], length)) == NULL) {
        sched_yield();
    }
    return token;
}

static inline uint8_t *post(struct rig *r, uint32_t size)
{
    struct drv_buffer b;
    uint8_t *bytes = buffer(r, size, &b, true);

    assert_true(drv_add(&r->queues[0], &b, 1, bytes, 0));
    kick(r, 0);
    return bytes;
}

/* Send a frame with @header in front, in @pieces buffers; returns when it is used. */
static inline void transmit(struct rig *r, const struct virtio_net_hdr_v1 *header,
                            const uint8_t *frame, uint32_t size, unsigned pieces)
{
    struct drv_buffer whole, b[8];
    uint8_t *bytes = buffer(r, NET_HEADER + size, &whole, false);
    uint32_t length, step = (NET_HEADER + size) / pieces;

    memcpy(bytes, header, NET_HEADER);
    memcpy(bytes + NET_HEADER, frame, size);
    for (unsigned i = 0; i < pieces; i++) {
        b[i] = (struct drv_buffer){ whole.addr + i * step, step, false };
    }
    b[pieces - 1].len = NET_HEADER + size - (pieces - 1) * step;
    assert_true(drv_add(&r->queues[1], b, pieces, bytes, 0));
    kick(r, 1);
    assert_ptr_equal(used(r, 1, &length), bytes);
    assert_int_equal(length, 0);
}

static inline bool command(struct rig *r, unsigned queue, const void *bytes,
                           uint32_t size)
{
    struct drv_buffer b[2];
    uint8_t *out = buffer(r, size, &b[0], false), *ack = buffer(r, 1, &b[1], true);
    uint32_t length;

    memcpy(out, bytes, size);
    *ack = 0xee;
    assert_true(drv_add(&r->queues[queue], b, 2, out, 0));
    kick(r, queue);
    assert_ptr_equal(used(r, queue, &length), out);
    assert_int_equal(length, 1);
    assert_true(*ack <= 1);
    return *ack == VIRTIO_NET_OK;
}

static inline void fill(uint8_t *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(i * 31 + seed * 77 + i / 256);
    }
}

#endif
