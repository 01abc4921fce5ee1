/* SPDX-License-Identifier: MIT */
/* Guest-physical memory: the regions together, bounded access, holes, dirty bits. */
#include "memory/guest_mem.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/guest_region.h"

enum { GUEST_MEM_MAX_REGIONS = 16, PAGE_SHIFT = 12 };

#define BITS_PER_WORD (sizeof(unsigned long) * CHAR_BIT)

struct guest_mem {
    struct guest_mem_options options;
    struct guest_region regions[GUEST_MEM_MAX_REGIONS];
    size_t count;
    /* Sorted only when asked for; hole_count is stored with release after its hole. */
    struct {
        _Atomic gpa base;
        _Atomic uint64_t size;
    } holes[GUEST_MEM_MAX_HOLES];
    atomic_uint hole_count;
    /* guest_mem_resident_lately(): what it found, until when that does. */
    atomic_ulong resident, resident_until;
};

int guest_mem_create(const struct guest_mem_options *options, struct guest_mem **out,
                     struct umbra_error *error)
{
    struct guest_mem *mem = calloc(1, sizeof(*mem));

    if (mem == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                           "cannot allocate the guest memory map");
    }
    mem->options = *options;
    *out = mem;
    return 0;
}

void guest_mem_destroy(struct guest_mem *mem)
{
    if (mem == NULL) {
        return;
    }
    for (size_t i = 0; i < mem->count; i++) {
        guest_region_release(&mem->regions[i]);
    }
    free(mem);
}

static int region_check(const struct guest_mem *mem, gpa base, uint64_t size,
                        struct umbra_error *error)
{
    uint64_t page = guest_mem_backing_page(mem->options.backing);

    if (mem->count == GUEST_MEM_MAX_REGIONS) {
        return error_set(error, UMBRA_ERROR_INTERNAL, ENOSPC, "too many memory regions");
    }
    if (size == 0 || base + size < base || (base | size) % (4 * KIB) != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "memory region 0x%" PRIx64 "+0x%" PRIx64
                         " is empty, wraps, or is not a multiple of 4 KiB",
                         base, size);
    }
    if (size % page != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "memory of 0x%" PRIx64 " bytes at 0x%" PRIx64
                         " is not a multiple of its %" PRIu64 " MiB huge pages",
                         size, base, page / MIB);
    }
    for (size_t i = 0; i < mem->count; i++) {
        const struct guest_region *other = &mem->regions[i];

        if (base < other->base + other->size && other->base < base + size) {
            return error_set(error, UMBRA_ERROR_CONFIG, EEXIST,
                             "memory region 0x%" PRIx64 " overlaps the one at 0x%" PRIx64,
                             base, other->base);
        }
    }
    return 0;
}

int guest_mem_add(struct guest_mem *mem, gpa base, uint64_t size,
                  enum guest_region_kind kind, struct umbra_error *error)
{
    struct guest_region region = { .base = base, .size = size, .kind = kind, .fd = -1 };
    size_t at = mem->count;
    int ret;

    ret = region_check(mem, base, size, error);
    if (ret < 0) {
        return ret;
    }
    region.slot = (unsigned)mem->count;
    ret = guest_region_map(&mem->options, &region, error);
    if (ret == 0) {
        ret = guest_region_advise(&mem->options, &region, error);
    }
    if (ret < 0) {
        guest_region_release(&region);
        return ret;
    }
    while (at > 0 && mem->regions[at - 1].base > base) {
        mem->regions[at] = mem->regions[at - 1];
        at--;
    }
    mem->regions[at] = region;
    mem->count++;
    return 0;
}

const struct guest_region *guest_mem_regions(const struct guest_mem *mem, size_t *count)
{
    *count = mem->count;
    return mem->regions;
}

uint64_t guest_mem_ram_size(const struct guest_mem *mem)
{
    uint64_t total = 0;

    for (size_t i = 0; i < mem->count; i++) {
        total += mem->regions[i].kind == GUEST_REGION_RAM ? mem->regions[i].size : 0;
    }
    return total;
}

