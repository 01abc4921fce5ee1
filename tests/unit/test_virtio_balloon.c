/* SPDX-License-Identifier: MIT */
/* virtio-balloon behind virtio-mmio with the loop running: what is given goes to the host,
 * whatever the memory is made of; page numbers, lengths and rings from a hostile driver;
 * statistics; reporting and poison; state. pthread_create: the loop's thread, so TSan looks
 * at it too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <sched.h>

#include <linux/virtio_balloon.h>

#include "unit/fake_env.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"

enum {
    ROM = 0xe0000,
    HIGH = 1 << 20, /* RAM again, up to END */
    END = 8 << 20,
    BUFFERS = 1 << 20,
    LENT = 4 << 20, /* pages that go into the balloon lie from here on */
    QUEUES = 5,
    QUEUE = 16,
    PAGE = 4096,
    NEEDS_RESET = 64,
};

struct rig {
    struct guest_mem *mem;
    struct log log;
    struct loop *loop;
    struct device_env env;
    struct virtio_device *vdev;
    struct device *device;
    struct drv queues[QUEUES];
    atomic_uint warnings;
    uint64_t next; /* free guest memory for buffers */
};

static void rig_log(void *context, enum umbra_log_level level, const char *line)
{
    struct rig *r = context;

    (void)level;
    (void)line;
    atomic_fetch_add(&r->warnings, 1);
}

static void rig_open(struct rig *r, struct guest_mem_options memory, uint64_t stats_ms)
{
    const struct virtio_balloon_options options = { .id = "balloon",
                                                    .target = 64 * PAGE,
                                                    .stats_ms = stats_ms,
                                                    .deflate_on_oom = true,
                                                    .reporting = true };
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    assert_int_equal(guest_mem_create(&memory, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, ROM, GUEST_REGION_RAM, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, ROM, HIGH - ROM, GUEST_REGION_ROM, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, HIGH, END - HIGH, GUEST_REGION_RAM, &error),
                     0);
    r->log = (struct log){ .fn = rig_log, .context = r, .level = UMBRA_LOG_WARNING };
    assert_int_equal(loop_create(&r->log, &r->loop, &error), 0);
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log, .loop = r->loop };
    assert_int_equal(virtio_balloon_create(&r->env, &options, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error), 0);
    assert_int_equal(loop_start(r->loop, &error), 0);
}

static void rig_start(struct rig *r, bool packed, uint64_t features)
{
    const struct mmio_rings rings = { r->mem, 0x10000, QUEUE, packed, true };

    features |= VIRTIO_FEATURE(32) | VIRTIO_FEATURE(28) | VIRTIO_FEATURE(29);
    features |= packed ? VIRTIO_FEATURE(34) : 0;
    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, r->queues, QUEUES, &rings);
    r->next = BUFFERS;
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static void rig_close(struct rig *r)
{
    for (unsigned i = 0; i < QUEUES; i++) {
        drv_fini(&r->queues[i]);
    }
    loop_stop(r->loop);
    device_destroy(r->device);
    loop_destroy(r->loop);
    guest_mem_destroy(r->mem);
}

static void kick(struct rig *r, unsigned queue)
{
    mmio_kick(r->device, queue, &r->queues[queue]);
}

static uint8_t *buffer(struct rig *r, uint32_t size, struct drv_buffer *b)
{
    *b = (struct drv_buffer){ r->next, size, false };
    r->next += align_up(size, PAGE);
    assert_true(r->next <= LENT);
    return guest_mem_ptr(r->mem, b->addr, size);
}

/* Offer @chain and wait until it comes back. */
static void request(struct rig *r, unsigned queue, const struct drv_buffer *chain,
                    unsigned count)
{
    uint32_t length;

    assert_true(drv_add(&r->queues[queue], chain, count, r, 0));
    kick(r, queue);
    while (drv_get(&r->queues[queue], &length) == NULL) {
        sched_yield();
    }
    assert_int_equal(length, 0);
}

