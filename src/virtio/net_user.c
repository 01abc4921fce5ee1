/* SPDX-License-Identifier: MIT */
/*
 * User-mode networking: libslirp as the other end of the guest's wire, with a thread that
 * waits for its sockets. All of slirp and the queue of frames for the guest are under one
 * mutex, which comes after the virtio device's lock.
 */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <slirp/libslirp.h>

#include "base/error.h"
#include "base/library.h"
#include "base/thread.h"
#include "base/util.h"
#include "virtio/net_offload.h"

enum {
    USER_FRAMES_MAX = 1024, /* waiting for the guest */
    USER_BYTES_MAX = 4 << 20,
    USER_MTU_MIN = 576,
    USER_MTU_MAX = 65521, /* as libslirp has it */
};

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

static const struct library_symbol slirp_symbols[] = {
#define SLIRP_SYMBOL(function)                                                           \
    { "slirp_" #function, offsetof(struct slirp_library, function) },
    SLIRP_FUNCTIONS(SLIRP_SYMBOL)
};

struct net_user {
    struct net_backend backend;
    struct slirp_library lib;
    pthread_mutex_t mutex;
    Slirp *slirp;
    pthread_t thread;
    bool thread_runs;
    atomic_bool stopping;
    atomic_bool woken; /* a wake is on its way; pairs with user_thread's exchange */
    int wake_fd;
    struct user_timer *timers;
    struct user_frame *first, **last;
    unsigned frames;
    size_t bytes;
    bool signalled;       /* backend.fds[0] is: frames wait, or did */
    bool guest_checksums; /* the guest believes us that ours are right */
    uint64_t dropped, guest_errors;
    struct pollfd *polls; /* the thread's */
    unsigned poll_count, poll_capacity;
    uint8_t input[NET_FRAME_MAX]; /* a frame from the guest in one piece */
};

static struct net_user *user_of(struct net_backend *backend)
{
    return container_of(backend, struct net_user, backend);
}

static void event_signal(int fd)
{
    const uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

static void event_clear(int fd)
{
    uint64_t count;

    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
}

/* Have the thread look at what slirp waits for again. */
static void user_wake(struct net_user *user)
{
    if (!atomic_exchange(&user->woken, true)) {
        event_signal(user->wake_fd);
    }
}

/* ---- What slirp calls, mutex held ----------------------------------------------------- */

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
    if (!user->signalled) {
        user->signalled = true;
        event_signal(user->backend.fds[0]);
    }
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
    struct user_timer *timer = which;

    if (timer != NULL) {
        timer->expires_ms = expires_ms;
        user_wake(context);
    }
}

static void user_poll_fd(int fd, void *context)
{
    (void)fd;
    (void)context;
}

static void user_notify(void *context)
{
    user_wake(context);
}

static const SlirpCb user_callbacks = {
    .send_packet = user_send_packet,
    .guest_error = user_guest_error,
    .clock_get_ns = user_clock,
    .timer_new = user_timer_new,
    .timer_free = user_timer_free,
    .timer_mod = user_timer_mod,
    .register_poll_fd = user_poll_fd,
    .unregister_poll_fd = user_poll_fd,
    .notify = user_notify,
};

/* ---- The thread ------------------------------------------------------------------------ */

static int user_add_poll(int fd, int events, void *context)
{
    struct net_user *user = context;

    if (user->poll_count == user->poll_capacity) {
        unsigned capacity = user->poll_capacity * 2 + 16;
        struct pollfd *polls = realloc(user->polls, capacity * sizeof(*polls));

        if (polls == NULL) {
            return -1; /* not heard this round */
        }
        user->polls = polls;
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

/* Run what is due, one a round since it may change the list; ms until the next one. */
static uint32_t user_run_timers(struct net_user *user, uint32_t timeout)
{
    int64_t now = (int64_t)(clock_ns() / 1000000);

    for (struct user_timer *timer = user->timers; timer != NULL; timer = timer->next) {
        if (timer->expires_ms < 0) {
            continue;
        }
        if (timer->expires_ms <= now) {
            timer->expires_ms = -1;
            timer->fn(timer->context);
            return 0;
        }
        if ((uint64_t)(timer->expires_ms - now) < timeout) {
            timeout = (uint32_t)(timer->expires_ms - now);
        }
    }
    return timeout;
}

static void *user_thread(void *context)
{
    struct net_user *user = context;

    while (!atomic_load(&user->stopping)) {
        uint32_t timeout = UINT32_MAX;
        int ret;

        pthread_mutex_lock(&user->mutex);
        user->poll_count = 0;
        if (user_add_poll(user->wake_fd, SLIRP_POLL_IN, user) < 0) {
            timeout = 100; /* no memory: a slow network is better than none */
        }
        user->lib.pollfds_fill(user->slirp, &timeout, user_add_poll, user);
        timeout = user_run_timers(user, timeout);
        pthread_mutex_unlock(&user->mutex);

        ret =
            poll(user->polls, user->poll_count, timeout > INT32_MAX ? -1 : (int)timeout);
        /* From here on changes need another wake: they come after this round's fill. */
        if (atomic_exchange(&user->woken, false)) {
            event_clear(user->wake_fd);
        }
        pthread_mutex_lock(&user->mutex);
        user->lib.pollfds_poll(user->slirp, ret < 0, user_get_revents, user);
        pthread_mutex_unlock(&user->mutex);
    }
    return NULL;
}

static int user_start_thread(struct net_user *user)
{
    int ret = thread_start(&user->thread, "umbra-net-user", user_thread, user);

    user->thread_runs = ret == 0;
    return ret;
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
    pthread_mutex_lock(&user->mutex);
    user->lib.input(user->slirp, user->input, (int)size);
    pthread_mutex_unlock(&user->mutex);
    user_wake(user);
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
    pthread_mutex_lock(&user->mutex);
    frame = user->first;
    if (frame == NULL) {
        if (user->signalled) {
            user->signalled = false;
            event_clear(backend->fds[0]);
        }
        pthread_mutex_unlock(&user->mutex);
        return -EAGAIN;
    }
    user->first = frame->next;
    if (user->first == NULL) {
        user->last = &user->first;
    }
    user->frames--;
    user->bytes -= frame->size;
    pthread_mutex_unlock(&user->mutex);
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

    pthread_mutex_lock(&user->mutex);
    json_object_set_new(json, "queue_dropped", json_integer((json_int_t)user->dropped));
    json_object_set_new(json, "guest_errors",
                        json_integer((json_int_t)user->guest_errors));
    pthread_mutex_unlock(&user->mutex);
}

static void user_destroy(struct net_backend *backend)
{
    struct net_user *user = user_of(backend);

    if (user->thread_runs) {
        atomic_store(&user->stopping, true);
        event_signal(user->wake_fd);
        pthread_join(user->thread, NULL);
    }
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
    if (user->wake_fd >= 0) {
        close(user->wake_fd);
    }
    if (user->backend.fds[0] >= 0) {
        close(user->backend.fds[0]);
    }
    pthread_mutex_destroy(&user->mutex);
    free(user->polls);
    free(user);
}

static int user_set_offloads(struct net_backend *backend, uint64_t features)
{
    user_of(backend)->guest_checksums =
        (features & UINT64_C(1) << VIRTIO_NET_F_GUEST_CSUM) != 0;
    return 0;
}

static const struct net_backend_ops user_ops = {
    .type = "user",
    .send = user_send,
    .receive = user_receive,
    .set_offloads = user_set_offloads,
    .stats = user_stats,
    .destroy = user_destroy,
};

/* ---- Forwards ----------------------------------------------------------------------------- */

/* @text as an address of either family, @absent when empty; its length or -EINVAL. */
static int forward_address(const char *text, const char *absent, uint16_t port,
                           struct sockaddr_storage *address)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;

    text = text[0] != '\0' ? text : absent;
    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof(*v4);
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        return sizeof(*v6);
    }
    return -EINVAL;
}

static int user_add_forward(struct net_user *user, const struct net_forward *forward,
                            struct umbra_error *error)
{
    const char *protocol = forward->udp ? "udp" : "tcp";
    const char *host =
        forward->host_address[0] != '\0' ? forward->host_address : "127.0.0.1";
    struct sockaddr_storage from, to;
    int from_length, to_length, flags;

    from_length = forward_address(forward->host_address, host, forward->host_port, &from);
    to_length = forward_address(forward->guest_address,
                                from.ss_family == AF_INET6 ? "fec0::15" : "10.0.2.15",
                                forward->guest_port, &to);
    if (from_length < 0 || to_length < 0 || from.ss_family != to.ss_family) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "forward %s:%s:%u:%s:%u: want numeric addresses of one family",
                         protocol, host, forward->host_port, forward->guest_address,
                         forward->guest_port);
    }
    flags = (forward->udp ? SLIRP_HOSTFWD_UDP : 0) |
            (from.ss_family == AF_INET6 ? SLIRP_HOSTFWD_V6ONLY : 0);
    errno = 0;
    if (user->lib.add_hostxfwd(user->slirp, (struct sockaddr *)&from,
                               (socklen_t)from_length, (struct sockaddr *)&to,
                               (socklen_t)to_length, flags) < 0) {
        int errnum = errno != 0 ? errno : EADDRINUSE;

        return error_errno(error, UMBRA_ERROR_CONFIG, errnum,
                           "forward %s port %u: cannot listen at %s:%u (choose a free "
                           "port, above 1023 unless root)",
                           protocol, forward->host_port, host, forward->host_port);
    }
    return 0;
}

