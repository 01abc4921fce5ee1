/* SPDX-License-Identifier: MIT */
/*
 * Flushing a kept overlay. It is crash-safe by order: first the data is made durable, then
 * the bitmap is written as it was before that, then the bitmap is made durable. Bits are
 * only ever set, so a bitmap page torn by a crash is some mixture of an older and a newer
 * truth, each bit of which is right.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/disk/overlay.h"
#include "base/util.h"

struct page_copy {
    uint64_t page;
    uint8_t bytes[OVERLAY_PAGE];
};

struct flush {
    struct disk_request inner; /* to the store */
    struct disk_overlay *overlay;
    struct disk_request *request;
    struct disk_queue *store;
    struct page_copy *pages;
    uint64_t count;
};

/* Copy the changed pages of the bitmap; the map's lock is held. */
static int flush_collect(struct overlay_map *map, struct page_copy **pages,
                         uint64_t *count)
{
    struct page_copy *at;

    *pages = NULL;
    *count = 0;
    for (uint64_t p = 0; p < map->pages; p++) {
        *count += map->dirty[p];
    }
    if (*count == 0) {
        return 0;
    }
    at = *pages = malloc(*count * sizeof(*at));
    if (at == NULL) {
        return -ENOMEM;
    }
    for (uint64_t p = 0; p < map->pages; p++) {
        if (!map->dirty[p]) {
            continue;
        }
        map->dirty[p] = 0;
        at->page = p;
        for (unsigned w = 0; w < OVERLAY_PAGE / 8; w++) {
            store_le64(at->bytes + 8 * w,
                       atomic_load(&map->present[p * (OVERLAY_PAGE / 8) + w]));
        }
        at++;
    }
    return 0;
}

static int pages_write(struct disk_overlay *overlay, const struct page_copy *pages,
                       uint64_t count)
{
    int fd = disk_file_fd(overlay->store);

    for (uint64_t i = 0; i < count; i++) {
        ssize_t n =
            pwrite(fd, pages[i].bytes, OVERLAY_PAGE,
                   (off_t)(overlay->bitmap_offset + pages[i].page * OVERLAY_PAGE));

        if (n != OVERLAY_PAGE) {
            return n < 0 ? -errno : -ENOSPC;
        }
    }
    return 0;
}

static void flush_end(struct flush *flush, int error)
{
    struct overlay_map *map = &flush->overlay->map;
    struct disk_request *request = flush->request;

    pthread_mutex_lock(&map->lock);
    for (uint64_t i = 0; error != 0 && i < flush->count; i++) {
        map->dirty[flush->pages[i].page] = 1; /* still to be kept */
    }
    map->flushing = false;
    pthread_mutex_unlock(&map->lock);
    free(flush->pages);
    free(flush);
    request->done(request, error);
}

static void flush_bitmap_done(struct disk_request *inner, int error)
{
    flush_end(container_of(inner, struct flush, inner), error);
}

/*
 * The data is durable. The pages are few and go to the page cache, so they are written
 * here and now.
 */
static void flush_data_done(struct disk_request *inner, int error)
{
    struct flush *flush = container_of(inner, struct flush, inner);

    if (error == 0) {
        error = pages_write(flush->overlay, flush->pages, flush->count);
    }
    if (error != 0 || flush->count == 0) {
        flush_end(flush, error);
        return;
    }
    inner->done = flush_bitmap_done;
    disk_submit(flush->store, inner);
}

int overlay_flush(struct disk_overlay *overlay, struct disk_queue *store,
                  struct disk_request *request)
{
    struct flush *flush = calloc(1, sizeof(*flush));
    int ret = flush == NULL ? -ENOMEM : 0;

    pthread_mutex_lock(&overlay->map.lock);
    if (ret == 0 && overlay->map.flushing) {
        ret = -EBUSY;
    }
    if (ret == 0) {
        ret = flush_collect(&overlay->map, &flush->pages, &flush->count);
        overlay->map.flushing = ret == 0;
    }
    pthread_mutex_unlock(&overlay->map.lock);
    if (ret != 0) {
        free(flush);
        return ret;
    }
    flush->overlay = overlay;
    flush->request = request;
    flush->store = store;
    flush->inner.op = DISK_FLUSH;
    flush->inner.done = flush_data_done;
    disk_submit(store, &flush->inner);
    return 0;
}

void overlay_keep(struct disk_overlay *overlay)
{
    struct page_copy *pages = NULL;
    uint64_t count = 0;
    int ret = fdatasync(disk_file_fd(overlay->store)) == 0 ? 0 : -errno;

    if (ret == 0) {
        ret = flush_collect(&overlay->map, &pages, &count);
    }
    if (ret == 0) {
        ret = pages_write(overlay, pages, count);
    }
    if (ret != 0) {
        log_error(overlay->disk.log,
                  "overlay %s: %s: writes not flushed by the guest are lost",
                  overlay->store->name, strerror(-ret));
    }
    free(pages);
}
