/* SPDX-License-Identifier: MIT */
/* The host end of a character device: buffers and flow control over one descriptor. */
#include "backend/chardev/char_end.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/chardev/char_end_open.h"
#include "base/error.h"
#include "base/util.h"

enum {
    CHAR_END_BUFFER = 65536,
    CHAR_END_READ = 4096,         /* input is read ahead no further than this */
    CHAR_END_PTY_POLL = 200000000 /* ns between looks for somebody at the pty */
};

struct ring {
    uint8_t *bytes; /* CHAR_END_BUFFER of them */
    size_t start, used;
};

struct char_end {
    struct loop *loop;
    const struct log *log;
    char id[32];
    enum char_end_kind kind;
    pthread_mutex_t *lock; /* the device's */
    const struct char_end_ops *ops;
    void *context;
    umbra_console_fn output;
    void *output_context;

    char name[128];
    struct char_end_fd file; /* the connection, file or pty; fd -1: none */
    int listen_fd;           /* UNIX */
    bool connected;
    bool input_over; /* end of file */
    bool refused;    /* char_end_write took less than all: say when there is room */
    bool hungry;     /* char_end_read found nothing: say when there is something */
    bool complained;
    struct loop_watch *watch, *listen_watch;
    struct loop_timer *look_timer;
    struct ring out, in;
    struct char_end_stats stats;
};

/* ---- Buffers ---------------------------------------------------------------------- */

static size_t ring_put(struct ring *ring, const uint8_t *bytes, size_t length)
{
    size_t room = CHAR_END_BUFFER - ring->used;
    size_t at = (ring->start + ring->used) % CHAR_END_BUFFER, first;

    length = length < room ? length : room;
    first = length < CHAR_END_BUFFER - at ? length : CHAR_END_BUFFER - at;
    if (length != 0) {
        memcpy(ring->bytes + at, bytes, first);
        memcpy(ring->bytes, bytes + first, length - first);
    }
    ring->used += length;
    return length;
}

/* The longest run of bytes that lie in one piece. */
static size_t ring_peek(const struct ring *ring, const uint8_t **bytes)
{
    size_t piece = CHAR_END_BUFFER - ring->start;

    *bytes = ring->bytes + ring->start;
    return ring->used < piece ? ring->used : piece;
}

static void ring_drop(struct ring *ring, size_t length)
{
    ring->start = (ring->start + length) % CHAR_END_BUFFER;
    ring->used -= length;
}

/* ---- The other side ------------------------------------------------------------------ */

static void end_watch_update(struct char_end *end)
{
    uint32_t events = 0;

    if (end->watch == NULL) {
        return;
    }
    if (!end->input_over && end->in.used < CHAR_END_READ) {
        events |= POLLIN;
    }
    if (end->out.used != 0) {
        events |= POLLOUT;
    }
    loop_watch_set(end->watch, events);
}

static void end_set_connected(struct char_end *end, bool connected)
{
    if (end->connected != connected) {
        end->connected = connected;
        if (end->ops != NULL && end->ops->connected != NULL) {
            end->ops->connected(end->context, connected);
        }
    }
}

static void end_ready(struct char_end *end)
{
    if (end->ops != NULL) {
        end->ops->ready(end->context);
    }
}

/* The other side has gone, or writing failed for good. */
static void end_disconnect(struct char_end *end)
{
    loop_watch_remove(end->watch);
    end->watch = NULL;
    switch (end->kind) {
    case CHAR_END_PTY:
        loop_timer_arm(end->look_timer, clock_ns() + CHAR_END_PTY_POLL);
        break;
    case CHAR_END_FD:
        end->stats.dropped += end->out.used;
        ring_drop(&end->out, end->out.used);
        __attribute__((fallthrough));
    default:
        close(end->file.fd);
        end->file.fd = -1;
        break;
    }
    end_set_connected(end, false);
}

/* Write what is buffered as far as the other side takes it; false: it failed for good,
 * for the reason in errno. */
