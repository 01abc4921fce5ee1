/* SPDX-License-Identifier: MIT */
/* virtio-net behind virtio-mmio with the loop running: a socket as the other end of the
 * wire, a back end with offloads made here, hostile headers, commands and frames; and
 * libslirp answering. pthread_create: the loop's thread, so TSan looks at it too. */
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

#include "base/state.h"
#include "base/util.h"
#include "unit/mmio_driver.h"
#include "virtio/net_backend.h"
#include "virtio/registry.h"
#include "virtio/transport.h"

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

static struct fake *fake_of(struct net_backend *backend)
{
    return container_of(backend, struct fake, backend);
}

static int fake_send(struct net_backend *backend, unsigned pair, const struct iovec *iov,
                     unsigned count)
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

static ssize_t fake_receive(struct net_backend *backend, unsigned pair, void *frame,
                            size_t size)
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

static void fake_give(struct fake *fake, const void *frame, size_t size)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&fake->mutex);
    memcpy(fake->given, frame, size);
    fake->given_size = size;
    pthread_mutex_unlock(&fake->mutex);
    assert_int_equal(write(fake->backend.fds[0], &one, sizeof(one)), sizeof(one));
}

static int fake_set_offloads(struct net_backend *backend, uint64_t features)
{
    atomic_store(&fake_of(backend)->offloads, features);
    return 0;
}

static int fake_set_pairs(struct net_backend *backend, unsigned pairs)
{
    atomic_store(&fake_of(backend)->pairs, pairs);
    return 0;
}

static void fake_destroy(struct net_backend *backend)
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

static void fake_init(struct fake *fake)
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

static void rig_log(void *context, enum umbra_log_level level, const char *line)
{
    struct rig *r = context;

    (void)level;
    (void)line;
    atomic_fetch_add(&r->warnings, 1);
}

static void rig_open(struct rig *r, struct net_backend *backend)
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

static void rig_start(struct rig *r, bool packed, uint64_t features)
{
    const struct mmio_rings rings = { r->mem, 0x10000, QUEUE, packed, true };

    features |= VIRTIO_FEATURE(32) | VIRTIO_FEATURE(28) | VIRTIO_FEATURE(29);
    features |= packed ? VIRTIO_FEATURE(34) : 0;
    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, r->queues, r->queue_count, &rings);
    r->next = BUFFERS;
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static void rig_close(struct rig *r)
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
static uint8_t *buffer(struct rig *r, uint32_t size, struct drv_buffer *b, bool write)
{
    *b = (struct drv_buffer){ r->next, size, write };
    r->next += (size + STRIDE - 1) / STRIDE * STRIDE;
    return guest_mem_ptr(r->mem, b->addr, size);
}

static void kick(struct rig *r, unsigned queue)
{
    mmio_kick(r->device, queue, &r->queues[queue]);
}

static void *used(struct rig *r, unsigned queue, uint32_t *length)
{
    void *token;

    while ((token = drv_get(&r->queues[queue], length)) == NULL) {
        sched_yield();
    }
    return token;
}

static uint8_t *post(struct rig *r, uint32_t size)
{
    struct drv_buffer b;
    uint8_t *bytes = buffer(r, size, &b, true);

    assert_true(drv_add(&r->queues[0], &b, 1, bytes, 0));
    kick(r, 0);
    return bytes;
}

/* Send a frame with @header in front, in @pieces buffers; returns when it is used. */
static void transmit(struct rig *r, const struct virtio_net_hdr_v1 *header,
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

static bool command(struct rig *r, unsigned queue, const void *bytes, uint32_t size)
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

static void fill(uint8_t *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(i * 31 + seed * 77 + i / 256);
    }
}

static const uint64_t mergeable = VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF);

