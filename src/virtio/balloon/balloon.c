/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon (virtio 1.2, 5.5): memory that the guest lends back to the host. The device,
 * its statistics and its configuration; what becomes of the pages is in pages.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "memory/guest_mem.h"
#include "virtio/balloon/balloon.h"

enum {
    BALLOON_QUEUE_SIZE = 128,
    BALLOON_STAT_BYTES = 10, /* le16 tag, le64 value, packed */
    BALLOON_STATS_MAX = 64,  /* entries looked at */
};

static struct virtio_balloon *balloon_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_balloon, device);
}

/* ---- Statistics (5.5.6.3) ------------------------------------------------------------- */

static void stats_forget(struct virtio_balloon *balloon)
{
    for (unsigned i = 0; i < UMBRA_BALLOON_STAT_COUNT; i++) {
        balloon->values[i] = UINT64_MAX;
    }
    balloon->values_ns = 0;
    balloon->values_read = false;
}

/* The numbers in the chain just popped. */
static void stats_read(struct virtio_balloon *balloon)
{
    uint8_t bytes[BALLOON_STATS_MAX * BALLOON_STAT_BYTES];
    size_t count;

    count = virtqueue_chain_read(&balloon->chain, 0, bytes, sizeof(bytes)) /
            BALLOON_STAT_BYTES;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *entry = bytes + i * BALLOON_STAT_BYTES;
        unsigned tag = load_le16(entry);

        if (tag < UMBRA_BALLOON_STAT_COUNT) {
            balloon->values[tag] = load_le64(entry + 2);
        }
    }
    balloon->values_read = true;
    balloon->values_ns = clock_ns();
}

/*
 * The driver keeps one buffer with us; giving it back asks for new numbers. It is read
 * and put back in the ring at once, so nothing is held over resets and snapshots.
 */
static void stats_look(struct virtio_balloon *balloon, struct virtio_queue *queue)
{
    if (virtio_queue_pop(queue, &balloon->chain)) {
        stats_read(balloon);
        virtio_queue_unpop(queue, &balloon->chain);
    }
}

static void stats_ask(struct virtio_balloon *balloon)
{
    struct virtio_queue *queue = &balloon->device.queues[QUEUE_STATS];

    if (!queue->running || balloon->device.paused ||
        !virtio_has(&balloon->device, VIRTIO_BALLOON_F_STATS_VQ) ||
        !virtio_queue_pop(queue, &balloon->chain)) {
        return;
    }
    if (!balloon->values_read) {
        stats_read(balloon); /* it has come this moment */
    }
    balloon->values_read = false;
    virtio_queue_enable_kicks(queue); /* for the buffer behind this one */
    virtio_queue_push(queue, &balloon->chain, 0);
    virtio_queue_flush(queue);
}

static void stats_arm(struct virtio_balloon *balloon)
{
    if (balloon->timer != NULL &&
        virtio_has(&balloon->device, VIRTIO_BALLOON_F_STATS_VQ)) {
        loop_timer_arm(balloon->timer, clock_ns() + balloon->interval_ns);
    }
}

static void stats_timer(void *context)
{
    struct virtio_balloon *balloon = context;

    stats_ask(balloon);
    stats_arm(balloon);
}

/* ---- The device ------------------------------------------------------------------------ */

static void balloon_notify(struct virtio_device *device, struct virtio_queue *queue)
{
    struct virtio_balloon *balloon = balloon_of(device);

    if (queue->index == QUEUE_STATS && virtio_has(device, VIRTIO_BALLOON_F_STATS_VQ)) {
        stats_look(balloon, queue);
    } else if (queue->index <= QUEUE_DEFLATE ||
               virtio_has(device, VIRTIO_BALLOON_F_REPORTING)) {
        balloon_serve(balloon, queue);
    }
}

static int balloon_activate(struct virtio_device *device)
{
    stats_arm(balloon_of(device));
    return 0;
}

static void config_set(struct virtio_balloon *balloon, size_t offset, uint32_t value)
{
    store_le32(balloon->device.config + offset, value);
}

static void balloon_reset(struct virtio_device *device)
{
    struct virtio_balloon *balloon = balloon_of(device);

    if (balloon->timer != NULL) {
        loop_timer_disarm(balloon->timer);
    }
    balloon_pages_reset(balloon);
    config_set(balloon, offsetof(struct virtio_balloon_config, actual), 0);
    config_set(balloon, offsetof(struct virtio_balloon_config, poison_val), 0);
    stats_forget(balloon);
}

