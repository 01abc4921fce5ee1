/* SPDX-License-Identifier: MIT */
/* Serial output on its way to the embedder. */
#include "vmm/machine/console.h"

#include <errno.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/util.h"

/* kernel/panic.c prints the first when a panic starts and the second when it stays there. */
static const char *const panic_texts[] = {
    "Kernel panic - not syncing",
    "---[ end Kernel panic - not syncing",
};

void console_init(struct console *console)
{
    pthread_condattr_t attributes;

    memset(console, 0, sizeof(*console));
    pthread_mutex_init(&console->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&console->grown, &attributes);
    pthread_condattr_destroy(&attributes);
}

void console_fini(struct console *console)
{
    free(console->text);
    pthread_cond_destroy(&console->grown);
    pthread_mutex_destroy(&console->lock);
}

void console_reset(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    console->panic_seen = false;
    console->ended = false;
    memset(console->matched, 0, sizeof(console->matched));
    pthread_mutex_unlock(&console->lock);
}

void console_end(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    console->ended = true;
    pthread_cond_broadcast(&console->grown);
    pthread_mutex_unlock(&console->lock);
}

/* Append to the transcript; the older half goes when it is full. NUL bytes, which would
 * end a match early, are kept as spaces. The caller holds the lock. */
static void console_append(struct console *console, const char *bytes, size_t length)
{
    if (length > CONSOLE_TRANSCRIPT_MAX / 2) {
        console->start += length - CONSOLE_TRANSCRIPT_MAX / 2;
        bytes += length - CONSOLE_TRANSCRIPT_MAX / 2;
        length = CONSOLE_TRANSCRIPT_MAX / 2;
    }
    if (console->length + length > CONSOLE_TRANSCRIPT_MAX) {
        size_t dropped = console->length - CONSOLE_TRANSCRIPT_MAX / 2;

        memmove(console->text, console->text + dropped, console->length - dropped);
        console->length -= dropped;
        console->start += dropped;
    }
    if (console->length + length + 1 > console->capacity) {
        size_t capacity = console->capacity == 0 ? 4096 : console->capacity;
        char *text;

        while (capacity < console->length + length + 1) {
            capacity *= 2;
        }
        text = realloc(console->text, capacity);
        if (text == NULL) {
            console->start += length; /* the run goes on; the transcript has a gap */
            return;
        }
        console->text = text;
        console->capacity = capacity;
    }
    for (size_t i = 0; i < length; i++) {
        console->text[console->length++] = bytes[i] == '\0' ? ' ' : bytes[i];
    }
    console->text[console->length] = '\0';
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
    console_append(console, text, length);
    for (size_t i = 0; i < length; i++) {
        console->panic_seen |= console_match(console, 0, text[i]);
        panicked |= console_match(console, 1, text[i]);
    }
    pthread_cond_broadcast(&console->grown);
    if (console->watch != NULL) {
        console->watch(console->watch_context);
    }
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
    size_t from, have;
    const char *line;

    pthread_mutex_lock(&console->lock);
    have = console->length < size - 1 ? console->length : size - 1;
    from = console->length - have;
    line = from > 0 ? memchr(console->text + from, '\n', have) : NULL;
    if (line != NULL && (size_t)(line + 1 - console->text) < console->length) {
        from = (size_t)(line + 1 - console->text);
        have = console->length - from;
    }
    if (have > 0) {
        memcpy(text, console->text + from, have);
    }
    text[have] = '\0';
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

/* Look for the pattern in what came since the last match. The caller holds the lock. */
static bool console_search(struct console *console, const char *pattern,
                           const regex_t *regex, struct umbra_match *match)
{
    size_t from =
        console->expected > console->start ? console->expected - console->start : 0;
    const char *text = console->text != NULL ? console->text + from : "";
    size_t at, length, kept;

    if (regex != NULL) {
        regmatch_t found;

        if (regexec(regex, text, 1, &found, 0) != 0) {
            return false;
        }
        at = (size_t)found.rm_so;
        length = (size_t)(found.rm_eo - found.rm_so);
    } else {
        const char *found = strstr(text, pattern);

        if (found == NULL) {
            return false;
        }
        at = (size_t)(found - text);
        length = strlen(pattern);
    }
    console->expected = console->start + from + at + length;
    if (match != NULL) {
        kept = length < sizeof(match->text) - 1 ? length : sizeof(match->text) - 1;
        match->offset = console->expected - length;
        match->length = length;
        memcpy(match->text, text + at, kept);
        match->text[kept] = '\0';
    }
    return true;
}

int console_expect(struct console *console, const char *pattern, bool regex,
                   uint64_t deadline_ns, struct umbra_match *match,
                   struct umbra_error *error)
{
    const struct timespec deadline = timespec_of(deadline_ns);
    regex_t compiled;
    int ret = 0;

    if (regex) {
        ret = regcomp(&compiled, pattern, REG_EXTENDED | REG_NEWLINE);
        if (ret != 0) {
            char why[128];

            regerror(ret, &compiled, why, sizeof(why));
            return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                             "\"%s\" is not a regular expression (POSIX extended): %s",
                             pattern, why);
        }
    }
    pthread_mutex_lock(&console->lock);
    while (!console_search(console, pattern, regex ? &compiled : NULL, match)) {
        if (console->ended) {
            ret = -EPIPE;
            break;
        }
        if (ret == -ETIMEDOUT) {
            break;
        }
        ret = -pthread_cond_timedwait(&console->grown, &console->lock, &deadline);
        ret = ret == -ETIMEDOUT ? ret : 0;
    }
    pthread_mutex_unlock(&console->lock);
    if (regex) {
        regfree(&compiled);
    }
    return ret;
}

char *console_transcript(struct console *console, size_t *length)
{
    char *copy;

    pthread_mutex_lock(&console->lock);
    copy = malloc(console->length + 1);
    if (copy != NULL) {
        memcpy(copy, console->text != NULL ? console->text : "", console->length);
        copy[console->length] = '\0';
        if (length != NULL) {
            *length = console->length;
        }
    }
    pthread_mutex_unlock(&console->lock);
    return copy;
}

size_t console_read(struct console *console, uint64_t *offset, char *bytes, size_t size)
{
    size_t from, length;

    pthread_mutex_lock(&console->lock);
    if (*offset < console->start) {
        *offset = console->start;
    }
    from = (size_t)(*offset - console->start);
    length = from < console->length ? console->length - from : 0;
    length = length < size ? length : size;
    if (length > 0) {
        memcpy(bytes, console->text + from, length);
        *offset += length;
    }
    pthread_mutex_unlock(&console->lock);
    return length;
}

uint64_t console_attach_offset(struct console *console, uint64_t backlog)
{
    uint64_t end;

    pthread_mutex_lock(&console->lock);
    end = console->start + console->length;
    pthread_mutex_unlock(&console->lock);
    return backlog < end ? end - backlog : 0;
}

void console_set_watch(struct console *console, void (*watch)(void *context),
                       void *context)
{
    pthread_mutex_lock(&console->lock);
    console->watch = watch;
    console->watch_context = context;
    pthread_mutex_unlock(&console->lock);
}
