/* SPDX-License-Identifier: MIT */
/*
 * A hostile guest and hostile clients of a virtio-vsock, step by step: packets with any
 * header, receive buffers of any size, "CONNECT" lines, ends that write, read, shut down and
 * close. The loop is played here, so that a run is always the same, and so that an end which
 * is ready for ever without anything coming of it (a spinning loop) is noticed.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/parts.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"
#include "virtio/vsock/vsock.h"
#include "virtqueue_fuzz.h"

enum {
    RAM = 1 << 20,
    QUEUE = 16,
    RX_AT = 0x40000, /* 4 KiB each */
    TX_AT = 0x80000,
    PEERS = 16,
    STREAMS = 12,
    ROUNDS = 2000, /* of the loop; more is a spin */
    PORT = 1,
    CID = 3,
};

struct rig {
    struct guest_mem *mem;
    struct device_env env;
    struct log log;
    struct virtio_device *vdev;
    struct device *device;
    struct drv queues[VSOCK_QUEUES];
    int accepted;     /* a pipe of ends for us */
    int peers[PEERS]; /* the hosts' ends; -1: none */
};

static void make(struct rig *r)
{
    const struct virtio_vsock_options options = { .id = "vsock",
                                                  .cid = CID,
                                                  .streams = STREAMS };
    struct guest_mem_options memory = { 0 };
    struct umbra_error error;

    FUZZ_EXPECT(guest_mem_create(&memory, &r->mem, &error) == 0);
    FUZZ_EXPECT(guest_mem_add(r->mem, 0, RAM, GUEST_REGION_RAM, &error) == 0);
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log };
    FUZZ_EXPECT(loop_create(&r->log, &r->env.loop, &error) == 0);
    FUZZ_EXPECT(virtio_vsock_create(&r->env, &options, &r->vdev, &error) == 0);
    FUZZ_EXPECT(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error) == 0);
    FUZZ_EXPECT(virtio_vsock_listen(r->vdev, PORT, &r->accepted) == 0);
    for (unsigned i = 0; i < PEERS; i++) {
        r->peers[i] = -1;
    }
}

