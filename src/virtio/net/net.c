/* SPDX-License-Identifier: MIT */
/* virtio-net (virtio 1.2, 5.1): the device, its configuration and its control queue. */
#include "virtio/net/net.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/virtio_ids.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "virtio/net/vhost.h"
#include "virtio/registry.h"

enum {
    NET_CONTROL_SIZE = 64,
    NET_COMMAND_MAX = 64, /* bytes of a command that are looked at */
    NET_CONFIG_STATUS = offsetof(struct virtio_net_config, status),
    NET_CONFIG_PAIRS = offsetof(struct virtio_net_config, max_virtqueue_pairs),
    NET_CONFIG_MTU = offsetof(struct virtio_net_config, mtu),
    NET_CONFIG_SIZE = NET_CONFIG_MTU + 2,
};

#define NET_GUEST_OFFLOADS                                                               \
    (VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO4) | \
     VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_UFO))
#define NET_HOST_OFFLOADS                                                                \
    (VIRTIO_FEATURE(VIRTIO_NET_F_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO4) |        \
     VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO6) | VIRTIO_FEATURE(VIRTIO_NET_F_HOST_UFO))

static struct virtio_net *net_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_net, device);
}

void net_update_link(struct virtio_net *net)
{
    uint16_t status = net_link_up(net) ? VIRTIO_NET_S_LINK_UP : 0;

    if (load_le16(net->device.config + NET_CONFIG_STATUS) != status) {
        store_le16(net->device.config + NET_CONFIG_STATUS, status);
        virtio_config_changed(&net->device);
    }
    if (net->vhost != NULL) {
        net_vhost_set_link(net->vhost, net_link_up(net));
    }
}

static int net_set_offloads(struct virtio_net *net, uint64_t offloads)
{
    struct net_backend *backend = net->backend;
    int ret = 0;

    if (backend->ops->set_offloads != NULL) {
        ret = backend->ops->set_offloads(backend, offloads);
    }
    if (ret == 0) {
        net->offloads = offloads;
    }
    return ret;
}

static int net_set_pairs(struct virtio_net *net, unsigned pairs)
{
    struct net_backend *backend = net->backend;
    int ret = 0;

    if (backend->ops->set_pairs != NULL) {
        ret = backend->ops->set_pairs(backend, pairs);
    }
    if (ret == 0) {
        net->active_pairs = pairs;
        for (unsigned i = 0; i < net->pair_count; i++) {
            net_watch(&net->pairs[i]);
        }
    }
    return ret;
}

/* ---- Control queue (5.1.6.5) ---------------------------------------------------------- */

static bool control_do(struct virtio_net *net, const uint8_t *command, size_t size)
{
    struct virtio_device *device = &net->device;
    unsigned what = (unsigned)command[0] << 8 | command[1];
    const uint8_t *data = command + 2;
    uint64_t offloads;
    uint16_t pairs;

    size -= 2;
    switch (what) {
    case VIRTIO_NET_CTRL_MQ << 8 | VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
        pairs = size == 2 ? load_le16(data) : 0;
        return virtio_has(device, VIRTIO_NET_F_MQ) && pairs >= 1 &&
               pairs <= net->pair_count && net_set_pairs(net, pairs) == 0;
    case VIRTIO_NET_CTRL_MAC << 8 | VIRTIO_NET_CTRL_MAC_ADDR_SET:
        if (!virtio_has(device, VIRTIO_NET_F_CTRL_MAC_ADDR) || size != 6 ||
            (data[0] & 1) != 0) {
            return false;
        }
        memcpy(device->config, data, 6);
        return true;
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS << 8 | VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET:
        offloads = size == 8 ? load_le64(data) : UINT64_MAX;
        return virtio_has(device, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) &&
               (offloads & ~(device->features & NET_GUEST_OFFLOADS)) == 0 &&
               net_set_offloads(net, offloads) == 0;
    default:
        return false;
    }
}

