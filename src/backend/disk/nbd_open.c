/* SPDX-License-Identifier: MIT */
/* Opening NBD exports: libnbd, a first connection, what the server offers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/disk/nbd.h"
#include "base/error.h"
#include "base/library.h"

enum { NBD_CONNECT_MS = 5000 };

static const struct library_symbol nbd_symbols[] = {
#define NBD_SYMBOL(function) { "nbd_" #function, offsetof(struct nbd_library, function) },
    NBD_FUNCTIONS(NBD_SYMBOL)
};

/* Connect and shake hands, for so long and no longer. */
static bool nbd_connect(const struct nbd_library *lib, struct nbd_handle *handle,
                        const char *uri)
{
    uint64_t deadline = clock_ns() + (uint64_t)NBD_CONNECT_MS * 1000000u;

    if (lib->aio_connect_uri(handle, uri) != 0) {
        return false;
    }
    while (lib->aio_is_ready(handle) != 1) {
        if (lib->aio_is_dead(handle) != 0 || lib->aio_is_closed(handle) != 0 ||
            clock_ns() >= deadline || lib->poll(handle, 200) < 0) {
            return false;
        }
    }
    return true;
}

struct nbd_handle *nbd_open_handle(const struct disk_nbd *nbd)
{
    const struct nbd_library *lib = &nbd->lib;
    struct nbd_handle *handle = lib->create();

    if (handle != NULL && !nbd_connect(lib, handle, nbd->uri)) {
        lib->close(handle);
        handle = NULL;
    }
    return handle;
}

const char *nbd_why(const struct nbd_library *lib)
{
    const char *why = lib->get_error();

    return why != NULL ? why : "the server does not answer";
}

static int nbd_learn(struct disk_nbd *nbd, struct nbd_handle *handle, bool readonly,
                     struct umbra_error *error)
{
    const struct nbd_library *lib = &nbd->lib;
    struct disk *disk = &nbd->disk;
    int64_t size = lib->get_size(handle);
    int64_t preferred = lib->get_block_size(handle, LIBNBD_SIZE_PREFERRED);
    int64_t minimum = lib->get_block_size(handle, LIBNBD_SIZE_MINIMUM);

    if (size < 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EIO, "disk %s: no size: %s", nbd->uri,
                         nbd_why(lib));
    }
    if (!readonly && lib->is_read_only(handle) != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EROFS,
                         "disk %s: the export is read-only (say readonly)", nbd->uri);
    }
    atomic_init(&disk->size, align_down((uint64_t)size, DISK_SECTOR));
    disk->readonly = readonly;
    disk->can_discard = lib->can_trim(handle) == 1;
    disk->can_write_zeroes = lib->can_zero(handle) == 1;
    nbd->can_flush = lib->can_flush(handle) == 1;
    disk->max_queues = lib->can_multi_conn(handle) == 1 ? 0 : 1;
    disk->block_size = minimum > DISK_SECTOR ? (unsigned)minimum : DISK_SECTOR;
    disk->physical_block_size =
        preferred > (int64_t)disk->block_size ? (unsigned)preferred : disk->block_size;
    disk->discard_alignment = disk->physical_block_size;
    return 0;
}

int disk_nbd_open(const char *uri, bool readonly, const struct log *log,
                  struct disk **disk, struct umbra_error *error)
{
    struct disk_nbd *nbd = calloc(1, sizeof(*nbd));
    struct nbd_handle *handle = NULL;
    int ret = -ENOMEM;

    if (nbd == NULL || (nbd->uri = strdup(uri)) == NULL) {
        free(nbd);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open disk %s", uri);
    }
    nbd->disk.ops = &disk_nbd_ops;
    nbd->disk.log = log;
    nbd->disk.name = nbd->uri;
    ret = library_load("libnbd.so.0", "libnbd0", nbd_symbols, ARRAY_SIZE(nbd_symbols),
                       &nbd->lib, NULL, error);
    if (ret != 0) {
        error_prefix(error, "disk %s", uri);
        disk_nbd_ops.destroy(&nbd->disk);
        return ret;
    }
    handle = nbd_open_handle(nbd);
    if (handle == NULL) {
        ret = error_set(error, UMBRA_ERROR_CONFIG, EIO, "connect disk %s: %s", uri,
                        nbd_why(&nbd->lib));
    } else {
        ret = nbd_learn(nbd, handle, readonly, error);
        nbd->lib.close(handle);
    }
    if (ret != 0) {
        disk_nbd_ops.destroy(&nbd->disk);
        return ret;
    }
    *disk = &nbd->disk;
    return 0;
}
