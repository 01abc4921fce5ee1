/* SPDX-License-Identifier: MIT */
/* Reading traces. The files are not trusted: every line is bounded, every number checked. */
#include "shadowpt-sim/trace/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"

#define ACCESS_MAX 4096

/* ---- Numbers ------------------------------------------------------------------------------ */

bool trace_number(const char **text, unsigned base, uint64_t *value)
{
    const char *at = *text;

    *value = 0;
    for (;; at++) {
        unsigned digit;

        if (*at >= '0' && *at <= '9') {
            digit = (unsigned)(*at - '0');
        } else if (base == 16 && (*at | 32) >= 'a' && (*at | 32) <= 'f') {
            digit = (unsigned)((*at | 32) - 'a') + 10;
        } else {
            break;
        }
        if (*value > (UINT64_MAX - digit) / base) {
            return false;
        }
        *value = *value * base + digit;
    }
    if (at == *text) {
        return false;
    }
    *text = at;
    return true;
}

bool trace_c_number(const char **text, uint64_t *value)
{
    if ((*text)[0] == '0' && (*text)[1] == 'x') {
        *text += 2;
        return trace_number(text, 16, value);
    }
    return trace_number(text, 10, value);
}

bool trace_range(struct sim_event *event, enum sim_event_kind kind, uint64_t address,
                 uint64_t bytes, uint64_t flags)
{
    uint64_t pages = (bytes >> MMU_PAGE_SHIFT) + ((bytes & (MMU_PAGE_SIZE - 1)) != 0);

    if (pages == 0 || pages > TRACE_PAGES_MAX || address >= TRACE_USER_END ||
        (pages << MMU_PAGE_SHIFT) > TRACE_USER_END - address) {
        return false;
    }
    *event = (struct sim_event){ .kind = (uint8_t)kind,
                                 .address = align_down(address, MMU_PAGE_SIZE),
                                 .pages = (uint32_t)pages,
                                 .flags = (uint8_t)(flags & 7) };
    return true;
}

/* ---- Lackey ------------------------------------------------------------------------------- */

static bool parse_access(const char *line, uint8_t flags, struct sim_event *events,
                         unsigned *count)
{
    uint64_t address, size;

    if (!trace_number(&line, 16, &address) || *line++ != ',' ||
        !trace_number(&line, 10, &size) || (*line != '\0' && *line != '\n') ||
        size == 0 || size > ACCESS_MAX || address >= TRACE_USER_END - size) {
        return false;
    }
    *count = 1;
    events[0] =
        (struct sim_event){ .kind = SIM_ACCESS, .address = address, .flags = flags };
    if (((address + size - 1) ^ address) >> MMU_PAGE_SHIFT != 0) {
        events[1] = events[0];
        events[1].address = align_down(address + size - 1, MMU_PAGE_SIZE);
        *count = 2;
    }
    return true;
}

static bool parse_marked(const char *line, struct sim_event *event)
{
    static const struct {
        const char *name;
        uint8_t kind, numbers;
    } verbs[] = { { "map ", SIM_MAP, 3 },       { "protect ", SIM_PROTECT, 3 },
                  { "unmap ", SIM_UNMAP, 2 },   { "fork ", SIM_FORK, 1 },
                  { "switch ", SIM_SWITCH, 1 }, { "exit ", SIM_EXIT, 1 },
                  { "mark", SIM_MARK, 0 } };
    uint64_t value[3] = { 0, 0, 0 };

    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        const char *at = line + strlen(verbs[i].name);

        if (strncmp(line, verbs[i].name, strlen(verbs[i].name)) != 0) {
            continue;
        }
        for (unsigned n = 0; n < verbs[i].numbers; n++) {
            at += strspn(at, " ");
            if (!trace_c_number(&at, &value[n])) {
                return false;
            }
        }
        if (*at != '\0' && *at != '\n') {
            return false;
        }
        if (verbs[i].numbers > 1) {
            bool valid = value[1] <= TRACE_PAGES_MAX && value[2] < 32 &&
                         trace_range(event, (enum sim_event_kind)verbs[i].kind, value[0],
                                     value[1] << MMU_PAGE_SHIFT, value[2]);

            event->flags = (uint8_t)value[2];
            return valid;
        }
        *event =
            (struct sim_event){ .kind = verbs[i].kind, .process = (uint16_t)value[0] };
        return value[0] < SIM_PROCESSES;
    }
    return false;
}

