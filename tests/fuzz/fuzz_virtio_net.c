/* SPDX-License-Identifier: MIT */
/*
 * A hostile driver of a whole virtio-net over a stream socket: the input is the contents of
 * guest memory (rings, headers, frames, commands), what to kick, and what comes from the
 * socket. Whatever it does, the socket carries whole frames of possible sizes; a reset
 * brings the device back, and an ordinary frame gets through then.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/virtio_net.h>

#include "backend/net/net.h"
#include "loop/loop.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"
#include "virtqueue_fuzz.h"

enum {
    QUEUE = 16,
    QUEUES = 3,
    RING_STRIDE = 0x400, /* of guest memory, for each queue */
    PATIENCE = 200000,
};

static struct {
    struct guest_mem *mem;
    struct log log;
    struct loop *loop;
    struct device_env env;
    struct virtio_device *vdev;
    struct device *device;
    int peer;
    /* What the socket carried so far: bytes of the frame, or of its length. */
    uint8_t prefix[4];
    uint32_t at, left, last;
} rig;

static void make(void)
{
    struct virtio_net_options options = { .id = "net0",
                                          .mac = { 0x52, 0x54, 0, 1, 2, 3 },
                                          .queue_size = QUEUE };
    struct net_backend *backend;
    struct umbra_error error;
    int ends[2];

    FUZZ_EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    FUZZ_EXPECT(loop_create(&rig.log, &rig.loop, &error) == 0);
    rig.env = (struct device_env){ .mem = rig.mem, .log = &rig.log, .loop = rig.loop };
    FUZZ_EXPECT(net_unix_open(NULL, ends[0], &backend, &error) == 0);
    FUZZ_EXPECT(virtio_net_create(&rig.env, &options, backend, &rig.vdev, &error) == 0);
    FUZZ_EXPECT(virtio_mmio_create(&rig.env, 20, rig.vdev, &rig.device, &error) == 0);
    FUZZ_EXPECT(loop_start(rig.loop, &error) == 0);
    close(ends[0]);
    rig.peer = ends[1];
}

static void start(bool packed, uint32_t features)
{
    mmio_negotiate(rig.device,
                   UINT64_C(1) << 32 | (packed ? UINT64_C(1) << 34 : 0) | features);
    for (unsigned i = 0; i < QUEUES; i++) {
        const struct drv rings = { .size = QUEUE,
                                   .desc = i * RING_STRIDE,
                                   .driver = i * RING_STRIDE + 0x200,
                                   .device = i * RING_STRIDE + 0x300 };

        mmio_queue_ready(rig.device, i, &rings);
    }
    mmio_set(rig.device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

/* Until the loop took the kick; its callback is over when the lock is free. */
static void kick(unsigned queue)
{
    struct pollfd kicked = { .fd = rig.vdev->queues[queue].kick_fd, .events = POLLIN };

    mmio_set(rig.device, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    for (unsigned i = 0; i < PATIENCE && poll(&kicked, 1, 0) == 1; i++) {
        sched_yield();
    }
    pthread_mutex_lock(&rig.vdev->lock);
    pthread_mutex_unlock(&rig.vdev->lock);
}

/* Take what the device sent; it must be frames. How many ended. */
static unsigned drain(void)
{
    static uint8_t bytes[1 << 16];
    unsigned frames = 0;
    ssize_t got;

    while ((got = recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
        for (size_t i = 0; i < (size_t)got;) {
            uint32_t step;

            if (rig.left == 0) {
                rig.prefix[rig.at++] = bytes[i++];
                if (rig.at < sizeof(rig.prefix)) {
                    continue;
                }
                memcpy(&rig.left, rig.prefix, sizeof(rig.left));
                rig.last = rig.left = ntohl(rig.left);
                rig.at = 0;
                FUZZ_EXPECT(rig.left >= NET_FRAME_MIN && rig.left <= NET_FRAME_MAX);
                continue;
            }
            step = rig.left < (size_t)got - i ? rig.left : (uint32_t)((size_t)got - i);
            rig.left -= step;
            i += step;
            frames += rig.left == 0;
        }
    }
    FUZZ_EXPECT(got < 0 && errno == EAGAIN); /* it never hangs up */
    return frames;
}

/* A frame for the guest, as other ends send them. */
static void give(const uint8_t *bytes, uint32_t size)
{
    uint32_t prefix = htonl(size);

    if (send(rig.peer, &prefix, sizeof(prefix), MSG_DONTWAIT) == sizeof(prefix)) {
        for (uint32_t sent = 0; sent < size;) {
            ssize_t now = send(rig.peer, bytes + sent, size - sent, MSG_DONTWAIT);

            sent += now > 0 ? (uint32_t)now : 0;
            if (now < 0) {
                drain(); /* the device may wait for room, too */
                sched_yield();
            }
        }
    }
}

/* A frame of 60 bytes over a split ring. */
static void ordinary_frame(void)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } chain = { 0x1000, NET_HEADER + 60, 0, 0 };
    const uint8_t available[] = { 0, 0, 1, 0, 0, 0 };
    unsigned i = 0;

    guest_mem_fill(rig.mem, 0, 0, FUZZ_RAM);
    start(false, 0);
    drain();
    guest_mem_write(rig.mem, RING_STRIDE, &chain, sizeof(chain));
    guest_mem_write(rig.mem, RING_STRIDE + 0x200, available, sizeof(available));
    mmio_set(rig.device, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    while (drain() == 0) {
        FUZZ_EXPECT(++i < 100000);
        usleep(20);
    }
    FUZZ_EXPECT(rig.last == 60);
    mmio_set(rig.device, VIRTIO_MMIO_STATUS, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t checksum = 1u << VIRTIO_NET_F_CSUM;
    static const uint8_t frame[4096];
    static unsigned runs;
    struct fuzz_input in = { data, size };
    unsigned flags, kicks, given;

    rig.mem = fuzz_ram();
    if (rig.device == NULL) {
        make();
    }
    flags = fuzz_byte(&in);
    kicks = fuzz_byte(&in);
    given = fuzz_byte(&in);
    guest_mem_write(rig.mem, 0, in.at, in.left < FUZZ_RAM ? in.left : FUZZ_RAM);
    start(flags & 1, 1u << 28 | (flags & 2 ? checksum : 0) |
                         (flags & 4 ? checksum | 1u << VIRTIO_NET_F_HOST_TSO4 : 0) |
                         (flags & 8 ? checksum | 1u << VIRTIO_NET_F_HOST_TSO6 : 0) |
                         (flags & 16 ? 1u << VIRTIO_NET_F_MRG_RXBUF : 0) |
                         (flags & 32 ? 1u << VIRTIO_NET_F_CTRL_VQ : 0) |
                         (flags & 64 ? 1u << VIRTIO_NET_F_CTRL_MAC_ADDR : 0));
    for (unsigned i = 0; i < given % 4; i++) {
        give(frame, 1 + (given * 37 + i * 911) % (sizeof(frame) - 1));
    }
    for (unsigned i = 0; i < 4; i++) {
        if (kicks >> (2 * i) & 3) {
            kick((kicks >> (2 * i) & 3) - 1);
        }
        drain();
    }
    mmio_set(rig.device, VIRTIO_MMIO_STATUS, 0);
    FUZZ_EXPECT(mmio_get(rig.device, VIRTIO_MMIO_STATUS) == 0);
    if (runs++ % 64 == 0) {
        ordinary_frame();
    }
    return 0;
}
