/* SPDX-License-Identifier: MIT */
/* A tap interface of the host as the guest's wire, with the kernel's offloads. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>

#include "backend/net/net.h"
#include "base/error.h"
#include "base/util.h"

#define TAP_FEATURE(bit) (UINT64_C(1) << (bit))

struct net_tap {
    struct net_backend backend;
    char name[IFNAMSIZ];
    bool attached[NET_PAIRS_MAX];
};

static struct net_tap *tap_of(struct net_backend *backend)
{
    return container_of(backend, struct net_tap, backend);
}

static int tap_send(struct net_backend *backend, unsigned pair, const struct iovec *iov,
                    unsigned count)
{
    ssize_t sent;

    do {
        sent = writev(backend->fds[pair], iov, (int)count);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

static ssize_t tap_receive(struct net_backend *backend, unsigned pair, void *frame,
                           size_t size)
{
    ssize_t got;

    do {
        got = read(backend->fds[pair], frame, size);
    } while (got < 0 && errno == EINTR);
    if (got == 0) {
        return -EPIPE;
    }
    return got < 0 ? -errno : got;
}

static int tap_set_offloads(struct net_backend *backend, uint64_t features)
{
    static const struct {
        unsigned feature;
        unsigned long flag;
    } flags[] = { { VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4 },
                  { VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6 },
                  { VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO } };
    unsigned long wanted = 0;

    if ((features & TAP_FEATURE(VIRTIO_NET_F_GUEST_CSUM)) != 0) {
        wanted = TUN_F_CSUM; /* the others stand on this one */
        for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
            wanted |= (features & TAP_FEATURE(flags[i].feature)) != 0 ? flags[i].flag : 0;
        }
    }
    return ioctl(backend->fds[0], TUNSETOFFLOAD, wanted) < 0 ? -errno : 0;
}

static int tap_set_pairs(struct net_backend *backend, unsigned pairs)
{
    struct net_tap *tap = tap_of(backend);

    for (unsigned i = 0; backend->pairs > 1 && i < backend->pairs; i++) {
        struct ifreq request = { .ifr_flags =
                                     i < pairs ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

        if (tap->attached[i] == (i < pairs)) {
            continue;
        }
        if (ioctl(backend->fds[i], TUNSETQUEUE, &request) < 0) {
            return -errno;
        }
        tap->attached[i] = i < pairs;
    }
    return 0;
}

static void tap_destroy(struct net_backend *backend)
{
    struct net_tap *tap = tap_of(backend);

    for (unsigned i = 0; i < backend->pairs; i++) {
        close(backend->fds[i]);
    }
    free(tap);
}

static const struct net_backend_ops tap_ops = {
    .type = "tap",
    .send = tap_send,
    .receive = tap_receive,
    .set_offloads = tap_set_offloads,
    .set_pairs = tap_set_pairs,
    .destroy = tap_destroy,
};

static int tap_refused(const struct net_tap *tap, unsigned pairs, int errnum,
                       struct umbra_error *error)
{
    const char *multi = pairs > 1 ? " multi_queue" : "";

    if (errnum == EBUSY) {
        return error_errno(error, UMBRA_ERROR_CONFIG, errnum,
                           "open tap %s (another program has it; each guest needs a tap "
                           "of its own)",
                           tap->name);
    }
    return error_errno(error, UMBRA_ERROR_INTERNAL, errnum,
                       "open tap %s with %u queue%s (to make one: sudo ip tuntap add dev "
                       "%s mode tap%s user $USER && sudo ip link set %s up)",
                       tap->name, pairs, pairs > 1 ? "s" : "", tap->name, multi,
                       tap->name);
}

/* One more queue of the tap; creates it when it is not there and we may. */
static int tap_open_queue(struct net_tap *tap, unsigned pairs, struct umbra_error *error)
{
    struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), ret;

    if (fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "open /dev/net/tun for tap %s (modprobe tun; user networking "
                           "needs neither)",
                           tap->name);
    }
    memcpy(request.ifr_name, tap->name, sizeof(request.ifr_name));
    request.ifr_flags |= (short)(pairs > 1 ? IFF_MULTI_QUEUE : 0);
    ret = ioctl(fd, TUNSETIFF, &request);
    if (ret < 0 && errno == EINVAL && pairs == 1) {
        /* A lasting tap made with multi_queue wants to be opened so. */
        request.ifr_flags |= IFF_MULTI_QUEUE;
        ret = ioctl(fd, TUNSETIFF, &request);
    }
    if (ret < 0) {
        ret = tap_refused(tap, pairs, errno, error);
        close(fd);
        return ret;
    }
    tap->attached[tap->backend.pairs] = true;
    tap->backend.fds[tap->backend.pairs++] = fd;
    return 0;
}

