/* SPDX-License-Identifier: MIT */
/* A stream socket talked with as with a console: expect, send, transcript. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/vm/vm.h"

enum { STREAM_READ = 4096 };

struct umbra_stream {
    struct umbra_vm *vm; /* may be NULL */
    int fd;
    struct console console;
};

int umbra_stream_open(struct umbra_vm *vm, int fd, struct umbra_stream **stream,
                      struct umbra_error *error)
{
    struct umbra_stream *new;
    socklen_t length = sizeof(int);
    int type;

    *stream = NULL;
    if (vm != NULL && callback_foreign(vm, "umbra_stream_open", error) != 0) {
        close(fd);
        return -EPERM;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_STREAM) {
        close(fd);
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_stream_open: descriptor %d is no stream socket", fd);
    }
    new = calloc(1, sizeof(*new));
    if (new == NULL) {
        close(fd);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "umbra_stream_open");
    }
    new->vm = vm;
    new->fd = fd;
    console_init(&new->console);
    *stream = new;
    return 0;
}

/* Wait for some bytes and take them. */
static int stream_fill(struct umbra_stream *stream, uint64_t deadline_ns)
{
    char bytes[STREAM_READ];
    ssize_t got;
    int ret = vm_poll(stream->vm, stream->fd, POLLIN, deadline_ns);

    if (ret != 0) {
        return ret;
    }
    got = recv(stream->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got > 0) {
        console_output(&stream->console, bytes, (size_t)got);
    }
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR)) ? 0 : -EPIPE;
}

int umbra_stream_expect(struct umbra_stream *stream, const char *pattern, unsigned flags,
                        int64_t timeout_ms, struct umbra_match *match,
                        struct umbra_error *error)
{
    uint64_t deadline = vm_deadline(timeout_ms < 0 ? 0 : timeout_ms);
    char tail[1024];
    int ret, filled = 0;

    for (;;) {
        ret = console_expect(&stream->console, pattern, (flags & UMBRA_EXPECT_REGEX) != 0,
                             0, match, error);
        if (ret != -ETIMEDOUT || filled != 0) {
            break;
        }
        filled = stream_fill(stream, deadline);
    }
    if (ret != -ETIMEDOUT) {
        return ret;
    }
    console_tail(&stream->console, tail, sizeof(tail));
    return filled == -ETIMEDOUT
               ? error_set(error, UMBRA_ERROR_STATE, ETIMEDOUT,
                           "\"%s\" did not come within %" PRId64
                           " ms; what came last:\n%s",
                           pattern, timeout_ms, tail)
               : error_set(error, UMBRA_ERROR_STATE, EPIPE,
                           "the other side ended before \"%s\" came; what came last:\n%s",
                           pattern, tail);
}

int umbra_stream_send(struct umbra_stream *stream, const void *bytes, size_t length,
                      int64_t timeout_ms, struct umbra_error *error)
{
    uint64_t deadline = vm_deadline(timeout_ms < 0 ? 0 : timeout_ms);
    const char *at = bytes;
    int ret = 0;

    while (ret == 0 && length > 0) {
        ssize_t sent = send(stream->fd, at, length, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent > 0) {
            at += sent;
            length -= (size_t)sent;
        } else if (errno == EAGAIN) {
            ret = vm_poll(stream->vm, stream->fd, POLLOUT, deadline);
        } else if (errno != EINTR) {
            ret = -errno;
        }
    }
    return ret == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_STATE, -ret,
                                  "sending: %zu bytes are left", length);
}

char *umbra_stream_transcript(struct umbra_stream *stream, size_t *length)
{
    return console_transcript(&stream->console, length);
}

void umbra_stream_close(struct umbra_stream *stream)
{
    if (stream != NULL) {
        close(stream->fd);
        console_fini(&stream->console);
        free(stream);
    }
}
