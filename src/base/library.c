/* SPDX-License-Identifier: MIT */
/* Loading a shared library on demand. */
#include "base/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

int library_load(const char *file, const char *package,
                 const struct library_symbol *symbols, size_t count, void *functions,
                 struct umbra_error *error)
{
    /* glib, gnutls and libnbd keep thread-specific data: they must not be unloaded. */
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);

    if (library == NULL) {
        return error_set(error, UMBRA_ERROR_MISSING, ENOENT,
                         "load %s: %s (install it: apt-get install %s)", file, dlerror(),
                         package);
    }
    for (size_t i = 0; i < count; i++) {
        void *address = dlsym(library, symbols[i].name);

        if (address == NULL) {
            dlclose(library);
            return error_set(error, UMBRA_ERROR_MISSING, ENOENT,
                             "load %s: it has no %s (a newer %s is needed)", file,
                             symbols[i].name, package);
        }
        memcpy((char *)functions + symbols[i].offset, &address, sizeof(address));
    }
    dlclose(library); /* the count only: NODELETE */
    return 0;
}
