/* SPDX-License-Identifier: MIT */
/* virtio-blk behind virtio-mmio, driven by the test's own driver while its threads run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include <linux/virtio_blk.h>

#include "backend/disk/disk.h"
#include "base/state.h"
#include "base/util.h"
#include "unit/dirty_pages.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"

enum {
    RAM = 8 << 20,
    DISK = 4 << 20,
    BUFFERS = 4 << 20,
    QUEUE = 64,
    STRIDE = 16384, /* of the requests' buffers */
};

struct request {
    uint8_t *header, *data, *status;
    uint64_t at; /* guest-physical */
    bool done;
    uint32_t written;
};

struct rig {
    struct guest_mem *mem;
    struct log log;
    struct device_env env;
    struct virtio_device *vdev;
    struct device *device;
    char image[64];
    struct drv queues[2];
    unsigned queue_count;
    struct request requests[32];
    atomic_uint warnings;
};

static void rig_log(void *context, enum umbra_log_level level, const char *line)
{
    struct rig *r = context;

    (void)line;
    if (level <= UMBRA_LOG_WARNING) {
        atomic_fetch_add(&r->warnings, 1);
    }
}

struct shape {
    bool packed, readonly, no_flush, no_event, wce;
    unsigned queues;
};

static void rig_open(struct rig *r, const struct shape *shape)
{
    struct guest_mem_options options = { 0 };
    struct disk_file_options file = { .path = r->image, .readonly = shape->readonly };
    struct virtio_blk_options blk = { .id = "disk0",
                                      .serial = "a serial number",
                                      .queues = shape->queues,
                                      .queue_size = QUEUE };
    struct umbra_error error;
    struct disk *disk;
    int fd;

    memset(r, 0, sizeof(*r));
    snprintf(r->image, sizeof(r->image), "/tmp/umbra-blk-XXXXXX");
    fd = mkstemp(r->image);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK), 0);
    close(fd);
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM, GUEST_REGION_RAM, &error), 0);
    r->log = (struct log){ .fn = rig_log, .context = r, .level = UMBRA_LOG_WARNING };
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log };
    assert_int_equal(disk_file_open(&file, &r->log, &disk, &error), 0);
    assert_int_equal(virtio_blk_create(&r->env, &blk, disk, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error), 0);
    r->queue_count = shape->queues;
    for (unsigned i = 0; i < ARRAY_SIZE(r->requests); i++) {
        struct request *q = &r->requests[i];

        q->at = BUFFERS + (uint64_t)i * STRIDE * 2;
        q->header = guest_mem_ptr(r->mem, q->at, STRIDE * 2);
        q->status = q->header + 16;
        q->data = q->header + STRIDE;
    }
}

/* Negotiate and start, as a driver does (3.1.1). */
static void rig_start(struct rig *r, const struct shape *shape)
{
    uint64_t features = VIRTIO_FEATURE(32) | VIRTIO_FEATURE(28);
    const struct mmio_rings rings = { r->mem, 0x10000, QUEUE, shape->packed,
                                      !shape->no_event };

    features |= shape->packed ? VIRTIO_FEATURE(34) : 0;
    features |= shape->no_event ? 0 : VIRTIO_FEATURE(29);
    features |= shape->no_flush ? 0 : VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH);
    features |= shape->wce ? VIRTIO_FEATURE(VIRTIO_BLK_F_CONFIG_WCE) : 0;
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 0);
    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, r->queues, r->queue_count, &rings);
    for (unsigned i = 0; i < r->queue_count; i++) {
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_SEL, i);
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_QUEUE_NUM_MAX), QUEUE);
    }
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static void rig_close(struct rig *r)
{
    for (unsigned i = 0; i < r->queue_count; i++) {
        drv_fini(&r->queues[i]);
    }
    device_destroy(r->device);
    guest_mem_destroy(r->mem);
    unlink(r->image);
}

static void collect(struct drv *d)
{
    struct request *q;
    uint32_t written;

    while ((q = drv_get(d, &written)) != NULL) {
        q->done = true;
        q->written = written;
    }
}