static int tap_take_fd(struct net_tap *tap, int fd, struct umbra_error *error)
{
    struct ifreq request = { 0 };
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy < 0 || ioctl(copy, TUNGETIFF, &request) < 0) {
        int errnum = errno;

        if (copy >= 0) {
            close(copy);
        }
        return error_errno(error, UMBRA_ERROR_CONFIG, errnum,
                           "network: descriptor %d is no tap", fd);
    }
    tap->backend.fds[0] = copy;
    tap->backend.pairs = 1;
    tap->attached[0] = true;
    memcpy(tap->name, request.ifr_name, sizeof(tap->name));
    tap->name[sizeof(tap->name) - 1] = '\0';
    if ((request.ifr_flags & IFF_TAP) == 0 || (request.ifr_flags & IFF_NO_PI) == 0 ||
        (request.ifr_flags & IFF_VNET_HDR) == 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "network: descriptor %d (%s) must be opened with IFF_TAP, "
                         "IFF_NO_PI and IFF_VNET_HDR",
                         fd, tap->name);
    }
    fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) | O_NONBLOCK);
    return 0;
}

/* Headers of our size, and what the kernel can take off the guest. */
static int tap_setup(struct net_tap *tap, struct umbra_error *error)
{
    int size = NET_HEADER, errnum;

    for (unsigned i = 0; i < tap->backend.pairs; i++) {
        if (ioctl(tap->backend.fds[i], TUNSETVNETHDRSZ, &size) < 0) {
            errnum = errno;
            return error_errno(error, UMBRA_ERROR_INTERNAL, errnum,
                               "tap %s: set the header's size", tap->name);
        }
    }
    if (ioctl(tap->backend.fds[0], TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) ==
        0) {
        tap->backend.features =
            TAP_FEATURE(VIRTIO_NET_F_CSUM) | TAP_FEATURE(VIRTIO_NET_F_HOST_TSO4) |
            TAP_FEATURE(VIRTIO_NET_F_HOST_TSO6) | TAP_FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
            TAP_FEATURE(VIRTIO_NET_F_GUEST_TSO4) | TAP_FEATURE(VIRTIO_NET_F_GUEST_TSO6);
    }
    if (ioctl(tap->backend.fds[0], TUNSETOFFLOAD,
              TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_UFO) == 0) {
        tap->backend.features |=
            TAP_FEATURE(VIRTIO_NET_F_HOST_UFO) | TAP_FEATURE(VIRTIO_NET_F_GUEST_UFO);
    }
    ioctl(tap->backend.fds[0], TUNSETOFFLOAD, 0); /* until a driver asks */
    return 0;
}

static void tap_warn_if_down(const struct net_tap *tap, const struct log *log)
{
    struct ifreq request = { 0 };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memcpy(request.ifr_name, tap->name, sizeof(request.ifr_name));
    if (fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0 &&
        (request.ifr_flags & IFF_UP) == 0) {
        log_warning(log, "tap %s is down, so no frame passes: sudo ip link set %s up",
                    tap->name, tap->name);
    }
    if (fd >= 0) {
        close(fd);
    }
}

int net_tap_open(const char *name, int fd, unsigned pairs, const struct log *log,
                 struct net_backend **backend, struct umbra_error *error)
{
    struct net_tap *tap = calloc(1, sizeof(*tap));
    int ret = 0;

    if (tap == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "tap");
    }
    tap->backend.ops = &tap_ops;
    pairs = pairs == 0 ? 1 : pairs;
    if (fd >= 0) {
        ret = tap_take_fd(tap, fd, error);
    } else {
        snprintf(tap->name, sizeof(tap->name), "%s", name);
    }
    while (ret == 0 && tap->backend.pairs < pairs) {
        ret = tap_open_queue(tap, pairs, error);
    }
    if (ret == 0) {
        ret = tap_setup(tap, error);
    }
    if (ret != 0) {
        tap_destroy(&tap->backend);
        return ret;
    }
    tap_warn_if_down(tap, log);
    *backend = &tap->backend;
    return 0;
}
