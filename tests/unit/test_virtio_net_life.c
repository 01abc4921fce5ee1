/* SPDX-License-Identifier: MIT */
/* A virtio-net's wire that goes and comes back, its state saved and loaded. pthread_create:
 * the loop's thread, so TSan looks at it too. */
#include "unit/net_fixture.h"

static int listen_at(const char *path)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(at.sun_path, path);
    unlink(path);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

/* A frame each way over the connection at @wire. */
static void both_ways(struct rig *r, int wire, unsigned seed)
{
    static const struct virtio_net_hdr_v1 plain;
    uint8_t frame[200], got[4 + sizeof(frame)];
    uint32_t length = htonl(sizeof(frame));
    struct drv_buffer b;
    uint8_t *host = buffer(r, 2048, &b, true);

    fill(frame, sizeof(frame), seed);
    transmit(r, &plain, frame, sizeof(frame), 1);
    assert_int_equal(recv(wire, got, sizeof(got), MSG_WAITALL), sizeof(got));
    assert_memory_equal(got, &length, sizeof(length));
    assert_memory_equal(got + 4, frame, sizeof(frame));

    fill(got + 4, sizeof(frame), seed + 1);
    assert_true(drv_add(&r->queues[0], &b, 1, host, 0));
    kick(r, 0);
    assert_int_equal(send(wire, got, sizeof(got), 0), sizeof(got));
    while (used(r, 0, &length) == NULL) {
        sched_yield();
    }
    assert_int_equal(length, NET_HEADER + sizeof(frame));
    assert_memory_equal(host + NET_HEADER, got + 4, sizeof(frame));
}

static unsigned link_is(struct rig *r)
{
    return mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG + 6, 2);
}

/* A wire that takes a few bytes at a time: frames arrive whole and in order. */
struct slow {
    int wire;
    unsigned bad;
};

enum { SLOW_FRAMES = 60, SLOW_SIZE = 12000 /* more than goes at once */ };

static void *read_slowly(void *context)
{
    struct slow *slow = context;
    uint8_t got[4 + SLOW_SIZE], expected[SLOW_SIZE];

    for (unsigned i = 0; i < SLOW_FRAMES; i++) {
        for (size_t at = 0; at < sizeof(got);) {
            size_t want = sizeof(got) - at < 700 ? sizeof(got) - at : 700;
            ssize_t n = recv(slow->wire, got + at, want, 0);

            if (n <= 0) {
                slow->bad++;
                return NULL;
            }
            at += (size_t)n;
        }
        fill(expected, sizeof(expected), i);
        slow->bad += ntohl(load_le32(got)) != SLOW_SIZE ||
                     memcmp(got + 4, expected, sizeof(expected)) != 0;
    }
    return NULL;
}

static void test_slow_wire(void **state)
{
    static const struct virtio_net_hdr_v1 plain;
    const int small = 1;
    struct net_backend *backend;
    struct rig rig, *r = &rig;
    uint8_t frame[SLOW_SIZE];
    struct slow slow = { 0 };
    pthread_t thread;
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)),
                     0); /* the kernel's least */
    assert_int_equal(net_unix_open(NULL, ends[0], &backend, NULL), 0);
    close(ends[0]);
    slow.wire = ends[1];
    rig_open(r, backend);
    rig_start(r, false, 0);
    assert_int_equal(pthread_create(&thread, NULL, read_slowly, &slow), 0);
    for (unsigned i = 0; i < SLOW_FRAMES; i++) {
        fill(frame, sizeof(frame), i);
        transmit(r, &plain, frame, sizeof(frame), 1 + i % 3);
    }
    pthread_join(thread, NULL);
    assert_int_equal(slow.bad, 0);
    close(ends[1]);
    rig_close(r);
}

/* The other end goes away, in the middle of a frame, and comes back: link down, link up,
 * each with its interrupt, and frames are whole again. One that was handed over does not. */
