/* SPDX-License-Identifier: MIT */
/*
 * Devices that another process serves, with a back end (vhost_user_peer.h) that misbehaves.
 * Threads: the back end's (pthread_create there) and the device's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <jansson.h>
#include <sched.h>

#include <linux/virtio_blk.h>

#include "unit/fake_env.h"
#include "unit/mmio_driver.h"
#include "unit/vhost_user_peer.h"
#include "virtio/registry.h"
#include "virtio/transport.h"
#include "virtio/vhost_user.h"

enum { RAM = 4 << 20, BUFFERS = 1 << 20, STRIDE = 8192, QUEUE = 64, REQUESTS = 48 };

/* How long answers are waited for: short where they are to be late. */
static unsigned answer_ms = 20000;

struct request {
    uint8_t *header, *data, *status;
    uint64_t at;
    bool done;
    uint32_t written;
};

struct rig {
    struct fake_env fake;
    struct guest_mem *mem;
    struct virtio_device *vdev;
    struct device *device;
    struct drv drv;
    struct request requests[REQUESTS];
    atomic_uint warnings, errors;
    struct peer peer;
};

static void rig_log(void *context, enum umbra_log_level level, const char *line)
{
    struct rig *r = context;

    if (getenv("UMBRA_TEST_LOG") != NULL) {
        print_message("%s\n", line);
    }
    atomic_fetch_add(level == UMBRA_LOG_ERROR ? &r->errors : &r->warnings, 1);
}

static void rig_open(struct rig *r)
{
    struct guest_mem_options options = { .shared = true };
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    fake_env_init(&r->fake, true);
    r->fake.log = (struct log){ .fn = rig_log, .context = r, .level = UMBRA_LOG_WARNING };
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM / 2, GUEST_REGION_RAM, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, RAM / 2, RAM / 2, GUEST_REGION_RAM, &error),
                     0);
    r->fake.env.mem = r->mem;
    for (unsigned i = 0; i < REQUESTS; i++) {
        struct request *q = &r->requests[i];

        q->at = BUFFERS + (uint64_t)i * STRIDE;
        q->header = guest_mem_ptr(r->mem, q->at, STRIDE);
        q->status = q->header + 16;
        q->data = q->header + 4096;
    }
    peer_start(&r->peer);
}

static int blk_open(struct rig *r, uint64_t patience_ms, struct umbra_error *error)
{
    const struct vhost_user_blk_options options = { .id = "disk0",
                                                    .socket = r->peer.path,
                                                    .queues = 1,
                                                    .queue_size = QUEUE,
                                                    .patience_ms = patience_ms,
                                                    .timeout_ms = answer_ms };

    return vhost_user_blk_create(&r->fake.env, &options, &r->vdev, error);
}

/* With a back end that works. */
static void rig_create(struct rig *r, uint64_t patience_ms)
{
    struct umbra_error error;

    rig_open(r);
    peer_go(&r->peer);
    assert_int_equal(blk_open(r, patience_ms, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error),
                     0);
    assert_int_equal(loop_start(r->fake.env.loop, &error), 0);
}

static void rig_start(struct rig *r, bool packed)
{
    uint64_t features = VIRTIO_FEATURE(32) | VIRTIO_FEATURE(28) | VIRTIO_FEATURE(29) |
                        VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH) |
                        VIRTIO_FEATURE(VIRTIO_BLK_F_CONFIG_WCE);
    const struct mmio_rings rings = { r->mem, 0x10000, QUEUE, packed, true };

    features |= packed ? VIRTIO_FEATURE(34) : 0;
    features &= mmio_offered(r->device);
    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, &r->drv, 1, &rings);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static void rig_close(struct rig *r)
{
    if (r->drv.mem != NULL) {
        drv_fini(&r->drv);
    }
    loop_stop(r->fake.env.loop);
    device_destroy(r->device);
    fake_env_fini(&r->fake);
    guest_mem_destroy(r->mem);
    peer_end(&r->peer);
}

