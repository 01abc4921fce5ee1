/* SPDX-License-Identifier: MIT */
/* virtio-net behind virtio-mmio with the loop running: a socket as the other end of the
 * wire, a back end with offloads made here, hostile headers, commands and frames.
 * pthread_create: the loop's thread, so TSan looks at it too. */
#include "unit/net_fixture.h"

static const uint64_t mergeable = VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF);

/* Through the stream socket, both ways, split and packed. */
static void test_wire(void **state)
{
    const struct virtio_net_hdr_v1 plain = { 0 };

    for (unsigned packed = 0; packed < 2; packed++) {
        struct net_backend *backend;
        struct rig rig, *r = &rig;
        uint8_t frame[3000], got[3000 + 4], *bytes;
        uint32_t length, prefix;
        int ends[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        assert_int_equal(net_unix_open(NULL, ends[0], &backend, NULL), 0);
        close(ends[0]);
        rig_open(r, backend);
        rig_start(r, packed, mergeable | VIRTIO_FEATURE(VIRTIO_NET_F_STATUS));
        assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 2, 1), 0);
        assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 5, 1), 3);
        assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2),
                         VIRTIO_NET_S_LINK_UP);
        assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 10, 2), 1500);
        for (unsigned i = 1; i <= 5; i++) {
            fill(frame, sizeof(frame), i);
            transmit(r, &plain, frame, 300 * i, i);
            assert_int_equal(recv(ends[1], got, 4 + 300 * i, MSG_WAITALL), 4 + 300 * i);
            memcpy(&prefix, got, 4);
            assert_int_equal(ntohl(prefix), 300 * i);
            assert_memory_equal(got + 4, frame, 300 * i);
        }
        /* In: two frames before there are buffers, then buffers. */
        for (unsigned i = 0; i < 2; i++) {
            prefix = htonl(100 + i);
            memcpy(got, &prefix, 4);
            memcpy(got + 4, frame, 100 + i);
            assert_int_equal(send(ends[1], got, 104 + i, 0), 104 + i);
        }
        for (unsigned i = 0; i < 2; i++) {
            bytes = post(r, 2048);
            assert_ptr_equal(used(r, 0, &length), bytes);
            assert_int_equal(length, NET_HEADER + 100 + i);
            assert_int_equal(load_le16(bytes + 10), 1);
            assert_memory_equal(bytes + NET_HEADER, frame, 100 + i);
        }
        /* The other end goes: the link is down, the device lives. */
        close(ends[1]);
        while (mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2) != 0) {
            sched_yield();
        }
        assert_int_equal(atomic_load(&r->warnings), 1);
        transmit(r, &plain, frame, 100, 1);
        assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
        rig_close(r);
    }
}

/* A frame over several buffers, fewer than it needs at first; one too large without. */
static void test_merge(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;
        uint8_t frame[NET_HEADER + 5000] = { 0 }, *bytes[3];
        uint32_t length;
        struct fake fake;

        fake_init(&fake);
        rig_open(r, &fake.backend);
        rig_start(r, packed, mergeable);
        fill(frame + NET_HEADER, 5000, 3);
        bytes[0] = post(r, 2000);
        bytes[1] = post(r, 2000);
        fake_give(&fake, frame, sizeof(frame));
        device_pause(r->device); /* the buffers taken so far go back, and come again */
        device_resume(r->device);
        bytes[2] = post(r, 2000);
        for (unsigned i = 0; i < 3; i++) {
            assert_ptr_equal(used(r, 0, &length), bytes[i]);
            assert_int_equal(length, i < 2 ? 2000 : 1012);
        }
        assert_int_equal(load_le16(bytes[0] + 10), 3);
        assert_memory_equal(bytes[0] + 12, frame + 12, 1988);
        assert_memory_equal(bytes[1], frame + 2000, 2000);
        assert_memory_equal(bytes[2], frame + 4000, 1012);

        rig_start(r, packed, 0);
        bytes[0] = post(r, 2000);
        fake_give(&fake, frame, sizeof(frame)); /* dropped */
        do {
            pthread_mutex_lock(&fake.mutex);
            length = (uint32_t)fake.given_size;
            pthread_mutex_unlock(&fake.mutex);
            sched_yield();
        } while (length != 0);
        fake_give(&fake, frame, NET_HEADER + 60);
        assert_ptr_equal(used(r, 0, &length), bytes[0]);
        assert_int_equal(length, NET_HEADER + 60);
        assert_int_equal(load_le16(bytes[0] + 10), 1);
        rig_close(r);
        assert_int_equal(atomic_load(&fake.destroyed), 1);
    }
}