/* Put one request on the queue; its data was prepared. */
static void submit(struct rig *r, unsigned queue, struct request *q, uint32_t type,
                   uint64_t sector, uint32_t length, bool device_writes)
{
    struct drv *d = &r->queues[queue];
    struct drv_buffer b[3] = { { q->at, 16, false },
                               { q->at + STRIDE, length, device_writes },
                               { q->at + 16, 1, true } };

    store_le32(q->header, type);
    store_le32(q->header + 4, 0);
    store_le64(q->header + 8, sector);
    *q->status = 0xee;
    q->done = false;
    if (length == 0) {
        b[1] = b[2];
    }
    assert_true(drv_add(d, b, length == 0 ? 2 : 3, q, 0));
    mmio_kick(r->device, queue, d);
}

static uint8_t finish(struct rig *r, unsigned queue, struct request *q)
{
    while (!q->done) {
        collect(&r->queues[queue]);
        sched_yield();
    }
    return *(volatile uint8_t *)q->status;
}

static uint8_t once(struct rig *r, uint32_t type, uint64_t sector, uint32_t length)
{
    bool device_writes = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;

    submit(r, 0, &r->requests[0], type, sector, length, device_writes);
    return finish(r, 0, &r->requests[0]);
}

static void fill(uint8_t *data, uint32_t length, unsigned seed)
{
    for (uint32_t i = 0; i < length; i++) {
        data[i] = (uint8_t)(i * 31 + seed * 77 + i / 256);
    }
}

static bool filled(const uint8_t *data, uint32_t length, unsigned seed)
{
    for (uint32_t i = 0; i < length; i++) {
        if (data[i] != (uint8_t)(i * 31 + seed * 77 + i / 256)) {
            return false;
        }
    }
    return true;
}

static void range(uint8_t *at, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    store_le64(at, sector);
    store_le32(at + 8, sectors);
    store_le32(at + 12, flags);
}

