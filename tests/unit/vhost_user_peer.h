/* SPDX-License-Identifier: MIT */
/*
 * A vhost-user back end for tests, written from the protocol's specification: a small disk
 * in memory (or a device that only echoes lengths), on a thread of its own, which can be
 * told to misbehave at any message or in its rings.
 */
#ifndef TESTS_VHOST_USER_PEER_H
#define TESTS_VHOST_USER_PEER_H

#include "unit/vhost_user_peer_rings.h"

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
    case 20:
        atomic_store(&p->mtu, (unsigned)peer_u64(payload));
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
    p->protocol = 1ull << 0 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 9;
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