/* The @count page numbers in @pages, in @pieces buffers. */
static void name_pages(struct rig *r, unsigned queue, const uint32_t *pages,
                       unsigned count, unsigned pieces)
{
    struct drv_buffer whole, b[8];
    uint8_t *bytes = buffer(r, 4 * count, &whole);
    uint32_t step = 4 * count / pieces;

    for (unsigned i = 0; i < count; i++) {
        store_le32(bytes + 4 * i, pages[i]);
    }
    for (unsigned i = 0; i < pieces; i++) {
        b[i] = (struct drv_buffer){ whole.addr + i * step, step, false };
    }
    b[pieces - 1].len = 4 * count - (pieces - 1) * step;
    request(r, queue, b, pieces);
    r->next = whole.addr;
}

static uint64_t number(struct rig *r, const char *name)
{
    json_t *stats = json_object();
    uint64_t value;

    virtio_device_stats(r->vdev, stats);
    assert_non_null(json_object_get(stats, name));
    value = (uint64_t)json_integer_value(json_object_get(stats, name));
    json_decref(stats);
    return value;
}

/* How many requests of @queue have had their time taken. */
static json_int_t timed(struct rig *r, unsigned queue)
{
    json_t *stats = json_object(), *bucket;
    json_int_t sum = 0;
    size_t i;

    virtio_device_stats(r->vdev, stats);
    json_array_foreach(
        json_object_get(json_array_get(json_object_get(stats, "queues"), queue),
                        "latency_log2_ns"),
        i, bucket)
    {
        sum += json_integer_value(bucket);
    }
    json_decref(stats);
    return sum;
}

static bool page_is(struct rig *r, uint64_t addr, uint8_t byte)
{
    const uint8_t *page = guest_mem_const_ptr(r->mem, addr, PAGE);

    return page[0] == byte && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* Every kind of memory gives exactly the pages named, in any order and named twice, and has
 * them again after the deflation. */
static void test_pages(void **state)
{
    static const struct guest_mem_options kinds[] = { { 0 },
                                                      { .mergeable = true },
                                                      { .locked = true } };
    enum { COUNT = 100 };
    uint32_t pages[COUNT + 3];

    for (unsigned i = 0; i < COUNT; i++) {
        pages[i] =
            LENT / PAGE + i * 37 % COUNT; /* each once, as 37 and 100 are coprime */
    }
    pages[COUNT] = pages[7];
    pages[COUNT + 1] = 3; /* low memory, alone */
    pages[COUNT + 2] = pages[8];
    for (unsigned kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
        for (unsigned packed = 0; packed < 2; packed++) {
            struct rig rig, *r = &rig;
            uint64_t before;

            rig_open(r, kinds[kind], 0);
            rig_start(r, packed, VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ));
            guest_mem_fill(r->mem, LENT - PAGE, 0x5a, (COUNT + 2) * PAGE);
            guest_mem_fill(r->mem, 0, 0x5a, 8 * PAGE);
            before = guest_mem_resident(r->mem);
            name_pages(r, 0, pages, ARRAY_SIZE(pages), 1 + packed * 4);
            /* The page with the numbers itself is new. */
            assert_in_range(guest_mem_resident(r->mem), before - (COUNT + 1) * PAGE,
                            before - (COUNT + 1) * PAGE + PAGE);
            assert_true(page_is(r, LENT - PAGE, 0x5a));
            assert_true(page_is(r, LENT, 0) && page_is(r, LENT + (COUNT - 1) * PAGE, 0));
            assert_true(page_is(r, LENT + COUNT * PAGE, 0x5a));
            assert_true(page_is(r, 2 * PAGE, 0x5a) && page_is(r, 3 * PAGE, 0));
            assert_int_equal(number(r, "inside"), (COUNT + 1) * PAGE);
            assert_int_equal(number(r, "released"), (COUNT + 1) * PAGE);
            name_pages(r, 1, pages, ARRAY_SIZE(pages), 1);
            assert_int_equal(number(r, "inside"), 0);
            assert_int_equal(number(r, "deflated"), (COUNT + 1) * PAGE);
            assert_int_equal(timed(r, 0), 1);
            assert_int_equal(timed(r, 1), 1);
            assert_int_equal(timed(r, 2), 0);
            guest_mem_fill(r->mem, LENT, 0xa5, COUNT * PAGE);
            assert_true(page_is(r, LENT + 50 * PAGE, 0xa5));
            assert_int_equal(atomic_load(&r->warnings), 0);
            rig_close(r);
        }
    }
}

