/* SPDX-License-Identifier: MIT */
/*
 * Every virtio device that exists, by name: what the machine creates from a config. Each
 * create function is in the device's own file; the result goes to a transport
 * (virtio_pci_create or virtio_mmio_create), which owns it then.
 */
#ifndef VIRTIO_REGISTRY_H
#define VIRTIO_REGISTRY_H

#include <umbra/umbra.h>

#include "backend/chardev/char_end.h"
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
/*
 * Make the back end @bytes long (0: leave it), look at its size again and tell the guest; the
 * size is then in @size (may be NULL). A disk only grows. Any thread, no lock held.
 */
int virtio_blk_resize(struct virtio_device *device, uint64_t bytes, uint64_t *size,
                      struct umbra_error *error);

struct virtio_net_options {
    const char *id;
    uint8_t mac[6];
    unsigned mtu;        /* 0: the guest is told none */
    unsigned queue_size; /* 0: 256 */
    bool vhost;          /* a tap's frames are moved by the host's kernel */
};
/* Takes @backend over, also on failure. Needs env->loop. */
int virtio_net_create(const struct device_env *env,
                      const struct virtio_net_options *options,
                      struct net_backend *backend, struct virtio_device **device,
                      struct umbra_error *error);
/* Pull the guest's cable, or plug it in again. Any thread, no lock held. */
int virtio_net_set_link(struct virtio_device *device, bool up, struct umbra_error *error);

/* @rate: bytes a second, 0: unlimited. */
int virtio_rng_create(const struct device_env *env, const char *id, uint64_t rate,
                      struct virtio_device **device, struct umbra_error *error);

struct virtio_balloon_options {
    const char *id;
    uint64_t target;     /* bytes to have in the balloon */
    uint64_t stats_ms;   /* between statistics of the guest; 0: when someone asks */
    bool deflate_on_oom; /* the guest may take pages back rather than kill processes */
    bool reporting;      /* free pages go back to the host by themselves */
};
int virtio_balloon_create(const struct device_env *env,
                          const struct virtio_balloon_options *options,
                          struct virtio_device **device, struct umbra_error *error);
/* Any thread, no lock held. Both fail on a device that is no balloon. */
int virtio_balloon_set_target(struct virtio_device *device, uint64_t bytes,
                              struct umbra_error *error);
/* Fills @stats but for `resident`. Without an interval it asks the guest for new ones. */
int virtio_balloon_get_stats(struct virtio_device *device,
                             struct umbra_balloon_stats *stats,
                             struct umbra_error *error);
/* Of an enum umbra_balloon_stat, as in JSON; NULL outside. */
const char *virtio_balloon_stat_name(unsigned stat);
struct vhost_user_blk_options {
    const char *id, *socket;
    bool readonly;        /* the back end must be */
    unsigned queues;      /* 0: 1 */
    unsigned queue_size;  /* 0: 256 */
    uint64_t patience_ms; /* requests wait so long for a back end that is gone */
    unsigned timeout_ms;  /* for its answers, 0: the default */
};
/* A disk that another process serves. */
int vhost_user_blk_create(const struct device_env *env,
                          const struct vhost_user_blk_options *options,
                          struct virtio_device **device, struct umbra_error *error);

struct vhost_user_net_options {
    const char *id, *socket;
    uint8_t mac[6];
    unsigned pairs;      /* of queues, 0: 1; as many as the back end has */
    unsigned mtu;        /* 0: the guest is told none */
    unsigned queue_size; /* 0: 256 */
    unsigned timeout_ms;
};
/* A network that another process serves. */
int vhost_user_net_create(const struct device_env *env,
                          const struct vhost_user_net_options *options,
                          struct virtio_device **device, struct umbra_error *error);
/* virtio_net_set_link() for these; false: @device is none. */
bool vhost_user_net_set_link(struct virtio_device *device, bool up);

struct virtio_fs_options {
    const char *id, *tag;
    const char *path;   /* a folder, for which virtiofsd is started; or */
    const char *socket; /* somebody else's virtiofsd */
    bool readonly;      /* path only */
    unsigned timeout_ms;
};
int virtio_fs_create(const struct device_env *env,
                     const struct virtio_fs_options *options,
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
/* The terminal at port @index has another size. Any thread, no lock held. */
void virtio_console_resize(struct virtio_device *device, unsigned index, uint16_t columns,
                           uint16_t rows);
/* Type into port @index: as char_end_send(). */
int virtio_console_send(struct virtio_device *device, unsigned index, const void *bytes,
                        size_t length);

struct virtio_vsock_options {
    const char *id;
    uint32_t cid;     /* the guest's, at least 3 */
    const char *path; /* of the host's unix sockets; NULL: none */
    unsigned streams; /* connections at most; 0: 256 */
};
/* Needs env->loop. */
int virtio_vsock_create(const struct device_env *env,
                        const struct virtio_vsock_options *options,
                        struct virtio_device **device, struct umbra_error *error);
/*
 * Connect @fd, a stream socket, to @port of the guest. When the guest accepts it says
 * "OK HOST_PORT\n" there, otherwise it is closed. Taken over when this returns 0; -ENOSPC:
 * there are too many. Any thread, no lock held.
 */
int virtio_vsock_connect(struct virtio_device *device, uint32_t port, int fd);
/* From now on the guest may connect to @port: *queue (the device's) is a pipe of
 * descriptors, an int each, of which each belongs to whoever reads it. Any thread. */
int virtio_vsock_listen(struct virtio_device *device, uint32_t port, int *queue);

#endif
