/* SPDX-License-Identifier: MIT */
/*
 * The virtio device contract (virtio 1.2, chapters 2 and 3). A device is one file:
 * private state that begins with a `struct virtio_device`, a `static const struct
 * virtio_device_facts`, and a create function in virtio/registry.h. What it is is data;
 * how it behaves is ops. A transport (virtio/transport/pci.c, virtio/transport/mmio.c) owns it and drives it
 * through the second half of this header.
 *
 * Locks and threads. Every virtio device has its own lock, which the transport and the
 * loop take around all ops, so ops never take it. Order: the transport's device lock
 * (devices/device.h), then this one, then what the device's own threads share.
 *
 * A kick always arrives through the queue's kick_fd, signalled by the kernel (ioeventfd)
 * or by the transport. Who listens is the device's choice:
 *  - without queue_start, the core watches it on the VM's loop and calls notify() there
 *    with the lock held. Good for everything that does not block;
 *  - with queue_start, the device owns the queue from queue_start() to queue_stop() and
 *    listens itself: on a thread of its own (block) or by handing kick_fd and
 *    virtio_queue_call_fd() to an external back end (vhost).
 * virtio_queue_*, virtio_device_fail() and virtio_config_changed() take no lock: the
 * thread that owns a queue calls them.
 */
#ifndef VIRTIO_VIRTIO_H
#define VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "devices/device.h"
#include "loop/loop.h"
#include "virtio/stats.h"
#include "virtio/virtqueue/virtqueue.h"

enum { VIRTIO_MAX_QUEUES = 1024, VIRTIO_MAX_CONFIG = 256, VIRTIO_NO_VECTOR = 0xffff };

#define VIRTIO_FEATURE(bit) (UINT64_C(1) << (bit))

struct virtio_device;
struct virtio_queue;

struct virtio_device_ops {
    /*
     * The driver said DRIVER_OK: features are negotiated, enabled queues start right
     * after. Optional; an error puts the device into NEEDS_RESET.
     */
    int (*activate)(struct virtio_device *device);
    /* Back to the state before the driver came; all queues are stopped. Optional. */
    void (*reset)(struct virtio_device *device);
    /* The queue was kicked (or may have been). Loop thread. */
    void (*notify)(struct virtio_device *device, struct virtio_queue *queue);
    /*
     * The device takes the queue over (see above). queue_stop() returns when nothing of
     * it is in flight and nothing will touch it: at reset, queue reset and pause. After
     * a pause queue_start() is called again and the queue goes on where it stood.
     */
    int (*queue_start)(struct virtio_device *device, struct virtio_queue *queue);
    void (*queue_stop)(struct virtio_device *device, struct virtio_queue *queue);
    /* The ring of @queue is gone, by a reset of the queue or the device: chains popped from
     * it must be forgotten. Optional. */
    void (*queue_forget)(struct virtio_device *device, struct virtio_queue *queue);
    /* The driver wrote [offset, offset+size) of config space; without it writes vanish.
     */
    void (*config_write)(struct virtio_device *device, unsigned offset, unsigned size,
                         const uint8_t *bytes);
    /* The VM pauses: loop and queues are stopped. And goes on. Optional. */
    void (*pause)(struct virtio_device *device);
    void (*resume)(struct virtio_device *device);
    /* The device's own state, inside the section that the transport opened. Optional. */
    int (*save)(struct virtio_device *device, struct state_writer *writer);
    int (*load)(struct virtio_device *device, struct state_reader *reader);
    /* Add members to a JSON object (jansson json_t) besides the per-queue numbers. */
    void (*stats)(struct virtio_device *device, void *json);
    void (*destroy)(struct virtio_device *device);
};

struct virtio_device_facts {
    const char *type;   /* "virtio-blk" */
    uint32_t device_id; /* VIRTIO_ID_* */
    uint32_t pci_class; /* 24 bits */
    unsigned faults;    /* FAULT_BITs of its requests */
    unsigned config_size;
    struct virtio_device_ops ops;
};

/* Ring features that the core can do; a device offers them or a part. IN_ORDER costs
 * devices that finish out of order, so it is apart. */
#define VIRTIO_RING_FEATURES                                                             \
    (VIRTIO_FEATURE(32) /* VERSION_1 */ | VIRTIO_FEATURE(28) /* INDIRECT_DESC */ |       \
     VIRTIO_FEATURE(29) /* EVENT_IDX */ | VIRTIO_FEATURE(34) /* RING_PACKED */ |         \
     VIRTIO_FEATURE(40) /* RING_RESET */)
#define VIRTIO_RING_IN_ORDER VIRTIO_FEATURE(35)

struct virtio_queue {
    struct virtio_device *device;
    unsigned index;
    uint16_t max_size; /* offered */
    /* Set by the driver before it enables the queue. */
    uint16_t size;
    gpa desc_area, driver_area, device_area;
    bool enabled;
    bool running;         /* its ring is ours */
    bool attached;        /* somebody listens for kicks */
    atomic_ushort vector; /* MSI-X vector, VIRTIO_NO_VECTOR: none */
    int kick_fd;          /* nonblocking eventfd, lives as long as the device */
    struct loop_watch *watch;
    struct virtqueue vq;
    struct virtio_queue_stats stats;
    int relay_fd; /* -1; external back ends signal it while interrupts may be lost */
    struct loop_watch *relay_watch;
    void *opaque; /* the device's */
};

/* What a transport does for its device. Any thread, no lock needed. */
struct virtio_transport_ops {
    /* A used-buffer interrupt for @queue, or with NULL a configuration change. */
    void (*interrupt)(void *transport, struct virtio_queue *queue);
    /* An eventfd whose signal has the effect of interrupt(queue); owned by the transport,
     * valid while the queue runs. */
    int (*call_fd)(void *transport, struct virtio_queue *queue);
};

