/* SPDX-License-Identifier: MIT */
/* The guest's console on stdin and stdout. */
#include "vmm/cli/console_io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CTRL_A = 1,
    OUTPUT_CHUNK =
        512,          /* POSIX's PIPE_BUF: a pipe that polls writable takes it at once */
    INPUT_CHUNK = 16, /* a UART's FIFO */
    INPUT_RETRY_MS = 10,
};

/*
 * A description of stdout of our own can be made non-blocking without a change to the one
 * that others share. A file keeps its position in the shared one, and never blocks long.
 */
static int open_output(void)
{
    struct stat info;

    if (fstat(STDOUT_FILENO, &info) == 0 &&
        (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode))) {
        int fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

        if (fd >= 0) {
            return fd;
        }
    }
    return STDOUT_FILENO;
}

int console_io_init(struct console_io *io, bool guest_ctrl_c,
                    void (*command)(void *context, char key), void *context)
{
    memset(io, 0, sizeof(*io));
    io->input_port = -1;
    io->guest_ctrl_c = guest_ctrl_c;
    io->command = command;
    io->context = context;
    atomic_init(&io->last_output, '\n');
    pthread_mutex_init(&io->lock, NULL);
    pthread_cond_init(&io->room, NULL);
    io->output_fd = open_output();
    io->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return io->wake_fd >= 0 ? 0 : -errno;
}

void console_io_fini(struct console_io *io)
{
    if (io->wake_fd >= 0) {
        close(io->wake_fd);
    }
    if (io->output_fd != STDOUT_FILENO) {
        close(io->output_fd);
    }
    pthread_cond_destroy(&io->room);
    pthread_mutex_destroy(&io->lock);
}

/* Is port @index "stdio"? -1 behind the last port. */
static int port_is_stdio(const struct umbra_config *config, int index)
{
    char *serial = umbra_config_get(config, "serial"), *rest = serial, *end;
    int found = -1;

    /* A doubled comma is part of a name, not between two. */
    for (char *p = serial; p != NULL && (p = strstr(p, ",,")) != NULL;) {
        *p++ = '_';
        *p++ = '_';
    }
    while (found < 0 && (end = strsep(&rest, ",")) != NULL) {
        if (index-- == 0) {
            found = strcmp(end, "stdio") == 0;
        }
    }
    free(serial);
    return found;
}

bool console_io_wants_stdin(const struct umbra_config *config)
{
    for (int i = 0; port_is_stdio(config, i) >= 0; i++) {
        if (port_is_stdio(config, i) == 1) {
            return true;
        }
    }
    return false;
}

/* ---- Output ------------------------------------------------------------------ */

/* On a thread of the VM. Waits for room, but not once the guest is to stop. */
static void queue_output(void *context, const void *bytes, size_t length)
{
    struct console_io *io = context;
    const char *p = bytes;

    pthread_mutex_lock(&io->lock);
    while (length > 0) {
        size_t end = (io->output_start + io->output_length) % CONSOLE_IO_OUTPUT;
        size_t room = CONSOLE_IO_OUTPUT - io->output_length, n = length;

        if (room == 0) {
            if (io->stopping) {
                break;
            }
            pthread_cond_wait(&io->room, &io->lock);
            continue;
        }
        n = n < room ? n : room;
        n = n < CONSOLE_IO_OUTPUT - end ? n : CONSOLE_IO_OUTPUT - end;
        if (io->output_length == 0) {
            eventfd_write(io->wake_fd, 1);
        }
        memcpy(io->output + end, p, n);
        io->output_length += n;
        p += n;
        length -= n;
    }
    pthread_mutex_unlock(&io->lock);
}

int console_io_output_fd(struct console_io *io)
{
    size_t length;

    pthread_mutex_lock(&io->lock);
    length = io->output_length;
    pthread_mutex_unlock(&io->lock);
    return length > 0 && !io->broken ? io->output_fd : -1;
}