/* "SYSCALL[1,1](9) sys_mmap ( 0x0, 8192, 3, ... ) --> [pre-success] Success(0x4835000) " */
static bool parse_syscall(const char *line, struct sim_event *event)
{
    static const struct {
        const char *name;
        uint8_t kind, flags;
    } calls[] = { { " sys_mmap ( ", SIM_MAP, 1 },
                  { " sys_munmap ( ", SIM_UNMAP, 0 },
                  { " sys_mprotect ( ", SIM_PROTECT, 1 } };
    const char *success = strstr(line, "Success(");
    uint64_t address, bytes, flags = 0;

    for (size_t i = 0; success != NULL && i < ARRAY_SIZE(calls); i++) {
        const char *at = strstr(line, calls[i].name);

        if (at == NULL) {
            continue;
        }
        at += strlen(calls[i].name);
        if (!trace_c_number(&at, &address) || strncmp(at, ", ", 2) != 0) {
            return false;
        }
        at += 2;
        if (!trace_c_number(&at, &bytes)) {
            return false;
        }
        if (calls[i].flags) {
            if (strncmp(at, ", ", 2) != 0) {
                return false;
            }
            at += 2;
            if (!trace_c_number(&at, &flags)) {
                return false;
            }
        }
        success += strlen("Success(");
        if (calls[i].kind == SIM_MAP && !trace_c_number(&success, &address)) {
            return false;
        }
        return trace_range(event, (enum sim_event_kind)calls[i].kind, address, bytes,
                           flags);
    }
    return false;
}

bool trace_parse_line(const char *line, struct sim_event events[2], unsigned *count)
{
    *count = 1;
    if (line[0] == 'I' && line[1] == ' ' && line[2] == ' ') {
        return parse_access(line + 3, MMU_FETCH, events, count);
    }
    if (line[0] == ' ' && line[1] != '\0' && line[2] == ' ') {
        switch (line[1]) {
        case 'L':
            return parse_access(line + 3, 0, events, count);
        case 'S':
        case 'M': /* the load of a modify finds what its store needs */
            return parse_access(line + 3, MMU_WRITE, events, count);
        default:
            return false;
        }
    }
    if (line[0] == '@') {
        return parse_marked(line + 1, events);
    }
    return strncmp(line, "SYSCALL[", 8) == 0 && parse_syscall(line, events);
}

/* ---- The source --------------------------------------------------------------------------- */

struct trace_source {
    struct sim_source source;
    FILE *in;
    struct trace_lines lines;
    struct strace_calls calls; /* pending from pending_next on */
    unsigned pending_next;
    char line[TRACE_LINE_BYTES];
};

bool trace_line(FILE *in, char *line, size_t size, bool *whole)
{
    int c;

    if (fgets(line, (int)size, in) == NULL) {
        return false;
    }
    *whole = strchr(line, '\n') != NULL || feof(in);
    while (!*whole && (c = getc(in)) != EOF && c != '\n') {
    }
    return true;
}

/* How many pending calls are due now that @address is used: up to the one that maps it. */
static unsigned strace_due(const struct trace_source *trace, uint64_t address)
{
    for (unsigned i = trace->pending_next; i < trace->calls.count; i++) {
        const struct sim_event *event = &trace->calls.event[i];

        if (event->kind == SIM_MAP && address >= event->address &&
            address - event->address < (uint64_t)event->pages << MMU_PAGE_SHIFT) {
            return i + 1 - trace->pending_next;
        }
        if (i - trace->pending_next > 256) {
            break; /* not soon: a page that was there from the beginning */
        }
    }
    return 0;
}

static int trace_next(struct sim_source *source, struct sim_event *events, unsigned max,
                      struct umbra_error *error)
{
    struct trace_source *trace = container_of(source, struct trace_source, source);
    unsigned count = 0, found;
    bool whole;

