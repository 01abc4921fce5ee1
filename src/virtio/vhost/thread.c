/* SPDX-License-Identifier: MIT */
/*
 * The thread of a device that another process serves: it alone talks to the back end,
 * moves its requests, notices that it is gone, and looks for its successor.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_config.h>

#include "base/error.h"
#include "base/event_fd.h"
#include "base/util.h"
#include "virtio/vhost/device.h"

#define MS UINT64_C(1000000)

enum {
    RETRY_MS = 100, /* between attempts to connect */
    RETRY_LATE_MS = 1000,
    RETRY_EARLY_MS = 3000, /* how long attempts are frequent */
    CONTEND_MS = 10,       /* until the device's lock is tried again */
};

static void device_count_in_flight(struct vhost_user_device *d)
{
    unsigned long count = 0;

    for (unsigned i = 0; i < d->remote_count; i++) {
        count += d->queues[i].relay.in_flight;
    }
    atomic_store_explicit(&d->in_flight, count, memory_order_relaxed);
}

/* ---- Losing a back end ---------------------------------------------------------------------- */

static void device_refuse(struct vhost_user_device *d)
{
    for (unsigned i = 0; i < d->remote_count; i++) {
        struct vhost_user_queue *q = &d->queues[i];

        if (q->serving && d->kind->relay) {
            unsigned count = relay_refuse(&q->relay, d->kind->refuse);

            atomic_fetch_add(&d->refused, count);
        }
    }
}

static void device_lost(struct vhost_user_device *d, const char *why)
{
    const struct log *log = d->device.env->log;
    char copy[160];

    snprintf(copy, sizeof(copy), "%s", why); /* it may be the connection's own */
    vhost_user_device_disconnect(d);
    device_count_in_flight(d);
    if (d->kind->relay && d->patience_ms > 0) {
        log_warning(log,
                    "%s: lost back end %s: %s; %lu requests wait up to %llu ms for its "
                    "successor",
                    d->device.id, d->name, copy, atomic_load(&d->in_flight),
                    (unsigned long long)d->patience_ms);
    } else {
        log_warning(log, "%s: lost back end %s: %s", d->device.id, d->name, copy);
    }
    d->lost_ns = clock_ns();
    d->retry_ns = d->lost_ns + RETRY_MS * MS;
    d->link_pending = true;
    d->failure_logged = false;
}

static void device_check_patience(struct vhost_user_device *d, uint64_t now)
{
    if (d->refusing || !d->kind->relay || now - d->lost_ns < d->patience_ms * MS) {
        return;
    }
    d->refusing = true;
    log_error(d->device.env->log,
              "%s: no back end at %s: requests fail until there is one again (%lu now)",
              d->device.id, d->name, atomic_load(&d->in_flight));
    device_refuse(d);
}

/* ---- Rings and the back end ------------------------------------------------------------------- */

static int device_send_features(struct vhost_user_device *d)
{
    uint64_t ring = d->kind->relay
                        ? VIRTIO_FEATURE(28 /* INDIRECT_DESC */)
                        : d->device.features & (VIRTIO_FEATURE(28) | VIRTIO_FEATURE(29));
    int ret =
        vhost_user_set_features(d->vu, (d->device.features & d->kind->features) |
                                           VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | ring);

    d->features_sent = ret == 0;
    return ret;
}

static bool ring_is_on(const struct vhost_user_device *d, unsigned index)
{
    return !d->cable_out && index < d->rings_wanted;
}

/* The user pulled the cable or plugged it in; the driver wants more rings, or fewer. */
static void device_follow_rings(struct vhost_user_device *d)
{
    bool out;
    int ret = 0;

    pthread_mutex_lock(&d->state_lock);
    out = d->unplugged;
    d->rings_wanted = d->rings_on;
    pthread_mutex_unlock(&d->state_lock);
    d->link_pending |= out != d->cable_out;
    d->cable_out = out;
    for (unsigned i = 0; ret == 0 && d->vu != NULL && i < d->remote_count; i++) {
        struct vhost_user_queue *q = &d->queues[i];

        if (q->started && q->enabled != ring_is_on(d, i)) {
            q->enabled = !q->enabled;
            ret = vhost_user_enable_queue(d->vu, i, q->enabled);
        }
    }
    if (ret != 0) {
        device_lost(d, d->vu->broken ? d->vu->fault : strerror(-ret));
    }
}

