/* SPDX-License-Identifier: MIT */
/* A virtio device that another process serves: its life and its connections. */
#include "virtio/vhost/device.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/virtio_config.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/util.h"

enum { LOCAL_QUEUE_SIZE = 64 };
enum { FEATURE_INDIRECT = 28, FEATURE_EVENT_IDX = 29, FEATURE_RING_RESET = 40 };

/* ---- Connections --------------------------------------------------------------------------- */

int vhost_user_device_dial(struct vhost_user_device *d, struct vhost_user **vu,
                           struct umbra_error *error)
{
    int fd, ret = vhost_user_dial(d->socket, &fd, error);

    return ret == 0 ? vhost_user_open(fd, d->socket, d->kind->protocol, d->timeout_ms, vu,
                                      error)
                    : ret;
}

/* Fresh memory for the rings of the relays: no earlier back end has it. */
static int device_map_rings(struct vhost_user_device *d, int *fd)
{
    void *host;
    int ret;

    *fd = memfd_create("umbra-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0) {
        return -errno;
    }
    /* Sealed, or the back end could take the memory away under us. */
    if (ftruncate(*fd, (off_t)d->ring_size) == 0 &&
        fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        host = mmap(NULL, d->ring_size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_NORESERVE, *fd, 0);
        if (host != MAP_FAILED) {
            d->ring_host = host;
            return 0;
        }
    }
    ret = -errno;
    close(*fd);
    return ret;
}

/* Where the back end sees the relays' rings: behind all of the guest's memory. */
static gpa device_ring_base(const struct guest_region *regions, size_t count)
{
    gpa end = 0;

    for (size_t i = 0; i < count; i++) {
        gpa last = regions[i].base + regions[i].size;

        end = last > end ? last : end;
    }
    return align_up(end, GIB) + GIB;
}

static int device_give_memory(struct vhost_user_device *d, struct vhost_user *vu)
{
    struct vhost_user_region table[VHOST_USER_REGIONS_MAX];
    const struct guest_region *regions;
    unsigned used = 0;
    size_t count;
    int fd = -1, ret;

    regions = guest_mem_regions(d->device.env->mem, &count);
    for (size_t i = 0; i < count && used < VHOST_USER_REGIONS_MAX - 1; i++) {
        table[used++] = (struct vhost_user_region){ .gpa = regions[i].base,
                                                    .size = regions[i].size,
                                                    .address = (uintptr_t)regions[i].host,
                                                    .fd_offset = regions[i].fd_offset,
                                                    .fd = regions[i].fd };
    }
    if (d->ring_size > 0) {
        ret = device_map_rings(d, &fd);
        if (ret != 0) {
            return ret;
        }
        table[used++] =
            (struct vhost_user_region){ .gpa = device_ring_base(regions, count),
                                        .size = d->ring_size,
                                        .address = (uintptr_t)d->ring_host,
                                        .fd = fd };
    }
    ret = vhost_user_set_memory(vu, table, used);
    if (fd >= 0) {
        close(fd);
    }
    d->ring_base = device_ring_base(regions, count);
    return ret;
}

/* What the driver may have been promised must be there still. */
static int device_check_features(const struct vhost_user_device *d,
                                 const struct vhost_user *vu, struct umbra_error *error)
{
    uint64_t missing = d->promised & ~vu->features;

    if (missing == 0) {
        return 0;
    }
    return error_set(error, UMBRA_ERROR_CONFIG, ENOTSUP,
                     "vhost-user back end %s: it came back without features 0x%llx that "
                     "the guest was offered",
                     d->name, (unsigned long long)missing);
}

int vhost_user_device_adopt(struct vhost_user_device *d, struct vhost_user *vu,
                            struct umbra_error *error)
{
    int ret = device_check_features(d, vu, error);

    if (ret == 0) {
        ret = d->kind->refresh(d, vu, d->config, error);
    }
    if (ret == 0) {
        ret = device_give_memory(d, vu);
        if (ret != 0) {
            error_set(error, UMBRA_ERROR_INTERNAL, -ret, "vhost-user back end %s: %s",
                      d->name, vu->broken ? vu->fault : strerror(-ret));
        }
    }
    d->vu = vu;
    if (ret != 0) {
        vhost_user_device_disconnect(d);
        return ret;
    }
    d->features_sent = false;
    d->config_pending = true;
    atomic_store(&d->connected, true);
    return 0;
}

