/* SPDX-License-Identifier: MIT */
/* virtio-console behind virtio-mmio with the loop running: a chain that the host's end took
 * only in part, over a reset of its queue, a pause, and a move to another machine.
 * pthread_create: the loop's thread, so TSan looks at it too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "unit/fake_env.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"

enum {
    RAM = 8 << 20,
    DATA = 4 << 20, /* what is sent: more than an end and its socket take */
    SIZE = 3 << 20,
    QUEUES = 4,
    QUEUE = 16,
    QUEUE_RESET = 0xc0, /* virtio 1.2, 4.2.2 */
};

struct rig {
    struct guest_mem *mem;
    struct log log;
    struct loop *loop;
    struct device_env env;
    struct virtio_device *vdev;
    struct device *device;
    struct drv queues[QUEUES];
    int end; /* the other end of the port's */
};

static void rig_open(struct rig *r)
{
    struct guest_mem_options options = { 0 };
    struct umbra_error error;
    struct virtio_console_port port = { .name = "agent", .end = { .kind = CHAR_END_FD } };
    int ends[2];

    memset(r, 0, sizeof(*r));
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM, GUEST_REGION_RAM, &error), 0);
    assert_int_equal(loop_create(&r->log, &r->loop, &error), 0);
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log, .loop = r->loop };
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    port.end.fd = ends[0];
    r->end = ends[1];
    assert_int_equal(fcntl(r->end, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(virtio_console_create(&r->env, "c", &port, 1, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error), 0);
    close(ends[0]);
    assert_int_equal(loop_start(r->loop, &error), 0);
    for (uint32_t i = 0, x = 1; i < SIZE; i++, x = x * 1664525 + 1013904223) {
        ((uint8_t *)guest_mem_ptr(r->mem, DATA, SIZE))[i] = (uint8_t)(x >> 24);
    }
}

static void queue_set_up(struct rig *r, unsigned i, bool packed)
{
    struct drv *d = &r->queues[i];

    if (d->mem != NULL) {
        drv_fini(d);
    }
    drv_init(d, r->mem, 0x10000 * (1 + i), QUEUE, packed, true);
    mmio_queue_ready(r->device, i, d);
    drv_interrupts_on(d);
}

static void rig_start(struct rig *r, bool packed)
{
    uint64_t features = VIRTIO_FEATURE(32) | VIRTIO_FEATURE(29) |
                        VIRTIO_FEATURE(40) | /* RING_RESET */
                        (packed ? VIRTIO_FEATURE(34) : 0);

    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    for (unsigned i = 0; i < QUEUES; i++) {
        queue_set_up(r, i, packed);
    }
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
    close(r->end);
}

static void transmit(struct rig *r, uint64_t addr, uint32_t size, void *token)
{
    struct drv_buffer b = { addr, size, false };

    assert_true(drv_add(&r->queues[1], &b, 1, token, 0));
    mmio_kick(r->device, 1, &r->queues[1]);
}

/* What came out, once, in order, from @from on, up to @size bytes. */
static void expect_bytes(struct rig *r, uint32_t from, uint32_t size)
{
    const uint8_t *data = guest_mem_ptr(r->mem, DATA, SIZE);
    static uint8_t bytes[65536];

    while (size > 0) {
        ssize_t got;

        WAIT_UNTIL(
            (got = read(r->end, bytes, size < sizeof(bytes) ? size : sizeof(bytes))) > 0);
        assert_memory_equal(bytes, data + from, got);
        from += (uint32_t)got;
        size -= (uint32_t)got;
    }
}

static void expect_used(struct rig *r, void *token)
{
    void *got = NULL;
    uint32_t length;

    WAIT_UNTIL((got = drv_get(&r->queues[1], &length)) != NULL);
    assert_ptr_equal(got, token);
}

/* The rest of a chain is forgotten with its ring; the new ring starts clean. */
static void test_queue_reset(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;
        static uint8_t bytes[65536];
        uint64_t out = 0;
        ssize_t got;
        uint32_t length;

        rig_open(r);
        rig_start(r, packed);
        transmit(r, DATA, SIZE, r);
        expect_bytes(r, 0, 1000); /* it is under way, and stuck: nobody reads on */
        out = 1000;
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_SEL, 1);
        mmio_set(r->device, QUEUE_RESET, 1);
        queue_set_up(r, 1, packed);
        /* What was taken before may still arrive, and no more than that. */
        do {
            got = read(r->end, bytes, sizeof(bytes));
            out += got > 0 ? (uint64_t)got : 0;
        } while (got > 0 || out < 1001);
        assert_true(out < SIZE);
        WAIT_UNTIL(read(r->end, bytes, sizeof(bytes)) < 0 && errno == EAGAIN);
        memcpy(guest_mem_ptr(r->mem, DATA - 4096, 4), "tail", 4);
        transmit(r, DATA - 4096, 4, &out);
        expect_used(r, &out);
        assert_null(drv_get(&r->queues[1], &length));
        /* It ends with the new chain's bytes. */
        for (unsigned seen = 0; seen < 4;) {
            uint8_t one;

            WAIT_UNTIL(read(r->end, &one, 1) == 1);
            seen = one == "tail"[seen] ? seen + 1 : one == 't';
        }
        assert_true(read(r->end, bytes, 1) < 0);
        rig_close(r);
    }
}

