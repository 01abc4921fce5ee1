/* SPDX-License-Identifier: MIT */
/* The log of one VM: lines go to the embedder's callback, nowhere else. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <umbra/umbra.h>

/* Plain data; a NULL @fn drops everything. Any thread may log. */
struct log {
    umbra_log_fn fn;
    void *context;
    enum umbra_log_level level; /* lines above this level are dropped */
};

void log_line(const struct log *log, enum umbra_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(log, ...)   log_line((log), UMBRA_LOG_ERROR, __VA_ARGS__)
#define log_warning(log, ...) log_line((log), UMBRA_LOG_WARNING, __VA_ARGS__)
#define log_info(log, ...)    log_line((log), UMBRA_LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...)   log_line((log), UMBRA_LOG_DEBUG, __VA_ARGS__)

#endif
