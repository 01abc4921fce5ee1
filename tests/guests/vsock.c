/* SPDX-License-Identifier: MIT */
/* The small virtio-vsock driver. */
#include "vsock.h"

#define PATIENCE 2000000000

struct virtio vsock;
struct ring vsock_rx, vsock_tx, vsock_event;
uint64_t vsock_cid;

static struct ring_memory memories[3] __attribute__((aligned(4096)));
static struct vsock_packet buffers[VSOCK_RX_BUFFERS] __attribute__((aligned(4096)));
static unsigned slots[RING_MAX]; /* by chain: its buffer, plus one; 0: none */
static unsigned current;         /* as in slots: the buffer that was received last */

_Static_assert(sizeof(struct vsock_packet) == 4096, "a page");

static bool post(unsigned slot)
{
    struct ring_buffer buffer = { &buffers[slot], sizeof(buffers[slot]) };
    int id = ring_add(&vsock_rx, &buffer, 0, 1);

    if (id < 0)
        return false;
    slots[id] = slot + 1;
    return true;
}

void vsock_restart(uint64_t features, unsigned count)
{
    unsigned i;

    CHECK(virtio_begin(&vsock, features | 1));
    CHECK((vsock.features & features) == features);
    vsock_cid = virtio_config64(&vsock, 0);
    CHECK(virtio_queue(&vsock, 0, &vsock_rx, &memories[0], 64));
    CHECK(virtio_queue(&vsock, 1, &vsock_tx, &memories[1], 64));
    CHECK(virtio_queue(&vsock, 2, &vsock_event, &memories[2], 4));
    virtio_ready(&vsock);
    current = 0;
    for (i = 0; i < count; i++)
        CHECK(post(i));
    ring_kick_always(&vsock_rx);
}

void vsock_start(uint64_t features, unsigned count)
{
    acpi_init();
    time_init();
    if (!virtio_find(&vsock, VIRTIO_VSOCK, 0))
        guest_fail("there is no virtio-vsock");
    vsock_restart(features, count);
    CHECK(vsock_cid >= 3 && vsock_cid < 0xffffffff);
}

struct vsock_packet *vsock_receive(void)
{
    uint32_t length;
    unsigned id;

    if (!ring_wait(&vsock_rx, &id, &length, PATIENCE) || id >= RING_MAX)
        return NULL;
    current = slots[id];
    slots[id] = 0;
    if (!current || length < VSOCK_HEADER ||
        length != VSOCK_HEADER + buffers[current - 1].length)
        return NULL;
    return &buffers[current - 1];
}

void vsock_release(void)
{
    post(current - 1);
    ring_kick(&vsock_rx);
}

bool vsock_send_raw(const void *start, uint32_t length, const void *data, uint32_t size)
{
    struct ring_buffer chain[] = { { (void *)(uintptr_t)start, length },
                                   { (void *)(uintptr_t)data, size } };
    uint32_t written;
    unsigned id;

    if (ring_add(&vsock_tx, chain, size ? 2 : 1, 0) < 0)
        return false;
    ring_kick(&vsock_tx);
    return ring_wait(&vsock_tx, &id, &written, PATIENCE) && written == 0;
}

struct vsock_packet vsock_header(uint32_t guest_port, uint32_t host_port, unsigned op)
{
    struct vsock_packet packet;

    memset(&packet, 0, VSOCK_HEADER);
    packet.src_cid = vsock_cid;
    packet.dst_cid = VSOCK_HOST;
    packet.src_port = guest_port;
    packet.dst_port = host_port;
    packet.type = VSOCK_STREAM;
    packet.op = (uint16_t)op;
    packet.buf_alloc = 65536;
    return packet;
}
