/* SPDX-License-Identifier: MIT */
/* virtio-blk (virtio 1.2, 5.2): the device and its configuration space. */
#include "virtio/blk/blk.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "base/error.h"
#include "base/util.h"

static struct virtio_blk *blk_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_blk, device);
}

static uint8_t *config_at(struct virtio_blk *blk, size_t offset)
{
    return blk->device.config + offset;
}

#define CONFIG(blk, member) config_at((blk), offsetof(struct virtio_blk_config, member))

static void config_fill(struct virtio_blk *blk)
{
    const struct disk *disk = blk->disk;
    unsigned queue_size = blk->device.queues[0].max_size;
    unsigned segments = queue_size > 2 ? queue_size - 2 : 1; /* header and status */
    unsigned granularity = disk->discard_alignment / DISK_SECTOR;

    store_le64(CONFIG(blk, capacity), atomic_load(&disk->size) / DISK_SECTOR);
    store_le32(CONFIG(blk, seg_max),
               segments < BLK_SEGMENTS_MAX ? segments : BLK_SEGMENTS_MAX);
    store_le32(CONFIG(blk, blk_size), disk->block_size);
    *CONFIG(blk, physical_block_exp) =
        (uint8_t)__builtin_ctz(disk->physical_block_size / disk->block_size);
    store_le16(CONFIG(blk, min_io_size),
               (uint16_t)(disk->physical_block_size / disk->block_size));
    store_le32(CONFIG(blk, opt_io_size), disk->optimal_size / disk->block_size);
    *CONFIG(blk, wce) = 1;
    store_le16(CONFIG(blk, num_queues), (uint16_t)blk->device.queue_count);
    store_le32(CONFIG(blk, max_discard_sectors), BLK_DISCARD_SECTORS);
    store_le32(CONFIG(blk, max_discard_seg), BLK_DISCARD_SEGMENTS);
    store_le32(CONFIG(blk, discard_sector_alignment), granularity > 0 ? granularity : 1);
    store_le32(CONFIG(blk, max_write_zeroes_sectors), BLK_DISCARD_SECTORS);
    store_le32(CONFIG(blk, max_write_zeroes_seg), BLK_DISCARD_SEGMENTS);
    *CONFIG(blk, write_zeroes_may_unmap) = 1;
}

/* Writes are cached unless the driver cannot flush or turned the cache off (5.2.6.2). */
static void blk_choose_cache(struct virtio_blk *blk)
{
    struct virtio_device *device = &blk->device;
    bool writeback = virtio_has(device, VIRTIO_BLK_F_FLUSH);

    if (virtio_has(device, VIRTIO_BLK_F_CONFIG_WCE)) {
        writeback = *CONFIG(blk, wce) != 0;
    }
    atomic_store(&blk->writeback, writeback);
}

static int blk_activate(struct virtio_device *device)
{
    blk_choose_cache(blk_of(device));
    return 0;
}

static void blk_reset(struct virtio_device *device)
{
    *CONFIG(blk_of(device), wce) = 1;
}

static void blk_config_write(struct virtio_device *device, unsigned offset, unsigned size,
                             const uint8_t *bytes)
{
    struct virtio_blk *blk = blk_of(device);

    if (offset == offsetof(struct virtio_blk_config, wce) && size == 1 &&
        virtio_has(device, VIRTIO_BLK_F_CONFIG_WCE)) {
        *CONFIG(blk, wce) = bytes[0] != 0;
        blk_choose_cache(blk);
    }
}

static int blk_load(struct virtio_device *device, struct state_reader *reader)
{
    (void)reader; /* config space has all of it */
    blk_choose_cache(blk_of(device));
    return 0;
}

static void blk_stats(struct virtio_device *device, void *json)
{
    struct virtio_blk *blk = blk_of(device);

    json_object_set_new(json, "backend", json_string(blk->disk->ops->type));
    json_object_set_new(json, "size",
                        json_integer((json_int_t)atomic_load(&blk->disk->size)));
    json_object_set_new(json, "readonly", json_boolean(blk->disk->readonly));
    json_object_set_new(json, "writeback", json_boolean(atomic_load(&blk->writeback)));
}

static void blk_destroy(struct virtio_device *device)
{
    struct virtio_blk *blk = blk_of(device);

    virtio_device_fini(device);
    disk_destroy(blk->disk);
    free(blk);
}

static const struct virtio_device_facts blk_facts = {
    .type = "virtio-blk",
    .device_id = VIRTIO_ID_BLOCK,
    .pci_class = 0x018000, /* mass storage, other */
    .faults = FAULT_BIT(UMBRA_FAULT_IO_ERROR) | FAULT_BIT(UMBRA_FAULT_SHORT) |
              FAULT_BIT(UMBRA_FAULT_DELAY) | FAULT_BIT(UMBRA_FAULT_CORRUPT),
    .config_size = offsetof(struct virtio_blk_config, unused1),
    .ops = {
        .activate = blk_activate,
        .reset = blk_reset,
        .queue_start = blk_queue_start,
        .queue_stop = blk_queue_stop,
        .config_write = blk_config_write,
        .load = blk_load,
        .stats = blk_stats,
        .destroy = blk_destroy,
    },
};

