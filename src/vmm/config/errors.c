/* SPDX-License-Identifier: MIT */
/* Faults of a configuration, collected and sorted; origins of its values. */
#include "vmm/config/errors.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { FAULTS_KEPT = 64 };

struct config_fault {
    char *text;
    unsigned line, column;
    size_t order; /* of arrival: keeps the sort stable */
    enum umbra_error_class code;
};

static char *fault_text(const struct config_place *place, const char *path,
                        const char *message)
{
    char where[32] = "", *text;

    if (place->file != NULL) {
        snprintf(where, sizeof(where), ":%u:%u: ", place->line, place->column);
    }
    if (asprintf(&text, "%s%s%s%s%s", place->file != NULL ? place->file : "", where, path,
                 path[0] != '\0' ? ": " : "", message) < 0) {
        return NULL;
    }
    return text;
}

void config_errors_add(struct config_errors *errors, const struct config_place *place,
                       const char *path, enum umbra_error_class code, const char *format,
                       ...)
{
    struct config_fault *faults;
    char message[512];
    va_list args;

    if (errors->count == FAULTS_KEPT) {
        errors->dropped++;
        return;
    }
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    faults = realloc(errors->faults, (errors->count + 1) * sizeof(*faults));
    if (faults == NULL) {
        errors->dropped++;
        return;
    }
    errors->faults = faults;
    faults[errors->count] = (struct config_fault){
        .text = fault_text(place, path, message),
        .line = place->line,
        .column = place->column,
        .order = errors->count,
        .code = code,
    };
    errors->count++;
}

static int fault_compare(const void *a, const void *b)
{
    const struct config_fault *x = a, *y = b;

    if (x->line != y->line) {
        return x->line < y->line ? -1 : 1;
    }
    if (x->column != y->column) {
        return x->column < y->column ? -1 : 1;
    }
    return x->order < y->order ? -1 : 1;
}

int config_errors_report(struct config_errors *errors, struct umbra_error *error)
{
    char message[sizeof(error->message)];
    size_t used = 0, shown = 0, total = errors->count + errors->dropped;
    enum umbra_error_class code =
        errors->count > 0 ? errors->faults[0].code : UMBRA_ERROR_INTERNAL;

    if (errors->count > 0) {
        qsort(errors->faults, errors->count, sizeof(*errors->faults), fault_compare);
    }
    message[0] = '\0';
    for (size_t i = 0; i < errors->count; i++) {
        const char *text =
            errors->faults[i].text != NULL ? errors->faults[i].text : "out of memory";
        size_t room = sizeof(message) - 40; /* for the line that counts the rest */

        if (errors->faults[i].code != code) {
            code = UMBRA_ERROR_CONFIG;
        }
        if (shown == i && used + strlen(text) + 1 < room) {
            used += (size_t)snprintf(message + used, sizeof(message) - used, "%s%s",
                                     i > 0 ? "\n" : "", text);
            shown++;
        }
    }
    for (size_t i = 0; i < errors->count; i++) {
        free(errors->faults[i].text);
    }
    free(errors->faults);
    *errors = (struct config_errors){ 0 };
    if (total == 0) {
        return 0;
    }
    if (shown < total) {
        snprintf(message + used, sizeof(message) - used, "%sand %zu more",
                 shown > 0 ? "\n" : "", total - shown);
    }
    return error_set(error, code,
                     code == UMBRA_ERROR_MISSING      ? ENOENT
                     : code == UMBRA_ERROR_PERMISSION ? EACCES
                                                      : EINVAL,
                     "%s", message);
}

/* ---- Origins ----------------------------------------------------------------- */

struct config_origin {
    char *path, *file;
    unsigned line, column;
};

struct config_origins {
    struct config_origin *list;
    size_t count;
};

int config_origins_add(struct config_origins **origins, const char *path,
                       const struct config_place *place)
{
    struct config_origin *list, origin = { .line = place->line, .column = place->column };
    struct config_origins *all = *origins;

    if (all == NULL) {
        all = *origins = calloc(1, sizeof(*all));
        if (all == NULL) {
            return -ENOMEM;
        }
    }
    list = realloc(all->list, (all->count + 1) * sizeof(*list));
    if (list == NULL) {
        return -ENOMEM;
    }
    all->list = list;
    origin.path = strdup(path);
    origin.file = place->file != NULL ? strdup(place->file) : NULL;
    if (origin.path == NULL || (place->file != NULL && origin.file == NULL)) {
        free(origin.path);
        free(origin.file);
        return -ENOMEM;
    }
    list[all->count++] = origin;
    return 0;
}

/* @path itself or something below it. */
static bool path_within(const char *path, const char *above)
{
    size_t n = strlen(above);

    return strncmp(path, above, n) == 0 && strchr(".[", path[n]) != NULL;
}

struct config_place config_origins_find(const struct config_origins *origins,
                                        const char *path)
{
    const struct config_origin *best = NULL;

    for (size_t i = 0; origins != NULL && i < origins->count; i++) {
        const struct config_origin *origin = &origins->list[i];

        /* The longest one wins; of two equal ones the later. */
        if (path_within(path, origin->path) &&
            (best == NULL || strlen(origin->path) >= strlen(best->path))) {
            best = origin;
        }
    }
    if (best == NULL) {
        return (struct config_place){ 0 };
    }
    return (struct config_place){ best->file, best->line, best->column };
}

static void origin_free(struct config_origin *origin)
{
    free(origin->path);
    free(origin->file);
}

void config_origins_forget(struct config_origins *origins, const char *path)
{
    size_t kept = 0;

    for (size_t i = 0; origins != NULL && i < origins->count; i++) {
        if (path_within(origins->list[i].path, path)) {
            origin_free(&origins->list[i]);
        } else {
            origins->list[kept++] = origins->list[i];
        }
    }
    if (origins != NULL) {
        origins->count = kept;
    }
}

int config_origins_copy(const struct config_origins *from, struct config_origins **to)
{
    int rc = 0;

    *to = NULL;
    for (size_t i = 0; from != NULL && i < from->count && rc == 0; i++) {
        struct config_place place = { from->list[i].file, from->list[i].line,
                                      from->list[i].column };

        rc = config_origins_add(to, from->list[i].path, &place);
    }
    return rc;
}

void config_origins_free(struct config_origins *origins)
{
    for (size_t i = 0; origins != NULL && i < origins->count; i++) {
        origin_free(&origins->list[i]);
    }
    if (origins != NULL) {
        free(origins->list);
        free(origins);
    }
}
