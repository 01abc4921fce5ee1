/* SPDX-License-Identifier: MIT */
/* virtio/virtqueue: rings that break the rules are found malformed, whatever the rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "base/util.h"
#include "unit/virtqueue_rig.h"

struct hostile {
    struct guest_mem *mem;
    struct drv v;
    struct virtqueue vq;
    struct virtqueue_chain chain;
};

static void hostile_open(struct hostile *h, bool packed)
{
    struct shape shape = { 16, packed, true, true, false };
    struct virtqueue_config config;

    memset(h, 0, sizeof(*h));
    h->mem = ram_create();
    drv_init(&h->v, h->mem, 0x10000, 16, packed, true);
    config = config_of(&h->v, &shape);
    assert_int_equal(virtqueue_start(&h->vq, h->mem, &config), 0);
}

static void hostile_close(struct hostile *h)
{
    virtqueue_chain_fini(&h->chain);
    virtqueue_stop(&h->vq);
    drv_fini(&h->v);
    guest_mem_destroy(h->mem);
}

/* The next pop finds the fault, which stays. */
static void hostile_expect(struct hostile *h, const char *word)
{
    assert_int_equal(virtqueue_pop(&h->vq, &h->chain), -EPROTO);
    assert_non_null(h->vq.fault);
    if (strstr(h->vq.fault, word) == NULL) {
        fail_msg("'%s' does not mention '%s'", h->vq.fault, word);
    }
    assert_int_equal(virtqueue_pop(&h->vq, &h->chain), -EPROTO);
    assert_false(virtqueue_enable_kicks(&h->vq));
    hostile_close(h);
}

static void test_bad_buffers(void **state)
{
    static const struct {
        struct drv_buffer b[2];
        unsigned n;
        const char *word;
    } cases[] = {
        { { { BUFFERS, 0, false } }, 1, "length zero" },
        { { { RAM, 16, false } }, 1, "outside RAM" },
        { { { RAM - 8, 16, true } }, 1, "outside RAM" },
        { { { UINT64_MAX - 3, 16, true } }, 1, "wraps around" },
        { { { UINT64_MAX - 3, 4, true } }, 1, "wraps around" },
        { { { BUFFERS, 16, true }, { BUFFERS, 16, false } }, 2, "follows a writable" },
        { { { 0, UINT32_MAX, false } }, 1, "outside RAM" },
    };

    for (unsigned i = 0; i < 4 * ARRAY_SIZE(cases); i++) {
        struct hostile h;
        unsigned at = i / 4;

        hostile_open(&h, i & 1);
        assert_true(drv_add(&h.v, cases[at].b, cases[at].n, &h, i & 2 ? TABLES + 16 : 0));
        hostile_expect(&h, cases[at].word);
    }
}

static void test_bad_tables(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        static const struct {
            uint64_t addr;
            uint32_t len;
            const char *word;
        } cases[] = {
            { TABLES, 0, "bad length" },
            { TABLES, 24, "bad length" },
            { TABLES, 16 * (VIRTQUEUE_MAX_SIZE + 1), "bad length" },
            { TABLES, 16 * (VIRTQUEUE_TABLE_MAX + 1), "bad length" },
            { RAM - 16, 16 * VIRTQUEUE_TABLE_MAX, "outside RAM" },
            { RAM - 16, 32, "outside RAM" },
            { RAM / 2 - 16, 32, "outside RAM" }, /* across two regions */
        };

        for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
            struct hostile h;
            uint16_t flags = DRV_INDIRECT | (packed ? 1 << 7 : 0);

            hostile_open(&h, packed);
            drv_write_desc(h.v.d, cases[i].addr, cases[i].len, packed ? 0 : flags,
                           packed ? flags : 0);
            drv_st16(h.v.a + 4, 0);
            if (!packed) {
                drv_st16(h.v.a + 2, 1);
            }
            hostile_expect(&h, cases[i].word);
        }
    }
}

