/* SPDX-License-Identifier: MIT */
/* Serial output on its way to the embedder. */
#include "vmm/console.h"

#include <string.h>

#include "base/util.h"

/* kernel/panic.c prints the first when a panic starts and the second when it stays there. */
static const char *const panic_texts[] = {
    "Kernel panic - not syncing",
    "---[ end Kernel panic - not syncing",
};

void console_init(struct console *console)
{
    memset(console, 0, sizeof(*console));
    pthread_mutex_init(&console->lock, NULL);
}

void console_fini(struct console *console)
{
    pthread_mutex_destroy(&console->lock);
}

void console_reset(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    console->panic_seen = false;
    memset(console->matched, 0, sizeof(console->matched));
    pthread_mutex_unlock(&console->lock);
}

/* Feed one byte to the matcher of text @which; true when the text is complete. The texts'
 * only self-overlap is a leading '-', so falling back to that is enough. */
static bool console_match(struct console *console, size_t which, char byte)
{
    const char *text = panic_texts[which];
    size_t *matched = &console->matched[which];

    if (byte == text[*matched]) {
        (*matched)++;
    } else if (*matched == 3 && byte == '-') {
        return false; /* a longer run of dashes */
    } else {
        *matched = byte == text[0];
    }
    if (text[*matched] != '\0') {
        return false;
    }
    *matched = 0;
    return true;
}

void console_output(void *context, const void *bytes, size_t length)
{
    struct console *console = context;
    const char *text = bytes;
    bool panicked = false;

    pthread_mutex_lock(&console->lock);
    for (size_t i = 0; i < length; i++) {
        console->tail[(console->total + i) % CONSOLE_TAIL] = text[i];
        console->panic_seen |= console_match(console, 0, text[i]);
        panicked |= console_match(console, 1, text[i]);
    }
    console->total += length;
    pthread_mutex_unlock(&console->lock);
    if (console->output != NULL) {
        console->output(console->output_context, bytes, length);
    }
    if (panicked && console->panicked != NULL) {
        console->panicked(console->panicked_context);
    }
}

void console_tail(struct console *console, char *text, size_t size)
{
    uint64_t have, start;
    size_t kept = 0;

    pthread_mutex_lock(&console->lock);
    have = console->total < CONSOLE_TAIL ? console->total : CONSOLE_TAIL;
    if (have > size - 1) {
        have = size - 1;
    }
    start = console->total - have;
    for (uint64_t i = start; i < console->total; i++) {
        char byte = console->tail[i % CONSOLE_TAIL];

        text[kept++] = byte == '\0' ? ' ' : byte;
    }
    text[kept] = '\0';
    if (start > 0) {
        char *line = strchr(text, '\n');

        if (line != NULL && line[1] != '\0') {
            memmove(text, line + 1, strlen(line + 1) + 1);
        }
    }
    pthread_mutex_unlock(&console->lock);
}

bool console_panic_seen(struct console *console)
{
    bool seen;

    pthread_mutex_lock(&console->lock);
    seen = console->panic_seen;
    pthread_mutex_unlock(&console->lock);
    return seen;
}
