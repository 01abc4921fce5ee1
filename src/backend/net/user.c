/* SPDX-License-Identifier: MIT */
/*
 * User-mode networking: libslirp as the other end of the guest's wire. There is no thread:
 * receive() has slirp look at its sockets, and an epoll descriptor of all that slirp waits
 * for, its timers included, tells when to call it. All of it runs under the device's lock.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "backend/net/offload.h"
#include "backend/net/user.h"
#include "base/util.h"

enum {
    USER_FRAMES_MAX = 1024, /* waiting for the guest */
    USER_BYTES_MAX = 4 << 20,
};

static struct net_user *user_of(struct net_backend *backend)
{
    return container_of(backend, struct net_user, backend);
}

static int64_t user_now_ms(void)
{
    return (int64_t)(clock_ns() / 1000000);
}

/* ---- What slirp calls ------------------------------------------------------------------ */

static ssize_t user_send_packet(const void *bytes, size_t size, void *context)
{
    struct net_user *user = context;
    struct user_frame *frame = NULL;

    if (size <= NET_FRAME_MAX && user->frames < USER_FRAMES_MAX &&
        user->bytes + size <= USER_BYTES_MAX) {
        frame = malloc(sizeof(*frame) + size);
    }
    if (frame == NULL) {
        user->dropped++;
        return (ssize_t)size; /* lost on the wire: TCP sends it again */
    }
    frame->next = NULL;
    frame->size = size;
    memcpy(frame->bytes, bytes, size);
    *user->last = frame;
    user->last = &frame->next;
    user->frames++;
    user->bytes += size;
    return (ssize_t)size;
}

static void user_guest_error(const char *message, void *context)
{
    struct net_user *user = context;

    (void)message; /* a guest may make any number of these */
    user->guest_errors++;
}

static int64_t user_clock(void *context)
{
    (void)context;
    return (int64_t)clock_ns();
}

static void *user_timer_new(SlirpTimerCb fn, void *fn_context, void *context)
{
    struct net_user *user = context;
    struct user_timer *timer = calloc(1, sizeof(*timer));

    if (timer != NULL) {
        timer->fn = fn;
        timer->context = fn_context;
        timer->expires_ms = -1;
        timer->next = user->timers;
        user->timers = timer;
    }
    return timer;
}

static void user_timer_free(void *which, void *context)
{
    struct net_user *user = context;

    for (struct user_timer **at = &user->timers; *at != NULL; at = &(*at)->next) {
        if (*at == which) {
            *at = (*at)->next;
            free(which);
            return;
        }
    }
}

static void user_timer_mod(void *which, int64_t expires_ms, void *context)
{
    struct net_user *user = context;
    struct user_timer *timer = which;

    if (timer != NULL) {
        timer->expires_ms = expires_ms;
        user->stale = true;
    }
}

static void user_register_fd(int fd, void *context)
{
    struct net_user *user = context;

    (void)fd;
    user->stale = true;
}

/* Before slirp closes it: the number may come back as another socket. */
static void user_unregister_fd(int fd, void *context)
{
    struct net_user *user = context;

    if (fd >= 0 && (unsigned)fd < user->watch_count && user->watches[fd].events != 0) {
        epoll_ctl(user->backend.fds[0], EPOLL_CTL_DEL, fd, NULL);
        user->watches[fd].events = 0;
    }
    user->stale = true;
}

static void user_notify(void *context)
{
    struct net_user *user = context;

    user->stale = true;
}

const SlirpCb net_user_callbacks = {
    .send_packet = user_send_packet,
    .guest_error = user_guest_error,
    .clock_get_ns = user_clock,
    .timer_new = user_timer_new,
    .timer_free = user_timer_free,
    .timer_mod = user_timer_mod,
    .register_poll_fd = user_register_fd,
    .unregister_poll_fd = user_unregister_fd,
    .notify = user_notify,
};

/* ---- Its sockets and timers ------------------------------------------------------------ */

