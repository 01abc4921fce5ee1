/* SPDX-License-Identifier: MIT */
/* A driver that sends packets which break the rules of virtio-vsock: each is answered by an
 * RST or by nothing, or stops the device until a reset; it always works again. */
#include "vsock.h"

#define NOBODY 5 /* no host listens there */

static const struct bad {
    const char *name;
    unsigned op;
    uint64_t src_cid, dst_cid; /* 0: ours, the host's */
    unsigned type;             /* 0: stream */
    uint32_t length;
    bool silent;
} bads[] = {
    { "no operation", OP_INVALID, 0, 0, 0, 0, false },
    { "operation 8", 8, 0, 0, 0, 0, false },
    { "operation 65535", 65535, 0, 0, 0, 0, false },
    { "an answer to nothing", OP_RESPONSE, 0, 0, 0, 0, false },
    { "data of no connection", OP_RW, 0, 0, 0, 100, false },
    { "a shutdown of nothing", OP_SHUTDOWN, 0, 0, 0, 0, false },
    { "credit for nothing", OP_UPDATE, 0, 0, 0, 0, false },
    { "a question about nothing", OP_ASK, 0, 0, 0, 0, false },
    { "a reset of nothing", OP_RST, 0, 0, 0, 0, true },
    { "type 2", OP_REQUEST, 0, 0, 2, 0, false },
    { "type 65535", OP_RW, 0, 0, 65535, 0, false },
    { "a reset of type 3", OP_RST, 0, 0, 3, 0, true },
    { "to another guest", OP_REQUEST, 0, 77, 0, 0, false },
    { "to everybody", OP_REQUEST, 0, UINT64_C(0xffffffffffffffff), 0, 0, false },
    { "from another guest", OP_REQUEST, 77, 0, 0, 0, true },
    { "from the host", OP_REQUEST, 2, 0, 0, 0, true },
    { "from high bits", OP_REQUEST, UINT64_C(0x100000003), 0, 0, 0, true },
};

static uint8_t payload[4096];

/* A port where nobody listens refuses: the device is alive, and says nothing else. */
static uint64_t check_alive(void *argument)
{
    static uint32_t guest_port = 100000;
    struct vsock_packet packet = vsock_header(++guest_port, NOBODY, OP_REQUEST), *p;
    bool good;

    if (!vsock_send_raw(&packet, VSOCK_HEADER, NULL, 0))
        return 0;
    p = vsock_receive();
    if (!p)
        return 0;
    good = p->op == OP_RST && p->dst_port == guest_port && p->src_port == NOBODY;
    vsock_release();
    return good;
}

static uint64_t send_bad(void *argument)
{
    const struct bad *bad = argument;
    struct vsock_packet packet = vsock_header(1, NOBODY, bad->op), *p;
    bool good;

    packet.src_cid = bad->src_cid ? bad->src_cid : packet.src_cid;
    packet.dst_cid = bad->dst_cid ? bad->dst_cid : packet.dst_cid;
    packet.type = bad->type ? (uint16_t)bad->type : packet.type;
    packet.length = bad->length;
    if (!vsock_send_raw(&packet, VSOCK_HEADER, payload, bad->length))
        return 0;
    if (bad->silent)
        return 1;
    p = vsock_receive();
    if (!p)
        return 0;
    good = p->op == OP_RST && p->dst_port == 1 && p->src_port == NOBODY &&
           p->src_cid == packet.dst_cid && p->type == packet.type;
    vsock_release();
    return good;
}

static void wait_needs_reset(const char *name)
{
    uint64_t until = time_us() + 5000000;

    while (!(virtio_status(&vsock) & VIRTIO_NEEDS_RESET))
        if (time_us() > until)
            guest_fail("not noticed: %s", name);
    print("survived: %s\n", name);
    vsock_restart(0, VSOCK_RX_BUFFERS);
    CHECK(user_run(check_alive, NULL, NULL) == 1);
}

static void offer(struct ring *ring, void *start, uint32_t size, bool writable)
{
    struct ring_buffer buffer = { start, size };

    CHECK(ring_add(ring, &buffer, !writable, writable) >= 0);
    ring_kick_always(ring);
}