static const struct guest_region *region_find(const struct guest_mem *mem, gpa addr)
{
    for (size_t i = 0; i < mem->count; i++) {
        if (addr - mem->regions[i].base < mem->regions[i].size) {
            return &mem->regions[i];
        }
    }
    return NULL;
}

/* Is a byte of [addr, addr + length) hidden? */
static bool mem_hidden(const struct guest_mem *mem, gpa addr, uint64_t length)
{
    /* Acquire pairs with the release in guest_mem_hide(). */
    unsigned count = atomic_load_explicit(&mem->hole_count, memory_order_acquire);

    for (unsigned i = 0; i < count; i++) {
        gpa base = atomic_load_explicit(&mem->holes[i].base, memory_order_relaxed);
        uint64_t size = atomic_load_explicit(&mem->holes[i].size, memory_order_relaxed);

        if (addr < base + size && base < addr + length) {
            return true;
        }
    }
    return false;
}

/* The region that holds all of [addr, addr + length), or NULL. */
static const struct guest_region *region_span(const struct guest_mem *mem, gpa addr,
                                              uint64_t length)
{
    const struct guest_region *region = region_find(mem, addr);

    if (region == NULL || length == 0 || length > region->size - (addr - region->base) ||
        mem_hidden(mem, addr, length)) {
        return NULL;
    }
    return region;
}

void *guest_mem_ptr(const struct guest_mem *mem, gpa addr, uint64_t length)
{
    const struct guest_region *region = region_span(mem, addr, length);

    if (region == NULL || region->kind != GUEST_REGION_RAM) {
        return NULL;
    }
    return region->host + (addr - region->base);
}

const void *guest_mem_const_ptr(const struct guest_mem *mem, gpa addr, uint64_t length)
{
    const struct guest_region *region = region_span(mem, addr, length);

    return region == NULL ? NULL : region->host + (addr - region->base);
}

uint64_t guest_mem_span(const struct guest_mem *mem, gpa addr)
{
    const struct guest_region *region = region_find(mem, addr);
    struct guest_piece pieces[GUEST_MEM_PIECES];
    unsigned count = region == NULL ? 0 : guest_mem_pieces(mem, region, pieces);

    for (unsigned i = 0; i < count; i++) {
        if (addr - pieces[i].base < pieces[i].size) {
            return pieces[i].size - (addr - pieces[i].base);
        }
    }
    return 0;
}

enum copy_kind { COPY_OUT, COPY_IN, COPY_LOAD, COPY_FILL };

/* Walk [addr, addr+length) region by region. */
static int guest_mem_copy(const struct guest_mem *mem, gpa addr, void *buffer,
                          uint64_t length, enum copy_kind kind, uint8_t byte)
{
    uint8_t *bytes = buffer;

    if (mem_hidden(mem, addr, length)) {
        return -EFAULT;
    }
    while (length > 0) {
        const struct guest_region *region = region_find(mem, addr);
        uint64_t offset, part;

        if (region == NULL || (region->kind == GUEST_REGION_ROM &&
                               (kind == COPY_IN || kind == COPY_FILL))) {
            return -EFAULT;
        }
        offset = addr - region->base;
        part = region->size - offset < length ? region->size - offset : length;
        switch (kind) {
        case COPY_OUT:
            memcpy(bytes, region->host + offset, part);
            break;
        case COPY_IN:
        case COPY_LOAD:
            memcpy(region->host + offset, bytes, part);
            break;
        case COPY_FILL:
            memset(region->host + offset, byte, part);
            break;
        }
        addr += part;
        length -= part;
        bytes = bytes == NULL ? NULL : bytes + part;
    }
    return 0;
}

int guest_mem_read(const struct guest_mem *mem, gpa addr, void *buffer, uint64_t length)
{
    return guest_mem_copy(mem, addr, buffer, length, COPY_OUT, 0);
}