void console_io_drain(struct console_io *io)
{
    char chunk[OUTPUT_CHUNK];
    eventfd_t ignored;

    eventfd_read(io->wake_fd, &ignored);
    while (!io->broken) {
        size_t n = 0;
        ssize_t written;

        /* Only this thread takes bytes out: what is copied stays at the start. */
        pthread_mutex_lock(&io->lock);
        while (n < sizeof(chunk) && n < io->output_length) {
            chunk[n] = io->output[(io->output_start + n) % CONSOLE_IO_OUTPUT];
            n++;
        }
        pthread_mutex_unlock(&io->lock);
        written = n > 0 ? write(io->output_fd, chunk, n) : 0;
        if (written < 0 && errno != EAGAIN && errno != EINTR) {
            io->broken = true;
            console_io_stop(io);
        }
        if (written <= 0) {
            break;
        }
        atomic_store(&io->last_output, chunk[written - 1]);
        pthread_mutex_lock(&io->lock);
        io->output_start = (io->output_start + (size_t)written) % CONSOLE_IO_OUTPUT;
        io->output_length -= (size_t)written;
        pthread_cond_broadcast(&io->room);
        pthread_mutex_unlock(&io->lock);
        if (io->output_fd == STDOUT_FILENO) {
            break; /* it may block: poll before the next write */
        }
    }
}

void console_io_stop(struct console_io *io)
{
    pthread_mutex_lock(&io->lock);
    io->stopping = true;
    pthread_cond_broadcast(&io->room);
    pthread_mutex_unlock(&io->lock);
}

void console_io_fresh_line(const struct console_io *io)
{
    /* Only where both are on one screen. */
    if (atomic_load(&io->last_output) != '\n' && isatty(STDOUT_FILENO) &&
        isatty(STDERR_FILENO)) {
        fputc('\n', stderr);
    }
}

int console_io_attach(struct console_io *io, struct umbra_vm *vm,
                      const struct umbra_config *config, struct umbra_error *error)
{
    io->vm = vm;
    for (int i = 0; port_is_stdio(config, i) >= 0; i++) {
        int rc;

        if (port_is_stdio(config, i) == 0) {
            continue;
        }
        rc = umbra_console_set_output(vm, (unsigned)i, queue_output, io);
        if (rc != 0) {
            error->code = UMBRA_ERROR_INTERNAL;
            snprintf(error->message, sizeof(error->message), "serial port %d: %s", i,
                     strerror(-rc));
            return rc;
        }
        if (io->input_port < 0) {
            io->input_port = i;
        }
    }
    return 0;
}

/* ---- Input ------------------------------------------------------------------- */

int console_io_input_fd(const struct console_io *io)
{
    bool room = io->input_length < sizeof(io->input);

    return io->input_port >= 0 && !io->input_end && room ? STDIN_FILENO : -1;
}

int console_io_wait_ms(const struct console_io *io)
{
    return io->input_length > 0 ? INPUT_RETRY_MS : -1;
}

/* One byte from the terminal: to the guest, or a command to us. */
static void take_key(struct console_io *io, char key)
{
    if (io->escaped) {
        io->escaped = false;
        if (key == 'a' || key == CTRL_A) {
            io->input[io->input_length++] = CTRL_A;
        } else if (key == 'c') {
            io->input[io->input_length++] = CONSOLE_IO_CTRL_C;
        } else {
            io->command(io->context, key);
        }
    } else if (key == CTRL_A) {
        io->escaped = true;
    } else if (key == CONSOLE_IO_CTRL_C && !io->guest_ctrl_c) {
        io->command(io->context, key);
    } else {
        io->input[io->input_length++] = key;
    }
}

static void read_input(struct console_io *io)
{
    char bytes[CONSOLE_IO_INPUT];
    ssize_t n = read(STDIN_FILENO, bytes, sizeof(io->input) - io->input_length);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        io->input_end = true; /* the guest goes on; a closed terminal also sends SIGHUP */
        return;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (io->terminal) {
            take_key(io, bytes[i]);
        } else {
            io->input[io->input_length++] = bytes[i];
        }
    }
}

void console_io_pump(struct console_io *io, bool readable)
{
    size_t sent = 0;

    if (readable) {
        read_input(io);
    }
    while (sent < io->input_length) {
        size_t left = io->input_length - sent;
        size_t chunk = left < INPUT_CHUNK ? left : INPUT_CHUNK;
        int rc =
            umbra_console_send(io->vm, (unsigned)io->input_port, io->input + sent, chunk);

        if (rc == -EAGAIN) {
            break;
        }
        sent += chunk; /* other errors: the port is gone, and the bytes with it */
    }
    memmove(io->input, io->input + sent, io->input_length - sent);
    io->input_length -= sent;
}
