/* SPDX-License-Identifier: MIT */
/* virtio-vsock (virtio 1.2, 5.10): the device, its queues and its life. */
#include "virtio/vsock/vsock.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ids.h>

#include "base/error.h"
#include "devices/faults.h"
#include "virtio/registry.h"

/* ---- Deadlines ---------------------------------------------------------------------------- */

void vsock_arm(struct virtio_vsock *vsock, uint64_t deadline_ns)
{
    if (vsock->timer_ns == 0 || deadline_ns < vsock->timer_ns) {
        vsock->timer_ns = deadline_ns;
        loop_timer_arm(vsock->timer, deadline_ns);
    }
}

static void vsock_tick(void *context)
{
    struct virtio_vsock *vsock = context;
    struct vsock_stream *stream = LIST_FIRST(&vsock->streams), *next;
    uint64_t now = clock_ns();

    vsock->timer_ns = 0;
    for (; stream != NULL; stream = next) {
        next = LIST_NEXT(stream, all);
        if (stream->deadline != 0 && stream->deadline <= now) {
            vsock_stream_give_up(stream);
        } else if (stream->deadline != 0) {
            vsock_arm(vsock, stream->deadline);
        }
    }
    if (vsock->accept_ns != 0 && vsock->accept_ns <= now) {
        vsock->accept_ns = 0;
        vsock_host_update(vsock);
    } else if (vsock->accept_ns != 0) {
        vsock_arm(vsock, vsock->accept_ns);
    }
    vsock_deliver(vsock);
}

/* ---- The device ----------------------------------------------------------------------------- */

static void vsock_notify(struct virtio_device *device, struct virtio_queue *queue)
{
    if (queue->index == VSOCK_TX) {
        vsock_transmit(vsock_of(device));
    } else {
        vsock_deliver(vsock_of(device));
    }
}

/* The guest forgets its connections. Clients that it has not heard of wait on. */
static void vsock_reset(struct virtio_device *device)
{
    struct virtio_vsock *vsock = vsock_of(device);
    struct vsock_stream *stream = LIST_FIRST(&vsock->streams), *next;

    for (; stream != NULL; stream = next) {
        next = LIST_NEXT(stream, all);
        if (stream->state != VSOCK_CLIENT && (stream->say & VSOCK_SAY_REQUEST) == 0) {
            vsock_stream_end(stream, false);
        }
    }
    vsock->refusal_first = vsock->refusal_count = 0;
    vsock->tx_stalled = vsock->reset_event = vsock->complained = false;
}

/* Connections do not outlive their host's ends, so none are saved: the guest is told. */
static int vsock_load(struct virtio_device *device, struct state_reader *reader)
{
    struct virtio_vsock *vsock = vsock_of(device);

    (void)reader;
    store_le64(device->config, vsock->cid); /* ours, whatever it was elsewhere */
    vsock->reset_event = true; /* 5.10.6.7: the driver ends them, and asks for the CID */
    return 0;
}

static void vsock_stats(struct virtio_device *device, void *json)
{
    const struct virtio_vsock *vsock = vsock_of(device);
    json_t *connections = json_pack(
        "{s:I, s:I, s:I, s:I, s:I}", "open", (json_int_t)vsock->stream_count,
        "from_guest", (json_int_t)vsock->stats.from_guest, "from_host",
        (json_int_t)vsock->stats.from_host, "refused", (json_int_t)vsock->stats.refused,
        "reset", (json_int_t)vsock->stats.reset);

    json_object_set_new(json, "cid", json_integer(vsock->cid));
    json_object_set_new(json, "connections", connections);
    json_object_set_new(json, "bytes_from_guest",
                        json_integer((json_int_t)vsock->stats.bytes_from_guest));
    json_object_set_new(json, "bytes_to_guest",
                        json_integer((json_int_t)vsock->stats.bytes_to_guest));
    json_object_set_new(json, "bad_packets",
                        json_integer((json_int_t)vsock->stats.bad_packets));
}

static void vsock_destroy(struct virtio_device *device)
{
    struct virtio_vsock *vsock = vsock_of(device);

    pthread_mutex_lock(&device->lock); /* callbacks change these too */
    loop_timer_destroy(vsock->timer);
    vsock_host_fini(vsock);
    while (!LIST_EMPTY(&vsock->streams)) {
        vsock_stream_free(LIST_FIRST(&vsock->streams));
    }
    pthread_mutex_unlock(&device->lock);
    virtio_device_fini(device);
    virtqueue_chain_fini(&vsock->rx);
    virtqueue_chain_fini(&vsock->tx);
    virtqueue_chain_fini(&vsock->event);
    free(vsock);
}

static const struct virtio_device_facts vsock_facts = {
    .type = "virtio-vsock",
    .device_id = VIRTIO_ID_VSOCK,
    .pci_class = 0x028000, /* network, other */
    .faults = FAULT_BIT(UMBRA_FAULT_IO_ERROR),
    .config_size = sizeof(struct virtio_vsock_config),
    .ops = {
        .reset = vsock_reset,
        .notify = vsock_notify,
        .load = vsock_load,
        .stats = vsock_stats,
        .destroy = vsock_destroy,
    },
};

int virtio_vsock_create(const struct device_env *env,
                        const struct virtio_vsock_options *options,
                        struct virtio_device **device, struct umbra_error *error)
{
    struct virtio_vsock *vsock = calloc(1, sizeof(*vsock));
    int ret;

    if (vsock == NULL ||
        virtio_device_init(&vsock->device, &vsock_facts, env, options->id,
                           VIRTIO_RING_FEATURES | VIRTIO_RING_IN_ORDER |
                               VIRTIO_FEATURE(0 /* VIRTIO_VSOCK_F_STREAM */)) != 0) {
        free(vsock);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create %s", options->id);
    }
    vsock->cid = options->cid;
    vsock->listen_fd = -1;
    vsock->next_port = 1u << 30;
    vsock->stream_max = options->streams != 0 ? options->streams : VSOCK_STREAMS;
    LIST_INIT(&vsock->streams);
    TAILQ_INIT(&vsock->ready);
    store_le64(vsock->device.config, options->cid);
    ret = virtio_device_add_queues(&vsock->device, VSOCK_QUEUES, VSOCK_QUEUE_SIZE);
    if (ret == 0) {
        ret = loop_timer_create(env->loop, &vsock->device.lock, vsock_tick, vsock,
                                &vsock->timer);
    }
    if (ret != 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "create %s", options->id);
    } else {
        ret = vsock_host_listen(vsock, options->path, error);
    }
    if (ret != 0) {
        vsock_destroy(&vsock->device);
        return ret;
    }
    *device = &vsock->device;
    return 0;
}