/* Through the stream socket, both ways, split and packed. */
static void test_wire(void **state)
{
    const struct virtio_net_hdr_v1 plain = { 0 };

    for (unsigned packed = 0; packed < 2; packed++) {
        struct net_backend *backend;
        struct rig rig, *r = &rig;
        uint8_t frame[3000], got[3000 + 4], *bytes;
        uint32_t length, prefix;
        int ends[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        assert_int_equal(net_unix_open(NULL, ends[0], &backend, NULL), 0);
        close(ends[0]);
        rig_open(r, backend);
        rig_start(r, packed, mergeable | VIRTIO_FEATURE(VIRTIO_NET_F_STATUS));
        assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 2, 1), 0);
        assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 5, 1), 3);
        assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2),
                         VIRTIO_NET_S_LINK_UP);
        assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 10, 2), 1500);
        for (unsigned i = 1; i <= 5; i++) {
            fill(frame, sizeof(frame), i);
            transmit(r, &plain, frame, 300 * i, i);
            assert_int_equal(recv(ends[1], got, 4 + 300 * i, MSG_WAITALL), 4 + 300 * i);
            memcpy(&prefix, got, 4);
            assert_int_equal(ntohl(prefix), 300 * i);
            assert_memory_equal(got + 4, frame, 300 * i);
        }
        /* In: two frames before there are buffers, then buffers. */
        for (unsigned i = 0; i < 2; i++) {
            prefix = htonl(100 + i);
            memcpy(got, &prefix, 4);
            memcpy(got + 4, frame, 100 + i);
            assert_int_equal(send(ends[1], got, 104 + i, 0), 104 + i);
        }
        for (unsigned i = 0; i < 2; i++) {
            bytes = post(r, 2048);
            assert_ptr_equal(used(r, 0, &length), bytes);
            assert_int_equal(length, NET_HEADER + 100 + i);
            assert_int_equal(load_le16(bytes + 10), 1);
            assert_memory_equal(bytes + NET_HEADER, frame, 100 + i);
        }
        /* The other end goes: the link is down, the device lives. */
        close(ends[1]);
        while (mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2) != 0) {
            sched_yield();
        }
        assert_int_equal(atomic_load(&r->warnings), 1);
        transmit(r, &plain, frame, 100, 1);
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
        rig_close(r);
    }
}

/* A frame over several buffers, fewer than it needs at first; one too large without. */
static void test_merge(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;
        uint8_t frame[NET_HEADER + 5000] = { 0 }, *bytes[3];
        uint32_t length;
        struct fake fake;

        fake_init(&fake);
        rig_open(r, &fake.backend);
        rig_start(r, packed, mergeable);
        fill(frame + NET_HEADER, 5000, 3);
        bytes[0] = post(r, 2000);
        bytes[1] = post(r, 2000);
        fake_give(&fake, frame, sizeof(frame));
        device_pause(r->device); /* the buffers taken so far go back, and come again */
        device_resume(r->device);
        bytes[2] = post(r, 2000);
        for (unsigned i = 0; i < 3; i++) {
            assert_ptr_equal(used(r, 0, &length), bytes[i]);
            assert_int_equal(length, i < 2 ? 2000 : 1012);
        }
        assert_int_equal(load_le16(bytes[0] + 10), 3);
        assert_memory_equal(bytes[0] + 12, frame + 12, 1988);
        assert_memory_equal(bytes[1], frame + 2000, 2000);
        assert_memory_equal(bytes[2], frame + 4000, 1012);

        rig_start(r, packed, 0);
        bytes[0] = post(r, 2000);
        fake_give(&fake, frame, sizeof(frame)); /* dropped */
        do {
            pthread_mutex_lock(&fake.mutex);
            length = (uint32_t)fake.given_size;
            pthread_mutex_unlock(&fake.mutex);
            sched_yield();
        } while (length != 0);
        fake_give(&fake, frame, NET_HEADER + 60);
        assert_ptr_equal(used(r, 0, &length), bytes[0]);
        assert_int_equal(length, NET_HEADER + 60);
        assert_int_equal(load_le16(bytes[0] + 10), 1);
        rig_close(r);
        assert_int_equal(atomic_load(&fake.destroyed), 1);
    }
}

