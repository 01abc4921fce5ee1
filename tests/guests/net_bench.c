/* SPDX-License-Identifier: MIT */
/* Measures a virtio network from ring 3 against the host's kernel or libslirp at 10.0.2.2,
 * one line a row: frames out, frames out that the host segments, and pings one by one and
 * 32 at a time. Words: ms=N time for each row (300), packed, event (features), row=NAME. */
#include "virtio.h"

#define NET_CSUM      0
#define NET_MAC       5
#define NET_HOST_TSO4 11
#define NET_MERGE     15

#define HEADER     12
#define FRAME_MAX  65550
#define BUFFERS    0x4000000 /* 64 MiB: RAM that nobody else uses */
#define TX_STRIDE  0x20000
#define TX_SLOTS   64
#define RX_BUFFERS (BUFFERS + TX_SLOTS * TX_STRIDE)
#define RX_STRIDE  0x800
#define RX_SLOTS   128
#define QUEUE_SIZE 256
#define SPINS      400000000

static const struct row {
    const char *name;
    uint32_t size, depth; /* of frames; in flight */
    bool pings, large;
} rows[] = {
    { "send-1514", 1514, 64, false, false },
    { "send-64k-tso", 65226, 32, false, true },
    { "ping-1", 98, 1, true, false },
    { "ping-32", 1442, 32, true, false },
};

static struct virtio net;
static struct ring rx, tx;
static struct ring_memory rx_memory __attribute__((aligned(4096)));
static struct ring_memory tx_memory __attribute__((aligned(4096)));
static unsigned rx_slot[RING_MAX], tx_slot[RING_MAX];
static unsigned free_slots[TX_SLOTS], free_count;
static uint8_t own[6], peer[6];
static bool peer_known;
static const uint8_t own_ip[4] = { 10, 0, 2, 15 }, peer_ip[4] = { 10, 0, 2, 2 };
static uint64_t done, replies, ticks, row_ticks;

static uint8_t *tx_bytes(unsigned slot)
{
    return (uint8_t *)(BUFFERS + (uint64_t)slot * TX_STRIDE);
}

static uint8_t *rx_bytes(unsigned slot)
{
    return (uint8_t *)(RX_BUFFERS + (uint64_t)slot * RX_STRIDE);
}

static void put16(uint8_t *at, unsigned v) /* network order */
{
    at[0] = (uint8_t)(v >> 8);
    at[1] = (uint8_t)v;
}

