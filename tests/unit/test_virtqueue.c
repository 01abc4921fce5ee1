/* SPDX-License-Identifier: MIT */
/* virtio/virtqueue: against a second driver model, sequentially and concurrently. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "base/util.h"
#include "unit/virtqueue_rig.h"

/* ---- Random traffic ---------------------------------------------------------------- */

struct request {
    struct drv_buffer buffers[16];
    unsigned count;
    uint32_t readable, writable;
    uint32_t written;
    uint64_t serial;
    bool at_device, done;
};

enum { LIVE_MAX = 64 };

struct world {
    struct shape shape;
    struct guest_mem *mem;
    struct drv driver;
    struct virtqueue vq;
    unsigned short seed[3];
    struct request requests[LIVE_MAX];
    struct virtqueue_chain chains[LIVE_MAX];
    struct request *held[LIVE_MAX]; /* popped; index pairs with chains */
    uint64_t added, popped, pushed, collected;
    bool driver_waits; /* interrupts asked for, nothing there then */
    bool device_waits;
};

static unsigned pick(struct world *w, unsigned below)
{
    return (unsigned)nrand48(w->seed) % below;
}

/* The bytes at an address are a function of it, so that a wrong iovec shows. */
static void request_make(struct world *w, struct request *r, unsigned slot)
{
    unsigned readers = pick(w, 4), writers = pick(w, 4);
    uint64_t at = BUFFERS - 200000 + (uint64_t)slot * 65536 / 16;

    memset(r, 0, sizeof(*r));
    if (readers + writers == 0) {
        writers = 1;
    }
    for (unsigned i = 0; i < readers + writers; i++) {
        uint32_t len = 1 + pick(w, 500);

        r->buffers[r->count++] = (struct drv_buffer){ at, len, i >= readers };
        *(i < readers ? &r->readable : &r->writable) += len;
        at += len + pick(w, 3);
    }
    r->serial = ++w->added;
}

static void driver_adds(struct world *w)
{
    unsigned slot = pick(w, LIVE_MAX);
    struct request *r = &w->requests[slot];
    uint64_t table = w->shape.indirect && pick(w, 2)
                         ? TABLES + (uint64_t)slot * TABLE_SIZE + 8 * pick(w, 2)
                         : 0;
    bool needed;

    if (r->serial != 0) {
        return;
    }
    request_make(w, r, slot);
    if (!drv_add(&w->driver, r->buffers, r->count, r, table)) {
        r->serial = 0;
        w->added--;
        return;
    }
    if (pick(w, 3) != 0) { /* else: kicks for a batch later */
        needed = drv_kick_needed(&w->driver);
        if (w->device_waits) {
            assert_true(needed);
            w->device_waits = false;
        }
    }
}

static void chain_check(struct world *w, const struct virtqueue_chain *c,
                        const struct request *r)
{
    uint64_t readable = 0, writable = 0;
    unsigned piece = 0;
    uint64_t within = 0;

    for (unsigned i = 0; i < c->readable_count + c->writable_count; i++) {
        const struct drv_buffer *b = &r->buffers[piece];

        assert_true(piece < r->count);
        assert_int_equal(b->write, i >= c->readable_count);
        assert_int_equal(c->addresses[i], b->addr + within);
        assert_ptr_equal(c->iov[i].iov_base,
                         guest_mem_ptr(w->mem, b->addr + within, c->iov[i].iov_len));
        within += c->iov[i].iov_len;
        assert_true(within <= b->len);
        *(b->write ? &writable : &readable) += c->iov[i].iov_len;
        if (within == b->len) {
            within = 0;
            piece++;
        }
    }
    assert_int_equal(piece, r->count);
    assert_int_equal(readable, r->readable);
    assert_int_equal(writable, r->writable);
    assert_int_equal(c->readable_bytes, r->readable);
    assert_int_equal(c->writable_bytes, r->writable);
}

