/* SPDX-License-Identifier: MIT */
/* The public calls that change virtio devices while the VM lives. */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "virtio/registry.h"
#include "vmm/vm/vm.h"

/* The device of that name, unless the run has ended. */
static int live_device(struct umbra_vm *vm, const char *name,
                       struct virtio_device **device, struct umbra_error *error)
{
    int ret = callback_refuse(vm, "a change of a device", error);

    if (ret != 0) {
        return ret;
    }
    if (name == NULL) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL, "a device must be named");
    }
    if (vm_state(vm) == VM_ENDED) {
        return error_set(error, UMBRA_ERROR_STATE, ESHUTDOWN,
                         "%s: the run has ended, its devices stay as they are", name);
    }
    *device = machine_virtio_device(&vm->machine, name);
    if (*device == NULL) {
        return error_set(error, UMBRA_ERROR_USAGE, ENOENT,
                         "the VM has no virtio device \"%.64s\"", name);
    }
    return 0;
}

int umbra_balloon_set(struct umbra_vm *vm, const char *name, uint64_t bytes,
                      struct umbra_error *error)
{
    struct virtio_device *device;
    int ret = live_device(vm, name, &device, error);

    return ret == 0 ? virtio_balloon_set_target(device, bytes, error) : ret;
}

int umbra_balloon_stats(struct umbra_vm *vm, const char *name,
                        struct umbra_balloon_stats *stats, struct umbra_error *error)
{
    struct umbra_balloon_stats now;
    struct virtio_device *device;
    uint32_t size = stats->size < sizeof(now) ? stats->size : (uint32_t)sizeof(now);
    int ret = live_device(vm, name, &device, error);

    if (ret == 0) {
        ret = virtio_balloon_get_stats(device, &now, error);
    }
    if (ret == 0 && size > sizeof(now.size)) {
        now.resident = guest_mem_resident(vm->machine.mem);
        memcpy((char *)stats + sizeof(now.size), (const char *)&now + sizeof(now.size),
               size - sizeof(now.size));
    }
    return ret;
}

int umbra_disk_resize(struct umbra_vm *vm, const char *name, uint64_t bytes,
                      uint64_t *size, struct umbra_error *error)
{
    struct virtio_device *device;
    int ret = live_device(vm, name, &device, error);

    return ret == 0 ? virtio_blk_resize(device, bytes, size, error) : ret;
}

int umbra_net_set_link(struct umbra_vm *vm, const char *name, bool up,
                       struct umbra_error *error)
{
    struct virtio_device *device;
    int ret = live_device(vm, name, &device, error);

    return ret == 0 ? virtio_net_set_link(device, up, error) : ret;
}
