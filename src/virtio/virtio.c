/* SPDX-License-Identifier: MIT */
/* What all virtio devices share: status, features, queues' lives, config space. */
#include "virtio/virtio.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_config.h>

#include "base/event_fd.h"
#include "base/util.h"
#include "virtio/faults.h"

static void queue_defaults(struct virtio_queue *queue)
{
    queue->size = queue->max_size;
    queue->desc_area = queue->driver_area = queue->device_area = 0;
    queue->enabled = false;
    atomic_store(&queue->vector, VIRTIO_NO_VECTOR);
}

int virtio_device_init(struct virtio_device *device,
                       const struct virtio_device_facts *facts,
                       const struct device_env *env, const char *id, uint64_t offered)
{
    int ret = pthread_mutex_init(&device->lock, NULL);

    if (ret != 0) {
        return -ret;
    }
    device->facts = facts;
    device->env = env;
    device->offered = offered | VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
    snprintf(device->id, sizeof(device->id), "%s", id);
    atomic_init(&device->status, 0);
    atomic_init(&device->generation, 0);
    atomic_init(&device->failed, false);
    return 0;
}

int virtio_device_add_queues(struct virtio_device *device, unsigned count, unsigned size)
{
    unsigned total = device->queue_count + count;
    struct virtio_queue *queues;

    if (total > VIRTIO_MAX_QUEUES || size == 0 || size > VIRTQUEUE_MAX_SIZE ||
        (size & (size - 1)) != 0) {
        return -EINVAL;
    }
    queues = realloc(device->queues, total * sizeof(*queues));
    if (queues == NULL) {
        return -ENOMEM;
    }
    device->queues = queues;
    for (unsigned i = device->queue_count; i < total; i++) {
        struct virtio_queue *queue = &queues[i];

        memset(queue, 0, sizeof(*queue));
        queue->device = device;
        queue->index = i;
        queue->max_size = (uint16_t)size;
        queue_defaults(queue);
        queue->relay_fd = -1;
        queue->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (queue->kick_fd < 0) {
            return -errno;
        }
        device->queue_count = i + 1;
    }
    return 0;
}

void virtio_device_fini(struct virtio_device *device)
{
    if (device->facts == NULL) {
        return; /* init was never reached */
    }
    for (unsigned i = 0; i < device->queue_count; i++) {
        virtqueue_stop(&device->queues[i].vq);
        virtio_queue_relay_close(&device->queues[i]);
        close(device->queues[i].kick_fd);
    }
    free(device->queues);
    device->queues = NULL;
    device->queue_count = 0;
    pthread_mutex_destroy(&device->lock);
}

void virtio_device_destroy(struct virtio_device *device)
{
    if (device != NULL) {
        device->facts->ops.destroy(device);
    }
}

void virtio_device_attach(struct virtio_device *device,
                          const struct virtio_transport_ops *ops, void *context)
{
    device->transport = ops;
    device->transport_context = context;
}

/* ---- For devices ------------------------------------------------------------------ */

static void device_interrupt(struct virtio_device *device, struct virtio_queue *queue)
{
    if (device->transport != NULL && !virtio_interrupt_lost(device, queue)) {
        device->transport->interrupt(device->transport_context, queue);
    }
}

void virtio_device_fail(struct virtio_device *device, const char *why)
{
    if (atomic_exchange(&device->failed, true)) {
        return;
    }
    atomic_fetch_or(&device->status, VIRTIO_CONFIG_S_NEEDS_RESET);
    device_tell(device->env, UMBRA_EVENT_STATE, device->id, UMBRA_EVENT_NO_QUEUE,
                atomic_load(&device->status));
    log_warning(device->env->log,
                "%s: %s; the device stops until the guest's driver resets it", device->id,
                why);
    if (atomic_load(&device->status) & VIRTIO_CONFIG_S_DRIVER_OK) {
        device_interrupt(device, NULL); /* 2.1.2: a configuration change says so */
    }
}

