/* SPDX-License-Identifier: MIT */
/*
 * Event indices of virtqueues against arithmetic without wraps: an interrupt, or a kick, is
 * wanted if and only if the place that the other side named is passed, over the wraps of 16
 * bits and of rings. Also used lengths and chains' order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "unit/virtqueue_rig.h"

enum { BATCH = 3, ROUNDS = 40000 /* more than 65536 buffers */ };

struct world {
    struct guest_mem *mem;
    struct drv driver;
    struct virtqueue vq;
    struct virtqueue_chain chains[BATCH];
    uint64_t added, used; /* buffers, from the beginning */
};

static void world_open(struct world *w, const struct shape *shape)
{
    struct virtqueue_config config;

    memset(w, 0, sizeof(*w));
    w->mem = ram_create();
    drv_init(&w->driver, w->mem, 0x10000, shape->size, shape->packed, shape->event_idx);
    config = config_of(&w->driver, shape);
    assert_int_equal(virtqueue_start(&w->vq, w->mem, &config), 0);
}

static void world_close(struct world *w)
{
    for (unsigned i = 0; i < BATCH; i++) {
        virtqueue_chain_fini(&w->chains[i]);
    }
    virtqueue_stop(&w->vq);
    drv_fini(&w->driver);
    guest_mem_destroy(w->mem);
}

static void add(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct drv_buffer b = { BUFFERS + 64 * (w->added % 64), 64, true };

        w->added++;
        assert_true(drv_add(&w->driver, &b, 1, (void *)(uintptr_t)w->added, 0));
    }
}

/* The driver names the @place-th buffer, counted from the beginning, for its interrupt. */
static void name_place(struct world *w, const struct shape *shape, uint64_t place)
{
    if (shape->packed) {
        uint32_t slot = (uint32_t)(place % shape->size);
        uint32_t wrap = place / shape->size % 2 == 0 ? 0x8000 : 0;

        drv_st32(w->driver.a, 2u << 16 | slot | wrap);
    } else {
        drv_st16(w->driver.a + 4 + 2 * (size_t)shape->size, (uint16_t)place);
    }
}

static void take(struct world *w, uint64_t number)
{
    uint32_t length = 0;

    assert_int_equal((uintptr_t)drv_get(&w->driver, &length), number);
    assert_int_equal(length, number % 65); /* as it was pushed */
}

static void interrupts(const struct shape *shape)
{
    struct world world, *w = &world;

    world_open(w, shape);
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned count = 1 + round % BATCH;
        uint64_t place = w->used + round / 7 % (shape->size - 1);
        bool passed = place < w->used + count;

        add(w, count);
        for (unsigned i = 0; i < count; i++) {
            assert_int_equal(virtqueue_pop(&w->vq, &w->chains[i]), 1);
        }
        name_place(w, shape, place);
        for (unsigned i = 0; i < count; i++) {
            virtqueue_push(&w->vq, &w->chains[i], (uint32_t)((w->used + i + 1) % 65));
        }
        assert_false(drv_used_there(&w->driver));
        if (virtqueue_flush(&w->vq) != passed) {
            fail_msg("%s ring of %u: buffers %llu to %llu, place %llu: %s interrupt",
                     shape->packed ? "packed" : "split", shape->size,
                     (unsigned long long)w->used, (unsigned long long)(w->used + count),
                     (unsigned long long)place, passed ? "no" : "an");
        }
        assert_false(virtqueue_flush(&w->vq)); /* nothing new */
        for (unsigned i = 0; i < count; i++) {
            take(w, ++w->used);
        }
    }
    world_close(w);
}

static void test_interrupts(void **state)
{
    const struct shape shapes[] = {
        { 4, false, true, false, false },  { 8, false, true, false, false },
        { 64, false, true, false, true },  { 4, true, true, false, false },
        { 7, true, true, false, false },   { 64, true, true, false, true },
        { 129, true, true, false, false },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
        interrupts(&shapes[i]);
    }
}

