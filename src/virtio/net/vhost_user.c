/* SPDX-License-Identifier: MIT */
/*
 * A network that another process serves: vhost-user-net, as of DPDK's and VPP's switches,
 * and passt. The rings are the back end's own; a network may lose frames, so there is
 * nothing to keep for a back end's successor, and while there is none the link is down.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include "base/error.h"
#include "base/event_fd.h"
#include "base/state.h"
#include "base/util.h"
#include "virtio/registry.h"
#include "virtio/vhost/device.h"

enum {
    NET_QUEUES = 2,
    NET_CONFIG_STATUS = offsetof(struct virtio_net_config, status),
    NET_CONFIG_PAIRS = offsetof(struct virtio_net_config, max_virtqueue_pairs),
    NET_CONFIG_MTU = offsetof(struct virtio_net_config, mtu),
    NET_CONFIG_SIZE = NET_CONFIG_MTU + 2,
};

#define NET_BIT(name) VIRTIO_FEATURE(VIRTIO_NET_F_##name)

struct vhost_user_net {
    struct vhost_user_device base;
    uint8_t mac[6];
    uint16_t mtu;
    unsigned active_pairs; /* under the device's lock, as the control queue */
    struct virtqueue_chain control;
    struct loop_watch *control_watch;
};

static struct vhost_user_net *net_of(struct virtio_device *device)
{
    return container_of(vhost_user_device_of(device), struct vhost_user_net, base);
}

static void net_set_pairs(struct vhost_user_net *net, unsigned pairs)
{
    net->active_pairs = pairs;
    vhost_user_device_set_rings(&net->base, NET_QUEUES * pairs);
}

/* ---- The control queue: the number of pairs (5.1.6.5.5) --------------------------------- */

/* Behind the pairs that the driver knows of (5.1.2). */
static unsigned control_index(struct virtio_device *device)
{
    return virtio_has(device, VIRTIO_NET_F_MQ) ? net_of(device)->base.remote_count
                                               : NET_QUEUES;
}

static bool control_do(struct vhost_user_net *net)
{
    uint8_t command[5]; /* class, command, pairs; nothing behind them */
    size_t size = virtqueue_chain_read(&net->control, 0, command, sizeof(command));
    unsigned pairs = load_le16(command + 2);

    if (size != 4 || command[0] != VIRTIO_NET_CTRL_MQ ||
        command[1] != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || pairs < 1 ||
        NET_QUEUES * pairs > net->base.remote_count ||
        !virtio_has(&net->base.device, VIRTIO_NET_F_MQ)) {
        return false;
    }
    net_set_pairs(net, pairs);
    return true;
}

static void control_kicked(void *context, uint32_t events)
{
    struct virtio_queue *queue = context;
    struct vhost_user_net *net = net_of(queue->device);

    (void)events;
    if (!event_take(queue->kick_fd) || !queue->running || !queue->attached) {
        return;
    }
    virtio_queue_notified(queue);
    do {
        virtio_queue_disable_kicks(queue);
        while (virtio_queue_pop(queue, &net->control)) {
            uint8_t ack = control_do(net) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;

            virtio_queue_push(queue, &net->control,
                              (uint32_t)virtqueue_chain_write(&net->control, 0, &ack, 1));
        }
        virtio_queue_flush(queue);
    } while (virtio_queue_enable_kicks(queue));
}

/* ---- Ops ----------------------------------------------------------------------------------- */

static int net_activate(struct virtio_device *device)
{
    net_set_pairs(net_of(device), 1); /* until the driver asks for more (5.1.5) */
    return vhost_user_device_activate(device);
}

static int net_queue_start(struct virtio_device *device, struct virtio_queue *queue)
{
    struct vhost_user_net *net = net_of(device);

    if (queue->index < control_index(device)) {
        return vhost_user_device_queue_start(device, queue);
    }
    /* One behind the control queue is a driver's error, and nobody's. */
    return queue->index > control_index(device)
               ? 0
               : loop_watch_add(device->env->loop, queue->kick_fd, POLLIN, &device->lock,
                                control_kicked, queue, &net->control_watch);
}

static void net_queue_stop(struct virtio_device *device, struct virtio_queue *queue)
{
    struct vhost_user_net *net = net_of(device);

    if (queue->index < control_index(device)) {
        vhost_user_device_queue_stop(device, queue);
    } else if (queue->index == control_index(device)) {
        loop_watch_remove(net->control_watch);
        net->control_watch = NULL;
    }
}

static int net_save(struct virtio_device *device, struct state_writer *writer)
{
    state_put_u64(writer, "net.pairs", net_of(device)->active_pairs);
    return vhost_user_device_save(device, writer);
}

static int net_load(struct virtio_device *device, struct state_reader *reader)
{
    struct vhost_user_net *net = net_of(device);
    uint64_t most = net->base.remote_count / NET_QUEUES;
    uint64_t pairs = state_get_u64(reader, "net.pairs", most);

    if (pairs == 0) {
        state_reject(reader, "no queue pair is in use");
        return -EINVAL;
    }
    net_set_pairs(net, (unsigned)pairs);
    return 0;
}

