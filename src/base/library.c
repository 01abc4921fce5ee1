/* SPDX-License-Identifier: MIT */
/* Loading a shared library on demand. */
#include "base/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

int library_load(const char *file, const char *package,
                 const struct library_symbol *symbols, size_t count, void *functions,
                 void **library, struct umbra_error *error)
{
    void *loaded =
        dlopen(file, RTLD_NOW | RTLD_LOCAL | (library == NULL ? RTLD_NODELETE : 0));

    if (loaded == NULL) {
        return error_set(error, UMBRA_ERROR_MISSING, ENOENT,
                         "load %s: %s (install it: apt-get install %s)", file, dlerror(),
                         package);
    }
    for (size_t i = 0; i < count; i++) {
        void *address = dlsym(loaded, symbols[i].name);

        if (address == NULL) {
            dlclose(loaded);
            return error_set(error, UMBRA_ERROR_MISSING, ENOENT,
                             "load %s: it has no %s (a newer %s is needed)", file,
                             symbols[i].name, package);
        }
        memcpy((char *)functions + symbols[i].offset, &address, sizeof(address));
    }
    if (library != NULL) {
        *library = loaded;
    } else {
        dlclose(loaded); /* the count only: NODELETE */
    }
    return 0;
}

void library_unload(void *library)
{
    if (library != NULL) {
        dlclose(library);
    }
}
