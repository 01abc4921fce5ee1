/* SPDX-License-Identifier: MIT */
/*
 * A virtio device that another process serves (device.c), and what the kinds of
 * them (virtio/blk/vhost_user.c, virtio/fs/fs.c, virtio/net/vhost_user.c) say about themselves.
 */
#ifndef VIRTIO_VHOST_DEVICE_H
#define VIRTIO_VHOST_DEVICE_H

#include <poll.h>

#include "virtio/vhost/relay.h"
#include "virtio/vhost/user.h"

enum { VHOST_USER_POLLS = 4 /* of the thread, besides the queues' */ };

struct vhost_user_device;

struct vhost_user_kind {
    const struct virtio_device_facts *facts;
    uint64_t features;     /* of the device's type that pass through */
    uint64_t own_features; /* that are umbra's to offer */
    uint64_t protocol;     /* protocol features wanted */
    unsigned queues_min;   /* fewer make no device */
    unsigned queues_each;  /* back ends count sets of so many, 0: single ones */
    bool relay;            /* umbra keeps the requests; else the back end has the rings */
    bool stateless;        /* a back end's successor can go on where it stopped */
    /* A fresh connection, the first or a later one. */
    int (*open)(struct vhost_user_device *device, struct vhost_user **vu,
                struct umbra_error *error);
    /* Fill @config, config space, after looking at a fresh connection, or when the back end
     * says that it changed. An error leaves it as it was. */
    int (*refresh)(struct vhost_user_device *device, struct vhost_user *vu,
                   uint8_t *config, struct umbra_error *error);
    /* Relay: how a request is answered that no back end will answer. */
    relay_refuse_fn refuse;
    /* The connection is lost (@up false) or is there again, or the cable was pulled or plugged
     * in: change device->config. Optional. */
    void (*link)(struct vhost_user_device *device, bool up);
    /* Of the kind's own part, before the device is freed. Optional. */
    void (*destroy)(struct vhost_user_device *device);
    /* A descriptor to watch besides, -1: none, and what to do about it. Optional. */
    int (*watch_fd)(struct vhost_user_device *device);
    void (*watch)(struct vhost_user_device *device);
};

struct vhost_user_queue {
    struct relay relay;   /* kind->relay only */
    int kick_fd, call_fd; /* between us and the back end; call_fd: its */
    int guest_call_fd;    /* direct: the driver's interrupt */
    /* Under the device's state lock. */
    bool wanted; /* the driver runs it */
    bool held;   /* the thread may touch it */
    /* The thread's. */
    bool serving;        /* it was set up */
    bool started;        /* the back end has it, */
    bool enabled;        /* and serves it */
    uint64_t stop_by_ns; /* when patience with it ends, 0: it is not to stop */
};

struct vhost_user_options {
    const char *id;
    const char *name;   /* of the socket or folder, for messages */
    const char *socket; /* NULL: the kind opens otherwise */
    unsigned queues, queue_size;
    unsigned local_queues; /* behind those, which umbra serves itself */
    uint64_t patience_ms;  /* how long requests wait for a back end that is gone */
    unsigned timeout_ms;   /* for its answers, 0: VHOST_USER_TIMEOUT_MS */
};

struct vhost_user_device {
    struct virtio_device device; /* first */
    const struct vhost_user_kind *kind;
    char *name, *socket;
    unsigned timeout_ms;
    uint64_t patience_ms;
    struct vhost_user_queue *queues;
    pthread_t thread;
    bool has_thread;
    int wake_fd;
    unsigned remote_count; /* queues of the back end, the first ones */
    /* Shared with the thread. */
    pthread_mutex_t state_lock;
    pthread_cond_t settled;
    bool stop;
    bool forget;            /* the driver reset the device */
    bool unplugged;         /* the user pulled the cable */
    unsigned rings_on;      /* those behind so many are to be disabled */
    bool features_fresh;    /* the driver negotiated anew */
    uint8_t write_bytes[8]; /* of config space, by the driver */
    unsigned write_offset, write_size;
    /* The thread's, and creation's before there is one. */
    struct vhost_user *vu; /* NULL: no back end */
    uint8_t *ring_host;    /* memory of the relays' rings */
    uint64_t ring_size;
    gpa ring_base;     /* where the back end sees it */
    uint64_t promised; /* features that a successor must have */
    struct pollfd *polls;
    uint8_t config[VIRTIO_MAX_CONFIG];
    bool cable_out; /* unplugged and rings_on, as the back end knows them */
    unsigned rings_wanted;
    bool features_sent, config_pending, link_pending, failure_logged;
    uint64_t lost_ns, retry_ns;
    bool refusing; /* patience is over: requests are answered with errors */
    /* For statistics. */
    atomic_bool connected;
    atomic_ulong reconnects, refused, in_flight;
};

/*
 * Connect, and start the thread that lives with the back end. @device is zeroed memory
 * from calloc() that the kind's part may follow; it is freed on failure.
 */
int vhost_user_device_create(struct vhost_user_device *device,
                             const struct vhost_user_kind *kind,
                             const struct device_env *env,
                             const struct vhost_user_options *options,
                             struct umbra_error *error);
/* kind->open for a socket that somebody listens on. */
int vhost_user_device_dial(struct vhost_user_device *device, struct vhost_user **vu,
                           struct umbra_error *error);

/* Ops that all kinds share. */
#define VHOST_USER_DEVICE_OPS                                                            \
    .reset = vhost_user_device_reset, .queue_start = vhost_user_device_queue_start,      \
    .queue_stop = vhost_user_device_queue_stop, .save = vhost_user_device_save,          \
    .activate = vhost_user_device_activate, .stats = vhost_user_device_stats,            \
    .destroy = vhost_user_device_destroy
int vhost_user_device_activate(struct virtio_device *device);
void vhost_user_device_reset(struct virtio_device *device);
int vhost_user_device_queue_start(struct virtio_device *device,
                                  struct virtio_queue *queue);
void vhost_user_device_queue_stop(struct virtio_device *device,
                                  struct virtio_queue *queue);
int vhost_user_device_save(struct virtio_device *device, struct state_writer *writer);
void vhost_user_device_stats(struct virtio_device *device, void *json);
void vhost_user_device_destroy(struct virtio_device *device);
/* Have the first @count rings enabled, the others not. Any thread. */
void vhost_user_device_set_rings(struct vhost_user_device *device, unsigned count);
/* Pull the cable or plug it in. Any thread. */
void vhost_user_device_set_link(struct vhost_user_device *device, bool up);
/* The driver wrote to config space: tell the back end. Device's lock held. */
void vhost_user_device_config_write(struct vhost_user_device *device, unsigned offset,
                                    unsigned size, const uint8_t *bytes);

/* Inside device.c and thread.c. */

/* Give a fresh connection config space and memory; frees it on failure. */
int vhost_user_device_adopt(struct vhost_user_device *device, struct vhost_user *vu,
                            struct umbra_error *error);
/* Let go of the connection and what belongs to it; the queues are not started then. */
void vhost_user_device_disconnect(struct vhost_user_device *device);
void vhost_user_device_wake(struct vhost_user_device *device);
/* The thread. */
void *vhost_user_device_run(void *context);

static inline struct vhost_user_device *vhost_user_device_of(struct virtio_device *device)
{
    return container_of(device, struct vhost_user_device, device);
}

#endif