static int queue_start_relay(struct vhost_user_device *d, unsigned index)
{
    struct vhost_user_queue *q = &d->queues[index];
    struct remote_queue remote;
    uint64_t offset = 0;
    int ret;

    for (unsigned i = 0; i < index; i++) {
        offset += relay_bytes(d->device.queues[i].max_size);
    }
    q->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    q->call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q->kick_fd < 0 || q->call_fd < 0) {
        return -errno;
    }
    relay_attach(&q->relay, d->ring_host + offset, d->ring_base + offset);
    relay_describe(&q->relay, &remote);
    remote.kick_fd = q->kick_fd;
    remote.call_fd = q->call_fd;
    ret = d->vu->remote.ops->queue_start(&d->vu->remote, &remote);
    if (ret == 0) {
        q->started = true;
        relay_forward(&q->relay);
        event_signal(q->kick_fd);
    }
    return ret;
}

static int queue_start_direct(struct vhost_user_device *d, unsigned index)
{
    struct vhost_user_queue *q = &d->queues[index];
    struct virtio_queue *queue = &d->device.queues[index];
    int ret = remote_queue_start(&d->vu->remote, queue, index, q->guest_call_fd);

    if (ret == 0) {
        q->started = true;
        virtio_queue_rekick(queue);
        event_signal(q->guest_call_fd); /* used buffers that nobody was told of */
    }
    return ret;
}

/* The driver runs the queue: see that the back end serves it. */
static void queue_go(struct vhost_user_device *d, unsigned index)
{
    struct vhost_user_queue *q = &d->queues[index];
    int ret;

    if (!q->serving) {
        q->serving = true;
        q->stop_by_ns = 0;
        if (virtqueue_in_flight(&d->device.queues[index].vq) == 0) {
            relay_forget(&q->relay); /* reset since; after a pause they are there still */
        }
        if (d->vu == NULL && d->refusing) {
            device_refuse(d);
        }
    }
    if (q->started || d->vu == NULL) {
        return;
    }
    ret = d->features_sent ? 0 : device_send_features(d);
    if (ret == 0) {
        q->enabled = ring_is_on(d, index);
        d->vu->start_disabled = !q->enabled;
        ret = d->kind->relay ? queue_start_relay(d, index) : queue_start_direct(d, index);
    }
    if (ret != 0) {
        device_lost(d, d->vu->broken ? d->vu->fault : strerror(-ret));
    }
}

/* Have the back end let go of the queue. True: it has, or is no more. */
static bool queue_let_go(struct vhost_user_device *d, unsigned index)
{
    struct vhost_user_queue *q = &d->queues[index];
    struct virtio_queue *queue = &d->device.queues[index];
    uint64_t now = clock_ns();
    uint16_t base;
    int ret;

    if (!q->serving || !q->started || d->vu == NULL) {
        return true;
    }
    if (q->stop_by_ns == 0) {
        q->stop_by_ns = now + d->timeout_ms * MS;
    }
    if (d->kind->relay && q->relay.in_flight > 0) {
        if (now < q->stop_by_ns) {
            return false; /* it finishes them, and queue_called() sees it */
        }
        device_lost(d, "it does not finish its requests");
        return true;
    }
    ret = d->kind->relay ? d->vu->remote.ops->queue_stop(&d->vu->remote, index, &base)
                         : remote_queue_stop(&d->vu->remote, queue, index);
    if (ret != 0) {
        device_lost(d, d->vu->broken ? d->vu->fault : strerror(-ret));
        return true;
    }
    q->started = false;
    relay_detach(&q->relay);
    if (q->kick_fd >= 0) {
        close(q->kick_fd);
        close(q->call_fd);
        q->kick_fd = q->call_fd = -1;
    }
    return true;
}

/* The driver reset the device: requests that no back end finished are nobody's. */
static void device_forget(struct vhost_user_device *d)
{
    pthread_mutex_lock(&d->state_lock);
    for (unsigned i = 0; d->forget && i < d->remote_count; i++) {
        if (!d->queues[i].held) {
            relay_forget(&d->queues[i].relay);
        }
    }
    d->forget = false;
    pthread_mutex_unlock(&d->state_lock);
}

/* Bring the queues to where the driver wants them. */
static void device_settle(struct vhost_user_device *d)
{
    device_forget(d);
    for (unsigned i = 0; i < d->remote_count; i++) {
        struct vhost_user_queue *q = &d->queues[i];
        bool wanted, held;

        pthread_mutex_lock(&d->state_lock);
        wanted = q->wanted;
        held = q->held;
        if (d->features_fresh) {
            d->features_fresh = d->features_sent = false;
        }
        pthread_mutex_unlock(&d->state_lock);
        if (wanted) {
            queue_go(d, i);
        } else if (held && queue_let_go(d, i)) {
            q->serving = false;
            pthread_mutex_lock(&d->state_lock);
            q->held = q->wanted; /* it may be wanted again by now */
            pthread_cond_broadcast(&d->settled);
            pthread_mutex_unlock(&d->state_lock);
        }
    }
    device_count_in_flight(d);
}

