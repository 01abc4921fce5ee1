/* SPDX-License-Identifier: MIT */
/*
 * A hostile driver of a virtio-balloon, step by step: page numbers, ranges, statistics and
 * configuration of any kind, over rings that are kept well (then exactly the pages named may
 * be gone after each step) or overwritten with anything (then at least what is no RAM stays
 * as it was, and a reset brings the device back). The loop is played here, so that a run is
 * always the same.
 */
#include <unistd.h>

#include "fuzz.h"
#include "unit/mmio_driver.h"
#include "virtio/balloon/balloon.h"
#include "virtio/transport/transport.h"

enum {
    PAGE = 4096,
    ROM = 0xe0000,
    HIGH = 0x100000, /* RAM again, up to END */
    END = 0x200000,
    PAGES = END / PAGE,
    BUFFERS = 0x10000, /* one of BUFFER bytes for each descriptor of each queue */
    BUFFER = 0x800,
    LENT = 0x60000, /* only pages from here on are named over kept rings */
    QUEUES = QUEUE_REPORTING + 1,
    QUEUE = 16,
    ROUNDS = 200, /* of the loop; more is a spin */
    REQUEST_MAX = 256 << 10,
    MARK = 0x4b524d50,
};

struct rig {
    struct guest_mem *mem;
    struct device_env env;
    struct log log;
    struct virtio_device *vdev;
    struct device *device;
    struct drv queues[QUEUES];
    /* What is to be: which pages the host took, and which are in the balloon. */
    bool gone[PAGES], inside[PAGES];
    bool kept; /* the rings are */
    bool failed, poisoned;
    uint64_t features;
};

static bool page_is_ram(uint64_t page)
{
    return page < ROM / PAGE || (page >= HIGH / PAGE && page < PAGES);
}

static uint32_t page_mark(uint64_t page)
{
    return MARK + (uint32_t)page;
}

static void mark(struct rig *r, uint64_t page)
{
    uint32_t value = page_mark(page);

    guest_mem_load(r->mem, page * PAGE, &value, sizeof(value));
    guest_mem_load(r->mem, page * PAGE + PAGE - 4, &value, sizeof(value));
    r->gone[page] = false;
}

static bool page_holds(const struct rig *r, uint64_t page, uint32_t value)
{
    const uint8_t *at = guest_mem_const_ptr(r->mem, page * PAGE, PAGE);

    return load_le32(at) == value && load_le32(at + PAGE - 4) == value;
}

static void make(struct rig *r)
{
    const struct virtio_balloon_options options = {
        .id = "balloon", .target = 64 * PAGE, .deflate_on_oom = true, .reporting = true
    };
    struct guest_mem_options memory = { 0 };
    struct umbra_error error;

    FUZZ_EXPECT(guest_mem_create(&memory, &r->mem, &error) == 0);
    FUZZ_EXPECT(guest_mem_add(r->mem, 0, ROM, GUEST_REGION_RAM, &error) == 0);
    FUZZ_EXPECT(guest_mem_add(r->mem, ROM, HIGH - ROM, GUEST_REGION_ROM, &error) == 0);
    FUZZ_EXPECT(guest_mem_add(r->mem, HIGH, END - HIGH, GUEST_REGION_RAM, &error) == 0);
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log };
    FUZZ_EXPECT(loop_create(&r->log, &r->env.loop, &error) == 0);
    FUZZ_EXPECT(virtio_balloon_create(&r->env, &options, &r->vdev, &error) == 0);
    FUZZ_EXPECT(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error) == 0);
}

static void start(struct rig *r, unsigned flags)
{
    const struct mmio_rings rings = { r->mem, 0, QUEUE, flags & 1, flags & 2 };

    r->features = VIRTIO_FEATURE(32) | (flags & 1 ? VIRTIO_FEATURE(34) : 0) |
                  (flags & 2 ? VIRTIO_FEATURE(29) : 0) |
                  (flags & 4 ? VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ) : 0) |
                  (flags & 8 ? VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING) : 0) |
                  (flags & 16 ? VIRTIO_FEATURE(VIRTIO_BALLOON_F_PAGE_POISON) : 0);
    FUZZ_EXPECT(mmio_negotiate(r->device, r->features) == MMIO_FEATURES_OK);
    FUZZ_EXPECT(mmio_queues_start(r->device, r->queues, QUEUES, &rings) <= BUFFERS);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
    memset(r->inside, 0, sizeof(r->inside));
    r->failed = r->poisoned = false;
    FUZZ_EXPECT(container_of(r->vdev, struct virtio_balloon, device)->pages_inside == 0);
}

/* ---- The loop ----------------------------------------------------------------------------- */

