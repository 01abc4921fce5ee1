/* SPDX-License-Identifier: MIT */
/* What of a file would not survive a loss of power: pages that the page cache has and the
 * disk has not, as cachestat() (Linux 6.5) tells. Flushing is judged by it. */
#ifndef UNIT_DIRTY_PAGES_H
#define UNIT_DIRTY_PAGES_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>

enum { CACHESTAT = 451 }; /* not in every <sys/syscall.h> */

/* Pages in [offset, offset + length) (0: up to the end) that are dirty or on their way;
 * negative: this host does not tell. */
static inline long dirty_pages_of(int fd, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = { offset, length };
    uint64_t stat[5] = { 0 }; /* in the cache, dirty, being written, ... */

    return syscall(CACHESTAT, fd, range, stat, 0) == 0 ? (long)(stat[1] + stat[2]) : -1;
}

static inline long dirty_pages(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct statfs fs;
    long pages = -1;

    if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type != TMPFS_MAGIC) {
        pages = dirty_pages_of(fd, 0, 0);
    }
    if (fd >= 0) {
        close(fd);
    }
    return pages;
}

/* Does this host tell about files where @path is? */
static inline bool dirty_pages_told(const char *path)
{
    return dirty_pages(path) >= 0;
}

#endif