/* Each byte goes out once, whatever comes between. */
static void test_pause(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;

        rig_open(r);
        rig_start(r, packed);
        transmit(r, DATA, SIZE, r);
        expect_bytes(r, 0, 1000);
        for (unsigned i = 0; i < 3; i++) {
            loop_stop(r->loop);
            device_pause(r->device);
            device_resume(r->device);
            assert_int_equal(loop_start(r->loop, NULL), 0);
            expect_bytes(r, 1000 + i * 100000, 100000);
        }
        expect_bytes(r, 301000, SIZE - 301000);
        expect_used(r, r);
        rig_close(r);
    }
}

/* The rest goes out elsewhere. */
static void test_save_load(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig one, two;
        static uint8_t bytes[65536];
        uint64_t out = 1000;
        ssize_t got;

        rig_open(&one);
        rig_open(&two);
        rig_start(&one, packed);
        transmit(&one, DATA, SIZE, &two);
        expect_bytes(&one, 0, 1000);
        loop_stop(one.loop);
        device_pause(one.device);
        loop_stop(two.loop);
        device_pause(two.device);
        memcpy(guest_mem_ptr(two.mem, 0, RAM), guest_mem_ptr(one.mem, 0, RAM), RAM);
        dev_copy_state(one.device, two.device);
        for (unsigned i = 0; i < QUEUES; i++) {
            two.queues[i] = one.queues[i];
            memset(&one.queues[i], 0, sizeof(one.queues[i]));
            two.queues[i].d = guest_mem_ptr(two.mem, two.queues[i].desc, 1);
            two.queues[i].a = guest_mem_ptr(two.mem, two.queues[i].driver, 1);
            two.queues[i].u = guest_mem_ptr(two.mem, two.queues[i].device, 1);
        }
        /* What the first end's buffer still held is gone with it; 64 KiB at most. */
        device_destroy(one.device);
        one.device = NULL;
        while ((got = read(one.end, bytes, sizeof(bytes))) > 0) {
            out += (uint64_t)got;
        }
        device_resume(two.device);
        assert_int_equal(loop_start(two.loop, NULL), 0);
        /* Where it goes on is a place that the first had reached. */
        for (uint32_t from = 1000;; from++) {
            const uint8_t *data = guest_mem_ptr(two.mem, DATA, SIZE);
            static uint8_t start[4096];

            if (from == 1000) {
                WAIT_UNTIL(recv(two.end, start, sizeof(start), MSG_PEEK) ==
                           sizeof(start));
            }
            if (memcmp(data + from, start, sizeof(start)) == 0) {
                assert_in_range(from, out, out + 65536);
                expect_bytes(&two, from, SIZE - from);
                break;
            }
        }
        expect_used(&two, &two);
        loop_destroy(one.loop);
        guest_mem_destroy(one.mem);
        close(one.end);
        rig_close(&two);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_queue_reset),
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
