/* SPDX-License-Identifier: MIT */
/* The guest's console on stdin and stdout. */
#include "vmm/cli/console_io.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    CTRL_A = 1,
    OUTPUT_CHUNK = 256, /* what a terminal or pipe that polls writable takes at once */
    OUTPUT_WAIT_MS = 100,
    INPUT_CHUNK = 16, /* a UART's FIFO */
    INPUT_RETRY_MS = 10,
};

void console_io_init(struct console_io *io, bool guest_ctrl_c,
                     void (*command)(void *context, char key), void *context)
{
    memset(io, 0, sizeof(*io));
    io->input_port = -1;
    io->guest_ctrl_c = guest_ctrl_c;
    io->command = command;
    io->context = context;
    io->broken_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_init(&io->last_output, '\n');
}

void console_io_fini(struct console_io *io)
{
    if (io->broken_fd >= 0) {
        close(io->broken_fd);
    }
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

static void mark_broken(struct console_io *io)
{
    atomic_store(&io->stopping, true);
    eventfd_write(io->broken_fd, 1);
}

/* On a thread of the VM. Waits for a slow reader, but not once the guest is to stop. */
static void write_output(void *context, const void *bytes, size_t length)
{
    struct console_io *io = context;
    const char *p = bytes;

    while (length > 0) {
        struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT };
        size_t chunk = length < OUTPUT_CHUNK ? length : OUTPUT_CHUNK;
        bool stopping = atomic_load(&io->stopping);
        ssize_t n;

        if (poll(&out, 1, stopping ? 0 : OUTPUT_WAIT_MS) <= 0) {
            if (stopping) {
                return;
            }
            continue;
        }
        n = write(STDOUT_FILENO, p, chunk);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            mark_broken(io);
            return;
        }
        if (n > 0) {
            atomic_store(&io->last_output, p[n - 1]);
            p += n;
            length -= (size_t)n;
        }
    }
}

void console_io_stop(struct console_io *io)
{
    atomic_store(&io->stopping, true);
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
        rc = umbra_console_set_output(vm, (unsigned)i, write_output, io);
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