/* Only sound headers, as negotiated, and frames of sound sizes reach the back end. */
static void test_headers(void **state)
{
    static const struct {
        struct virtio_net_hdr_v1 header;
        bool passes, plain_passes; /* with the offloads negotiated, and without */
    } cases[] = {
        { { .flags = 0 }, true, true },
        { { .flags = 1, .csum_start = 34, .csum_offset = 16 }, true, false },
        { { .flags = 1, .csum_start = 198, .csum_offset = 0 }, true, false },
        { { .flags = 1, .csum_start = 198, .csum_offset = 1 }, false, false },
        { { .flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff }, false, false },
        { { .flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 100 }, true, false },
        { { .flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 0 }, false, false },
        { { .flags = 1, .gso_type = 1, .hdr_len = 201, .gso_size = 9 }, false, false },
        { { .flags = 0, .gso_type = 1, .hdr_len = 54, .gso_size = 100 }, false, false },
        { { .flags = 1, .gso_type = 4, .hdr_len = 54, .gso_size = 100 }, false, false },
        { { .flags = 1, .gso_type = 0x81, .hdr_len = 54, .gso_size = 9 }, false, false },
        { { .flags = 0xfe, .hdr_len = 0xffff, .num_buffers = 9 }, true, true },
    };
    uint8_t frame[200], small[4];
    struct rig rig, *r = &rig;
    struct fake fake;
    unsigned expected = 0;

    fake_init(&fake);
    rig_open(r, &fake.backend);
    fill(frame, sizeof(frame), 1);
    for (unsigned plain = 0; plain < 2; plain++) {
        rig_start(r, plain,
                  plain ? 0
                        : VIRTIO_FEATURE(VIRTIO_NET_F_CSUM) |
                              VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO4));
        for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
            bool passes = plain ? cases[i].plain_passes : cases[i].passes;

            transmit(r, &cases[i].header, frame, sizeof(frame), 1 + i % 3);
            expected += passes;
            assert_int_equal(atomic_load(&fake.sent_count), expected);
            if (passes) {
                assert_int_equal(fake.sent_size, NET_HEADER + sizeof(frame));
                assert_memory_equal(fake.sent + NET_HEADER, frame, sizeof(frame));
                assert_int_equal(fake.sent[0], cases[i].header.flags & 1);
            }
        }
        memset(small, 0, sizeof(small));
        transmit(r, &cases[0].header, small, sizeof(small), 1);
        transmit(r, &cases[0].header, frame, 13, 1);
        assert_int_equal(atomic_load(&fake.sent_count), expected);
    }
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
    rig_close(r);
}

static void test_control(void **state)
{
    const uint64_t features = VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) |
                              VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
                              VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |
                              VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR);
    const uint8_t pairs[][4] = { { 4, 0, 2, 0 }, { 4, 0, 3, 0 }, { 4, 0, 0, 0 } };
    const uint8_t mac[] = { 1, 1, 0x52, 1, 2, 3, 4, 5 },
                  group[] = { 1, 1, 1, 1, 2, 3, 4, 5 };
    uint8_t offloads[10] = { 5, 0 }, junk[64];
    struct rig rig, *r = &rig;
    struct fake fake;

    fake_init(&fake);
    memset(junk, 0xff, sizeof(junk));
    rig_open(r, &fake.backend);
    rig_start(r, true, features | VIRTIO_FEATURE(VIRTIO_NET_F_MQ));
    assert_int_equal(atomic_load(&fake.offloads), 1u << VIRTIO_NET_F_GUEST_CSUM);
    assert_int_equal(atomic_load(&fake.pairs), 1);
    assert_true(command(r, 4, pairs[0], 4));
    assert_int_equal(atomic_load(&fake.pairs), 2);
    assert_false(command(r, 4, pairs[1], 4));
    assert_false(command(r, 4, pairs[2], 4));
    assert_false(command(r, 4, pairs[0], 3));
    assert_int_equal(atomic_load(&fake.pairs), 2);
    assert_true(command(r, 4, mac, sizeof(mac)));
    assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 5, 1), 5);
    assert_false(command(r, 4, group, sizeof(group)));
    assert_true(command(r, 4, offloads, sizeof(offloads)));
    assert_int_equal(atomic_load(&fake.offloads), 0);
    store_le64(offloads + 2, 1u << VIRTIO_NET_F_GUEST_TSO4); /* not negotiated */
    assert_false(command(r, 4, offloads, sizeof(offloads)));
    for (unsigned size = 1; size <= sizeof(junk); size++) {
        assert_false(command(r, 4, junk, size));
    }
    /* Without MQ the control queue is the third one, and there is one pair. */
    rig_start(r, false, features);
    assert_int_equal(atomic_load(&fake.pairs), 1);
    assert_false(command(r, 2, pairs[0], 4));
    assert_true(command(r, 2, mac, sizeof(mac)));
    assert_int_equal(atomic_load(&r->warnings), 0);
    /* The cable. */
    assert_int_equal(virtio_net_set_link(r->vdev, false, NULL), 0);
    assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2), 0);
    assert_true(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS) &
                VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(virtio_net_set_link(r->vdev, true, NULL), 0);
    assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2),
                     VIRTIO_NET_S_LINK_UP);
    rig_close(r);
}

