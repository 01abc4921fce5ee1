/* SPDX-License-Identifier: MIT */
/* A virtio-vsock behind virtio-mmio with its loop running, and a guest driver by hand. */
#ifndef TESTS_VSOCK_FIXTURE_H
#define TESTS_VSOCK_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/virtio_vsock.h>

#include "base/util.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"

enum {
    RAM = 16 << 20,
    BUFFERS = 4 << 20,
    QUEUE = 64,
    RX_BUFFERS = 32,
    RX_SIZE = 4096,
    HEADER = 44,
    CID = 3,
    CREDIT = 128 << 10, /* what the device gives a stream */
};

enum { RX, TX, EVENT };

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, UPDATE, ASK }; /* VIRTIO_VSOCK_OP_* */

struct packet { /* in host order */
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, length;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
    uint8_t data[RX_SIZE];
};

struct rig {
    struct guest_mem *mem;
    struct log log;
    struct loop *loop;
    struct device_env env;
    struct virtio_device *vdev;
    struct device *device;
    struct drv queues[3];
    atomic_uint warnings;
    unsigned posted; /* buffers in the receive queue */
    char path[64];
};

static inline void rig_log(void *context, enum umbra_log_level level, const char *line)
{
    struct rig *r = context;

    if (getenv("VSOCK_LOG") != NULL) {
        print_message("%s\n", line);
    }
    if (level <= UMBRA_LOG_WARNING) {
        atomic_fetch_add(&r->warnings, 1);
    }
}

/* Spin, then sleep; gives up after about a minute, which only a broken build needs. */
#define WAIT_FOR(condition)                                                              \
    do {                                                                                 \
        for (unsigned tries_ = 0; !(condition); tries_++) {                              \
            if (tries_ < 1000) {                                                         \
                sched_yield();                                                           \
            } else {                                                                     \
                nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);                \
            }                                                                            \
            assert_true(tries_ < 300000);                                                \
        }                                                                                \
    } while (0)

static inline void rig_open(struct rig *r, unsigned streams, bool with_path)
{
    static unsigned serial;
    struct virtio_vsock_options vsock = { .id = "vsock", .cid = CID, .streams = streams };
    struct guest_mem_options options = { 0 };
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    snprintf(r->path, sizeof(r->path), "/tmp/umbra-vsock-%d-%u", getpid(), serial++);
    vsock.path = with_path ? r->path : NULL;
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM, GUEST_REGION_RAM, &error), 0);
    r->log = (struct log){ .fn = rig_log, .context = r, .level = UMBRA_LOG_DEBUG };
    assert_int_equal(loop_create(&r->log, &r->loop, &error), 0);
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log, .loop = r->loop };
    assert_int_equal(virtio_vsock_create(&r->env, &vsock, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error), 0);
    assert_int_equal(loop_start(r->loop, &error), 0);
}

static inline void kick(struct rig *r, unsigned queue)
{
    mmio_kick(r->device, queue, &r->queues[queue]);
}

static inline uint64_t rx_address(unsigned slot)
{
    return BUFFERS + (uint64_t)slot * RX_SIZE;
}

/* Buffer @slot of the receive queue; its token is its slot. */
static inline void rx_post(struct rig *r, unsigned slot, uint32_t size)
{
    struct drv_buffer b = { rx_address(slot), size, true };

    assert_true(drv_add(&r->queues[RX], &b, 1, (void *)(uintptr_t)(slot + 1), 0));
    r->posted++;
    kick(r, RX);
}

static inline void rx_post_all(struct rig *r)
{
    for (unsigned i = 0; i < RX_BUFFERS; i++) {
        rx_post(r, i, RX_SIZE);
    }
}

/* Negotiate, without buffers yet. */
static inline void rig_start(struct rig *r, bool packed)
{
    uint64_t features = VIRTIO_FEATURE(32) | VIRTIO_FEATURE(28) | VIRTIO_FEATURE(29) |
                        VIRTIO_FEATURE(0) | (packed ? VIRTIO_FEATURE(34) : 0);
    const struct mmio_rings rings = { r->mem, 0x10000, QUEUE, packed, true };

    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG), CID);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG + 4), 0);
    mmio_queues_start(r->device, r->queues, 3, &rings);
    r->posted = 0;
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static inline void rig_close(struct rig *r)
{
    for (unsigned i = 0; i < 3; i++) {
        drv_fini(&r->queues[i]);
    }
    loop_stop(r->loop);
    device_destroy(r->device);
    loop_destroy(r->loop);
    guest_mem_destroy(r->mem);
    assert_int_equal(access(r->path, F_OK), -1); /* the socket went with the device */
}

static inline bool needs_reset(struct rig *r)
{
    return (mmio_get(r->device, VIRTIO_MMIO_STATUS) & 0x40) != 0;
}

/* ---- The guest ---------------------------------------------------------------------------- */

static inline void header_write(uint8_t *at, const struct packet *p)
{
    store_le64(at, p->src_cid);
    store_le64(at + 8, p->dst_cid);
    store_le32(at + 16, p->src_port);
    store_le32(at + 20, p->dst_port);
    store_le32(at + 24, p->length);
    store_le16(at + 28, p->type);
    store_le16(at + 30, p->op);
    store_le32(at + 32, p->flags);
    store_le32(at + 36, p->buf_alloc);
    store_le32(at + 40, p->fwd_cnt);
}

/* A packet from @guest_port to @host_port; the rest as an honest guest has it. */
static inline struct packet packet(uint32_t guest_port, uint32_t host_port, unsigned op)
{
    return (struct packet){ .src_cid = CID,
                            .dst_cid = 2,
                            .src_port = guest_port,
                            .dst_port = host_port,
                            .type = 1,
                            .op = (uint16_t)op,
                            .buf_alloc = 1 << 20 };
}

