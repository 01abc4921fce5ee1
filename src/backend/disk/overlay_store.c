/* SPDX-License-Identifier: MIT */
/* The overlay's map of blocks, and the file format that keeps it (docs/disks.md). */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "backend/disk/overlay.h"
#include "base/error.h"
#include "base/util.h"

/* ---- The map ----------------------------------------------------------------------------- */

static void *map_reserve(uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return at == MAP_FAILED ? NULL : at;
}

int overlay_map_init(struct overlay_map *map, uint64_t size, uint64_t room)
{
    map->room = room;
    map->pages = overlay_map_pages(size);
    map->present = map_reserve(room * OVERLAY_PAGE);
    map->claimed = map_reserve(room * OVERLAY_PAGE);
    map->dirty = calloc(room, 1);
    return map->present != NULL && map->claimed != NULL && map->dirty != NULL ? 0
                                                                              : -ENOMEM;
}

void overlay_map_fini(struct overlay_map *map)
{
    if (map->present != NULL) {
        munmap(map->present, map->room * OVERLAY_PAGE);
    }
    if (map->claimed != NULL) {
        munmap(map->claimed, map->room * OVERLAY_PAGE);
    }
    free(map->dirty);
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
    HEADER_CRC = 40,       /* of the whole header with this field 0 */
    HEADER_BASE_SIZE = 48, /* 0: the disk's */
    HEADER_BASE = 64,      /* the base's name, for people; zero-terminated */
    FORMAT_VERSION = 1,
    ROOM_PAGES = 64 * 256 - 1, /* a bitmap of 64 MiB less a page: disks of almost 2 TiB */
};
/* Bitmaps beyond this are nobody's: 64 GiB, of disks of 2 PiB. */
static const uint64_t data_offset_max = UINT64_C(64) * GIB;
static const char magic[8] = { 'U', 'M', 'B', 'R', 'O', 'V', 'L', '\n' };

static uint32_t header_crc(const uint8_t *header)
{
    uint8_t copy[HEADER_SIZE];

    memcpy(copy, header, sizeof(copy));
    store_le32(copy + HEADER_CRC, 0);
    return (uint32_t)crc32(0, copy, sizeof(copy));
}

/* The bitmap has room to grow: the file is sparse, so that costs nothing. */
static void store_layout(struct disk_overlay *overlay, uint64_t size)
{
    uint64_t pages = 2 * overlay_map_pages(size);

    pages = pages > ROOM_PAGES ? pages : ROOM_PAGES;
    pages = pages < data_offset_max / OVERLAY_PAGE ? pages
                                                   : data_offset_max / OVERLAY_PAGE - 1;
    overlay->bitmap_offset = HEADER_SIZE;
    overlay->data_offset = align_up(HEADER_SIZE + pages * OVERLAY_PAGE, MIB);
}

static uint64_t store_room(const struct disk_overlay *overlay)
{
    return (overlay->data_offset - overlay->bitmap_offset) / OVERLAY_PAGE;
}

static uint64_t store_size(const struct disk_overlay *overlay, uint64_t size)
{
    return overlay->data_offset + align_up(size, OVERLAY_BLOCK);
}

static int write_all(int fd, const void *bytes, size_t length, off_t offset)
{
    ssize_t n = pwrite(fd, bytes, length, offset);

    return n == (ssize_t)length ? 0 : n < 0 ? -errno : -ENOSPC;
}

static void header_make(const struct disk_overlay *overlay, uint64_t size,
                        uint8_t *header)
{
    memset(header, 0, HEADER_SIZE);
    memcpy(header, magic, sizeof(magic));
    store_le32(header + HEADER_VERSION, FORMAT_VERSION);
    store_le32(header + HEADER_BLOCK, OVERLAY_BLOCK);
    store_le64(header + HEADER_DISK_SIZE, size);
    store_le64(header + HEADER_BITMAP, overlay->bitmap_offset);
    store_le64(header + HEADER_DATA, overlay->data_offset);
    store_le64(header + HEADER_BASE_SIZE, overlay->base_size);
    snprintf((char *)header + HEADER_BASE, HEADER_SIZE - HEADER_BASE, "%s",
             overlay->base->name);
    store_le32(header + HEADER_CRC, header_crc(header));
}

/* A name is durable when its folder is. */
static int sync_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy == NULL ? -1 : open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ret = fd < 0 || fsync(fd) != 0 ? -errno : 0;

    if (fd >= 0) {
        close(fd);
    }
    free(copy);
    return ret == -EINVAL ? 0 : ret; /* a file system that has no such thing */
}

