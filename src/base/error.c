/* SPDX-License-Identifier: MIT */
/* Error values: a class, an errno and a message for a person. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int error_fill(struct umbra_error *error, enum umbra_error_class code, int errnum)
{
    if (error != NULL) {
        error->code = code;
        error->errnum = errnum;
    }
    return errnum > 0 ? -errnum : -EINVAL;
}

int error_set(struct umbra_error *error, enum umbra_error_class code, int errnum,
              const char *format, ...)
{
    if (error != NULL) {
        va_list args;

        va_start(args, format);
        vsnprintf(error->message, sizeof(error->message), format, args);
        va_end(args);
    }
    return error_fill(error, code, errnum);
}

int error_errno(struct umbra_error *error, enum umbra_error_class code, int errnum,
                const char *format, ...)
{
    if (code == UMBRA_ERROR_INTERNAL && (errnum == EPERM || errnum == EACCES)) {
        code = UMBRA_ERROR_PERMISSION;
    } else if (code == UMBRA_ERROR_INTERNAL && errnum == ENOENT) {
        code = UMBRA_ERROR_MISSING;
    }
    if (error != NULL) {
        va_list args;
        char text[128];
        size_t used;

        va_start(args, format);
        vsnprintf(error->message, sizeof(error->message), format, args);
        va_end(args);
        used = strlen(error->message);
        snprintf(error->message + used, sizeof(error->message) - used, ": %s",
                 strerror_r(errnum, text, sizeof(text)));
    }
    return error_fill(error, code, errnum);
}

void error_prefix(struct umbra_error *error, const char *format, ...)
{
    char old[sizeof(error->message)];
    size_t used;
    va_list args;

    if (error == NULL) {
        return;
    }
    memcpy(old, error->message, sizeof(old));
    va_start(args, format);
    vsnprintf(error->message, sizeof(error->message), format, args);
    va_end(args);
    used = strlen(error->message);
    snprintf(error->message + used, sizeof(error->message) - used, ": %.1900s", old);
}
