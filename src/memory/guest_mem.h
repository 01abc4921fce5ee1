/* SPDX-License-Identifier: MIT */
/*
 * The guest-physical address space as host memory: RAM and ROM regions, lazily populated:
 * private memory in transparent huge pages by default, a memfd where it is shared. Only this
 * layer turns a guest-physical address (GPA) into a host pointer, and only for ranges that
 * lie wholly inside one region.
 *
 * Threads: the set of regions is fixed once the VM runs, so lookups take no lock.
 * Contents are shared with the guest: read each guest-written word once
 * (guest_mem_load*), and expect it to change at any time.
 */
#ifndef MEMORY_GUEST_MEM_H
#define MEMORY_GUEST_MEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "base/util.h"

/* A guest-physical address in bytes. Never cast it to a pointer. */
typedef uint64_t gpa;

enum guest_mem_backing {
    GUEST_MEM_AUTO, /* as THP where nothing has to share the memory, but not insisted on */
    GUEST_MEM_4K,   /* ordinary pages of a memfd */
    GUEST_MEM_THP,  /* private memory and madvise(MADV_HUGEPAGE) */
    GUEST_MEM_2M,   /* hugetlbfs, 2 MiB pages */
    GUEST_MEM_1G,   /* hugetlbfs, 1 GiB pages */
};

struct guest_mem_options {
    enum guest_mem_backing backing;
    bool prefault;  /* populate at creation */
    bool mergeable; /* offer the pages to KSM: private anonymous memory */
    bool locked;    /* mlock */
    bool shared;    /* with another process (vhost-user): a memfd, MAP_SHARED */
};

enum guest_region_kind {
    GUEST_REGION_RAM,
    GUEST_REGION_ROM, /* guest writes exit to the bus instead of landing in memory */
};

struct guest_region {
    gpa base;
    uint64_t size;
    enum guest_region_kind kind;
    uint8_t *host;       /* HVA of base, congruent to it modulo 1 GiB where size allows */
    int fd;              /* the memfd, -1 for private memory */
    uint64_t fd_offset;  /* of base within fd */
    unsigned slot;       /* KVM memslot number */
    atomic_ulong *dirty; /* a bit a page, for umbra's own writes; NULL: off */
};

struct guest_mem;

int guest_mem_create(const struct guest_mem_options *options, struct guest_mem **mem,
                     struct umbra_error *error);
void guest_mem_destroy(struct guest_mem *mem);

/* Add a region before the VM runs. @base and @size are multiples of 4 KiB (of the huge
 * page size with hugetlbfs); overlapping another region or wrapping is an error. */
int guest_mem_add(struct guest_mem *mem, gpa base, uint64_t size,
                  enum guest_region_kind kind, struct umbra_error *error);

/* The regions, sorted by base. Owned by @mem. */
const struct guest_region *guest_mem_regions(const struct guest_mem *mem, size_t *count);

/* Total bytes of RAM configured. */
uint64_t guest_mem_ram_size(const struct guest_mem *mem);

/*
 * A host pointer to [addr, addr + length), for reading and writing, or NULL unless that
 * range is non-empty and wholly inside one RAM region. A caller that writes through it
 * calls guest_mem_mark_dirty() afterwards.
 */
void *guest_mem_ptr(const struct guest_mem *mem, gpa addr, uint64_t length);

/* The same for reading only; ROM counts too. */
const void *guest_mem_const_ptr(const struct guest_mem *mem, gpa addr, uint64_t length);

/* The bytes of the region that holds @addr from @addr to its end; 0 when there is none.
 */
uint64_t guest_mem_span(const struct guest_mem *mem, gpa addr);

/*
 * The next part of @region from @from on that was ever written: [*start, *end) as offsets;
 * false when there is no more. Reading only such parts takes no memory from the host. Where
 * the host cannot tell, all of it is one part.
 */
bool guest_region_data(const struct guest_region *region, uint64_t from, uint64_t *start,
                       uint64_t *end);

/* Copy out of and into guest memory; ranges may cross adjacent regions. -EFAULT, with
 * nothing promised about the destination, when a byte lies outside (ROM may be read, not
 * written). */
int guest_mem_read(const struct guest_mem *mem, gpa addr, void *buffer, uint64_t length);
int guest_mem_write(struct guest_mem *mem, gpa addr, const void *buffer, uint64_t length);
int guest_mem_fill(struct guest_mem *mem, gpa addr, uint8_t byte, uint64_t length);

/* As guest_mem_write, but into ROM too: for loaders, before the VM runs. */
int guest_mem_load(struct guest_mem *mem, gpa addr, const void *buffer, uint64_t length);

/* Throw every page away (contents become zeroes), as at reset. */
int guest_mem_discard(struct guest_mem *mem, gpa addr, uint64_t length);

/*
 * Give RAM back to the host while the guest runs: the whole backing pages (see
 * guest_mem_page_size) inside [addr, addr + length) read as zeroes from now on and take no
 * memory until something touches them; the rest of the range keeps its contents. Marks what
 * it changed dirty. Any thread. -EFAULT, with nothing done, unless the range is wholly
 * inside one RAM region. @released (may be NULL): the bytes that could go.
 */
int guest_mem_release(struct guest_mem *mem, gpa addr, uint64_t length,
                      uint64_t *released);

/* What RAM comes from the host in: 4 KiB, or a hugetlbfs page. A power of two. */
uint64_t guest_mem_page_size(const struct guest_mem *mem);

/* The bytes of host memory that the regions take now. Any thread; slow on private memory. */
uint64_t guest_mem_resident(const struct guest_mem *mem);

/* The same as of at most a second ago, or longer where finding out takes long: asking again
 * and again costs a hundredth of a processor at most. Any thread. */
uint64_t guest_mem_resident_lately(struct guest_mem *mem);

/*
 * Planned faults: RAM that is there no more. Hidden ranges are outside memory for
 * everything here, but pointers that were given out stay valid, and the contents stay.
 * Change them while the VM stands still; lookups may go on. -EINVAL: not whole pages,
 * -EFAULT: not wholly inside a RAM region, -EEXIST: part of it is hidden already, -ENOSPC.
 */
enum { GUEST_MEM_MAX_HOLES = 16, GUEST_MEM_PIECES = GUEST_MEM_MAX_HOLES + 1 };

/* A part of a region that is there, and its KVM memslot: a region without holes is one part
 * in the region's own slot; else they have slots behind those of whole regions. */
struct guest_piece {
    gpa base;
    uint64_t size;
    unsigned slot;
};

int guest_mem_hide(struct guest_mem *mem, gpa addr, uint64_t length);
void guest_mem_show(struct guest_mem *mem);
/* The parts of @region that are not hidden, in order; there are at most GUEST_MEM_PIECES.
 * Returns how many. */
unsigned guest_mem_pieces(const struct guest_mem *mem, const struct guest_region *region,
                          struct guest_piece *pieces);
/* The slot that part @index of @region has if it is not all of it. */
unsigned guest_mem_piece_slot(const struct guest_region *region, unsigned index);

/*
 * Dirty tracking of the writes that umbra's own devices make, a bit a page; the guest's
 * own writes are in KVM's log, and src/vcpu/dirty.h joins both. Enable it while the VM is
 * paused; mark and take from any thread.
 */
int guest_mem_dirty_enable(struct guest_mem *mem, bool on);
void guest_mem_mark_dirty(struct guest_mem *mem, gpa addr, uint64_t length);
/* Or the bits set since the last take into @bitmap (a bit for each page of @region). */
void guest_mem_dirty_take(const struct guest_region *region, unsigned long *bitmap);

#endif
