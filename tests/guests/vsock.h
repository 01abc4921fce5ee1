/* SPDX-License-Identifier: MIT */
/* A small virtio-vsock driver (virtio 1.2, 5.10). Set up in ring 0, packets in ring 3. */
#ifndef GUESTS_VSOCK_H
#define GUESTS_VSOCK_H

#include "virtio.h"

#define VSOCK_RX_BUFFERS 32
#define VSOCK_DATA       4052 /* of a receive buffer, which is a page */
#define VSOCK_HOST       2
#define VSOCK_STREAM     1

enum {
    OP_INVALID,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RST,
    OP_SHUTDOWN,
    OP_RW,
    OP_UPDATE,
    OP_ASK
};
enum { SHUT_RECEIVE = 1, SHUT_SEND = 2 };

struct vsock_packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, length;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
    uint8_t data[VSOCK_DATA];
} __attribute__((packed));

#define VSOCK_HEADER offsetof(struct vsock_packet, data)

extern struct virtio vsock;
extern struct ring vsock_rx, vsock_tx, vsock_event;
extern uint64_t vsock_cid;

/* Find the device, negotiate, start its queues with @buffers to receive into. */
void vsock_start(uint64_t features, unsigned buffers);
/* Reset it and do so again. */
void vsock_restart(uint64_t features, unsigned buffers);

/* These in ring 3. The next packet, valid until vsock_release(); NULL: none came in time. */
struct vsock_packet *vsock_receive(void);
void vsock_release(void);
/* Send @length bytes from @start as they are; false: they were not taken. */
bool vsock_send_raw(const void *start, uint32_t length, const void *data, uint32_t size);
/* A packet of ours to the host; its fields may be set otherwise before it is sent. */
struct vsock_packet vsock_header(uint32_t guest_port, uint32_t host_port, unsigned op);

#endif
