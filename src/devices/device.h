/* SPDX-License-Identifier: MIT */
/*
 * The device contract. A device is one file: private state that begins with a
 * `struct device`, a `static const struct device_ops`, and a create function. It reaches
 * the world only through its `struct device_env`.
 *
 * Locking: the bus and the loop take the device's lock around every op and callback, so a
 * device never locks. It must not call into another device while holding its own lock,
 * except through irq_*, loop_* and device_event().
 */
#ifndef DEVICES_DEVICE_H
#define DEVICES_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "base/log.h"
#include "devices/faults.h"

struct device;
struct guest_mem;
struct irq_chip;
struct irq_line;
struct loop;
struct state_reader;
struct state_writer;

struct device_ops {
    const char *type; /* "uart16550", "virtio-blk" */
    /*
     * An access by the guest: @region tells the device's regions apart (as registered
     * with the bus), @offset is within it, @size is 1, 2, 4 or 8 and [offset,
     * offset+size) lies inside. Values are in the low bits. A device without a read
     * returns all ones.
     */
    uint64_t (*read)(struct device *device, unsigned region, uint64_t offset,
                     unsigned size);
    void (*write)(struct device *device, unsigned region, uint64_t offset, unsigned size,
                  uint64_t value);
    /* Back to power-on state. */
    void (*reset)(struct device *device);
    /* Finish what is in flight and start nothing; the loop is already stopped. Optional.
     */
    void (*pause)(struct device *device);
    void (*resume)(struct device *device);
    /* All state through one tagged format (base/state.h). NULL: this device cannot. */
    int (*save)(struct device *device, struct state_writer *writer);
    int (*load)(struct device *device, struct state_reader *reader);
    /* Add members to a JSON object (a jansson json_t) of statistics. Optional. */
    void (*stats)(struct device *device, void *json);
    void (*destroy)(struct device *device);
};

/* What a device tells the machine about the guest. */
enum device_event_kind {
    DEVICE_EVENT_POWEROFF,   /* ACPI S5 */
    DEVICE_EVENT_RESET,      /* i8042, 0xcf9, ACPI reset register */
    DEVICE_EVENT_DEBUG_EXIT, /* value: what was written */
    DEVICE_EVENT_PANIC,      /* pvpanic; value: the event bits */
};

/* Who wants to see what devices do (UMBRA_EVENT_*). */
struct device_observer {
    atomic_uint wanted; /* bits of what anybody wants to see */
    /* Any thread, device locks are held. */
    void (*tell)(void *context, const struct umbra_event *event);
    void *context;
};

struct device_env {
    struct guest_mem *mem;
    struct irq_chip *irqs;
    struct loop *loop;
    const struct log *log;
    /* Any thread, device locks may be held; it only notes the event and kicks the vCPUs.
     */
    void (*event)(void *context, enum device_event_kind kind, uint32_t value);
    void *event_context;
    /*
     * Have the kernel signal @fd when the guest writes @length bytes (0: any) at
     * @address, matching @value when @match. -ENOTSUP where there is none: the write then
     * arrives as an ordinary op. NULL in unit tests.
     */
    int (*doorbell)(void *context, bool mmio, uint64_t address, unsigned length,
                    bool match, uint64_t value, int fd, bool add);
    void *doorbell_context;
    struct faults *faults;            /* what is to go wrong; NULL: nothing */
    struct device_observer *observer; /* NULL: nobody looks */
};

struct device {
    const struct device_ops *ops;
    const struct device_env *env;
    char id[32]; /* unique in a VM: "com1", "disk0"; names it in logs and statistics */
    pthread_mutex_t lock;
    unsigned faults;              /* FAULT_BITs that can be planned for it */
    enum fault_point fault_point; /* where its opportunities are: accesses, or requests */
};

/* Set up the common part; the mutex is recursive-free and released by device_fini. */
void device_init(struct device *device, const struct device_ops *ops,
                 const struct device_env *env, const char *id);
void device_fini(struct device *device);

/* irq_line_init() for the device's own line, where its interrupts are seen and lost. */
void device_irq_init(struct device *device, struct irq_line *line, unsigned gsi);

/* Calls ops->destroy, which frees; NULL is fine. */
void device_destroy(struct device *device);

/* An op with the device's lock held around it; ops that the device lacks do nothing. */
void device_reset(struct device *device);
void device_pause(struct device *device);
void device_resume(struct device *device);
/* -ENOTSUP, named in @error, when the device cannot. */
int device_save(struct device *device, struct state_writer *writer,
                struct umbra_error *error);
int device_load(struct device *device, struct state_reader *reader,
                struct umbra_error *error);
void device_stats(struct device *device, void *json);

static inline void device_event(struct device *device, enum device_event_kind kind,
                                uint32_t value)
{
    if (device->env->event != NULL) {
        device->env->event(device->env->event_context, kind, value);
    }
}

/* Tell who looks about @kind of the device called @id. */
static inline void device_tell(const struct device_env *env, enum umbra_event_kind kind,
                               const char *id, uint32_t queue, uint64_t value)
{
    struct device_observer *observer = env->observer;

    if (observer != NULL &&
        (atomic_load_explicit(&observer->wanted, memory_order_acquire) & kind) != 0) {
        const struct umbra_event event = { .size = sizeof(event),
                                           .kind = kind,
                                           .device = id,
                                           .queue = queue,
                                           .value = value };

        observer->tell(observer->context, &event);
    }
}

#endif
