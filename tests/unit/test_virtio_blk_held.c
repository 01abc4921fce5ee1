/* SPDX-License-Identifier: MIT */
/* virtio-blk over a disk of the test's own, which takes its time and remembers what it was
 * asked: what reaches a back end, what never does, and who waits for whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_blk.h>

#include "backend/disk/disk.h"
#include "base/util.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"

enum {
    RAM = 8 << 20,
    BUFFERS = 4 << 20,
    STRIDE = 65536,
    QUEUE = 64,
    ASKED = 64,
    QUEUE_RESET = 0x0c0,
    RANGE = 16,
    RANGES_MAX = 16,
};
static const uint64_t disk_size = UINT64_C(1) << 40;

/* ---- A disk that answers after a while --------------------------------------------------- */

struct asked {
    enum disk_op op;
    uint64_t offset, length;
    bool may_unmap;
};

struct held {
    struct disk disk;
    struct __kernel_timespec delay;
    atomic_uint submitted, finished;
    atomic_int fail_at; /* the request that fails, counted from 1 */
    struct asked asked[ASKED];
};

static void held_finish(struct io_op *op, int result, bool more)
{
    struct disk_request *request = container_of(op, struct disk_request, io);
    struct held *held = container_of(request->queue->disk, struct held, disk);

    (void)result;
    (void)more;
    for (unsigned i = 0; request->op == DISK_READ && i < request->iov_count; i++) {
        memset(request->iov[i].iov_base, 0x77, request->iov[i].iov_len);
    }
    request->done(request, atomic_fetch_add(&held->finished, 1) + 1 ==
                                   (unsigned)atomic_load(&held->fail_at)
                               ? -EIO
                               : 0);
}

static void held_submit(struct disk_queue *queue, struct disk_request *request)
{
    struct held *held = container_of(queue->disk, struct held, disk);
    unsigned n = atomic_fetch_add(&held->submitted, 1);
    struct io_uring_sqe *sqe;

    held->asked[n % ASKED] = (struct asked){ request->op, request->offset,
                                             request->length, request->may_unmap };
    request->queue = queue;
    request->io.done = held_finish;
    sqe = io_ring_sqe(queue->ring, &request->io);
    io_uring_prep_timeout(sqe, &held->delay, 0, 0);
    io_uring_sqe_set_data(sqe, &request->io);
}

static int held_queue_open(struct disk *disk, struct io_ring *ring,
                           struct disk_queue **queue)
{
    *queue = malloc(sizeof(**queue));
    **queue = (struct disk_queue){ disk, ring };
    return 0;
}

static void held_queue_close(struct disk_queue *queue)
{
    free(queue);
}

static void held_destroy(struct disk *disk)
{
    (void)disk;
}

static const struct disk_ops held_ops = {
    .type = "held",
    .queue_open = held_queue_open,
    .queue_close = held_queue_close,
    .submit = held_submit,
    .destroy = held_destroy,
};

/* ---- The rig ------------------------------------------------------------------------------- */

struct rig {
    struct held held;
    struct guest_mem *mem;
    struct log log;
    struct device_env env;
    struct virtio_device *vdev;
    struct device *device;
    struct drv queue;
};

static void rig_start(struct rig *r)
{
    const struct mmio_rings rings = { r->mem, 0x10000, QUEUE, false, false };
    uint64_t features =
        VIRTIO_FEATURE(32) | VIRTIO_FEATURE(40) | VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH);

    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, &r->queue, 1, &rings);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static void rig_open(struct rig *r, bool readonly, unsigned delay_ms)
{
    struct virtio_blk_options blk = { .id = "disk0", .queues = 1, .queue_size = QUEUE };
    struct guest_mem_options options = { 0 };
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    r->held.disk = (struct disk){ .ops = &held_ops,
                                  .name = "held",
                                  .size = disk_size,
                                  .readonly = readonly,
                                  .can_discard = !readonly,
                                  .can_write_zeroes = !readonly,
                                  .block_size = 512,
                                  .physical_block_size = 4096,
                                  .discard_alignment = 4096 };
    r->held.delay.tv_nsec = (long long)delay_ms * 1000000;
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM, GUEST_REGION_RAM, &error), 0);
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log };
    assert_int_equal(virtio_blk_create(&r->env, &blk, &r->held.disk, &r->vdev, &error),
                     0);
    assert_int_equal(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error), 0);
    rig_start(r);
}

static void rig_close(struct rig *r)
{
    drv_fini(&r->queue);
    device_destroy(r->device);
    guest_mem_destroy(r->mem);
}

