/* SPDX-License-Identifier: MIT */
/* The overlay's map of blocks, and the file format that keeps it (docs/disks.md). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "base/error.h"
#include "base/util.h"
#include "virtio/disk_overlay.h"

/* ---- The map ----------------------------------------------------------------------------- */

int overlay_map_init(struct overlay_map *map, uint64_t size)
{
    uint64_t words;

    map->blocks = align_up(size, OVERLAY_BLOCK) / OVERLAY_BLOCK;
    map->pages = align_up(map->blocks, OVERLAY_PAGE_BITS) / OVERLAY_PAGE_BITS;
    words = map->pages * (OVERLAY_PAGE / 8);
    map->present = calloc(words, sizeof(*map->present));
    map->claimed = calloc(words, sizeof(*map->claimed));
    map->dirty = calloc(map->pages, 1);
    pthread_mutex_init(&map->lock, NULL);
    return map->present != NULL && map->claimed != NULL && map->dirty != NULL ? 0
                                                                              : -ENOMEM;
}

void overlay_map_fini(struct overlay_map *map)
{
    free(map->present);
    free(map->claimed);
    free(map->dirty);
    pthread_mutex_destroy(&map->lock);
}

int overlay_map_claim(struct overlay_map *map, uint64_t first, uint64_t last)
{
    int ret = 0;

    pthread_mutex_lock(&map->lock);
    for (uint64_t b = first; b <= last && ret == 0; b++) {
        if ((map->claimed[b / 64] >> (b % 64) & 1) != 0) {
            ret = -EBUSY;
        }
    }
    for (uint64_t b = first; b <= last && ret == 0; b++) {
        map->claimed[b / 64] |= 1UL << (b % 64);
    }
    pthread_mutex_unlock(&map->lock);
    return ret;
}

void overlay_map_settle(struct overlay_map *map, uint64_t first, uint64_t last, bool done)
{
    pthread_mutex_lock(&map->lock);
    for (uint64_t b = first; b <= last; b++) {
        map->claimed[b / 64] &= ~(1UL << (b % 64));
        if (done && !overlay_has(map, b)) {
            /* Release: pairs with overlay_has(). */
            atomic_fetch_or_explicit(&map->present[b / 64], 1UL << (b % 64),
                                     memory_order_release);
            map->dirty[b / OVERLAY_PAGE_BITS] = 1;
        }
    }
    pthread_mutex_unlock(&map->lock);
}

/* ---- The file ---------------------------------------------------------------------------- */

enum {
    HEADER_SIZE = 4096,
    HEADER_MAGIC = 0, /* 8 bytes */
    HEADER_VERSION = 8,
    HEADER_BLOCK = 12,
    HEADER_DISK_SIZE = 16,
    HEADER_BITMAP = 24,
    HEADER_DATA = 32,
    HEADER_CRC = 40,  /* of the whole header with this field 0 */
    HEADER_BASE = 64, /* the base's name, for people; zero-terminated */
    FORMAT_VERSION = 1,
};
static const char magic[8] = { 'U', 'M', 'B', 'R', 'O', 'V', 'L', '\n' };

static uint32_t header_crc(const uint8_t *header)
{
    uint8_t copy[HEADER_SIZE];

    memcpy(copy, header, sizeof(copy));
    store_le32(copy + HEADER_CRC, 0);
    return (uint32_t)crc32(0, copy, sizeof(copy));
}

static void store_layout(struct disk_overlay *overlay)
{
    overlay->bitmap_offset = HEADER_SIZE;
    overlay->data_offset = align_up(HEADER_SIZE + overlay->map.pages * OVERLAY_PAGE, MIB);
}

static uint64_t store_size(const struct disk_overlay *overlay)
{
    return overlay->data_offset + overlay->map.blocks * OVERLAY_BLOCK;
}

static int write_all(int fd, const void *bytes, size_t length, off_t offset)
{
    ssize_t n = pwrite(fd, bytes, length, offset);

    return n == (ssize_t)length ? 0 : n < 0 ? -errno : -ENOSPC;
}