/* A new overlay appears under its name only when it is whole, and locked. */
static int store_create(struct disk_overlay *overlay, const char *path)
{
    uint64_t size = atomic_load(&overlay->disk.size);
    uint8_t header[HEADER_SIZE];
    char *temporary = NULL;
    int fd = -1, ret;

    header_make(overlay, size, header);
    if (asprintf(&temporary, "%s.%d.new", path, (int)getpid()) < 0) {
        return -ENOMEM;
    }
    fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    ret = fd < 0 ? -errno : write_all(fd, header, sizeof(header), 0);
    if (ret == 0 && ftruncate(fd, (off_t)store_size(overlay, size)) != 0) {
        ret = -errno;
    }
    /* linking, not renaming: another VM may have made it meanwhile */
    if (ret == 0 && disk_file_lock(fd, path, false, NULL) != 0) {
        ret = -EBUSY;
    }
    if (ret == 0 && (fsync(fd) != 0 || link(temporary, path) != 0)) {
        ret = -errno;
    }
    if (ret == 0) {
        ret = sync_folder(path);
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

/* What is wrong with the sizes of a header whose checksum is right, which says nothing
 * about who made it; NULL: nothing. */
static const char *header_fault(const struct disk_overlay *overlay, const uint8_t *header)
{
    uint64_t size = load_le64(header + HEADER_DISK_SIZE);
    uint64_t base_size = load_le64(header + HEADER_BASE_SIZE);
    uint64_t data = load_le64(header + HEADER_DATA);

    if ((base_size != 0 ? base_size : size) != overlay->base_size) {
        return "it was made over a base of another size";
    }
    if (load_le64(header + HEADER_BITMAP) != HEADER_SIZE || data % MIB != 0 ||
        data < MIB || data > data_offset_max ||
        overlay_map_pages(size) > (data - HEADER_SIZE) / OVERLAY_PAGE) {
        return "its layout does not fit the disk";
    }
    if (size < overlay->base_size || size % overlay->disk.block_size != 0) {
        return "its disk has an impossible size";
    }
    return NULL;
}

/* The header of an overlay that is there already: its layout and the disk's size. The file
 * is locked. */
static int store_check(struct disk_overlay *overlay, int fd, const char *path,
                       struct umbra_error *error)
{
    uint8_t header[HEADER_SIZE];
    const char *wrong = NULL;
    struct stat st;

    if (pread(fd, header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
        memcmp(header, magic, sizeof(magic)) != 0) {
        wrong = "it is not one of umbra's overlays";
    } else if (load_le32(header + HEADER_CRC) != header_crc(header)) {
        wrong = "its header is damaged";
    } else if (load_le32(header + HEADER_VERSION) != FORMAT_VERSION ||
               load_le32(header + HEADER_BLOCK) != OVERLAY_BLOCK) {
        wrong = "it has another version of the format";
    } else {
        wrong = header_fault(overlay, header);
    }
    if (wrong != NULL) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "overlay %s of disk %s: %s (remove it to start afresh)", path,
                         overlay->base->name, wrong);
    }
    overlay->bitmap_offset = load_le64(header + HEADER_BITMAP);
    overlay->data_offset = load_le64(header + HEADER_DATA);
    atomic_store(&overlay->disk.size, load_le64(header + HEADER_DISK_SIZE));
    /* The file is always made as long as the header says before the header says so. */
    if (fstat(fd, &st) == 0 &&
        (uint64_t)st.st_size < store_size(overlay, atomic_load(&overlay->disk.size))) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "overlay %s of disk %s has been cut off: it has %" PRId64
                         " bytes, its header says %" PRIu64
                         " (get the whole file back, or remove it to start afresh)",
                         path, overlay->base->name, (int64_t)st.st_size,
                         store_size(overlay, atomic_load(&overlay->disk.size)));
    }
    if (ftruncate(fd, (off_t)store_size(overlay, atomic_load(&overlay->disk.size))) !=
        0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "size overlay %s", path);
    }
    return 0;
}

static int store_load_page(struct disk_overlay *overlay, int fd, uint64_t page)
{
    atomic_ulong *words = overlay->map.present + page * (OVERLAY_PAGE / 8);
    uint64_t size = atomic_load(&overlay->disk.size);
    uint64_t blocks = size / OVERLAY_BLOCK + (size % OVERLAY_BLOCK != 0);
    uint8_t bytes[OVERLAY_PAGE];
    ssize_t n = pread(fd, bytes, sizeof(bytes),
                      (off_t)(overlay->bitmap_offset + page * OVERLAY_PAGE));

    if (n != (ssize_t)sizeof(bytes)) {
        return n < 0 ? -errno : -EIO;
    }
    for (unsigned w = 0; w < OVERLAY_PAGE / 8; w++) {
        uint64_t first = (page * (OVERLAY_PAGE / 8) + w) * 64;

        if (first + 64 > blocks &&
            load_le64(bytes + 8 * w) >> (first < blocks ? blocks - first : 0) != 0) {
            return -EUCLEAN; /* blocks behind the disk's end */
        }
        if (load_le64(bytes + 8 * w) != 0) { /* the rest needs no memory */
            atomic_init(&words[w], load_le64(bytes + 8 * w));
        }
    }
    return 0;
}

