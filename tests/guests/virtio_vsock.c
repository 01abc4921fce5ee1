/* SPDX-License-Identifier: MIT */
/*
 * Sockets to the host. With connect=PORT the guest connects there first, sends send=BYTES
 * of a pattern, shuts its half down and checks that as many of another pattern come back.
 * Then it echoes what comes to port 7, of several connections at once, within the host's
 * credit and its own; a connection to port 9 ends the guest.
 */
#include "vsock.h"

#define ECHO_PORT   7
#define QUIT_PORT   9
#define OUR_PORT    40000
#define CONNECTIONS 8
#define BUFFER      65536 /* vsock_header() says so */

struct connection {
    bool used, host_done, said_done;
    uint32_t host_port, guest_port;
    uint32_t peer_alloc, peer_forwarded, sent; /* to the host */
    uint32_t received, forwarded, told;        /* from it */
    uint8_t bytes[BUFFER];
};

static struct connection connections[CONNECTIONS];
static uint64_t port, total, echoed, refused, ended;

static bool say(struct connection *c, unsigned op, unsigned flags, const void *data,
                uint32_t size)
{
    struct vsock_packet packet = vsock_header(c->guest_port, c->host_port, op);

    packet.flags = flags;
    packet.length = size;
    packet.fwd_cnt = c->told = c->forwarded;
    c->sent += size;
    return vsock_send_raw(&packet, VSOCK_HEADER, data, size);
}

static uint32_t credit(const struct connection *c)
{
    return c->peer_alloc - (c->sent - c->peer_forwarded);
}

static void hear(struct connection *c, const struct vsock_packet *p)
{
    c->peer_alloc = p->buf_alloc;
    c->peer_forwarded = p->fwd_cnt;
}

/* ---- To the host ---------------------------------------------------------------------- */

static uint8_t pattern(uint64_t at, unsigned seed)
{
    return (uint8_t)(at * 7 + (at >> 8) * 3 + (at >> 16) + seed);
}

/* Take one packet of @c; false: it is not what it should be. */
static bool take(struct connection *c, uint64_t *checked)
{
    struct vsock_packet *p = vsock_receive();
    uint32_t i;

    if (!p || p->dst_port != c->guest_port || p->src_port != c->host_port)
        return false;
    hear(c, p);
    if (p->op == OP_RW) {
        for (i = 0; i < p->length; i++)
            if (p->data[i] != pattern((*checked)++, 200))
                return false;
        c->received += p->length;
        c->forwarded = c->received;
    }
    c->host_done |= p->op == OP_SHUTDOWN && (p->flags & SHUT_SEND);
    if (p->op == OP_RST || p->op == OP_RESPONSE)
        c->used = p->op == OP_RESPONSE;
    vsock_release();
    if (c->received - c->told > BUFFER / 2)
        return say(c, OP_UPDATE, 0, NULL, 0);
    return true;
}

static uint64_t to_host(void *argument)
{
    static struct connection c;
    static uint8_t data[BUFFER];
    uint64_t at = 0, checked = 0;

    c.host_port = (uint32_t)port;
    c.guest_port = OUR_PORT;
    if (!say(&c, OP_REQUEST, 0, NULL, 0) || !take(&c, &checked) || !c.used)
        return 0;
    while (at < total) {
        uint64_t size = total - at < sizeof(data) ? total - at : sizeof(data), i;

        while (credit(&c) == 0)
            if (!take(&c, &checked))
                return 0;
        size = size < credit(&c) ? size : credit(&c);
        for (i = 0; i < size; i++)
            data[i] = pattern(at + i, 100);
        if (!say(&c, OP_RW, 0, data, (uint32_t)size))
            return 0;
        at += size;
    }
    if (!say(&c, OP_SHUTDOWN, SHUT_SEND, NULL, 0))
        return 0;
    while (!c.host_done)
        if (!take(&c, &checked))
            return 0;
    if (!say(&c, OP_SHUTDOWN, SHUT_SEND | SHUT_RECEIVE, NULL, 0))
        return 0;
    while (c.used)
        if (!take(&c, &checked))
            return 0;
    return checked == total;
}

/* ---- Echo ------------------------------------------------------------------------------ */

static struct connection *find(uint32_t host_port, uint32_t guest_port)
{
    unsigned i;

