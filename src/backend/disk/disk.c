/* SPDX-License-Identifier: MIT */
/* What disk back ends share. */
#include "backend/disk/disk.h"

#include <stdlib.h>

void disk_destroy(struct disk *disk)
{
    if (disk != NULL) {
        disk->ops->destroy(disk);
    }
}

struct iovec *disk_iov_slice(const struct iovec *iov, unsigned count, uint64_t skip,
                             uint64_t max, unsigned *out_count)
{
    struct iovec *slice = malloc((count > 0 ? count : 1) * sizeof(*slice));
    unsigned used = 0;

    for (unsigned i = 0; slice != NULL && i < count && max > 0; i++) {
        size_t length = iov[i].iov_len;

        if (skip >= length) {
            skip -= length;
            continue;
        }
        length -= (size_t)skip;
        if (length > max) {
            length = (size_t)max;
        }
        slice[used++] = (struct iovec){ .iov_base = (char *)iov[i].iov_base + skip,
                                        .iov_len = length };
        max -= length;
        skip = 0;
    }
    *out_count = used;
    return slice;
}