static void play(struct rig *r)
{
    unsigned rounds = 0;
    bool any;

    pthread_mutex_lock(&r->vdev->lock);
    do {
        any = false;
        for (unsigned i = 0; i < QUEUES; i++) {
            struct virtio_queue *queue = &r->vdev->queues[i];
            uint64_t count;

            if (queue->running &&
                read(queue->kick_fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
                any = true;
                r->vdev->facts->ops.notify(r->vdev, queue);
            }
        }
        FUZZ_EXPECT(rounds++ < ROUNDS);
    } while (any);
    pthread_mutex_unlock(&r->vdev->lock);
}

/* What every step must leave. */
static void check(const struct rig *r)
{
    const struct virtio_balloon *balloon =
        container_of(r->vdev, struct virtio_balloon, device);
    uint64_t inside = 0;

    FUZZ_EXPECT(balloon->page_count == PAGES);
    for (uint64_t page = 0; page < PAGES; page++) {
        bool is =
            balloon->inside[page / (8 * sizeof(long))] >> page % (8 * sizeof(long)) & 1;

        inside += is;
        FUZZ_EXPECT(!is || page_is_ram(page));
        if (!page_is_ram(page)) {
            FUZZ_EXPECT(page_holds(r, page, page_mark(page)));
        } else if (r->kept && page >= LENT / PAGE) {
            FUZZ_EXPECT(page_holds(r, page, r->gone[page] ? 0 : page_mark(page)));
            FUZZ_EXPECT(is == r->inside[page]);
        }
    }
    FUZZ_EXPECT(inside == balloon->pages_inside);
    if (r->kept) {
        uint32_t status = mmio_get(r->device, VIRTIO_MMIO_STATUS);

        FUZZ_EXPECT(((status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) == r->failed);
    }
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static uint64_t buffer_at(unsigned queue, unsigned index)
{
    return BUFFERS + (uint64_t)(queue * QUEUE + index) * BUFFER;
}

static struct drv *queue_ready(struct rig *r, unsigned queue)
{
    struct drv *d = &r->queues[queue];

    while (drv_get(d, &(uint32_t){ 0 }) != NULL) {
    }
    return d;
}

static void offer(struct rig *r, unsigned queue, const struct drv_buffer *b,
                  unsigned count)
{
    if (drv_add(&r->queues[queue], b, count, r, 0)) {
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
        play(r);
    }
}

/* Page numbers: runs, single ones, any word; one buffer, or many of the same. */
static void step_pages(struct rig *r, struct fuzz_input *in, unsigned queue)
{
    unsigned count = fuzz_byte(in) % 64 + 1, used = 0, odd = fuzz_byte(in);
    unsigned repeat = odd & 1 ? 1 + odd / 2 % QUEUE : 1;
    struct drv *d = queue_ready(r, queue);
    uint8_t *bytes = guest_mem_ptr(r->mem, buffer_at(queue, 0), BUFFER);
    struct drv_buffer b[QUEUE];
    uint32_t length;
    bool serves = !r->failed && d->free_count >= repeat;

    while (used < count) {
        unsigned kind = fuzz_byte(in);
        uint32_t first = kind & 1 ? LENT / PAGE + fuzz_byte(in) * 2u : fuzz_word(in);

        for (unsigned run = kind >> 4; used < count;
             run--, first += 1 + (kind >> 1 & 1)) {
            if (first < LENT / PAGE) {
                first += LENT / PAGE;
            }
            store_le32(bytes + 4 * used++, first);
            if (serves && page_is_ram(first)) {
                r->inside[first] = queue == QUEUE_INFLATE;
                r->gone[first] |= queue == QUEUE_INFLATE;
            }
            if (run == 0) {
                break;
            }
        }
    }
    length = 4 * used + (odd & 2 && repeat == 1 ? odd / 4 % 4 : 0);
    for (unsigned i = 0; i < repeat; i++) {
        b[i] = (struct drv_buffer){ buffer_at(queue, 0), length, false };
    }
    offer(r, queue, b, repeat);
}

/* More page numbers than a request may have: the same memory again and again. */
static void step_flood(struct rig *r, unsigned queue)
{
    struct drv_buffer b[QUEUE];

    if (queue_ready(r, queue)->free_count < QUEUE) {
        return;
    }
    for (unsigned i = 0; i < QUEUE; i++) {
        b[i] = (struct drv_buffer){ BUFFERS, REQUEST_MAX / QUEUE + (i == 0), false };
    }
    r->failed = true;
    offer(r, queue, b, QUEUE);
}

static void step_report(struct rig *r, struct fuzz_input *in, unsigned queue)
{
    unsigned count = fuzz_byte(in) % 4 + 1;
    struct drv_buffer b[4];
    bool serves = !r->failed && !r->poisoned &&
                  (r->features & VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING)) != 0;

    if (queue_ready(r, queue)->free_count < count) {
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = HIGH + (fuzz_word(in) % (END - HIGH)), room = END - at;
        uint32_t length = 1 + fuzz_word(in) % (uint32_t)room;

        b[i] = (struct drv_buffer){ at, length, true };
        for (uint64_t page = align_up(at, PAGE) / PAGE;
             serves && (page + 1) * PAGE <= at + length; page++) {
            r->gone[page] = true;
        }
    }
    offer(r, queue, b, count);
}

static void step_stats(struct rig *r, struct fuzz_input *in)
{
    unsigned size = fuzz_byte(in) * 4u + 1;
    uint8_t *bytes = guest_mem_ptr(r->mem, buffer_at(QUEUE_STATS, 0), BUFFER);
    struct drv_buffer b = { buffer_at(QUEUE_STATS, 0), size, false };
    struct umbra_balloon_stats stats;

    queue_ready(r, QUEUE_STATS);
    for (unsigned i = 0; i < size; i++) {
        bytes[i] = i % 10 < 2 ? fuzz_byte(in) % 2 : (uint8_t)i;
    }
    offer(r, QUEUE_STATS, &b, 1);
    FUZZ_EXPECT(virtio_balloon_get_stats(r->vdev, &stats, NULL) == 0);
    play(r);
}

static void step_config(struct rig *r, struct fuzz_input *in)
{
    unsigned offset = fuzz_byte(in) % 24, size = 1u << fuzz_byte(in) % 3;
    uint32_t value = fuzz_word(in);

    pthread_mutex_lock(&r->device->lock);
    r->device->ops->write(r->device, 0, VIRTIO_MMIO_CONFIG + offset, size, value);
    pthread_mutex_unlock(&r->device->lock);
    r->poisoned = (r->features & VIRTIO_FEATURE(VIRTIO_BALLOON_F_PAGE_POISON)) != 0 &&
                  mmio_get(r->device, VIRTIO_MMIO_CONFIG + 12) != 0;
}

/* Anything in the rings' pages; from now on only the device's own word counts. */
static void step_rings(struct rig *r, struct fuzz_input *in)
{
    uint64_t at = (fuzz_byte(in) | fuzz_byte(in) << 8) % BUFFERS;
    unsigned length = fuzz_byte(in) % 64;

    r->kept = false;
    for (unsigned i = 0; i < length; i++) {
        uint8_t byte = fuzz_byte(in);

        guest_mem_write(r->mem, (at + i) % BUFFERS, &byte, 1);
    }
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, fuzz_byte(in) % QUEUES);
    play(r);
}

/* The guest uses what is not in its balloon. */
static void step_touch(struct rig *r)
{
    for (uint64_t page = LENT / PAGE; page < PAGES; page++) {
        if (page_is_ram(page) && r->gone[page] && !r->inside[page]) {
            mark(r, page);
        }
    }
}

static void step(struct rig *r, struct fuzz_input *in)
{
    unsigned kind = fuzz_byte(in) % 12;
    struct umbra_error error;
    uint64_t target;

    /* Over spoilt rings the driver's side would be misled as well. */
    switch (r->kept || kind == 7 || kind == 8 ? kind : 11) {
    case 0:
    case 1:
    case 2:
        step_pages(r, in, QUEUE_INFLATE);
        break;
    case 3:
        step_pages(r, in, QUEUE_DEFLATE);
        break;
    case 4:
        step_report(r, in, QUEUE_REPORTING);
        break;
    case 5:
        step_report(r, in, QUEUE_REPORTING_LINUX);
        break;
    case 6:
        step_stats(r, in);
        break;
    case 7:
        step_config(r, in);
        break;
    case 8:
        target = (uint64_t)fuzz_word(in) << 4;
        FUZZ_EXPECT((virtio_balloon_set_target(r->vdev, target, &error) == 0) ==
                    (target <= END - (HIGH - ROM)));
        break;
    case 9:
        step_touch(r);
        break;
    case 10:
        if (fuzz_byte(in) > 0xf0) {
            step_flood(r, QUEUE_DEFLATE);
        }
        break;
    default:
        if (!r->kept || fuzz_byte(in) > 0xe0) {
            step_rings(r, in);
        }
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct rig rig;
    struct fuzz_input in = { data, size };
    struct rig *r = &rig;
    unsigned flags = fuzz_byte(&in);

    if (r->device == NULL) {
        make(r);
        memset(r->gone, 1, sizeof(r->gone));
    }
    for (uint64_t page = LENT / PAGE; page < PAGES; page++) {
        if (!r->kept || r->gone[page]) {
            mark(r, page);
        }
    }
    r->kept = true;
    start(r, flags);
    for (unsigned steps = 0; in.left > 0 && steps < 300; steps++) {
        step(r, &in);
        check(r);
    }
    return 0;
}