/* ---- Events ------------------------------------------------------------------------------------- */

static void queue_kicked(struct vhost_user_device *d, unsigned index)
{
    struct vhost_user_queue *q = &d->queues[index];
    struct virtio_queue *queue = &d->device.queues[index];

    if (!q->serving || !event_take(queue->kick_fd)) {
        return;
    }
    virtio_queue_notified(queue);
    if (q->stop_by_ns != 0) {
        return; /* what came late is looked at when the queue goes on */
    }
    if (q->started) {
        if (relay_forward(&q->relay)) {
            event_signal(q->kick_fd);
        }
    } else if (d->refusing) {
        device_refuse(d);
    }
}

static void queue_called(struct vhost_user_device *d, unsigned index)
{
    struct vhost_user_queue *q = &d->queues[index];
    const char *why;

    if (q->started && event_take(q->call_fd) && relay_collect(&q->relay, &why) != 0) {
        device_lost(d, why);
    }
}

static void device_refresh(struct vhost_user_device *d)
{
    struct umbra_error error;

    if (d->kind->refresh(d, d->vu, d->config, &error) == 0) {
        d->config_pending = true;
    } else if (!d->vu->broken) {
        log_warning(d->device.env->log, "%s: %s", d->device.id, error.message);
    }
}

/* What it said while it was asked something else. */
static void device_look_back(struct vhost_user_device *d)
{
    if (d->vu != NULL && d->vu->config_changed) {
        d->vu->config_changed = false;
        device_refresh(d);
        if (d->vu->broken) {
            device_lost(d, d->vu->fault);
        }
    }
}

static void device_heard(struct vhost_user_device *d, bool request)
{
    int ret = request ? vhost_user_backend_request(d->vu) : vhost_user_heard(d->vu);

    if (ret == 1) {
        device_refresh(d);
    }
    if (d->vu->broken) {
        device_lost(d, d->vu->fault);
    }
}

/* ---- What needs the device's lock ------------------------------------------------------------------ */

/* True: done. The lock's holder may be waiting for this thread, so it is only tried. */
static bool device_tell_driver(struct vhost_user_device *d)
{
    if (d->link_pending && d->kind->link != NULL) {
        d->kind->link(d, d->vu != NULL && !d->cable_out);
        d->config_pending = true;
    }
    d->link_pending = false;
    if (!d->config_pending) {
        return true;
    }
    if (pthread_mutex_trylock(&d->device.lock) != 0) {
        return false;
    }
    if (memcmp(d->device.config, d->config, sizeof(d->config)) != 0) {
        memcpy(d->device.config, d->config, sizeof(d->config));
        virtio_config_changed(&d->device);
    }
    d->config_pending = false;
    pthread_mutex_unlock(&d->device.lock);
    return true;
}

static void device_write_config(struct vhost_user_device *d)
{
    uint8_t bytes[sizeof(d->write_bytes)];
    unsigned offset, size;

    pthread_mutex_lock(&d->state_lock);
    size = d->write_size;
    offset = d->write_offset;
    memcpy(bytes, d->write_bytes, sizeof(bytes));
    d->write_size = 0;
    pthread_mutex_unlock(&d->state_lock);
    if (size > 0 && d->vu != NULL) {
        memcpy(d->config + offset, bytes, size);
        d->config_pending = true;
        if (vhost_user_set_config(d->vu, offset, bytes, size) != 0) {
            device_lost(d, d->vu->fault);
        }
    }
}

/* ---- Finding a back end again ------------------------------------------------------------------------ */

static void device_retry(struct vhost_user_device *d, uint64_t now)
{
    struct umbra_error error = { 0 };
    struct vhost_user *vu;
    int ret;

    if (d->vu != NULL || now < d->retry_ns) {
        return;
    }
    ret = d->kind->open(d, &vu, &error);
    if (ret == 0) {
        ret = vhost_user_device_adopt(d, vu, &error);
    }
    if (ret != 0) {
        /* Not there yet: what one waits for. */
        bool absent = ret == -ENOENT || ret == -ECONNREFUSED;

        if (!absent && !d->failure_logged) {
            d->failure_logged = true;
            log_warning(d->device.env->log, "%s: %s", d->device.id, error.message);
        }
        now = clock_ns();
        d->retry_ns = now + MS * (now - d->lost_ns < RETRY_EARLY_MS * MS ? RETRY_MS
                                                                         : RETRY_LATE_MS);
        return;
    }
    d->refusing = false;
    d->link_pending = true;
    atomic_fetch_add(&d->reconnects, 1);
    log_info(d->device.env->log,
             "%s: back end %s is there again; it has %lu requests to do", d->device.id,
             d->name, atomic_load(&d->in_flight));
}