static void submit(struct rig *r, struct request *q, uint32_t type, uint64_t sector,
                   uint32_t length)
{
    struct drv_buffer b[3] = { { q->at, 16, false },
                               { q->at + 4096, length, type == VIRTIO_BLK_T_IN },
                               { q->at + 16, 1, true } };

    store_le32(q->header, type);
    store_le32(q->header + 4, 0);
    store_le64(q->header + 8, sector);
    *q->status = 0xee;
    q->done = false;
    assert_true(drv_add(&r->drv, b, 3, q, 0));
    mmio_kick(r->device, 0, &r->drv);
}

static void collect(struct rig *r)
{
    struct request *q;
    uint32_t written;

    while ((q = drv_get(&r->drv, &written)) != NULL) {
        assert_false(q->done);
        q->done = true;
        q->written = written;
    }
}

static uint8_t finish(struct rig *r, struct request *q)
{
    while (!q->done) {
        collect(r);
        sched_yield();
    }
    return *(volatile uint8_t *)q->status;
}

static void round_trip(struct rig *r, unsigned seed)
{
    struct request *q = &r->requests[seed % REQUESTS];

    memset(q->data, (int)seed, 2048);
    submit(r, q, VIRTIO_BLK_T_OUT, seed % 1000, 2048);
    assert_int_equal(finish(r, q), VIRTIO_BLK_S_OK);
    assert_int_equal(q->written, 1);
    memset(q->data, 0xee, 2048);
    submit(r, q, VIRTIO_BLK_T_IN, seed % 1000, 2048);
    assert_int_equal(finish(r, q), VIRTIO_BLK_S_OK);
    assert_int_equal(q->written, 2049);
    assert_true(q->data[0] == (uint8_t)seed && q->data[2047] == (uint8_t)seed);
}

static long stat(struct rig *r, const char *name)
{
    json_t *stats = json_object();
    const json_t *value;
    long number;

    device_stats(r->device, stats);
    value = json_object_get(stats, name);
    number = json_is_true(value) ? 1 : (long)json_integer_value(value);
    json_decref(stats);
    return number;
}

static unsigned open_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

static void test_requests(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;

        rig_create(r, 1000);
        assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG, 8), PEER_DISK / 512);
        for (unsigned restart = 0; restart < 3; restart++) {
            rig_start(r, packed);
            for (unsigned i = 0; i < 150; i++) {
                round_trip(r, i);
            }
        }
        assert_int_equal(atomic_load(&r->peer.connections), 1);
        assert_int_equal(atomic_load(&r->warnings), 0);
        /* The back end's rings are ours: split, indirect, no more. */
        assert_int_equal(atomic_load(&r->peer.acked),
                         1ull << 32 | 1ull << 30 | 1ull << 28 | 1ull << 11 | 1ull << 9);
        rig_close(r);
    }
}

/* Every answer of the set-up, wrong in every way: an error, in time, and nothing leaks. */
static void test_hostile_setup(void **state)
{
    static const int requests[] = { 1, 5, 15, 17, 24 };
    struct rig rig, *r = &rig;
    struct umbra_error error;
    unsigned before;

    (void)state;
    rig_open(r);
    peer_go(&r->peer);
    before = open_fds();
    answer_ms = 150;
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
        for (int how = PEER_SHORT; how < PEER_HOWS; how++) {
            unsigned ended = atomic_load(&r->peer.ended);

            if ((how == PEER_REFUSE && requests[i] != 5) || how == PEER_TWICE) {
                continue; /* it answers data; an answer too many is for later */
            }
            atomic_store(&r->peer.bad_how, how);
            atomic_store(&r->peer.bad_left, 1);
            atomic_store(&r->peer.bad_request, requests[i]);
            error.message[0] = '\0';
            assert_true(blk_open(r, 0, &error) < 0);
            assert_non_null(strstr(error.message, "disk0: vhost-user back end /tmp/"));
            WAIT_UNTIL(atomic_load(&r->peer.ended) != ended);
        }
    }
    assert_int_equal(open_fds(), before);
    /* And after all of that it works. */
    answer_ms = 20000;
    assert_int_equal(blk_open(r, 0, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error),
                     0);
    rig_start(r, false);
    round_trip(r, 5);
    rig_close(r);
}

