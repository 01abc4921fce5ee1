/* SPDX-License-Identifier: MIT */
/*
 * Collects what is wrong with a configuration, to report it all at once; and remembers
 * where each value came from.
 */
#ifndef VMM_CONFIG_ERRORS_H
#define VMM_CONFIG_ERRORS_H

#include <stddef.h>

#include <umbra/umbra.h>

/* A place in a file; file == NULL: not from a file, line and column are 0 then. */
struct config_place {
    const char *file;
    unsigned line, column;
};

struct config_fault;

struct config_errors {
    struct config_fault *faults;
    size_t count, dropped;
};

/* Add one fault: "file:line:column: path: message". @path may be "". */
void config_errors_add(struct config_errors *errors, const struct config_place *place,
                       const char *path, enum umbra_error_class code, const char *format,
                       ...) __attribute__((format(printf, 5, 6)));

/*
 * Sort the faults by place and put as many as fit into @error, then a line that counts
 * the rest; frees them. The class is CONFIG, unless all faults share another one. 0 when
 * there is none.
 */
int config_errors_report(struct config_errors *errors, struct umbra_error *error);

/* ---- Origins ----------------------------------------------------------------- */

struct config_origins;

/* Remember that the value at @path ("$.disks[0].path") stands at @place. */
int config_origins_add(struct config_origins **origins, const char *path,
                       const struct config_place *place);

/* The place of @path or of the nearest object around it; all zero when unknown. */
struct config_place config_origins_find(const struct config_origins *origins,
                                        const char *path);

/* Forget @path and everything below it. */
void config_origins_forget(struct config_origins *origins, const char *path);

int config_origins_copy(const struct config_origins *from, struct config_origins **to);
void config_origins_free(struct config_origins *origins);

#endif
