/* SPDX-License-Identifier: MIT */
/*
 * What the embedder sees of a serial port: its output callback, the transcript that expect
 * and reports read, and a Linux panic recognised in the output, for guests that have no
 * pvpanic driver loaded.
 */
#ifndef VMM_MACHINE_CONSOLE_H
#define VMM_MACHINE_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

/* The transcript keeps at least the last half of this. */
enum { CONSOLE_TRANSCRIPT_MAX = 1 << 20 };

struct console {
    pthread_mutex_t lock;
    pthread_cond_t grown;    /* CLOCK_MONOTONIC; output came, or the run ended */
    umbra_console_fn output; /* the embedder's */
    void *output_context;
    void (*panicked)(void *context); /* a kernel panic was printed to its end */
    void *panicked_context;
    void (*watch)(void *context); /* output came: for the control socket; under lock */
    void *watch_context;
    char *text; /* the transcript: output from byte `start` on */
    size_t length, capacity;
    uint64_t start;    /* how many bytes were dropped before text */
    uint64_t expected; /* how far umbra_console_expect() has matched */
    size_t matched[2]; /* progress in each of the panic texts */
    bool panic_seen;   /* "Kernel panic - not syncing" went by */
    bool ended;        /* nothing more will come */
};

void console_init(struct console *console);
void console_fini(struct console *console);
void console_reset(struct console *console); /* forget a panic and an end, as at reset */
void console_end(struct console *console);   /* the run ended: wake those who expect */

/* The char end's output callback: context is the console. */
void console_output(void *context, const void *bytes, size_t length);

/* The last bytes, terminated, at most @size - 1 of them, from the start of a line if
 * possible. */
void console_tail(struct console *console, char *text, size_t size);
bool console_panic_seen(struct console *console);

/*
 * Wait until @pattern appears behind the last match. 0, -ETIMEDOUT, -EPIPE (the run ended
 * first) or -EINVAL (a bad regular expression, with @error filled).
 */
int console_expect(struct console *console, const char *pattern, bool regex,
                   uint64_t deadline_ns, struct umbra_match *match,
                   struct umbra_error *error);

/* Copy output from byte *offset of the whole on, and advance it; 0 when there is none. Bytes
 * that were dropped already are passed over. */
size_t console_read(struct console *console, uint64_t *offset, char *bytes, size_t size);
/* The offset at which the last @backlog bytes begin. */
uint64_t console_attach_offset(struct console *console, uint64_t backlog);
/* Have @watch called when there is output; NULL ends it. */
void console_set_watch(struct console *console, void (*watch)(void *context),
                       void *context);

/* The whole transcript, malloc'd and terminated; *length may be NULL. */
char *console_transcript(struct console *console, size_t *length);

#endif