static void refused(struct rig *r, const char *why)
{
    struct umbra_error error = { 0 };

    assert_true(blk_open(r, 0, &error) < 0);
    if (strstr(error.message, why) == NULL) {
        fail_msg("'%s' is not about '%s'", error.message, why);
    }
}

static void test_impossible(void **state)
{
    struct rig rig, *r = &rig;
    struct guest_mem_options private = { .mergeable = true };
    struct guest_mem *mem;
    struct umbra_error error;
    uint64_t features;

    (void)state;
    rig_open(r);
    answer_ms = 150;
    refused(r, "no answer to GET_FEATURES"); /* it listens, and nobody accepts */
    answer_ms = 20000;
    peer_end((peer_go(&r->peer), &r->peer));
    refused(r, "cannot connect");
    peer_start(&r->peer);
    peer_go(&r->peer);
    features = r->peer.features;
    r->peer.features &= ~(1ull << 28);
    refused(r, "indirect");
    r->peer.features = features & ~(1ull << 32);
    refused(r, "virtio 1.0");
    r->peer.features = features & ~(1ull << 30);
    refused(r, "configuration space");
    r->peer.features = features;
    r->peer.queues = 0;
    refused(r, "0 queues");
    r->peer.queues = UINT64_MAX;
    memset(r->peer.config + 20, 0, 4);
    refused(r, "block size");
    r->peer.config[21] = 2;
    memset(r->peer.config, 0xff, 8);
    refused(r, "capacity");
    memset(r->peer.config, 0, 8);
    assert_int_equal(guest_mem_create(&private, &mem, &error), 0);
    if (guest_mem_add(mem, 0, RAM, GUEST_REGION_RAM, &error) == 0) {
        r->fake.env.mem = mem;
        refused(r, "shared");
        r->fake.env.mem = r->mem;
    }
    guest_mem_destroy(mem);
    assert_int_equal(blk_open(r, 0, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error),
                     0);
    rig_close(r);
}

/* Wrong answers while rings start, and wrong rings: the back end is dropped, its successor
 * does what it did not. */
static void test_hostile_running(void **state)
{
    static const int requests[] = { 2, 8, 9, 10, 12, 13, 18 };
    struct rig rig, *r = &rig;

    (void)state;
    rig_create(r, 60000);
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
        for (int how = PEER_SHORT; how < PEER_HOWS; how++) {
            long reconnects = stat(r, "reconnects");

            if (how == PEER_CUT || how == PEER_SILENT || (how + (int)i) % 3 != 0) {
                continue; /* they take time, each of them is met with some message */
            }
            atomic_store(&r->peer.bad_how, how);
            atomic_store(&r->peer.bad_left, 1);
            atomic_store(&r->peer.bad_request, requests[i]);
            rig_start(r, i & 1);
            round_trip(r, i * 16 + (unsigned)how);
            WAIT_UNTIL(stat(r, "reconnects") > reconnects);
            round_trip(r, 500);
        }
    }
    for (int how = PEER_RING_ID; how <= PEER_RING_AHEAD; how++) {
        long reconnects = stat(r, "reconnects");

        atomic_store(&r->peer.bad_ring, how);
        round_trip(r, 700 + (unsigned)how);
        assert_int_equal(stat(r, "reconnects"), reconnects + 1);
    }
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
    assert_int_equal(stat(r, "refused"), 0);
    rig_close(r);
}

