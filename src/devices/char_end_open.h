/* SPDX-License-Identifier: MIT */
/* Opening what a character end can be: files, pseudo-terminals, sockets, descriptors. */
#ifndef DEVICES_CHAR_END_OPEN_H
#define DEVICES_CHAR_END_OPEN_H

#include <stdbool.h>
#include <stddef.h>

#include <umbra/umbra.h>

int char_end_open_file(const char *path, int *fd, struct umbra_error *error);

/* A raw pseudo-terminal's master, and the path of its other side. */
int char_end_open_pty(char *name, size_t size, int *fd, struct umbra_error *error);

/* A listening stream socket of mode 0600; a stale one (nobody listens) is replaced. */
int char_end_open_unix(const char *path, int *fd, struct umbra_error *error);

/* An own descriptor for what @fd is open on, non-blocking where that does not change the
 * caller's. */
struct char_end_fd {
    int fd;
    bool socket, pipe;
    bool readable, writable;
};
int char_end_open_fd(int fd, struct char_end_fd *own, struct umbra_error *error);

#endif