static void control_serve(struct virtio_net *net, struct virtio_queue *queue)
{
    do {
        virtio_queue_disable_kicks(queue);
        while (virtio_queue_pop(queue, &net->control)) {
            uint8_t command[NET_COMMAND_MAX], ack = VIRTIO_NET_ERR;
            size_t size =
                virtqueue_chain_read(&net->control, 0, command, sizeof(command));

            if (size >= 2 && net->control.readable_bytes == size &&
                net->control.writable_bytes >= 1 && control_do(net, command, size)) {
                ack = VIRTIO_NET_OK;
            }
            net->control_errors += ack != VIRTIO_NET_OK;
            virtio_queue_push(queue, &net->control,
                              (uint32_t)virtqueue_chain_write(&net->control, 0, &ack, 1));
        }
        virtio_queue_flush(queue);
    } while (virtio_queue_enable_kicks(queue));
}

/* ---- Queues ---------------------------------------------------------------------------- */

/* Behind the pairs that the driver knows of (5.1.2). */
static unsigned control_index(const struct virtio_net *net)
{
    return virtio_has(&net->device, VIRTIO_NET_F_MQ) ? 2 * net->pair_count : 2;
}

static void net_kicked(void *context, uint32_t events)
{
    struct virtio_queue *queue = context;
    struct virtio_net *net = net_of(queue->device);
    uint64_t count;

    (void)events;
    if (read(queue->kick_fd, &count, sizeof(count)) != (ssize_t)sizeof(count)) {
        return;
    }
    virtio_queue_notified(queue);
    if (!queue->running || !queue->attached) {
        return;
    }
    if (queue->index == control_index(net)) {
        control_serve(net, queue);
    } else if (queue->index > control_index(net)) {
        return; /* a driver's error: without MQ there are no such queues */
    } else {
        net_serve(&net->pairs[queue->index / 2]);
    }
}

static struct loop_watch **net_kick_watch(struct virtio_net *net, unsigned index)
{
    return index == 2 * net->pair_count ? &net->control_watch
                                        : &net->pairs[index / 2].kick_watch[index % 2];
}

static int net_queue_start(struct virtio_device *device, struct virtio_queue *queue)
{
    struct virtio_net *net = net_of(device);

    if (net->vhost != NULL && queue->index < control_index(net)) {
        return net_vhost_start(net->vhost, queue);
    }
    return loop_watch_add(device->env->loop, queue->kick_fd, POLLIN, &device->lock,
                          net_kicked, queue, net_kick_watch(net, queue->index));
}

static void net_queue_stop(struct virtio_device *device, struct virtio_queue *queue)
{
    struct virtio_net *net = net_of(device);
    struct loop_watch **watch = net_kick_watch(net, queue->index);

    if (net->vhost != NULL && queue->index < 2 * net->pair_count) {
        net_vhost_stop(net->vhost, queue);
    }
    loop_watch_remove(*watch);
    *watch = NULL;
    if (queue->index % 2 == 0 && queue->index / 2 < net->pair_count) {
        net_release(&net->pairs[queue->index / 2]);
        net->pairs[queue->index / 2].starved = false;
        net->pairs[queue->index / 2].rx_kicks_off = false;
    }
}

/* ---- Life ------------------------------------------------------------------------------ */

static int net_activate(struct virtio_device *device)
{
    struct virtio_net *net = net_of(device);
    int ret = net_set_pairs(net, 1); /* until the driver asks for more (5.1.5) */

    if (ret == 0 && net->vhost != NULL) {
        ret = net_vhost_activate(net->vhost, device->features);
    }
    return ret == 0 ? net_set_offloads(net, device->features & NET_GUEST_OFFLOADS) : ret;
}

static void net_reset(struct virtio_device *device)
{
    struct virtio_net *net = net_of(device);

    for (unsigned i = 0; i < net->pair_count; i++) {
        net->pairs[i].frame_size = 0; /* it was made for another negotiation */
    }
    memcpy(device->config, net->mac, sizeof(net->mac));
    net_faults_forget(net);
    net_set_offloads(net, 0);
    net_set_pairs(net, 1);
}

static int net_save(struct virtio_device *device, struct state_writer *writer)
{
    state_put_u64(writer, "net.pairs", net_of(device)->active_pairs);
    state_put_u64(writer, "net.offloads", net_of(device)->offloads);
    return 0;
}