bool virtio_queue_pop(struct virtio_queue *queue, struct virtqueue_chain *chain)
{
    struct virtio_device *device = queue->device;
    int ret;

    if (atomic_load_explicit(&device->failed, memory_order_relaxed)) {
        return false;
    }
    ret = virtqueue_pop(&queue->vq, chain);
    if (ret == 1) {
        virtio_stat_add(&queue->stats.chains, 1);
        virtio_stat_add(&queue->stats.bytes_in, chain->readable_bytes);
        device_tell(device->env, UMBRA_EVENT_STARTED, device->id, queue->index,
                    chain->readable_bytes);
        return true;
    }
    if (ret < 0) {
        char why[160];

        snprintf(why, sizeof(why), "queue %u: %s", queue->index,
                 ret == -EPROTO ? queue->vq.fault : strerror(-ret));
        virtio_stat_add(&queue->stats.errors, 1);
        virtio_device_fail(device, why);
    }
    return false;
}

void virtio_queue_push(struct virtio_queue *queue, const struct virtqueue_chain *chain,
                       uint32_t written)
{
    virtio_stat_add(&queue->stats.bytes_out, written);
    device_tell(queue->device->env, UMBRA_EVENT_DONE, queue->device->id, queue->index,
                written);
    virtqueue_push(&queue->vq, chain, written);
}

void virtio_queue_unpop(struct virtio_queue *queue, const struct virtqueue_chain *chain)
{
    virtio_stat_add(&queue->stats.chains, (uint64_t)-1);
    virtio_stat_add(&queue->stats.bytes_in, -chain->readable_bytes);
    virtqueue_unpop(&queue->vq, chain);
}

void virtio_queue_flush(struct virtio_queue *queue)
{
    if (virtqueue_flush(&queue->vq) && !atomic_load(&queue->device->failed)) {
        virtio_stat_add(&queue->stats.interrupts, 1);
        device_interrupt(queue->device, queue);
    }
}

void virtio_queue_disable_kicks(struct virtio_queue *queue)
{
    virtqueue_disable_kicks(&queue->vq);
}

bool virtio_queue_enable_kicks(struct virtio_queue *queue)
{
    return virtqueue_enable_kicks(&queue->vq) && !atomic_load(&queue->device->failed);
}

void virtio_queue_rekick(struct virtio_queue *queue)
{
    event_signal(queue->kick_fd);
}

int virtio_queue_call_fd(struct virtio_queue *queue)
{
    struct virtio_device *device = queue->device;

    if (device->transport == NULL) {
        return -1;
    }
    if (virtio_queue_relay_open(queue)) {
        return queue->relay_fd;
    }
    return device->transport->call_fd(device->transport_context, queue);
}

void virtio_config_changed(struct virtio_device *device)
{
    atomic_fetch_add(&device->generation, 1);
    if (atomic_load(&device->status) & VIRTIO_CONFIG_S_DRIVER_OK) {
        device_interrupt(device, NULL);
    }
}

/* ---- Queues ------------------------------------------------------------------------ */

static void queue_kicked(void *context, uint32_t events)
{
    struct virtio_queue *queue = context;

    (void)events;
    if (event_take(queue->kick_fd)) {
        virtio_queue_notified(queue);
        if (queue->running) {
            queue->device->facts->ops.notify(queue->device, queue);
        }
    }
}

static int queue_attach(struct virtio_queue *queue)
{
    struct virtio_device *device = queue->device;
    int ret = 0;

    if (device->facts->ops.queue_start != NULL) {
        ret = device->facts->ops.queue_start(device, queue);
    } else if (device->env->loop != NULL) {
        ret = loop_watch_add(device->env->loop, queue->kick_fd, POLLIN, &device->lock,
                             queue_kicked, queue, &queue->watch);
    }
    if (ret != 0) {
        return ret;
    }
    queue->attached = true;
    /* Buffers may have come before anybody listened. */
    virtio_queue_rekick(queue);
    return 0;
}

