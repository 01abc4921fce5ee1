/* SPDX-License-Identifier: MIT */
/*
 * Every virtio device that exists, by name: what the machine creates from a config. Each
 * create function is in the device's own file; the result goes to a transport
 * (virtio_pci_create or virtio_mmio_create), which owns it then.
 */
#ifndef VIRTIO_REGISTRY_H
#define VIRTIO_REGISTRY_H

#include <umbra/umbra.h>

#include "devices/char_end.h"
#include "devices/device.h"
#include "virtio/virtio.h"

struct disk;
struct net_backend;

struct virtio_blk_options {
    const char *id;
    const char *serial;  /* up to 20 bytes; NULL: the id */
    unsigned queues;     /* 0: 1 */
    unsigned queue_size; /* 0: 256 */
    bool poll;           /* busy-poll the queues instead of sleeping */
};
/* Takes @disk over, also on failure. */
int virtio_blk_create(const struct device_env *env,
                      const struct virtio_blk_options *config, struct disk *disk,
                      struct virtio_device **device, struct umbra_error *error);
/* Look at the back end's size again and tell the guest. Any thread, no lock held. */
int virtio_blk_resize(struct virtio_device *device, struct umbra_error *error);

struct virtio_net_options {
    const char *id;
    uint8_t mac[6];
    unsigned mtu;        /* 0: the guest is told none */
    unsigned queue_size; /* 0: 256 */
};
/* Takes @backend over, also on failure. Needs env->loop. */
int virtio_net_create(const struct device_env *env,
                      const struct virtio_net_options *options,
                      struct net_backend *backend, struct virtio_device **device,
                      struct umbra_error *error);
/* Pull the guest's cable, or plug it in again. Any thread, no lock held. */
void virtio_net_set_link(struct virtio_device *device, bool up);

/* @rate: bytes a second, 0: unlimited. */
int virtio_rng_create(const struct device_env *env, const char *id, uint64_t rate,
                      struct virtio_device **device, struct umbra_error *error);

struct virtio_console_port {
    const char *name; /* /dev/virtio-ports/NAME in a Linux guest */
    bool console;     /* a console (hvcN) rather than a plain channel */
    struct char_end_config end;
};
/* A console with @count ports, at least one. */
int virtio_console_create(const struct device_env *env, const char *id,
                          const struct virtio_console_port *ports, unsigned count,
                          struct virtio_device **device, struct umbra_error *error);
/* The host's terminal has another size. Any thread, no lock held. */
void virtio_console_resize(struct virtio_device *device, uint16_t columns, uint16_t rows);

#endif
