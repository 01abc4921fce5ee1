/* SPDX-License-Identifier: MIT */
/* Dirty tracking by bitmap and by ring (KVM api.rst 4.8, 4.117, 8.29). */
#include "vcpu/dirty.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"

#define BITS_PER_WORD (sizeof(unsigned long) * CHAR_BIT)

struct dirty_region {
    const struct guest_region *region;
    unsigned long *bitmap;  /* what is to be told */
    unsigned long *scratch; /* a whole number of 64-bit words, as KVM wants it */
    size_t words;           /* of each */
    struct guest_piece pieces[GUEST_MEM_PIECES];
    unsigned piece_count;
};

struct dirty_ring {
    struct kvm_dirty_gfn *entries;
    uint32_t next;
};

struct dirty_tracker {
    pthread_mutex_t lock;
    struct vcpu_set *set;
    struct guest_mem *mem;
    bool ring;
    bool manual_clear;
    struct dirty_region *regions;
    size_t region_count;
    struct dirty_ring *rings; /* one a vCPU */
};

static int dirty_enable(int vm_fd, uint32_t cap, uint64_t argument)
{
    struct kvm_enable_cap enable = { .cap = cap, .args = { argument } };

    return ioctl(vm_fd, KVM_ENABLE_CAP, &enable) < 0 ? -errno : 0;
}

int dirty_ring_enable(int vm_fd)
{
    const uint64_t bytes = DIRTY_RING_ENTRIES * sizeof(struct kvm_dirty_gfn);
    int most = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING);

    if (most < (int)bytes) {
        return -ENOTSUP;
    }
    return dirty_enable(vm_fd, KVM_CAP_DIRTY_LOG_RING, bytes);
}

int dirty_bitmap_enable(int vm_fd)
{
    return dirty_enable(vm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                        KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
}

static int dirty_map_rings(struct dirty_tracker *tracker)
{
    unsigned count = tracker->set->options.count;

    tracker->rings = calloc(count, sizeof(*tracker->rings));
    if (tracker->rings == NULL) {
        return -ENOMEM;
    }
    for (unsigned i = 0; i < count; i++) {
        void *entries =
            mmap(NULL, DIRTY_RING_ENTRIES * sizeof(struct kvm_dirty_gfn),
                 PROT_READ | PROT_WRITE, MAP_SHARED, tracker->set->vcpus[i].fd,
                 (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE));

        if (entries == MAP_FAILED) {
            return -errno;
        }
        tracker->rings[i].entries = entries;
    }
    return 0;
}

static int dirty_add_regions(struct dirty_tracker *tracker)
{
    const struct guest_region *regions;
    size_t count;

    regions = guest_mem_regions(tracker->mem, &count);
    tracker->regions = calloc(count, sizeof(*tracker->regions));
    if (tracker->regions == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        struct dirty_region *dirty = &tracker->regions[tracker->region_count];

        if (regions[i].kind != GUEST_REGION_RAM) {
            continue;
        }
        dirty->region = &regions[i];
        dirty->words = align_up(regions[i].size / 4096, 64) / BITS_PER_WORD;
        dirty->bitmap = calloc(dirty->words, sizeof(*dirty->bitmap));
        dirty->scratch =
            tracker->ring ? NULL : calloc(dirty->words, sizeof(*dirty->scratch));
        tracker->region_count++;
        if (dirty->bitmap == NULL || (dirty->scratch == NULL && !tracker->ring)) {
            return -ENOMEM;
        }
    }
    dirty_tracker_layout(tracker);
    return guest_mem_dirty_enable(tracker->mem, true);
}

int dirty_tracker_create(struct vcpu_set *set, struct guest_mem *mem, bool ring,
                         struct dirty_tracker **out, struct umbra_error *error)
{
    struct dirty_tracker *tracker = calloc(1, sizeof(*tracker));
    int ret;

    if (tracker == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                           "cannot track dirty pages");
    }
    pthread_mutex_init(&tracker->lock, NULL);
    tracker->set = set;
    tracker->mem = mem;
    tracker->ring = ring;
    tracker->manual_clear = ioctl(set->options.vm_fd, KVM_CHECK_EXTENSION,
                                  KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) > 0;
    ret = dirty_add_regions(tracker);
    if (ret == 0 && ring) {
        ret = dirty_map_rings(tracker);
    }
    if (ret < 0) {
        dirty_tracker_destroy(tracker);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot track dirty pages");
    }
    *out = tracker;
    return 0;
}

