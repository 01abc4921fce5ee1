/* SPDX-License-Identifier: MIT */
/* Reading kernel and initrd files, bounded and distrustful. */
#include "vmm/boot/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* Open @path as a non-empty regular file. O_NONBLOCK: a FIFO must not hang us. */
static int image_open_file(const char *path, const char *role, int *fd, uint64_t *size,
                           struct umbra_error *error)
{
    struct stat stat;

    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (*fd < 0) {
        enum umbra_error_class code =
            errno == ENOENT || errno == ENOTDIR ? UMBRA_ERROR_MISSING
            : errno == EACCES || errno == EPERM ? UMBRA_ERROR_PERMISSION
                                                : UMBRA_ERROR_CONFIG;

        return error_errno(error, code, errno, "cannot open the %s '%s'", role, path);
    }
    if (fstat(*fd, &stat) != 0) {
        int errnum = errno;

        close(*fd);
        return error_errno(error, UMBRA_ERROR_INTERNAL, errnum, "cannot stat the %s '%s'",
                           role, path);
    }
    if (!S_ISREG(stat.st_mode) || stat.st_size <= 0) {
        close(*fd);
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "the %s '%s' is %s; expected a regular file with the image",
                         role, path,
                         S_ISDIR(stat.st_mode)    ? "a directory"
                         : !S_ISREG(stat.st_mode) ? "not a regular file"
                                                  : "empty");
    }
    *size = (uint64_t)stat.st_size;
    return 0;
}

/* Read into @buffer from the file; a file that became shorter is an error. */
static int image_fill(const struct image *image, size_t offset, uint8_t *buffer,
                      size_t length, struct umbra_error *error)
{
    size_t done = 0;

    while (done < length) {
        size_t left = length - done;
        ssize_t got = pread(image->fd, buffer + done, left < GIB ? left : GIB,
                            (off_t)(offset + done));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_errno(error, UMBRA_ERROR_CONFIG, errno,
                               "cannot read the %s '%s' at offset %zu", image->role,
                               image->name, offset + done);
        }
        if (got == 0) {
            return error_set(error, UMBRA_ERROR_CONFIG, EIO,
                             "the %s '%s' shrank from %zu to %zu bytes while it was "
                             "read; is something writing it?",
                             image->role, image->name, image->size, offset + done);
        }
        done += (size_t)got;
    }
    return 0;
}

int image_open(const char *path, const char *role, uint64_t limit, struct image *image,
               struct umbra_error *error)
{
    uint64_t size = 0;
    void *data;
    int fd, result;

    *image = (struct image){ .fd = -1 };
    result = image_open_file(path, role, &fd, &size, error);
    if (result != 0) {
        return result;
    }
    if (size > limit) {
        close(fd);
        return error_set(error, UMBRA_ERROR_CONFIG, EFBIG,
                         "the %s '%s' has %" PRIu64 " bytes; at most %" PRIu64
                         " are read: strip its debug information (strip -g)",
                         role, path, size, limit);
    }
    /* Room for all of it, which costs nothing before it is needed. */
    data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
        close(fd);
        return error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                         "no memory to read the %s '%s' (%" PRIu64 " bytes)", role, path,
                         size);
    }
    *image = (struct image){
        .name = path, .role = role, .data = data, .size = size, .fd = fd
    };
    return 0;
}

void image_borrow(const void *bytes, size_t size, const char *name, const char *role,
                  struct image *image)
{
    *image = (struct image){
        .name = name, .role = role, .data = bytes, .size = size, .fd = -1
    };
}

void image_close(struct image *image)
{
    if (image->fd >= 0) {
        munmap((void *)(uintptr_t)image->data, image->size);
        close(image->fd);
    }
    *image = (struct image){ .fd = -1 };
}

int image_need(struct image *image, size_t offset, size_t length,
               struct umbra_error *error)
{
    uint8_t *data = (uint8_t *)(uintptr_t)image->data;
    size_t end = offset + length;
    int result;

    if (image->fd < 0 || end <= image->fetched) {
        return 0;
    }
    /* What was read is not read again: it may have been checked already. */
    if (offset < image->fetched) {
        offset = image->fetched;
    }
    if (end - offset >= 4 * MIB) {
        madvise(data, image->size, MADV_HUGEPAGE); /* fewer faults, where there are any */
    }
    result = image_fill(image, offset, data + offset, end - offset, error);
    if (result == 0 && offset == image->fetched) {
        image->fetched = end;
    }
    return result;
}

int image_read(const char *path, const char *role, uint64_t limit, struct image *image,
               struct umbra_error *error)
{
    int result = image_open(path, role, limit, image, error);

    if (result == 0) {
        result = image_need(image, 0, image->size, error);
    }
    if (result != 0) {
        image_close(image);
    }
    return result;
}

int image_put(struct image *image, size_t offset, size_t length, struct guest_mem *mem,
              gpa base, struct umbra_error *error)
{
    while (length > 0) {
        uint64_t span = guest_mem_span(mem, base);
        size_t part = span < length ? (size_t)span : length;
        uint8_t *host = guest_mem_ptr(mem, base, part);
        int result = 0;

        if (host == NULL) {
            return error_set(error, UMBRA_ERROR_INTERNAL, EFAULT,
                             "the place chosen for the %s '%s' is not RAM: 0x%" PRIx64,
                             image->role, image->name, base);
        }
        if (image->fd < 0) {
            memcpy(host, image->data + offset, part);
        } else {
            result = image_fill(image, offset, host, part, error);
        }
        guest_mem_mark_dirty(mem, base, part);
        if (result != 0) {
            return result;
        }
        offset += part;
        base += part;
        length -= part;
    }
    return 0;
}