/* Write descriptor 0 and make it available, whatever it says. */
static void raw_add(struct hostile *h, uint64_t addr, uint32_t len, uint16_t flags,
                    uint16_t next)
{
    if (h->v.packed) {
        drv_write_desc(h->v.d, addr, len, 7, flags | 1 << 7);
    } else {
        drv_write_desc(h->v.d, addr, len, flags, next);
        drv_st16(h->v.a + 4, 0);
        drv_st16(h->v.a + 2, 1);
    }
}

static void test_bad_split(void **state)
{
    struct hostile h;
    uint8_t *table;

    hostile_open(&h, false);
    drv_st16(h.v.a + 2, 17);
    hostile_expect(&h, "runs ahead");

    hostile_open(&h, false);
    drv_st16(h.v.a + 4, 16);
    drv_st16(h.v.a + 2, 1);
    hostile_expect(&h, "names no descriptor");

    hostile_open(&h, false);
    raw_add(&h, BUFFERS, 4, DRV_NEXT, 0);
    hostile_expect(&h, "loop");

    hostile_open(&h, false);
    raw_add(&h, BUFFERS, 4, DRV_NEXT, 16);
    hostile_expect(&h, "outside the table");

    hostile_open(&h, false);
    raw_add(&h, TABLES, 32, DRV_NEXT | DRV_INDIRECT, 1);
    hostile_expect(&h, "indirect and linked");

    hostile_open(&h, false);
    raw_add(&h, TABLES, 32, DRV_INDIRECT, 0);
    table = guest_mem_ptr(h.mem, TABLES, 32);
    drv_write_desc(table, BUFFERS, 4, DRV_NEXT, 1);
    drv_write_desc(table + 16, BUFFERS, 4, DRV_NEXT, 0);
    hostile_expect(&h, "loop");

    hostile_open(&h, false);
    raw_add(&h, TABLES, 32, DRV_INDIRECT, 0);
    table = guest_mem_ptr(h.mem, TABLES, 32);
    drv_write_desc(table, BUFFERS, 4, DRV_NEXT, 2);
    hostile_expect(&h, "outside itself");

    /* The same descriptor over and over, never waiting for the used ring. */
    hostile_open(&h, false);
    raw_add(&h, BUFFERS, 4, 0, 0);
    for (uint16_t i = 1; i <= 16; i++) {
        drv_st16(h.v.a + 2, i);
        assert_int_equal(virtqueue_pop(&h.vq, &h.chain), 1);
    }
    drv_st16(h.v.a + 2, 17);
    hostile_expect(&h, "in flight");
}

static void test_bad_packed(void **state)
{
    struct hostile h;
    uint8_t *table;

    hostile_open(&h, true);
    for (unsigned i = 0; i < 16; i++) {
        drv_write_desc(h.v.d + 16 * i, BUFFERS, 4, 0, DRV_NEXT | 1 << 7);
    }
    hostile_expect(&h, "in flight");

    hostile_open(&h, true);
    raw_add(&h, TABLES, 32, DRV_NEXT | DRV_INDIRECT, 0);
    hostile_expect(&h, "indirect and linked");

    hostile_open(&h, true);
    raw_add(&h, TABLES, 32, DRV_INDIRECT, 0);
    table = guest_mem_ptr(h.mem, TABLES, 32);
    drv_write_desc(table, BUFFERS, 4, 0, DRV_INDIRECT);
    hostile_expect(&h, "refers to another");

    /* A lap ahead of itself: the ring is full of what the device still holds. */
    hostile_open(&h, true);
    for (unsigned lap = 0; lap < 17; lap++) {
        drv_write_desc(h.v.d + 16 * (lap % 16), BUFFERS, 4, (uint16_t)lap,
                       lap < 16 ? 1 << 7 : 1 << 15);
        if (lap < 16) {
            assert_int_equal(virtqueue_pop(&h.vq, &h.chain), 1);
        }
    }
    hostile_expect(&h, "in flight");
}