static void test_dirty(void **state)
{
    const uint32_t pages[] = { LENT / PAGE, LENT / PAGE + 9 };
    unsigned long bitmap[(END - HIGH) / PAGE / 64 + 1] = { 0 };
    struct rig rig, *r = &rig;
    size_t count;
    unsigned first = (LENT - HIGH) / PAGE;

    rig_open(r, (struct guest_mem_options){ 0 }, 0);
    rig_start(r, false, 0);
    loop_stop(r->loop);
    assert_int_equal(guest_mem_dirty_enable(r->mem, true), 0);
    assert_int_equal(loop_start(r->loop, NULL), 0);
    name_pages(r, 0, pages, 2, 1);
    guest_mem_dirty_take(&guest_mem_regions(r->mem, &count)[2], bitmap);
    for (unsigned page = first; page < first + 20; page++) {
        assert_int_equal(bitmap[page / 64] >> page % 64 & 1,
                         page == first || page == first + 9);
    }
    rig_close(r);
}

/* Pages that are no RAM are passed over and said once; the others count. */
static void test_bad_pages(void **state)
{
    static const uint32_t pages[] = { ROM / PAGE,     HIGH / PAGE - 1, END / PAGE,
                                      END / PAGE + 1, UINT32_MAX,      UINT32_MAX - 1,
                                      0x100000,       LENT / PAGE,     0xfffff,
                                      END / PAGE - 1, ROM / PAGE - 1,  0x7fffffff,
                                      LENT / PAGE + 2 };
    const uint8_t rom[] = { 1, 2, 3, 4 };
    struct drv_buffer b;
    struct rig rig, *r = &rig;
    uint8_t *bytes;

    rig_open(r, (struct guest_mem_options){ 0 }, 0);
    guest_mem_load(r->mem, ROM, rom, sizeof(rom));
    for (unsigned packed = 0; packed < 2; packed++) {
        rig_start(r, packed, 0);
        guest_mem_fill(r->mem, LENT, 0x5a, 3 * PAGE);
        for (unsigned i = 0; i < 3; i++) {
            name_pages(r, 0, pages, ARRAY_SIZE(pages), 1);
            name_pages(r, 1, pages, ARRAY_SIZE(pages), 1);
        }
        assert_true(page_is(r, LENT, 0) && page_is(r, LENT + PAGE, 0x5a));
        assert_true(page_is(r, LENT + 2 * PAGE, 0));
        assert_memory_equal(guest_mem_const_ptr(r->mem, ROM, 4), rom, 4);
        assert_int_equal(number(r, "bad_pages"), (packed + 1) * 6 * 9);
        assert_int_equal(number(r, "inside"), 0);
        assert_int_equal(atomic_load(&r->warnings), packed + 1);
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
        /* A page number and a half. */
        guest_mem_fill(r->mem, LENT + PAGE, 0x5a, PAGE);
        bytes = buffer(r, 6, &b);
        store_le32(bytes, LENT / PAGE + 1);
        store_le16(bytes + 4, LENT / PAGE + 2);
        request(r, 0, &b, 1);
        assert_true(page_is(r, LENT + PAGE, 0));
        assert_int_equal(number(r, "inside"), PAGE);
    }
    rig_close(r);
}