/* A new overlay appears under its name only when it is whole. */
static int store_create(struct disk_overlay *overlay, const char *path)
{
    uint8_t header[HEADER_SIZE] = { 0 };
    char *temporary = NULL;
    int fd = -1, ret;

    memcpy(header, magic, sizeof(magic));
    store_le32(header + HEADER_VERSION, FORMAT_VERSION);
    store_le32(header + HEADER_BLOCK, OVERLAY_BLOCK);
    store_le64(header + HEADER_DISK_SIZE, atomic_load(&overlay->base->size));
    store_le64(header + HEADER_BITMAP, overlay->bitmap_offset);
    store_le64(header + HEADER_DATA, overlay->data_offset);
    snprintf((char *)header + HEADER_BASE, HEADER_SIZE - HEADER_BASE, "%s",
             overlay->base->name);
    store_le32(header + HEADER_CRC, header_crc(header));
    if (asprintf(&temporary, "%s.%d.new", path, (int)getpid()) < 0) {
        return -ENOMEM;
    }
    fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    ret = fd < 0 ? -errno : write_all(fd, header, sizeof(header), 0);
    if (ret == 0 && ftruncate(fd, (off_t)store_size(overlay)) != 0) {
        ret = -errno;
    }
    /* linking, not renaming: another VM may have made it meanwhile */
    if (ret == 0 && (fsync(fd) != 0 || link(temporary, path) != 0)) {
        ret = -errno;
    }
    if (fd >= 0) {
        unlink(temporary);
    }
    free(temporary);
    if (ret != 0 && fd >= 0) {
        close(fd);
    }
    return ret != 0 ? ret : fd;
}

static int store_check(struct disk_overlay *overlay, int fd, const char *path,
                       struct umbra_error *error)
{
    uint8_t header[HEADER_SIZE];
    const char *wrong = NULL;

    if (pread(fd, header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
        memcmp(header, magic, sizeof(magic)) != 0) {
        wrong = "it is not one of umbra's overlays";
    } else if (load_le32(header + HEADER_CRC) != header_crc(header)) {
        wrong = "its header is damaged";
    } else if (load_le32(header + HEADER_VERSION) != FORMAT_VERSION ||
               load_le32(header + HEADER_BLOCK) != OVERLAY_BLOCK) {
        wrong = "it has another version of the format";
    } else if (load_le64(header + HEADER_DISK_SIZE) !=
               atomic_load(&overlay->base->size)) {
        wrong = "it was made over a base of another size";
    } else if (load_le64(header + HEADER_BITMAP) != overlay->bitmap_offset ||
               load_le64(header + HEADER_DATA) != overlay->data_offset) {
        wrong = "its layout does not fit the disk";
    }
    if (wrong != NULL) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "overlay %s of disk %s: %s (remove it to start afresh)", path,
                         overlay->base->name, wrong);
    }
    if (ftruncate(fd, (off_t)store_size(overlay)) != 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "extend overlay %s", path);
    }
    return 0;
}

static int store_load_map(struct disk_overlay *overlay, int fd, const char *path,
                          struct umbra_error *error)
{
    struct overlay_map *map = &overlay->map;
    uint8_t page[OVERLAY_PAGE];

    for (uint64_t p = 0; p < map->pages; p++) {
        off_t at = (off_t)(overlay->bitmap_offset + p * OVERLAY_PAGE);

        if (pread(fd, page, sizeof(page), at) != (ssize_t)sizeof(page)) {
            return error_set(error, UMBRA_ERROR_CONFIG, EIO, "read the map of overlay %s",
                             path);
        }
        for (unsigned w = 0; w < OVERLAY_PAGE / 8; w++) {
            atomic_init(&map->present[p * (OVERLAY_PAGE / 8) + w],
                        load_le64(page + 8 * w));
        }
    }
    return 0;
}

/* Somewhere without a name, on disk rather than in memory. */
static int store_nameless(void)
{
    const char *places[] = { getenv("TMPDIR"), "/var/tmp", "/tmp" };

    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        int fd = places[i] == NULL
                     ? -1
                     : open(places[i], O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);

        if (fd >= 0) {
            return fd;
        }
    }
    return memfd_create("umbra-overlay", MFD_CLOEXEC);
}

int overlay_store_open(struct disk_overlay *overlay, const char *path,
                       struct umbra_error *error)
{
    const char *name = path != NULL ? path : "(temporary)";
    bool fresh = false;
    int fd, ret = 0;

    store_layout(overlay);
    fd = path == NULL ? store_nameless() : open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 && path != NULL && errno == ENOENT) {
        fresh = true;
        fd = store_create(overlay, path);
        errno = fd < 0 ? -fd : 0;
    }
    if (fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "open overlay %s", name);
    }
    if (path == NULL && ftruncate(fd, (off_t)store_size(overlay)) != 0) {
        ret = error_errno(error, UMBRA_ERROR_INTERNAL, errno, "size overlay %s", name);
    } else if (path != NULL && !fresh) {
        ret = store_check(overlay, fd, path, error);
        if (ret == 0) {
            ret = store_load_map(overlay, fd, path, error);
        }
    }
    if (ret != 0) {
        close(fd);
        return ret;
    }
    return disk_file_adopt(fd, name, overlay->disk.log, &overlay->store, error);
}