/* The other way round: the device asks for a kick at the next buffer, and at no other. */
static void test_kicks(void **state)
{
    const struct shape shapes[] = {
        { 8, false, true, false, false }, { 8, true, true, false, false },
        { 7, true, true, false, false },  { 8, false, false, false, false },
        { 8, true, false, false, false },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
        struct world world, *w = &world;

        world_open(w, &shapes[i]);
        for (unsigned round = 0; round < ROUNDS; round++) {
            unsigned count = 1 + round % BATCH;
            bool asked = round % 5 != 4; /* unasked it is a hint, but a good one */

            if (asked) {
                assert_false(virtqueue_enable_kicks(&w->vq));
            } else {
                virtqueue_disable_kicks(&w->vq);
            }
            add(w, count);
            assert_int_equal(drv_kick_needed(&w->driver), asked);
            assert_true(virtqueue_enable_kicks(&w->vq)); /* there is one already */
            for (unsigned n = 0; n < count; n++) {
                assert_int_equal(virtqueue_pop(&w->vq, &w->chains[n]), 1);
                virtqueue_push(&w->vq, &w->chains[n], (uint32_t)((w->used + 1 + n) % 65));
            }
            virtqueue_flush(&w->vq);
            for (unsigned n = 0; n < count; n++) {
                take(w, ++w->used);
            }
        }
        world_close(w);
    }
}

/* Chains put back come again, over the ring's end, too. */
static void test_unpop(void **state)
{
    const struct shape shapes[] = {
        { 8, false, true, false, false },
        { 7, true, true, false, false },
        { 8, true, true, false, true },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
        struct world world, *w = &world;

        world_open(w, &shapes[i]);
        for (unsigned round = 0; round < 1000; round++) {
            unsigned back = 1 + round / 3 % BATCH;

            add(w, BATCH);
            for (unsigned n = 0; n < BATCH; n++) {
                assert_int_equal(virtqueue_pop(&w->vq, &w->chains[n]), 1);
            }
            for (unsigned n = 0; n < back; n++) {
                virtqueue_unpop(&w->vq, &w->chains[BATCH - 1 - n]);
            }
            assert_int_equal(virtqueue_in_flight(&w->vq), BATCH - back);
            for (unsigned n = BATCH - back; n < BATCH; n++) {
                assert_int_equal(virtqueue_pop(&w->vq, &w->chains[n]), 1);
            }
            assert_int_equal(virtqueue_pop(&w->vq, &w->chains[0]), 0);
            for (unsigned n = 0; n < BATCH; n++) {
                virtqueue_push(&w->vq, &w->chains[n], (uint32_t)((w->used + 1 + n) % 65));
            }
            virtqueue_flush(&w->vq);
            for (unsigned n = 0; n < BATCH; n++) {
                take(w, ++w->used);
            }
        }
        assert_null(w->vq.fault);
        world_close(w);
    }
}

/* Without event indices there is only on and off. */
static void test_off(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        const struct shape shape = { 8, i & 1, i & 2, false, false };
        struct world world, *w = &world;

        world_open(w, &shape);
        for (unsigned round = 0; round < 100; round++) {
            bool on = round % 3 == 1;

            if (on) {
                drv_interrupts_on(&w->driver);
            } else {
                drv_interrupts_off(&w->driver);
            }
            add(w, 1);
            assert_int_equal(virtqueue_pop(&w->vq, &w->chains[0]), 1);
            virtqueue_push(&w->vq, &w->chains[0], (uint32_t)((w->used + 1) % 65));
            if (!shape.event_idx || shape.packed || on) {
                assert_int_equal(virtqueue_flush(&w->vq), on);
            } else { /* a place behind: wanted again after 65536 buffers */
                virtqueue_flush(&w->vq);
            }
            take(w, ++w->used);
        }
        world_close(w);
    }
}

static bool page_dirty(struct world *w, uint64_t addr)
{
    unsigned long bits[RAM / 2 / 4096 / 64];
    const struct guest_region *regions;
    unsigned page = (unsigned)(addr % (RAM / 2) / 4096);
    size_t count;

    regions = guest_mem_regions(w->mem, &count);
    memset(bits, 0, sizeof(bits));
    guest_mem_dirty_take(&regions[addr / (RAM / 2)], bits);
    return (bits[page / 64] >> page % 64 & 1) != 0;
}

