/* SPDX-License-Identifier: MIT */
/* Recorded workloads: traces of Valgrind's lackey, and system calls in or beside them. */
#ifndef SHADOWPT_SIM_TRACE_TRACE_H
#define SHADOWPT_SIM_TRACE_TRACE_H

#include "shadowpt-sim/sim/sim.h"

#include <stdio.h>

/*
 * Lines of a trace; anything else is skipped and counted:
 *   "I  04001000,3" " L 1ffe,8" " S 1ffe,8" " M 1ffe,8"   --tool=lackey --trace-mem=yes
 *   "SYSCALL[...] sys_mmap ( ... ) ... Success(0x...)"     --trace-syscalls=yes
 *   "@map GVA PAGES FLAGS" "@protect GVA PAGES FLAGS" "@unmap GVA PAGES"
 *   "@fork N" "@switch N" "@exit N" "@mark"                trace_write_event()
 */
struct trace_lines {
    uint64_t used, skipped;
    uint64_t system_calls; /* of these that were used */
};

/* Read @path ("-": standard input). @strace: NULL, or the output of strace -f of the same
 * run; its calls are applied in order, each batch when an address it maps is first used. */
int trace_open(const char *path, const char *strace, struct sim_source **source,
               struct umbra_error *error);
/* The same of open streams. The source closes @in (but stdin) when it is closed itself; on
 * failure both streams are the caller's. @strace is read at once and stays the caller's. */
int trace_open_streams(FILE *in, FILE *strace, struct sim_source **source,
                       struct umbra_error *error);
const struct trace_lines *trace_lines(struct sim_source *source);

/* One line of a trace, in place. False: it says nothing that is understood. An access that
 * crosses into another page makes two events. */
bool trace_parse_line(const char *line, struct sim_event events[2], unsigned *count);
/* The same for a line of strace's. */
bool trace_parse_strace(const char *line, struct sim_event *event, long *pid);

void trace_write_event(FILE *out, const struct sim_event *event);

#endif
