/* SPDX-License-Identifier: MIT */
/* The MMIO transport (virtio 1.2, 4.2), register layout version 2. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "base/error.h"
#include "base/event_fd.h"
#include "base/state.h"
#include "base/util.h"
#include "virtio/transport/transport.h"

enum {
    MMIO_MAGIC = 0x74726976, /* "virt" */
    MMIO_VERSION = 2,
    MMIO_VENDOR = 0x41424d55, /* "UMBA" */
    MMIO_QUEUE_RESET = 0x0c0, /* 1.2, 4.2.2; not in every <linux/virtio_mmio.h> */
};

struct virtio_mmio {
    struct device device;
    struct virtio_device *vdev;
    uint32_t device_features_sel, driver_features_sel, queue_sel;
    /* The interrupt line's own lock: interrupts come from any thread. */
    pthread_mutex_t irq_lock;
    uint32_t interrupt_status;
    struct irq_line line;
    int call_fd; /* of external back ends, -1 until one asks */
    struct loop_watch *call_watch;
    uint64_t doorbell_base; /* the address our doorbells are at, 0: none */
};

static struct virtio_mmio *mmio_of(struct device *device)
{
    return container_of(device, struct virtio_mmio, device);
}

/* ---- Interrupts ---------------------------------------------------------------------- */

static void mmio_interrupt(void *context, struct virtio_queue *queue)
{
    struct virtio_mmio *mmio = context;

    pthread_mutex_lock(&mmio->irq_lock);
    mmio->interrupt_status |=
        queue != NULL ? VIRTIO_MMIO_INT_VRING : VIRTIO_MMIO_INT_CONFIG;
    irq_line_set(&mmio->line, true);
    pthread_mutex_unlock(&mmio->irq_lock);
}

static void mmio_ack(struct virtio_mmio *mmio, uint32_t bits)
{
    pthread_mutex_lock(&mmio->irq_lock);
    mmio->interrupt_status &= ~bits;
    irq_line_set(&mmio->line, mmio->interrupt_status != 0);
    pthread_mutex_unlock(&mmio->irq_lock);
}

static void mmio_called(void *context, uint32_t events)
{
    struct virtio_mmio *mmio = context;

    (void)events;
    if (event_take(mmio->call_fd)) {
        mmio_interrupt(mmio, &mmio->vdev->queues[0]);
    }
}

/* One eventfd for all queues: the status register does not tell them apart. */
static int mmio_call_fd(void *context, struct virtio_queue *queue)
{
    struct virtio_mmio *mmio = context;

    (void)queue;
    if (mmio->call_fd < 0) {
        mmio->call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (mmio->call_fd >= 0 &&
            loop_watch_add(mmio->device.env->loop, mmio->call_fd, POLLIN, NULL,
                           mmio_called, mmio, &mmio->call_watch) != 0) {
            close(mmio->call_fd);
            mmio->call_fd = -1;
        }
    }
    return mmio->call_fd;
}

static const struct virtio_transport_ops mmio_transport = {
    .interrupt = mmio_interrupt,
    .call_fd = mmio_call_fd,
};

/* ---- Registers ----------------------------------------------------------------------- */

static uint32_t mmio_read_queue(struct virtio_mmio *mmio, uint64_t offset)
{
    struct virtio_queue *queue = virtio_queue_get(mmio->vdev, mmio->queue_sel);

    if (queue == NULL) {
        return 0;
    }
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
        return queue->max_size;
    case VIRTIO_MMIO_QUEUE_READY:
        return queue->enabled;
    default:
        return 0; /* QueueReset: a reset is over when its write returns */
    }
}

static uint32_t mmio_read_register(struct virtio_mmio *mmio, uint64_t offset)
{
    struct virtio_device *vdev = mmio->vdev;

    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
        return MMIO_MAGIC;
    case VIRTIO_MMIO_VERSION:
        return MMIO_VERSION;
    case VIRTIO_MMIO_DEVICE_ID:
        return vdev->facts->device_id;
    case VIRTIO_MMIO_VENDOR_ID:
        return MMIO_VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return virtio_features_read(vdev, mmio->device_features_sel, false);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
    case VIRTIO_MMIO_QUEUE_READY:
    case MMIO_QUEUE_RESET:
        return mmio_read_queue(mmio, offset);
    case VIRTIO_MMIO_INTERRUPT_STATUS: {
        uint32_t status;

        pthread_mutex_lock(&mmio->irq_lock);
        status = mmio->interrupt_status;
        pthread_mutex_unlock(&mmio->irq_lock);
        return status;
    }
    case VIRTIO_MMIO_STATUS:
        return virtio_status_read(vdev);
    case VIRTIO_MMIO_CONFIG_GENERATION:
        return atomic_load(&vdev->generation);
    case VIRTIO_MMIO_SHM_LEN_LOW: /* there is no shared memory: length all ones (4.2.2) */
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
        return UINT32_MAX;
    default:
        return 0;
    }
}

