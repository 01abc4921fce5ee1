/* SPDX-License-Identifier: MIT */
/*
 * Shared libraries that are loaded when something needs them: libnbd and libslirp bring
 * dozens of others along (TLS, XML, Unicode tables), which a guest without an NBD disk or
 * user-mode networking pays for neither in start-up time nor in memory.
 */
#ifndef BASE_LIBRARY_H
#define BASE_LIBRARY_H

#include <stddef.h>

#include "base/error.h"

/* A function wanted, and where its address goes in the caller's struct. */
struct library_symbol {
    const char *name;
    size_t offset;
};

/*
 * Load @file (a soname) and store the addresses of @count @symbols in @functions. With
 * @library it is the caller's, to be given to library_unload(); without (NULL) it stays
 * loaded for the life of the process, as libraries with thread-specific data (glib, gnutls,
 * libnbd) must. @package is Debian's name of it, for the remedy. 0, or -ENOENT with @error
 * saying what is missing. Any thread.
 */
int library_load(const char *file, const char *package,
                 const struct library_symbol *symbols, size_t count, void *functions,
                 void **library, struct umbra_error *error);
/* Its functions are gone when the last one who loaded it has done this. NULL is fine. */
void library_unload(void *library);

#endif
