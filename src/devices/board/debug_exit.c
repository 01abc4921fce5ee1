/* SPDX-License-Identifier: MIT */
/* Debug-exit port: a write of any size is the event, its value the guest's verdict. */
#include "devices/board/debug_exit.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"

static uint64_t debug_exit_read(struct device *device, unsigned region, uint64_t offset,
                                unsigned size)
{
    return 0;
}

static void debug_exit_write(struct device *device, unsigned region, uint64_t offset,
                             unsigned size, uint64_t value)
{
    device_event(device, DEVICE_EVENT_DEBUG_EXIT, (uint32_t)value);
}

static void debug_exit_reset(struct device *device)
{
}

static int debug_exit_save(struct device *device, struct state_writer *writer)
{
    state_begin(writer, device->id, 1);
    state_end(writer);
    return 0;
}

static int debug_exit_load(struct device *device, struct state_reader *reader)
{
    return state_open(reader, device->id, 1, NULL);
}

static void debug_exit_destroy(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_ops debug_exit_ops = {
    .type = "debug-exit",
    .read = debug_exit_read,
    .write = debug_exit_write,
    .reset = debug_exit_reset,
    .save = debug_exit_save,
    .load = debug_exit_load,
    .destroy = debug_exit_destroy,
};

int debug_exit_create(const struct device_env *env,
                      const struct debug_exit_config *config, struct device **device,
                      struct umbra_error *error)
{
    struct device *new = calloc(1, sizeof(*new));

    if (new == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s",
                           config->id);
    }
    device_init(new, &debug_exit_ops, env, config->id);
    *device = new;
    return 0;
}