static bool end_write_out(struct char_end *end)
{
    while (end->out.used != 0) {
        const uint8_t *bytes;
        size_t length = ring_peek(&end->out, &bytes);
        ssize_t rc = char_end_fd_write(&end->file, bytes, length);

        if (rc < 0) {
            return errno == EAGAIN;
        }
        ring_drop(&end->out, (size_t)rc);
    }
    return true;
}

static void end_flush(struct char_end *end)
{
    if (end->connected && !end_write_out(end)) {
        log_info(end->log, "%s: output stopped: %s", end->id, strerror(errno));
        end_disconnect(end);
    }
}

static void end_fill(struct char_end *end)
{
    uint8_t buffer[CHAR_END_READ];
    ssize_t rc;

    if (end->in.used >= CHAR_END_READ) {
        return;
    }
    rc = char_end_fd_read(&end->file, buffer, sizeof(buffer));
    if (rc > 0) {
        ring_put(&end->in, buffer, (size_t)rc);
    } else if (rc == 0 && end->kind == CHAR_END_FD) {
        end->input_over = true; /* it may still take output */
    } else if (rc == 0 || errno != EAGAIN) {
        end_disconnect(end);
    }
}

/* Tell the device what it waits for. */
static void end_notify(struct char_end *end)
{
    /* With nobody there everything is taken: kept or dropped. */
    bool room = end->refused && (end->out.used < CHAR_END_BUFFER || !end->connected);
    bool input = end->hungry && end->in.used != 0;

    if (room || input) {
        end->refused = end->refused && !room;
        end->hungry = end->hungry && !input;
        end_ready(end);
    }
}

static void end_polled(void *context, uint32_t events)
{
    struct char_end *end = context;

    if ((events & POLLOUT) != 0) {
        end_flush(end);
    }
    if (end->watch != NULL && (events & (POLLIN | POLLHUP | POLLERR)) != 0) {
        if (!end->input_over) {
            end_fill(end);
        } else if ((events & (POLLHUP | POLLERR)) != 0 && (events & POLLOUT) == 0) {
            end_disconnect(end);
        }
    }
    end_notify(end);
    end_watch_update(end);
}

static int end_connect(struct char_end *end)
{
    int rc;

    end_set_connected(end, true);
    rc = loop_watch_add(end->loop, end->file.fd, POLLIN, end->lock, end_polled, end,
                        &end->watch);
    if (rc < 0) {
        end->watch = NULL;
        return rc;
    }
    end_flush(end);
    end_notify(end);
    end_watch_update(end);
    return 0;
}

/* After a rest: look for clients again. */
static void end_listen_look(void *context)
{
    struct char_end *end = context;

    loop_watch_set(end->listen_watch, POLLIN);
}

/* Is somebody at the other side of the pty? While nobody is, its master polls HUP. */
static void end_pty_look(void *context)
{
    struct char_end *end = context;
    struct pollfd poll_fd = { .fd = end->file.fd, .events = 0 };

    if (poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLHUP) != 0) {
        loop_timer_arm(end->look_timer, clock_ns() + CHAR_END_PTY_POLL);
        return;
    }
    end_connect(end);
}

static void end_accept(void *context, uint32_t events)
{
    struct char_end *end = context;
    int fd = accept4(end->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        if (accept_must_rest(errno)) {
            loop_watch_set(end->listen_watch, 0);
            loop_timer_arm(end->look_timer, deadline_after(clock_ns(), ACCEPT_REST_MS));
        }
        return;
    }
    if (end->file.fd >= 0) {
        close(fd); /* one client at a time */
        return;
    }
    end->file = (struct char_end_fd){ .fd = fd, .socket = true, .writable = true };
    if (end_connect(end) < 0) {
        close(end->file.fd);
        end->file.fd = -1;
        end_set_connected(end, false);
    }
}

/* ---- The device's side ------------------------------------------------------------- */

