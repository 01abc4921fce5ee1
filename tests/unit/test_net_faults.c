/* SPDX-License-Identifier: MIT */
/* Planned faults of virtio-net's frames and link, and of interrupts on their way through a
 * relay, with the loop running (pthread_create: its thread, so TSan looks at it too). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_net.h>

#include "backend/net/net.h"
#include "base/util.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"

enum {
    RAM = 8 << 20,
    BUFFERS = 4 << 20,
    QUEUE = 64,
    SIZE = 60, /* of frames */
    BUFFER = 2048,
    WIRE_MAX = 64,
};

/* A wire: what was sent, in order; what is to be received. */
struct wire {
    struct net_backend backend;
    pthread_mutex_t mutex;
    uint8_t sent[WIRE_MAX][SIZE], given[WIRE_MAX][SIZE];
    unsigned sent_count, given_count, given_next;
    unsigned refuse; /* so many sends are not taken */
};

static struct wire *wire_of(struct net_backend *backend)
{
    return container_of(backend, struct wire, backend);
}

static int wire_send(struct net_backend *backend, unsigned pair, const struct iovec *iov,
                     unsigned count)
{
    struct wire *wire = wire_of(backend);
    uint8_t bytes[4096];
    size_t size = 0;
    int ret = 0;

    for (unsigned i = 0; i < count; i++) {
        memcpy(bytes + size, iov[i].iov_base, iov[i].iov_len);
        size += iov[i].iov_len;
    }
    assert_int_equal(size, NET_HEADER + SIZE);
    pthread_mutex_lock(&wire->mutex);
    if (wire->refuse > 0) {
        wire->refuse--;
        ret = -EAGAIN;
    } else {
        memcpy(wire->sent[wire->sent_count++], bytes + NET_HEADER, SIZE);
    }
    pthread_mutex_unlock(&wire->mutex);
    return ret;
}

static ssize_t wire_receive(struct net_backend *backend, unsigned pair, void *frame,
                            size_t size)
{
    struct wire *wire = wire_of(backend);
    ssize_t ret = -EAGAIN;
    uint64_t count;

    pthread_mutex_lock(&wire->mutex);
    if (wire->given_next < wire->given_count) {
        memset(frame, 0, NET_HEADER);
        memcpy((uint8_t *)frame + NET_HEADER, wire->given[wire->given_next++], SIZE);
        ret = NET_HEADER + SIZE;
    } else if (read(backend->fds[0], &count, sizeof(count)) < 0) {
        assert_int_equal(errno, EAGAIN);
    }
    pthread_mutex_unlock(&wire->mutex);
    return ret;
}

static void wire_destroy(struct net_backend *backend)
{
    close(backend->fds[0]);
}

static const struct net_backend_ops wire_ops = {
    .type = "wire",
    .send = wire_send,
    .receive = wire_receive,
    .destroy = wire_destroy,
};

struct rig {
    struct wire wire;
    struct guest_mem *mem;
    struct log log;
    struct loop *loop;
    struct device_env env;
    struct virtio_device *vdev;
    struct device *device;
    struct drv queues[3];
    uint64_t next;
    unsigned sent; /* frames by the driver */
};

static void rig_plan(struct rig *r, struct umbra_fault fault)
{
    fault.device = "net0";
    assert_true((r->device->faults & FAULT_BIT(fault.kind)) != 0);
    assert_int_equal(faults_add(r->env.faults, &fault, FAULT_REQUEST, NULL), 0);
}

