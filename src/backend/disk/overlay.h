/* SPDX-License-Identifier: MIT */
/* Inside the overlay back end: its map of blocks and the file it is kept in. */
#ifndef BACKEND_DISK_OVERLAY_H
#define BACKEND_DISK_OVERLAY_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/disk/disk.h"

enum {
    OVERLAY_BLOCK = 4096,
    OVERLAY_PAGE = 4096, /* of the bitmap */
    OVERLAY_PAGE_BITS = OVERLAY_PAGE * 8,
};

/*
 * Which blocks the overlay has. `present` is only ever set, after the block's data was
 * written; `claimed` marks blocks on their way there, so that two requests never fill
 * the same one. The bits have address space for all that the layout has room for, and
 * memory where they are set, so that a disk can grow under its queues.
 */
struct overlay_map {
    uint64_t room; /* bitmap pages that the layout has room for */
    atomic_ulong *present;
    pthread_mutex_t lock; /* of what follows */
    uint64_t pages;       /* in use */
    unsigned long *claimed;
    uint8_t *dirty; /* a byte a bitmap page: changed since it was last kept */
    bool flushing;
};

struct disk_overlay {
    struct disk disk;
    struct disk *base;  /* read only */
    struct disk *store; /* block n lies at data_offset + n * OVERLAY_BLOCK */
    uint64_t base_size; /* behind it, up to the disk's size, is nothing: zeroes */
    uint64_t bitmap_offset, data_offset;
    bool kept;
    struct overlay_map map;
    pthread_mutex_t grow_lock;
};

/* For disks of @size bytes now and @room bitmap pages in the end. */
int overlay_map_init(struct overlay_map *map, uint64_t size, uint64_t room);
void overlay_map_fini(struct overlay_map *map);
static inline uint64_t overlay_map_pages(uint64_t size)
{
    const uint64_t page = OVERLAY_BLOCK * (uint64_t)OVERLAY_PAGE_BITS;

    return size / page + (size % page != 0);
}

static inline bool overlay_has(const struct overlay_map *map, uint64_t block)
{
    /* Acquire: pairs with overlay_map_settle()'s release, after the data was written. */
    return (atomic_load_explicit(&map->present[block / 64], memory_order_acquire) >>
                (block % 64) &
            1) != 0;
}

/* Claim the blocks of [first, last] that are absent. -EBUSY, claiming none, when one of
 * them is claimed already. */
int overlay_map_claim(struct overlay_map *map, uint64_t first, uint64_t last);
/* Give up the claims on [first, last]; @done: the blocks are there now. */
void overlay_map_settle(struct overlay_map *map, uint64_t first, uint64_t last,
                        bool done);

/* The store and the map: a nameless file, or the one at @path, created or checked
 * (docs/disks.md). The disk's size, @size or the base's at first, becomes what was kept. */
int overlay_store_open(struct disk_overlay *overlay, const char *path,
                       struct umbra_error *error);
/* Durably make room for @size bytes; the disk's size is the caller's to change. */
int overlay_store_grow(struct disk_overlay *overlay, uint64_t size);

/*
 * overlay_flush.c: FLUSH of a kept overlay, through @store. -EBUSY: another one is under
 * way, so that the pages could get out of order; ask again.
 */
int overlay_flush(struct disk_overlay *overlay, struct disk_queue *store,
                  struct disk_request *request);
/* A clean end keeps what was not flushed, too. */
void overlay_keep(struct disk_overlay *overlay);

/* file_open.c: lock a whole image, before anything that it says is believed. EBUSY when
 * another VM or disk has it. */
int disk_file_lock(int fd, const char *path, bool readonly, struct umbra_error *error);
/* Use @fd, which is locked and taken over, also on failure. */
int disk_file_adopt(int fd, const char *name, const struct log *log, struct disk **disk,
                    struct umbra_error *error);
int disk_file_fd(struct disk *disk);

#endif
