/* SPDX-License-Identifier: MIT */
/* Virtqueues that the host's kernel serves. */
#include "virtio/vhost/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/vhost.h>

#include "base/error.h"
#include "base/util.h"

static int vhost_ioctl(const struct vhost_kernel *vhost, unsigned long request,
                       void *argument)
{
    int ret;

    do {
        ret = ioctl(vhost->fd, request, argument);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

static int vhost_start(struct remote *remote, const struct remote_queue *queue)
{
    const struct vhost_kernel *vhost = container_of(remote, struct vhost_kernel, remote);
    struct vhost_vring_state size = { queue->index, queue->size };
    struct vhost_vring_state base = { queue->index, queue->base };
    struct vhost_vring_addr address = { .index = queue->index,
                                        .desc_user_addr = queue->desc,
                                        .used_user_addr = queue->device,
                                        .avail_user_addr = queue->driver };
    struct vhost_vring_file kick = { queue->index, queue->kick_fd };
    struct vhost_vring_file call = { queue->index, queue->call_fd };
    const struct {
        unsigned long request;
        void *argument;
    } steps[] = { { VHOST_SET_VRING_NUM, &size },
                  { VHOST_SET_VRING_BASE, &base },
                  { VHOST_SET_VRING_ADDR, &address },
                  { VHOST_SET_VRING_CALL, &call },
                  { VHOST_SET_VRING_KICK, &kick } };
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < ARRAY_SIZE(steps); i++) {
        ret = vhost_ioctl(vhost, steps[i].request, steps[i].argument);
    }
    return ret;
}

static int vhost_stop(struct remote *remote, unsigned index, uint16_t *base)
{
    const struct vhost_kernel *vhost = container_of(remote, struct vhost_kernel, remote);
    struct vhost_vring_state state = { .index = index };
    int ret = vhost_ioctl(vhost, VHOST_GET_VRING_BASE, &state);

    *base = (uint16_t)state.num;
    return ret;
}

static const struct remote_ops vhost_ops = {
    .queue_start = vhost_start,
    .queue_stop = vhost_stop,
};

static int vhost_give_memory(const struct vhost_kernel *vhost,
                             const struct guest_mem *mem)
{
    const struct guest_region *regions;
    struct vhost_memory *table;
    size_t count;
    int ret;

    regions = guest_mem_regions(mem, &count);
    table = calloc(1, sizeof(*table) + count * sizeof(table->regions[0]));
    if (table == NULL) {
        return -ENOMEM;
    }
    table->nregions = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        table->regions[i].guest_phys_addr = regions[i].base;
        table->regions[i].memory_size = regions[i].size;
        table->regions[i].userspace_addr = (uintptr_t)regions[i].host;
    }
    ret = vhost_ioctl(vhost, VHOST_SET_MEM_TABLE, table);
    free(table);
    return ret;
}

int vhost_kernel_open(struct vhost_kernel *vhost, const char *path,
                      const struct guest_mem *mem, struct umbra_error *error)
{
    int ret;

    vhost->remote.ops = &vhost_ops;
    vhost->fd = open(path, O_RDWR | O_CLOEXEC);
    if (vhost->fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           errno == ENOENT
                               ? "the kernel's own network back end %s is not there "
                                 "(sudo modprobe vhost_net, or leave \"vhost\" out)"
                               : "open %s (join the group that may, or leave \"vhost\" "
                                 "out)",
                           path);
    }
    ret = vhost_ioctl(vhost, VHOST_SET_OWNER, NULL);
    if (ret == 0) {
        ret = vhost_ioctl(vhost, VHOST_GET_FEATURES, &vhost->features);
    }
    if (ret == 0) {
        ret = vhost_give_memory(vhost, mem);
    }
    if (ret != 0) {
        vhost_kernel_close(vhost);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "set %s up", path);
    }
    return 0;
}

void vhost_kernel_close(struct vhost_kernel *vhost)
{
    if (vhost->fd >= 0) {
        close(vhost->fd);
    }
    vhost->fd = -1;
}

int vhost_kernel_set_features(struct vhost_kernel *vhost, uint64_t features)
{
    return vhost_ioctl(vhost, VHOST_SET_FEATURES, &features);
}
