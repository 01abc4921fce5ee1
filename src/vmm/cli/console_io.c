/* SPDX-License-Identifier: MIT */
/* The guest's console on stdin and stdout. */
#include "vmm/cli/console_io.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CTRL_A = 1,
    OUTPUT_CHUNK =
        512, /* POSIX's PIPE_BUF: a pipe that polls writable takes it at once */
    OUTPUT_MOST = 16 << 20, /* while the VM's threads must not wait */
    INPUT_CHUNK = 16,       /* a UART's FIFO */
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
    io->output_capacity = CONSOLE_IO_OUTPUT;
    io->output = malloc(io->output_capacity);
    return io->output == NULL ? -ENOMEM : io->wake_fd >= 0 ? 0 : -errno;
}

void console_io_fini(struct console_io *io)
{
    if (io->wake_fd >= 0) {
        close(io->wake_fd);
    }
    if (io->output_fd != STDOUT_FILENO) {
        close(io->output_fd);
    }
    free(io->output);
    pthread_cond_destroy(&io->room);
    pthread_mutex_destroy(&io->lock);
}

/* ---- Which consoles ----------------------------------------------------------- */

typedef int (*stdio_fn)(void *context, const char *name, bool serial);

/* Call @fn with the name of each console of @config that is "stdio", serial ports first,
 * while it returns 0; what it returned last. */
static int each_stdio(const struct umbra_config *config, stdio_fn fn, void *context)
{
    char *text = umbra_config_to_json(config), name[16];
    json_t *json = text != NULL ? json_loads(text, 0, NULL) : NULL, *end, *console;
    int ret = 0;
    size_t i;

    json_array_foreach(json_object_get(json, "serial"), i, end)
    {
        if (ret == 0 && strcmp(json_string_value(end), "stdio") == 0) {
            snprintf(name, sizeof(name), "com%u", (unsigned)i + 1);
            ret = fn(context, name, true);
        }
    }
    json_array_foreach(json_object_get(json, "consoles"), i, console)
    {
        const char *kind = json_string_value(json_object_get(console, "end"));

        if (ret == 0 && kind != NULL && strcmp(kind, "stdio") == 0) {
            ret = fn(context, json_string_value(json_object_get(console, "name")), false);
        }
    }
    json_decref(json);
    free(text);
    return ret;
}

static int found_stdio(void *context, const char *name, bool serial)
{
    (void)context;
    (void)name;
    (void)serial;
    return 1;
}

bool console_io_wants_stdin(const struct umbra_config *config)
{
    return each_stdio(config, found_stdio, NULL) == 1;
}

/* ---- Output ------------------------------------------------------------------ */

/* More room, up to OUTPUT_MOST; the caller holds the lock. */
static bool output_grow(struct console_io *io)
{
    size_t capacity = 2 * io->output_capacity, first;
    char *output = capacity <= OUTPUT_MOST ? malloc(capacity) : NULL;

    if (output == NULL) {
        return false;
    }
    first = io->output_capacity - io->output_start;
    first = first < io->output_length ? first : io->output_length;
    memcpy(output, io->output + io->output_start, first);
    memcpy(output + first, io->output, io->output_length - first);
    free(io->output);
    io->output = output;
    io->output_start = 0;
    io->output_capacity = capacity;
    return true;
}

/* Where the next bytes go, and how many; waits for room, unless that must not be. The caller
 * holds the lock. 0: there will be none. */
static size_t output_room(struct console_io *io, char **at)
{
    for (;;) {
        size_t most = io->calling ? io->output_capacity : CONSOLE_IO_OUTPUT;
        size_t end = (io->output_start + io->output_length) % io->output_capacity;

        if (io->output_length < most) {
            size_t room = most - io->output_length;

            *at = io->output + end;
            return room < io->output_capacity - end ? room : io->output_capacity - end;
        }
        if (io->stopping || (io->calling && !output_grow(io))) {
            return 0;
        }
        if (!io->calling) {
            pthread_cond_wait(&io->room, &io->lock);
        }
    }
}

/* On a thread of the VM. */
static void queue_output(void *context, const void *bytes, size_t length)
{
    struct console_io *io = context;
    const char *p = bytes;
    char *at;

    pthread_mutex_lock(&io->lock);
    while (length > 0) {
        size_t n = output_room(io, &at);

        if (n == 0) {
            break;
        }
        n = n < length ? n : length;
        if (io->output_length == 0) {
            eventfd_write(io->wake_fd, 1);
        }
        memcpy(at, p, n);
        io->output_length += n;
        p += n;
        length -= n;
    }
    pthread_mutex_unlock(&io->lock);
}

void console_io_call(struct console_io *io, bool begins)
{
    pthread_mutex_lock(&io->lock);
    io->calling = begins;
    pthread_cond_broadcast(&io->room);
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
            chunk[n] = io->output[(io->output_start + n) % io->output_capacity];
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
        io->output_start = (io->output_start + (size_t)written) % io->output_capacity;
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

struct attaching {
    struct console_io *io;
    struct umbra_error *error;
    bool serial; /* what takes input until now is one */
};

static int attach_one(void *context, const char *name, bool serial)
{
    struct attaching *attaching = context;
    struct console_io *io = attaching->io;
    unsigned port;
    int rc = umbra_console_find(io->vm, name, &port, attaching->error);

    if (rc != 0) {
        return rc;
    }
    rc = umbra_console_set_output(io->vm, port, queue_output, io);
    if (rc != 0) {
        attaching->error->code = UMBRA_ERROR_INTERNAL;
        snprintf(attaching->error->message, sizeof(attaching->error->message),
                 "console %s: %s", name, strerror(-rc));
        return rc;
    }
    /* A virtio console is at the terminal by request only, COM1 by default. */
    if (io->input_port < 0 || (attaching->serial && !serial)) {
        io->input_port = (int)port;
        io->input_sized = !serial;
        attaching->serial = serial;
    }
    return 0;
}

int console_io_attach(struct console_io *io, struct umbra_vm *vm,
                      const struct umbra_config *config, struct umbra_error *error)
{
    struct attaching attaching = { .io = io, .error = error };
    int rc;

    io->vm = vm;
    rc = each_stdio(config, attach_one, &attaching);
    if (rc == 0) {
        console_io_resized(io);
    }
    return rc;
}

void console_io_resized(const struct console_io *io)
{
    struct winsize size;

    if (io->terminal && io->input_sized && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 &&
        size.ws_col > 0 && size.ws_row > 0) {
        umbra_console_resize(io->vm, (unsigned)io->input_port, size.ws_col, size.ws_row,
                             NULL);
    }
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
        int rc;

        console_io_call(io, true);
        rc =
            umbra_console_send(io->vm, (unsigned)io->input_port, io->input + sent, chunk);
        console_io_call(io, false);
        if (rc == -EAGAIN) {
            break;
        }
        sent += chunk; /* other errors: the port is gone, and the bytes with it */
    }
    memmove(io->input, io->input + sent, io->input_length - sent);
    io->input_length -= sent;
}
