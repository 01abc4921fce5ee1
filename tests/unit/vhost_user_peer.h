/* SPDX-License-Identifier: MIT */
/*
 * A vhost-user back end for tests, written from the protocol's specification: a small disk
 * in memory (or a device that only echoes lengths), on a thread of its own, which can be
 * told to misbehave at any message or in its rings.
 */
#ifndef TESTS_VHOST_USER_PEER_H
#define TESTS_VHOST_USER_PEER_H

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
    bool enabled;
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

/* ---- Messages ------------------------------------------------------------------------------ */

static inline void peer_send(int fd, const uint8_t *bytes, size_t size, unsigned fds)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(32 * sizeof(int))] = { 0 };
    struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fds > 0) {
        struct cmsghdr *cmsg;

        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fds * sizeof(int));
        cmsg = CMSG_FIRSTHDR(&header);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(fds * sizeof(int));
        for (unsigned i = 0; i < fds; i++) {
            memcpy(CMSG_DATA(cmsg) + i * sizeof(int), &(int){ 0 }, sizeof(int));
        }
    }
    (void)!sendmsg(fd, &header, MSG_NOSIGNAL);
}

/* True: the connection goes on. */
static inline bool peer_answer(struct peer *p, uint32_t request, const uint8_t *payload,
                               uint32_t size)
{
    uint8_t bytes[12 + 300];
    uint32_t flags = 5;
    int how = PEER_WELL;
    size_t length;

    if (atomic_load(&p->bad_request) == (int)request && atomic_load(&p->bad_left) > 0) {
        atomic_fetch_sub(&p->bad_left, 1);
        how = atomic_load(&p->bad_how);
    }
    memcpy(bytes + 12, payload, size);
    request += how == PEER_OTHER;
    flags = how == PEER_NOREPLY ? 1 : how == PEER_VERSION ? 6 : flags;
    length = 12 + size;
    if (how == PEER_REFUSE) {
        memset(bytes + 12, 1, 8);
    }
    if (how == PEER_SIZE) {
        size += 4;
        length += 4;
    }
    memcpy(bytes, &request, 4);
    memcpy(bytes + 4, &flags, 4);
    memcpy(bytes + 8, how == PEER_HUGE ? &(uint32_t){ 0x7fffffff } : &size, 4);
    switch (how) {
    case PEER_SHORT:
        peer_send(p->fd, bytes, 6, 0);
        return false;
    case PEER_CUT:
        peer_send(p->fd, bytes, length - 4, 0);
        return true;
    case PEER_CLOSE:
        return false;
    case PEER_SILENT:
        return true;
    case PEER_TWICE:
        peer_send(p->fd, bytes, length, 0);
        break;
    default:
        break;
    }
    peer_send(p->fd, bytes, length, how == PEER_FDS ? 1 : how == PEER_MANYFDS ? 32 : 0);
    return true;
}

static inline void peer_unmap(struct peer *p)
{
    for (unsigned i = 0; i < p->region_count; i++) {
        munmap(p->regions[i].map, p->regions[i].map_size);
    }
    p->region_count = 0;
}

static inline void peer_map(struct peer *p, const uint8_t *payload, const int *fds,
                            unsigned fd_count)
{
    unsigned count = peer_u32(payload);

    peer_unmap(p);
    if (count != fd_count) {
        abort();
    }
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *at = payload + 8 + 32 * (size_t)i;
        struct peer_region *r = &p->regions[i];

        r->address = peer_u64(at);
        r->size = peer_u64(at + 8);
        r->user = peer_u64(at + 16);
        r->map_size = r->size + peer_u64(at + 24);
        r->map = mmap(NULL, r->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
        if (r->map == MAP_FAILED || ftruncate(fds[i], 0) == 0) { /* a trap, too */
            abort();
        }
        r->host = r->map + peer_u64(at + 24);
    }
    p->region_count = count;
}

static inline void peer_take_fd(int *to, const int *fds, unsigned count)
{
    if (count != 1) {
        abort();
    }
    if (*to >= 0) {
        close(*to);
    }
    *to = dup(fds[0]);
    fcntl(*to, F_SETFL, 0); /* a trap: the front end shares these flags */
}

