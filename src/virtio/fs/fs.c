/* SPDX-License-Identifier: MIT */
/*
 * virtio-fs (virtio 1.2, 5.11): a folder of the host, served by virtiofsd over vhost-user.
 * A back end that is gone takes what it knew of the guest's open files with it, so there
 * is nothing to wait for: requests fail at once, and a mount after its return works.
 */
#include <errno.h>
#include <stdlib.h>

#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>

#include "base/error.h"
#include "base/util.h"
#include "virtio/fs/virtiofsd.h"
#include "virtio/registry.h"
#include "virtio/vhost/device.h"

enum {
    FS_TAG_SIZE = 36,
    FS_CONFIG_REQUESTS = FS_TAG_SIZE,
    FS_CONFIG_SIZE = 40,
    FS_START_MS =
        60000,     /* virtiofsd may take this long to start; its end is seen sooner */
    FS_QUEUES = 2, /* one for what may not wait, one for requests */
    /* struct fuse_in_header and fuse_out_header of <linux/fuse.h>. */
    FUSE_IN_UNIQUE = 8,
    FUSE_OUT_SIZE = 16,
};

struct vhost_user_fs {
    struct vhost_user_device base;
    char tag[FS_TAG_SIZE];
    struct virtiofsd *daemon; /* NULL: somebody else's */
};

static struct vhost_user_fs *fs_of(struct vhost_user_device *d)
{
    return container_of(d, struct vhost_user_fs, base);
}

/* Start virtiofsd for the folder and talk to it; or dial somebody's. */
static int fs_open(struct vhost_user_device *d, struct vhost_user **vu,
                   struct umbra_error *error)
{
    struct vhost_user_fs *fs = fs_of(d);
    int fd, ret;

    if (fs->daemon == NULL) {
        return vhost_user_device_dial(d, vu, error);
    }
    do {
        ret = virtiofsd_start(fs->daemon, &fd, error);
        if (ret != 0) {
            return ret;
        }
        ret = vhost_user_open(fd, d->name, d->kind->protocol, FS_START_MS, vu, error);
        if (ret == 0) {
            (*vu)->timeout_ms = d->timeout_ms;
        } else {
            virtiofsd_explain(fs->daemon, error);
        }
    } while (ret != 0 && virtiofsd_relax(fs->daemon, error));
    return ret;
}

static int fs_refresh(struct vhost_user_device *d, struct vhost_user *vu, uint8_t *config,
                      struct umbra_error *error)
{
    (void)vu;
    (void)error;
    memcpy(config, fs_of(d)->tag, FS_TAG_SIZE);
    store_le32(config + FS_CONFIG_REQUESTS, FS_QUEUES - 1);
    return 0;
}

/* An answer that FUSE's client takes for the failure of its request. */
static uint32_t fs_refuse(const struct virtqueue_chain *chain)
{
    uint8_t reply[FUSE_OUT_SIZE] = { 0 };

    if (chain->writable_bytes < FUSE_OUT_SIZE) {
        return 0; /* FORGET and the like want none */
    }
    store_le32(reply, FUSE_OUT_SIZE);
    store_le32(reply + 4, (uint32_t)-EIO);
    virtqueue_chain_read(chain, FUSE_IN_UNIQUE, reply + FUSE_IN_UNIQUE, 8);
    return (uint32_t)virtqueue_chain_write(chain, 0, reply, sizeof(reply));
}

static int fs_watch_fd(struct vhost_user_device *d)
{
    const struct vhost_user_fs *fs = fs_of(d);

    return fs->daemon != NULL ? virtiofsd_output_fd(fs->daemon) : -1;
}

static void fs_watch(struct vhost_user_device *d)
{
    virtiofsd_output(fs_of(d)->daemon);
}

static void fs_destroy(struct vhost_user_device *d)
{
    virtiofsd_destroy(fs_of(d)->daemon);
}

static const struct virtio_device_facts fs_facts = {
    .type = "virtio-fs",
    .device_id = VIRTIO_ID_FS,
    .pci_class = 0x018000, /* mass storage, other */
    .config_size = FS_CONFIG_SIZE,
    .ops = { VHOST_USER_DEVICE_OPS },
};

static const struct vhost_user_kind fs_kind = {
    .facts = &fs_facts,
    .protocol = VIRTIO_FEATURE(VHOST_USER_PROTOCOL_MQ) |
                VIRTIO_FEATURE(VHOST_USER_PROTOCOL_REPLY_ACK),
    .queues_min = FS_QUEUES,
    .relay = true,
    .open = fs_open,
    .refresh = fs_refresh,
    .refuse = fs_refuse,
    .watch_fd = fs_watch_fd,
    .watch = fs_watch,
    .destroy = fs_destroy,
};

int virtio_fs_create(const struct device_env *env,
                     const struct virtio_fs_options *options,
                     struct virtio_device **device, struct umbra_error *error)
{
    const struct vhost_user_options common = {
        .id = options->id,
        .name = options->socket != NULL ? options->socket : "virtiofsd",
        .socket = options->socket,
        .queues = FS_QUEUES,
        .queue_size = 256,
        .timeout_ms = options->timeout_ms,
    };
    struct vhost_user_fs *fs = calloc(1, sizeof(*fs));
    int ret;

    if (fs == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create %s", options->id);
    }
    memcpy(fs->tag, options->tag, strnlen(options->tag, FS_TAG_SIZE));
    if (options->socket == NULL) {
        ret = virtiofsd_create(options->id, options->path, options->readonly, env->log,
                               &fs->daemon, error);
        if (ret != 0) {
            free(fs);
            return ret;
        }
    }
    ret = vhost_user_device_create(&fs->base, &fs_kind, env, &common, error);
    if (ret == 0) {
        *device = &fs->base.device;
    }
    return ret;
}