static Slirp *user_create_slirp(struct net_user *user, unsigned mtu, bool restricted)
{
    SlirpConfig config = {
        .version = 1,
        .restricted = restricted,
        .in_enabled = true,
        .in6_enabled = true,
        .vprefix_len = 64,
        .vhostname = "umbra",
    };

    inet_pton(AF_INET, "10.0.2.0", &config.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &config.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &config.vhost);
    inet_pton(AF_INET, "10.0.2.3", &config.vnameserver);
    inet_pton(AF_INET, "10.0.2.15", &config.vdhcp_start);
    inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &config.vhost6);
    inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
    mtu = mtu < USER_MTU_MIN ? USER_MTU_MIN : mtu;
    config.if_mtu = config.if_mru = mtu < USER_MTU_MAX ? mtu : USER_MTU_MAX;
    return user->lib.new(&config, &user_callbacks, user);
}

int net_user_open(const struct net_user_options *options, struct net_backend **backend,
                  struct umbra_error *error)
{
    struct net_user *user = calloc(1, sizeof(*user));
    int ret = 0;

    if (user == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "user networking");
    }
    user->backend.ops = &user_ops;
    user->backend.pairs = 1;
    user->backend.features =
        UINT64_C(1) << VIRTIO_NET_F_CSUM | UINT64_C(1) << VIRTIO_NET_F_GUEST_CSUM |
        UINT64_C(1) << VIRTIO_NET_F_HOST_TSO4 | UINT64_C(1) << VIRTIO_NET_F_HOST_UFO;
    user->last = &user->first;
    pthread_mutex_init(&user->mutex, NULL);
    user->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    user->backend.fds[0] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (user->wake_fd < 0 || user->backend.fds[0] < 0) {
        ret = error_errno(error, UMBRA_ERROR_INTERNAL, errno, "user networking: eventfd");
        goto fail;
    }
    ret = library_load("libslirp.so.0", "libslirp0", slirp_symbols,
                       ARRAY_SIZE(slirp_symbols), &user->lib, error);
    if (ret != 0) {
        error_prefix(error, "user networking");
        goto fail;
    }
    user->slirp = user_create_slirp(user, options->mtu != 0 ? options->mtu : 1500,
                                    options->restricted);
    if (user->slirp == NULL) {
        ret = error_set(error, UMBRA_ERROR_INTERNAL, EIO,
                        "user networking: libslirp %s refuses to start",
                        user->lib.version_string());
        goto fail;
    }
    for (size_t i = 0; i < options->forward_count; i++) {
        ret = user_add_forward(user, &options->forwards[i], error);
        if (ret != 0) {
            goto fail;
        }
    }
    ret = user_start_thread(user);
    if (ret != 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "user networking: a thread");
        goto fail;
    }
    *backend = &user->backend;
    return 0;
fail:
    user_destroy(&user->backend);
    return ret;
}