static void test_reopen(void **state)
{
    char path[64];
    struct rig rig, *r = &rig;
    struct net_backend *backend;
    struct umbra_error error;
    int listener, wire, pair[2];
    uint32_t generation;

    snprintf(path, sizeof(path), "/tmp/umbra-net-%d.sock", (int)getpid());
    listener = listen_at(path);
    assert_int_equal(net_unix_open(path, -1, &backend, &error), 0);
    wire = accept(listener, NULL, NULL);
    rig_open(r, backend);
    rig_start(r, false, VIRTIO_FEATURE(VIRTIO_NET_F_STATUS));
    both_ways(r, wire, 1);
    for (unsigned round = 0; round < 2; round++) {
        close(listener);
        generation = mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG_GENERATION, 4);
        assert_int_equal(link_is(r), VIRTIO_NET_S_LINK_UP);
        assert_int_equal(send(wire, "\0\0\0\x64torn", 8, 0), 8);
        close(wire);
        while (link_is(r) != 0) {
            sched_yield();
        }
        assert_int_not_equal(mmio_get_sized(r->device, VIRTIO_MMIO_CONFIG_GENERATION, 4),
                             generation);
        assert_true(mmio_get_sized(r->device, VIRTIO_MMIO_INTERRUPT_STATUS, 4) &
                    VIRTIO_MMIO_INT_CONFIG);
        mmio_set(r->device, VIRTIO_MMIO_INTERRUPT_ACK, 3);
        listener = listen_at(path);
        wire = accept(listener, NULL, NULL);
        while (link_is(r) != VIRTIO_NET_S_LINK_UP) {
            sched_yield();
        }
        assert_true(mmio_get_sized(r->device, VIRTIO_MMIO_INTERRUPT_STATUS, 4) &
                    VIRTIO_MMIO_INT_CONFIG);
        mmio_set(r->device, VIRTIO_MMIO_INTERRUPT_ACK, 3);
        both_ways(r, wire, 10 * round);
    }
    /* A length that no frame has: there is no telling where the next one begins. */
    assert_int_equal(send(wire, "\0\1\0\20", 4, 0), 4);
    while (link_is(r) != 0) {
        sched_yield();
    }
    assert_int_equal(atomic_load(&r->warnings), 3);
    close(wire);
    wire = accept(listener, NULL, NULL);
    while (link_is(r) != VIRTIO_NET_S_LINK_UP) {
        sched_yield();
    }
    both_ways(r, wire, 77);
    close(wire);
    close(listener);
    unlink(path);
    rig_close(r);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(net_unix_open(NULL, pair[0], &backend, &error), 0);
    assert_null(backend->ops->reopen);
    net_backend_destroy(backend);
    close(pair[0]);
    close(pair[1]);
}

static void test_save_load(void **state)
{
    struct rig one, two, *r = &one;
    struct state_writer *writer;
    struct state_reader *reader;
    struct umbra_error error;
    struct fake fake, other;
    const uint8_t pairs[] = { 4, 0, 2, 0 };
    json_t *stats = json_object();
    const void *bytes;
    size_t size;

    fake_init(&fake);
    fake_init(&other);
    rig_open(r, &fake.backend);
    rig_open(&two, &other.backend);
    rig_start(r, false,
              VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_FEATURE(VIRTIO_NET_F_MQ) |
                  VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM));
    assert_true(command(r, 4, pairs, sizeof(pairs)));
    device_pause(r->device);
    assert_int_equal(state_writer_create(&writer), 0);
    assert_int_equal(device_save(r->device, writer, &error), 0);
    assert_int_equal(state_writer_finish(writer, &bytes, &size), 0);
    assert_int_equal(state_reader_create(bytes, size, &reader, &error), 0);
    device_pause(two.device);
    memcpy(guest_mem_ptr(two.mem, 0, RAM), guest_mem_ptr(r->mem, 0, RAM), RAM);
    assert_int_equal(device_load(two.device, reader, &error), 0);
    assert_int_equal(atomic_load(&other.pairs), 2);
    assert_int_equal(atomic_load(&other.offloads), 1u << VIRTIO_NET_F_GUEST_CSUM);
    virtio_device_stats(two.vdev, stats);
    assert_int_equal(json_integer_value(json_object_get(stats, "pairs")), 2);
    json_decref(stats);
    state_reader_destroy(reader);
    state_writer_destroy(writer);
    two.queue_count = 0;
    rig_close(r);
    rig_close(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_wire),
        cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