/* Buffers that cannot be what they are said to be. */
static void break_buffers(void)
{
    static struct vsock_packet packet;

    packet = vsock_header(1, NOBODY, OP_RW);
    packet.length = 1;
    offer(&vsock_tx, &packet, VSOCK_HEADER, false);
    wait_needs_reset("a byte more than there is");
    packet.length = 0xffffffff;
    offer(&vsock_tx, &packet, sizeof(packet), false);
    wait_needs_reset("4 GiB of payload");
    offer(&vsock_tx, &packet, VSOCK_HEADER - 1, false);
    wait_needs_reset("half a header");
    offer(&vsock_tx, &packet, sizeof(packet), true);
    wait_needs_reset("nothing to read");
    offer(&vsock_tx, (void *)0xd8000000, 4096, false);
    wait_needs_reset("a packet outside RAM");
    vsock_restart(0, 0);
    packet = vsock_header(1, NOBODY, OP_REQUEST);
    offer(&vsock_rx, payload, VSOCK_HEADER, true);
    offer(&vsock_tx, &packet, VSOCK_HEADER, false);
    wait_needs_reset("no room behind a header");
    vsock_restart(0, 0);
    packet = vsock_header(1, NOBODY, OP_REQUEST);
    offer(&vsock_rx, &packet, sizeof(packet), false);
    offer(&vsock_tx, &packet, VSOCK_HEADER, false);
    wait_needs_reset("nothing to write to");
}

/* Questions by the hundred and no buffers for the answers: the device takes no more than it
 * can answer, and goes on once there are some. */
static uint64_t flood(void *argument)
{
    static struct vsock_packet packets[64];
    unsigned sent = 0, answered = 0, i, id;
    uint32_t length;

    for (i = 0; i < 64; i++)
        packets[i] = vsock_header(1, NOBODY, OP_ASK);
    while (sent < 500) {
        struct ring_buffer buffer = { &packets[sent % 64], VSOCK_HEADER };

        if (ring_add(&vsock_tx, &buffer, 1, 0) < 0) {
            if (!ring_wait(&vsock_tx, &id, &length, 100000000))
                break;
            continue;
        }
        ring_kick(&vsock_tx);
        sent++;
    }
    if (sent >= 500)
        return 0; /* it swallowed them all */
    for (i = 0; i < 16; i++) {
        struct ring_buffer buffer = { payload, sizeof(payload) };

        if (ring_add(&vsock_rx, &buffer, 0, 1) < 0)
            return 0;
    }
    ring_kick(&vsock_rx);
    while (answered < sent) {
        struct ring_buffer buffer = { payload, sizeof(payload) };

        if (!ring_wait(&vsock_rx, &id, &length, 2000000000) || length != VSOCK_HEADER)
            return 0;
        answered++;
        if (ring_add(&vsock_rx, &buffer, 0, 1) < 0)
            return 0;
        ring_kick(&vsock_rx);
    }
    return 1;
}

int guest_main(int argc, char **argv)
{
    unsigned i;

    vsock_start(boot_option("packed") ? FEATURE(VIRTIO_F_PACKED) : 0, VSOCK_RX_BUFFERS);
    for (i = 0; i < ARRAY_SIZE(bads); i++) {
        if (user_run(send_bad, (void *)(uintptr_t)&bads[i], NULL) != 1 ||
            user_run(check_alive, NULL, NULL) != 1)
            guest_fail("wrong answer to: %s", bads[i].name);
        CHECK(!(virtio_status(&vsock) & VIRTIO_NEEDS_RESET));
        print("survived: %s\n", bads[i].name);
    }
    vsock_restart(0, VSOCK_RX_BUFFERS);
    break_buffers();
    vsock_restart(0, 0);
    CHECK(user_run(flood, NULL, NULL) == 1);
    vsock_restart(0, VSOCK_RX_BUFFERS);
    CHECK(user_run(check_alive, NULL, NULL) == 1);
    print("survived: a flood\n");
    return EXIT_PASS;
}
