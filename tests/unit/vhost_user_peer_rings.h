/* SPDX-License-Identifier: MIT */
/* The test's vhost-user back end: what it knows of a front end, and its rings. */
#ifndef TESTS_VHOST_USER_PEER_RINGS_H
#define TESTS_VHOST_USER_PEER_RINGS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum peer_how {
    PEER_WELL,
    PEER_SHORT,   /* half a header, then the end */
    PEER_CUT,     /* half the payload, then silence */
    PEER_SIZE,    /* a size that is not the request's */
    PEER_HUGE,    /* a size that no message has */
    PEER_OTHER,   /* the answer to something else */
    PEER_NOREPLY, /* without the bit that makes it an answer */
    PEER_VERSION, /* of another version */
    PEER_FDS,     /* with descriptors */
    PEER_MANYFDS, /* with more than a message may carry */
    PEER_CLOSE,
    PEER_SILENT,
    PEER_REFUSE, /* an acknowledgement that is a refusal */
    PEER_TWICE,  /* another answer, unasked */
    PEER_HOWS,
};

enum peer_ring { PEER_RING_WELL, PEER_RING_ID, PEER_RING_FREE, PEER_RING_AHEAD };

enum {
    PEER_DISK = 1 << 20,
    PEER_RINGS = 4,
    PEER_LOG = 4096,
    PEER_CONFIG = 60,
};

struct peer_region {
    uint64_t address, size, user;
    uint8_t *host, *map;
    uint64_t map_size;
};

struct peer_vring {
    unsigned num;
    uint8_t *desc, *avail, *used;
    uint16_t next;
    int kick, call;
    atomic_bool enabled;
};

struct peer {
    char folder[32], path[64];
    int listener;
    pthread_t thread;
    atomic_bool stop;
    /* What it is. */
    uint64_t features, protocol, queues;
    uint8_t config[256];
    uint8_t *disk; /* NULL: every buffer is used up at once, with nothing in it */
    /* How it behaves. */
    atomic_int bad_request; /* the message to answer badly */
    atomic_int bad_how;
    atomic_int bad_left; /* so many times */
    atomic_int bad_ring; /* enum peer_ring, once */
    atomic_bool hold;    /* take requests and do not finish them */
    atomic_bool hang_up; /* close the connection */
    atomic_bool deaf;    /* refuse connections */
    atomic_int say;      /* a request of its own: the number, once */
    atomic_bool say_ack;
    /* What it saw. */
    atomic_uint mtu;
    atomic_uint connections, taken, ended, said_ok, said_no, configs_written;
    uint64_t log[PEER_LOG]; /* sectors, in the order taken */
    atomic_ullong acked;
    /* A connection. */
    int fd, channel;
    struct peer_region regions[8];
    unsigned region_count;
    struct peer_vring rings[PEER_RINGS];
};

static inline uint64_t peer_u64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, 8);
    return v;
}

static inline uint32_t peer_u32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, 4);
    return v;
}

static inline void *peer_user(struct peer *p, uint64_t user)
{
    for (unsigned i = 0; i < p->region_count; i++) {
        struct peer_region *r = &p->regions[i];

        if (user - r->user < r->size) {
            return r->host + (user - r->user);
        }
    }
    abort(); /* the front end's fault */
}

static inline uint8_t *peer_gpa(struct peer *p, uint64_t address, uint64_t length)
{
    for (unsigned i = 0; i < p->region_count; i++) {
        struct peer_region *r = &p->regions[i];

        if (address - r->address < r->size &&
            length <= r->size - (address - r->address)) {
            return r->host + (address - r->address);
        }
    }
    abort();
}

/* ---- Rings ------------------------------------------------------------------------------ */

struct peer_buffer {
    uint8_t *at;
    uint32_t size;
    bool write;
};

static inline unsigned peer_chain(struct peer *p, struct peer_vring *ring, uint16_t head,
                                  struct peer_buffer *buffers, unsigned max)
{
    const uint8_t *table = ring->desc;
    unsigned count = 0, index = head;