static void test_not_negotiated(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct shape shape = { 16, packed, true, false, false };
        struct virtqueue_config config;
        struct hostile h;

        hostile_open(&h, packed);
        config = config_of(&h.v, &shape);
        assert_int_equal(virtqueue_start(&h.vq, h.mem, &config), 0);
        raw_add(&h, TABLES, 32, DRV_INDIRECT, 0);
        hostile_expect(&h, "not negotiated");
    }
}

static void test_bad_start(void **state)
{
    struct guest_mem *mem = ram_create();
    struct virtqueue vq;
    struct virtqueue_config good = {
        .size = 16, .desc = 0x1000, .driver = 0x2000, .device = 0x3000
    };
    struct virtqueue_config c;

    for (unsigned packed = 0; packed < 2; packed++) {
        static const unsigned bad[] = { 0, 32769, 65535, 65536 };

        good.packed = packed;
        assert_int_equal(virtqueue_start(&vq, mem, &good), 0);
        virtqueue_stop(&vq);
        virtqueue_stop(&vq);
        for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
            c = good;
            c.size = bad[i];
            assert_int_equal(virtqueue_start(&vq, mem, &c), -EINVAL);
        }
        c = good;
        c.desc += 8;
        assert_int_equal(virtqueue_start(&vq, mem, &c), -EINVAL);
        assert_string_equal(vq.fault, "a part of the ring is not aligned");
        c = good;
        c.driver += 1;
        assert_int_equal(virtqueue_start(&vq, mem, &c), -EINVAL);
        c = good;
        c.device += 2;
        assert_int_equal(virtqueue_start(&vq, mem, &c), -EINVAL);
        c = good;
        c.desc = RAM - 128;
        assert_int_equal(virtqueue_start(&vq, mem, &c), -EINVAL);
        c = good;
        c.driver = UINT64_MAX - 3;
        assert_int_equal(virtqueue_start(&vq, mem, &c), -EINVAL);
        c = good;
        c.device = RAM;
        assert_int_equal(virtqueue_start(&vq, mem, &c), -EINVAL);
        assert_int_equal(virtqueue_pop(&vq, NULL), 0); /* not running: nothing there */
    }
    good.packed = false;
    good.size = 24;
    assert_int_equal(virtqueue_start(&vq, mem, &good), -EINVAL);
    guest_mem_destroy(mem);
}

static void test_chain_copy(void **state)
{
    static const struct drv_buffer b[] = { { BUFFERS, 3, false },
                                           { BUFFERS + 10, 5, false },
                                           { BUFFERS + 20, 2, true },
                                           { BUFFERS + 30, 4, true } };
    struct hostile h;
    char text[16] = { 0 };
    char *at;

    hostile_open(&h, false);
    at = guest_mem_ptr(h.mem, BUFFERS, 64);
    memcpy(at, "abc", 3);
    memcpy(at + 10, "defgh", 5);
    assert_true(drv_add(&h.v, b, 4, &h, 0));
    assert_int_equal(virtqueue_pop(&h.vq, &h.chain), 1);
    assert_int_equal(virtqueue_chain_read(&h.chain, 0, text, 16), 8);
    assert_string_equal(text, "abcdefgh");
    memset(text, 0, sizeof(text));
    assert_int_equal(virtqueue_chain_read(&h.chain, 2, text, 3), 3);
    assert_string_equal(text, "cde");
    assert_int_equal(virtqueue_chain_read(&h.chain, 8, text, 3), 0);
    assert_int_equal(virtqueue_chain_write(&h.chain, 1, "uvwxyz", 6), 5);
    assert_memory_equal(at + 21, "u", 1);
    assert_memory_equal(at + 30, "vwxy", 4);
    hostile_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_buffers),    cmocka_unit_test(test_bad_tables),
        cmocka_unit_test(test_bad_split),      cmocka_unit_test(test_bad_packed),
        cmocka_unit_test(test_not_negotiated), cmocka_unit_test(test_bad_start),
        cmocka_unit_test(test_chain_copy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