static void await_failure(struct rig *r, unsigned warnings)
{
    WAIT_UNTIL((mmio_get(r->device, VIRTIO_MMIO_STATUS) & NEEDS_RESET) != 0 &&
               atomic_load(&r->warnings) == warnings);
}

/* What breaks the rules of a request or of the ring stops the device until its reset, which
 * empties the balloon. */
static void test_hostile(void **state)
{
    const uint32_t page = LENT / PAGE;
    struct drv_buffer huge[2] = { { BUFFERS, 200 << 10, false },
                                  { BUFFERS, 200 << 10, false } };
    struct drv_buffer outside = { END, PAGE, true };
    struct rig rig, *r = &rig;
    unsigned said = 0;

    rig_open(r, (struct guest_mem_options){ 0 }, 0);
    for (unsigned packed = 0; packed < 2; packed++) {
        for (unsigned i = 0; i < 4; i++) {
            unsigned queue = i == 3 ? 4 : i;

            rig_start(r, packed, VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING));
            assert_int_equal(number(r, "inside"), 0);
            name_pages(r, 0, &page, 1, 1);
            assert_int_equal(number(r, "inside"), PAGE);
            if (queue < 2) {
                assert_true(drv_add(&r->queues[queue], huge, 2, r, 0));
            } else {
                assert_true(drv_add(&r->queues[queue], &outside, 1, r, 0));
            }
            mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
            await_failure(r, ++said);
        }
    }
    rig_start(r, false, 0);
    name_pages(r, 0, &page, 1, 1);
    assert_int_equal(number(r, "inside"), PAGE);
    assert_int_equal(atomic_load(&r->warnings), said);
    rig_close(r);
}

/* Whole pages in reported ranges go, on either queue that drivers use for it. */
static void test_reporting(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;
        struct drv_buffer b[] = { { LENT + 100, 3 * PAGE, true },
                                  { LENT + 16 * PAGE, 8 * PAGE, true } };
        uint64_t before;

        rig_open(r, (struct guest_mem_options){ 0 }, 0);
        for (unsigned queue = 3; queue < 5; queue++) {
            rig_start(r, packed,
                      VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING) |
                          VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ));
            guest_mem_fill(r->mem, LENT, 0x5a, 32 * PAGE);
            before = guest_mem_resident(r->mem);
            request(r, queue, b, 2);
            assert_int_equal(guest_mem_resident(r->mem), before - 10 * PAGE);
            assert_true(page_is(r, LENT, 0x5a) && page_is(r, LENT + 3 * PAGE, 0x5a));
            assert_true(page_is(r, LENT + PAGE, 0) && page_is(r, LENT + 23 * PAGE, 0));
            assert_true(page_is(r, LENT + 24 * PAGE, 0x5a));
            assert_int_equal(number(r, "reported"), (queue - 2) * 10 * PAGE);
        }
        /* Free pages that are poisoned must stay as they are, unless the poison is zero. */
        for (uint32_t poison = 0; poison < 2; poison++) {
            rig_start(r, packed,
                      VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING) |
                          VIRTIO_FEATURE(VIRTIO_BALLOON_F_PAGE_POISON) |
                          VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ));
            assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG + 12), 0);
            mmio_set(r->device, VIRTIO_MMIO_CONFIG + 12, poison * 0xaaaaaaaa);
            guest_mem_fill(r->mem, LENT, 0xaa, 32 * PAGE);
            request(r, 4, b, 2);
            assert_true(page_is(r, LENT + PAGE, poison ? 0xaa : 0));
        }
        assert_int_equal(atomic_load(&r->warnings), 0);
        rig_close(r);
    }
}

