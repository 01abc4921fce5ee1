/* SPDX-License-Identifier: MIT */
/*
 * A disk that another process serves, with a back end (vhost_user_peer.h) that misbehaves.
 * Threads: the back end's (pthread_create there) and the device's.
 */
#include "unit/vhost_user_fixture.h"

#include <dirent.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),      cmocka_unit_test(test_hostile_setup),
        cmocka_unit_test(test_impossible),    cmocka_unit_test(test_hostile_running),
        cmocka_unit_test(test_restart),       cmocka_unit_test(test_full),
        cmocka_unit_test(test_patience),      cmocka_unit_test(test_stuck),
        cmocka_unit_test(test_hostile_guest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
