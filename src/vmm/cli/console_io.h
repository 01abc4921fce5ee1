/* SPDX-License-Identifier: MIT */
/*
 * The guest's console on the launcher's stdin and stdout. Output is queued by the VM's
 * threads and written by the launcher's loop, so that neither a slow reader nor a system
 * call a byte holds up the guest before the queue is full. Input comes from a terminal (with
 * the Ctrl-A commands) or from a pipe.
 */
#ifndef VMM_CLI_CONSOLE_IO_H
#define VMM_CLI_CONSOLE_IO_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include <umbra/umbra.h>

enum { CONSOLE_IO_INPUT = 4096, CONSOLE_IO_OUTPUT = 65536, CONSOLE_IO_CTRL_C = 3 };

struct console_io {
    struct umbra_vm *vm; /* NULL until attached */
    int input_port;      /* -1: none takes input */
    bool input_sized;    /* it has a size: a virtio console */
    bool terminal;       /* stdin is one, in raw mode: Ctrl-A and Ctrl-C are ours */
    bool guest_ctrl_c;
    bool escaped;   /* Ctrl-A came last */
    bool input_end; /* stdin has ended */

    int output_fd; /* stdout, not blocking where that is possible without touching others */
    bool broken;   /* it cannot be written any more */
    _Atomic char last_output; /* log lines from any thread look at it */
    int wake_fd;              /* readable when output was queued */
    pthread_mutex_t lock;     /* of what follows */
    pthread_cond_t room;
    bool stopping; /* output that finds no room is dropped */
    bool calling;  /* see console_io_call() */
    char *output;  /* a ring */
    size_t output_start, output_length, output_capacity;

    char input[CONSOLE_IO_INPUT]; /* waits for room in the guest's port */
    size_t input_length;
    void (*command)(void *context, char key); /* Ctrl-A key, or CONSOLE_IO_CTRL_C */
    void *context;
};

/* 0 or -errno. */
int console_io_init(struct console_io *io, bool guest_ctrl_c,
                    void (*command)(void *context, char key), void *context);
void console_io_fini(struct console_io *io);

/* A console of @config is "stdio". */
bool console_io_wants_stdin(const struct umbra_config *config);

/* Connect every console that is "stdio": all to stdout, the first virtio console of them, or
 * else the first serial port, to stdin. Before start. */
int console_io_attach(struct console_io *io, struct umbra_vm *vm,
                      const struct umbra_config *config, struct umbra_error *error);

/* The terminal's size is another: tell the guest. */
void console_io_resized(const struct console_io *io);

/*
 * Around calls to the library on the launcher's thread that may wait for a thread of the VM:
 * that one might itself be waiting for this thread to write its output. Meanwhile the queue
 * grows instead, and beyond some MiB output is dropped.
 */
void console_io_call(struct console_io *io, bool begins);

/* What to poll for input; -1 when there is none or no room for it. */
int console_io_input_fd(const struct console_io *io);

/* How long to wait before trying input again that the guest had no room for; -1: none. */
int console_io_wait_ms(const struct console_io *io);

/* Read if @readable, and hand on what the guest takes. */
void console_io_pump(struct console_io *io, bool readable);

/* What to poll for room to write; -1 when nothing is queued. */
int console_io_output_fd(struct console_io *io);

/* Write what stdout takes now. */
void console_io_drain(struct console_io *io);

/* From now on the VM's threads do not wait for room. */
void console_io_stop(struct console_io *io);

/* Begin a new line on the screen for a message of ours, unless it is one already. */
void console_io_fresh_line(const struct console_io *io);

#endif