static void end_file_write(struct char_end *end, const uint8_t *bytes, size_t length)
{
    while (length != 0) {
        ssize_t rc = write(end->file.fd, bytes, length);

        if (rc < 0 && errno == EINTR) {
            continue;
        }
        if (rc <= 0) {
            end->stats.dropped += length;
            if (!end->complained) {
                log_error(end->log, "%s: cannot write its output to %s: %s", end->id,
                          end->name, strerror(rc < 0 ? errno : EIO));
                end->complained = true;
            }
            return;
        }
        bytes += rc;
        length -= (size_t)rc;
    }
}

static size_t end_buffer_write(struct char_end *end, const uint8_t *bytes, size_t length)
{
    size_t taken;

    if (end->kind == CHAR_END_FD && (!end->connected || !end->file.writable)) {
        end->stats.dropped += length;
        return length;
    }
    if (!end->connected) {
        size_t keep = length < CHAR_END_BUFFER ? length : CHAR_END_BUFFER;
        size_t room = CHAR_END_BUFFER - end->out.used;

        if (keep > room) {
            ring_drop(&end->out, keep - room);
            end->stats.dropped += keep - room;
        }
        end->stats.dropped += length - keep;
        ring_put(&end->out, bytes + (length - keep), keep);
        return length;
    }
    taken = ring_put(&end->out, bytes, length);
    end_flush(end);
    if (taken < length && !end->connected) {
        return taken + end_buffer_write(end, bytes + taken, length - taken);
    }
    taken += ring_put(&end->out, bytes + taken, length - taken); /* the flush made room */
    end->refused = taken < length;
    end_watch_update(end);
    return taken;
}

size_t char_end_write(struct char_end *end, const void *bytes, size_t length)
{
    size_t taken = length;

    switch (end->kind) {
    case CHAR_END_NONE:
    case CHAR_END_CALLBACK:
        break;
    case CHAR_END_FILE:
        end_file_write(end, bytes, length);
        break;
    case CHAR_END_PTY:
    case CHAR_END_UNIX:
    case CHAR_END_FD:
        taken = end_buffer_write(end, bytes, length);
        break;
    }
    end->stats.bytes_out += taken;
    if (end->output != NULL && taken != 0) {
        end->output(end->output_context, bytes, taken);
    }
    return taken;
}

size_t char_end_read(struct char_end *end, void *buffer, size_t size)
{
    uint8_t *to = buffer;
    size_t done = 0;

    while (done < size && end->in.used != 0) {
        const uint8_t *bytes;
        size_t piece = ring_peek(&end->in, &bytes);

        piece = piece < size - done ? piece : size - done;
        memcpy(to + done, bytes, piece);
        ring_drop(&end->in, piece);
        done += piece;
    }
    end->stats.bytes_in += done;
    end->hungry = done < size;
    if (done != 0 && end->in.used < CHAR_END_READ) {
        end_watch_update(end);
    }
    return done;
}

bool char_end_pending(const struct char_end *end)
{
    return end->in.used != 0;
}

int char_end_send(struct char_end *end, const void *bytes, size_t length)
{
    int rc = -EAGAIN;

    pthread_mutex_lock(end->lock);
    if (length <= CHAR_END_BUFFER - end->in.used) {
        ring_put(&end->in, bytes, length);
        rc = 0;
        end_notify(end);
    }
    pthread_mutex_unlock(end->lock);
    return rc;
}

bool char_end_connected(const struct char_end *end)
{
    return end->connected;
}

const char *char_end_name(const struct char_end *end)
{
    return end->kind == CHAR_END_PTY || end->kind == CHAR_END_UNIX ? end->name : "";
}

void char_end_get_stats(const struct char_end *end, struct char_end_stats *stats)
{
    *stats = end->stats;
}

/* ---- Life -------------------------------------------------------------------------- */

static int end_open(struct char_end *end, const struct char_end_config *config,
                    struct umbra_error *error)
{
    int rc;

