/* SPDX-License-Identifier: MIT */
/* Formats log lines for the embedder's callback. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void log_line(const struct log *log, enum umbra_log_level level, const char *format, ...)
{
    char line[1024];
    va_list args;

    if (log == NULL || log->fn == NULL || level > log->level) {
        return;
    }
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    log->fn(log->context, level, line);
}