/* Without the feature the queue does nothing. */
static void test_not_negotiated(void **state)
{
    const uint32_t page = LENT / PAGE;
    struct drv_buffer b = { LENT, PAGE, true };
    struct rig rig, *r = &rig;

    rig_open(r, (struct guest_mem_options){ 0 }, 0);
    rig_start(r, false, 0);
    guest_mem_fill(r->mem, LENT, 0x5a, 2 * PAGE);
    assert_true(drv_add(&r->queues[4], &b, 1, r, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 4);
    name_pages(r, 0, &page, 1, 1); /* this one is served after that kick */
    guest_mem_fill(r->mem, LENT, 0x5a, PAGE);
    assert_false(drv_used_there(&r->queues[4]));
    assert_true(page_is(r, LENT, 0x5a));
    rig_close(r);
}

/* ---- Statistics ------------------------------------------------------------------------ */

static void stat_entry(uint8_t *at, uint16_t tag, uint64_t value)
{
    store_le16(at, tag);
    store_le64(at + 2, value);
}

static void stats_offer(struct rig *r, struct drv_buffer *b, uint64_t value)
{
    uint8_t *bytes;

    r->next = BUFFERS;
    bytes = buffer(r, 4 * 10 + 3, b);
    stat_entry(bytes, VIRTIO_BALLOON_S_MEMFREE, value);
    stat_entry(bytes + 10, VIRTIO_BALLOON_S_MEMTOT, value * 2);
    stat_entry(bytes + 20, 15, value * 3);
    stat_entry(bytes + 30, 9999, 1); /* nothing that anyone knows */
    memset(bytes + 40, 0, 3);        /* and a piece of an entry */
    assert_true(drv_add(&r->queues[2], b, 1, r, 0));
    kick(r, 2);
}

static struct umbra_balloon_stats stats_of(struct rig *r)
{
    struct umbra_balloon_stats stats;

    assert_int_equal(virtio_balloon_get_stats(r->vdev, &stats, NULL), 0);
    return stats;
}

/* Asked for at an interval (1) or by looking (0), answered each time. */
static void test_stats(void **state)
{
    for (unsigned n = 0; n < 4; n++) {
        struct rig rig, *r = &rig;
        struct drv_buffer b;
        uint32_t length;

        rig_open(r, (struct guest_mem_options){ 0 }, n / 2);
        assert_false(stats_of(r).driver_ready);
        rig_start(r, n % 2, VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ));
        assert_true(stats_of(r).driver_ready);
        assert_int_equal(stats_of(r).age_ms, UINT64_MAX);
        stats_offer(r, &b, 1000);
        for (uint64_t value = 1001; value < 1005; value++) {
            WAIT_UNTIL(stats_of(r).guest[UMBRA_BALLOON_FREE] == value - 1);
            assert_int_equal(stats_of(r).guest[UMBRA_BALLOON_TOTAL], 2 * (value - 1));
            assert_int_equal(stats_of(r).guest[UMBRA_BALLOON_DIRECT_RECLAIMS],
                             3 * (value - 1));
            assert_int_equal(stats_of(r).guest[UMBRA_BALLOON_SWAP_IN], UINT64_MAX);
            WAIT_UNTIL(drv_get(&r->queues[2], &length) != NULL);
            assert_int_equal(length, 0);
            stats_offer(r, &b, value);
        }
        WAIT_UNTIL(stats_of(r).guest[UMBRA_BALLOON_FREE] == 1004);
        assert_int_equal(atomic_load(&r->warnings), 0);
        rig_start(r, n % 2, VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ));
        assert_int_equal(stats_of(r).guest[UMBRA_BALLOON_FREE], UINT64_MAX);
        rig_close(r);
    }
}

/* ---- Configuration and life -------------------------------------------------------------- */