/* Requests that a back end took with it are done by its successor, each once, in order. */
static void test_restart(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;
        unsigned taken;

        rig_create(r, 60000);
        rig_start(r, packed);
        round_trip(r, 1);
        atomic_store(&r->peer.hold, true);
        taken = atomic_load(&r->peer.taken);
        for (unsigned i = 0; i < 10; i++) {
            submit(r, &r->requests[i], VIRTIO_BLK_T_OUT, 100 + i, 512);
        }
        WAIT_UNTIL(atomic_load(&r->peer.taken) == taken + 10);
        atomic_store(&r->peer.hang_up, true);
        /* Some come while nobody is there. */
        for (unsigned i = 10; i < 20; i++) {
            submit(r, &r->requests[i], VIRTIO_BLK_T_OUT, 100 + i, 512);
        }
        WAIT_UNTIL(stat(r, "reconnects") == 1);
        WAIT_UNTIL(atomic_load(&r->peer.taken) >= taken + 10 + 20);
        atomic_store(&r->peer.hold, false);
        atomic_store(&r->peer.hang_up, true);
        for (unsigned i = 0; i < 20; i++) {
            assert_int_equal(finish(r, &r->requests[i]), VIRTIO_BLK_S_OK);
        }
        taken = atomic_load(&r->peer.taken);
        for (unsigned i = 0; i < 20; i++) {
            assert_int_equal(r->peer.log[taken - 20 + i], 100 + i);
        }
        collect(r);
        assert_int_equal(stat(r, "in_flight"), 0);
        round_trip(r, 9);
        rig_close(r);
    }
}

/* As many requests as the queue holds are in flight at once. */
static void test_full(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;
        unsigned got = 0;
        uint32_t written;

        rig_open(r);
        free(r->peer.disk);
        r->peer.disk = NULL;
        peer_go(&r->peer);
        {
            const struct virtio_fs_options options = { .id = "share0",
                                                       .tag = "src",
                                                       .socket = r->peer.path,
                                                       .timeout_ms = answer_ms };
            struct umbra_error error;

            assert_int_equal(virtio_fs_create(&r->fake.env, &options, &r->vdev, &error),
                             0);
            assert_int_equal(
                virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error), 0);
        }
        rig_start(r, packed);
        atomic_store(&r->peer.hold, true);
        for (unsigned i = 0; i < QUEUE; i++) {
            struct drv_buffer b = { BUFFERS + i * 64, 64, true };

            assert_true(drv_add(&r->drv, &b, 1, &r->requests[0], 0));
        }
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        WAIT_UNTIL(atomic_load(&r->peer.taken) == QUEUE);
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
        atomic_store(&r->peer.hang_up, true);
        while (got < QUEUE) {
            got += drv_get(&r->drv, &written) != NULL;
            sched_yield();
        }
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
        rig_close(r);
    }
}

static void test_patience(void **state)
{
    struct rig rig, *r = &rig;

    (void)state;
    rig_create(r, 100);
    rig_start(r, true);
    round_trip(r, 1);
    atomic_store(&r->peer.hold, true);
    for (unsigned i = 0; i < 3; i++) {
        submit(r, &r->requests[i], VIRTIO_BLK_T_IN, i, 512);
    }
    atomic_store(&r->peer.deaf, true);
    atomic_store(&r->peer.hang_up, true);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(finish(r, &r->requests[i]), VIRTIO_BLK_S_IOERR);
    }
    /* From now on at once. */
    submit(r, &r->requests[0], VIRTIO_BLK_T_OUT, 1, 512);
    assert_int_equal(finish(r, &r->requests[0]), VIRTIO_BLK_S_IOERR);
    assert_int_equal(stat(r, "connected"), 0);
    assert_int_equal(stat(r, "refused"), 4);
    assert_int_equal(atomic_load(&r->errors), 1);
    /* The device lives, also through a reset, and works when there is a back end. */
    rig_start(r, false);
    submit(r, &r->requests[0], VIRTIO_BLK_T_OUT, 1, 512);
    assert_int_equal(finish(r, &r->requests[0]), VIRTIO_BLK_S_IOERR);
    atomic_store(&r->peer.hold, false);
    atomic_store(&r->peer.deaf, false);
    WAIT_UNTIL(stat(r, "connected") == 1);
    round_trip(r, 2);
    rig_close(r);
}