static void test_requests(void **state)
{
    for (unsigned i = 0; i < 8; i++) {
        struct shape shape = {
            .packed = i & 1, .no_event = i & 2, .no_flush = i & 4, .queues = 1
        };
        struct rig rig, *r = &rig;
        struct request *q = &r->requests[0];

        rig_open(r, &shape);
        rig_start(r, &shape);
        fill(q->data, 8192, 1);
        assert_int_equal(once(r, VIRTIO_BLK_T_OUT, 100, 8192), VIRTIO_BLK_S_OK);
        assert_int_equal(q->written, 1);
        memset(q->data, 0, 8192);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, 100, 8192), VIRTIO_BLK_S_OK);
        assert_true(filled(q->data, 8192, 1));
        assert_int_equal(q->written, 8193);
        assert_int_equal(once(r, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
        assert_int_equal(once(r, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
        assert_string_equal((char *)q->data, "a serial number");
        /* The ends of the disk, and beyond. */
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, DISK / 512 - 1, 512), VIRTIO_BLK_S_OK);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, DISK / 512 - 1, 1024),
                         VIRTIO_BLK_S_IOERR);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, DISK / 512, 512), VIRTIO_BLK_S_IOERR);
        assert_int_equal(once(r, VIRTIO_BLK_T_OUT, UINT64_MAX, 512), VIRTIO_BLK_S_IOERR);
        assert_int_equal(once(r, VIRTIO_BLK_T_OUT, UINT64_MAX / 512, 512),
                         VIRTIO_BLK_S_IOERR);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 100), VIRTIO_BLK_S_IOERR);
        assert_int_equal(once(r, 77, 0, 512), VIRTIO_BLK_S_UNSUPP);
        /* Discard and zeroes. */
        range(q->data, 100, 4, 0);
        range(q->data + 16, 108, 4, 1);
        assert_int_equal(once(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32), VIRTIO_BLK_S_OK);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, 100, 8192), VIRTIO_BLK_S_OK);
        for (unsigned s = 0; s < 16; s++) {
            bool zero = s < 4 || (s >= 8 && s < 12);

            assert_int_equal(q->data[s * 512 + 5] == 0 && q->data[s * 512 + 6] == 0,
                             zero);
        }
        range(q->data, 100, 4, 1);
        assert_int_equal(once(r, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_UNSUPP);
        range(q->data, 100, 4, 2);
        assert_int_equal(once(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_UNSUPP);
        range(q->data, DISK / 512 - 3, 4, 0);
        assert_int_equal(once(r, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_IOERR);
        assert_int_equal(once(r, VIRTIO_BLK_T_DISCARD, 0, 15), VIRTIO_BLK_S_IOERR);
        range(q->data, 0, 8, 0);
        assert_int_equal(once(r, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_OK);
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
        rig_close(r);
    }
}

/* Header, data and status in unusual pieces (2.7.4: the layout is the driver's choice). */
static void test_layout(void **state)
{
    struct shape shape = { .queues = 1 };
    struct rig rig, *r = &rig;
    struct request *q = &r->requests[0];
    struct drv_buffer out[] = {
        { 0, 5, false }, { 0, 11 + 100, false }, { 0, 412, false }, { 0, 1, true }
    };
    struct drv_buffer in[] = { { 0, 16, false }, { 0, 200, true }, { 0, 313, true } };

    rig_open(r, &shape);
    rig_start(r, &shape);
    /* 16 bytes of header and 512 of data, contiguous at q->at + STRIDE */
    out[0].addr = q->at + STRIDE;
    out[1].addr = out[0].addr + 5;
    out[2].addr = out[1].addr + 111;
    out[3].addr = q->at + 16;
    store_le64(q->data, VIRTIO_BLK_T_OUT);
    store_le64(q->data + 8, 7);
    fill(q->data + 16, 512, 9);
    assert_true(drv_add(&r->queues[0], out, 4, q, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_int_equal(finish(r, 0, q), VIRTIO_BLK_S_OK);
    /* Data of 512 bytes with the status as the last byte of the same buffers. */
    in[0].addr = q->at;
    in[1].addr = q->at + STRIDE;
    in[2].addr = in[1].addr + 200;
    store_le64(q->header, VIRTIO_BLK_T_IN);
    store_le64(q->header + 8, 7);
    memset(q->data, 0xff, 600);
    q->done = false;
    assert_true(drv_add(&r->queues[0], in, 3, q, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    finish(r, 0, q);
    assert_int_equal(q->data[512], VIRTIO_BLK_S_OK);
    assert_true(filled(q->data, 512, 9));
    rig_close(r);
}

static void test_readonly(void **state)
{
    struct shape shape = { .readonly = true, .queues = 1 };
    struct rig rig, *r = &rig;

    rig_open(r, &shape);
    mmio_set(r->device, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    assert_true(mmio_get(r->device, VIRTIO_MMIO_DEVICE_FEATURES) & 1u << VIRTIO_BLK_F_RO);
    assert_false(mmio_get(r->device, VIRTIO_MMIO_DEVICE_FEATURES) &
                 1u << VIRTIO_BLK_F_DISCARD);
    rig_start(r, &shape);
    assert_int_equal(once(r, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    range(r->requests[0].data, 0, 8, 0);
    assert_int_equal(once(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_IOERR);
    rig_close(r);
}

/* A flood on two queues, with pauses, queue resets and device resets in between. */
static void test_flood(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct shape shape = { .packed = i, .queues = 2 };
        struct rig rig, *r = &rig;
        unsigned step = 0;

        rig_open(r, &shape);
        for (unsigned life = 0; life < 3; life++) {
            rig_start(r, &shape);
            for (unsigned round = 0; round < 20; round++) {
                for (unsigned n = 0; n < ARRAY_SIZE(r->requests); n++) {
                    fill(r->requests[n].data, 4096, step + n);
                    submit(r, n & 1, &r->requests[n], VIRTIO_BLK_T_OUT, 8 * n, 4096,
                           false);
                }
                if (round % 5 == 2) {
                    device_pause(r->device);
                    device_resume(r->device);
                }
                for (unsigned n = 0; n < ARRAY_SIZE(r->requests); n++) {
                    assert_int_equal(finish(r, n & 1, &r->requests[n]), VIRTIO_BLK_S_OK);
                    memset(r->requests[n].data, 0, 4096);
                    submit(r, n & 1, &r->requests[n], VIRTIO_BLK_T_IN, 8 * n, 4096, true);
                }
                for (unsigned n = 0; n < ARRAY_SIZE(r->requests); n++) {
                    assert_int_equal(finish(r, n & 1, &r->requests[n]), VIRTIO_BLK_S_OK);
                    assert_true(filled(r->requests[n].data, 4096, step + n));
                }
                step++;
            }
            /* Reset with requests in flight: none may touch memory afterwards. */
            for (unsigned n = 0; n < ARRAY_SIZE(r->requests); n++) {
                submit(r, n & 1, &r->requests[n], VIRTIO_BLK_T_IN, 0, 4096, true);
            }
            mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
            for (unsigned n = 0; n < ARRAY_SIZE(r->requests); n++) {
                memset(r->requests[n].data, 0x99, 4096);
            }
            for (unsigned n = 0; n < ARRAY_SIZE(r->requests); n++) {
                assert_int_equal(r->requests[n].data[4095], 0x99);
            }
        }
        assert_int_equal(atomic_load(&r->warnings), 0);
        rig_close(r);
    }
}

/* A malformed ring stops this device alone, says so once, and a reset heals it. */
static void test_hostile(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct shape shape = { .packed = i, .queues = 1 };
        struct rig rig, *r = &rig;
        struct drv_buffer outside = { RAM, 4096, false };
        struct drv_buffer headless = { BUFFERS, 8, true };

        rig_open(r, &shape);
        rig_start(r, &shape);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
        mmio_set(r->device, VIRTIO_MMIO_INTERRUPT_ACK, 3);
        for (unsigned n = 0; n < 3; n++) {
            assert_true(drv_add(&r->queues[0], &outside, 1, r, 0));
            mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        }
        while (!(mmio_get(r->device, VIRTIO_MMIO_STATUS) & 64)) {
            sched_yield();
        }
        while (!(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS) &
                 VIRTIO_MMIO_INT_CONFIG)) {
            sched_yield();
        }
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        rig_start(r, &shape);
        assert_int_equal(atomic_load(&r->warnings), 1);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
        /* A request that cannot even be answered. */
        assert_true(drv_add(&r->queues[0], &headless, 1, r, 0));
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        while (!(mmio_get(r->device, VIRTIO_MMIO_STATUS) & 64)) {
            sched_yield();
        }
        rig_start(r, &shape);
        assert_int_equal(atomic_load(&r->warnings), 2);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
        rig_close(r);
    }
}

static void test_negotiation(void **state)
{
    struct shape shape = { .queues = 1 };
    struct rig rig, *r = &rig;

    rig_open(r, &shape);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_VERSION), 2);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_DEVICE_ID), 2);
    /* Without VERSION_1, and with a feature nobody offered: refused. */
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 3);
    mmio_set(r->device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    mmio_set(r->device, VIRTIO_MMIO_DRIVER_FEATURES, 0);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 11);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 3);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 3);
    mmio_set(r->device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    mmio_set(r->device, VIRTIO_MMIO_DRIVER_FEATURES, 1 | 1u << 31);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 11);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 3);
    /* DRIVER_OK out of turn. */
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 7);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS) & 4, 0);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
    /* A ring outside RAM: the device needs a reset, and has one. */
    rig_start(r, &shape);
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_READY, 0);
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NUM, QUEUE);
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15 | 64);
    rig_start(r, &shape);
    assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    rig_close(r);
}

