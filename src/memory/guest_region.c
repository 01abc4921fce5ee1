/* SPDX-License-Identifier: MIT */
/* One region of guest memory as memory of the host: lazily populated, given back, measured. */
#include "memory/guest_region.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

enum { PAGE_SHIFT = 12 };

void guest_region_release(struct guest_region *region)
{
    if (region->host != NULL) {
        munmap(region->host, region->size);
    }
    if (region->fd >= 0) {
        close(region->fd);
    }
    free(region->dirty);
}

uint64_t guest_mem_backing_page(enum guest_mem_backing backing)
{
    switch (backing) {
    case GUEST_MEM_2M:
        return 2 * MIB;
    case GUEST_MEM_1G:
        return GIB;
    default:
        return 4 * KIB;
    }
}

/*
 * Reserve address space for @region so that HVA and GPA agree modulo the largest page
 * that fits: only then can a nested page table map the slot with 2 MiB or 1 GiB leaves.
 */
static uint8_t *region_reserve(const struct guest_region *region)
{
    uint64_t alignment = region->size >= GIB       ? GIB
                         : region->size >= 2 * MIB ? 2 * MIB
                                                   : 0;
    uint64_t length = region->size + alignment;
    uint64_t skip = 0;
    uint8_t *start;

    start =
        mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        return NULL;
    }
    if (alignment != 0) {
        skip = (region->base - (uintptr_t)start) & (alignment - 1);
        if (skip != 0) {
            munmap(start, skip);
        }
        if (skip != alignment) {
            munmap(start + skip + region->size, alignment - skip);
        }
    }
    return start + skip;
}

/* KSM and THP want private anonymous memory (a host gives huge pages to a memfd only when
 * shmem_enabled says so, and by default it does not); everything else is a memfd. */
bool guest_mem_is_private(const struct guest_mem_options *options)
{
    return !options->shared &&
           (options->mergeable || options->backing == GUEST_MEM_AUTO ||
            options->backing == GUEST_MEM_THP);
}

static int region_memfd(const struct guest_mem_options *options,
                        struct guest_region *region, struct umbra_error *error)
{
    static const unsigned flags[] = {
        [GUEST_MEM_1G] = MFD_HUGETLB | (30u << MFD_HUGE_SHIFT),
        [GUEST_MEM_2M] = MFD_HUGETLB | (21u << MFD_HUGE_SHIFT),
    };

    region->fd = memfd_create("umbra-guest",
                              MFD_CLOEXEC | MFD_ALLOW_SEALING | flags[options->backing]);
    if (region->fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot create a memfd for guest memory");
    }
    if (ftruncate(region->fd, (off_t)region->size) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot size the memfd of guest memory to %" PRIu64 " bytes",
                           region->size);
    }
    /* Who shares it could take it away under us otherwise. */
    if (fcntl(region->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot seal the size of the memfd of guest memory");
    }
    return 0;
}

int guest_region_map(const struct guest_mem_options *options, struct guest_region *region,
                     struct umbra_error *error)
{
    bool private = guest_mem_is_private(options);
    int flags = MAP_FIXED;
    void *host;
    int ret;

    if (!private) {
        ret = region_memfd(options, region, error);
        if (ret < 0) {
            return ret;
        }
    }
    region->host = region_reserve(region);
    if (region->host == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot reserve %" PRIu64
                           " MiB of address space for the guest",
                           region->size / MIB);
    }
    flags |= private ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    /* Huge pages are reserved now: a lack of them is an error here, not a SIGBUS later. */
    if (options->backing < GUEST_MEM_2M) {
        flags |= MAP_NORESERVE;
    }
    host = mmap(region->host, region->size, PROT_READ | PROT_WRITE, flags, region->fd, 0);
    if (host == MAP_FAILED) {
        ret = errno;
        return error_errno(error, UMBRA_ERROR_INTERNAL, ret,
                           options->backing >= GUEST_MEM_2M
                               ? "cannot map %" PRIu64
                                 " MiB of guest memory from huge pages (reserve some in "
                                 "/sys/kernel/mm/hugepages, or choose \"thp\")"
                               : "cannot map %" PRIu64 " MiB of guest memory",
                           region->size / MIB);
    }
    return 0;
}

