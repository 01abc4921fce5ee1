/* SPDX-License-Identifier: MIT */
/* Filling in struct umbra_error: what was tried, on what, why it failed, what to do. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <umbra/umbra.h>

/* Fill @error (may be NULL) and return -errnum, or -EINVAL when errnum is 0. */
int error_set(struct umbra_error *error, enum umbra_error_class code, int errnum,
              const char *format, ...) __attribute__((format(printf, 4, 5)));

/* As error_set, with ": strerror(errnum)" behind the message. Maps EPERM/EACCES to
 * PERMISSION and ENOENT to MISSING when @code is UMBRA_ERROR_INTERNAL. */
int error_errno(struct umbra_error *error, enum umbra_error_class code, int errnum,
                const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Put "prefix: " before the message already in @error. */
void error_prefix(struct umbra_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
