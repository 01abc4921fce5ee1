/* SPDX-License-Identifier: MIT */
/*
 * The guest's console on the launcher's stdin and stdout: output as it comes, input from a
 * terminal (with the Ctrl-A commands) or from a pipe.
 */
#ifndef VMM_CLI_CONSOLE_IO_H
#define VMM_CLI_CONSOLE_IO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <umbra/umbra.h>

enum { CONSOLE_IO_INPUT = 4096, CONSOLE_IO_CTRL_C = 3 };

struct console_io {
    struct umbra_vm *vm; /* NULL until attached */
    int input_port;      /* -1: none takes input */
    bool terminal;       /* stdin is one, in raw mode: Ctrl-A and Ctrl-C are ours */
    bool guest_ctrl_c;
    bool escaped;                 /* Ctrl-A came last */
    bool input_end;               /* stdin has ended */
    int broken_fd;                /* readable once stdout cannot be written any more */
    atomic_bool stopping;         /* output that would block is dropped */
    _Atomic char last_output;     /* the last byte written */
    char input[CONSOLE_IO_INPUT]; /* waits for room in the guest's port */
    size_t input_length;
    void (*command)(void *context, char key); /* Ctrl-A key, or CONSOLE_IO_CTRL_C */
    void *context;
};

void console_io_init(struct console_io *io, bool guest_ctrl_c,
                     void (*command)(void *context, char key), void *context);
void console_io_fini(struct console_io *io);

/* A serial port of @config is "stdio". */
bool console_io_wants_stdin(const struct umbra_config *config);

/* Connect every port that is "stdio": all to stdout, the first to stdin. Before start. */
int console_io_attach(struct console_io *io, struct umbra_vm *vm,
                      const struct umbra_config *config, struct umbra_error *error);

/* What to poll for input; -1 when there is none or no room for it. */
int console_io_input_fd(const struct console_io *io);

/* How long to wait before trying input again that the guest had no room for; -1: none. */
int console_io_wait_ms(const struct console_io *io);

/* Read if @readable, and hand on what the guest takes. */
void console_io_pump(struct console_io *io, bool readable);

/* From now on no write waits. */
void console_io_stop(struct console_io *io);

/* Begin a new line on the screen for a message of ours, unless it is one already. */
void console_io_fresh_line(const struct console_io *io);

#endif