/* ---- The loop ------------------------------------------------------------------------------------------ */

/* Until when to sleep at most. */
static uint64_t device_deadline(const struct vhost_user_device *d, bool contended)
{
    uint64_t deadline = UINT64_MAX, now = clock_ns();

    if (d->vu == NULL) {
        deadline = d->retry_ns;
        if (!d->refusing && d->lost_ns + d->patience_ms * MS < deadline) {
            deadline = d->lost_ns + d->patience_ms * MS;
        }
    }
    for (unsigned i = 0; i < d->remote_count; i++) {
        uint64_t stop_by = d->queues[i].stop_by_ns;

        if (d->queues[i].serving && stop_by != 0 && stop_by < deadline) {
            deadline = stop_by;
        }
    }
    if (contended && now + CONTEND_MS * MS < deadline) {
        deadline = now + CONTEND_MS * MS;
    }
    return deadline;
}

static int poll_timeout(uint64_t deadline)
{
    uint64_t now = clock_ns();

    if (deadline == UINT64_MAX) {
        return -1;
    }
    return deadline <= now ? 0 : (int)((deadline - now + MS - 1) / MS);
}

/* Descriptors to poll; a negative one is passed over. Order: wake, socket, the back end's
 * requests, the kind's own, then each queue's kicks and calls. */
static void device_fill(struct vhost_user_device *d, struct pollfd *polls)
{
    polls[0].fd = d->wake_fd;
    polls[1].fd = d->vu != NULL ? d->vu->fd : -1;
    polls[2].fd = d->vu != NULL ? d->vu->backend_fd : -1;
    polls[3].fd = d->kind->watch_fd != NULL ? d->kind->watch_fd(d) : -1;
    for (unsigned i = 0; i < d->remote_count; i++) {
        const struct vhost_user_queue *q = &d->queues[i];
        bool kicks = d->kind->relay && q->serving && (q->started || d->refusing);

        polls[VHOST_USER_POLLS + 2 * i].fd = kicks ? d->device.queues[i].kick_fd : -1;
        polls[VHOST_USER_POLLS + 2 * i + 1].fd = q->started ? q->call_fd : -1;
    }
    for (unsigned i = 0; i < VHOST_USER_POLLS + 2 * d->remote_count; i++) {
        polls[i].events = POLLIN;
        polls[i].revents = 0;
    }
}

static void device_dispatch(struct vhost_user_device *d, const struct pollfd *polls)
{
    struct vhost_user *vu = d->vu;

    if (polls[0].revents != 0) {
        event_take(d->wake_fd);
    }
    for (unsigned i = 0; i < d->remote_count; i++) {
        if (polls[VHOST_USER_POLLS + 2 * i + 1].revents != 0 && d->vu == vu) {
            queue_called(d, i);
        }
        if (polls[VHOST_USER_POLLS + 2 * i].revents != 0 && d->vu == vu) {
            queue_kicked(d, i);
        }
    }
    if (polls[1].revents != 0 && d->vu != NULL) {
        device_heard(d, false);
    }
    if (polls[2].revents != 0 && d->vu != NULL && d->vu == vu) {
        device_heard(d, true);
    }
    if (polls[3].revents != 0) {
        d->kind->watch(d);
    }
}

static bool device_stopping(struct vhost_user_device *d)
{
    bool stop;

    pthread_mutex_lock(&d->state_lock);
    stop = d->stop;
    pthread_mutex_unlock(&d->state_lock);
    return stop;
}

void *vhost_user_device_run(void *context)
{
    struct vhost_user_device *d = context;
    unsigned count = VHOST_USER_POLLS + 2 * d->remote_count;

    while (!device_stopping(d)) {
        bool told;

        device_follow_rings(d);
        device_settle(d);
        device_write_config(d);
        device_look_back(d);
        told = device_tell_driver(d);
        device_fill(d, d->polls);
        if (poll(d->polls, count, poll_timeout(device_deadline(d, !told))) > 0) {
            device_dispatch(d, d->polls);
        }
        if (d->vu == NULL) {
            uint64_t now = clock_ns();

            device_retry(d, now);
            if (d->vu == NULL) {
                device_check_patience(d, now);
            }
        }
    }
    return NULL;
}