/* Put it into the transmit queue with @length payload bytes, in two descriptors. */
static inline bool packet_queue(struct rig *r, const struct packet *p, const void *data,
                                uint32_t length)
{
    uint64_t at = BUFFERS + (2 << 20);
    uint8_t *bytes;
    struct drv_buffer b[2];

    if (r->queues[TX].free_count < 2) {
        return false; /* the buffer may be in use */
    }
    at += (uint64_t)r->queues[TX].avail % QUEUE * (68 << 10);
    bytes = guest_mem_ptr(r->mem, at, HEADER + length);
    header_write(bytes, p);
    if (length > 0 && data != NULL) {
        memcpy(bytes + HEADER, data, length);
    }
    b[0] = (struct drv_buffer){ at, HEADER, false };
    b[1] = (struct drv_buffer){ at + HEADER, length, false };
    return drv_add(&r->queues[TX], b, length > 0 ? 2 : 1, (void *)(uintptr_t)1, 0);
}

static inline void tx_wait(struct rig *r)
{
    uint32_t length;
    void *token;

    WAIT_FOR((token = drv_get(&r->queues[TX], &length)) != NULL);
    assert_int_equal(length, 0);
}

static inline void packet_send(struct rig *r, const struct packet *p, const void *data)
{
    assert_true(packet_queue(r, p, data, p->length));
    kick(r, TX);
    tx_wait(r);
}

static inline void guest_send(struct rig *r, uint32_t guest_port, uint32_t host_port,
                              const void *data, uint32_t length)
{
    struct packet p = packet(guest_port, host_port, RW);

    p.length = length;
    packet_send(r, &p, data);
}

static inline void guest_say(struct rig *r, uint32_t guest_port, uint32_t host_port,
                             unsigned op, uint32_t flags)
{
    struct packet p = packet(guest_port, host_port, op);

    p.flags = flags;
    packet_send(r, &p, NULL);
}

/* Is there a packet for the guest? Its buffer goes back to the queue. */
static inline bool packet_there(struct rig *r, struct packet *p)
{
    uint32_t length;
    void *token = drv_get(&r->queues[RX], &length);
    unsigned slot = (unsigned)(uintptr_t)token - 1;
    const uint8_t *at;

    if (token == NULL) {
        return false;
    }
    r->posted--;
    at = guest_mem_ptr(r->mem, rx_address(slot), RX_SIZE);
    *p = (struct packet){ .src_cid = load_le64(at),
                          .dst_cid = load_le64(at + 8),
                          .src_port = load_le32(at + 16),
                          .dst_port = load_le32(at + 20),
                          .length = load_le32(at + 24),
                          .type = load_le16(at + 28),
                          .op = load_le16(at + 30),
                          .flags = load_le32(at + 32),
                          .buf_alloc = load_le32(at + 36),
                          .fwd_cnt = load_le32(at + 40) };
    assert_int_equal(length, HEADER + p->length);
    memcpy(p->data, at + HEADER, p->length);
    rx_post(r, slot, RX_SIZE);
    return true;
}

/* The next packet, which must be this one. */
static inline struct packet expect(struct rig *r, uint32_t host_port, uint32_t guest_port,
                                   unsigned op)
{
    struct packet p;

    WAIT_FOR(packet_there(r, &p));
    assert_int_equal(p.op, op);
    assert_int_equal(p.src_port, host_port);
    assert_int_equal(p.dst_port, guest_port);
    assert_int_equal(p.dst_cid, CID);
    return p;
}

/* ---- The host ------------------------------------------------------------------------------ */

static inline struct sockaddr_un host_address(const struct rig *r, int port)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (port < 0) {
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", r->path);
    } else {
        snprintf(address.sun_path, sizeof(address.sun_path), "%s_%d", r->path, port);
    }
    return address;
}

/* Listen where the guest's connections to @port go. */
static inline int host_listen(const struct rig *r, int port)
{
    struct sockaddr_un address = host_address(r, port);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static inline void host_unlisten(const struct rig *r, int port, int fd)
{
    close(fd);
    unlink(host_address(r, port).sun_path);
}

/* Connect as a client and say @line. */
static inline int host_dial(const struct rig *r, const char *line)
{
    struct sockaddr_un address = host_address(r, -1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(send(fd, line, strlen(line), MSG_NOSIGNAL), strlen(line));
    return fd;
}

/* Exactly these bytes come. */
static inline void host_reads(int fd, const void *bytes, size_t length)
{
    char *got = malloc(length + 1);

    assert_int_equal(recv(fd, got, length, MSG_WAITALL), length);
    assert_memory_equal(got, bytes, length);
    free(got);
}

static inline void host_at_end(int fd)
{
    char c;

    assert_int_equal(recv(fd, &c, 1, 0), 0);
}

/* A guest's connection to host port @port, open at both sides; the host's end. */
static inline int guest_connect(struct rig *r, int listener, uint32_t guest_port,
                                uint32_t port)
{
    int fd;

    guest_say(r, guest_port, port, REQUEST, 0);
    fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    expect(r, port, guest_port, RESPONSE);
    return fd;
}

static inline void fill(uint8_t *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(i * 31 + seed * 77 + i / 256);
    }
}

static inline json_int_t stat_of(struct rig *r, const char *name)
{
    json_t *json = json_object(), *value;
    json_int_t number;

    device_stats(r->device, json);
    value = json_object_get(json_object_get(json, "connections"), name);
    number = json_integer_value(value != NULL ? value : json_object_get(json, name));
    json_decref(json);
    return number;
}

#endif
