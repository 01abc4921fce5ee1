/* SPDX-License-Identifier: MIT */
/* Reading the output of strace. It is not trusted: lines are bounded, numbers checked. */
#include "shadowpt-sim/trace/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

#define CALLS_MAX    (1u << 22)
#define CALLS_PARTED 32 /* calls that are unfinished at a time */

/* ---- One call ------------------------------------------------------------------------------- */

static bool strace_protection(const char *text, const char *end, uint64_t *flags)
{
    static const char *const names[] = { "PROT_READ", "PROT_WRITE", "PROT_EXEC" };

    *flags = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        const char *at = strstr(text, names[i]);

        if (at != NULL && at < end) {
            *flags |= 1u << i;
        }
    }
    return true;
}

static bool parse_strace_range(const char *at, enum sim_event_kind kind, uint64_t result,
                               struct sim_event *event)
{
    uint64_t address, bytes, flags = 0;
    const char *end;

    if (strncmp(at, "NULL", 4) == 0) {
        address = 0;
        at += 4;
    } else if (!trace_c_number(&at, &address)) {
        return false;
    }
    if (strncmp(at, ", ", 2) != 0) {
        return false;
    }
    at += 2;
    if (!trace_c_number(&at, &bytes)) {
        return false;
    }
    if (kind != SIM_UNMAP) {
        if (strncmp(at, ", ", 2) != 0) {
            return false;
        }
        at += 2;
        end = at + strcspn(at, ",)");
        strace_protection(at, end, &flags);
    }
    return trace_range(event, kind, kind == SIM_MAP ? result : address, bytes, flags);
}

bool trace_parse_strace(const char *line, struct sim_event *event, long *pid)
{
    const char *equals = strstr(line, " = "), *at = line;
    uint64_t result, number_read;

    *pid = 0;
    if (strncmp(at, "[pid ", 5) == 0) {
        at += 5;
    }
    at += strspn(at, " ");
    if (*at >= '0' && *at <= '9') {
        if (!trace_number(&at, 10, &number_read) || number_read > INT32_MAX) {
            return false;
        }
        *pid = (long)number_read;
        at += strspn(at, "] ");
    }
    if (strncmp(at, "exit_group(", 11) == 0) {
        *event = (struct sim_event){ .kind = SIM_EXIT };
        return true;
    }
    for (const char *next = equals; next != NULL; next = strstr(next + 1, " = ")) {
        equals = next; /* the last: arguments may hold one as well */
    }
    if (equals == NULL) {
        return false;
    }
    equals += 3;
    equals += strspn(equals, " ");
    if (!trace_c_number(&equals, &result)) {
        return false; /* -1 ENOMEM, ? */
    }
    if (strncmp(at, "mmap(", 5) == 0) {
        return parse_strace_range(at + 5, SIM_MAP, result, event);
    }
    if (strncmp(at, "munmap(", 7) == 0) {
        return parse_strace_range(at + 7, SIM_UNMAP, result, event);
    }
    if (strncmp(at, "mprotect(", 9) == 0) {
        return parse_strace_range(at + 9, SIM_PROTECT, result, event);
    }
    if (strncmp(at, "fork(", 5) == 0 || strncmp(at, "vfork(", 6) == 0 ||
        (strncmp(at, "clone", 5) == 0 && strstr(at, "CLONE_VM") == NULL)) {
        *event = (struct sim_event){ .kind = SIM_FORK, .pages = (uint32_t)result };
        return result > 0 && result <= INT32_MAX;
    }
    return false;
}

/* ---- Calls in two parts ------------------------------------------------------------------------ */

/* "12 clone(... <unfinished ...>", lines of others, "12 <... clone resumed>...) = 13". */
struct parted {
    struct {
        long pid; /* 0: none */
        char text[TRACE_LINE_BYTES];
    } call[CALLS_PARTED];
    unsigned next; /* to be replaced */
};

static const char unfinished[] = " <unfinished ...>";
static const char resumed[] = " resumed>";

