/* SPDX-License-Identifier: MIT */
/* KVM's binary statistics: a header, descriptors with names, and an array of values. */
#include "vcpu/kvm_stats.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/util.h"

enum {
    STATS_NAME_MAX = 1024, /* bytes of a name's field */
    STATS_COUNT_MAX = 4096,
    STATS_OFFSET_MAX = 16 << 20,
    STATS_VALUES = sizeof(((struct umbra_kvm_stat *)0)->values) / sizeof(uint64_t),
};

int kvm_stats_open(int fd)
{
    int stats_fd = ioctl(fd, KVM_GET_STATS_FD, NULL);

    if (stats_fd >= 0) {
        return stats_fd;
    }
    return errno == ENOTTY || errno == EINVAL ? -ENOTSUP : -errno;
}

/* All of [offset, offset + size), or -EPROTO when the file is shorter. */
static int stats_pread(int fd, void *bytes, size_t size, uint64_t offset)
{
    ssize_t got;

    do {
        got = pread(fd, bytes, size, (off_t)offset);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return -errno;
    }
    return (size_t)got == size ? 0 : -EPROTO;
}

static int stats_header(int fd, struct kvm_stats_header *header)
{
    int ret = stats_pread(fd, header, sizeof(*header), 0);

    if (ret != 0) {
        return ret;
    }
    return header->name_size == 0 || header->name_size > STATS_NAME_MAX ||
                   header->num_desc > STATS_COUNT_MAX ||
                   header->desc_offset > STATS_OFFSET_MAX ||
                   header->data_offset > STATS_OFFSET_MAX
               ? -EPROTO
               : 0;
}

static int stats_describe(const struct kvm_stats_desc *desc, size_t name_size,
                          struct umbra_kvm_stat *stat)
{
    unsigned kind = desc->flags & KVM_STATS_TYPE_MASK;
    unsigned unit = (desc->flags & KVM_STATS_UNIT_MASK) >> KVM_STATS_UNIT_SHIFT;
    unsigned base = desc->flags & KVM_STATS_BASE_MASK;
    size_t length = strnlen(desc->name, name_size);

    if (desc->size == 0 || desc->offset > STATS_OFFSET_MAX || length == name_size) {
        return -EPROTO;
    }
    *stat = (struct umbra_kvm_stat){
        .size = sizeof(*stat),
        /* Kinds and units of kernels to come are numbers as they are. */
        .kind = (enum umbra_kvm_stat_kind)kind,
        .unit = (enum umbra_kvm_stat_unit)unit,
        .base = base == KVM_STATS_BASE_POW2 ? 2 : 10,
        .exponent = desc->exponent,
        .bucket_size = desc->bucket_size,
        .count = desc->size < STATS_VALUES ? desc->size : STATS_VALUES,
    };
    length = length < sizeof(stat->name) ? length : sizeof(stat->name) - 1;
    memcpy(stat->name, desc->name, length);
    return 0;
}

int kvm_stats_read(int stats_fd, umbra_kvm_stat_fn fn, void *context)
{
    struct kvm_stats_header header;
    size_t stride;
    char *bytes;
    int ret = stats_header(stats_fd, &header);

    if (ret != 0) {
        return ret;
    }
    stride = sizeof(struct kvm_stats_desc) + header.name_size;
    bytes = malloc(stride * header.num_desc + 1);
    if (bytes == NULL) {
        return -ENOMEM;
    }
    ret = stats_pread(stats_fd, bytes, stride * header.num_desc, header.desc_offset);
    for (uint32_t i = 0; ret == 0 && i < header.num_desc; i++) {
        /* Kernels make name_size a multiple of 8; nothing else says so. */
        _Alignas(struct kvm_stats_desc) char
            one[sizeof(struct kvm_stats_desc) + STATS_NAME_MAX];
        const struct kvm_stats_desc *desc = (const void *)one;
        struct umbra_kvm_stat stat;

        memcpy(one, bytes + i * stride, stride);
        ret = stats_describe(desc, header.name_size, &stat);
        if (ret == 0) {
            ret = stats_pread(stats_fd, stat.values, stat.count * sizeof(stat.values[0]),
                              (uint64_t)header.data_offset + desc->offset);
        }
        if (ret == 0) {
            fn(context, &stat);
        }
    }
    free(bytes);
    return ret;
}