/* The driver says how much is in the balloon, and its poison (5.5.4). */
static void balloon_config_write(struct virtio_device *device, unsigned offset,
                                 unsigned size, const uint8_t *bytes)
{
    static const unsigned writable[] = {
        offsetof(struct virtio_balloon_config, actual),
        offsetof(struct virtio_balloon_config, poison_val),
    };

    for (unsigned i = 0; i < ARRAY_SIZE(writable); i++) {
        if (offset >= writable[i] && offset + size <= writable[i] + sizeof(uint32_t)) {
            memcpy(device->config + offset, bytes, size);
        }
    }
}

static int balloon_save(struct virtio_device *device, struct state_writer *writer)
{
    balloon_pages_save(balloon_of(device), writer);
    return 0;
}

static int balloon_load(struct virtio_device *device, struct state_reader *reader)
{
    balloon_pages_load(balloon_of(device), reader);
    stats_arm(balloon_of(device));
    return state_reader_error(reader, NULL);
}

static uint64_t pages_bytes(uint64_t pages)
{
    return pages << BALLOON_PAGE_SHIFT;
}

static const char *const stat_names[UMBRA_BALLOON_STAT_COUNT] = {
    [UMBRA_BALLOON_SWAP_IN] = "swap_in",
    [UMBRA_BALLOON_SWAP_OUT] = "swap_out",
    [UMBRA_BALLOON_MAJOR_FAULTS] = "major_faults",
    [UMBRA_BALLOON_MINOR_FAULTS] = "minor_faults",
    [UMBRA_BALLOON_FREE] = "free",
    [UMBRA_BALLOON_TOTAL] = "total",
    [UMBRA_BALLOON_AVAILABLE] = "available",
    [UMBRA_BALLOON_CACHES] = "caches",
    [UMBRA_BALLOON_HUGETLB_ALLOCATIONS] = "hugetlb_allocations",
    [UMBRA_BALLOON_HUGETLB_FAILURES] = "hugetlb_failures",
    [UMBRA_BALLOON_OOM_KILLS] = "oom_kills",
    [UMBRA_BALLOON_ALLOC_STALLS] = "alloc_stalls",
    [UMBRA_BALLOON_ASYNC_SCANS] = "async_scans",
    [UMBRA_BALLOON_DIRECT_SCANS] = "direct_scans",
    [UMBRA_BALLOON_ASYNC_RECLAIMS] = "async_reclaims",
    [UMBRA_BALLOON_DIRECT_RECLAIMS] = "direct_reclaims",
};

const char *virtio_balloon_stat_name(unsigned stat)
{
    return stat < UMBRA_BALLOON_STAT_COUNT ? stat_names[stat] : NULL;
}

static void balloon_stats(struct virtio_device *device, void *json)
{
    const struct virtio_balloon *balloon = balloon_of(device);
    json_t *guest = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        { "target", pages_bytes(BALLOON_CONFIG(balloon, num_pages)) },
        { "actual", pages_bytes(BALLOON_CONFIG(balloon, actual)) },
        { "inside", pages_bytes(balloon->pages_inside) },
        { "released", balloon->released },
        { "reported", balloon->reported },
        { "deflated", pages_bytes(balloon->deflated) },
        { "bad_pages", balloon->bad_pages },
        { "failures", balloon->failures },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        json_object_set_new(json, numbers[i].name,
                            json_integer((json_int_t)numbers[i].value));
    }
    for (unsigned i = 0; i < UMBRA_BALLOON_STAT_COUNT; i++) {
        if (balloon->values[i] != UINT64_MAX) {
            json_object_set_new(guest, stat_names[i],
                                json_integer((json_int_t)balloon->values[i]));
        }
    }
    json_object_set_new(json, "guest", guest);
}

static void balloon_destroy(struct virtio_device *device)
{
    struct virtio_balloon *balloon = balloon_of(device);

    loop_timer_destroy(balloon->timer);
    virtio_device_fini(device);
    virtqueue_chain_fini(&balloon->chain);
    free(balloon->inside);
    free(balloon);
}

static const struct virtio_device_facts balloon_facts = {
    .type = "virtio-balloon",
    .device_id = VIRTIO_ID_BALLOON,
    .pci_class = 0x050000, /* memory, RAM */
    .config_size = sizeof(struct virtio_balloon_config),
    .ops = {
        .activate = balloon_activate,
        .reset = balloon_reset,
        .notify = balloon_notify,
        .config_write = balloon_config_write,
        .save = balloon_save,
        .load = balloon_load,
        .stats = balloon_stats,
        .destroy = balloon_destroy,
    },
};