static void queue_close_fds(struct vhost_user_queue *q)
{
    if (q->kick_fd >= 0) {
        close(q->kick_fd);
    }
    if (q->call_fd >= 0) {
        close(q->call_fd);
    }
    q->kick_fd = q->call_fd = -1;
}

void vhost_user_device_disconnect(struct vhost_user_device *d)
{
    for (unsigned i = 0; d->queues != NULL && i < d->remote_count; i++) {
        struct vhost_user_queue *q = &d->queues[i];

        if (q->started && !d->kind->relay) {
            remote_queue_recover(&d->device.queues[i]);
        }
        q->started = false;
        relay_detach(&q->relay);
        queue_close_fds(q);
    }
    if (d->ring_host != NULL) {
        munmap(d->ring_host, d->ring_size);
        d->ring_host = NULL;
    }
    vhost_user_close(d->vu);
    d->vu = NULL;
    atomic_store(&d->connected, false);
}

/* ---- Ops ------------------------------------------------------------------------------------- */

void vhost_user_device_wake(struct vhost_user_device *d)
{
    const uint64_t one = 1;

    while (write(d->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

int vhost_user_device_activate(struct virtio_device *device)
{
    struct vhost_user_device *d = vhost_user_device_of(device);

    pthread_mutex_lock(&d->state_lock);
    d->features_fresh = true;
    pthread_mutex_unlock(&d->state_lock);
    return 0;
}

int vhost_user_device_queue_start(struct virtio_device *device,
                                  struct virtio_queue *queue)
{
    struct vhost_user_device *d = vhost_user_device_of(device);
    struct vhost_user_queue *q = &d->queues[queue->index];

    if (!d->kind->relay) {
        q->guest_call_fd = virtio_queue_call_fd(queue);
        if (q->guest_call_fd < 0) {
            return -ENOTSUP;
        }
    }
    pthread_mutex_lock(&d->state_lock);
    q->wanted = q->held = true;
    pthread_mutex_unlock(&d->state_lock);
    vhost_user_device_wake(d);
    return 0;
}

void vhost_user_device_queue_stop(struct virtio_device *device,
                                  struct virtio_queue *queue)
{
    struct vhost_user_device *d = vhost_user_device_of(device);
    struct vhost_user_queue *q = &d->queues[queue->index];

    pthread_mutex_lock(&d->state_lock);
    q->wanted = false;
    vhost_user_device_wake(d);
    while (q->held) {
        pthread_cond_wait(&d->settled, &d->state_lock);
    }
    pthread_mutex_unlock(&d->state_lock);
}

void vhost_user_device_reset(struct virtio_device *device)
{
    struct vhost_user_device *d = vhost_user_device_of(device);

    pthread_mutex_lock(&d->state_lock);
    d->forget = true;
    pthread_mutex_unlock(&d->state_lock);
    vhost_user_device_wake(d);
}

void vhost_user_device_set_rings(struct vhost_user_device *d, unsigned count)
{
    pthread_mutex_lock(&d->state_lock);
    d->rings_on = count;
    pthread_mutex_unlock(&d->state_lock);
    vhost_user_device_wake(d);
}

void vhost_user_device_set_link(struct vhost_user_device *d, bool up)
{
    pthread_mutex_lock(&d->state_lock);
    d->unplugged = !up;
    pthread_mutex_unlock(&d->state_lock);
    vhost_user_device_wake(d);
}

void vhost_user_device_config_write(struct vhost_user_device *d, unsigned offset,
                                    unsigned size, const uint8_t *bytes)
{
    if (size > sizeof(d->write_bytes)) {
        return;
    }
    pthread_mutex_lock(&d->state_lock);
    d->write_offset = offset;
    d->write_size = size;
    memcpy(d->write_bytes, bytes, size);
    pthread_mutex_unlock(&d->state_lock);
    vhost_user_device_wake(d);
}

int vhost_user_device_save(struct virtio_device *device, struct state_writer *writer)
{
    struct vhost_user_device *d = vhost_user_device_of(device);

    (void)writer;
    if (!d->kind->stateless) {
        log_warning(device->env->log, "%s: what %s knows about the guest cannot be saved",
                    device->id, d->name);
        return -ENOTSUP;
    }
    if (atomic_load(&d->in_flight) > 0) {
        log_warning(device->env->log,
                    "%s: %lu requests wait for %s: the device cannot be saved now",
                    device->id, atomic_load(&d->in_flight), d->name);
        return -EBUSY;
    }
    return 0;
}

void vhost_user_device_stats(struct virtio_device *device, void *json)
{
    struct vhost_user_device *d = vhost_user_device_of(device);

    json_object_set_new(json, "backend", json_string("vhost-user"));
    json_object_set_new(json, "peer", json_string(d->name));
    json_object_set_new(json, "connected", json_boolean(atomic_load(&d->connected)));
    json_object_set_new(json, "reconnects",
                        json_integer((json_int_t)atomic_load(&d->reconnects)));
    json_object_set_new(json, "in_flight",
                        json_integer((json_int_t)atomic_load(&d->in_flight)));
    json_object_set_new(json, "refused",
                        json_integer((json_int_t)atomic_load(&d->refused)));
}

/* ---- Life -------------------------------------------------------------------------------------- */

void vhost_user_device_destroy(struct virtio_device *device)
{
    struct vhost_user_device *d = vhost_user_device_of(device);

    if (d->has_thread) {
        pthread_mutex_lock(&d->state_lock);
        d->stop = true;
        pthread_mutex_unlock(&d->state_lock);
        vhost_user_device_wake(d);
        pthread_join(d->thread, NULL);
    }
    vhost_user_device_disconnect(d);
    for (unsigned i = 0; d->queues != NULL && i < d->remote_count; i++) {
        relay_fini(&d->queues[i].relay);
    }
    if (d->kind->destroy != NULL) {
        d->kind->destroy(d);
    }
    virtio_device_fini(device);
    if (d->wake_fd >= 0) {
        close(d->wake_fd);
    }
    pthread_cond_destroy(&d->settled);
    pthread_mutex_destroy(&d->state_lock);
    free(d->queues);
    free(d->polls);
    free(d->name);
    free(d->socket);
    free(d);
}

static int device_create_queues(struct vhost_user_device *d,
                                const struct vhost_user_options *options,
                                struct umbra_error *error)
{
    unsigned each = d->kind->queues_each != 0 ? d->kind->queues_each : 1;
    unsigned max = d->vu->queue_max * each;
    unsigned count = options->queues, size = options->queue_size;
    int ret = 0;

    if (max < d->kind->queues_min) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOTSUP,
                         "vhost-user back end %s has %u queues, a %s needs %u", d->name,
                         max, d->kind->facts->type, d->kind->queues_min);
    }
    if (count > max) {
        log_warning(d->device.env->log, "%s: back end %s has %u queues, not %u",
                    d->device.id, d->name, max, count);
        count = max;
    }
    if (size > RELAY_QUEUE_MAX) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%s: vhost-user queues have at most %d entries, not %u",
                         options->id, RELAY_QUEUE_MAX, size);
    }
    d->queues = calloc(count, sizeof(*d->queues));
    d->polls = calloc(VHOST_USER_POLLS + 2 * (size_t)count, sizeof(*d->polls));
    ret = d->queues == NULL || d->polls == NULL
              ? -ENOMEM
              : virtio_device_add_queues(&d->device, count, size);
    d->remote_count = ret == 0 ? count : 0;
    if (ret == 0 && options->local_queues != 0) {
        ret =
            virtio_device_add_queues(&d->device, options->local_queues, LOCAL_QUEUE_SIZE);
    }
    for (unsigned i = 0; ret == 0 && i < count; i++) {
        d->queues[i].kick_fd = d->queues[i].call_fd = -1;
        if (d->kind->relay) {
            ret = relay_init(&d->queues[i].relay, &d->device.queues[i], size);
            d->ring_size += relay_bytes(size);
        }
    }
    return ret == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                                  "create %s with %u queues of %u entries", options->id,
                                  count, size);
}