int guest_region_advise(const struct guest_mem_options *options,
                        const struct guest_region *region, struct umbra_error *error)
{
    if (options->backing == GUEST_MEM_THP &&
        madvise(region->host, region->size, MADV_HUGEPAGE) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot ask for transparent huge pages (is "
                           "/sys/kernel/mm/transparent_hugepage/enabled \"never\"?)");
    }
    if (options->backing == GUEST_MEM_AUTO && !options->mergeable) {
        madvise(region->host, region->size, MADV_HUGEPAGE); /* a wish: THP may be off */
    }
    if (options->mergeable && madvise(region->host, region->size, MADV_MERGEABLE) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot offer guest memory to KSM (is CONFIG_KSM on?)");
    }
    /* After the advice above, so that huge pages are what is populated. */
    if (options->prefault &&
        madvise(region->host, region->size, MADV_POPULATE_WRITE) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot take %" PRIu64
                           " MiB of guest memory from the host now",
                           region->size / MIB);
    }
    if (options->locked && mlock(region->host, region->size) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot lock %" PRIu64
                           " MiB of guest memory (raise the limit with ulimit -l, or run "
                           "with CAP_IPC_LOCK)",
                           region->size / MIB);
    }
    madvise(region->host, region->size, MADV_DONTDUMP);
    /* A process forked off has no VM; nor is its fork to make the guest's pages shared. */
    madvise(region->host, region->size, MADV_DONTFORK);
    return 0;
}

/* Have @region's pages in [offset, offset + length) go: zeroes, and holes, from now on. */
int guest_region_drop(const struct guest_mem_options *options,
                      const struct guest_region *region, uint64_t offset, uint64_t length)
{
    int ret;

    if (region->fd >= 0) {
        /* The file holds the pages, so dropping the mapping would free nothing; and unlike
         * MADV_REMOVE this also does for locked memory. */
        do {
            ret = fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            (off_t)(region->fd_offset + offset), (off_t)length);
        } while (ret < 0 && errno == EINTR);
    } else {
        ret = madvise(region->host + offset, length,
                      options->locked ? MADV_DONTNEED_LOCKED : MADV_DONTNEED);
    }
    return ret < 0 ? -errno : 0;
}

/* mincore() says of a page of private memory that was never touched that it is not there. */
static uint64_t region_resident_private(const struct guest_region *region)
{
    unsigned char there[4096];
    const uint64_t step = sizeof(there) << PAGE_SHIFT;
    uint64_t pages = 0;

    for (uint64_t at = 0; at < region->size; at += step) {
        uint64_t part = region->size - at < step ? region->size - at : step;

        if (mincore(region->host + at, part, there) < 0) {
            return 0;
        }
        for (uint64_t i = 0; i < part >> PAGE_SHIFT; i++) {
            pages += there[i] & 1;
        }
    }
    return pages << PAGE_SHIFT;
}

uint64_t guest_region_resident(const struct guest_region *region)
{
    struct stat st;

    if (region->fd < 0) {
        return region_resident_private(region);
    }
    return fstat(region->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

bool guest_region_data(const struct guest_region *region, uint64_t from, uint64_t *start,
                       uint64_t *end)
{
    off_t at;

    *start = from;
    *end = region->size;
    if (region->fd < 0 || from >= region->size) {
        return from < region->size;
    }
    at = lseek(region->fd, (off_t)(region->fd_offset + from), SEEK_DATA);
    if (at < 0) {
        return false; /* ENXIO: holes to the end */
    }
    *start = (uint64_t)at - region->fd_offset;
    at = lseek(region->fd, at, SEEK_HOLE);
    if (at >= 0 && (uint64_t)at - region->fd_offset < region->size) {
        *end = (uint64_t)at - region->fd_offset;
    }
    return *start < region->size;
}
