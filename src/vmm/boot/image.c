/* SPDX-License-Identifier: MIT */
/* Reading kernel and initrd files, bounded and distrustful. */
#include "vmm/boot/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* Open @path as a non-empty regular file. O_NONBLOCK: a FIFO must not hang us. */
static int image_open(const char *path, const char *role, int *fd, uint64_t *size,
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

/* Fill @buffer from @fd; a file that became shorter is an error. */
static int image_fill(int fd, const char *path, const char *role, uint8_t *buffer,
                      uint64_t size, struct umbra_error *error)
{
    uint64_t done = 0;

    while (done < size) {
        uint64_t left = size - done;
        ssize_t got = pread(fd, buffer + done, left < GIB ? left : GIB, (off_t)done);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_errno(error, UMBRA_ERROR_CONFIG, errno,
                               "cannot read the %s '%s' at offset %" PRIu64, role, path,
                               done);
        }
        if (got == 0) {
            return error_set(error, UMBRA_ERROR_CONFIG, EIO,
                             "the %s '%s' shrank from %" PRIu64 " to %" PRIu64
                             " bytes while it was read; is something writing it?",
                             role, path, size, done);
        }
        done += (uint64_t)got;
    }
    return 0;
}

int image_read(const char *path, const char *role, uint64_t limit, struct image *image,
               struct umbra_error *error)
{
    uint8_t *data = NULL;
    uint64_t size = 0;
    int fd, result;

    memset(image, 0, sizeof(*image));
    result = image_open(path, role, &fd, &size, error);
    if (result != 0) {
        return result;
    }
    if (size > limit) {
        result = error_set(error, UMBRA_ERROR_CONFIG, EFBIG,
                           "the %s '%s' has %" PRIu64 " bytes; at most %" PRIu64
                           " are read: strip its debug information (strip -g)",
                           role, path, size, limit);
        goto fail;
    }
    data = malloc(size);
    if (data == NULL) {
        result = error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                           "no memory to read the %s '%s' (%" PRIu64 " bytes)", role,
                           path, size);
        goto fail;
    }
    result = image_fill(fd, path, role, data, size, error);
    if (result != 0) {
        goto fail;
    }
    close(fd);
    image_borrow(data, size, path, role, image);
    image->owned = data;
    return 0;
fail:
    free(data);
    close(fd);
    return result;
}

void image_borrow(const void *bytes, size_t size, const char *name, const char *role,
                  struct image *image)
{
    *image = (struct image){ .name = name, .role = role, .data = bytes, .size = size };
}

void image_release(struct image *image)
{
    if (image != NULL) {
        free(image->owned);
        memset(image, 0, sizeof(*image));
    }
}

int image_file_size(const char *path, const char *role, uint64_t *size,
                    struct umbra_error *error)
{
    int fd, result = image_open(path, role, &fd, size, error);

    if (result == 0) {
        close(fd);
    }
    return result;
}

int image_file_load(const char *path, const char *role, struct guest_mem *mem, gpa base,
                    uint64_t size, struct umbra_error *error)
{
    uint8_t *host = guest_mem_ptr(mem, base, size);
    uint64_t now = 0;
    int fd, result = image_open(path, role, &fd, &now, error);

    if (result != 0) {
        return result;
    }
    if (host == NULL) {
        result = error_set(error, UMBRA_ERROR_INTERNAL, EFAULT,
                           "the place chosen for the %s '%s' is not RAM: 0x%" PRIx64,
                           role, path, base);
    } else {
        result = image_fill(fd, path, role, host, size, error);
        guest_mem_mark_dirty(mem, base, size);
    }
    close(fd);
    return result;
}