/* What the guest is offered: of the device's kind what the back end has; of the rings what
 * their server can do. */
static int device_choose_features(struct vhost_user_device *d, struct umbra_error *error)
{
    uint64_t has = d->vu->features;
    uint64_t needed = VIRTIO_FEATURE(VIRTIO_F_VERSION_1);

    needed |= d->kind->relay ? VIRTIO_FEATURE(FEATURE_INDIRECT) : 0;
    if ((has & needed) != needed) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOTSUP,
                         "vhost-user back end %s offers features 0x%llx: virtio 1.0%s is "
                         "needed",
                         d->name, (unsigned long long)has,
                         d->kind->relay ? " with indirect descriptors" : "");
    }
    if (d->kind->protocol & VIRTIO_FEATURE(VHOST_USER_PROTOCOL_CONFIG) &&
        !vhost_user_has(d->vu, VHOST_USER_PROTOCOL_CONFIG)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOTSUP,
                         "vhost-user back end %s has no configuration space: is it of "
                         "another kind than %s?",
                         d->name, d->kind->facts->type);
    }
    d->promised = (has & d->kind->features) | needed;
    d->device.offered |= (has & d->kind->features) | d->kind->own_features;
    if (d->kind->relay) {
        d->device.offered |= VIRTIO_RING_FEATURES;
    } else {
        uint64_t ring =
            VIRTIO_FEATURE(FEATURE_INDIRECT) | VIRTIO_FEATURE(FEATURE_EVENT_IDX);

        d->promised |= has & ring;
        d->device.offered |= (has & ring) | VIRTIO_FEATURE(FEATURE_RING_RESET);
    }
    return 0;
}