    while (count + 258 + 2 < max) {
        struct sim_event event[2];
        unsigned due = 0;

        if (!trace_line(trace->in, trace->line, sizeof(trace->line), &whole)) {
            break;
        }
        if (!whole || !trace_parse_line(trace->line, event, &found)) {
            trace->lines.skipped++;
            continue;
        }
        trace->lines.used++;
        if (event[0].kind == SIM_ACCESS && trace->pending_next < trace->calls.count) {
            due = strace_due(trace, event[0].address);
        }
        while (due-- > 0) {
            events[count++] = trace->calls.event[trace->pending_next++];
        }
        trace->lines.system_calls += trace->line[0] == 'S';
        memcpy(events + count, event, found * sizeof(*event));
        count += found;
    }
    if (ferror(trace->in)) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, EIO, "reading the trace");
    }
    while (count == 0 && trace->pending_next < trace->calls.count && count < max) {
        events[count++] = trace->calls.event[trace->pending_next++];
    }
    return (int)count;
}

static void trace_destroy(struct sim_source *source)
{
    struct trace_source *trace = container_of(source, struct trace_source, source);

    if (trace->in != NULL && trace->in != stdin) {
        fclose(trace->in);
    }
    free(trace->calls.event);
    free(trace);
}

int trace_open_streams(FILE *in, FILE *strace, struct sim_source **source,
                       struct umbra_error *error)
{
    struct trace_source *trace = calloc(1, sizeof(*trace));
    int err;

    *source = NULL;
    if (trace == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "reading a trace");
    }
    trace->source.next = trace_next;
    trace->source.auto_map = true;
    trace->in = in;
    err = strace != NULL ? strace_read(strace, "strace", &trace->calls, error) : 0;
    if (err != 0) {
        free(trace->calls.event);
        free(trace);
        return err;
    }
    trace->source.destroy = trace_destroy;
    trace->lines.used = trace->lines.system_calls = trace->calls.count;
    trace->lines.skipped = trace->calls.skipped;
    *source = &trace->source;
    return 0;
}

int trace_open(const char *path, const char *strace, struct sim_source **source,
               struct umbra_error *error)
{
    FILE *in = strcmp(path, "-") == 0 ? stdin : fopen(path, "re"), *calls = NULL;
    int err = 0;

    *source = NULL;
    if (in == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "opening %s", path);
    }
    if (strace != NULL && (calls = fopen(strace, "re")) == NULL) {
        err = error_errno(error, UMBRA_ERROR_INTERNAL, errno, "opening %s", strace);
    }
    if (err == 0) {
        err = trace_open_streams(in, calls, source, error);
    }
    if (err != 0 && in != stdin) {
        fclose(in);
    }
    if (calls != NULL) {
        fclose(calls);
    }
    return err;
}

const struct trace_lines *trace_lines(struct sim_source *source)
{
    struct trace_source *trace = container_of(source, struct trace_source, source);

    return &trace->lines;
}

void trace_write_event(FILE *out, const struct sim_event *event)
{
    static const char *const names[] = {
        [SIM_MAP] = "map",   [SIM_UNMAP] = "unmap", [SIM_PROTECT] = "protect",
        [SIM_FORK] = "fork", [SIM_EXIT] = "exit",   [SIM_SWITCH] = "switch",
        [SIM_MARK] = "mark",
    };

    switch (event->kind) {
    case SIM_ACCESS:
        fprintf(out, "%s %" PRIx64 ",8\n",
                (event->flags & MMU_FETCH)   ? "I "
                : (event->flags & MMU_WRITE) ? " S"
                                             : " L",
                event->address);
        break;
    case SIM_MAP:
    case SIM_PROTECT:
        fprintf(out, "@%s 0x%" PRIx64 " %u %u\n", names[event->kind], event->address,
                event->pages, event->flags);
        break;
    case SIM_UNMAP:
        fprintf(out, "@unmap 0x%" PRIx64 " %u\n", event->address, event->pages);
        break;
    case SIM_MARK:
        fputs("@mark\n", out);
        break;
    default:
        fprintf(out, "@%s %u\n", names[event->kind], event->process);
    }
}
