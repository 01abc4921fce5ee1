/* SPDX-License-Identifier: MIT */
/*
 * Eventfds that another process has too. It shares the open file, so it can make it
 * blocking; nothing here blocks on that account.
 */
#ifndef BASE_EVENT_FD_H
#define BASE_EVENT_FD_H

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include <unistd.h>

/* Was it signalled? Its count is taken. */
static inline bool event_take(int fd)
{
    uint64_t count;
    struct iovec iov = { .iov_base = &count, .iov_len = sizeof(count) };

    return preadv2(fd, &iov, 1, -1, RWF_NOWAIT) == (ssize_t)sizeof(count);
}

/* A counter that is full is a signal already: it is not waited for. */
static inline void event_signal(int fd)
{
    const uint64_t one = 1;
    struct pollfd room = { .fd = fd, .events = POLLOUT };

    if (poll(&room, 1, 0) == 1 && (room.revents & POLLOUT) != 0) {
        while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
        }
    }
}

#endif