void dirty_tracker_destroy(struct dirty_tracker *tracker)
{
    if (tracker == NULL) {
        return;
    }
    for (unsigned i = 0; tracker->rings != NULL && i < tracker->set->options.count; i++) {
        if (tracker->rings[i].entries != NULL) {
            munmap(tracker->rings[i].entries,
                   DIRTY_RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
        }
    }
    for (size_t i = 0; i < tracker->region_count; i++) {
        free(tracker->regions[i].bitmap);
        free(tracker->regions[i].scratch);
    }
    free(tracker->rings);
    free(tracker->regions);
    pthread_mutex_destroy(&tracker->lock);
    free(tracker);
}

/* Page @page of @piece was written. */
static void dirty_mark_piece(struct dirty_region *dirty, const struct guest_piece *piece,
                             uint64_t page)
{
    if (page < piece->size / 4096) {
        page += (piece->base - dirty->region->base) / 4096;
        dirty->bitmap[page / BITS_PER_WORD] |= 1ul << (page % BITS_PER_WORD);
    }
}

static void dirty_mark(struct dirty_tracker *tracker, uint32_t slot, uint64_t page)
{
    for (size_t i = 0; i < tracker->region_count; i++) {
        struct dirty_region *dirty = &tracker->regions[i];

        for (unsigned p = 0; p < dirty->piece_count; p++) {
            if (dirty->pieces[p].slot == (slot & 0xffff)) {
                dirty_mark_piece(dirty, &dirty->pieces[p], page);
            }
        }
    }
}

/* Empty every ring into the bitmaps. The caller holds the lock. */
static int dirty_harvest(struct dirty_tracker *tracker)
{
    bool any = false;

    for (unsigned i = 0; i < tracker->set->options.count; i++) {
        struct dirty_ring *ring = &tracker->rings[i];

        for (uint32_t n = 0; n < DIRTY_RING_ENTRIES; n++) {
            struct kvm_dirty_gfn *entry = &ring->entries[ring->next % DIRTY_RING_ENTRIES];

            /* Acquire pairs with KVM's release when it publishes an entry (8.29). */
            if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) !=
                KVM_DIRTY_GFN_F_DIRTY) {
                break;
            }
            dirty_mark(tracker, entry->slot, entry->offset);
            /* Release pairs with KVM's acquire in KVM_RESET_DIRTY_RINGS. */
            __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
            ring->next++;
            any = true;
        }
    }
    if (any && ioctl(tracker->set->options.vm_fd, KVM_RESET_DIRTY_RINGS, 0) < 0) {
        return -errno;
    }
    return 0;
}

int dirty_tracker_ring_full(struct dirty_tracker *tracker)
{
    int ret;

    pthread_mutex_lock(&tracker->lock);
    ret = dirty_harvest(tracker);
    pthread_mutex_unlock(&tracker->lock);
    return ret;
}

/* KVM's bitmap of one slot, cleared by the taking. */
static int dirty_take_bitmap(struct dirty_tracker *tracker, struct dirty_region *dirty,
                             const struct guest_piece *piece)
{
    size_t words = align_up(piece->size / 4096, 64) / BITS_PER_WORD;
    struct kvm_dirty_log get = { .slot = piece->slot, .dirty_bitmap = dirty->scratch };
    struct kvm_clear_dirty_log clear = {
        .slot = piece->slot,
        .num_pages = (uint32_t)(piece->size / 4096),
        .dirty_bitmap = dirty->scratch,
    };

    if (ioctl(tracker->set->options.vm_fd, KVM_GET_DIRTY_LOG, &get) < 0) {
        return -errno;
    }
    if (tracker->manual_clear &&
        ioctl(tracker->set->options.vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0) {
        return -errno;
    }
    for (size_t i = 0; i < words; i++) {
        for (unsigned long word = dirty->scratch[i]; word != 0; word &= word - 1) {
            dirty_mark_piece(dirty, piece,
                             i * BITS_PER_WORD + (unsigned)__builtin_ctzl(word));
        }
    }
    return 0;
}

/* All that KVM has logged, into the bitmaps. The caller holds the lock. */
static int dirty_gather(struct dirty_tracker *tracker)
{
    int ret = tracker->ring ? dirty_harvest(tracker) : 0;

    for (size_t i = 0; !tracker->ring && i < tracker->region_count; i++) {
        struct dirty_region *dirty = &tracker->regions[i];

        for (unsigned p = 0; ret == 0 && p < dirty->piece_count; p++) {
            ret = dirty_take_bitmap(tracker, dirty, &dirty->pieces[p]);
        }
    }
    return ret;
}

int dirty_tracker_gather(struct dirty_tracker *tracker)
{
    int ret;

    pthread_mutex_lock(&tracker->lock);
    ret = dirty_gather(tracker);
    pthread_mutex_unlock(&tracker->lock);
    return ret;
}

void dirty_tracker_layout(struct dirty_tracker *tracker)
{
    pthread_mutex_lock(&tracker->lock);
    for (size_t i = 0; i < tracker->region_count; i++) {
        struct dirty_region *dirty = &tracker->regions[i];

        dirty->piece_count = guest_mem_pieces(tracker->mem, dirty->region, dirty->pieces);
    }
    pthread_mutex_unlock(&tracker->lock);
}

static void dirty_report(struct dirty_region *dirty, void (*fn)(void *context, gpa page),
                         void *context)
{
    for (size_t i = 0; i < dirty->words; i++) {
        while (dirty->bitmap[i] != 0) {
            unsigned bit = (unsigned)__builtin_ctzl(dirty->bitmap[i]);

            dirty->bitmap[i] &= dirty->bitmap[i] - 1;
            fn(context, dirty->region->base + (i * BITS_PER_WORD + bit) * 4096);
        }
    }
}

int dirty_tracker_fetch(struct dirty_tracker *tracker,
                        void (*fn)(void *context, gpa page), void *context,
                        struct umbra_error *error)
{
    int ret;

    pthread_mutex_lock(&tracker->lock);
    ret = dirty_gather(tracker);
    for (size_t i = 0; ret == 0 && i < tracker->region_count; i++) {
        guest_mem_dirty_take(tracker->regions[i].region, tracker->regions[i].bitmap);
        dirty_report(&tracker->regions[i], fn, context);
    }
    pthread_mutex_unlock(&tracker->lock);
    return ret < 0 ? error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                                 "cannot fetch the dirty log (%s)",
                                 tracker->ring ? "ring" : "bitmap")
                   : 0;
}