static void rig_open(struct rig *r)
{
    const struct faults_options plan = { 0 };
    const struct virtio_net_options net = { .id = "net0",
                                            .mac = { 0x52, 0x54, 0, 1, 2, 3 },
                                            .queue_size = QUEUE };
    struct mmio_rings rings = { .base = 0x10000, .size = QUEUE };
    struct guest_mem_options options = { 0 };
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    pthread_mutex_init(&r->wire.mutex, NULL);
    r->wire.backend = (struct net_backend){ .ops = &wire_ops, .pairs = 1 };
    r->wire.backend.fds[0] = eventfd(0, EFD_NONBLOCK);
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM, GUEST_REGION_RAM, &error), 0);
    assert_int_equal(loop_create(&r->log, &r->loop, &error), 0);
    r->env = (struct device_env){ .mem = r->mem, .log = &r->log, .loop = r->loop };
    assert_int_equal(faults_create(&plan, &r->env.faults), 0);
    assert_int_equal(virtio_net_create(&r->env, &net, &r->wire.backend, &r->vdev, &error),
                     0);
    assert_int_equal(virtio_mmio_create(&r->env, 20, r->vdev, &r->device, &error), 0);
    assert_int_equal(loop_start(r->loop, &error), 0);
    assert_int_equal(mmio_negotiate(r->device, VIRTIO_FEATURE(32)), MMIO_FEATURES_OK);
    rings.mem = r->mem;
    mmio_queues_start(r->device, r->queues, 3, &rings);
    r->next = BUFFERS;
    mmio_set(r->device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static void rig_close(struct rig *r)
{
    for (unsigned i = 0; i < 3; i++) {
        drv_fini(&r->queues[i]);
    }
    loop_stop(r->loop);
    device_destroy(r->device);
    faults_destroy(r->env.faults);
    loop_destroy(r->loop);
    guest_mem_destroy(r->mem);
    pthread_mutex_destroy(&r->wire.mutex);
}

static void fill(uint8_t *frame, unsigned number)
{
    for (unsigned i = 0; i < SIZE; i++) {
        frame[i] = (uint8_t)(number * 16 + i);
    }
}

static void *used(struct rig *r, unsigned queue)
{
    uint32_t length;
    void *token;

    while ((token = drv_get(&r->queues[queue], &length)) == NULL) {
        sched_yield();
    }
    return token;
}

/* The driver sends a frame; when this returns it is used. */
static void send_frame(struct rig *r)
{
    struct drv_buffer b = { r->next, NET_HEADER + SIZE, false };
    uint8_t *bytes = guest_mem_ptr(r->mem, b.addr, b.len);

    r->next += BUFFER;
    memset(bytes, 0, NET_HEADER);
    fill(bytes + NET_HEADER, r->sent++);
    assert_true(drv_add(&r->queues[1], &b, 1, bytes, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    assert_ptr_equal(used(r, 1), bytes);
}

static unsigned sent_count(struct rig *r)
{
    unsigned count;

    pthread_mutex_lock(&r->wire.mutex);
    count = r->wire.sent_count;
    pthread_mutex_unlock(&r->wire.mutex);
    return count;
}

static unsigned differing_bits(const uint8_t *frame, unsigned number)
{
    uint8_t right[SIZE];
    unsigned bits = 0;

    fill(right, number);
    for (unsigned i = 0; i < SIZE; i++) {
        bits += (unsigned)__builtin_popcount(frame[i] ^ right[i]);
    }
    return bits;
}

static void give(struct rig *r, unsigned count)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&r->wire.mutex);
    for (unsigned i = 0; i < count; i++) {
        fill(r->wire.given[r->wire.given_count], r->wire.given_count);
        r->wire.given_count++;
    }
    pthread_mutex_unlock(&r->wire.mutex);
    assert_int_equal(write(r->wire.backend.fds[0], &one, sizeof(one)), sizeof(one));
}

static void post(struct rig *r, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct drv_buffer b = { r->next, BUFFER, true };

        r->next += BUFFER;
        assert_true(
            drv_add(&r->queues[0], &b, 1, guest_mem_ptr(r->mem, b.addr, b.len), 0));
    }
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

static void test_sent(void **state)
{
    struct rig rig, *r = &rig;

    rig_open(r);
    rig_plan(r, (struct umbra_fault){ .kind = UMBRA_FAULT_DROP, .skip = 1, .count = 1 });
    rig_plan(
        r, (struct umbra_fault){ .kind = UMBRA_FAULT_DUPLICATE, .skip = 2, .count = 1 });
    rig_plan(r, (struct umbra_fault){ .kind = UMBRA_FAULT_CORRUPT,
                                      .direction = UMBRA_FAULT_OUT,
                                      .skip = 3,
                                      .count = 1 });
    rig_plan(r, (struct umbra_fault){ .kind = UMBRA_FAULT_CORRUPT,
                                      .direction = UMBRA_FAULT_IN });
    for (unsigned i = 0; i < 5; i++) {
        send_frame(r); /* 0, 2, 2, 3 spoilt, 4 */
    }
    assert_int_equal(sent_count(r), 5);
    assert_int_equal(differing_bits(r->wire.sent[0], 0), 0);
    assert_int_equal(differing_bits(r->wire.sent[1], 2), 0);
    assert_int_equal(differing_bits(r->wire.sent[2], 2), 0);
    assert_int_equal(differing_bits(r->wire.sent[3], 3), 1);
    assert_int_equal(differing_bits(r->wire.sent[4], 4), 0);
    rig_close(r);
}

/* A late frame is overtaken, and comes although the wire does not take it at once. */
static void test_sent_late(void **state)
{
    struct rig rig, *r = &rig;

    rig_open(r);
    rig_plan(r, (struct umbra_fault){
                    .kind = UMBRA_FAULT_DELAY, .count = 1, .delay_ns = 300000000 });
    send_frame(r);
    send_frame(r);
    assert_int_equal(sent_count(r), 1);
    pthread_mutex_lock(&r->wire.mutex);
    r->wire.refuse = 2;
    pthread_mutex_unlock(&r->wire.mutex);
    while (sent_count(r) < 2) {
        sched_yield();
    }
    assert_int_equal(differing_bits(r->wire.sent[0], 1), 0);
    assert_int_equal(differing_bits(r->wire.sent[1], 0), 0);
    rig_close(r);
}

/* A frame that the wire refuses is drawn for once: the second of two is dropped. */
static void test_refused_once_drawn_once(void **state)
{
    const uint64_t one = 1;
    struct rig rig, *r = &rig;
    struct umbra_fault_event event;
    struct drv_buffer b;
    uint8_t *bytes;

    rig_open(r);
    rig_plan(r, (struct umbra_fault){ .kind = UMBRA_FAULT_DROP, .skip = 1 });
    r->wire.refuse = 1;
    b = (struct drv_buffer){ r->next, NET_HEADER + SIZE, false };
    bytes = guest_mem_ptr(r->mem, b.addr, b.len);
    memset(bytes, 0, b.len);
    assert_true(drv_add(&r->queues[1], &b, 1, bytes, 0));
    mmio_set(r->device, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    r->next += BUFFER;
    assert_int_equal(write(r->wire.backend.fds[0], &one, sizeof(one)), sizeof(one));
    assert_ptr_equal(used(r, 1), bytes); /* an eventfd is always writable: POLLOUT */
    assert_int_equal(sent_count(r), 1);
    send_frame(r);
    assert_int_equal(sent_count(r), 1);
    assert_int_equal(faults_event_at(r->env.faults, 0, &event), 0);
    assert_int_equal(event.opportunity, 2);
    rig_close(r);
}

static void test_received(void **state)
{
    struct rig rig, *r = &rig;

    rig_open(r);
    rig_plan(r, (struct umbra_fault){ .kind = UMBRA_FAULT_DROP, .skip = 1, .count = 1 });
    rig_plan(
        r, (struct umbra_fault){ .kind = UMBRA_FAULT_DUPLICATE, .skip = 2, .count = 1 });
    rig_plan(r, (struct umbra_fault){
                    .kind = UMBRA_FAULT_CORRUPT, .skip = 3, .count = 1, .seed = 9 });
    rig_plan(r, (struct umbra_fault){
                    .kind = UMBRA_FAULT_DELAY, .count = 1, .delay_ns = 300000000 });
    post(r, 10);
    give(r, 5); /* 2, 2, 3 spoilt, 4, and the late 0 */
    for (unsigned i = 0; i < 5; i++) {
        static const unsigned numbers[] = { 2, 2, 3, 4, 0 };
        const uint8_t *bytes = used(r, 0);

        assert_int_equal(differing_bits(bytes + NET_HEADER, numbers[i]), i == 2);
    }
    rig_close(r);
}

/* Late frames wait for the driver's buffers, and those that were never fetched are freed. */
static void test_received_late_and_starved(void **state)
{
    struct rig rig, *r = &rig;
    struct umbra_fault_event event;
    const uint8_t *bytes;

    rig_open(r);
    rig_plan(r, (struct umbra_fault){ .kind = UMBRA_FAULT_DELAY, .delay_ns = 1000000 });
    give(r, 1);
    while (faults_event_at(r->env.faults, 0, &event) != 0) {
        sched_yield();
    }
    usleep(5000); /* its time passes */
    post(r, 1);
    bytes = used(r, 0);
    assert_int_equal(differing_bits(bytes + NET_HEADER, 0), 0);
    give(r, 1);
    while (faults_event_at(r->env.faults, 1, &event) != 0) {
        sched_yield();
    }
    rig_close(r);
}

static bool link_up(struct rig *r)
{
    uint16_t status;

    pthread_mutex_lock(&r->vdev->lock);
    status = load_le16(r->vdev->config + offsetof(struct virtio_net_config, status));
    pthread_mutex_unlock(&r->vdev->lock);
    return (status & VIRTIO_NET_S_LINK_UP) != 0;
}

static void test_link(void **state)
{
    struct rig rig, *r = &rig;

    rig_open(r);
    rig_plan(r, (struct umbra_fault){ .kind = UMBRA_FAULT_LINK_FLAP,
                                      .skip = 1,
                                      .count = 1,
                                      .delay_ns = 3000000000 });
    assert_true(link_up(r));
    send_frame(r);
    assert_true(link_up(r));
    send_frame(r); /* is lost with the link */
    assert_false(link_up(r));
    send_frame(r);
    assert_int_equal(sent_count(r), 1);
    assert_int_equal(virtio_net_set_link(r->vdev, false, NULL),
                     0); /* the user's wish outlives the flap */
    usleep(700000);
    assert_false(link_up(r));
    assert_int_equal(virtio_net_set_link(r->vdev, true, NULL), 0);
    while (!link_up(r)) {
        sched_yield();
    }
    send_frame(r);
    assert_int_equal(sent_count(r), 2);
    rig_close(r);
}

/* An external back end signals a descriptor of its own while interrupts may be lost. */
static void test_relay(void **state)
{
    const uint64_t one = 1;
    struct rig rig, *r = &rig;
    struct umbra_fault fault = { .kind = UMBRA_FAULT_IRQ_LOST,
                                 .device = "net0",
                                 .count = 1 };
    struct umbra_fault_event event;
    int plain, relayed;

    rig_open(r);
    plain = virtio_queue_call_fd(&r->vdev->queues[0]);
    assert_int_equal(faults_add(r->env.faults, &fault, FAULT_INTERRUPT, NULL), 0);
    relayed = virtio_queue_call_fd(&r->vdev->queues[0]);
    assert_int_not_equal(relayed, plain);
    assert_int_equal(virtio_queue_call_fd(&r->vdev->queues[0]), relayed);
    assert_int_equal(write(relayed, &one, sizeof(one)), sizeof(one));
    while (faults_event_at(r->env.faults, 0, &event) != 0) {
        sched_yield();
    }
    pthread_mutex_lock(&r->device->lock);
    assert_int_equal(r->device->ops->read(r->device, 0, VIRTIO_MMIO_INTERRUPT_STATUS, 4),
                     0);
    pthread_mutex_unlock(&r->device->lock);
    assert_int_equal(write(relayed, &one, sizeof(one)), sizeof(one));
    for (uint64_t status_now = 0; status_now == 0;) {
        pthread_mutex_lock(&r->device->lock);
        status_now = r->device->ops->read(r->device, 0, VIRTIO_MMIO_INTERRUPT_STATUS, 4);
        pthread_mutex_unlock(&r->device->lock);
        sched_yield();
    }
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sent),
        cmocka_unit_test(test_sent_late),
        cmocka_unit_test(test_refused_once_drawn_once),
        cmocka_unit_test(test_received),
        cmocka_unit_test(test_received_late_and_starved),
        cmocka_unit_test(test_link),
        cmocka_unit_test(test_relay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