/* A malformed ring stops the device until it is reset; then it works again. */
static void test_hostile(void **state)
{
    struct drv_buffer outside = { RAM, 4096, true };
    struct virtio_net_hdr_v1 plain = { 0 };
    uint8_t frame[NET_HEADER + 60] = { 0 };
    struct rig rig, *r = &rig;
    struct fake fake;

    fake_init(&fake);
    rig_open(r, &fake.backend);
    for (unsigned packed = 0; packed < 2; packed++) {
        rig_start(r, packed, mergeable);
        assert_true(drv_add(&r->queues[0], &outside, 1, r, 0));
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        fake_give(&fake, frame, sizeof(frame));
        while (!(mmio_get(r->device, VIRTIO_MMIO_STATUS) & 64) ||
               atomic_load(&r->warnings) <= packed) {
            sched_yield();
        }
        assert_int_equal(atomic_load(&r->warnings), packed + 1);
        rig_start(r, packed, mergeable);
        transmit(r, &plain, frame, 60, 1);
        assert_int_equal(atomic_load(&fake.sent_count), packed + 1);
    }
    rig_close(r);
}

static int listen_at(const char *path)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(at.sun_path, path);
    unlink(path);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

/* A frame each way over the connection at @wire. */
static void both_ways(struct rig *r, int wire, unsigned seed)
{
    static const struct virtio_net_hdr_v1 plain;
    uint8_t frame[200], got[4 + sizeof(frame)];
    uint32_t length = htonl(sizeof(frame));
    struct drv_buffer b;
    uint8_t *host = buffer(r, 2048, &b, true);

    fill(frame, sizeof(frame), seed);
    transmit(r, &plain, frame, sizeof(frame), 1);
    assert_int_equal(recv(wire, got, sizeof(got), MSG_WAITALL), sizeof(got));
    assert_memory_equal(got, &length, sizeof(length));
    assert_memory_equal(got + 4, frame, sizeof(frame));

    fill(got + 4, sizeof(frame), seed + 1);
    assert_true(drv_add(&r->queues[0], &b, 1, host, 0));
    kick(r, 0);
    assert_int_equal(send(wire, got, sizeof(got), 0), sizeof(got));
    while (used(r, 0, &length) == NULL) {
        sched_yield();
    }
    assert_int_equal(length, NET_HEADER + sizeof(frame));
    assert_memory_equal(host + NET_HEADER, got + 4, sizeof(frame));
}

static unsigned link_is(struct rig *r)
{
    return mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2);
}

/* The other end goes away, in the middle of a frame, and comes back: link down, link up,
 * each with its interrupt, and frames are whole again. One that was handed over does not. */