/* The process at the beginning of a line, 0 if it does not say. */
static long line_pid(const char *line)
{
    uint64_t pid = 0;

    line += strncmp(line, "[pid ", 5) == 0 ? 5 : 0;
    line += strspn(line, " ");
    return trace_number(&line, 10, &pid) && pid <= INT32_MAX ? (long)pid : 0;
}

/* Whether @line is to be parsed now: whole, or made so. False: its first part was kept. */
static bool parted_join(struct parted *parted, char *line, size_t size)
{
    char *cut = strstr(line, unfinished), *more = strstr(line, resumed);
    long pid = line_pid(line);

    if (cut != NULL) {
        unsigned slot = parted->next;

        for (unsigned i = 0; i < CALLS_PARTED; i++) {
            slot = parted->call[i].pid == 0 ? i : slot;
        }
        parted->next = (parted->next + 1) % CALLS_PARTED;
        *cut = '\0';
        parted->call[slot].pid = pid;
        snprintf(parted->call[slot].text, sizeof(parted->call[slot].text), "%s", line);
        return false;
    }
    for (unsigned i = 0; more != NULL && pid != 0 && i < CALLS_PARTED; i++) {
        size_t begin = strlen(parted->call[i].text), rest;

        if (parted->call[i].pid != pid) {
            continue;
        }
        more += strlen(resumed);
        rest = strlen(more);
        parted->call[i].pid = 0;
        if (begin + rest < size) {
            memmove(line + begin, more, rest + 1);
            memcpy(line, parted->call[i].text, begin);
        }
        break;
    }
    return true;
}

/* ---- All of them -------------------------------------------------------------------------------- */

struct reader {
    struct strace_calls *calls;
    struct parted parted;
    long first; /* the traced process; negative: not seen yet */
    long child[SIM_PROCESSES];
    unsigned children;
};

static int call_keep(struct strace_calls *calls, const struct sim_event *event)
{
    if (calls->count == calls->capacity) {
        unsigned capacity = 2 * calls->capacity + 1024;
        struct sim_event *grown = capacity <= CALLS_MAX
                                      ? realloc(calls->event, capacity * sizeof(*grown))
                                      : NULL;

        if (grown == NULL) {
            return -ENOMEM;
        }
        calls->event = grown;
        calls->capacity = capacity;
    }
    calls->event[calls->count++] = *event;
    return 0;
}

/* Processes become 1, 2, ...; only the traced one's (the first's) calls change its address
 * space, its children live from their fork to their exit. False: of no use. */
static bool call_place(struct reader *reader, struct sim_event *event, long pid)
{
    reader->first = reader->first < 0 ? pid : reader->first;
    if (event->kind == SIM_FORK) {
        if (pid != reader->first || reader->children + 2 >= SIM_PROCESSES) {
            return false;
        }
        reader->child[++reader->children] = (long)event->pages;
        event->process = (uint16_t)reader->children;
        event->pages = 0;
        return true;
    }
    if (event->kind != SIM_EXIT) {
        return pid == reader->first;
    }
    for (unsigned i = reader->children; i > 0 && event->process == 0; i--) {
        if (reader->child[i] == pid) {
            event->process = (uint16_t)i;
        }
    }
    return event->process != 0;
}

int strace_read(FILE *in, const char *name, struct strace_calls *calls,
                struct umbra_error *error)
{
    struct reader *reader = calloc(1, sizeof(*reader));
    char line[TRACE_LINE_BYTES];
    bool whole;
    int err = 0;

    if (reader == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "reading %s", name);
    }
    reader->first = -1;
    while (err == 0 && trace_line(in, line, sizeof(line), &whole)) {
        struct sim_event event;
        long pid;

        if (whole && !parted_join(&reader->parted, line, sizeof(line))) {
            continue;
        }
        if (!whole || !trace_parse_strace(line, &event, &pid)) {
            calls->skipped++;
        } else if (call_place(reader, &event, pid)) {
            err = call_keep(calls, &event);
        }
    }
    free(reader);
    return err == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                                  "reading %s: %u calls", name, calls->count);
}
