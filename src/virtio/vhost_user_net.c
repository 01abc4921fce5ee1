/* SPDX-License-Identifier: MIT */
/*
 * A network that another process serves: vhost-user-net, as of DPDK's and VPP's switches,
 * and passt. The rings are the back end's own; a network may lose frames, so there is
 * nothing to keep for a back end's successor, and while there is none the link is down.
 */
#include <errno.h>
#include <stdlib.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include "base/error.h"
#include "base/util.h"
#include "virtio/registry.h"
#include "virtio/vhost_user_device.h"

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
};

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
    store_le16(config + NET_CONFIG_PAIRS, 1);
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
    .ops = { VHOST_USER_DEVICE_OPS },
};

static const struct vhost_user_kind net_kind = {
    .facts = &net_facts,
    .features = NET_BIT(CSUM) | NET_BIT(GUEST_CSUM) | NET_BIT(GUEST_TSO4) |
                NET_BIT(GUEST_TSO6) | NET_BIT(GUEST_ECN) | NET_BIT(GUEST_UFO) |
                NET_BIT(HOST_TSO4) | NET_BIT(HOST_TSO6) | NET_BIT(HOST_ECN) |
                NET_BIT(HOST_UFO) | NET_BIT(MRG_RXBUF),
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
};

int vhost_user_net_create(const struct device_env *env,
                          const struct vhost_user_net_options *options,
                          struct virtio_device **device, struct umbra_error *error)
{
    const struct vhost_user_options common = {
        .id = options->id,
        .name = options->socket,
        .socket = options->socket,
        .queues = NET_QUEUES,
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
        net->base.device.offered |= options->mtu != 0 ? NET_BIT(MTU) : 0;
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