static int guest_mem_store(struct guest_mem *mem, gpa addr, const void *buffer,
                           uint64_t length, enum copy_kind kind)
{
    int ret;

    /* The copy only reads from the buffer in these directions. */
    ret = guest_mem_copy(mem, addr, (void *)(uintptr_t)buffer, length, kind, 0);
    if (ret == 0) {
        guest_mem_mark_dirty(mem, addr, length);
    }
    return ret;
}

int guest_mem_write(struct guest_mem *mem, gpa addr, const void *buffer, uint64_t length)
{
    return guest_mem_store(mem, addr, buffer, length, COPY_IN);
}

int guest_mem_load(struct guest_mem *mem, gpa addr, const void *buffer, uint64_t length)
{
    return guest_mem_store(mem, addr, buffer, length, COPY_LOAD);
}

int guest_mem_fill(struct guest_mem *mem, gpa addr, uint8_t byte, uint64_t length)
{
    int ret = guest_mem_copy(mem, addr, NULL, length, COPY_FILL, byte);

    if (ret == 0) {
        guest_mem_mark_dirty(mem, addr, length);
    }
    return ret;
}

int guest_mem_discard(struct guest_mem *mem, gpa addr, uint64_t length)
{
    while (length > 0) {
        const struct guest_region *region = region_find(mem, addr);
        uint64_t offset, part;
        int ret;

        if (region == NULL) {
            return -EFAULT;
        }
        offset = addr - region->base;
        part = region->size - offset < length ? region->size - offset : length;
        ret = guest_region_drop(&mem->options, region, offset, part);
        if (ret < 0) {
            return ret;
        }
        guest_mem_mark_dirty(mem, addr, part);
        addr += part;
        length -= part;
    }
    return 0;
}

uint64_t guest_mem_page_size(const struct guest_mem *mem)
{
    return guest_mem_is_private(&mem->options)
               ? 4 * KIB
               : guest_mem_backing_page(mem->options.backing);
}

int guest_mem_release(struct guest_mem *mem, gpa addr, uint64_t length,
                      uint64_t *released)
{
    const struct guest_region *region = region_span(mem, addr, length);
    uint64_t page = guest_mem_page_size(mem), start, end;
    int ret = 0;

    if (released != NULL) {
        *released = 0;
    }
    if (region == NULL || region->kind != GUEST_REGION_RAM) {
        return -EFAULT;
    }
    /* Pages count from the region's start, as in its file. */
    start = align_up(addr - region->base, page);
    end = align_down(addr - region->base + length, page);
    if (start < end) {
        ret = guest_region_drop(&mem->options, region, start, end - start);
    }
    if (ret == 0 && start < end) {
        /* After the change, so that who takes the bit sees what it stands for. */
        guest_mem_mark_dirty(mem, region->base + start, end - start);
        if (released != NULL) {
            *released = end - start;
        }
    }
    return ret;
}

uint64_t guest_mem_resident(const struct guest_mem *mem)
{
    uint64_t total = 0;

    for (size_t i = 0; i < mem->count; i++) {
        total += guest_region_resident(&mem->regions[i]);
    }
    return total;
}

uint64_t guest_mem_resident_lately(struct guest_mem *mem)
{
    enum { SHARE = 100, SECOND_NS = 1000000000 };
    uint64_t now = clock_ns(), resident, spent;

    /* Acquire pairs with the release below. */
    if (now < atomic_load_explicit(&mem->resident_until, memory_order_acquire)) {
        return atomic_load_explicit(&mem->resident, memory_order_relaxed);
    }
    resident = guest_mem_resident(mem);
    spent = (clock_ns() - now) * SHARE;
    atomic_store_explicit(&mem->resident, resident, memory_order_relaxed);
    atomic_store_explicit(&mem->resident_until,
                          now + (spent > SECOND_NS ? spent : SECOND_NS),
                          memory_order_release);
    return resident;
}