static void queue_detach(struct virtio_queue *queue)
{
    if (!queue->attached) {
        return;
    }
    queue->attached = false;
    if (queue->device->facts->ops.queue_start != NULL) {
        queue->device->facts->ops.queue_stop(queue->device, queue);
    } else {
        loop_watch_remove(queue->watch);
        queue->watch = NULL;
    }
}

/* Take over the ring, at @position (NULL: its beginning). */
static int queue_map(struct virtio_queue *queue,
                     const struct virtqueue_position *position)
{
    struct virtio_device *device = queue->device;
    const struct virtqueue_config config = {
        .size = queue->size,
        .desc = queue->desc_area,
        .driver = queue->driver_area,
        .device = queue->device_area,
        .packed = virtio_has(device, VIRTIO_F_RING_PACKED),
        .event_idx = virtio_has(device, 29 /* VIRTIO_F_EVENT_IDX */),
        .indirect = virtio_has(device, 28 /* VIRTIO_F_INDIRECT_DESC */),
        .in_order = virtio_has(device, 35 /* VIRTIO_F_IN_ORDER */),
    };

    return position == NULL
               ? virtqueue_start(&queue->vq, device->env->mem, &config)
               : virtqueue_start_at(&queue->vq, device->env->mem, &config, position);
}

static void queue_start(struct virtio_queue *queue)
{
    char why[160];
    int ret;

    if (queue->running || !queue->enabled) {
        return;
    }
    ret = queue_map(queue, NULL);
    if (ret == 0) {
        queue->running = true;
        ret = queue->device->paused ? 0 : queue_attach(queue);
    }
    if (ret != 0) {
        snprintf(why, sizeof(why), "queue %u: cannot start: %s", queue->index,
                 queue->vq.fault != NULL ? queue->vq.fault : strerror(-ret));
        virtio_device_fail(queue->device, why);
    }
}

static void queue_reset(struct virtio_queue *queue)
{
    queue_detach(queue);
    queue->running = false;
    virtqueue_stop(&queue->vq);
    if (queue->device->facts->ops.queue_forget != NULL) {
        queue->device->facts->ops.queue_forget(queue->device, queue);
    }
    virtio_queue_relay_close(queue);
    queue_defaults(queue);
    event_take(queue->kick_fd);
}

/* ---- For transports ---------------------------------------------------------------- */

static void reset_locked(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        queue_reset(&device->queues[i]);
    }
    if (device->facts->ops.reset != NULL) {
        device->facts->ops.reset(device);
    }
    device->features = 0;
    atomic_store(&device->failed, false);
    atomic_store(&device->status, 0);
    device_tell(device->env, UMBRA_EVENT_RESET, device->id, UMBRA_EVENT_NO_QUEUE, 0);
}

void virtio_device_reset(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    reset_locked(device);
    pthread_mutex_unlock(&device->lock);
}

uint8_t virtio_status_read(const struct virtio_device *device)
{
    return (uint8_t)atomic_load(&device->status);
}

static void device_go(struct virtio_device *device)
{
    if (device->facts->ops.activate != NULL) {
        int ret = device->facts->ops.activate(device);

        if (ret != 0) {
            char why[128];

            snprintf(why, sizeof(why), "cannot activate: %s", strerror(-ret));
            virtio_device_fail(device, why);
            return;
        }
    }
    for (unsigned i = 0; i < device->queue_count; i++) {
        queue_start(&device->queues[i]);
    }
}