static void test_reopen(void **state)
{
    char path[64];
    struct rig rig, *r = &rig;
    struct net_backend *backend;
    struct umbra_error error;
    int listener, wire, pair[2];
    uint32_t generation;

    snprintf(path, sizeof(path), "/tmp/umbra-net-%d.sock", (int)getpid());
    listener = listen_at(path);
    assert_int_equal(net_unix_open(path, -1, &backend, &error), 0);
    wire = accept(listener, NULL, NULL);
    rig_open(r, backend);
    rig_start(r, false, VIRTIO_FEATURE(VIRTIO_NET_F_STATUS));
    both_ways(r, wire, 1);
    for (unsigned round = 0; round < 2; round++) {
        close(listener);
        generation = mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG_GENERATION, 4);
        assert_int_equal(link_is(r), VIRTIO_NET_S_LINK_UP);
        assert_int_equal(send(wire, "\0\0\0\x64torn", 8, 0), 8);
        close(wire);
        while (link_is(r) != 0) {
            sched_yield();
        }
        assert_int_not_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG_GENERATION, 4),
                             generation);
        assert_true(mmio_get_sized(r->device, VIRTIO_MMIO_INTERRUPT_STATUS, 4) &
                    VIRTIO_MMIO_INT_CONFIG);
        mmio_set(r->device, VIRTIO_MMIO_INTERRUPT_ACK, 3);
        listener = listen_at(path);
        wire = accept(listener, NULL, NULL);
        while (link_is(r) != VIRTIO_NET_S_LINK_UP) {
            sched_yield();
        }
        assert_true(mmio_get_sized(r->device, VIRTIO_MMIO_INTERRUPT_STATUS, 4) &
                    VIRTIO_MMIO_INT_CONFIG);
        mmio_set(r->device, VIRTIO_MMIO_INTERRUPT_ACK, 3);
        both_ways(r, wire, 10 * round);
    }
    assert_int_equal(atomic_load(&r->warnings), 2);
    close(wire);
    close(listener);
    unlink(path);
    rig_close(r);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(net_unix_open(NULL, pair[0], &backend, &error), 0);
    assert_null(backend->ops->reopen);
    net_backend_destroy(backend);
    close(pair[0]);
    close(pair[1]);
}

static void test_save_load(void **state)
{
    struct rig one, two, *r = &one;
    struct state_writer *writer;
    struct state_reader *reader;
    struct umbra_error error;
    struct fake fake, other;
    const uint8_t pairs[] = { 4, 0, 2, 0 };
    json_t *stats = json_object();
    const void *bytes;
    size_t size;

    fake_init(&fake);
    fake_init(&other);
    rig_open(r, &fake.backend);
    rig_open(&two, &other.backend);
    rig_start(r, false,
              VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_FEATURE(VIRTIO_NET_F_MQ) |
                  VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM));
    assert_true(command(r, 4, pairs, sizeof(pairs)));
    device_pause(r->device);
    assert_int_equal(state_writer_create(&writer), 0);
    assert_int_equal(device_save(r->device, writer, &error), 0);
    assert_int_equal(state_writer_finish(writer, &bytes, &size), 0);
    assert_int_equal(state_reader_create(bytes, size, &reader, &error), 0);
    device_pause(two.device);
    memcpy(guest_mem_ptr(two.mem, 0, RAM), guest_mem_ptr(r->mem, 0, RAM), RAM);
    assert_int_equal(device_load(two.device, reader, &error), 0);
    assert_int_equal(atomic_load(&other.pairs), 2);
    assert_int_equal(atomic_load(&other.offloads), 1u << VIRTIO_NET_F_GUEST_CSUM);
    virtio_device_stats(two.vdev, stats);
    assert_int_equal(json_integer_value(json_object_get(stats, "pairs")), 2);
    json_decref(stats);
    state_reader_destroy(reader);
    state_writer_destroy(writer);
    two.queue_count = 0;
    rig_close(r);
    rig_close(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wire),      cmocka_unit_test(test_merge),
        cmocka_unit_test(test_headers),   cmocka_unit_test(test_control),
        cmocka_unit_test(test_hostile),   cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