    for (i = 0; i < CONNECTIONS; i++)
        if (connections[i].used && connections[i].host_port == host_port &&
            connections[i].guest_port == guest_port)
            return &connections[i];
    return NULL;
}

static struct connection *find_free(void)
{
    unsigned i;

    for (i = 0; i < CONNECTIONS; i++)
        if (!connections[i].used)
            return &connections[i];
    return NULL;
}

static bool accept(const struct vsock_packet *p)
{
    struct connection *c = p->dst_port == ECHO_PORT ? find_free() : NULL, nobody;

    if (!c) {
        refused++;
        nobody.host_port = p->src_port;
        nobody.guest_port = p->dst_port;
        nobody.forwarded = nobody.sent = 0;
        return say(&nobody, OP_RST, 0, NULL, 0);
    }
    memset(c, 0, offsetof(struct connection, bytes));
    c->used = true;
    c->host_port = p->src_port;
    c->guest_port = p->dst_port;
    hear(c, p);
    return say(c, OP_RESPONSE, 0, NULL, 0);
}

/* Send back as much as the host has room for, and the end behind it. */
static bool echo(struct connection *c)
{
    while (c->forwarded != c->received && credit(c) > 0) {
        uint32_t at = c->forwarded % BUFFER, size = c->received - c->forwarded;

        size = size < BUFFER - at ? size : BUFFER - at;
        size = size < credit(c) ? size : credit(c);
        c->forwarded += size;
        echoed += size;
        if (!say(c, OP_RW, 0, c->bytes + at, size))
            return false;
    }
    if (c->host_done && !c->said_done && c->forwarded == c->received) {
        c->said_done = true;
        return say(c, OP_SHUTDOWN, SHUT_SEND | SHUT_RECEIVE, NULL, 0);
    }
    return true;
}

static bool serve_one(const struct vsock_packet *p)
{
    struct connection *c = find(p->src_port, p->dst_port);
    uint32_t i;

    if (p->op == OP_REQUEST)
        return !c && accept(p);
    if (!c)
        return p->op == OP_RST;
    hear(c, p);
    if (p->op == OP_RST) {
        c->used = false;
        ended++;
        return true;
    }
    if (p->op == OP_RW) {
        if (p->length > BUFFER - (c->received - c->forwarded))
            return false;
        for (i = 0; i < p->length; i++)
            c->bytes[c->received++ % BUFFER] = p->data[i];
    }
    if (p->op == OP_ASK && !say(c, OP_UPDATE, 0, NULL, 0))
        return false;
    c->host_done |= p->op == OP_SHUTDOWN && (p->flags & SHUT_SEND);
    return echo(c);
}

static uint64_t serve(void *argument)
{
    for (;;) {
        struct vsock_packet *p = vsock_receive();
        bool quit, good;

        if (!p || p->dst_cid != vsock_cid || p->src_cid != VSOCK_HOST ||
            p->type != VSOCK_STREAM)
            return 0;
        quit = p->op == OP_REQUEST && p->dst_port == QUIT_PORT;
        good = serve_one(p);
        vsock_release();
        if (!good)
            return 0;
        if (quit)
            return 1;
    }
}

int guest_main(int argc, char **argv)
{
    const char *packed = boot_option("packed");
    uint64_t features = packed ? FEATURE(VIRTIO_F_PACKED) | FEATURE(VIRTIO_F_INDIRECT) |
                                     FEATURE(VIRTIO_F_EVENT_INDEX)
                               : 0;

    vsock_start(features, VSOCK_RX_BUFFERS);
    print("cid %lu\n", vsock_cid);
    if (boot_option("connect")) {
        CHECK(number_parse(boot_option("connect"), &port));
        CHECK(number_parse(boot_option("send"), &total));
        CHECK(user_run(to_host, NULL, NULL) == 1);
        print("sent and checked %lu bytes\n", total);
    }
    print("ready\n");
    CHECK(user_run(serve, NULL, NULL) == 1);
    CHECK(!(virtio_status(&vsock) & VIRTIO_NEEDS_RESET));
    print("echoed %lu bytes, %lu connections ended, %lu refused\n", echoed, ended,
          refused);
    return EXIT_PASS;
}