static int device_start_thread(struct vhost_user_device *d)
{
    int ret = thread_start(&d->thread, d->device.id, vhost_user_device_run, d);

    if (ret == 0) {
        d->has_thread = true;
    }
    return ret;
}

static int device_check_memory(const struct guest_mem *mem, struct umbra_error *error)
{
    const struct guest_region *regions;
    size_t count;

    regions = guest_mem_regions(mem, &count);
    for (size_t i = 0; i < count; i++) {
        if (regions[i].fd < 0) {
            return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                             "vhost-user devices need guest memory that can be shared: "
                             "private memory cannot (\"mergeable\")");
        }
    }
    return count < VHOST_USER_REGIONS_MAX
               ? 0
               : error_set(error, UMBRA_ERROR_CONFIG, E2BIG,
                           "guest memory has more parts than vhost-user can share");
}

int vhost_user_device_create(struct vhost_user_device *d,
                             const struct vhost_user_kind *kind,
                             const struct device_env *env,
                             const struct vhost_user_options *options,
                             struct umbra_error *error)
{
    struct vhost_user *vu;
    int ret;

    d->kind = kind;
    d->rings_on = d->rings_wanted = UINT_MAX;
    pthread_mutex_init(&d->state_lock, NULL);
    pthread_cond_init(&d->settled, NULL);
    d->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    d->name = strdup(options->name);
    d->socket = options->socket != NULL ? strdup(options->socket) : NULL;
    d->patience_ms = options->patience_ms;
    d->timeout_ms =
        options->timeout_ms != 0 ? options->timeout_ms : VHOST_USER_TIMEOUT_MS;
    ret = virtio_device_init(&d->device, kind->facts, env, options->id, 0);
    if (ret != 0 || d->wake_fd < 0 || d->name == NULL ||
        (options->socket != NULL && d->socket == NULL)) {
        ret = error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create %s", options->id);
        goto fail;
    }
    ret = device_check_memory(env->mem, error);
    if (ret == 0) {
        ret = kind->open(d, &vu, error);
    }
    if (ret != 0) {
        goto fail;
    }
    d->vu = vu;
    ret = device_choose_features(d, error);
    if (ret == 0) {
        ret = device_create_queues(d, options, error);
    }
    if (ret == 0) {
        ret = vhost_user_device_adopt(d, vu, error);
    }
    if (ret != 0) {
        goto fail;
    }
    memcpy(d->device.config, d->config, sizeof(d->config));
    ret = device_start_thread(d);
    if (ret == 0) {
        return 0;
    }
    error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "create %s", options->id);
fail:
    error_prefix(error, "%s", options->id);
    vhost_user_device_destroy(&d->device);
    return ret;
}
