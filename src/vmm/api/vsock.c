/* SPDX-License-Identifier: MIT */
/* The public calls on sockets between guest and host: an embedder needs no paths. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"
#include "virtio/registry.h"
#include "vmm/vm/vm.h"

static int vsock_check(const struct umbra_vm *vm, const char *call,
                       struct umbra_error *error)
{
    int ret = callback_refuse(vm, call, error);

    return ret != 0 ? ret
           : vm->machine.vsock != NULL
               ? 0
               : error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                           "%s: the config has no \"vsock\" (\"cid=3\" would do)", call);
}

static int vsock_failed(int ret, uint32_t port, bool accepts, int64_t timeout_ms,
                        struct umbra_error *error)
{
    const char *doing = accepts ? "waiting for the guest at port" : "connecting to port";

    switch (ret) {
    case -ECONNREFUSED:
        return error_set(error, UMBRA_ERROR_STATE, ECONNREFUSED,
                         "%s %" PRIu32 ": the guest refused (nobody listens there)",
                         doing, port);
    case -ETIMEDOUT:
        return error_set(error, UMBRA_ERROR_STATE, ETIMEDOUT,
                         "%s %" PRIu32 ": nothing came of it within %" PRId64 " ms",
                         doing, port, timeout_ms);
    case -EPIPE:
        return error_set(error, UMBRA_ERROR_STATE, EPIPE,
                         "%s %" PRIu32 ": the run ended first", doing, port);
    case -ENOSPC:
        return error_set(error, UMBRA_ERROR_STATE, ENOSPC,
                         "%s %" PRIu32 ": too many connections or ports "
                         "(\"connections\" of \"vsock\" in the config)",
                         doing, port);
    default:
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "%s %" PRIu32, doing, port);
    }
}

/* Read "OK PORT\n", and nothing behind it. */
static int vsock_wait_answer(struct umbra_vm *vm, int fd, uint64_t deadline_ns)
{
    int ret;
    char c;

    do {
        ssize_t got;

        ret = vm_poll(vm, fd, POLLIN, deadline_ns);
        if (ret != 0) {
            return ret;
        }
        got = recv(fd, &c, 1, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            return -ECONNREFUSED;
        }
        c = got < 0 ? '\0' : c;
    } while (c != '\n');
    return 0;
}

int umbra_vsock_connect(struct umbra_vm *vm, uint32_t port, int64_t timeout_ms, int *fd,
                        struct umbra_error *error)
{
    uint64_t deadline = vm_deadline(timeout_ms);
    int ends[2], ret;

    ret = vsock_check(vm, "umbra_vsock_connect", error);
    if (ret != 0) {
        return ret;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        return vsock_failed(-errno, port, false, timeout_ms, error);
    }
    ret = virtio_vsock_connect(vm->machine.vsock, port, ends[0]);
    if (ret != 0) {
        close(ends[0]);
    } else {
        ret = vsock_wait_answer(vm, ends[1], deadline);
    }
    if (ret != 0) {
        close(ends[1]); /* the device's end follows */
        return vsock_failed(ret, port, false, timeout_ms, error);
    }
    *fd = ends[1];
    return 0;
}

int umbra_vsock_listen(struct umbra_vm *vm, uint32_t port, struct umbra_error *error)
{
    int queue, ret = vsock_check(vm, "umbra_vsock_listen", error);

    if (ret == 0) {
        ret = virtio_vsock_listen(vm->machine.vsock, port, &queue);
        ret = ret == 0 ? 0 : vsock_failed(ret, port, true, 0, error);
    }
    return ret;
}

int umbra_vsock_accept(struct umbra_vm *vm, uint32_t port, int64_t timeout_ms, int *fd,
                       struct umbra_error *error)
{
    uint64_t deadline = vm_deadline(timeout_ms);
    int queue, ret = vsock_check(vm, "umbra_vsock_accept", error);

    if (ret != 0) {
        return ret;
    }
    ret = virtio_vsock_listen(vm->machine.vsock, port, &queue);
    while (ret == 0) {
        int accepted;
        ssize_t got = read(queue, &accepted, sizeof(accepted));

        if (got == (ssize_t)sizeof(accepted)) {
            *fd = accepted;
            return 0;
        }
        ret = vm_poll(vm, queue, POLLIN, deadline);
    }
    return vsock_failed(ret, port, true, timeout_ms, error);
}