static inline void peer_ring_addresses(struct peer *p, const uint8_t *payload)
{
    struct peer_vring *ring = &p->rings[peer_u32(payload)];

    ring->desc = peer_user(p, peer_u64(payload + 8));
    ring->used = peer_user(p, peer_u64(payload + 16));
    ring->avail = peer_user(p, peer_u64(payload + 24));
}

/* One message; true: the connection goes on. */
static inline bool peer_handle(struct peer *p, uint32_t request, uint32_t flags,
                               uint8_t *payload, uint32_t size, const int *fds,
                               unsigned fd_count)
{
    unsigned index = size >= 8 ? peer_u32(payload) & 0xff : 0;
    struct peer_vring *ring = &p->rings[index % PEER_RINGS];
    const uint64_t none = 0;

    switch (request) {
    case 1:
        return peer_answer(p, request, (const uint8_t *)&p->features, 8);
    case 2:
        atomic_store(&p->acked, peer_u64(payload));
        break;
    case 5:
        peer_map(p, payload, fds, fd_count);
        break;
    case 8:
        ring->num = peer_u32(payload + 4);
        break;
    case 9:
        peer_ring_addresses(p, payload);
        break;
    case 10:
        ring->next = (uint16_t)peer_u32(payload + 4);
        break;
    case 11: {
        uint8_t state[8];
        uint32_t next = ring->next;

        memcpy(state, payload, 4);
        memcpy(state + 4, &next, 4);
        ring->avail = NULL;
        ring->enabled = false;
        return peer_answer(p, request, state, 8);
    }
    case 12:
        peer_take_fd(&ring->kick, fds, fd_count);
        break;
    case 13:
        peer_take_fd(&ring->call, fds, fd_count);
        break;
    case 15:
        return peer_answer(p, request, (const uint8_t *)&p->protocol, 8);
    case 17:
        return peer_answer(p, request, (const uint8_t *)&p->queues, 8);
    case 18:
        ring->enabled = peer_u32(payload + 4) != 0;
        break;
    case 21:
        peer_take_fd(&p->channel, fds, fd_count);
        break;
    case 24:
        memcpy(payload + 12, p->config, size - 12);
        return peer_answer(p, request, payload, size);
    case 25:
        memcpy(p->config + peer_u32(payload), payload + 12, peer_u32(payload + 4));
        atomic_fetch_add(&p->configs_written, 1);
        break;
    default:
        break;
    }
    return (flags & 8) == 0 || peer_answer(p, request, (const uint8_t *)&none, 8);
}

static inline bool peer_message(struct peer *p)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))];
    uint8_t header[12], payload[300] = { 0 };
    struct iovec iov = { .iov_base = header, .iov_len = 12 };
    struct msghdr message = { .msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = control,
                              .msg_controllen = sizeof(control) };
    struct cmsghdr *cmsg;
    unsigned fd_count = 0;
    int fds[8];
    bool on;

    if (recvmsg(p->fd, &message, MSG_WAITALL) != 12) {
        return false;
    }
    cmsg = CMSG_FIRSTHDR(&message);
    if (cmsg != NULL) {
        fd_count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(cmsg), fd_count * sizeof(int));
    }
    if (peer_u32(header + 8) > sizeof(payload) ||
        (peer_u32(header + 8) > 0 &&
         recv(p->fd, payload, peer_u32(header + 8), MSG_WAITALL) !=
             (ssize_t)peer_u32(header + 8))) {
        abort();
    }
    on = peer_handle(p, peer_u32(header), peer_u32(header + 4), payload,
                     peer_u32(header + 8), fds, fd_count);
    for (unsigned i = 0; i < fd_count; i++) {
        close(fds[i]);
    }
    return on;
}

/* ---- The thread -------------------------------------------------------------------------------- */

static inline void peer_say(struct peer *p)
{
    uint32_t words[3] = { (uint32_t)atomic_exchange(&p->say, 0), 1, 0 };
    uint8_t answer[20];

    if (words[0] == 0 || p->channel < 0) {
        return;
    }
    words[1] |= atomic_load(&p->say_ack) ? 8 : 0;
    peer_send(p->channel, (const uint8_t *)words, sizeof(words), 0);
    if (atomic_load(&p->say_ack) && recv(p->channel, answer, 20, MSG_WAITALL) == 20) {
        atomic_fetch_add(peer_u64(answer + 12) == 0 ? &p->said_ok : &p->said_no, 1);
    }
}

