/* SPDX-License-Identifier: MIT */
/* Flat binaries: bytes at an address, entered where the request says. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "vmm/boot/loader.h"

/* Below 1 MiB in real mode, with CS such that IP counts from the load address where it
 * can; above in flat 32-bit protected mode. */
static int flat_enter(struct loader *loader, uint64_t load, uint64_t at,
                      struct umbra_error *error)
{
    struct boot_entry *entry = loader->entry;
    bool from_load = load % 16 == 0 && at - load < 64 * KIB;

    if (at >= MIB) {
        return loader_enter(loader, BOOT_MODE_PROTECTED, at, error);
    }
    entry->mode = BOOT_MODE_REAL;
    entry->cs = (uint16_t)(from_load ? load >> 4 : at >> 4);
    entry->ds = entry->cs;
    entry->rip = at - ((uint64_t)entry->cs << 4);
    return 0;
}

int flat_load(struct loader *loader, struct umbra_error *error)
{
    const struct boot_request *request = loader->request;
    struct loader_piece piece = { .base = request->flat_load,
                                  .image = &loader->image,
                                  .size = loader->image.size,
                                  .memory_size = loader->image.size,
                                  .what = "the flat binary" };
    int result = loader_put(loader, &piece, error);

    if (result != 0) {
        return result;
    }
    if (request->flat_entry - request->flat_load >= piece.size) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "its entry point 0x%" PRIx64 " is outside the binary (0x%" PRIx64
                         "..0x%" PRIx64 "); set kernel_entry",
                         request->flat_entry, request->flat_load,
                         request->flat_load + piece.size - 1);
    }
    if (request->flat_entry > UINT32_MAX) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "its entry point 0x%" PRIx64 " is above 4 GiB, where no flat "
                         "binary can start; load it lower",
                         request->flat_entry);
    }
    if (request->initrd_path != NULL) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "a flat binary takes no initrd; leave --initrd out");
    }
    snprintf(loader->entry->description, sizeof(loader->entry->description),
             "flat binary, %zu bytes at 0x%" PRIx64, loader->image.size,
             request->flat_load);
    return flat_enter(loader, request->flat_load, request->flat_entry, error);
}