void virtio_status_write(struct virtio_device *device, uint8_t status)
{
    uint32_t old, now;

    pthread_mutex_lock(&device->lock);
    if (status == 0) {
        reset_locked(device);
        pthread_mutex_unlock(&device->lock);
        return;
    }
    old = atomic_load(&device->status);
    now = old | status; /* a driver never clears bits (2.1.1) but by reset */
    if ((now & ~old & VIRTIO_CONFIG_S_FEATURES_OK) &&
        ((device->features & ~device->offered) != 0 ||
         !virtio_has(device, VIRTIO_F_VERSION_1))) {
        log_info(device->env->log, "%s: the driver's features 0x%llx are refused",
                 device->id, (unsigned long long)device->features);
        now &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
    }
    if (!(now & VIRTIO_CONFIG_S_FEATURES_OK)) {
        now &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK; /* out of turn (3.1.1) */
    }
    atomic_store(&device->status, now);
    device_tell(device->env, UMBRA_EVENT_STATE, device->id, UMBRA_EVENT_NO_QUEUE, now);
    if (now & ~old & VIRTIO_CONFIG_S_DRIVER_OK) {
        device_go(device);
    }
    pthread_mutex_unlock(&device->lock);
}

uint32_t virtio_features_read(const struct virtio_device *device, uint32_t select,
                              bool driver)
{
    uint64_t features = driver ? device->features : device->offered;

    return select > 1 ? 0 : (uint32_t)(features >> (32 * select));
}

void virtio_features_write(struct virtio_device *device, uint32_t select, uint32_t value)
{
    if (select > 1 || (atomic_load(&device->status) & VIRTIO_CONFIG_S_FEATURES_OK)) {
        return;
    }
    pthread_mutex_lock(&device->lock);
    device->features &= ~(UINT64_C(0xffffffff) << (32 * select));
    device->features |= (uint64_t)value << (32 * select);
    pthread_mutex_unlock(&device->lock);
}

void virtio_config_read(struct virtio_device *device, unsigned offset, unsigned size,
                        uint8_t *bytes)
{
    unsigned there = device->facts->config_size;

    memset(bytes, 0, size);
    if (offset >= there) {
        return;
    }
    pthread_mutex_lock(&device->lock);
    memcpy(bytes, device->config + offset, size < there - offset ? size : there - offset);
    pthread_mutex_unlock(&device->lock);
}

void virtio_config_write(struct virtio_device *device, unsigned offset, unsigned size,
                         const uint8_t *bytes)
{
    unsigned there = device->facts->config_size;

    if (device->facts->ops.config_write == NULL || offset >= there ||
        size > there - offset) {
        return;
    }
    pthread_mutex_lock(&device->lock);
    device->facts->ops.config_write(device, offset, size, bytes);
    pthread_mutex_unlock(&device->lock);
}

struct virtio_queue *virtio_queue_get(struct virtio_device *device, unsigned index)
{
    return index < device->queue_count ? &device->queues[index] : NULL;
}

void virtio_queue_enable(struct virtio_queue *queue)
{
    struct virtio_device *device = queue->device;

    pthread_mutex_lock(&device->lock);
    queue->enabled = true;
    if (atomic_load(&device->status) & VIRTIO_CONFIG_S_DRIVER_OK) {
        queue_start(queue);
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_queue_reset(struct virtio_queue *queue)
{
    pthread_mutex_lock(&queue->device->lock);
    queue_reset(queue);
    pthread_mutex_unlock(&queue->device->lock);
}

void virtio_queue_kick(struct virtio_queue *queue)
{
    virtio_queue_rekick(queue);
}

void virtio_device_pause(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    device->paused = true;
    if (device->facts->ops.queue_start != NULL) {
        for (unsigned i = 0; i < device->queue_count; i++) {
            queue_detach(&device->queues[i]);
        }
    }
    if (device->facts->ops.pause != NULL) {
        device->facts->ops.pause(device);
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_device_resume(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    device->paused = false;
    if (device->facts->ops.resume != NULL) {
        device->facts->ops.resume(device);
    }
    for (unsigned i = 0; i < device->queue_count; i++) {
        struct virtio_queue *queue = &device->queues[i];

        if (queue->running && !queue->attached && queue_attach(queue) != 0) {
            virtio_device_fail(device, "a queue cannot go on after the pause");
        }
    }
    pthread_mutex_unlock(&device->lock);
}

int virtio_queue_restore(struct virtio_queue *queue,
                         const struct virtqueue_position *position)
{
    int ret = queue_map(queue, position);

    queue->running = ret == 0;
    return ret;
}