static void device_pops(struct world *w)
{
    unsigned slot = pick(w, LIVE_MAX);
    struct virtqueue_chain *c = &w->chains[slot];
    struct request *r;
    int ret;

    if (w->held[slot] != NULL) {
        return;
    }
    ret = virtqueue_pop(&w->vq, c);
    if (ret == 1 && pick(w, 8) == 0) {
        virtqueue_unpop(&w->vq, c);
        ret = virtqueue_pop(&w->vq, c);
        assert_int_equal(ret, 1);
    }
    if (ret == 0) {
        assert_int_equal(w->popped, w->added);
        if (pick(w, 2)) {
            assert_false(virtqueue_enable_kicks(&w->vq));
            w->device_waits = w->driver.added == 0;
        } else {
            virtqueue_disable_kicks(&w->vq);
            w->device_waits = false;
        }
        return;
    }
    assert_int_equal(ret, 1);
    /* Chains come in the order they were added. */
    w->popped++;
    r = w->driver.tokens[c->id];
    assert_non_null(r);
    assert_int_equal(r->serial, w->popped);
    chain_check(w, c, r);
    r->at_device = true;
    w->held[slot] = r;
    w->device_waits = false;
}

static void device_pushes(struct world *w)
{
    unsigned slot = pick(w, LIVE_MAX);
    struct request *r = NULL;

    for (unsigned i = 0; i < LIVE_MAX && r == NULL; i++) {
        slot = (slot + 1) % LIVE_MAX;
        r = w->held[slot];
    }
    if (r == NULL) {
        return;
    }
    r->written = r->writable == 0 ? 0 : pick(w, r->writable + 1);
    r->done = true;
    virtqueue_push(&w->vq, &w->chains[slot], r->written);
    w->held[slot] = NULL;
    w->pushed++;
}

static void device_flushes(struct world *w)
{
    bool before = drv_used_there(&w->driver);
    bool wanted = virtqueue_flush(&w->vq);
    bool after = drv_used_there(&w->driver);

    if (w->driver_waits && !before && after) {
        assert_true(wanted);
        w->driver_waits = false;
    }
    assert_false(wanted && !after);
}

static void driver_collects(struct world *w)
{
    uint32_t len;
    struct request *r = drv_get(&w->driver, &len);

    if (r == NULL) {
        if (pick(w, 2)) {
            assert_false(drv_interrupts_on(&w->driver));
            w->driver_waits = true;
        } else {
            drv_interrupts_off(&w->driver);
            w->driver_waits = false;
        }
        return;
    }
    w->collected++;
    assert_true(r->at_device && r->done);
    assert_int_equal(len, r->written);
    if (w->shape.in_order) {
        assert_int_equal(r->serial, w->collected);
    }
    memset(r, 0, sizeof(*r));
}

/* Everything quiet: stop and go on from the position, as a pause or a hand-over does. */
static void device_moves(struct world *w)
{
    struct virtqueue_config config = w->vq.config;
    struct virtqueue_position position;

    if (w->popped != w->pushed) {
        return;
    }
    device_flushes(w);
    virtqueue_get_position(&w->vq, &position);
    virtqueue_stop(&w->vq);
    assert_int_equal(virtqueue_start_at(&w->vq, w->mem, &config, &position), 0);
    w->device_waits = false;
}

static void traffic(const struct shape *shape, unsigned steps, unsigned short seed)
{
    struct world *w = calloc(1, sizeof(*w));
    struct virtqueue_config config;

    w->shape = *shape;
    w->seed[0] = seed;
    w->mem = ram_create();
    drv_init(&w->driver, w->mem, 0x10000, shape->size, shape->packed, shape->event_idx);
    config = config_of(&w->driver, shape);
    assert_int_equal(virtqueue_start(&w->vq, w->mem, &config), 0);
    for (unsigned i = 0; i < steps; i++) {
        switch (pick(w, 9)) {
        case 0:
        case 1:
            driver_adds(w);
            break;
        case 2:
        case 3:
            device_pops(w);
            break;
        case 4:
        case 5:
            device_pushes(w);
            break;
        case 6:
            device_flushes(w);
            break;
        case 7:
            driver_collects(w);
            driver_collects(w);
            break;
        default:
            if (pick(w, 20) == 0) {
                device_moves(w);
            }
            break;
        }
        assert_null(w->vq.fault);
    }
    assert_true(w->collected > steps / 100);
    for (unsigned i = 0; i < LIVE_MAX; i++) {
        virtqueue_chain_fini(&w->chains[i]);
    }
    virtqueue_stop(&w->vq);
    drv_fini(&w->driver);
    guest_mem_destroy(w->mem);
    free(w);
}

static void test_random(void **state)
{
    static const unsigned sizes[] = { 8, 16, 64, 13, 100 };

    for (unsigned i = 0; i < 16 * ARRAY_SIZE(sizes); i++) {
        struct shape shape = { sizes[i / 16], i & 1, i & 2, i & 4, i & 8 };

        if (!shape.packed && (shape.size & (shape.size - 1)) != 0) {
            continue;
        }
        traffic(&shape, 6000, (unsigned short)i);
    }
}

