/* SPDX-License-Identifier: MIT */
/* A disk that another process serves: vhost-user-blk, as of qemu-storage-daemon or SPDK. */
#include <errno.h>
#include <stdlib.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "base/error.h"
#include "base/util.h"
#include "virtio/registry.h"
#include "virtio/vhost/device.h"

enum {
    BLK_CONFIG_SIZE = offsetof(struct virtio_blk_config, unused1),
    BLK_BLOCK_MAX = 1 << 20,
};

#define BLK_BIT(name) VIRTIO_FEATURE(VIRTIO_BLK_F_##name)

struct vhost_user_blk {
    struct vhost_user_device base;
    bool readonly; /* so the config wants it */
};

static uint64_t config_u64(const uint8_t *config, size_t offset, size_t size)
{
    uint8_t bytes[8] = { 0 };

    memcpy(bytes, config + offset, size);
    return load_le64(bytes);
}

#define CONFIG(config, member)                                                           \
    config_u64((config), offsetof(struct virtio_blk_config, member),                     \
               sizeof(((struct virtio_blk_config *)0)->member))

/* What a guest's driver would trip over is the back end's fault, and found here. */
static const char *blk_config_fault(const struct vhost_user *vu, const uint8_t *config)
{
    uint64_t block = CONFIG(config, blk_size);

    if ((vu->features & BLK_BIT(BLK_SIZE)) != 0 &&
        (block < 512 || block > BLK_BLOCK_MAX || (block & (block - 1)) != 0)) {
        return "its block size is not possible";
    }
    if ((vu->features & BLK_BIT(SEG_MAX)) != 0 && CONFIG(config, seg_max) == 0) {
        return "it takes no segments";
    }
    if (CONFIG(config, capacity) > (UINT64_C(1) << 55)) {
        return "its capacity is not possible";
    }
    return NULL;
}

static int blk_refresh(struct vhost_user_device *d, struct vhost_user *vu,
                       uint8_t *config, struct umbra_error *error)
{
    const struct vhost_user_blk *blk = container_of(d, struct vhost_user_blk, base);
    uint8_t fresh[VIRTIO_MAX_CONFIG] = { 0 };
    const char *fault;
    int ret = vhost_user_get_config(vu, fresh, BLK_CONFIG_SIZE);

    if (ret != 0) {
        return error_set(error, UMBRA_ERROR_INTERNAL, -ret, "vhost-user back end %s: %s",
                         d->name, vu->fault);
    }
    if (blk->readonly && (vu->features & BLK_BIT(RO)) == 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EROFS,
                         "vhost-user back end %s serves a disk that can be written: who "
                         "is to keep the guest from it is the back end "
                         "(qemu-storage-daemon: writable=off)",
                         d->name);
    }
    fault = blk_config_fault(vu, fresh);
    if (fault != NULL) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL, "vhost-user back end %s: %s",
                         d->name, fault);
    }
    if (CONFIG(fresh, size_max) == 0) { /* qemu-storage-daemon 7.2 means: any size */
        store_le32(fresh + offsetof(struct virtio_blk_config, size_max), UINT32_MAX);
    }
    store_le16(fresh + offsetof(struct virtio_blk_config, num_queues),
               (uint16_t)d->device.queue_count);
    memcpy(config, fresh, sizeof(fresh));
    return 0;
}

/* 5.2.6: the last byte is the status. */
static uint32_t blk_refuse(const struct virtqueue_chain *chain)
{
    const uint8_t status = VIRTIO_BLK_S_IOERR;

    if (chain->writable_bytes == 0) {
        return 0;
    }
    return (uint32_t)virtqueue_chain_write(chain, chain->writable_bytes - 1, &status, 1);
}

static void blk_config_write(struct virtio_device *device, unsigned offset, unsigned size,
                             const uint8_t *bytes)
{
    if (offset == offsetof(struct virtio_blk_config, wce) && size == 1 &&
        virtio_has(device, VIRTIO_BLK_F_CONFIG_WCE)) {
        const uint8_t wce = bytes[0] != 0;

        device->config[offset] = wce;
        vhost_user_device_config_write(vhost_user_device_of(device), offset, 1, &wce);
    }
}

static const struct virtio_device_facts blk_facts = {
    .type = "vhost-user-blk",
    .device_id = VIRTIO_ID_BLOCK,
    .pci_class = 0x018000, /* mass storage, other */
    .config_size = BLK_CONFIG_SIZE,
    .ops = { VHOST_USER_DEVICE_OPS, .config_write = blk_config_write },
};

static const struct vhost_user_kind blk_kind = {
    .facts = &blk_facts,
    .features = BLK_BIT(SIZE_MAX) | BLK_BIT(SEG_MAX) | BLK_BIT(GEOMETRY) | BLK_BIT(RO) |
                BLK_BIT(BLK_SIZE) | BLK_BIT(FLUSH) | BLK_BIT(TOPOLOGY) |
                BLK_BIT(CONFIG_WCE) | BLK_BIT(MQ) | BLK_BIT(DISCARD) |
                BLK_BIT(WRITE_ZEROES),
    .protocol = VIRTIO_FEATURE(VHOST_USER_PROTOCOL_MQ) |
                VIRTIO_FEATURE(VHOST_USER_PROTOCOL_REPLY_ACK) |
                VIRTIO_FEATURE(VHOST_USER_PROTOCOL_BACKEND_REQ) |
                VIRTIO_FEATURE(VHOST_USER_PROTOCOL_CONFIG),
    .queues_min = 1,
    .relay = true,
    .stateless = true,
    .open = vhost_user_device_dial,
    .refresh = blk_refresh,
    .refuse = blk_refuse,
};

int vhost_user_blk_create(const struct device_env *env,
                          const struct vhost_user_blk_options *options,
                          struct virtio_device **device, struct umbra_error *error)
{
    const struct vhost_user_options common = {
        .id = options->id,
        .name = options->socket,
        .socket = options->socket,
        .queues = options->queues != 0 ? options->queues : 1,
        .queue_size = options->queue_size != 0 ? options->queue_size : 256,
        .patience_ms = options->patience_ms,
        .timeout_ms = options->timeout_ms,
    };
    struct vhost_user_blk *blk = calloc(1, sizeof(*blk));
    int ret;

    if (blk == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create %s", options->id);
    }
    blk->readonly = options->readonly;
    ret = vhost_user_device_create(&blk->base, &blk_kind, env, &common, error);
    if (ret == 0) {
        *device = &blk->base.device;
    }
    return ret;
}
