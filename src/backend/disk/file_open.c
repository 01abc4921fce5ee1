/* SPDX-License-Identifier: MIT */
/* Opening raw images and block devices: locks, sizes, what direct access needs. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "backend/disk/file.h"
#include "backend/disk/overlay.h"
#include "base/error.h"

enum { LOCK_TRIES = 50, LOCK_PAUSE_US = 10000 };

static bool fd_in_memory(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 &&
           (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/*
 * Two writers ruin an image: hold a lock on the whole file, shared for readers. Open file
 * description locks, so that two disks of one process count too. File systems without
 * locks are let through.
 */
int disk_file_lock(int fd, const char *path, bool readonly, struct umbra_error *error)
{
    struct flock lock = { .l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

    /* A process that was killed lets go of its files a little later than it dies. */
    for (unsigned i = 0; i < LOCK_TRIES; i++) {
        if (fcntl(fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES)) {
            return 0;
        }
        usleep(LOCK_PAUSE_US);
    }
    return error_set(error, UMBRA_ERROR_CONFIG, EBUSY,
                     "disk %s is in use by another VM or disk%s", path,
                     readonly ? "" : " (share it read-only, or put an overlay over it)");
}

static unsigned file_direct_alignment(struct disk_file *file)
{
#ifdef STATX_DIOALIGN
    struct statx stx;

    if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) != 0 && stx.stx_dio_offset_align != 0) {
        file->memory_alignment = stx.stx_dio_mem_align;
        return stx.stx_dio_offset_align;
    }
#endif
    /* Kernels before 6.1 do not say; 4096 is right for all but old 512-byte disks. */
    file->memory_alignment = 4096;
    return 4096;
}

/* Sizes that the guest is told, and that O_DIRECT insists on. */
static int file_geometry(struct disk_file *file, const struct disk_file_options *options,
                         struct umbra_error *error)
{
    struct disk *disk = &file->disk;
    unsigned logical = DISK_SECTOR, physical = 4096;
    int value;

    if (file->block_device) {
        if (ioctl(file->fd, BLKSSZGET, &value) == 0 && value >= DISK_SECTOR) {
            logical = (unsigned)value;
        }
        if (ioctl(file->fd, BLKPBSZGET, &value) == 0 && value >= DISK_SECTOR) {
            physical = (unsigned)value;
        }
    }
    file->memory_alignment = 1;
    if (file->direct) {
        unsigned needed = file_direct_alignment(file);

        if (options->block_size != 0 && options->block_size < needed) {
            return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                             "disk %s: direct access needs blocks of %u bytes, not %u "
                             "(leave block_size out, or use cache=cached)",
                             file->path, needed, options->block_size);
        }
        logical = needed > logical ? needed : logical;
    }
    disk->block_size = options->block_size != 0 ? options->block_size : logical;
    disk->physical_block_size =
        options->physical_block_size != 0 ? options->physical_block_size : physical;
    if (disk->physical_block_size < disk->block_size) {
        disk->physical_block_size = disk->block_size;
    }
    disk->discard_alignment = disk->physical_block_size;
    disk->can_discard = disk->can_write_zeroes = !disk->readonly;
    return 0;
}

static int file_open_fd(struct disk_file *file, const struct disk_file_options *options,
                        struct umbra_error *error)
{
    int flags = O_CLOEXEC | (options->readonly ? O_RDONLY : O_RDWR) |
                (options->direct ? O_DIRECT : 0);
    struct stat st;

    file->fd = open(file->path, flags);
    if (file->fd < 0 && errno == EINVAL && options->direct) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "disk %s: its file system has no direct access (O_DIRECT); use "
                         "cache=cached",
                         file->path);
    }
    if (file->fd < 0 || fstat(file->fd, &st) != 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "open disk %s%s",
                           file->path, options->readonly ? "" : " for writing");
    }
    file->block_device = S_ISBLK(st.st_mode);
    file->in_memory = fd_in_memory(file->fd);
    if (!file->block_device && !S_ISREG(st.st_mode)) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "disk %s is neither a file nor a block device", file->path);
    }
    return disk_file_lock(file->fd, file->path, file->disk.readonly, error);
}

int disk_file_open(const struct disk_file_options *options, const struct log *log,
                   struct disk **disk, struct umbra_error *error)
{
    struct disk_file *file = calloc(1, sizeof(*file));
    int ret = -ENOMEM;

    if (file == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open disk %s",
                           options->path);
    }
    file->fd = -1;
    file->disk.ops = &disk_file_ops;
    file->disk.log = log;
    file->disk.readonly = options->readonly;
    file->direct = options->direct;
    file->disk.name = file->path = strdup(options->path);
    if (file->path == NULL) {
        error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open disk %s", options->path);
        goto fail;
    }
    ret = file_open_fd(file, options, error);
    if (ret == 0) {
        ret = file_geometry(file, options, error);
    }
    if (ret != 0) {
        goto fail;
    }
    ret = disk_file_ops.refresh(&file->disk);
    if (ret != 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "find the size of disk %s",
                    file->path);
        goto fail;
    }
    *disk = &file->disk;
    return 0;
fail:
    disk_file_ops.destroy(&file->disk);
    return ret;
}

int disk_file_fd(struct disk *disk)
{
    return file_of(disk)->fd;
}

int disk_file_adopt(int fd, const char *name, const struct log *log, struct disk **disk,
                    struct umbra_error *error)
{
    struct disk_file *file = calloc(1, sizeof(*file));
    int ret = -ENOMEM;

    if (file == NULL) {
        close(fd);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open %s", name);
    }
    file->fd = fd;
    file->in_memory = fd_in_memory(fd);
    file->memory_alignment = 1;
    file->disk = (struct disk){ .ops = &disk_file_ops,
                                .log = log,
                                .block_size = DISK_SECTOR,
                                .physical_block_size = 4096,
                                .can_discard = true,
                                .can_write_zeroes = true };
    file->disk.name = file->path = strdup(name);
    if (file->path != NULL) {
        ret = 0;
    } else {
        error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "open %s", name);
    }
    if (ret != 0) {
        disk_file_ops.destroy(&file->disk);
        return ret;
    }
    disk_file_ops.refresh(&file->disk);
    *disk = &file->disk;
    return 0;
}
