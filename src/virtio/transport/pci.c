/* SPDX-License-Identifier: MIT */
/* The PCI transport (virtio 1.2, 4.1), non-transitional: one BAR, MSI-X, INTA as fallback. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "base/error.h"
#include "base/event_fd.h"
#include "base/state.h"
#include "base/util.h"
#include "virtio/transport/pci.h"
#include "virtio/transport/transport.h"

static struct virtio_pci *pci_of(struct device *device)
{
    return container_of(device, struct virtio_pci, function.device);
}

static struct virtio_pci *pci_of_function(struct pci_function *function)
{
    return container_of(function, struct virtio_pci, function);
}

/* ---- Interrupts ---------------------------------------------------------------------- */

static void signal_fd(int fd)
{
    const uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

static void pci_interrupt(void *context, struct virtio_queue *queue)
{
    struct virtio_pci *pci = context;
    unsigned vector;

    if (!atomic_load(&pci->msix_enabled)) {
        atomic_fetch_or(&pci->isr, queue != NULL ? ISR_QUEUE : ISR_CONFIG);
        signal_fd(pci->intx_fd);
        return;
    }
    vector =
        queue != NULL ? atomic_load(&queue->vector) : atomic_load(&pci->config_vector);
    if (vector < pci->vector_count) {
        signal_fd(pci->vectors[vector].fd);
    }
}

static int pci_call_fd(void *context, struct virtio_queue *queue)
{
    struct virtio_pci *pci = context;
    unsigned vector = atomic_load(&queue->vector);

    return atomic_load(&pci->msix_enabled) && vector < pci->vector_count
               ? pci->vectors[vector].fd
               : pci->intx_fd;
}

static const struct virtio_transport_ops pci_transport = {
    .interrupt = pci_interrupt,
    .call_fd = pci_call_fd,
};

/* On the loop, device's lock held: external back ends do not set ISR, so it is done here.
 * After a configuration change that adds a queue bit, which says only "look". */
static void pci_intx_called(void *context, uint32_t events)
{
    struct virtio_pci *pci = context;

    (void)events;
    if (event_take(pci->intx_fd) && !atomic_load(&pci->msix_enabled)) {
        atomic_fetch_or(&pci->isr, ISR_QUEUE);
        pci_intx_set(&pci->function, true);
    }
}

static void pci_vector_called(void *context, uint32_t events)
{
    struct pci_vector *vector = context;

    (void)events;
    if (event_take(vector->fd)) {
        pci_msix_notify(&vector->pci->function, vector->index);
    }
}

/* Who turns a vector's signal into a message: the kernel, else the loop. */
static int pci_vectors_create(struct virtio_pci *pci)
{
    struct device *device = &pci->function.device;
    int ret;

    for (unsigned i = 0; i < pci->vector_count; i++) {
        struct pci_vector *vector = &pci->vectors[i];

        vector->pci = pci;
        vector->index = i;
        vector->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (vector->fd < 0) {
            return -errno;
        }
        ret = pci_msix_bind(&pci->function, i, vector->fd);
        if (ret != 0 && device->env->loop != NULL) {
            ret = loop_watch_add(device->env->loop, vector->fd, POLLIN, &device->lock,
                                 pci_vector_called, vector, &vector->watch);
        }
        if (ret != 0) {
            return ret;
        }
    }
    return 0;
}

static int pci_intx_create(struct virtio_pci *pci)
{
    struct device *device = &pci->function.device;

    pci->intx_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (pci->intx_fd < 0) {
        return -errno;
    }
    return device->env->loop == NULL
               ? 0
               : loop_watch_add(device->env->loop, pci->intx_fd, POLLIN, &device->lock,
                                pci_intx_called, pci, &pci->intx_watch);
}

/* ---- The BAR --------------------------------------------------------------------------- */

static uint8_t isr_read(struct virtio_pci *pci)
{
    uint8_t isr = (uint8_t)atomic_exchange(&pci->isr, 0);

    pci_intx_set(&pci->function, false);
    return isr;
}

static uint64_t bar_read(struct virtio_pci *pci, uint64_t offset, unsigned size)
{
    uint64_t value = UINT64_MAX;
    uint8_t bytes[8] = { 0 };

    if (pci_msix_read(&pci->function, BAR, offset, size, &value)) {
        return value;
    }
    switch (offset & ~(uint64_t)(BAR_PAGE - 1)) {
    case BAR_COMMON:
        if (size == 8) { /* 4.1.3.1: 64-bit fields may be read as two halves; so here */
            return virtio_pci_common_read(pci, offset) |
                   (uint64_t)virtio_pci_common_read(pci, offset + 4) << 32;
        }
        return virtio_pci_common_read(pci, offset);
    case BAR_ISR:
        return offset == BAR_ISR ? isr_read(pci) : 0;
    case BAR_DEVICE:
        virtio_config_read(pci->vdev, (unsigned)(offset - BAR_DEVICE), size, bytes);
        return load_le64(bytes);
    default:
        return 0;
    }
}

static void bar_write(struct virtio_pci *pci, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct virtio_queue *queue;
    uint8_t bytes[8];

    if (pci_msix_write(&pci->function, BAR, offset, size, value)) {
        return;
    }
    switch (offset & ~(uint64_t)(BAR_PAGE - 1)) {
    case BAR_COMMON:
        virtio_pci_common_write(pci, offset, (uint32_t)value);
        if (size == 8) {
            virtio_pci_common_write(pci, offset + 4, (uint32_t)(value >> 32));
        }
        break;
    case BAR_DEVICE:
        store_le64(bytes, value);
        virtio_config_write(pci->vdev, (unsigned)(offset - BAR_DEVICE), size, bytes);
        break;
    case BAR_NOTIFY:
        queue = virtio_queue_get(pci->vdev,
                                 (unsigned)(offset - BAR_NOTIFY) / NOTIFY_MULTIPLIER);
        if (queue != NULL) {
            virtio_queue_kick(queue);
        }
        break;
    default:
        break;
    }
}

static uint64_t pci_read(struct device *device, unsigned region, uint64_t offset,
                         unsigned size)
{
    return region == BAR ? bar_read(pci_of(device), offset, size) : UINT64_MAX;
}

static void pci_write(struct device *device, unsigned region, uint64_t offset,
                      unsigned size, uint64_t value)
{
    if (region == BAR) {
        bar_write(pci_of(device), offset, size, value);
    }
}

/* ---- Config space ------------------------------------------------------------------------ */

/* Virtio capability as it lies in config space behind its two-byte header (4.1.4). */
enum {
    CAP_TYPE = 3,
    CAP_BAR = 4,
    CAP_OFFSET = 8,
    CAP_LENGTH = 12,
    CAP_SIZE = 16,
    CAP_EXTRA = 16, /* notify multiplier, or the access window's data */
};

static unsigned pci_add_virtio_cap(struct virtio_pci *pci, uint8_t type, uint32_t offset,
                                   uint32_t length, const uint32_t *extra)
{
    unsigned size = extra != NULL ? CAP_SIZE + 4 : CAP_SIZE;
    uint8_t cap[CAP_SIZE + 4] = { 0 };

    cap[2] = (uint8_t)size;
    cap[CAP_TYPE] = type;
    cap[CAP_BAR] = BAR;
    store_le32(cap + CAP_OFFSET, offset);
    store_le32(cap + CAP_LENGTH, length);
    if (extra != NULL) {
        store_le32(cap + CAP_EXTRA, *extra);
    }
    return pci_cap_add(&pci->function, CAP_VENDOR, cap + 2, size);
}

static void pci_add_caps(struct virtio_pci *pci)
{
    const uint32_t multiplier = NOTIFY_MULTIPLIER, none = 0;
    uint8_t *mask;

    pci_add_virtio_cap(pci, VIRTIO_PCI_CAP_COMMON_CFG, BAR_COMMON, 60, NULL);
    pci_add_virtio_cap(pci, VIRTIO_PCI_CAP_ISR_CFG, BAR_ISR, 1, NULL);
    if (pci->vdev->facts->config_size > 0) {
        pci_add_virtio_cap(pci, VIRTIO_PCI_CAP_DEVICE_CFG, BAR_DEVICE,
                           pci->vdev->facts->config_size, NULL);
    }
    pci_add_virtio_cap(pci, VIRTIO_PCI_CAP_NOTIFY_CFG, BAR_NOTIFY,
                       pci->vdev->queue_count * NOTIFY_MULTIPLIER, &multiplier);
    /* 4.1.4.9: BAR, offset, length and data are the driver's to write */
    pci->access_cap = pci_add_virtio_cap(pci, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, &none);
    mask = pci->function.write_mask + pci->access_cap;
    mask[CAP_BAR] = 0xff;
    memset(mask + CAP_OFFSET, 0xff, 12);
}

/* The window that the access capability describes; false: not a sound one. */
static bool pci_access_window(const struct virtio_pci *pci, uint32_t *offset,
                              uint32_t *length)
{
    const uint8_t *cap = pci->function.config + pci->access_cap;

    *offset = load_le32(cap + CAP_OFFSET);
    *length = load_le32(cap + CAP_LENGTH);
    return cap[CAP_BAR] == BAR && (*length == 1 || *length == 2 || *length == 4) &&
           *offset % *length == 0 && *offset < BAR_SIZE;
}

static bool pci_touches_data(const struct virtio_pci *pci, unsigned offset, unsigned size)
{
    unsigned data = pci->access_cap + CAP_EXTRA;

    return offset < data + 4 && offset + size > data;
}

static void pci_config_reading(struct pci_function *function, unsigned offset,
                               unsigned size)
{
    struct virtio_pci *pci = pci_of_function(function);
    uint32_t at, length;

    if (pci_touches_data(pci, offset, size) && pci_access_window(pci, &at, &length)) {
        store_le32(function->config + pci->access_cap + CAP_EXTRA,
                   (uint32_t)bar_read(pci, at, length));
    }
}

static void pci_config_written(struct pci_function *function, unsigned offset,
                               unsigned size)
{
    struct virtio_pci *pci = pci_of_function(function);
    uint32_t at, length;

    atomic_store(&pci->msix_enabled, pci_msix_enabled(function));
    if (pci_touches_data(pci, offset, size) && pci_access_window(pci, &at, &length)) {
        bar_write(pci, at, length,
                  load_le32(function->config + pci->access_cap + CAP_EXTRA));
    }
}

/* Kicks go to the kernel wherever the BAR is; where it cannot, they come to bar_write. */
static void pci_bar_mapped(struct pci_function *function, unsigned bar, bool mapped)
{
    struct virtio_pci *pci = pci_of_function(function);
    const struct device_env *env = function->device.env;

    if (bar != BAR || env->doorbell == NULL) {
        return;
    }
    for (unsigned i = 0; i < pci->vdev->queue_count; i++) {
        env->doorbell(env->doorbell_context, true,
                      function->bars[BAR].address + BAR_NOTIFY + i * NOTIFY_MULTIPLIER, 0,
                      false, 0, pci->vdev->queues[i].kick_fd, mapped);
    }
}

static const struct pci_function_ops pci_ops = {
    .config_written = pci_config_written,
    .config_reading = pci_config_reading,
    .bar_mapped = pci_bar_mapped,
};

/* ---- Life ---------------------------------------------------------------------------------- */

static void pci_reset(struct device *device)
{
    struct virtio_pci *pci = pci_of(device);

    virtio_device_reset(pci->vdev);
    pci->device_feature_select = pci->driver_feature_select = 0;
    pci->queue_select = 0;
    atomic_store(&pci->config_vector, VIRTIO_NO_VECTOR);
    atomic_store(&pci->isr, 0);
    pci_intx_set(&pci->function, false);
    pci_function_reset(&pci->function);
    atomic_store(&pci->msix_enabled, false);
    event_take(pci->intx_fd);
}

static void pci_pause(struct device *device)
{
    virtio_device_pause(pci_of(device)->vdev);
}

static void pci_resume(struct device *device)
{
    virtio_device_resume(pci_of(device)->vdev);
}

static int pci_save(struct device *device, struct state_writer *writer)
{
    struct virtio_pci *pci = pci_of(device);
    int ret;

    state_begin(writer, device->id, 1);
    pci_function_save(&pci->function, writer);
    state_put_u64(writer, "vpci.device_feature_select", pci->device_feature_select);
    state_put_u64(writer, "vpci.driver_feature_select", pci->driver_feature_select);
    state_put_u64(writer, "vpci.queue_select", pci->queue_select);
    state_put_u64(writer, "vpci.config_vector", atomic_load(&pci->config_vector));
    state_put_u64(writer, "vpci.isr", atomic_load(&pci->isr));
    ret = virtio_device_save(pci->vdev, writer);
    state_end(writer);
    return ret;
}

static int pci_load(struct device *device, struct state_reader *reader)
{
    struct virtio_pci *pci = pci_of(device);
    uint32_t version;
    int ret = state_open(reader, device->id, 1, &version);

    if (ret == 0) {
        ret = pci_function_load(&pci->function, reader);
    }
    if (ret != 0) {
        return ret;
    }
    atomic_store(&pci->msix_enabled, pci_msix_enabled(&pci->function));
    pci->device_feature_select =
        (uint32_t)state_get_u64(reader, "vpci.device_feature_select", UINT32_MAX);
    pci->driver_feature_select =
        (uint32_t)state_get_u64(reader, "vpci.driver_feature_select", UINT32_MAX);
    pci->queue_select = (uint16_t)state_get_u64(reader, "vpci.queue_select", UINT16_MAX);
    atomic_store(&pci->config_vector,
                 (uint16_t)state_get_u64(reader, "vpci.config_vector", UINT16_MAX));
    atomic_store(&pci->isr, (uint32_t)state_get_u64(reader, "vpci.isr", 3));
    pci_intx_set(&pci->function, atomic_load(&pci->isr) != 0);
    return virtio_device_load(pci->vdev, reader);
}

static void pci_stats(struct device *device, void *json)
{
    virtio_device_stats(pci_of(device)->vdev, json);
}

static void pci_destroy(struct device *device)
{
    struct virtio_pci *pci = pci_of(device);

    virtio_device_reset(pci->vdev);
    for (unsigned i = 0; pci->vectors != NULL && i < pci->vector_count; i++) {
        loop_watch_remove(pci->vectors[i].watch);
        pci_msix_unbind(&pci->function, i);
        if (pci->vectors[i].fd >= 0) {
            close(pci->vectors[i].fd);
        }
    }
    loop_watch_remove(pci->intx_watch);
    if (pci->intx_fd >= 0) {
        close(pci->intx_fd);
    }
    free(pci->vectors);
    virtio_device_destroy(pci->vdev);
    pci_function_fini(&pci->function);
    device_fini(device);
    free(pci);
}

static const struct device_ops pci_device_ops = {
    .type = "virtio-pci",
    .read = pci_read,
    .write = pci_write,
    .reset = pci_reset,
    .pause = pci_pause,
    .resume = pci_resume,
    .save = pci_save,
    .load = pci_load,
    .stats = pci_stats,
    .destroy = pci_destroy,
};

static int pci_setup(struct virtio_pci *pci)
{
    int ret;

    pci_bar_set(&pci->function, BAR, PCI_BAR_MEM64, BAR_SIZE, false);
    pci_add_caps(pci);
    ret = pci_msix_add(&pci->function, pci->vector_count, BAR, BAR_MSIX_TABLE,
                       BAR_MSIX_PBA);
    if (ret == 0) {
        ret = pci_vectors_create(pci);
    }
    return ret == 0 ? pci_intx_create(pci) : ret;
}

int virtio_pci_create(const struct device_env *env, struct virtio_device *vdev,
                      struct pci_function **function, struct umbra_error *error)
{
    const struct pci_ids ids = {
        .vendor = VENDOR,
        .device = (uint16_t)(DEVICE_BASE + vdev->facts->device_id),
        .subsystem_vendor = VENDOR,
        .subsystem = SUBSYSTEM,
        .class_code = vdev->facts->pci_class,
        .revision = 1,
    };
    struct virtio_pci *pci = calloc(1, sizeof(*pci));
    unsigned vectors = vdev->queue_count + 1; /* one a queue, one for configuration */
    int ret = -ENOMEM;

    if (pci == NULL) {
        virtio_device_destroy(vdev);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create virtio-pci");
    }
    device_init(&pci->function.device, &pci_device_ops, env, vdev->id);
    virtio_device_plan(vdev, &pci->function.device);
    pci_function_init(&pci->function, &ids, &pci_ops);
    pci->vdev = vdev;
    pci->intx_fd = -1;
    atomic_store(&pci->config_vector, VIRTIO_NO_VECTOR);
    virtio_device_attach(vdev, &pci_transport, pci);
    pci->vector_count = vectors < VECTORS_MAX ? vectors : VECTORS_MAX;
    pci->vectors = calloc(pci->vector_count, sizeof(*pci->vectors));
    if (pci->vectors != NULL) {
        for (unsigned i = 0; i < pci->vector_count; i++) {
            pci->vectors[i].fd = -1;
        }
        ret = pci_setup(pci);
    }
    if (ret != 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "create virtio-pci for %s",
                    vdev->id);
        pci_destroy(&pci->function.device);
        return ret;
    }
    *function = &pci->function;
    return 0;
}
