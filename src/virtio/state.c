/* SPDX-License-Identifier: MIT */
/* Virtio devices' state in snapshots, and their statistics as JSON. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include <linux/virtio_config.h>

#include "base/state.h"
#include "base/util.h"
#include "virtio/virtio.h"

enum { QUEUE_STATE_SIZE = 40 };

/* A queue in QUEUE_STATE_SIZE bytes: three addresses, size, vector, position, flags. */
static void queue_pack(const struct virtio_queue *queue, uint8_t bytes[QUEUE_STATE_SIZE])
{
    struct virtqueue_position position;

    virtqueue_get_position(&queue->vq, &position);
    memset(bytes, 0, QUEUE_STATE_SIZE);
    store_le64(bytes, queue->desc_area);
    store_le64(bytes + 8, queue->driver_area);
    store_le64(bytes + 16, queue->device_area);
    store_le16(bytes + 24, queue->size);
    store_le16(bytes + 26, atomic_load(&queue->vector));
    store_le16(bytes + 28, position.available);
    store_le16(bytes + 30, position.used);
    bytes[32] = queue->enabled;
    bytes[33] = queue->running;
}

int virtio_device_save(struct virtio_device *device, struct state_writer *writer)
{
    int ret = 0;

    pthread_mutex_lock(&device->lock);
    state_put_u64(writer, "virtio.offered", device->offered);
    state_put_u64(writer, "virtio.features", device->features);
    state_put_u64(writer, "virtio.status", atomic_load(&device->status));
    state_put_u64(writer, "virtio.generation", atomic_load(&device->generation));
    state_put_bytes(writer, "virtio.config", device->config, device->facts->config_size);
    for (unsigned i = 0; i < device->queue_count; i++) {
        uint8_t bytes[QUEUE_STATE_SIZE];
        char name[32];

        queue_pack(&device->queues[i], bytes);
        snprintf(name, sizeof(name), "virtio.queue%u", i);
        state_put_bytes(writer, name, bytes, sizeof(bytes));
    }
    if (device->facts->ops.save != NULL) {
        ret = device->facts->ops.save(device, writer);
    }
    pthread_mutex_unlock(&device->lock);
    return ret;
}

static void queue_load(struct virtio_queue *queue, struct state_reader *reader)
{
    struct virtqueue_position position;
    uint8_t bytes[QUEUE_STATE_SIZE];
    char name[32];

    snprintf(name, sizeof(name), "virtio.queue%u", queue->index);
    state_get_bytes(reader, name, bytes, sizeof(bytes));
    queue->desc_area = load_le64(bytes);
    queue->driver_area = load_le64(bytes + 8);
    queue->device_area = load_le64(bytes + 16);
    queue->size = load_le16(bytes + 24);
    atomic_store(&queue->vector, load_le16(bytes + 26));
    position.available = load_le16(bytes + 28);
    position.used = load_le16(bytes + 30);
    queue->enabled = bytes[32] != 0;
    if (bytes[33] != 0 && virtio_queue_restore(queue, &position) != 0) {
        state_reject(reader, "a virtqueue cannot be where it says");
    }
}

int virtio_device_load(struct virtio_device *device, struct state_reader *reader)
{
    int ret;

    virtio_device_reset(device);
    pthread_mutex_lock(&device->lock);
    if (state_get_u64(reader, "virtio.offered", UINT64_MAX) != device->offered) {
        state_reject(reader, "the device offers other features here");
    }
    device->features = state_get_u64(reader, "virtio.features", UINT64_MAX);
    atomic_store(&device->status, (uint32_t)state_get_u64(reader, "virtio.status", 0xff));
    atomic_store(&device->failed,
                 (atomic_load(&device->status) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
    atomic_store(&device->generation,
                 (uint32_t)state_get_u64(reader, "virtio.generation", UINT32_MAX));
    state_get_bytes(reader, "virtio.config", device->config, device->facts->config_size);
    if ((device->features & ~device->offered) != 0) {
        state_reject(reader, "features were accepted that were not offered");
    }
    ret = state_reader_error(reader, NULL);
    for (unsigned i = 0; i < device->queue_count && ret == 0; i++) {
        queue_load(&device->queues[i], reader);
        ret = state_reader_error(reader, NULL);
    }
    if (ret == 0 && device->facts->ops.load != NULL) {
        ret = device->facts->ops.load(device, reader);
    }
    pthread_mutex_unlock(&device->lock);
    return ret;
}

static json_t *counter(const atomic_ulong *value)
{
    return json_integer((json_int_t)atomic_load_explicit(value, memory_order_relaxed));
}

static json_t *queue_stats(const struct virtio_queue *queue)
{
    const struct virtio_queue_stats *stats = &queue->stats;
    json_t *latency = json_array();
    unsigned used = VIRTIO_LATENCY_BUCKETS;

    while (used > 0 &&
           atomic_load_explicit(&stats->latency[used - 1], memory_order_relaxed) == 0) {
        used--;
    }
    for (unsigned b = 0; b < used; b++) {
        json_array_append_new(latency, counter(&stats->latency[b]));
    }
    return json_pack("{s:b, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "running",
                     queue->running, "size", (int)queue->size, "kicks",
                     counter(&stats->kicks), "interrupts", counter(&stats->interrupts),
                     "chains", counter(&stats->chains), "bytes_in",
                     counter(&stats->bytes_in), "bytes_out", counter(&stats->bytes_out),
                     "errors", counter(&stats->errors), "latency_log2_ns", latency);
}

void virtio_device_stats(struct virtio_device *device, void *json)
{
    json_t *object = json, *queues = json_array();
    char features[24];

    pthread_mutex_lock(&device->lock);
    snprintf(features, sizeof(features), "0x%llx", (unsigned long long)device->features);
    json_object_set_new(object, "type", json_string(device->facts->type));
    json_object_set_new(object, "features", json_string(features));
    json_object_set_new(object, "status", json_integer(virtio_status_read(device)));
    for (unsigned i = 0; i < device->queue_count; i++) {
        json_array_append_new(queues, queue_stats(&device->queues[i]));
    }
    json_object_set_new(object, "queues", queues);
    if (device->facts->ops.stats != NULL) {
        device->facts->ops.stats(device, json);
    }
    pthread_mutex_unlock(&device->lock);
}