struct virtio_device {
    const struct virtio_device_facts *facts;
    const struct device_env *env;
    char id[32];
    pthread_mutex_t lock;
    uint64_t offered;  /* features */
    uint64_t features; /* accepted by the driver; fixed while queues run */
    atomic_uint status;
    atomic_uint generation; /* of the config space */
    atomic_bool failed;     /* NEEDS_RESET was said and logged */
    bool elsewhere; /* requests do not pass here: they can have no planned faults */
    bool paused;
    uint8_t config[VIRTIO_MAX_CONFIG]; /* little-endian, kept up to date by the device */
    unsigned queue_count;
    struct virtio_queue *queues;
    const struct virtio_transport_ops *transport;
    void *transport_context;
};

/* ---- For devices ------------------------------------------------------------------ */

/*
 * Set up the common part. @offered: the device's feature bits and those of
 * VIRTIO_RING_FEATURES that it wants. @queue_sizes: the largest size of each queue
 * (powers of two).
 */
int virtio_device_init(struct virtio_device *device,
                       const struct virtio_device_facts *facts,
                       const struct device_env *env, const char *id, uint64_t offered);
int virtio_device_add_queues(struct virtio_device *device, unsigned count, unsigned size);
void virtio_device_fini(struct virtio_device *device);
/* Calls the device's destroy, which frees; NULL is fine. Queues must be stopped. */
void virtio_device_destroy(struct virtio_device *device);

static inline bool virtio_has(const struct virtio_device *device, unsigned feature)
{
    return (device->features & VIRTIO_FEATURE(feature)) != 0;
}

/* The next chain; false: none, or the ring is malformed and the device now NEEDS_RESET.
 * Also false once the device failed. */
bool virtio_queue_pop(struct virtio_queue *queue, struct virtqueue_chain *chain);
void virtio_queue_push(struct virtio_queue *queue, const struct virtqueue_chain *chain,
                       uint32_t written);
/* Put the chain popped last back, as if it had not been. */
void virtio_queue_unpop(struct virtio_queue *queue, const struct virtqueue_chain *chain);
/* Publish what was pushed, and interrupt the driver if it wants that. */
void virtio_queue_flush(struct virtio_queue *queue);
/* Between these the driver need not kick; enable true: more came, go on. */
void virtio_queue_disable_kicks(struct virtio_queue *queue);
bool virtio_queue_enable_kicks(struct virtio_queue *queue);
/* Have the queue looked at again soon, as if the driver had kicked it. */
void virtio_queue_rekick(struct virtio_queue *queue);
/* The driver's kick has come: for those who listen themselves, once a wake-up. */
void virtio_queue_notified(struct virtio_queue *queue);
/*
 * One opportunity for planned faults: a request of @size bytes of data. Spurious interrupts
 * are done by this; true when @hits has something for the device to do.
 */
bool virtio_queue_draw(struct virtio_queue *queue, enum umbra_fault_direction direction,
                       uint64_t size, struct fault_hits *hits);
/* For external back ends: signalling it interrupts the driver for this queue. */
int virtio_queue_call_fd(struct virtio_queue *queue);

/* The device cannot go on until the driver resets it: says NEEDS_RESET and logs @why,
 * once. Queues stay silent from here on. */
void virtio_device_fail(struct virtio_device *device, const char *why);

/* After changing device->config (lock held): a new generation and an interrupt. */
void virtio_config_changed(struct virtio_device *device);

/* ---- For transports (transport's device lock held; these take device->lock) ---------
 */

/* The transport's device carries the virtio device's faults. */
void virtio_device_plan(const struct virtio_device *device, struct device *carrier);
void virtio_device_attach(struct virtio_device *device,
                          const struct virtio_transport_ops *ops, void *context);
/* The status register. Writing 0 resets and returns when everything is quiet. */
uint8_t virtio_status_read(const struct virtio_device *device);
void virtio_status_write(struct virtio_device *device, uint8_t status);
/* 32 bits of the feature words; @select 0 or 1, others read as zero. */
uint32_t virtio_features_read(const struct virtio_device *device, uint32_t select,
                              bool driver);
void virtio_features_write(struct virtio_device *device, uint32_t select, uint32_t value);
/* Config space; bytes outside read as zero. */
void virtio_config_read(struct virtio_device *device, unsigned offset, unsigned size,
                        uint8_t *bytes);
void virtio_config_write(struct virtio_device *device, unsigned offset, unsigned size,
                         const uint8_t *bytes);
struct virtio_queue *virtio_queue_get(struct virtio_device *device, unsigned index);
/* The driver enables a queue it described; it starts now if DRIVER_OK came already. */
void virtio_queue_enable(struct virtio_queue *queue);
/* Per-queue reset (2.6.1): stopped and back to its defaults when this returns. */
void virtio_queue_reset(struct virtio_queue *queue);
/* A kick that came as an ordinary write. */
void virtio_queue_kick(struct virtio_queue *queue);
void virtio_device_reset(struct virtio_device *device);
void virtio_device_pause(struct virtio_device *device);
void virtio_device_resume(struct virtio_device *device);
int virtio_device_save(struct virtio_device *device, struct state_writer *writer);
int virtio_device_load(struct virtio_device *device, struct state_reader *reader);
/* Inside load: map the ring of a queue that was running; it starts at resume. */
int virtio_queue_restore(struct virtio_queue *queue,
                         const struct virtqueue_position *position);
/* Everything known about the device into a JSON object (jansson json_t). */
void virtio_device_stats(struct virtio_device *device, void *json);

#endif
