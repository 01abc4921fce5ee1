/* SPDX-License-Identifier: MIT */
/*
 * What the embedder sees of a serial port: its output callback, and the transcript's tail
 * that goes into reports. Also recognises a Linux panic in the output, for guests that have
 * no pvpanic driver loaded.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

enum { CONSOLE_TAIL = 16384 };

struct console {
    pthread_mutex_t lock;
    umbra_console_fn output; /* the embedder's */
    void *output_context;
    void (*panicked)(void *context); /* a kernel panic was printed to its end */
    void *panicked_context;
    uint64_t total;    /* bytes ever written */
    size_t matched[2]; /* progress in each of the panic texts */
    bool panic_seen;   /* "Kernel panic - not syncing" went by */
    char tail[CONSOLE_TAIL];
};

void console_init(struct console *console);
void console_fini(struct console *console);
void console_reset(struct console *console); /* forget a panic, as at guest reset */

/* The char end's output callback: context is the console. */
void console_output(void *context, const void *bytes, size_t length);

/* The last bytes, terminated, at most @size - 1 of them, from the start of a line if possible. */
void console_tail(struct console *console, char *text, size_t size);
bool console_panic_seen(struct console *console);

#endif