static unsigned checksum(const uint8_t *at, unsigned size)
{
    unsigned sum = 0, i;

    for (i = 0; i + 1 < size; i += 2)
        sum += (unsigned)at[i] << 8 | at[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

/* ---- Frames ------------------------------------------------------------------------------ */

static uint8_t *ethernet(uint8_t *frame, unsigned type, bool broadcast)
{
    unsigned i;

    for (i = 0; i < 6; i++) {
        frame[i] = broadcast ? 0xff : peer[i];
        frame[6 + i] = own[i];
    }
    put16(frame + 12, type);
    return frame + 14;
}

static void ip_header(uint8_t *ip, unsigned protocol, unsigned size)
{
    memset(ip, 0, 20);
    ip[0] = 0x45;
    put16(ip + 2, size);
    ip[8] = 64;
    ip[9] = (uint8_t)protocol;
    memcpy(ip + 12, own_ip, 4);
    memcpy(ip + 16, peer_ip, 4);
    put16(ip + 10, checksum(ip, 20));
}

/* An ARP request for the peer (@operation 1) or an answer to it (2). */
static void arp_make(uint8_t *frame, unsigned operation)
{
    uint8_t *arp = ethernet(frame, 0x0806, operation == 1);

    put16(arp, 1);
    put16(arp + 2, 0x0800);
    put16(arp + 4, 0x0604);
    put16(arp + 6, operation);
    memcpy(arp + 8, own, 6);
    memcpy(arp + 14, own_ip, 4);
    memcpy(arp + 18, peer, 6);
    memcpy(arp + 24, peer_ip, 4);
}

static void ping_make(uint8_t *frame, unsigned size)
{
    uint8_t *ip = ethernet(frame, 0x0800, false), *icmp = ip + 20;

    ip_header(ip, 1, size - 14);
    memset(icmp, 0, size - 34);
    icmp[0] = 8;
    put16(icmp + 4, 0x1234);
    put16(icmp + 2, checksum(icmp, size - 34));
}

/* What nobody wants: an Ethernet type for experiments, or TCP to somebody else's address
 * that the host's kernel would have to cut into segments. */
static void send_make(const struct row *row, uint8_t *header, uint8_t *frame)
{
    uint8_t *ip;

    if (!row->large) {
        ethernet(frame, 0x88b5, false);
        return;
    }
    ip = ethernet(frame, 0x0800, false);
    frame[5] ^= 0x55; /* for another host */
    ip_header(ip, 6, row->size - 14);
    memset(ip + 20, 0, 20);
    ip[32] = 0x50;  /* data offset */
    ip[33] = 0x10;  /* ACK */
    header[0] = 1;  /* needs a checksum */
    header[1] = 1;  /* TCP over IPv4 */
    header[2] = 54; /* little-endian from here on */
    header[4] = 0xa8;
    header[5] = 0x05; /* segments of 1448 bytes */
    header[6] = 34;
    header[8] = 16;
}

/* ---- Rings ------------------------------------------------------------------------------- */

static void rx_post(unsigned slot)
{
    struct ring_buffer buffer = { rx_bytes(slot), RX_STRIDE };
    int id = ring_add(&rx, &buffer, 0, 1);

    if (id >= 0)
        rx_slot[id] = slot;
}

static bool tx_send(unsigned slot, uint32_t size)
{
    struct ring_buffer buffer = { tx_bytes(slot), HEADER + size };
    int id = ring_add(&tx, &buffer, 1, 0);

    if (id < 0)
        return false;
    tx_slot[id] = slot;
    return true;
}

static bool tx_reclaim(void)
{
    uint32_t length;
    unsigned id;
    bool any = false;

    while (ring_take(&tx, &id, &length)) {
        if (id >= RING_MAX)
            return false;
        free_slots[free_count++] = tx_slot[id];
        any = true;
    }
    return any;
}

static void frame_received(const uint8_t *frame, uint32_t length)
{
    const uint8_t *arp = frame + 14;

    if (length >= 42 && frame[12] == 8 && frame[13] == 6) {
        memcpy(peer, arp + 8, 6);
        if (arp[7] == 2) {
            peer_known = true;
        } else if (free_count > 0 && arp[27] == own_ip[3]) {
            unsigned slot = free_slots[--free_count];

            memset(tx_bytes(slot), 0, HEADER);
            arp_make(tx_bytes(slot) + HEADER, 2);
            tx_send(slot, 42);
            ring_kick(&tx);
        }
    } else if (length >= 42 && frame[12] == 8 && frame[13] == 0 && frame[23] == 1 &&
               frame[34] == 0) {
        replies++;
    }
}

static bool rx_poll(void)
{
    uint32_t length;
    unsigned id;
    bool any = false;

    while (ring_take(&rx, &id, &length)) {
        unsigned slot = id < RING_MAX ? rx_slot[id] : 0;

        if (length > HEADER)
            frame_received(rx_bytes(slot) + HEADER, length - HEADER);
        rx_post(slot);
        any = true;
    }
    if (any)
        ring_kick(&rx);
    return any;
}

static uint64_t find_peer(void *argument)
{
    uint64_t spins;
    unsigned slot = free_slots[--free_count];

    memset(tx_bytes(slot), 0, HEADER);
    arp_make(tx_bytes(slot) + HEADER, 1);
    tx_send(slot, 42);
    ring_kick(&tx);
    for (spins = SPINS; spins && !peer_known; spins--) {
        rx_poll();
        tx_reclaim();
        cpu_pause();
    }
    return peer_known;
}

/* Keep @depth frames in flight, or unanswered, until the time is over. */
static uint64_t run_row(void *argument)
{
    const struct row *row = argument;
    uint64_t sent = 0, from, spins = SPINS;
    unsigned i;

    for (i = 0; i < TX_SLOTS; i++) {
        memset(tx_bytes(i), 0, HEADER);
        if (row->pings)
            ping_make(tx_bytes(i) + HEADER, row->size);
        else
            send_make(row, tx_bytes(i), tx_bytes(i) + HEADER);
    }
    done = replies = 0;
    from = tsc_read();
    for (;;) {
        bool more = sent == 0 || tsc_read() - from < row_ticks, any;

        any = tx_reclaim();
        any = rx_poll() || any;
        done = row->pings ? replies : sent - (TX_SLOTS - free_count);
        if (!more && done == sent && free_count == TX_SLOTS)
            break;
        if (more && free_count > 0 && sent - done < row->depth) {
            while (free_count > 0 && sent - done < row->depth) {
                if (!tx_send(free_slots[--free_count], row->size))
                    return 0;
                sent++;
            }
            ring_kick(&tx);
        }
        spins = any ? SPINS : spins - 1;
        if (!spins)
            return 0;
    }
    ticks = tsc_read() - from;
    return 1;
}

static void measure(const struct row *row)
{
    uint64_t kicks = tx.kicks + rx.kicks, us;
    unsigned interrupts =
        interrupt_counts[VIRTIO_VECTOR] + interrupt_counts[VIRTIO_VECTOR + 1];

    if (row->large && !(net.features >> NET_HOST_TSO4 & 1)) {
        print("%-16s not offered\n", row->name);
        return;
    }
    if (user_run(run_row, (void *)(uint64_t)row, NULL) != 1)
        guest_fail("%s: nothing moves after %lu frames", row->name, done);
    us = ticks / (tsc_hz / 1000000);
    print("%-16s size %u depth %u ops %lu us %lu kicks %lu interrupts %u\n", row->name,
          row->size, row->depth, done, us, tx.kicks + rx.kicks - kicks,
          interrupt_counts[VIRTIO_VECTOR] + interrupt_counts[VIRTIO_VECTOR + 1] -
              interrupts);
}

static void setup(void)
{
    uint64_t wanted = FEATURE(NET_CSUM) | FEATURE(NET_MAC) | FEATURE(NET_HOST_TSO4) |
                      FEATURE(NET_MERGE);
    unsigned i;

    wanted |= boot_word("packed") ? FEATURE(VIRTIO_F_PACKED) : 0;
    wanted |= boot_word("event") ? FEATURE(VIRTIO_F_EVENT_INDEX) : 0;
    CHECK(virtio_begin(&net, wanted));
    CHECK(virtio_queue(&net, 0, &rx, &rx_memory, QUEUE_SIZE));
    CHECK(virtio_queue(&net, 1, &tx, &tx_memory, QUEUE_SIZE));
    virtio_ready(&net);
    for (i = 0; i < 6; i++)
        own[i] = virtio_config8(&net, i);
    for (i = 0; i < TX_SLOTS; i++)
        free_slots[free_count++] = i;
    for (i = 0; i < RX_SLOTS; i++)
        rx_post(i);
    ring_interrupts(&rx, false);
    ring_interrupts(&tx, false);
    ring_kick(&rx);
}

int guest_main(int argc, char **argv)
{
    const char *only = boot_option("row");
    uint64_t ms = 300;
    unsigned i;

    acpi_init();
    time_init();
    if (boot_option("ms"))
        CHECK(number_parse(boot_option("ms"), &ms));
    CHECK(boot_ram_size() >= 127 << 20);
    if (!virtio_find(&net, VIRTIO_NET, 0))
        guest_fail("there is no virtio network");
    setup();
    row_ticks = tsc_hz / 1000 * ms;
    if (user_run(find_peer, NULL, NULL) != 1)
        guest_fail("10.0.2.2 does not answer");
    for (i = 0; i < ARRAY_SIZE(rows); i++)
        if (!only || strcmp(only, rows[i].name) == 0)
            measure(&rows[i]);
    return EXIT_PASS;
}