/* A back end that does not finish: a reset and a pause end all the same. */
static void test_stuck(void **state)
{
    struct rig rig, *r = &rig;

    (void)state;
    answer_ms = 400;
    rig_create(r, 60000);
    rig_start(r, false);
    atomic_store(&r->peer.hold, true);
    submit(r, &r->requests[0], VIRTIO_BLK_T_IN, 3, 512);
    WAIT_UNTIL(atomic_load(&r->peer.taken) >= 1);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 0);
    WAIT_UNTIL(stat(r, "in_flight") == 0);
    atomic_store(&r->peer.hold, false);
    rig_start(r, true);
    round_trip(r, 3);
    /* The paused device keeps what its back end lost, and it is done after the pause. */
    atomic_store(&r->peer.hold, true);
    submit(r, &r->requests[7], VIRTIO_BLK_T_IN, 4, 512);
    WAIT_UNTIL(stat(r, "in_flight") == 1);
    device_pause(r->device);
    {
        struct state_writer *writer;
        struct umbra_error error;

        assert_int_equal(state_writer_create(&writer), 0);
        assert_true(device_save(r->device, writer, &error) < 0);
        state_writer_destroy(writer);
    }
    atomic_store(&r->peer.hold, false);
    device_resume(r->device);
    assert_int_equal(finish(r, &r->requests[7]), VIRTIO_BLK_S_OK);
    device_pause(r->device);
    {
        struct state_writer *writer;
        struct umbra_error error;

        assert_int_equal(state_writer_create(&writer), 0);
        assert_int_equal(device_save(r->device, writer, &error), 0);
        state_writer_destroy(writer);
    }
    device_resume(r->device);
    round_trip(r, 8);
    answer_ms = 20000;
    rig_close(r);
}

/* A guest that breaks the ring's rules stops its own device and no back end. */
static void test_hostile_guest(void **state)
{
    struct rig rig, *r = &rig;
    struct drv_buffer bad = { 0x7fffffff0000, 512, false };

    (void)state;
    rig_create(r, 1000);
    rig_start(r, false);
    round_trip(r, 1);
    assert_true(drv_add(&r->drv, &bad, 1, &bad, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    WAIT_UNTIL(mmio_get(r->device, VIRTIO_MMIO_STATUS) & 64);
    rig_start(r, false);
    round_trip(r, 2);
    assert_int_equal(atomic_load(&r->peer.connections), 1);
    rig_close(r);
}

static void test_config(void **state)
{
    struct rig rig, *r = &rig;
    uint32_t generation;

    (void)state;
    rig_create(r, 60000);
    rig_start(r, false);
    generation = mmio_get(r->device, VIRTIO_MMIO_CONFIG_GENERATION);
    /* It grew. */
    memcpy(r->peer.config, &(uint64_t){ 4096 }, 8);
    atomic_store(&r->peer.say_ack, true);
    atomic_store(&r->peer.say, 2);
    WAIT_UNTIL(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG, 8) == 4096);
    assert_int_not_equal(mmio_get(r->device, VIRTIO_MMIO_CONFIG_GENERATION), generation);
    WAIT_UNTIL(atomic_load(&r->peer.said_ok) == 1);
    /* To nonsense it does not grow, and what is not known is not done. */
    memset(r->peer.config, 0xff, 8);
    atomic_store(&r->peer.say, 2);
    WAIT_UNTIL(atomic_load(&r->warnings) == 1);
    assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG, 8), 4096);
    memcpy(r->peer.config, &(uint64_t){ 4096 }, 8);
    atomic_store(&r->peer.say, 5);
    WAIT_UNTIL(atomic_load(&r->peer.said_no) == 1);
    round_trip(r, 1);
    /* The driver's own byte: writeback. */
    dev_write(r->device, 0, VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, wce),
              1, 1);
    WAIT_UNTIL(atomic_load(&r->peer.configs_written) == 1);
    assert_int_equal(r->peer.config[offsetof(struct virtio_blk_config, wce)], 1);
    round_trip(r, 2);
    assert_int_equal(stat(r, "reconnects"), 0);
    rig_close(r);
}