static int user_add_poll(int fd, int events, void *context)
{
    struct net_user *user = context;

    if (fd < 0) {
        return -1;
    }
    if (user->poll_count == user->poll_capacity) {
        unsigned capacity = user->poll_capacity * 2 + 16;
        struct pollfd *polls = realloc(user->polls, capacity * sizeof(*polls));
        struct pollfd *before = realloc(user->before, capacity * sizeof(*before));

        user->polls = polls != NULL ? polls : user->polls;
        user->before = before != NULL ? before : user->before;
        if (polls == NULL || before == NULL) {
            return -1; /* not heard this round */
        }
        user->poll_capacity = capacity;
    }
    user->polls[user->poll_count] = (struct pollfd){
        .fd = fd,
        .events = (short)(((events & SLIRP_POLL_IN) != 0 ? POLLIN : 0) |
                          ((events & SLIRP_POLL_OUT) != 0 ? POLLOUT : 0) |
                          ((events & SLIRP_POLL_PRI) != 0 ? POLLPRI : 0)),
    };
    return (int)user->poll_count++;
}

static int user_get_revents(int index, void *context)
{
    const struct net_user *user = context;
    int events;

    if (index < 0 || (unsigned)index >= user->poll_count) {
        return 0;
    }
    events = user->polls[index].revents;
    return ((events & POLLIN) != 0 ? SLIRP_POLL_IN : 0) |
           ((events & POLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
           ((events & POLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
           ((events & POLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
           ((events & POLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

/* Run what is due. Each may change the list, so it starts anew behind one. */
static void user_run_timers(struct net_user *user)
{
    int64_t now = user_now_ms();
    struct user_timer *timer = user->timers;

    while (timer != NULL) {
        if (timer->expires_ms >= 0 && timer->expires_ms <= now) {
            timer->expires_ms = -1;
            timer->fn(timer->context);
            timer = user->timers;
        } else {
            timer = timer->next;
        }
    }
}

/* Have timer_fd end in @timeout ms or when a timer does. Too early does no harm. */
static void user_arm(struct net_user *user, uint32_t timeout)
{
    int64_t until = timeout == UINT32_MAX ? INT64_MAX : user_now_ms() + timeout;
    struct itimerspec at = { 0 };

    for (struct user_timer *timer = user->timers; timer != NULL; timer = timer->next) {
        if (timer->expires_ms >= 0 && timer->expires_ms < until) {
            until = timer->expires_ms;
        }
    }
    if (until == INT64_MAX || (user->armed_ms != 0 && user->armed_ms <= until)) {
        return;
    }
    until = until > 0 ? until : 1;
    at.it_value.tv_sec = until / 1000;
    at.it_value.tv_nsec = until % 1000 * 1000000;
    if (timerfd_settime(user->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) == 0) {
        user->armed_ms = until;
    }
}

/* Bring epoll's list of descriptor @fd to @events; 0: off it. */
static void user_watch_set(struct net_user *user, int fd, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.fd = fd };
    struct user_watch *watch = &user->watches[fd];
    int how = events == 0          ? EPOLL_CTL_DEL
              : watch->events == 0 ? EPOLL_CTL_ADD
                                   : EPOLL_CTL_MOD;

    if (watch->events != events) {
        /* What fails is tried again in the next round; one comes with slirp's timers. */
        watch->events =
            epoll_ctl(user->backend.fds[0], how, fd, &event) == 0 ? events : 0;
    }
}

static bool user_watch_room(struct net_user *user, int fd)
{
    unsigned count = (unsigned)fd + 64;
    struct user_watch *watches;

    if ((unsigned)fd < user->watch_count) {
        return true;
    }
    watches = realloc(user->watches, count * sizeof(*watches));
    if (watches == NULL) {
        return false;
    }
    memset(watches + user->watch_count, 0,
           (count - user->watch_count) * sizeof(*watches));
    user->watches = watches;
    user->watch_count = count;
    return true;
}

void net_user_wait(struct net_user *user)
{
    struct pollfd *before = user->polls;
    uint32_t timeout = UINT32_MAX;

    user->polls = user->before;
    user->before = before;
    user->before_count = user->poll_count;
    user->poll_count = 0;
    user->round++;
    if (user_add_poll(user->timer_fd, SLIRP_POLL_IN, user) < 0) {
        timeout = 100; /* no memory: a slow network is better than none */
    }
    user->lib.pollfds_fill(user->slirp, &timeout, user_add_poll, user);
    user_arm(user, timeout);
    for (unsigned i = 0; i < user->poll_count; i++) {
        int fd = user->polls[i].fd;

        if (user_watch_room(user, fd)) {
            user->watches[fd].round = user->round;
            user_watch_set(user, fd, (uint32_t)user->polls[i].events);
        }
    }
    for (unsigned i = 0; i < user->before_count; i++) {
        int fd = user->before[i].fd;

        if ((unsigned)fd < user->watch_count && user->watches[fd].round != user->round) {
            user_watch_set(user, fd, 0);
        }
    }
    user->stale = false;
}

/* Have slirp take what its sockets have for the guest, and do what is due. */
static void user_look(struct net_user *user)
{
    uint64_t count;
    int ready;

    if (user->stale) {
        net_user_wait(user);
    }
    ready = poll(user->polls, user->poll_count, 0);
    if (ready <= 0) {
        return;
    }
    if (user->polls[0].fd == user->timer_fd && user->polls[0].revents != 0) {
        user->armed_ms = 0;
        while (read(user->timer_fd, &count, sizeof(count)) < 0 && errno == EINTR) {
        }
        user_run_timers(user);
    }
    user->lib.pollfds_poll(user->slirp, 0, user_get_revents, user);
    net_user_wait(user);
}

/* ---- What the device calls --------------------------------------------------------------- */

/*
 * Slirp ends the guest's connections, so it takes TCP segments and datagrams of any size
 * over IPv4 as they are, with their checksum; over IPv6 it insists on its MTU.
 */
static int user_send(struct net_backend *backend, unsigned pair, const struct iovec *iov,
                     unsigned count)
{
    const struct virtio_net_hdr_v1 *header = iov[0].iov_base;
    struct net_user *user = user_of(backend);
    size_t size = 0;

    (void)pair;
    for (unsigned i = 1; i < count; i++) {
        if (iov[i].iov_len > sizeof(user->input) - size) {
            return -EMSGSIZE;
        }
        memcpy(user->input + size, iov[i].iov_base, iov[i].iov_len);
        size += iov[i].iov_len;
    }
    if ((header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) {
        net_checksum_complete(header, user->input, size);
    }
    if (!user->stale) { /* the first since it slept: set its clock, which stood still */
        user->lib.pollfds_poll(user->slirp, 1, user_get_revents, user);
        user->stale = true;
    }
    user->lib.input(user->slirp, user->input, (int)size);
    return 0;
}

static ssize_t user_receive(struct net_backend *backend, unsigned pair, void *buffer,
                            size_t size)
{
    struct net_user *user = user_of(backend);
    struct user_frame *frame;
    ssize_t ret;

    (void)pair;
    (void)size;
    if (user->first == NULL) {
        user_look(user);
    }
    frame = user->first;
    if (frame == NULL) {
        return -EAGAIN;
    }
    user->first = frame->next;
    if (user->first == NULL) {
        user->last = &user->first;
    }
    user->frames--;
    user->bytes -= frame->size;
    memset(buffer, 0, NET_HEADER);
    if (user->guest_checksums) {
        *(uint8_t *)buffer = VIRTIO_NET_HDR_F_DATA_VALID;
    }
    memcpy((uint8_t *)buffer + NET_HEADER, frame->bytes, frame->size);
    ret = (ssize_t)(NET_HEADER + frame->size);
    free(frame);
    return ret;
}

static void user_stats(struct net_backend *backend, void *json)
{
    struct net_user *user = user_of(backend);

    json_object_set_new(json, "queue_dropped", json_integer((json_int_t)user->dropped));
    json_object_set_new(json, "guest_errors",
                        json_integer((json_int_t)user->guest_errors));
}

static void user_destroy(struct net_backend *backend)
{
    struct net_user *user = user_of(backend);

    if (user->slirp != NULL) {
        user->lib.cleanup(user->slirp);
    }
    while (user->timers != NULL) {
        user_timer_free(user->timers, user);
    }
    while (user->first != NULL) {
        struct user_frame *next = user->first->next;

        free(user->first);
        user->first = next;
    }
    if (user->timer_fd >= 0) {
        close(user->timer_fd);
    }
    if (user->backend.fds[0] >= 0) {
        close(user->backend.fds[0]);
    }
    free(user->polls);
    free(user->before);
    free(user->watches);
    free(user);
}

static int user_set_offloads(struct net_backend *backend, uint64_t features)
{
    user_of(backend)->guest_checksums =
        (features & UINT64_C(1) << VIRTIO_NET_F_GUEST_CSUM) != 0;
    return 0;
}

const struct net_backend_ops net_user_ops = {
    .type = "user",
    .send = user_send,
    .receive = user_receive,
    .set_offloads = user_set_offloads,
    .stats = user_stats,
    .destroy = user_destroy,
};