static int net_load(struct virtio_device *device, struct state_reader *reader)
{
    struct virtio_net *net = net_of(device);
    uint64_t pairs = state_get_u64(reader, "net.pairs", net->pair_count);
    uint64_t offloads = state_get_u64(reader, "net.offloads", UINT64_MAX);

    if (pairs == 0 || (offloads & ~NET_GUEST_OFFLOADS) != 0 ||
        net_set_offloads(net, offloads) != 0 ||
        net_set_pairs(net, (unsigned)pairs) != 0) {
        state_reject(reader, "the network's back end here cannot do what it says");
        return -EINVAL;
    }
    return 0;
}

static void counters_stats(json_t *json, const char *name, const struct net_counters *c)
{
    json_object_set_new(json, name,
                        json_pack("{s:I, s:I, s:I}", "frames", (json_int_t)c->frames,
                                  "bytes", (json_int_t)c->bytes, "dropped",
                                  (json_int_t)c->dropped));
}

static void net_stats(struct virtio_device *device, void *json)
{
    struct virtio_net *net = net_of(device);
    struct net_counters received = { 0 }, sent = { 0 };
    uint64_t bad = 0;

    for (unsigned i = 0; i < net->pair_count; i++) {
        const struct net_pair *pair = &net->pairs[i];

        received.frames += pair->received.frames;
        received.bytes += pair->received.bytes;
        received.dropped += pair->received.dropped;
        sent.frames += pair->sent.frames;
        sent.bytes += pair->sent.bytes;
        sent.dropped += pair->sent.dropped;
        bad += pair->bad_headers;
    }
    json_object_set_new(json, "backend", json_string(net->backend->ops->type));
    json_object_set_new(json, "vhost", json_boolean(net->vhost != NULL));
    json_object_set_new(json, "link", json_boolean(net_link_up(net)));
    json_object_set_new(json, "pairs", json_integer(net->active_pairs));
    counters_stats(json, "received", &received);
    counters_stats(json, "sent", &sent);
    json_object_set_new(json, "bad_headers", json_integer((json_int_t)bad));
    json_object_set_new(json, "control_errors",
                        json_integer((json_int_t)net->control_errors));
    if (net->backend->ops->stats != NULL) {
        net->backend->ops->stats(net->backend, json);
    }
}

static void net_destroy(struct virtio_device *device)
{
    struct virtio_net *net = net_of(device);

    for (unsigned i = 0; net->pairs != NULL && i < net->pair_count; i++) {
        struct net_pair *pair = &net->pairs[i];

        loop_watch_remove(pair->ready_watch);
        loop_watch_remove(pair->kick_watch[0]);
        loop_watch_remove(pair->kick_watch[1]);
        for (unsigned c = 0; c < NET_CHAINS_MAX; c++) {
            virtqueue_chain_fini(&pair->chains[c]);
        }
        virtqueue_chain_fini(&pair->tx);
        free(pair->frame);
    }
    loop_watch_remove(net->control_watch);
    loop_timer_destroy(net->reopen);
    net_faults_destroy(net);
    net_vhost_destroy(net->vhost);
    net_backend_destroy(net->backend);
    virtio_device_fini(device);
    virtqueue_chain_fini(&net->control);
    free(net->scratch);
    free(net->pairs);
    free(net);
}

static const struct virtio_device_facts net_facts = {
    .type = "virtio-net",
    .device_id = VIRTIO_ID_NET,
    .pci_class = 0x020000, /* Ethernet */
    .faults = FAULT_BIT(UMBRA_FAULT_DROP) | FAULT_BIT(UMBRA_FAULT_DUPLICATE) |
              FAULT_BIT(UMBRA_FAULT_CORRUPT) | FAULT_BIT(UMBRA_FAULT_DELAY) |
              FAULT_BIT(UMBRA_FAULT_LINK_FLAP),
    .config_size = NET_CONFIG_SIZE,
    .ops = {
        .activate = net_activate,
        .reset = net_reset,
        .queue_start = net_queue_start,
        .queue_stop = net_queue_stop,
        .save = net_save,
        .load = net_load,
        .stats = net_stats,
        .destroy = net_destroy,
    },
};