static void test_config(void **state)
{
    struct umbra_error error;
    struct rig rig, *r = &rig;

    rig_open(r, (struct guest_mem_options){ 0 }, 0);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG), 64);
    rig_start(r, false, 0);
    mmio_set(r->device, VIRTIO_MMIO_CONFIG, 1); /* the target is not the driver's */
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG), 64);
    mmio_set(r->device, VIRTIO_MMIO_CONFIG + 4, 33);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG + 4), 33);
    assert_int_equal(stats_of(r).actual, 33 * PAGE);
    dev_write(r->device, 0, VIRTIO_MMIO_CONFIG + 5, 1, 1);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG + 4), 0x100 + 33);
    dev_write(r->device, 0, VIRTIO_MMIO_CONFIG + 2, 4, UINT32_MAX);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG + 4), 0x100 + 33);
    assert_int_equal(virtio_balloon_set_target(r->vdev, 100 * PAGE + 5, &error), 0);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG), 100);
    assert_true(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS) &
                VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(stats_of(r).target, 100 * PAGE);
    mmio_set(r->device, VIRTIO_MMIO_INTERRUPT_ACK, 3);
    assert_int_equal(virtio_balloon_set_target(r->vdev, 100 * PAGE, &error), 0);
    assert_true(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS) &
                VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(virtio_balloon_set_target(r->vdev, END, &error), -ERANGE);
    assert_int_equal(virtio_balloon_set_target(r->vdev, UINT64_MAX, &error), -ERANGE);
    assert_int_equal(virtio_blk_resize(r->vdev, 0, NULL, &error), -EINVAL);
    assert_int_equal(virtio_net_set_link(r->vdev, true, &error), -EINVAL);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG), 100);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG + 4), 0);
    rig_close(r);
}

static void test_save_load(void **state)
{
    const uint32_t pages[] = { LENT / PAGE, 5, LENT / PAGE + 9 };
    struct rig one, two;
    struct drv_buffer b;
    uint32_t length;

    for (unsigned packed = 0; packed < 2; packed++) {
        rig_open(&one, (struct guest_mem_options){ 0 }, 0);
        rig_open(&two, (struct guest_mem_options){ 0 }, 0);
        rig_start(&one, packed, VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ));
        name_pages(&one, 0, pages, 3, 1);
        stats_offer(&one, &b, 7);
        loop_stop(one.loop);
        device_pause(one.device);
        loop_stop(two.loop);
        device_pause(two.device);
        dev_copy_state(one.device, two.device);
        assert_int_equal(number(&two, "inside"), 3 * PAGE);
        memcpy(guest_mem_ptr(two.mem, 0, ROM), guest_mem_ptr(one.mem, 0, ROM), ROM);
        memcpy(guest_mem_ptr(two.mem, HIGH, END - HIGH),
               guest_mem_ptr(one.mem, HIGH, END - HIGH), END - HIGH);
        /* It goes on there, with the same buffer for statistics. */
        device_resume(two.device);
        assert_int_equal(loop_start(two.loop, NULL), 0);
        WAIT_UNTIL(stats_of(&two).guest[UMBRA_BALLOON_FREE] == 7);
        for (unsigned i = 0; i < QUEUES; i++) {
            struct drv mine = two.queues[i];

            two.queues[i] = one.queues[i];
            two.queues[i].mem = two.mem;
            two.queues[i].d = guest_mem_ptr(two.mem, two.queues[i].desc, 1);
            two.queues[i].a = guest_mem_ptr(two.mem, two.queues[i].driver, 1);
            two.queues[i].u = guest_mem_ptr(two.mem, two.queues[i].device, 1);
            one.queues[i] = mine;
        }
        WAIT_UNTIL(drv_get(&two.queues[2], &length) != NULL);
        two.next = BUFFERS;
        name_pages(&two, 1, pages, 2, 1);
        assert_int_equal(number(&two, "inside"), PAGE);
        rig_close(&one);
        rig_close(&two);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages),     cmocka_unit_test(test_dirty),
        cmocka_unit_test(test_bad_pages), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_reporting), cmocka_unit_test(test_not_negotiated),
        cmocka_unit_test(test_stats),     cmocka_unit_test(test_config),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