static uint8_t *bytes_of(struct rig *r, unsigned slot)
{
    return guest_mem_ptr(r->mem, BUFFERS + (uint64_t)slot * STRIDE, STRIDE);
}

/* Header, @length of data behind 512 bytes of it, and a status of @tail bytes. */
static void submit(struct rig *r, unsigned slot, uint32_t type, uint64_t sector,
                   uint32_t length, uint32_t tail)
{
    uint64_t at = BUFFERS + (uint64_t)slot * STRIDE;
    struct drv_buffer b[3] = { { at, 16, false },
                               { at + 512, length, type == VIRTIO_BLK_T_IN },
                               { at + STRIDE / 2, tail, true } };
    uint8_t *bytes = bytes_of(r, slot);

    store_le32(bytes, type);
    store_le32(bytes + 4, 0);
    store_le64(bytes + 8, sector);
    memset(bytes + STRIDE / 2, 0xee, tail);
    if (length == 0) {
        b[1] = b[2];
    }
    assert_true(drv_add(&r->queue, b, length == 0 ? 2 : 3, bytes, 0));
    mmio_kick(r->device, 0, &r->queue);
}

/* The status; the used length in *written. */
static uint8_t finish(struct rig *r, uint32_t tail, uint32_t *written)
{
    uint8_t *bytes;

    while ((bytes = drv_get(&r->queue, written)) == NULL) {
        sched_yield();
    }
    return *(volatile uint8_t *)(bytes + STRIDE / 2 + tail - 1);
}

static uint8_t once(struct rig *r, uint32_t type, uint64_t sector, uint32_t length)
{
    uint32_t written;

    submit(r, 0, type, sector, length, 1);
    return finish(r, 1, &written);
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void several(struct rig *r, unsigned count)
{
    unsigned before = atomic_load(&r->held.submitted);

    for (unsigned i = 0; i < count; i++) {
        submit(r, i, VIRTIO_BLK_T_IN, 0, 4096, 1);
    }
    while (atomic_load(&r->held.submitted) < before + count) {
        sched_yield();
    }
}

/* Who stops a queue, by whatever means, waits for what the disk still has. */
static void test_stop_waits(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    uint32_t written;

    rig_open(r, false, 50);
    several(r, 8);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(atomic_load(&r->held.finished), 8);
    memset(bytes_of(r, 3), 0, STRIDE);
    rig_start(r);
    several(r, 8);
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_SEL, 0);
    mmio_set(r->device, QUEUE_RESET, 1);
    assert_int_equal(atomic_load(&r->held.finished), 16);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_QUEUE_READY), 0);
    rig_start(r);
    several(r, 8);
    device_pause(r->device);
    assert_int_equal(atomic_load(&r->held.finished), 24);
    device_resume(r->device);
    for (unsigned i = 0; i < 8; i++) { /* finished before the pause */
        assert_int_equal(finish(r, 1, &written), VIRTIO_BLK_S_OK);
        assert_int_equal(written, 4097);
    }
    several(r, 4);
    drv_fini(&r->queue);
    device_destroy(r->device);
    assert_int_equal(atomic_load(&r->held.finished), 28);
    guest_mem_destroy(r->mem);
    free(r);
}

/* A queue that is reset alone, with requests in flight, and goes on with another ring. */
static void test_queue_reset(void **state)
{
    struct rig *r = malloc(sizeof(*r));

    rig_open(r, false, 5);
    for (unsigned round = 0; round < 10; round++) {
        uint64_t base = 0x10000 + 0x10000 * (uint64_t)(round % 2);

        several(r, 6);
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_SEL, 0);
        mmio_set(r->device, QUEUE_RESET, 1);
        assert_int_equal(mmio_get(r->device, QUEUE_RESET), 0);
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), MMIO_DRIVER_OK);
        drv_fini(&r->queue);
        drv_init(&r->queue, r->mem, base, QUEUE / 2, false, false);
        mmio_queue_ready(r->device, 0, &r->queue);
        assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    }
    rig_close(r);
    free(r);
}