/* The same for a folder: no waiting, and an answer that FUSE understands. */
static void test_folder(void **state)
{
    const struct virtio_fs_options options = { .id = "share0",
                                               .tag = "src",
                                               .timeout_ms = answer_ms };
    struct virtio_fs_options with = options;
    struct rig rig, *r = &rig;
    struct request *q = &r->requests[0];
    struct drv_buffer b[2] = { { 0, 64, false }, { 0, 80, true } };
    struct umbra_error error;
    uint32_t written;

    (void)state;
    rig_open(r);
    free(r->peer.disk);
    r->peer.disk = NULL;
    with.socket = r->peer.path;
    peer_go(&r->peer);
    assert_int_equal(virtio_fs_create(&r->fake.env, &with, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error),
                     0);
    assert_int_equal(loop_start(r->fake.env.loop, &error), 0);
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_DEVICE_ID), 26);
    assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG, 4), 0x637273);
    assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 36, 4), 1);
    rig_start(r, true);
    b[0].addr = q->at;
    b[1].addr = q->at + 4096;
    store_le64(q->header + 8, 0x1122334455667788);
    assert_true(drv_add(&r->drv, b, 2, q, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    WAIT_UNTIL(drv_used_there(&r->drv));
    assert_ptr_equal(drv_get(&r->drv, &written), q);
    atomic_store(&r->peer.hold, true);
    assert_true(drv_add(&r->drv, b, 2, q, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    WAIT_UNTIL(atomic_load(&r->peer.taken) == 2);
    atomic_store(&r->peer.hold, false);
    atomic_store(&r->peer.hang_up, true);
    WAIT_UNTIL(drv_used_there(&r->drv));
    assert_ptr_equal(drv_get(&r->drv, &written), q);
    assert_int_equal(written, 16);
    assert_int_equal(load_le32(q->data), 16);
    assert_int_equal(load_le32(q->data + 4), (uint32_t)-EIO);
    assert_true(load_le64(q->data + 8) == 0x1122334455667788);
    WAIT_UNTIL(stat(r, "connected") == 1);
    rig_close(r);
}

static void send_one(struct rig *r, struct request *q)
{
    struct drv_buffer b = { q->at, 100, false };
    uint32_t written;

    assert_true(drv_add(&r->drv, &b, 1, q, 0));
    mmio_kick(r->device, 0, &r->drv);
    WAIT_UNTIL(drv_used_there(&r->drv));
    assert_ptr_equal(drv_get(&r->drv, &written), q);
}

/* A network's rings are the back end's own; its successor goes on at the used index. */
static void test_network(void **state)
{
    struct vhost_user_net_options options = { .id = "net0",
                                              .timeout_ms = answer_ms,
                                              .mtu = 1400 };
    struct rig rig, *r = &rig;
    struct umbra_error error;

    (void)state;
    rig_open(r);
    free(r->peer.disk);
    r->peer.disk = NULL;
    options.socket = r->peer.path;
    options.queue_size = QUEUE;
    peer_go(&r->peer);
    assert_int_equal(vhost_user_net_create(&r->fake.env, &options, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error),
                     0);
    assert_int_equal(loop_start(r->fake.env.loop, &error), 0);
    assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 6, 2), 1);
    assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 10, 2), 1400);
    for (unsigned restart = 0; restart < 2; restart++) {
        rig_start(r, false);
        for (unsigned i = 0; i < 200; i++) {
            send_one(r, &r->requests[i % REQUESTS]);
            if (i % 50 == 20) {
                device_pause(r->device);
                device_resume(r->device);
            }
        }
        assert_true(r->fake.level[20]); /* it was the back end that interrupted */
    }
    assert_int_equal(stat(r, "reconnects"), 0);
    atomic_store(&r->peer.deaf, true);
    atomic_store(&r->peer.hang_up, true);
    WAIT_UNTIL(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 6, 2) == 0);
    atomic_store(&r->peer.deaf, false);
    WAIT_UNTIL(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 6, 2) == 1);
    for (unsigned i = 0; i < 100; i++) {
        send_one(r, &r->requests[i % REQUESTS]);
    }
    assert_int_equal(stat(r, "reconnects"), 1);
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),   cmocka_unit_test(test_hostile_setup),
        cmocka_unit_test(test_impossible), cmocka_unit_test(test_hostile_running),
        cmocka_unit_test(test_restart),    cmocka_unit_test(test_patience),
        cmocka_unit_test(test_stuck),      cmocka_unit_test(test_hostile_guest),
        cmocka_unit_test(test_network),    cmocka_unit_test(test_full),
        cmocka_unit_test(test_config),     cmocka_unit_test(test_folder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
