/* SPDX-License-Identifier: MIT */
/*
 * The host end of a character device (UART, debug port, console port): where its output
 * goes and its input comes from. Both directions are buffered here and flow-controlled:
 * output that the other side does not take yet fills the buffer, then char_end_write()
 * takes less; input is read only as the device empties it. Nothing is lost, except what
 * is said at CHAR_END_PTY and CHAR_END_UNIX.
 *
 * Locking: an end belongs to a device; calls and callbacks happen with the device's lock
 * held, unless said otherwise.
 */
#ifndef BACKEND_CHARDEV_CHAR_END_H
#define BACKEND_CHARDEV_CHAR_END_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "base/log.h"
#include "loop/loop.h"

enum char_end_kind {
    CHAR_END_NONE,     /* output vanishes (after `output` saw it) */
    CHAR_END_CALLBACK, /* output goes to `output` alone, which takes all of it */
    CHAR_END_FILE,     /* a file, created or truncated; output only */
    /*
     * A new pseudo-terminal, or a listening stream socket at `path` (one client at a
     * time, a second one is turned away; the client may go and another come). While
     * nobody is connected the guest runs on: the last 64 KiB of output are kept for the
     * next client, older ones are dropped and counted.
     */
    CHAR_END_PTY,
    CHAR_END_UNIX,
    CHAR_END_FD, /* an open descriptor, both ways; duplicated, the caller keeps its own */
};

struct char_end_config {
    enum char_end_kind kind;
    const char *path; /* FILE, UNIX */
    int fd;           /* FD */
    /* Sees every byte of output besides the end itself, whatever the kind; may be NULL.
     * Runs with the device's lock held: it must not block for long nor call back. */
    umbra_console_fn output;
    void *output_context;
};

struct char_end_ops {
    /* There is input to read, or room for output again. */
    void (*ready)(void *context);
    /* A client came or went (PTY, UNIX); may be NULL. */
    void (*connected)(void *context, bool connected);
};

struct char_end;

/* @lock is the device's; @id names it in logs. @loop may be NULL for NONE, CALLBACK and
 * FILE (char_end_send() then calls `ready` itself). */
int char_end_create(struct loop *loop, const struct log *log, const char *id,
                    const struct char_end_config *config, pthread_mutex_t *lock,
                    struct char_end **end, struct umbra_error *error);
/* Attach the device; callbacks only start here. */
int char_end_attach(struct char_end *end, const struct char_end_ops *ops, void *context,
                    struct umbra_error *error);
/* Without the lock held. Output still buffered is written if that needs no waiting. */
void char_end_destroy(struct char_end *end);

/* Returns how many bytes were taken; `ready` is called when there is room again. */
size_t char_end_write(struct char_end *end, const void *bytes, size_t length);
/* Returns how many bytes there were; `ready` is called when there is more after 0. */
size_t char_end_read(struct char_end *end, void *buffer, size_t size);
/* Is there input to read? */
bool char_end_pending(const struct char_end *end);

/*
 * Type bytes into the device besides what the end itself brings. Any thread, lock not
 * held. All or nothing: -EAGAIN while the queue (64 KiB) has no room for all of them.
 */
int char_end_send(struct char_end *end, const void *bytes, size_t length);

bool char_end_connected(const struct char_end *end);
/* The pseudo-terminal's or socket's path, for people; "" for other kinds. */
const char *char_end_name(const struct char_end *end);

struct char_end_stats {
    uint64_t bytes_out, bytes_in;
    uint64_t dropped; /* output that nobody was there to take */
};
void char_end_get_stats(const struct char_end *end, struct char_end_stats *stats);

#endif
