/* SPDX-License-Identifier: MIT */
/* Inside the file back end: its I/O (file.c) and its opening (file_open.c). */
#ifndef BACKEND_DISK_FILE_H
#define BACKEND_DISK_FILE_H

#include <stdatomic.h>

#include "backend/disk/disk.h"
#include "base/util.h"

struct disk_file {
    struct disk disk;
    int fd;
    bool direct, block_device;
    bool in_memory;            /* tmpfs and its like */
    unsigned memory_alignment; /* of O_DIRECT buffers, bytes */
    atomic_bool full_logged;   /* ENOSPC is said once until a write succeeds */
    char *path;
};

extern const struct disk_ops disk_file_ops;

static inline struct disk_file *file_of(struct disk *disk)
{
    return container_of(disk, struct disk_file, disk);
}

#endif
