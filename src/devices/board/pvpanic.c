/* SPDX-License-Identifier: MIT */
/* pvpanic: one port; reading tells which events count, writing reports them. */
#include "devices/board/pvpanic.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"

enum { PVPANIC_EVENTS = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED };

static uint64_t pvpanic_read(struct device *device, unsigned region, uint64_t offset,
                             unsigned size)
{
    return PVPANIC_EVENTS;
}

static void pvpanic_write(struct device *device, unsigned region, uint64_t offset,
                          unsigned size, uint64_t value)
{
    uint32_t events = (uint32_t)value & PVPANIC_EVENTS;

    if (events != 0) {
        log_info(device->env->log, "%s: the guest reports a panic%s", device->id,
                 (events & PVPANIC_CRASH_LOADED) != 0 ? " and dumps itself" : "");
        device_event(device, DEVICE_EVENT_PANIC, events);
    }
}

static void pvpanic_reset(struct device *device)
{
}

static int pvpanic_save(struct device *device, struct state_writer *writer)
{
    state_begin(writer, device->id, 1);
    state_end(writer);
    return 0;
}

static int pvpanic_load(struct device *device, struct state_reader *reader)
{
    return state_open(reader, device->id, 1, NULL);
}

static void pvpanic_destroy(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_ops pvpanic_ops = {
    .type = "pvpanic",
    .read = pvpanic_read,
    .write = pvpanic_write,
    .reset = pvpanic_reset,
    .save = pvpanic_save,
    .load = pvpanic_load,
    .destroy = pvpanic_destroy,
};

int pvpanic_create(const struct device_env *env, const struct pvpanic_config *config,
                   struct device **device, struct umbra_error *error)
{
    struct device *new = calloc(1, sizeof(*new));

    if (new == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s",
                           config->id);
    }
    device_init(new, &pvpanic_ops, env, config->id);
    *device = new;
    return 0;
}
