/* SPDX-License-Identifier: MIT */
/*
 * A hostile back end at the relay's ring: the input is a program of what the driver adds and
 * what the back end writes. Whatever it does, every buffer of the driver's comes back once.
 */
#include <stdlib.h>

#include "fuzz.h"
#include "unit/virtqueue_driver.h"
#include "virtio/vhost/relay.h"

enum { QUEUE = 16, RAM = 1 << 18, RINGS = 0x1000, BUFFERS = 0x20000, TOKENS = 4096 };

struct world {
    struct guest_mem *mem;
    struct log log;
    struct device_env env;
    struct virtio_device device;
    struct drv drv;
    struct relay relay;
    uint8_t *ring;
    uint64_t ring_size;
    unsigned added, got;
    bool out[TOKENS]; /* the driver waits for it */
};

static void no_notify(struct virtio_device *device, struct virtio_queue *queue)
{
    (void)device;
    (void)queue;
}

static const struct virtio_device_facts facts = { .type = "fuzz",
                                                  .ops = { .notify = no_notify } };

static void world_open(struct world *w, bool packed)
{
    struct guest_mem_options options = { 0 };
    uint64_t features = VIRTIO_FEATURE(32) | VIRTIO_FEATURE(28) | VIRTIO_FEATURE(29);
    struct umbra_error error;
    struct virtio_queue *queue;

    features |= packed ? VIRTIO_FEATURE(34) : 0;
    FUZZ_EXPECT(guest_mem_create(&options, &w->mem, &error) == 0);
    FUZZ_EXPECT(guest_mem_add(w->mem, 0, RAM, GUEST_REGION_RAM, &error) == 0);
    w->env = (struct device_env){ .mem = w->mem, .log = &w->log };
    FUZZ_EXPECT(virtio_device_init(&w->device, &facts, &w->env, "fuzz", features) == 0);
    FUZZ_EXPECT(virtio_device_add_queues(&w->device, 1, QUEUE) == 0);
    drv_init(&w->drv, w->mem, RINGS, QUEUE, packed, true);
    virtio_features_write(&w->device, 0, (uint32_t)features);
    virtio_features_write(&w->device, 1, (uint32_t)(features >> 32));
    virtio_status_write(&w->device, 11);
    queue = &w->device.queues[0];
    queue->desc_area = w->drv.desc;
    queue->driver_area = w->drv.driver;
    queue->device_area = w->drv.device;
    virtio_queue_enable(queue);
    virtio_status_write(&w->device, 15);
    FUZZ_EXPECT(queue->running);
    FUZZ_EXPECT(relay_init(&w->relay, queue, QUEUE) == 0);
    w->ring_size = relay_bytes(QUEUE);
    w->ring = aligned_alloc(4096, w->ring_size);
    FUZZ_EXPECT(w->ring != NULL);
    memset(w->ring, 0, w->ring_size);
    relay_attach(&w->relay, w->ring, UINT64_C(1) << 40);
}

static void world_close(struct world *w)
{
    relay_fini(&w->relay);
    virtio_device_reset(&w->device);
    virtio_device_fini(&w->device);
    drv_fini(&w->drv);
    guest_mem_destroy(w->mem);
    free(w->ring);
}

static void drain(struct world *w)
{
    uint32_t written;
    bool *token;

    while ((token = drv_get(&w->drv, &written)) != NULL) {
        FUZZ_EXPECT(*token && written <= 2 * 256);
        *token = false;
        w->got++;
    }
}

static uint32_t refuse(const struct virtqueue_chain *chain)
{
    return chain->writable_bytes > 0 ? 1 : 0;
}

static void collect(struct world *w)
{
    const char *why = NULL;

    if (relay_collect(&w->relay, &why) != 0) {
        FUZZ_EXPECT(why != NULL);
        relay_detach(&w->relay); /* as when it is thrown out; its successor comes */
        relay_attach(&w->relay, w->ring, UINT64_C(1) << 40);
    }
    FUZZ_EXPECT(w->relay.in_flight <= QUEUE);
}

static void step(struct world *w, uint8_t op, uint8_t a, uint8_t b)
{
    struct remote_queue remote;
    struct drv_buffer buffers[2] = { { BUFFERS + a * 256u, 1u + b, false },
                                     { BUFFERS + b * 256u, 1u + a, true } };
    uint8_t *used;
    uint16_t now;

    relay_describe(&w->relay, &remote);
    used = w->ring + (remote.device - remote.desc);
    memcpy(&now, used + 2, 2);
    switch (op % 8) {
    case 0:
    case 1:
        if (w->added < TOKENS &&
            drv_add(&w->drv, buffers, 1 + (a & 1), &w->out[w->added], 0)) {
            w->out[w->added++] = true;
        }
        break;
    case 2:
        relay_forward(&w->relay);
        break;
    case 3: /* an element: often a sound one */
    case 4:
        memset(used + 4 + 8 * (size_t)(now % QUEUE), 0, 8);
        used[4 + 8 * (size_t)(now % QUEUE)] = op & 0x80 ? a : a % QUEUE;
        used[4 + 8 * (size_t)(now % QUEUE) + 4] = b;
        now = (uint16_t)(now + (op & 0x40 ? b : 1));
        memcpy(used + 2, &now, 2);
        break;
    case 5:
        collect(w);
        drain(w);
        break;
    case 6:
        w->ring[((uint64_t)a << 8 | b) * 7 % w->ring_size] ^= op;
        break;
    default:
        relay_refuse(&w->relay, refuse);
        FUZZ_EXPECT(w->relay.in_flight == 0);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *w = calloc(1, sizeof(*w));

    FUZZ_EXPECT(w != NULL);
    world_open(w, size > 0 && (data[0] & 1));
    for (size_t i = 1; i + 2 < size; i += 3) {
        step(w, data[i], data[i + 1], data[i + 2]);
    }
    relay_refuse(&w->relay, refuse);
    drain(w);
    FUZZ_EXPECT(w->got == w->added);
    world_close(w);
    free(w);
    return 0;
}
