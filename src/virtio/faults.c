/* SPDX-License-Identifier: MIT */
/* Planned faults of virtio devices: requests, and interrupts whoever raises them. */
#include "virtio/faults.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

void virtio_device_plan(const struct virtio_device *device, struct device *carrier)
{
    carrier->fault_point = FAULT_REQUEST;
    carrier->faults = (device->elsewhere ? 0 : device->facts->faults) | FAULTS_OF_IRQ |
                      FAULTS_OF_MACHINE;
}

void virtio_queue_notified(struct virtio_queue *queue)
{
    const struct virtio_device *device = queue->device;

    virtio_stat_add(&queue->stats.kicks, 1);
    device_tell(device->env, UMBRA_EVENT_NOTIFY, device->id, queue->index, 0);
}

static void device_interrupt(struct virtio_device *device, struct virtio_queue *queue)
{
    if (device->transport != NULL) {
        device->transport->interrupt(device->transport_context, queue);
    }
}

bool virtio_interrupt_lost(struct virtio_device *device, struct virtio_queue *queue)
{
    struct fault_hits hits;

    device_tell(device->env, UMBRA_EVENT_INTERRUPT, device->id,
                queue != NULL ? queue->index : UMBRA_EVENT_NO_QUEUE, 0);
    return faults_draw(device->env->faults, device->id, FAULT_INTERRUPT, UMBRA_FAULT_ANY,
                       0, &hits) &&
           fault_hit(&hits, UMBRA_FAULT_IRQ_LOST);
}

bool virtio_queue_draw(struct virtio_queue *queue, enum umbra_fault_direction direction,
                       uint64_t size, struct fault_hits *hits)
{
    struct virtio_device *device = queue->device;

    if (!faults_draw(device->env->faults, device->id, FAULT_REQUEST, direction, size,
                     hits)) {
        return false;
    }
    if (fault_hit(hits, UMBRA_FAULT_IRQ_SPURIOUS)) {
        device_interrupt(device, queue);
    }
    return (hits->kinds & device->facts->faults) != 0;
}

/* ---- External back ends ---------------------------------------------------------------- */

static void relay_called(void *context, uint32_t events)
{
    struct virtio_queue *queue = context;
    uint64_t count;

    (void)events;
    if (read(queue->relay_fd, &count, sizeof(count)) == (ssize_t)sizeof(count) &&
        !virtio_interrupt_lost(queue->device, queue)) {
        device_interrupt(queue->device, queue);
    }
}

bool virtio_queue_relay_open(struct virtio_queue *queue)
{
    const struct device_env *env = queue->device->env;

    if (queue->relay_fd >= 0) {
        return true;
    }
    if (env->loop == NULL || env->faults == NULL ||
        atomic_load(&env->faults->planned[FAULT_INTERRUPT]) == 0) {
        return false;
    }
    queue->relay_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (queue->relay_fd >= 0 &&
        loop_watch_add(env->loop, queue->relay_fd, POLLIN, NULL, relay_called, queue,
                       &queue->relay_watch) != 0) {
        close(queue->relay_fd);
        queue->relay_fd = -1;
    }
    return queue->relay_fd >= 0;
}

void virtio_queue_relay_close(struct virtio_queue *queue)
{
    if (queue->relay_fd >= 0) {
        loop_watch_remove(queue->relay_watch);
        close(queue->relay_fd);
        queue->relay_fd = -1;
    }
}
