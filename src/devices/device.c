/* SPDX-License-Identifier: MIT */
/* The common part of every device, and its ops called under its lock. */
#include "devices/device.h"

#include <errno.h>
#include <stdio.h>

#include "base/error.h"
#include "base/state.h"
#include "devices/irq.h"

void device_init(struct device *device, const struct device_ops *ops,
                 const struct device_env *env, const char *id)
{
    device->ops = ops;
    device->env = env;
    device->fault_point = FAULT_ACCESS;
    device->faults = FAULT_BIT(UMBRA_FAULT_IO_ERROR) | FAULTS_OF_MACHINE;
    snprintf(device->id, sizeof(device->id), "%s", id);
    pthread_mutex_init(&device->lock, NULL);
}

void device_fini(struct device *device)
{
    pthread_mutex_destroy(&device->lock);
}

void device_irq_init(struct device *device, struct irq_line *line, unsigned gsi)
{
    irq_line_init(line, device->env->irqs, gsi);
    /* The interrupts of virtio devices pass through virtio.c, whatever carries them. */
    line->owner = device->fault_point == FAULT_REQUEST ? NULL : device;
    device->faults |= FAULTS_OF_IRQ;
}

void device_destroy(struct device *device)
{
    if (device != NULL) {
        device->ops->destroy(device);
    }
}

static void device_call(struct device *device, void (*op)(struct device *device))
{
    if (op != NULL) {
        pthread_mutex_lock(&device->lock);
        op(device);
        pthread_mutex_unlock(&device->lock);
    }
}

void device_reset(struct device *device)
{
    device_call(device, device->ops->reset);
    if (device->env != NULL && device->fault_point == FAULT_ACCESS) {
        device_tell(device->env, UMBRA_EVENT_RESET, device->id, UMBRA_EVENT_NO_QUEUE, 0);
    }
}

void device_pause(struct device *device)
{
    device_call(device, device->ops->pause);
}

void device_resume(struct device *device)
{
    device_call(device, device->ops->resume);
}

int device_save(struct device *device, struct state_writer *writer,
                struct umbra_error *error)
{
    int rc;

    if (device->ops->save == NULL) {
        return error_set(error, UMBRA_ERROR_STATE, ENOTSUP,
                         "cannot save %s: a %s device has no saved state", device->id,
                         device->ops->type);
    }
    pthread_mutex_lock(&device->lock);
    rc = device->ops->save(device, writer);
    pthread_mutex_unlock(&device->lock);
    if (rc < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -rc, "cannot save %s (%s)",
                           device->id, device->ops->type);
    }
    return 0;
}

int device_load(struct device *device, struct state_reader *reader,
                struct umbra_error *error)
{
    int rc;

    if (device->ops->load == NULL) {
        return error_set(error, UMBRA_ERROR_STATE, ENOTSUP,
                         "cannot load %s: a %s device has no saved state", device->id,
                         device->ops->type);
    }
    pthread_mutex_lock(&device->lock);
    rc = device->ops->load(device, reader);
    pthread_mutex_unlock(&device->lock);
    if (rc < 0) {
        if (state_reader_error(reader, error) == 0) {
            error_errno(error, UMBRA_ERROR_CONFIG, -rc, "state refused");
        }
        error_prefix(error, "cannot load %s (%s)", device->id, device->ops->type);
    }
    return rc;
}

void device_stats(struct device *device, void *json)
{
    if (device->ops->stats != NULL) {
        pthread_mutex_lock(&device->lock);
        device->ops->stats(device, json);
        pthread_mutex_unlock(&device->lock);
    }
}
