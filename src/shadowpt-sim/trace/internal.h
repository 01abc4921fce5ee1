/* SPDX-License-Identifier: MIT */
/* Inside the readers of traces (trace.c) and of strace's output (strace.c). */
#ifndef SHADOWPT_SIM_TRACE_INTERNAL_H
#define SHADOWPT_SIM_TRACE_INTERNAL_H

#include "shadowpt-sim/trace/trace.h"

#define TRACE_USER_END   ((uint64_t)1 << 47)
#define TRACE_LINE_BYTES 1024
#define TRACE_PAGES_MAX  (1u << 26)

/* Digits of @base at *@text, no sign, no space; *@text is then behind them. */
bool trace_number(const char **text, unsigned base, uint64_t *value);
/* As C writes them: 0x12 or 18. */
bool trace_c_number(const char **text, uint64_t *value);
/* An event for [address, + bytes), if such a range can be. */
bool trace_range(struct sim_event *event, enum sim_event_kind kind, uint64_t address,
                 uint64_t bytes, uint64_t flags);
/* One line; the rest of one that is too long is skipped, and it is not *@whole. */
bool trace_line(FILE *in, char *line, size_t size, bool *whole);

/* The calls of an strace, in order. */
struct strace_calls {
    struct sim_event *event;
    unsigned count, capacity;
    uint64_t skipped; /* lines */
};

int strace_read(FILE *in, const char *name, struct strace_calls *calls,
                struct umbra_error *error);

#endif