static void net_end(struct vhost_user_device *d)
{
    struct vhost_user_net *net = container_of(d, struct vhost_user_net, base);

    loop_watch_remove(net->control_watch);
    virtqueue_chain_fini(&net->control);
}

/* ---- What it is ------------------------------------------------------------------------------- */

static int net_refresh(struct vhost_user_device *d, struct vhost_user *vu,
                       uint8_t *config, struct umbra_error *error)
{
    const struct vhost_user_net *net = container_of(d, struct vhost_user_net, base);

    int ret = net->mtu != 0 ? vhost_user_set_mtu(vu, net->mtu) : 0;

    if (ret != 0) {
        return error_set(error, UMBRA_ERROR_INTERNAL, -ret, "vhost-user back end %s: %s",
                         d->name, vu->fault);
    }
    memcpy(config, net->mac, sizeof(net->mac));
    store_le16(config + NET_CONFIG_STATUS, VIRTIO_NET_S_LINK_UP);
    store_le16(config + NET_CONFIG_PAIRS, (uint16_t)(d->remote_count / NET_QUEUES));
    store_le16(config + NET_CONFIG_MTU, net->mtu);
    return 0;
}

static void net_link(struct vhost_user_device *d, bool up)
{
    store_le16(d->config + NET_CONFIG_STATUS, up ? VIRTIO_NET_S_LINK_UP : 0);
}

static const struct virtio_device_facts net_facts = {
    .type = "vhost-user-net",
    .device_id = VIRTIO_ID_NET,
    .pci_class = 0x020000, /* Ethernet */
    .config_size = NET_CONFIG_SIZE,
    .ops = {
        .activate = net_activate,
        .reset = vhost_user_device_reset,
        .queue_start = net_queue_start,
        .queue_stop = net_queue_stop,
        .save = net_save,
        .load = net_load,
        .stats = vhost_user_device_stats,
        .destroy = vhost_user_device_destroy,
    },
};

static const struct vhost_user_kind net_kind = {
    .facts = &net_facts,
    .features = NET_BIT(CSUM) | NET_BIT(GUEST_CSUM) | NET_BIT(GUEST_TSO4) |
                NET_BIT(GUEST_TSO6) | NET_BIT(GUEST_ECN) | NET_BIT(GUEST_UFO) |
                NET_BIT(HOST_TSO4) | NET_BIT(HOST_TSO6) | NET_BIT(HOST_ECN) |
                NET_BIT(HOST_UFO) | NET_BIT(MRG_RXBUF) | NET_BIT(MQ),
    .own_features = NET_BIT(MAC) | NET_BIT(STATUS),
    .protocol = VIRTIO_FEATURE(VHOST_USER_PROTOCOL_MQ) |
                VIRTIO_FEATURE(VHOST_USER_PROTOCOL_REPLY_ACK) |
                VIRTIO_FEATURE(VHOST_USER_PROTOCOL_NET_MTU),
    .queues_min = NET_QUEUES,
    .queues_each = NET_QUEUES, /* pairs: so DPDK and QEMU count them */
    .stateless = true,
    .open = vhost_user_device_dial,
    .refresh = net_refresh,
    .link = net_link,
    .destroy = net_end,
};

int vhost_user_net_create(const struct device_env *env,
                          const struct vhost_user_net_options *options,
                          struct virtio_device **device, struct umbra_error *error)
{
    unsigned pairs = options->pairs != 0 ? options->pairs : 1;
    const struct vhost_user_options common = {
        .id = options->id,
        .name = options->socket,
        .socket = options->socket,
        .queues = NET_QUEUES * pairs,
        .local_queues = 1,
        .queue_size = options->queue_size != 0 ? options->queue_size : 256,
        .timeout_ms = options->timeout_ms,
    };
    struct vhost_user_net *net = calloc(1, sizeof(*net));
    int ret;

    if (net == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create %s", options->id);
    }
    memcpy(net->mac, options->mac, sizeof(net->mac));
    net->mtu = (uint16_t)options->mtu;
    ret = vhost_user_device_create(&net->base, &net_kind, env, &common, error);
    if (ret == 0) {
        uint64_t *offered = &net->base.device.offered;

        *offered |= options->mtu != 0 ? NET_BIT(MTU) : 0;
        if (net->base.remote_count > NET_QUEUES) {
            *offered |= (*offered & NET_BIT(MQ)) != 0 ? NET_BIT(CTRL_VQ) : 0;
        } else {
            *offered &= ~NET_BIT(MQ);
        }
        *device = &net->base.device;
    }
    return ret;
}

bool vhost_user_net_set_link(struct virtio_device *device, bool up)
{
    if (device->facts != &net_facts) {
        return false;
    }
    vhost_user_device_set_link(vhost_user_device_of(device), up);
    return true;
}