static void start(struct rig *r, bool packed)
{
    const struct mmio_rings rings = { r->mem, 0, QUEUE, packed, false };
    uint64_t end;

    mmio_negotiate(r->device, UINT64_C(1) << 32 | (packed ? UINT64_C(1) << 34 : 0));
    end = mmio_queues_start(r->device, r->queues, VSOCK_QUEUES, &rings);
    FUZZ_EXPECT(end <= RX_AT);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* One round over all ends and queues; false: nothing was ready. */
static bool play_round(struct rig *r)
{
    struct virtio_vsock *vsock = vsock_of(r->vdev);
    struct vsock_stream *stream, *next;
    bool any = false;

    for (stream = LIST_FIRST(&vsock->streams); stream != NULL; stream = next) {
        struct pollfd end = { .fd = stream->fd };

        next = LIST_NEXT(stream, all);
        if (stream->watch == NULL || stream->watch->wanted == 0) {
            continue;
        }
        end.events = (short)stream->watch->wanted;
        if (poll(&end, 1, 0) == 1) {
            any = true;
            vsock_stream_polled(stream, (uint32_t)end.revents);
            next = LIST_FIRST(&vsock->streams); /* that one may have gone, too */
            break;
        }
    }
    for (unsigned i = 0; i < VSOCK_QUEUES; i++) {
        struct virtio_queue *queue = &r->vdev->queues[i];
        uint64_t count;

        if (queue->running &&
            read(queue->kick_fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
            any = true;
            r->vdev->facts->ops.notify(r->vdev, queue);
        }
    }
    return any;
}

static void play(struct rig *r)
{
    const struct virtio_vsock *vsock = vsock_of(r->vdev);
    const struct vsock_stream *stream;
    unsigned rounds = 0, count = 0;

    pthread_mutex_lock(&r->vdev->lock);
    for (unsigned i = 0; i < VSOCK_QUEUES; i++) {
        virtio_queue_rekick(&r->vdev->queues[i]);
    }
    while (play_round(r)) {
        FUZZ_EXPECT(rounds++ < ROUNDS);
    }
    LIST_FOREACH(stream, &vsock->streams, all)
    {
        FUZZ_EXPECT(stream->used <= VSOCK_BUFFER && stream->start < VSOCK_BUFFER);
        FUZZ_EXPECT((stream->fd < 0) == (stream->watch == NULL));
        FUZZ_EXPECT(stream->state != VSOCK_OPEN || stream->fd >= 0);
        FUZZ_EXPECT(stream->used == 0 || stream->buffer != NULL);
        count++;
    }
    FUZZ_EXPECT(count == vsock->stream_count && count <= STREAMS);
    FUZZ_EXPECT(vsock->refusal_count <= VSOCK_REFUSALS);
    FUZZ_EXPECT(vsock->client_count <= count);
    pthread_mutex_unlock(&r->vdev->lock);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* A packet: honest in what the first byte does not say to be otherwise. */
static void step_packet(struct rig *r, struct fuzz_input *in)
{
    uint64_t at = TX_AT + r->queues[VSOCK_TX].avail % QUEUE * 0x4000u;
    uint8_t *bytes = guest_mem_ptr(r->mem, at, 0x4000);
    unsigned odd = fuzz_byte(in), ports = fuzz_byte(in), op = fuzz_byte(in);
    uint32_t length = odd & 1 ? fuzz_byte(in) * 64u : 0, header = VSOCK_HEADER;
    struct drv_buffer b[2];
    void *token = r;

    while (drv_get(&r->queues[VSOCK_TX], &(uint32_t){ 0 }) != NULL) {
    }
    if (r->queues[VSOCK_TX].free_count < 2) {
        return;
    }
    store_le64(bytes, odd & 2 ? fuzz_word(in) : CID);
    store_le64(bytes + 8, odd & 4 ? fuzz_word(in) : VSOCK_HOST_CID);
    store_le32(bytes + 16, 1000 + ports % 8);
    store_le32(bytes + 20, ports & 0x80 ? (1u << 30) + ports / 8 % 8 : PORT);
    store_le32(bytes + 24, odd & 8 ? fuzz_word(in) : length);
    store_le16(bytes + 28, odd & 16 ? fuzz_byte(in) : 1);
    store_le16(bytes + 30, (uint16_t)op);
    store_le32(bytes + 32, odd & 32 ? fuzz_word(in) : 3);
    store_le32(bytes + 36, odd & 64 ? fuzz_word(in) : 1 << 18);
    store_le32(bytes + 40, odd & 64 ? fuzz_word(in) : 0);
    memset(bytes + VSOCK_HEADER, (int)op, length);
    if (odd & 128) {
        header = fuzz_byte(in) % (VSOCK_HEADER + 1) + 1;
    }
    b[0] = (struct drv_buffer){ at, header, false };
    b[1] = (struct drv_buffer){ at + VSOCK_HEADER, length, false };
    drv_add(&r->queues[VSOCK_TX], b, length > 0 ? 2 : 1, token, 0);
}

static void step_buffers(struct rig *r, struct fuzz_input *in)
{
    unsigned count = fuzz_byte(in) % QUEUE + 1, size = fuzz_byte(in) * 16u + 1;
    struct drv *d = &r->queues[VSOCK_RX];
    uint32_t length;
    void *token;

    while ((token = drv_get(d, &length)) != NULL) {
        FUZZ_EXPECT(length >= VSOCK_HEADER && length <= 4096);
    }
    for (unsigned i = 0; i < count && d->free_count > 0; i++) {
        struct drv_buffer b = { RX_AT + (uint64_t)i * 4096,
                                size == 1 || size > 4096 ? 4096 : size, true };

        drv_add(d, &b, 1, r, 0);
    }
}

static int *free_peer(struct rig *r)
{
    for (unsigned i = 0; i < PEERS; i++) {
        if (r->peers[i] < 0) {
            return &r->peers[i];
        }
    }
    return NULL;
}

/* A client of the unix socket, with something to say. */
static void step_client(struct rig *r, struct fuzz_input *in, bool parsed)
{
    struct virtio_vsock *vsock = vsock_of(r->vdev);
    int *peer = free_peer(r), ends[2], ret;
    struct vsock_stream *stream;
    char text[64];
    size_t length = 0;

    if (peer == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0) {
        return;
    }
    if (parsed) {
        ret = virtio_vsock_connect(r->vdev, 1000 + fuzz_byte(in) % 8, ends[0]);
    } else {
        pthread_mutex_lock(&r->vdev->lock);
        ret = vsock_stream_create(vsock, ends[0], VSOCK_CLIENT, &stream);
        if (ret == 0) {
            vsock_stream_update(stream);
        }
        pthread_mutex_unlock(&r->vdev->lock);
        for (length = fuzz_byte(in) % sizeof(text); in->left > 0 && length > 0;
             length--) {
            text[0] = (char)fuzz_byte(in);
            FUZZ_EXPECT(ret != 0 || send(ends[1], text, 1, MSG_NOSIGNAL) == 1);
        }
    }
    if (ret != 0) {
        close(ends[0]);
        close(ends[1]);
    } else {
        *peer = ends[1];
    }
}

/* What one of the hosts' ends does. */
static void step_peer(struct rig *r, struct fuzz_input *in)
{
    unsigned which = fuzz_byte(in);
    int *peer = &r->peers[which % PEERS];
    static uint8_t bytes[1 << 17];
    int fd;

    while (free_peer(r) != NULL && read(r->accepted, &fd, sizeof(fd)) == sizeof(fd)) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        *free_peer(r) = fd;
    }
    if (*peer < 0) {
        return;
    }
    switch (which / PEERS) {
    case 0:
        close(*peer);
        *peer = -1;
        break;
    case 1:
        shutdown(*peer, SHUT_WR);
        break;
    case 2:
        shutdown(*peer, SHUT_RD);
        break;
    case 3:
    case 4:
        while (recv(*peer, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
        }
        break;
    default:
        send(*peer, bytes, fuzz_byte(in) * 300u + 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    }
}

/* Nothing is left of a run. */
static void clean(struct rig *r)
{
    struct virtio_vsock *vsock = vsock_of(r->vdev);
    int fd;

    pthread_mutex_lock(&r->vdev->lock);
    while (!LIST_EMPTY(&vsock->streams)) {
        vsock_stream_free(LIST_FIRST(&vsock->streams));
    }
    FUZZ_EXPECT(vsock->stream_count == 0 && vsock->client_count == 0);
    FUZZ_EXPECT(TAILQ_EMPTY(&vsock->ready));
    pthread_mutex_unlock(&r->vdev->lock);
    for (unsigned i = 0; i < PEERS; i++) {
        if (r->peers[i] >= 0) {
            close(r->peers[i]);
            r->peers[i] = -1;
        }
    }
    while (read(r->accepted, &fd, sizeof(fd)) == sizeof(fd)) {
        close(fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct rig rig;
    struct fuzz_input in = { data, size };
    struct rig *r = &rig;

    if (r->device == NULL) {
        make(r);
    }
    start(r, fuzz_byte(&in) & 1);
    for (unsigned steps = 0; in.left > 0 && steps < 500; steps++) {
        switch (fuzz_byte(&in) % 8) {
        case 0:
        case 1:
        case 2:
            step_packet(r, &in);
            break;
        case 3:
            step_buffers(r, &in);
            break;
        case 4:
            step_client(r, &in, false);
            break;
        case 5:
            step_client(r, &in, true);
            break;
        case 6:
            step_peer(r, &in);
            break;
        default:
            if (fuzz_byte(&in) == 0xff) {
                start(r, steps & 1);
            }
            break;
        }
        play(r);
    }
    clean(r);
    return 0;
}