/* A disk that cannot be written is not asked to. */
static void test_readonly(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    uint8_t *data;

    rig_open(r, true, 0);
    data = bytes_of(r, 0) + 512;
    memset(data, 0, RANGE);
    store_le32(data + 8, 8);
    assert_int_equal(once(r, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(once(r, VIRTIO_BLK_T_DISCARD, 0, RANGE), VIRTIO_BLK_S_IOERR);
    assert_int_equal(once(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, RANGE), VIRTIO_BLK_S_IOERR);
    assert_int_equal(atomic_load(&r->held.submitted), 0);
    assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    rig_close(r);
    free(r);
}

static void put_range(uint8_t *at, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    store_le64(at, sector);
    store_le32(at + 8, sectors);
    store_le32(at + 12, flags);
}

/* As many ranges as config space says, as long as it says, each reaches the disk. */
static void test_ranges(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    uint32_t longest;
    uint8_t *data;

    rig_open(r, false, 0);
    data = bytes_of(r, 0) + 512;
    longest = mmio_get(r->device, VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config,
                                                                max_discard_sectors));
    assert_int_equal(
        mmio_get(r->device, VIRTIO_MMIO_CONFIG +
                                offsetof(struct virtio_blk_config, max_discard_seg)),
        RANGES_MAX);
    for (unsigned i = 0; i <= RANGES_MAX; i++) {
        put_range(data + i * RANGE, 100 * i, 8 + i, i & 1);
    }
    assert_int_equal(once(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, (RANGES_MAX + 1) * RANGE),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(atomic_load(&r->held.submitted), 0);
    assert_int_equal(once(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, RANGES_MAX * RANGE),
                     VIRTIO_BLK_S_OK);
    assert_int_equal(atomic_load(&r->held.submitted), RANGES_MAX);
    for (unsigned i = 0; i < RANGES_MAX; i++) {
        assert_int_equal(r->held.asked[i].op, DISK_WRITE_ZEROES);
        assert_int_equal(r->held.asked[i].offset, 51200 * i);
        assert_int_equal(r->held.asked[i].length, 512 * (8 + i));
        assert_int_equal(r->held.asked[i].may_unmap, i & 1);
    }
    for (unsigned i = 0; i < 2; i++) {
        uint32_t type = i == 0 ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;

        atomic_store(&r->held.submitted, 0);
        put_range(data, 0, longest, 0);
        assert_int_equal(once(r, type, 0, RANGE), VIRTIO_BLK_S_OK);
        assert_int_equal(r->held.asked[0].length, (uint64_t)longest * 512);
        put_range(data, 0, longest + 1, 0);
        assert_int_equal(once(r, type, 0, RANGE), VIRTIO_BLK_S_IOERR);
        put_range(data, UINT64_MAX, 8, 0);
        assert_int_equal(once(r, type, 0, RANGE), VIRTIO_BLK_S_IOERR);
        put_range(data, disk_size / 512 - 7, 8, 0);
        assert_int_equal(once(r, type, 0, RANGE), VIRTIO_BLK_S_IOERR);
        put_range(data, 0, 8, 2);
        assert_int_equal(once(r, type, 0, RANGE), VIRTIO_BLK_S_UNSUPP);
        put_range(data, 0, 8, 1); /* unmap is for zeroes only */
        assert_int_equal(once(r, type, 0, RANGE),
                         i == 0 ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_OK);
        assert_int_equal(atomic_load(&r->held.submitted), 1 + i);
    }
    rig_close(r);
    free(r);
}

/* The used length covers what the device wrote (2.7.8), to the status in the last byte. */
static void test_used_length(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    uint32_t written;

    rig_open(r, false, 0);
    submit(r, 0, VIRTIO_BLK_T_IN, 0, 1024, 1);
    assert_int_equal(finish(r, 1, &written), VIRTIO_BLK_S_OK);
    assert_int_equal(written, 1025);
    submit(r, 0, VIRTIO_BLK_T_OUT, 0, 1024, 1);
    assert_int_equal(finish(r, 1, &written), VIRTIO_BLK_S_OK);
    assert_int_equal(written, 1);
    submit(r, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 1);
    assert_int_equal(finish(r, 1, &written), VIRTIO_BLK_S_OK);
    assert_int_equal(written, 1);
    submit(r, 0, VIRTIO_BLK_T_OUT, 0, 1024, 9000);
    assert_int_equal(finish(r, 9000, &written), VIRTIO_BLK_S_OK);
    assert_int_equal(written, 9000);
    rig_close(r);
    free(r);
}

/* What the disk says is what the guest hears; a flush behind a write counts, too. */
static void test_errors(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    const uint32_t types[] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH,
                               VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES };
    uint8_t *data;

    rig_open(r, false, 0);
    data = bytes_of(r, 0) + 512;
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        uint32_t length = types[i] == VIRTIO_BLK_T_FLUSH ? 0 : i < 2 ? 512 : 3 * RANGE;

        for (unsigned n = 0; n < 3; n++) {
            put_range(data + n * RANGE, 8 * n, 8, 0);
        }
        atomic_store(&r->held.submitted, 0);
        atomic_store(&r->held.finished, 0);
        atomic_store(&r->held.fail_at, i < 3 ? 1 : 2);
        assert_int_equal(once(r, types[i], 0, length), VIRTIO_BLK_S_IOERR);
        assert_int_equal(atomic_load(&r->held.submitted), i < 3 ? 1 : 2);
        atomic_store(&r->held.fail_at, 0);
        assert_int_equal(once(r, types[i], 0, length), VIRTIO_BLK_S_OK);
    }
    rig_close(r);
    free(r);
}