static uint64_t mmio_read(struct device *device, unsigned region, uint64_t offset,
                          unsigned size)
{
    struct virtio_mmio *mmio = mmio_of(device);

    (void)region;
    if (offset >= VIRTIO_MMIO_CONFIG) {
        uint8_t bytes[8] = { 0 };

        virtio_config_read(mmio->vdev, (unsigned)(offset - VIRTIO_MMIO_CONFIG), size,
                           bytes);
        return load_le64(bytes);
    }
    /* 4.2.2.2: registers are accessed by aligned 32-bit words */
    return size == 4 && offset % 4 == 0 ? mmio_read_register(mmio, offset) : 0;
}

static void set_half(gpa *address, bool high, uint32_t value)
{
    *address = high ? (*address & UINT32_MAX) | (uint64_t)value << 32
                    : (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void mmio_write_queue(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
    struct virtio_queue *queue = virtio_queue_get(mmio->vdev, mmio->queue_sel);

    if (queue == NULL) {
        return;
    }
    if (offset == VIRTIO_MMIO_QUEUE_READY || offset == MMIO_QUEUE_RESET) {
        bool enable = offset == VIRTIO_MMIO_QUEUE_READY && value == 1;

        if (enable) {
            virtio_queue_enable(queue);
        } else if (value == (offset == MMIO_QUEUE_RESET)) {
            virtio_queue_reset(queue);
        }
        return;
    }
    if (queue->enabled) {
        return; /* 4.2.2.2: not while the queue is ready */
    }
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
        queue->size = value <= queue->max_size ? (uint16_t)value : 0;
        break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
        set_half(&queue->desc_area, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
        set_half(&queue->driver_area, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
        break;
    default:
        set_half(&queue->device_area, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
        break;
    }
}

static void mmio_write_status(struct virtio_mmio *mmio, uint32_t value)
{
    virtio_status_write(mmio->vdev, (uint8_t)value);
    if (value == 0) {
        mmio_ack(mmio, UINT32_MAX);
    }
}

static void mmio_write_register(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
    struct virtio_queue *queue;

    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        mmio->device_features_sel = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        virtio_features_write(mmio->vdev, mmio->driver_features_sel, value);
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        mmio->driver_features_sel = value;
        break;
    case VIRTIO_MMIO_QUEUE_SEL:
        mmio->queue_sel = value;
        break;
    case VIRTIO_MMIO_QUEUE_NUM:
    case VIRTIO_MMIO_QUEUE_READY:
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
    case MMIO_QUEUE_RESET:
        mmio_write_queue(mmio, offset, value);
        break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
        queue = virtio_queue_get(mmio->vdev, value);
        if (queue != NULL) {
            virtio_queue_kick(queue);
        }
        break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
        mmio_ack(mmio, value);
        break;
    case VIRTIO_MMIO_STATUS:
        mmio_write_status(mmio, value);
        break;
    default:
        break;
    }
}

static void mmio_write(struct device *device, unsigned region, uint64_t offset,
                       unsigned size, uint64_t value)
{
    struct virtio_mmio *mmio = mmio_of(device);

    (void)region;
    if (offset >= VIRTIO_MMIO_CONFIG) {
        uint8_t bytes[8];

        store_le64(bytes, value);
        virtio_config_write(mmio->vdev, (unsigned)(offset - VIRTIO_MMIO_CONFIG), size,
                            bytes);
    } else if (size == 4 && offset % 4 == 0) {
        mmio_write_register(mmio, offset, (uint32_t)value);
    }
}

/* ---- Life ------------------------------------------------------------------------------ */

static void mmio_reset(struct device *device)
{
    struct virtio_mmio *mmio = mmio_of(device);

    virtio_device_reset(mmio->vdev);
    mmio_ack(mmio, UINT32_MAX);
    mmio->device_features_sel = mmio->driver_features_sel = mmio->queue_sel = 0;
}

static void mmio_pause(struct device *device)
{
    virtio_device_pause(mmio_of(device)->vdev);
}

static void mmio_resume(struct device *device)
{
    virtio_device_resume(mmio_of(device)->vdev);
}

static int mmio_save(struct device *device, struct state_writer *writer)
{
    struct virtio_mmio *mmio = mmio_of(device);
    int ret;

    state_begin(writer, device->id, 1);
    state_put_u64(writer, "mmio.device_features_sel", mmio->device_features_sel);
    state_put_u64(writer, "mmio.driver_features_sel", mmio->driver_features_sel);
    state_put_u64(writer, "mmio.queue_sel", mmio->queue_sel);
    state_put_u64(writer, "mmio.interrupt_status", mmio->interrupt_status);
    ret = virtio_device_save(mmio->vdev, writer);
    state_end(writer);
    return ret;
}

static int mmio_load(struct device *device, struct state_reader *reader)
{
    struct virtio_mmio *mmio = mmio_of(device);
    uint32_t version;
    int ret = state_open(reader, device->id, 1, &version);

    if (ret != 0) {
        return ret;
    }
    mmio->device_features_sel =
        (uint32_t)state_get_u64(reader, "mmio.device_features_sel", UINT32_MAX);
    mmio->driver_features_sel =
        (uint32_t)state_get_u64(reader, "mmio.driver_features_sel", UINT32_MAX);
    mmio->queue_sel = (uint32_t)state_get_u64(reader, "mmio.queue_sel", UINT32_MAX);
    mmio->interrupt_status = (uint32_t)state_get_u64(reader, "mmio.interrupt_status", 3);
    mmio_ack(mmio, 0); /* the line follows */
    return virtio_device_load(mmio->vdev, reader);
}

static void mmio_stats(struct device *device, void *json)
{
    virtio_device_stats(mmio_of(device)->vdev, json);
}

/* All queues share one register; the value written tells them apart. */
static void mmio_doorbells(struct virtio_mmio *mmio, uint64_t base, bool add)
{
    const struct device_env *env = mmio->device.env;

    for (unsigned i = 0; env->doorbell != NULL && i < mmio->vdev->queue_count; i++) {
        /* Without one the write arrives as an ordinary access: slower, not wrong. */
        env->doorbell(env->doorbell_context, true, base + VIRTIO_MMIO_QUEUE_NOTIFY, 4,
                      true, i, mmio->vdev->queues[i].kick_fd, add);
    }
    mmio->doorbell_base = add ? base : 0;
}

void virtio_mmio_placed(struct device *device, uint64_t base)
{
    mmio_doorbells(mmio_of(device), base, true);
}

static void mmio_destroy(struct device *device)
{
    struct virtio_mmio *mmio = mmio_of(device);

    virtio_device_reset(mmio->vdev);
    if (mmio->doorbell_base != 0) {
        mmio_doorbells(mmio, mmio->doorbell_base, false);
    }
    loop_watch_remove(mmio->call_watch);
    if (mmio->call_fd >= 0) {
        close(mmio->call_fd);
    }
    virtio_device_destroy(mmio->vdev);
    pthread_mutex_destroy(&mmio->irq_lock);
    device_fini(device);
    free(mmio);
}

static const struct device_ops mmio_ops = {
    .type = "virtio-mmio",
    .read = mmio_read,
    .write = mmio_write,
    .reset = mmio_reset,
    .pause = mmio_pause,
    .resume = mmio_resume,
    .save = mmio_save,
    .load = mmio_load,
    .stats = mmio_stats,
    .destroy = mmio_destroy,
};

int virtio_mmio_create(const struct device_env *env, unsigned gsi,
                       struct virtio_device *vdev, struct device **device,
                       struct umbra_error *error)
{
    struct virtio_mmio *mmio = calloc(1, sizeof(*mmio));

    if (mmio == NULL) {
        virtio_device_destroy(vdev);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create %s",
                           "virtio-mmio");
    }
    device_init(&mmio->device, &mmio_ops, env, vdev->id);
    virtio_device_plan(vdev, &mmio->device);
    pthread_mutex_init(&mmio->irq_lock, NULL);
    mmio->vdev = vdev;
    mmio->call_fd = -1;
    irq_line_init(&mmio->line, env->irqs, gsi);
    virtio_device_attach(vdev, &mmio_transport, mmio);
    *device = &mmio->device;
    return 0;
}