/* What the device wrote is told to dirty tracking: buffers as far as they were written, and
 * the ring. */
static void test_dirty(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        const struct shape shape = { 8, i & 1, i & 2, false, false };
        struct drv_buffer b[2] = { { BUFFERS, 4096, true },
                                   { BUFFERS + 8192, 4096, true } };
        struct world world, *w = &world;
        const uint32_t written[] = { 0, 1, 4096, 4097 };

        world_open(w, &shape);
        assert_int_equal(guest_mem_dirty_enable(w->mem, true), 0);
        for (unsigned n = 0; n < ARRAY_SIZE(written); n++) {
            uint32_t length;

            page_dirty(w, 0);
            page_dirty(w, BUFFERS);
            assert_true(drv_add(&w->driver, b, 2, w, 0));
            assert_int_equal(virtqueue_pop(&w->vq, &w->chains[0]), 1);
            virtqueue_push(&w->vq, &w->chains[0], written[n]);
            virtqueue_flush(&w->vq);
            assert_int_equal(
                page_dirty(w, shape.packed ? w->driver.desc : w->driver.device), 1);
            assert_int_equal(page_dirty(w, BUFFERS), written[n] > 0);
            virtqueue_enable_kicks(&w->vq);
            assert_int_equal(page_dirty(w, w->driver.device), 1);
            assert_ptr_equal(drv_get(&w->driver, &length), w);
            /* once more, for the second buffer: taking clears */
            assert_true(drv_add(&w->driver, b, 2, w, 0));
            assert_int_equal(virtqueue_pop(&w->vq, &w->chains[0]), 1);
            virtqueue_push(&w->vq, &w->chains[0], written[n]);
            virtqueue_flush(&w->vq);
            assert_int_equal(page_dirty(w, BUFFERS + 8192), written[n] > 4096);
            assert_ptr_equal(drv_get(&w->driver, &length), w);
        }
        world_close(w);
    }
}

/* Elements of a used ring that is larger than a page are told of where they are. */
static void test_dirty_ring(void **state)
{
    const struct shape shape = { 2048, false, true, false, false };
    struct world world, *w = &world;

    world_open(w, &shape);
    assert_int_equal(guest_mem_dirty_enable(w->mem, true), 0);
    for (unsigned n = 0; n < shape.size; n++) {
        uint64_t element = w->driver.device + 4 + 8 * (uint64_t)n;

        add(w, 1);
        assert_int_equal(virtqueue_pop(&w->vq, &w->chains[0]), 1);
        page_dirty(w, 0);
        virtqueue_push(&w->vq, &w->chains[0], (uint32_t)((w->used + 1) % 65));
        virtqueue_flush(&w->vq);
        assert_int_equal(page_dirty(w, element), 1);
        take(w, ++w->used);
    }
    world_close(w);
}

/* The same memory again and again makes chains of any size; those of 4 GiB are refused. */
static void test_huge(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct shape shape = { 1024, i & 1, false, false, false };
        struct drv_buffer *b = calloc(512, sizeof(*b));
        struct world world, *w = &world;

        world_open(w, &shape);
        for (unsigned n = 0; n < 512; n++) {
            b[n] = (struct drv_buffer){ BUFFERS, RAM / 2, true };
        }
        assert_true(drv_add(&w->driver, b, 511, w, 0));
        assert_int_equal(virtqueue_pop(&w->vq, &w->chains[0]), 1);
        assert_int_equal(w->chains[0].writable_bytes, 511 * (uint64_t)(RAM / 2));
        assert_true(drv_add(&w->driver, b, 512, w, 0));
        assert_int_equal(virtqueue_pop(&w->vq, &w->chains[1]), -EPROTO);
        assert_non_null(strstr(w->vq.fault, "4 GiB"));
        world_close(w);
        free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interrupts), cmocka_unit_test(test_kicks),
        cmocka_unit_test(test_unpop),      cmocka_unit_test(test_off),
        cmocka_unit_test(test_dirty),      cmocka_unit_test(test_dirty_ring),
        cmocka_unit_test(test_huge),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