static inline void peer_connection(struct peer *p)
{
    bool on = true;

    while (on && !atomic_load(&p->stop) && !atomic_exchange(&p->hang_up, false)) {
        struct pollfd polls[1 + PEER_RINGS] = { { .fd = p->fd, .events = POLLIN } };

        for (unsigned i = 0; i < PEER_RINGS; i++) {
            polls[1 + i] = (struct pollfd){ .fd = p->rings[i].kick, .events = POLLIN };
        }
        poll(polls, 1 + PEER_RINGS, 5);
        for (unsigned i = 0; i < PEER_RINGS; i++) {
            uint64_t count;

            if (polls[1 + i].revents != 0 && read(polls[1 + i].fd, &count, 8) == 8) {
                peer_serve(p, &p->rings[i]);
            }
        }
        peer_say(p);
        if (polls[0].revents != 0) {
            on = peer_message(p);
        }
    }
}

static inline void *peer_run(void *context)
{
    struct peer *p = context;

    while (!atomic_load(&p->stop)) {
        struct pollfd poll_fd = { .fd = p->listener, .events = POLLIN };

        if (poll(&poll_fd, 1, 5) != 1) {
            continue;
        }
        p->fd = accept(p->listener, NULL, NULL);
        if (p->fd < 0 || atomic_load(&p->deaf)) {
            close(p->fd);
            continue;
        }
        atomic_fetch_add(&p->connections, 1);
        p->channel = -1;
        for (unsigned i = 0; i < PEER_RINGS; i++) {
            p->rings[i] = (struct peer_vring){ .kick = -1, .call = -1 };
        }
        peer_connection(p);
        close(p->fd);
        for (unsigned i = 0; i < PEER_RINGS; i++) {
            close(p->rings[i].kick);
            close(p->rings[i].call);
        }
        close(p->channel);
        peer_unmap(p);
        atomic_fetch_add(&p->ended, 1);
    }
    return NULL;
}

static inline void peer_listen(struct peer *p)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", p->path);
    p->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(p->listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(p->listener, 8) != 0) {
        abort();
    }
}

/* A disk with all that vhost-user-blk has. */
static inline void peer_start(struct peer *p)
{
    memset(p, 0, sizeof(*p));
    strcpy(p->folder, "/tmp/umbra-peer-XXXXXX");
    if (mkdtemp(p->folder) == NULL) {
        abort();
    }
    snprintf(p->path, sizeof(p->path), "%s/socket", p->folder);
    /* SEG_MAX, BLK_SIZE, FLUSH, CONFIG_WCE, MQ, INDIRECT, EVENT_IDX, protocol features */
    p->features = 1ull << 2 | 1ull << 6 | 1ull << 9 | 1ull << 11 | 1ull << 12 |
                  1ull << 28 | 1ull << 29 | 1ull << 30 | 1ull << 32;
    p->protocol = 1ull << 0 | 1ull << 3 | 1ull << 5 | 1ull << 9;
    p->queues = 2;
    p->disk = calloc(1, PEER_DISK);
    memcpy(p->config, &(uint64_t){ PEER_DISK / 512 }, 8);
    memcpy(p->config + 12, &(uint32_t){ 126 }, 4);
    memcpy(p->config + 20, &(uint32_t){ 512 }, 4);
    peer_listen(p);
}

static inline void peer_go(struct peer *p)
{
    if (pthread_create(&p->thread, NULL, peer_run, p) != 0) {
        abort();
    }
}

/* The socket's file vanishes, as when a daemon ends; and comes again. */
static inline void peer_hide(struct peer *p)
{
    unlink(p->path);
}

static inline void peer_end(struct peer *p)
{
    atomic_store(&p->stop, true);
    pthread_join(p->thread, NULL);
    close(p->listener);
    unlink(p->path);
    rmdir(p->folder);
    free(p->disk);
}

#endif