int guest_mem_hide(struct guest_mem *mem, gpa addr, uint64_t length)
{
    unsigned at = atomic_load(&mem->hole_count);

    if (length == 0 || (addr | length) % (1u << PAGE_SHIFT) != 0) {
        return -EINVAL;
    }
    if (mem_hidden(mem, addr, length)) {
        return -EEXIST;
    }
    if (guest_mem_ptr(mem, addr, length) == NULL) {
        return -EFAULT;
    }
    if (at == GUEST_MEM_MAX_HOLES) {
        return -ENOSPC;
    }
    atomic_store_explicit(&mem->holes[at].base, addr, memory_order_relaxed);
    atomic_store_explicit(&mem->holes[at].size, length, memory_order_relaxed);
    /* Release pairs with the acquire in mem_hidden(). */
    atomic_store_explicit(&mem->hole_count, at + 1, memory_order_release);
    return 0;
}

void guest_mem_show(struct guest_mem *mem)
{
    atomic_store(&mem->hole_count, 0);
}

unsigned guest_mem_piece_slot(const struct guest_region *region, unsigned index)
{
    enum { FIRST = 1024 };

    return FIRST + region->slot * GUEST_MEM_PIECES + index;
}

unsigned guest_mem_pieces(const struct guest_mem *mem, const struct guest_region *region,
                          struct guest_piece *pieces)
{
    unsigned count = 0, holes = atomic_load(&mem->hole_count);
    gpa at = region->base, end = region->base + region->size;

    while (at < end) {
        gpa next = end, behind = end;

        for (unsigned i = 0; i < holes; i++) {
            gpa base = atomic_load_explicit(&mem->holes[i].base, memory_order_relaxed);

            if (base >= at && base < next) {
                next = base;
                behind = base +
                         atomic_load_explicit(&mem->holes[i].size, memory_order_relaxed);
            }
        }
        if (next > at && count < GUEST_MEM_PIECES) {
            pieces[count] = (struct guest_piece){
                .base = at,
                .size = next - at,
                .slot = guest_mem_piece_slot(region, count),
            };
            count++;
        }
        at = behind;
    }
    if (count == 1 && pieces[0].size == region->size) {
        pieces[0].slot = region->slot;
    }
    return count;
}

static size_t region_dirty_words(const struct guest_region *region)
{
    return ((region->size >> PAGE_SHIFT) + BITS_PER_WORD - 1) / BITS_PER_WORD;
}

int guest_mem_dirty_enable(struct guest_mem *mem, bool on)
{
    for (size_t i = 0; i < mem->count; i++) {
        struct guest_region *region = &mem->regions[i];

        free(region->dirty);
        region->dirty = NULL;
        if (on) {
            region->dirty = calloc(region_dirty_words(region), sizeof(*region->dirty));
            if (region->dirty == NULL) {
                return -ENOMEM;
            }
        }
    }
    return 0;
}

static void region_mark_dirty(const struct guest_region *region, uint64_t offset,
                              uint64_t length)
{
    for (uint64_t page = offset >> PAGE_SHIFT;
         page <= (offset + length - 1) >> PAGE_SHIFT; page++) {
        /* Release pairs with the acquire of the exchange in guest_mem_dirty_take(). */
        atomic_fetch_or_explicit(&region->dirty[page / BITS_PER_WORD],
                                 1ul << (page % BITS_PER_WORD), memory_order_release);
    }
}

void guest_mem_mark_dirty(struct guest_mem *mem, gpa addr, uint64_t length)
{
    while (length > 0) {
        const struct guest_region *region = region_find(mem, addr);
        uint64_t offset, part;

        if (region == NULL || region->dirty == NULL) {
            return;
        }
        offset = addr - region->base;
        part = region->size - offset < length ? region->size - offset : length;
        region_mark_dirty(region, offset, part);
        addr += part;
        length -= part;
    }
}

void guest_mem_dirty_take(const struct guest_region *region, unsigned long *bitmap)
{
    if (region->dirty == NULL) {
        return;
    }
    for (size_t i = 0; i < region_dirty_words(region); i++) {
        /* Acquire pairs with the release in guest_mem_mark_dirty(). */
        bitmap[i] |= atomic_exchange_explicit(&region->dirty[i], 0, memory_order_acquire);
    }
}