/* More than a back end is given at once: pieces in order, up to the first that fails. */
static void test_pieces(void **state)
{
    const uint64_t mib = 1 << 20;
    struct rig *r = malloc(sizeof(*r));
    struct drv_buffer b[6] = { { BUFFERS, 16, false } };
    uint8_t *bytes;
    uint32_t written;

    rig_open(r, false, 0);
    bytes = bytes_of(r, 0);
    for (unsigned i = 1; i < 5; i++) { /* the same 1.25 MiB, again and again */
        b[i] = (struct drv_buffer){ BUFFERS + mib, 5 * mib / 4, true };
    }
    b[5] = (struct drv_buffer){ BUFFERS + 512, 1, true };
    for (int fail = 0; fail < 3; fail++) {
        store_le32(bytes, VIRTIO_BLK_T_IN);
        store_le64(bytes + 8, 64);
        memset(bytes + mib, 0, mib);
        atomic_store(&r->held.submitted, 0);
        atomic_store(&r->held.finished, 0);
        atomic_store(&r->held.fail_at, fail);
        assert_true(drv_add(&r->queue, b, 6, bytes, 0));
        mmio_kick(r->device, 0, &r->queue);
        while (drv_get(&r->queue, &written) == NULL) {
            sched_yield();
        }
        assert_int_equal(bytes[512], fail ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
        assert_int_equal(written, 5 * mib + 1);
        assert_int_equal(atomic_load(&r->held.submitted), fail ? fail : 3);
        for (unsigned i = 0; i < atomic_load(&r->held.submitted); i++) {
            assert_int_equal(r->held.asked[i].op, DISK_READ);
            assert_int_equal(r->held.asked[i].offset, 64 * 512 + 2 * mib * i);
            assert_int_equal(r->held.asked[i].length, i < 2 ? 2 * mib : mib);
        }
        assert_int_equal(bytes[mib] + bytes[2 * mib - 1], 2 * 0x77);
    }
    rig_close(r);
    free(r);
}

/* Registers that are fixed once negotiated, and interrupts acknowledged one by one. */
static void test_registers(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    struct virtio_queue *queue;
    uint64_t features, desc;

    rig_open(r, false, 0);
    queue = &r->vdev->queues[0];
    features = r->vdev->features;
    desc = queue->desc_area;
    for (unsigned i = 0; i < 2; i++) {
        mmio_set(r->device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
        mmio_set(r->device, VIRTIO_MMIO_DRIVER_FEATURES, 0);
    }
    assert_int_equal(r->vdev->features, features);
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_SEL, 0);
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NUM, 4);
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x12340);
    assert_int_equal(queue->size, QUEUE);
    assert_int_equal(queue->desc_area, desc);

    assert_int_equal(once(r, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    while (mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS) == 0) {
        sched_yield();
    }
    pthread_mutex_lock(&r->vdev->lock);
    virtio_config_changed(r->vdev);
    pthread_mutex_unlock(&r->vdev->lock);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    mmio_set(r->device, VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    mmio_set(r->device, VIRTIO_MMIO_INTERRUPT_ACK, 2);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS), 0);

    atomic_store(&queue->vector, 1);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(atomic_load(&queue->vector), VIRTIO_NO_VECTOR);
    assert_int_equal(queue->desc_area, 0);
    rig_close(r);
    free(r);
}

/* What is in the ring when a queue starts or goes on needs no kick. */
static void test_start_looks(void **state)
{
    struct rig *r = malloc(sizeof(*r));
    struct drv_buffer b[3] = { { BUFFERS, 16, false },
                               { BUFFERS + 512, 512, true },
                               { BUFFERS + STRIDE / 2, 1, true } };
    uint32_t written;
    uint8_t *bytes;

    rig_open(r, false, 0);
    bytes = bytes_of(r, 0);
    for (unsigned i = 0; i < 3; i++) {
        device_pause(r->device);
        memset(bytes, 0, 16);
        assert_true(drv_add(&r->queue, b, 3, bytes, 0));
        device_resume(r->device);
        assert_int_equal(finish(r, 1, &written), VIRTIO_BLK_S_OK);
    }
    rig_close(r);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_waits),  cmocka_unit_test(test_queue_reset),
        cmocka_unit_test(test_readonly),    cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_registers),   cmocka_unit_test(test_start_looks),
        cmocka_unit_test(test_used_length), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