/* Only sound headers, as negotiated, and frames of sound sizes reach the back end. */
static void test_headers(void **state)
{
    static const struct {
        struct virtio_net_hdr_v1 header;
        bool passes, plain_passes; /* with the offloads negotiated, and without */
    } cases[] = {
        { { .flags = 0 }, true, true },
        { { .flags = 1, .csum_start = 34, .csum_offset = 16 }, true, false },
        { { .flags = 1, .csum_start = 198, .csum_offset = 0 }, true, false },
        { { .flags = 1, .csum_start = 198, .csum_offset = 1 }, false, false },
        { { .flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff }, false, false },
        { { .flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 100 }, true, false },
        { { .flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 0 }, false, false },
        { { .flags = 1, .gso_type = 1, .hdr_len = 201, .gso_size = 9 }, false, false },
        { { .flags = 0, .gso_type = 1, .hdr_len = 54, .gso_size = 100 }, false, false },
        { { .flags = 1, .gso_type = 4, .hdr_len = 54, .gso_size = 100 }, false, false },
        { { .flags = 1, .gso_type = 0x81, .hdr_len = 54, .gso_size = 9 }, false, false },
        { { .flags = 0xfe, .hdr_len = 0xffff, .num_buffers = 9 }, true, true },
    };
    uint8_t frame[200], small[4];
    struct rig rig, *r = &rig;
    struct fake fake;
    unsigned expected = 0;

    fake_init(&fake);
    rig_open(r, &fake.backend);
    fill(frame, sizeof(frame), 1);
    for (unsigned plain = 0; plain < 2; plain++) {
        rig_start(r, plain,
                  plain ? 0
                        : VIRTIO_FEATURE(VIRTIO_NET_F_CSUM) |
                              VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO4));
        for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
            bool passes = plain ? cases[i].plain_passes : cases[i].passes;

            transmit(r, &cases[i].header, frame, sizeof(frame), 1 + i % 3);
            expected += passes;
            assert_int_equal(atomic_load(&fake.sent_count), expected);
            if (passes) {
                assert_int_equal(fake.sent_size, NET_HEADER + sizeof(frame));
                assert_memory_equal(fake.sent + NET_HEADER, frame, sizeof(frame));
                assert_int_equal(fake.sent[0], cases[i].header.flags & 1);
            }
        }
        memset(small, 0, sizeof(small));
        transmit(r, &cases[0].header, small, sizeof(small), 1);
        transmit(r, &cases[0].header, frame, 13, 1);
        assert_int_equal(atomic_load(&fake.sent_count), expected);
    }
    assert_int_equal(mmio_get(r->device, VIRTIO_MMIO_STATUS), 15);
    rig_close(r);
}

static void test_control(void **state)
{
    const uint64_t features = VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) |
                              VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
                              VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |
                              VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR);
    const uint8_t pairs[][4] = { { 4, 0, 2, 0 }, { 4, 0, 3, 0 }, { 4, 0, 0, 0 } };
    const uint8_t mac[] = { 1, 1, 0x52, 1, 2, 3, 4, 5 },
                  group[] = { 1, 1, 1, 1, 2, 3, 4, 5 };
    uint8_t offloads[10] = { 5, 0 }, junk[64];
    struct rig rig, *r = &rig;
    struct fake fake;

    fake_init(&fake);
    memset(junk, 0xff, sizeof(junk));
    rig_open(r, &fake.backend);
    rig_start(r, true, features | VIRTIO_FEATURE(VIRTIO_NET_F_MQ));
    assert_int_equal(atomic_load(&fake.offloads), 1u << VIRTIO_NET_F_GUEST_CSUM);
    assert_int_equal(atomic_load(&fake.pairs), 1);
    assert_true(command(r, 4, pairs[0], 4));
    assert_int_equal(atomic_load(&fake.pairs), 2);
    assert_false(command(r, 4, pairs[1], 4));
    assert_false(command(r, 4, pairs[2], 4));
    assert_false(command(r, 4, pairs[0], 3));
    assert_int_equal(atomic_load(&fake.pairs), 2);
    assert_true(command(r, 4, mac, sizeof(mac)));
    assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 5, 1), 5);
    assert_false(command(r, 4, group, sizeof(group)));
    assert_true(command(r, 4, offloads, sizeof(offloads)));
    assert_int_equal(atomic_load(&fake.offloads), 0);
    store_le64(offloads + 2, 1u << VIRTIO_NET_F_GUEST_TSO4); /* not negotiated */
    assert_false(command(r, 4, offloads, sizeof(offloads)));
    for (unsigned size = 1; size <= sizeof(junk); size++) {
        assert_false(command(r, 4, junk, size));
    }
    /* A reset brings the card's own address back. */
    assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 5, 1), 5);
    mmio_set(r->device, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 5, 1), 3);
    /* Without MQ the control queue is the third one, and there is one pair. */
    rig_start(r, false, features);
    assert_int_equal(atomic_load(&fake.pairs), 1);
    assert_false(command(r, 2, pairs[0], 4));
    assert_true(command(r, 2, mac, sizeof(mac)));
    assert_int_equal(atomic_load(&r->warnings), 0);
    /* The cable. */
    assert_int_equal(virtio_net_set_link(r->vdev, false, NULL), 0);
    assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2), 0);
    assert_true(mmio_get(r->device, VIRTIO_MMIO_INTERRUPT_STATUS) &
                VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(virtio_net_set_link(r->vdev, true, NULL), 0);
    assert_int_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2),
                     VIRTIO_NET_S_LINK_UP);
    rig_close(r);
}

/* A malformed ring stops the device until it is reset; then it works again. */
static void test_hostile(void **state)
{
    struct drv_buffer outside = { RAM, 4096, true };
    struct virtio_net_hdr_v1 plain = { 0 };
    uint8_t frame[NET_HEADER + 60] = { 0 };
    struct rig rig, *r = &rig;
    struct fake fake;

    fake_init(&fake);
    rig_open(r, &fake.backend);
    for (unsigned packed = 0; packed < 2; packed++) {
        rig_start(r, packed, mergeable);
        assert_true(drv_add(&r->queues[0], &outside, 1, r, 0));
        mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        fake_give(&fake, frame, sizeof(frame));
        while (!(mmio_get(r->device, VIRTIO_MMIO_STATUS) & 64) ||
               atomic_load(&r->warnings) <= packed) {
            sched_yield();
        }
        assert_int_equal(atomic_load(&r->warnings), packed + 1);
        rig_start(r, packed, mergeable);
        transmit(r, &plain, frame, 60, 1);
        assert_int_equal(atomic_load(&fake.sent_count), packed + 1);
    }
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wire),    cmocka_unit_test(test_merge),
        cmocka_unit_test(test_headers), cmocka_unit_test(test_control),
        cmocka_unit_test(test_hostile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