    switch (config->kind) {
    case CHAR_END_NONE:
    case CHAR_END_CALLBACK:
        end->connected = true;
        return 0;
    case CHAR_END_FILE:
        snprintf(end->name, sizeof(end->name), "%s", config->path);
        end->connected = true;
        return char_end_open_file(config->path, &end->file, error);
    case CHAR_END_PTY:
        return char_end_open_pty(end->name, sizeof(end->name), &end->file, error);
    case CHAR_END_UNIX:
        snprintf(end->name, sizeof(end->name), "%s", config->path);
        return char_end_open_unix(config->path, &end->listen_fd, error);
    case CHAR_END_FD:
        end->connected = true;
        rc = char_end_open_fd(config->fd, &end->file, error);
        end->input_over = rc == 0 && !end->file.readable;
        return rc;
    }
    return error_set(error, UMBRA_ERROR_USAGE, EINVAL, "unknown kind of character end %d",
                     (int)config->kind);
}

int char_end_create(struct loop *loop, const struct log *log, const char *id,
                    const struct char_end_config *config, pthread_mutex_t *lock,
                    struct char_end **end, struct umbra_error *error)
{
    struct char_end *new = calloc(1, sizeof(*new));
    int rc;

    if (new == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s", id);
    }
    new->loop = loop;
    new->log = log;
    snprintf(new->id, sizeof(new->id), "%s", id);
    new->kind = config->kind;
    new->lock = lock;
    new->output = config->output;
    new->output_context = config->output_context;
    new->file.fd = -1;
    new->listen_fd = -1;
    new->hungry = true;
    new->in.bytes = malloc(CHAR_END_BUFFER);
    new->out.bytes = malloc(CHAR_END_BUFFER);
    if (new->in.bytes == NULL || new->out.bytes == NULL) {
        rc = error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s", id);
        goto fail;
    }
    rc = end_open(new, config, error);
    if (rc < 0) {
        error_prefix(error, "%s", id);
        goto fail;
    }
    if (config->kind == CHAR_END_PTY) {
        log_info(log, "%s is at %s", id, new->name);
    } else if (config->kind == CHAR_END_UNIX) {
        log_info(log, "%s listens at %s", id, new->name);
    }
    *end = new;
    return 0;

fail:
    char_end_destroy(new);
    return rc;
}

int char_end_attach(struct char_end *end, const struct char_end_ops *ops, void *context,
                    struct umbra_error *error)
{
    int rc = 0;

    end->ops = ops;
    end->context = context;
    switch (end->kind) {
    case CHAR_END_PTY:
        rc = loop_timer_create(end->loop, end->lock, end_pty_look, end, &end->look_timer);
        if (rc == 0) {
            loop_timer_arm(end->look_timer, clock_ns());
        }
        break;
    case CHAR_END_UNIX:
        rc = loop_timer_create(end->loop, end->lock, end_listen_look, end,
                               &end->look_timer);
        if (rc == 0) {
            rc = loop_watch_add(end->loop, end->listen_fd, POLLIN, end->lock, end_accept,
                                end, &end->listen_watch);
        }
        break;
    case CHAR_END_FD:
        rc = loop_watch_add(end->loop, end->file.fd, end->input_over ? 0 : POLLIN,
                            end->lock, end_polled, end, &end->watch);
        break;
    default:
        break;
    }
    if (rc < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -rc, "%s: watching its end",
                           end->id);
    }
    return 0;
}

void char_end_destroy(struct char_end *end)
{
    if (end == NULL) {
        return;
    }
    pthread_mutex_lock(end->lock); /* callbacks change these too */
    loop_watch_remove(end->listen_watch);
    loop_timer_destroy(end->look_timer);
    loop_watch_remove(end->watch);
    end->watch = NULL;
    end->ops = NULL;
    pthread_mutex_unlock(end->lock);
    if (end->connected && end->file.fd >= 0 && end->out.bytes != NULL) {
        end_write_out(end);
    }
    if (end->listen_fd >= 0) {
        close(end->listen_fd);
        unlink(end->name);
    }
    if (end->file.fd >= 0) {
        close(end->file.fd);
    }
    free(end->in.bytes);
    free(end->out.bytes);
    free(end);
}