/* Only what is no hole: the map of a large disk is mostly one. */
static int store_load_map(struct disk_overlay *overlay, int fd)
{
    uint64_t pages = store_room(overlay); /* all: a disk that grows must find none set */
    int ret = 0;

    for (uint64_t p = 0; p < pages && ret == 0; p++) {
        off_t data =
            lseek(fd, (off_t)(overlay->bitmap_offset + p * OVERLAY_PAGE), SEEK_DATA);

        if (data < 0 && errno == ENXIO) {
            return 0;
        }
        if (data >= 0) { /* else the file system does not tell */
            p = ((uint64_t)data - overlay->bitmap_offset) / OVERLAY_PAGE;
        }
        ret = p < pages ? store_load_page(overlay, fd, p) : 0;
    }
    return ret;
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

/* Open and lock what is at @path: -ENOENT, or an error that is told. */
static int store_open_kept(const char *path, int *out, struct umbra_error *error)
{
    struct stat named, opened;

    for (;;) {
        int fd = open(path, O_RDWR | O_CLOEXEC), ret;

        if (fd < 0) {
            return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "open overlay %s",
                               path);
        }
        ret = disk_file_lock(fd, path, false, error);
        /* Who had it may have removed or replaced it while it was waited for. */
        if (ret == 0 && fstat(fd, &opened) == 0 && stat(path, &named) == 0 &&
            named.st_dev == opened.st_dev && named.st_ino == opened.st_ino) {
            *out = fd;
            return 0;
        }
        close(fd);
        if (ret != 0) {
            return ret;
        }
    }
}

static int store_open_fd(struct disk_overlay *overlay, const char *path, int *out,
                         struct umbra_error *error)
{
    uint64_t size = atomic_load(&overlay->disk.size);
    int fd = -1, ret;

    store_layout(overlay, size);
    if (path == NULL) {
        fd = store_nameless();
        ret =
            fd < 0 || ftruncate(fd, (off_t)store_size(overlay, size)) != 0
                ? error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                              "make a temporary overlay of disk %s", overlay->base->name)
                : 0;
    } else {
        ret = store_open_kept(path, &fd, error);
        if (ret == 0) {
            ret = store_check(overlay, fd, path, error);
        } else if (ret == -ENOENT) {
            fd = store_create(overlay, path);
            ret = fd < 0 ? error_errno(error, UMBRA_ERROR_INTERNAL, -fd,
                                       "make overlay %s of disk %s", path,
                                       overlay->base->name)
                         : 0;
        }
    }
    if (ret != 0) {
        if (fd >= 0) {
            close(fd);
        }
        return ret;
    }
    *out = fd;
    return 0;
}

int overlay_store_open(struct disk_overlay *overlay, const char *path,
                       struct umbra_error *error)
{
    int fd = -1, ret = store_open_fd(overlay, path, &fd, error);

    if (ret != 0) {
        return ret;
    }
    ret = overlay_map_init(&overlay->map, atomic_load(&overlay->disk.size),
                           store_room(overlay));
    if (ret == 0 && path != NULL) {
        ret = store_load_map(overlay, fd);
    }
    if (ret == -EUCLEAN) {
        close(fd);
        return error_set(error, UMBRA_ERROR_CONFIG, EUCLEAN,
                         "overlay %s of disk %s: its map names blocks behind the disk's "
                         "end (remove it to start afresh)",
                         path, overlay->base->name);
    }
    if (ret != 0) {
        close(fd);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                           "read the map of overlay %s over %s",
                           path != NULL ? path : "(temporary)", overlay->base->name);
    }
    return disk_file_adopt(fd, path != NULL ? path : "(temporary)", overlay->disk.log,
                           &overlay->store, error);
}

/*
 * The file first, then the header that promises it. What changes in the header is in its
 * first 512 bytes, which no disk tears.
 */
int overlay_store_grow(struct disk_overlay *overlay, uint64_t size)
{
    int fd = disk_file_fd(overlay->store), ret = 0;
    uint8_t header[HEADER_SIZE];

    if (overlay_map_pages(size) > overlay->map.room) {
        return -EFBIG;
    }
    if (ftruncate(fd, (off_t)store_size(overlay, size)) != 0) {
        return -errno;
    }
    if (overlay->kept) {
        header_make(overlay, size, header);
        ret = fdatasync(fd) != 0 ? -errno : write_all(fd, header, sizeof(header), 0);
        if (ret == 0 && fdatasync(fd) != 0) {
            ret = -errno;
        }
    }
    if (ret == 0) {
        pthread_mutex_lock(&overlay->map.lock);
        overlay->map.pages = overlay_map_pages(size);
        pthread_mutex_unlock(&overlay->map.lock);
    }
    return ret;
}
