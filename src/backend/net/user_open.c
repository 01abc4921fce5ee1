/* SPDX-License-Identifier: MIT */
/* Opening a user-mode network: libslirp, its addresses, and the ports that it forwards. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <linux/virtio_net.h>

#include "backend/net/user.h"
#include "base/error.h"
#include "base/library.h"
#include "base/util.h"

enum {
    USER_MTU_MIN = 576,
    USER_MTU_MAX = 65521, /* as libslirp has it */
};

static const struct library_symbol slirp_symbols[] = {
#define SLIRP_SYMBOL(function)                                                           \
    { "slirp_" #function, offsetof(struct slirp_library, function) },
    SLIRP_FUNCTIONS(SLIRP_SYMBOL)
};

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
    return user->lib.new(&config, &net_user_callbacks, user);
}

int net_user_open(const struct net_user_options *options, struct net_backend **backend,
                  struct umbra_error *error)
{
    struct net_user *user = calloc(1, sizeof(*user));
    int ret = 0;

    if (user == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "user networking");
    }
    user->backend.ops = &net_user_ops;
    user->backend.pairs = 1;
    user->backend.features =
        UINT64_C(1) << VIRTIO_NET_F_CSUM | UINT64_C(1) << VIRTIO_NET_F_GUEST_CSUM |
        UINT64_C(1) << VIRTIO_NET_F_HOST_TSO4 | UINT64_C(1) << VIRTIO_NET_F_HOST_UFO;
    user->last = &user->first;
    user->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    user->backend.fds[0] = epoll_create1(EPOLL_CLOEXEC);
    if (user->timer_fd < 0 || user->backend.fds[0] < 0) {
        ret = error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                          "user networking: a descriptor to wait with");
        goto fail;
    }
    ret = library_load("libslirp.so.0", "libslirp0", slirp_symbols,
                       ARRAY_SIZE(slirp_symbols), &user->lib, NULL, error);
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
    net_user_wait(user);
    *backend = &user->backend;
    return 0;
fail:
    net_user_ops.destroy(&user->backend);
    return ret;
}
