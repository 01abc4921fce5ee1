/* SPDX-License-Identifier: MIT */
/*
 * What another process serves besides a disk's requests: its configuration, a folder, a
 * network. Threads: the back end's (pthread_create in vhost_user_peer.h) and the device's.
 */
#include <linux/virtio_net.h>

#include "unit/vhost_user_fixture.h"

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

static unsigned link_of(struct rig *r)
{
    return (unsigned)dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 6, 2);
}

/*
 * The cable is pulled: the driver is told, and the back end's rings are disabled; so are
 * those of a successor, and the link does not come back with it. Plugged in, frames go.
 */
static void check_cable(struct rig *r)
{
    struct umbra_error error;
    unsigned taken, connections;

    assert_int_equal(link_of(r), 1);
    taken = atomic_load(&r->peer.taken);
    assert_int_equal(virtio_net_set_link(r->vdev, false, &error), 0);
    WAIT_UNTIL(link_of(r) == 0);
    WAIT_UNTIL(!r->peer.rings[0].enabled && !r->peer.rings[1].enabled);
    connections = atomic_load(&r->peer.connections);
    atomic_store(&r->peer.hang_up, true);
    WAIT_UNTIL(atomic_load(&r->peer.connections) > connections);
    WAIT_UNTIL(stat(r, "reconnects") == 2);
    assert_int_equal(link_of(r), 0);
    assert_int_equal(atomic_load(&r->peer.taken), taken);
    assert_int_equal(virtio_net_set_link(r->vdev, true, &error), 0);
    WAIT_UNTIL(link_of(r) == 1);
    for (unsigned i = 0; i < 100; i++) {
        send_one(r, &r->requests[i % REQUESTS]);
    }
    assert_true(atomic_load(&r->peer.taken) >= taken + 100);
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
    r->peer.queues = 1; /* a pair */
    options.socket = r->peer.path;
    options.queue_size = QUEUE;
    peer_go(&r->peer);
    assert_int_equal(vhost_user_net_create(&r->fake.env, &options, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error),
                     0);
    assert_int_equal(loop_start(r->fake.env.loop, &error), 0);
    assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 6, 2), 1);
    assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 10, 2), 1400);
    assert_int_equal(atomic_load(&r->peer.mtu), 1400);
    for (unsigned restart = 0; restart < 2; restart++) {
        rig_start(r, false);
        for (unsigned i = 0; i < 200; i++) {
            send_one(r, &r->requests[i % REQUESTS]);
            if (i % 50 == 20) {
                device_pause(r->device);
                device_resume(r->device);
            }
        }
        WAIT_UNTIL(r->fake.level[20]); /* it was the back end that interrupted */
        /* and it got each once, though it let go of the ring in between */
        assert_int_equal(atomic_load(&r->peer.taken), 200 * (restart + 1));
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
    check_cable(r);
    rig_close(r);
}

/* Answers of the control queue to class 4 (pairs), command 0. */
static bool ask_pairs(struct rig *r, struct drv *control, uint16_t pairs, uint32_t size)
{
    struct request *q = &r->requests[0];
    struct drv_buffer b[2] = { { q->at, size, false }, { q->at + 16, 1, true } };
    uint32_t written;

    memset(q->header, 0, 16);
    q->header[0] = VIRTIO_NET_CTRL_MQ;
    q->header[1] = VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
    store_le16(q->header + 2, pairs);
    *q->status = 0xee;
    assert_true(drv_add(control, b, 2, q, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 4);
    WAIT_UNTIL(drv_get(control, &written) == q);
    assert_int_equal(written, 1);
    return *(volatile uint8_t *)q->status == VIRTIO_NET_OK;
}

static bool enabled(struct rig *r, unsigned from, unsigned count, bool on)
{
    for (unsigned i = from; i < from + count; i++) {
        if (atomic_load(&r->peer.rings[i].enabled) != on) {
            return false;
        }
    }
    return true;
}

/* Two pairs: one is served until the driver asks for both, and so a successor has it. */
static void test_network_pairs(void **state)
{
    const uint64_t mq = VIRTIO_FEATURE(VIRTIO_NET_F_MQ);
    const uint64_t features = VIRTIO_FEATURE(32) | VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ);
    struct vhost_user_net_options options = { .id = "net0",
                                              .pairs = 5,
                                              .timeout_ms = answer_ms };
    struct drv queues[5] = { 0 };
    struct umbra_error error;
    struct rig rig, *r = &rig;
    struct mmio_rings rings = { NULL, 0x10000, QUEUE, false, false };

    (void)state;
    rig_open(r);
    rings.mem = r->mem;
    free(r->peer.disk);
    r->peer.disk = NULL;
    r->peer.queues = 2;
    r->peer.features |= mq;
    options.socket = r->peer.path;
    peer_go(&r->peer);
    assert_int_equal(vhost_user_net_create(&r->fake.env, &options, &r->vdev, &error), 0);
    assert_int_equal(virtio_mmio_create(&r->fake.env, 20, r->vdev, &r->device, &error),
                     0);
    assert_int_equal(loop_start(r->fake.env.loop, &error), 0);
    assert_int_equal(dev_read(r->device, 0, VIRTIO_MMIO_CONFIG + 8, 2), 2);
    assert_int_equal(mmio_negotiate(r->device, features | mq), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, queues, 5, &rings);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
    WAIT_UNTIL(enabled(r, 0, 2, true));
    assert_true(atomic_load(&r->peer.acked) & mq);
    assert_true(ask_pairs(r, &queues[4], 2, 4));
    WAIT_UNTIL(enabled(r, 0, 4, true));
    assert_false(ask_pairs(r, &queues[4], 3, 4));
    assert_false(ask_pairs(r, &queues[4], 0, 4));
    assert_false(ask_pairs(r, &queues[4], 1, 3));
    assert_false(ask_pairs(r, &queues[4], 1, 5));
    assert_int_equal(virtio_net_set_link(r->vdev, false, &error), 0);
    WAIT_UNTIL(enabled(r, 0, 4, false));
    assert_int_equal(virtio_net_set_link(r->vdev, true, &error), 0);
    WAIT_UNTIL(enabled(r, 0, 4, true));
    atomic_store(&r->peer.hang_up, true);
    WAIT_UNTIL(stat(r, "reconnects") == 1);
    WAIT_UNTIL(enabled(r, 0, 4, true));
    assert_true(ask_pairs(r, &queues[4], 1, 4));
    WAIT_UNTIL(enabled(r, 2, 2, false));
    assert_true(enabled(r, 0, 2, true));
    /* A reset, and a driver that knows one pair: the control queue is the third then. */
    assert_true(ask_pairs(r, &queues[4], 2, 4));
    assert_int_equal(mmio_negotiate(r->device, features), MMIO_FEATURES_OK);
    mmio_queues_start(r->device, queues, 5, &rings);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
    WAIT_UNTIL(enabled(r, 0, 2, true));
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), MMIO_DRIVER_OK);
    for (unsigned i = 0; i < 5; i++) {
        drv_fini(&queues[i]);
    }
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_network),
        cmocka_unit_test(test_network_pairs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
