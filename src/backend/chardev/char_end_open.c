/* SPDX-License-Identifier: MIT */
/* What a character end can be: files, pseudo-terminals, sockets, descriptors. */
#include "backend/chardev/char_end_open.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"

int char_end_open_file(const char *path, struct char_end_fd *file,
                       struct umbra_error *error)
{
    *file = (struct char_end_fd){ .writable = true };
    file->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (file->fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot create the output file %s", path);
    }
    return 0;
}

int char_end_open_pty(char *name, size_t size, struct char_end_fd *file,
                      struct umbra_error *error)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), other = -1;
    struct termios termios;
    int rc;

    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0 ||
        ptsname_r(master, name, size) != 0) {
        rc = error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                         "cannot create a pseudo-terminal");
        goto fail;
    }
    /* Opening and closing the other side once makes the master poll HUP until somebody
     * opens it, and carries the raw mode to them. */
    other = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (other < 0 || tcgetattr(other, &termios) != 0) {
        rc = error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                         "cannot set up the pseudo-terminal %s", name);
        goto fail;
    }
    cfmakeraw(&termios);
    tcsetattr(other, TCSANOW, &termios);
    close(other);
    *file = (struct char_end_fd){ .fd = master, .readable = true, .writable = true };
    return 0;

fail:
    if (other >= 0) {
        close(other);
    }
    if (master >= 0) {
        close(master);
    }
    return rc;
}

/* Remove a socket that nobody listens on. */
static void unix_remove_stale(const struct sockaddr_un *address)
{
    struct stat status;
    int fd;

    if (lstat(address->sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) {
        return;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return;
    }
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 &&
        errno == ECONNREFUSED) {
        unlink(address->sun_path);
    }
    close(fd);
}

bool char_end_peer_allowed(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

int char_end_open_unix(const char *path, int *fd, struct umbra_error *error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int listener;

    if (strlen(path) >= sizeof(address.sun_path)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENAMETOOLONG,
                         "the socket path %s is longer than %zu bytes", path,
                         sizeof(address.sun_path) - 1);
    }
    strcpy(address.sun_path, path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "cannot create a socket");
    }
    unix_remove_stale(&address);
    /* The mode of an unbound socket is that of the file which bind makes, less umask. */
    if (fchmod(listener, 0600) != 0 ||
        bind(listener, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(listener, 4) != 0) {
        int rc = error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                             "cannot listen on the socket %s%s", path,
                             errno == EADDRINUSE ? " (somebody else does)" : "");

        close(listener);
        return rc;
    }
    *fd = listener;
    return 0;
}

int char_end_open_fd(int fd, struct char_end_fd *file, struct umbra_error *error)
{
    int flags = fcntl(fd, F_GETFL), copy = -1;
    struct stat status;
    char path[40];

    if (flags < 0 || fstat(fd, &status) != 0) {
        return error_errno(error, UMBRA_ERROR_CONFIG, errno,
                           "descriptor %d cannot be used", fd);
    }
    file->socket = S_ISSOCK(status.st_mode);
    file->pipe = S_ISFIFO(status.st_mode);
    file->readable = (flags & O_ACCMODE) != O_WRONLY;
    file->writable = (flags & O_ACCMODE) != O_RDONLY;
    /*
     * O_NONBLOCK belongs to the open file, which the caller (and, for a terminal, its
     * shell) shares. Opening it anew gives one of our own; sockets cannot be, and regular
     * files would lose the shared offset.
     */
    if (file->pipe || S_ISCHR(status.st_mode)) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        copy = open(path, (flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    }
    file->shared = copy < 0;
    if (copy < 0) {
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    if (copy < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot duplicate descriptor %d", fd);
    }
    file->fd = copy;
    return 0;
}

/* write(2) to a pipe whose reader has gone, without SIGPIPE for the embedder's process. */
static ssize_t pipe_write(int fd, const void *bytes, size_t length)
{
    const struct timespec now = { 0 };
    sigset_t pipe_set, old, pending;
    bool was_pending;
    ssize_t rc;
    int error;

    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    sigpending(&pending);
    was_pending = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_set, &old);
    rc = write(fd, bytes, length);
    error = errno;
    if (rc < 0 && error == EPIPE && !was_pending) {
        while (sigtimedwait(&pipe_set, NULL, &now) < 0 && errno == EINTR) {
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = error;
    return rc;
}

/* Some bytes to a descriptor that may be blocking. A pipe that polls writable takes
 * PIPE_BUF bytes without waiting, a terminal a few. */
static ssize_t shared_write(const struct char_end_fd *file, const void *bytes,
                            size_t length)
{
    struct pollfd poll_fd = { .fd = file->fd, .events = POLLOUT };

    if (poll(&poll_fd, 1, 0) != 1) {
        errno = EAGAIN;
        return -1;
    }
    length = length < 64 ? length : 64;
    return file->pipe ? pipe_write(file->fd, bytes, length)
                      : write(file->fd, bytes, length);
}

ssize_t char_end_fd_write(const struct char_end_fd *file, const void *bytes,
                          size_t length)
{
    ssize_t rc;

    do {
        if (file->socket) {
            rc = send(file->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        } else if (file->shared) {
            rc = shared_write(file, bytes, length);
        } else if (file->pipe) {
            rc = pipe_write(file->fd, bytes, length);
        } else {
            rc = write(file->fd, bytes, length);
        }
    } while (rc < 0 && errno == EINTR);
    return rc;
}

ssize_t char_end_fd_read(const struct char_end_fd *file, void *buffer, size_t size)
{
    ssize_t rc;

    do {
        rc = file->socket ? recv(file->fd, buffer, size, MSG_DONTWAIT)
                          : read(file->fd, buffer, size);
    } while (rc < 0 && errno == EINTR);
    return rc;
}