static uint64_t net_features(const struct net_backend *backend, bool mtu)
{
    uint64_t features =
        VIRTIO_RING_FEATURES | VIRTIO_FEATURE(VIRTIO_NET_F_MAC) |
        VIRTIO_FEATURE(VIRTIO_NET_F_STATUS) | VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF) |
        VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR);

    features |= backend->features & (NET_GUEST_OFFLOADS | NET_HOST_OFFLOADS);
    if ((backend->features & NET_GUEST_OFFLOADS) != 0) {
        features |= VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    }
    features |= backend->pairs > 1 ? VIRTIO_FEATURE(VIRTIO_NET_F_MQ) : 0;
    return features | (mtu ? VIRTIO_FEATURE(VIRTIO_NET_F_MTU) : 0);
}

static int net_create_pairs(struct virtio_net *net)
{
    struct loop *loop = net->device.env->loop;
    int ret = 0;

    net->scratch = malloc(NET_FRAME_MAX);
    net->pairs = calloc(net->backend->pairs, sizeof(*net->pairs));
    if (net->scratch == NULL || net->pairs == NULL) {
        return -ENOMEM;
    }
    for (; ret == 0 && net->pair_count < net->backend->pairs; net->pair_count++) {
        struct net_pair *pair = &net->pairs[net->pair_count];

        pair->net = net;
        pair->index = net->pair_count;
        watch_init(&pair->watch, false);
        pair->frame = malloc(NET_HEADER + NET_FRAME_MAX);
        ret = pair->frame == NULL ? -ENOMEM
                                  : loop_watch_add(loop, net->backend->fds[pair->index],
                                                   0, &net->device.lock, net_ready, pair,
                                                   &pair->ready_watch);
    }
    return ret;
}

int virtio_net_create(const struct device_env *env,
                      const struct virtio_net_options *options,
                      struct net_backend *backend, struct virtio_device **device,
                      struct umbra_error *error)
{
    unsigned size = options->queue_size != 0 ? options->queue_size : 256;
    struct virtio_net *net = calloc(1, sizeof(*net));
    int ret = -ENOMEM;

    if (net == NULL ||
        virtio_device_init(&net->device, &net_facts, env, options->id,
                           net_features(backend, options->mtu != 0)) != 0) {
        free(net);
        net_backend_destroy(backend);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create %s", options->id);
    }
    net->backend = backend;
    net->active_pairs = 1;
    net->link = true;
    memcpy(net->mac, options->mac, sizeof(net->mac));
    memcpy(net->device.config, net->mac, sizeof(net->mac));
    store_le16(net->device.config + NET_CONFIG_STATUS, VIRTIO_NET_S_LINK_UP);
    store_le16(net->device.config + NET_CONFIG_PAIRS, (uint16_t)backend->pairs);
    store_le16(net->device.config + NET_CONFIG_MTU, (uint16_t)options->mtu);
    if (options->vhost) {
        ret = net_vhost_open(env->mem, backend->fds, backend->pairs, &net->vhost, error);
        if (ret != 0) {
            error_prefix(error, "%s", options->id);
            net_destroy(&net->device);
            return ret;
        }
        net->device.elsewhere = true;
        net->device.offered = net_vhost_features(net->vhost, net->device.offered);
    }
    ret = virtio_device_add_queues(&net->device, 2 * backend->pairs, size);
    if (ret == 0) {
        ret = virtio_device_add_queues(&net->device, 1, NET_CONTROL_SIZE);
    }
    if (ret == 0) {
        ret = net_create_pairs(net);
    }
    if (ret == 0) {
        ret = net_reopen_init(net);
    }
    if (ret != 0) {
        net_destroy(&net->device);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "create %s", options->id);
    }
    *device = &net->device;
    return 0;
}

int virtio_net_set_link(struct virtio_device *device, bool up, struct umbra_error *error)
{
    if (vhost_user_net_set_link(device, up)) {
        return 0;
    }
    if (device->facts != &net_facts) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "%s is not a network interface", device->id);
    }
    pthread_mutex_lock(&device->lock);
    net_of(device)->link = up;
    net_update_link(net_of(device));
    pthread_mutex_unlock(&device->lock);
    return 0;
}
