/* SPDX-License-Identifier: MIT */
/* The user-mode network's two files: how it is opened (user_open.c) and how it works. */
#ifndef BACKEND_NET_USER_H
#define BACKEND_NET_USER_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <slirp/libslirp.h>

#include "backend/net/net.h"

struct user_frame {
    struct user_frame *next;
    size_t size;
    uint8_t bytes[];
};

struct user_timer {
    struct user_timer *next;
    SlirpTimerCb fn;
    void *context;
    int64_t expires_ms; /* -1: not armed */
};

/* What is called of libslirp, which is loaded with the first of these. */
/* clang-format off */
#define SLIRP_FUNCTIONS(X) \
    X(new) X(cleanup) X(input) X(pollfds_fill) X(pollfds_poll) X(add_hostxfwd) \
    X(version_string)
/* clang-format on */

struct slirp_library {
#define SLIRP_POINTER(function) typeof(&slirp_##function) function;
    SLIRP_FUNCTIONS(SLIRP_POINTER)
};

/* What epoll waits for on a descriptor of this number; events 0: it does not. */
struct user_watch {
    uint32_t events;
    uint32_t round; /* of the last net_user_wait() that wanted it */
};

struct net_user {
    struct net_backend backend; /* fds[0]: epoll over timer_fd and slirp's sockets */
    struct slirp_library lib;
    Slirp *slirp;
    struct user_timer *timers;
    int timer_fd;
    int64_t armed_ms; /* when timer_fd ends, 0: not armed */
    struct user_frame *first, **last;
    unsigned frames;
    size_t bytes;
    bool stale;           /* what slirp waits for may have changed */
    bool guest_checksums; /* the guest believes us that ours are right */
    uint64_t dropped, guest_errors;
    /* What slirp waits for, now and a round ago, timer_fd first. */
    struct pollfd *polls, *before;
    unsigned poll_count, before_count, poll_capacity;
    struct user_watch *watches; /* by descriptor */
    unsigned watch_count;
    uint32_t round;
    uint8_t input[NET_FRAME_MAX]; /* a frame from the guest in one piece */
};

extern const struct net_backend_ops net_user_ops;
extern const SlirpCb net_user_callbacks; /* their context: the struct net_user */

/* Ask slirp what it waits for now, and have fds[0] wait for that. */
void net_user_wait(struct net_user *user);

#endif
