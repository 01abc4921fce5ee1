/* SPDX-License-Identifier: MIT */
/*
 * The host kernel's vhost: it serves virtqueues in guest memory itself (<linux/vhost.h>).
 * What it does with the buffers is its kind's, such as virtio/net/vhost.c's.
 *
 * Threads: one at a time.
 */
#ifndef VIRTIO_VHOST_KERNEL_H
#define VIRTIO_VHOST_KERNEL_H

#include "virtio/vhost/remote.h"

struct vhost_kernel {
    struct remote remote;
    int fd;
    uint64_t features; /* that it offers */
};

/* Open @path (/dev/vhost-net) for the guest in @mem. *vhost is -1 in its fd on failure. */
int vhost_kernel_open(struct vhost_kernel *vhost, const char *path,
                      const struct guest_mem *mem, struct umbra_error *error);
void vhost_kernel_close(struct vhost_kernel *vhost);
int vhost_kernel_set_features(struct vhost_kernel *vhost, uint64_t features);

#endif