static void test_largest(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct shape shape = { VIRTQUEUE_MAX_SIZE, i & 1, i & 2, true, false };

        traffic(&shape, 200000, (unsigned short)i);
    }
}

/* ---- A concurrent driver
 * --------------------------------------------------------------- */

enum { ROUNDS = 20000, WINDOW = 12 };

struct race {
    struct drv v;
    struct guest_mem *mem;
    atomic_bool kicked, interrupted;
    uint64_t collected;
    unsigned errors;
};

/* The driver's thread: each request carries a number in, its double must come back. */
static void *race_driver(void *context)
{
    struct race *r = context;
    uint64_t next = 1, collected = 0;
    uint64_t slots[WINDOW] = { 0 };

    while (collected < ROUNDS) {
        uint32_t len;
        uint64_t *token;

        for (unsigned i = 0; i < WINDOW && next <= ROUNDS; i++) {
            uint64_t at = BUFFERS + 64 * (uint64_t)i;
            struct drv_buffer b[2] = { { at, 8, false }, { at + 16, 8, true } };

            if (slots[i] != 0 || r->v.free_count < 2) {
                continue;
            }
            *(uint64_t *)guest_mem_ptr(r->mem, at, 8) = next;
            slots[i] = next;
            assert_true(drv_add(&r->v, b, 2, &slots[i],
                                next % 3 == 0 ? TABLES + (uint64_t)i * TABLE_SIZE : 0));
            next++;
            if (drv_kick_needed(&r->v)) {
                atomic_store(&r->kicked, true);
            }
        }
        token = drv_get(&r->v, &len);
        if (token != NULL) {
            uint64_t i = (uint64_t)(token - slots);
            uint64_t *answer = guest_mem_ptr(r->mem, BUFFERS + 64 * i + 16, 8);

            r->errors += *answer != 2 * slots[i] || len != 8;
            slots[i] = 0;
            collected++;
        } else if (!drv_interrupts_on(&r->v)) {
            /* A lost interrupt would leave both threads waiting for ever. */
            while (!atomic_exchange(&r->interrupted, false)) {
                sched_yield();
            }
            drv_interrupts_off(&r->v);
        }
    }
    r->collected = collected;
    return NULL;
}

static void race_run(const struct shape *shape)
{
    struct race r = { .mem = ram_create() };
    struct virtqueue_chain chain = { 0 };
    struct virtqueue_config config;
    struct virtqueue vq;
    pthread_t thread;
    uint64_t served = 0;

    drv_init(&r.v, r.mem, 0x10000, shape->size, shape->packed, shape->event_idx);
    config = config_of(&r.v, shape);
    assert_int_equal(virtqueue_start(&vq, r.mem, &config), 0);
    virtqueue_enable_kicks(&vq);
    assert_int_equal(pthread_create(&thread, NULL, race_driver, &r), 0);
    while (served < ROUNDS) {
        virtqueue_disable_kicks(&vq);
        while (virtqueue_pop(&vq, &chain) == 1) {
            uint64_t value;

            assert_int_equal(virtqueue_chain_read(&chain, 0, &value, 8), 8);
            value *= 2;
            assert_int_equal(virtqueue_chain_write(&chain, 0, &value, 8), 8);
            virtqueue_push(&vq, &chain, 8);
            served++;
            if (served % 3 == 0 && virtqueue_flush(&vq)) {
                atomic_store(&r.interrupted, true);
            }
        }
        assert_null(vq.fault);
        if (virtqueue_flush(&vq)) {
            atomic_store(&r.interrupted, true);
        }
        if (served < ROUNDS && !virtqueue_enable_kicks(&vq)) {
            while (!atomic_exchange(&r.kicked, false)) {
                sched_yield();
            }
        }
    }
    pthread_join(thread, NULL);
    assert_int_equal(r.collected, ROUNDS);
    assert_int_equal(r.errors, 0);
    virtqueue_chain_fini(&chain);
    virtqueue_stop(&vq);
    drv_fini(&r.v);
    guest_mem_destroy(r.mem);
}

static void test_concurrent(void **state)
{
    for (unsigned i = 0; i < 8; i++) {
        struct shape shape = { 16, i & 1, i & 2, true, i & 4 };

        race_run(&shape);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_concurrent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