static uint64_t blk_features(const struct disk *disk, unsigned queues)
{
    uint64_t features = VIRTIO_RING_FEATURES | VIRTIO_FEATURE(VIRTIO_BLK_F_SEG_MAX) |
                        VIRTIO_FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
                        VIRTIO_FEATURE(VIRTIO_BLK_F_TOPOLOGY) |
                        VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH);

    if (disk->readonly) {
        features |= VIRTIO_FEATURE(VIRTIO_BLK_F_RO);
    } else {
        features |= VIRTIO_FEATURE(VIRTIO_BLK_F_CONFIG_WCE);
        features |= disk->can_discard ? VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) : 0;
        features |=
            disk->can_write_zeroes ? VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES) : 0;
    }
    return features | (queues > 1 ? VIRTIO_FEATURE(VIRTIO_BLK_F_MQ) : 0);
}

static int blk_check(const struct disk *disk, const struct virtio_blk_options *options,
                     struct umbra_error *error)
{
    unsigned logical = disk->block_size, physical = disk->physical_block_size;

    if (options->serial != NULL && strlen(options->serial) > BLK_ID_BYTES) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "disk %s: serial '%s' is longer than %d bytes", options->id,
                         options->serial, BLK_ID_BYTES);
    }
    if (logical < DISK_SECTOR || (logical & (logical - 1)) != 0 ||
        (physical & (physical - 1)) != 0 || physical < logical) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "disk %s: block sizes %u and %u: want powers of two from %d on, "
                         "the physical one not smaller",
                         options->id, logical, physical, DISK_SECTOR);
    }
    if (options->queues > 256) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "disk %s: %u queues; at most 256 make sense", options->id,
                         options->queues);
    }
    return 0;
}

int virtio_blk_create(const struct device_env *env,
                      const struct virtio_blk_options *options, struct disk *disk,
                      struct virtio_device **device, struct umbra_error *error)
{
    unsigned queues = options->queues != 0 ? options->queues : 1;
    unsigned size = options->queue_size != 0 ? options->queue_size : 256;
    const char *serial = options->serial != NULL ? options->serial : options->id;
    struct virtio_blk *blk = NULL;
    int ret = blk_check(disk, options, error);

    if (ret != 0) {
        disk_destroy(disk);
        return ret;
    }
    if (disk->max_queues != 0 && queues > disk->max_queues) {
        log_warning(env->log, "disk %s: %s takes one connection at a time: one queue",
                    options->id, disk->name);
        queues = disk->max_queues;
    }
    blk = calloc(1, sizeof(*blk));
    ret = blk == NULL ? -ENOMEM
                      : virtio_device_init(&blk->device, &blk_facts, env, options->id,
                                           blk_features(disk, queues));
    if (ret != 0) {
        free(blk);
        disk_destroy(disk);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "create disk %s",
                           options->id);
    }
    blk->disk = disk;
    blk->poll = options->poll;
    memcpy(blk->serial, serial, strnlen(serial, BLK_ID_BYTES));
    ret = virtio_device_add_queues(&blk->device, queues, size);
    if (ret != 0) {
        error_errno(error, UMBRA_ERROR_CONFIG, -ret,
                    "disk %s: %u queues of %u entries (a power of two up to 32768)",
                    options->id, queues, size);
        blk_destroy(&blk->device);
        return ret;
    }
    config_fill(blk);
    *device = &blk->device;
    return 0;
}

static int blk_grow(struct virtio_blk *blk, uint64_t bytes, struct umbra_error *error)
{
    struct disk *disk = blk->disk;
    uint64_t now = atomic_load(&disk->size);
    int ret;

    if (bytes < now || bytes % disk->block_size != 0 || bytes > INT64_MAX) {
        return error_set(error, UMBRA_ERROR_USAGE, ERANGE,
                         "disk %s has %" PRIu64
                         " bytes: it can only grow, by blocks of %u "
                         "bytes (%" PRIu64 " asked for)",
                         blk->device.id, now, disk->block_size, bytes);
    }
    ret = disk->ops->grow == NULL ? -EOPNOTSUPP
          : bytes == now          ? 0
                                  : disk->ops->grow(disk, bytes);
    if (ret == -EOPNOTSUPP || ret == -EPERM) {
        return error_errno(
            error, UMBRA_ERROR_STATE, -ret,
            "disk %s (%s) cannot be grown from here; grow what is behind it, "
            "then resize without a size",
            blk->device.id, disk->name);
    }
    return ret == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_STATE, -ret,
                                  "grow disk %s (%s) to %" PRIu64 " bytes",
                                  blk->device.id, disk->name, bytes);
}

int virtio_blk_resize(struct virtio_device *device, uint64_t bytes, uint64_t *size,
                      struct umbra_error *error)
{
    struct virtio_blk *blk = blk_of(device);
    int ret = 0;

    if (device->facts != &blk_facts) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL, "%s is not a disk",
                         device->id);
    }
    if (bytes != 0) {
        ret = blk_grow(blk, bytes, error);
    }
    if (ret != 0) {
        return ret;
    }
    ret = blk->disk->ops->refresh(blk->disk);
    if (ret != 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                           "find the size of disk %s (%s)", device->id, blk->disk->name);
    }
    pthread_mutex_lock(&device->lock);
    store_le64(CONFIG(blk, capacity), atomic_load(&blk->disk->size) / DISK_SECTOR);
    virtio_config_changed(device);
    pthread_mutex_unlock(&device->lock);
    if (size != NULL) {
        *size = atomic_load(&blk->disk->size);
    }
    return 0;
}