static void set_wce(struct rig *r, uint8_t wce)
{
    unsigned at = VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, wce);

    pthread_mutex_lock(&r->device->lock);
    r->device->ops->write(r->device, 0, at, 1, wce);
    pthread_mutex_unlock(&r->device->lock);
    assert_int_equal(mmio_get_sized(r->device, at, 1), wce);
}

/* Writes one by one: true when each left nothing that a loss of power would take. */
static bool writes_last(struct rig *r)
{
    long dirty = 0;

    for (unsigned i = 0; i < 4; i++) {
        fill(r->requests[0].data, 4096, i);
        assert_int_equal(once(r, VIRTIO_BLK_T_OUT, 8 * i, 4096), VIRTIO_BLK_S_OK);
        dirty += dirty_pages(r->image);
    }
    return dirty == 0;
}

/* Who cannot flush, or turns the cache off, has every write flushed (5.2.6.2). */
static void test_durable(void **state)
{
    struct shape shape = { .queues = 1 };
    struct rig rig, *r = &rig;

    rig_open(r, &shape);
    if (!dirty_pages_told(r->image)) {
        rig_start(r, &shape);
        rig_close(r);
        skip(); /* tmpfs, or a kernel before 6.5 */
    }
    rig_start(r, &shape);
    assert_false(writes_last(r));
    assert_int_equal(once(r, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(dirty_pages(r->image), 0);
    shape.no_flush = true;
    rig_start(r, &shape);
    assert_true(writes_last(r));
    shape.no_flush = false;
    shape.wce = true;
    rig_start(r, &shape);
    assert_false(writes_last(r));
    set_wce(r, 0);
    once(r, VIRTIO_BLK_T_FLUSH, 0, 0);
    assert_true(writes_last(r));
    set_wce(r, 1);
    assert_false(writes_last(r));
    rig_close(r);
}

static void test_resize(void **state)
{
    struct shape shape = { .queues = 1 };
    struct rig rig, *r = &rig;
    struct umbra_error error;
    uint32_t generation;

    rig_open(r, &shape);
    rig_start(r, &shape);
    generation = mmio_get(r->device, VIRTIO_MMIO_CONFIG_GENERATION);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG), DISK / 512);
    assert_int_equal(once(r, VIRTIO_BLK_T_IN, DISK / 512, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(truncate(r->image, 2 * DISK), 0);
    assert_int_equal(virtio_blk_resize(r->vdev, 0, NULL, &error), 0);
    assert_true(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS) &
                VIRTIO_MMIO_INT_CONFIG);
    assert_int_not_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG), 2 * DISK / 512);
    assert_int_equal(once(r, VIRTIO_BLK_T_IN, DISK / 512, 512), VIRTIO_BLK_S_OK);
    rig_close(r);
}