    for (;;) {
        const uint8_t *d = table + 16 * (size_t)index;
        uint16_t flags, next;

        memcpy(&flags, d + 12, 2);
        memcpy(&next, d + 14, 2);
        if (flags & 4) {
            table = peer_gpa(p, peer_u64(d), peer_u32(d + 8));
            index = 0;
            continue;
        }
        if (count == max) {
            abort();
        }
        buffers[count++] =
            (struct peer_buffer){ peer_gpa(p, peer_u64(d), peer_u32(d + 8)),
                                  peer_u32(d + 8), flags & 2 };
        if (!(flags & 1)) {
            return count;
        }
        index = next;
    }
}

static inline uint32_t peer_do(struct peer *p, struct peer_buffer *b, unsigned count)
{
    uint32_t type = peer_u32(b[0].at), written = 1;
    uint64_t at = peer_u64(b[0].at + 8) * 512;

    for (unsigned i = 1; i + 1 < count; i++) {
        if (at + b[i].size > PEER_DISK) {
            abort();
        }
        if (type == 1) {
            memcpy(p->disk + at, b[i].at, b[i].size);
        } else if (type == 0) {
            memcpy(b[i].at, p->disk + at, b[i].size);
            written += b[i].size;
        }
        at += b[i].size;
    }
    b[count - 1].at[0] = 0;
    return written;
}

static inline void peer_use(struct peer_vring *ring, uint32_t id, uint32_t written)
{
    uint16_t *idx = (uint16_t *)(void *)(ring->used + 2), now = *idx;
    uint8_t *element = ring->used + 4 + 8 * (size_t)(now % ring->num);

    memcpy(element, &id, 4);
    memcpy(element + 4, &written, 4);
    __atomic_store_n(idx, (uint16_t)(now + 1), __ATOMIC_RELEASE);
}

static inline void peer_call(struct peer_vring *ring)
{
    const uint64_t one = 1;

    if (write(ring->call, &one, 8) != 8) {
        abort();
    }
}

/* Misbehave instead of using a buffer. */
static inline void peer_spoil(struct peer_vring *ring, int how, uint16_t head)
{
    uint16_t *idx = (uint16_t *)(void *)(ring->used + 2);

    if (how == PEER_RING_AHEAD) {
        __atomic_store_n(idx, (uint16_t)(*idx + 100), __ATOMIC_RELEASE);
    } else {
        peer_use(ring, how == PEER_RING_ID ? 77777u : (uint32_t)(head + 1) % ring->num,
                 0);
    }
    peer_call(ring);
}

static inline void peer_serve(struct peer *p, struct peer_vring *ring)
{
    struct peer_buffer buffers[256];
    bool any = false;

    if (ring->avail == NULL || !ring->enabled) {
        return;
    }
    while (ring->next !=
           __atomic_load_n((uint16_t *)(void *)(ring->avail + 2), __ATOMIC_ACQUIRE)) {
        uint16_t head;
        unsigned count, taken = atomic_load(&p->taken);
        int spoil;

        memcpy(&head, ring->avail + 4 + 2 * (size_t)(ring->next % ring->num), 2);
        ring->next++;
        count = peer_chain(p, ring, head, buffers, 256);
        p->log[taken % PEER_LOG] =
            p->disk != NULL && buffers[0].size == 16 ? peer_u64(buffers[0].at + 8) : head;
        atomic_fetch_add(&p->taken, 1);
        if (atomic_load(&p->hold)) {
            continue;
        }
        spoil = atomic_exchange(&p->bad_ring, PEER_RING_WELL);
        if (spoil != PEER_RING_WELL) {
            peer_spoil(ring, spoil, head);
            return;
        }
        peer_use(ring, head, p->disk != NULL ? peer_do(p, buffers, count) : 0);
        any = true;
    }
    if (any) {
        peer_call(ring);
    }
    if (atomic_load(&p->acked) >> 29 & 1) { /* event index: kick me for the next one */
        __atomic_store_n((uint16_t *)(void *)(ring->used + 4 + 8 * (size_t)ring->num),
                         ring->next, __ATOMIC_SEQ_CST);
        if (ring->next !=
            __atomic_load_n((uint16_t *)(void *)(ring->avail + 2), __ATOMIC_SEQ_CST)) {
            peer_serve(p, ring);
        }
    }
}

#endif