static int balloon_check(const struct virtio_device *device, struct umbra_error *error)
{
    if (device->facts != &balloon_facts) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL, "%s is not a balloon",
                         device->id);
    }
    return 0;
}

int virtio_balloon_set_target(struct virtio_device *device, uint64_t bytes,
                              struct umbra_error *error)
{
    struct virtio_balloon *balloon = balloon_of(device);
    uint64_t pages = bytes >> BALLOON_PAGE_SHIFT;
    int ret = balloon_check(device, error);

    if (ret < 0) {
        return ret;
    }
    if (bytes > guest_mem_ram_size(device->env->mem) || pages > UINT32_MAX) {
        return error_set(
            error, UMBRA_ERROR_USAGE, ERANGE,
            "%s: a target of %" PRIu64 " MiB is more than the guest's memory "
            "(%" PRIu64 " MiB)",
            device->id, bytes / MIB, guest_mem_ram_size(device->env->mem) / MIB);
    }
    pthread_mutex_lock(&device->lock);
    config_set(balloon, offsetof(struct virtio_balloon_config, num_pages),
               (uint32_t)pages);
    /* The same target again too: a guest that deflated in need looks at it anew. */
    virtio_config_changed(device);
    pthread_mutex_unlock(&device->lock);
    return 0;
}

int virtio_balloon_get_stats(struct virtio_device *device,
                             struct umbra_balloon_stats *stats, struct umbra_error *error)
{
    struct virtio_balloon *balloon = balloon_of(device);
    int ret = balloon_check(device, error);

    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&device->lock);
    *stats = (struct umbra_balloon_stats){
        .size = sizeof(*stats),
        .driver_ready = (virtio_status_read(device) & VIRTIO_CONFIG_S_DRIVER_OK) != 0,
        .target = pages_bytes(BALLOON_CONFIG(balloon, num_pages)),
        .actual = pages_bytes(BALLOON_CONFIG(balloon, actual)),
        .released = balloon->released,
        .reported = balloon->reported,
        .age_ms = balloon->values_ns == 0 ? UINT64_MAX
                                          : (clock_ns() - balloon->values_ns) / 1000000u,
    };
    memcpy(stats->guest, balloon->values, sizeof(stats->guest));
    if (balloon->interval_ns == 0) {
        stats_ask(balloon);
    }
    pthread_mutex_unlock(&device->lock);
    return 0;
}

static int balloon_set_up(struct virtio_balloon *balloon,
                          const struct virtio_balloon_options *options)
{
    struct virtio_device *device = &balloon->device;
    int ret;

    balloon->interval_ns = options->stats_ms * 1000000u;
    stats_forget(balloon);
    ret = balloon_pages_init(balloon);
    if (ret != 0) {
        return ret;
    }
    config_set(balloon, offsetof(struct virtio_balloon_config, num_pages),
               (uint32_t)(options->target >> BALLOON_PAGE_SHIFT));
    ret = virtio_device_add_queues(
        device, options->reporting ? QUEUE_REPORTING + 1 : QUEUE_STATS + 1,
        BALLOON_QUEUE_SIZE);
    if (ret == 0 && balloon->interval_ns != 0) {
        ret = loop_timer_create(device->env->loop, &device->lock, stats_timer, balloon,
                                &balloon->timer);
    }
    return ret;
}

int virtio_balloon_create(const struct device_env *env,
                          const struct virtio_balloon_options *options,
                          struct virtio_device **device, struct umbra_error *error)
{
    uint64_t features = VIRTIO_RING_FEATURES | VIRTIO_RING_IN_ORDER |
                        VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ);
    struct virtio_balloon *balloon = calloc(1, sizeof(*balloon));
    int ret = -ENOMEM;

    features |=
        options->deflate_on_oom ? VIRTIO_FEATURE(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) : 0;
    features |= options->reporting ? VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING) |
                                         VIRTIO_FEATURE(VIRTIO_BALLOON_F_PAGE_POISON)
                                   : 0;
    if (balloon != NULL) {
        ret = virtio_device_init(&balloon->device, &balloon_facts, env, options->id,
                                 features);
        if (ret != 0) {
            free(balloon);
            balloon = NULL;
        }
    }
    if (ret == 0) {
        ret = balloon_set_up(balloon, options);
    }
    if (ret != 0) {
        if (balloon != NULL) {
            balloon_destroy(&balloon->device);
        }
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "create %s", options->id);
    }
    *device = &balloon->device;
    return 0;
}