/* State saved from a paused device and loaded into another goes on where it stood. */
static void test_save_load(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct shape shape = { .packed = i, .queues = 1 };
        struct rig rig, *r = &rig;
        struct state_writer *writer;
        struct state_reader *reader;
        struct umbra_error error;
        const void *bytes;
        json_t *stats;
        size_t size;

        rig_open(r, &shape);
        rig_start(r, &shape);
        for (unsigned n = 0; n < 70; n++) {
            fill(r->requests[0].data, 512, n);
            assert_int_equal(once(r, VIRTIO_BLK_T_OUT, n, 512), VIRTIO_BLK_S_OK);
        }
        device_pause(r->device);
        assert_int_equal(state_writer_create(&writer), 0);
        assert_int_equal(device_save(r->device, writer, &error), 0);
        assert_int_equal(state_writer_finish(writer, &bytes, &size), 0);
        device_reset(r->device);
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 0);
        assert_int_equal(state_reader_create(bytes, size, &reader, &error), 0);
        assert_int_equal(device_load(r->device, reader, &error), 0);
        state_reader_destroy(reader);
        state_writer_destroy(writer);
        device_resume(r->device);
        for (unsigned n = 0; n < 70; n++) {
            assert_int_equal(once(r, VIRTIO_BLK_T_IN, n, 512), VIRTIO_BLK_S_OK);
            assert_true(filled(r->requests[0].data, 512, n));
        }
        stats = json_object();
        device_stats(r->device, stats);
        assert_int_equal(
            json_integer_value(json_object_get(
                json_array_get(json_object_get(stats, "queues"), 0), "chains")),
            140);
        json_decref(stats);
        rig_close(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),  cmocka_unit_test(test_layout),
        cmocka_unit_test(test_readonly),  cmocka_unit_test(test_flood),
        cmocka_unit_test(test_hostile),   cmocka_unit_test(test_negotiation),
        cmocka_unit_test(test_durable),   cmocka_unit_test(test_resize),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
