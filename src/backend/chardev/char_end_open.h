/* SPDX-License-Identifier: MIT */
/* What a character end can be: files, pseudo-terminals, sockets, descriptors. */
#ifndef BACKEND_CHARDEV_CHAR_END_OPEN_H
#define BACKEND_CHARDEV_CHAR_END_OPEN_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <umbra/umbra.h>

struct char_end_fd {
    int fd;
    bool socket, pipe;
    bool shared; /* may be blocking, since its flags are somebody else's too */
    bool readable, writable;
};

int char_end_open_file(const char *path, struct char_end_fd *file,
                       struct umbra_error *error);

/* A raw pseudo-terminal's master, and the path of its other side. */
int char_end_open_pty(char *name, size_t size, struct char_end_fd *file,
                      struct umbra_error *error);

/* A listening stream socket of mode 0600; a stale one (nobody listens) is replaced. */
int char_end_open_unix(const char *path, int *fd, struct umbra_error *error);

/* How long who listens rests when accept(2) found no descriptor or memory: a client that
 * waits keeps the listener polling readable. */
enum { ACCEPT_REST_MS = 1000 };
static inline bool accept_must_rest(int error)
{
    return error != EAGAIN && error != EINTR && error != ECONNABORTED;
}

/* Is the other side of the unix socket @fd of this user, or root? */
bool char_end_peer_allowed(int fd);

/* An own descriptor for what @fd is open on, non-blocking where that does not change the
 * caller's. */
int char_end_open_fd(int fd, struct char_end_fd *file, struct umbra_error *error);

/* As write(2), never waiting (EAGAIN) and never raising SIGPIPE in the process. */
ssize_t char_end_fd_write(const struct char_end_fd *file, const void *bytes,
                          size_t length);
/* As read(2); a shared descriptor only after it polled readable. */
ssize_t char_end_fd_read(const struct char_end_fd *file, void *buffer, size_t size);

#endif
