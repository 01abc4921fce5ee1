/* SPDX-License-Identifier: MIT */
/* Reset control register: bit 1 chooses a full reset, bit 2 going to 1 resets. */
#include "devices/board/reset_port.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"

enum { RESET_SYSTEM = 0x02, RESET_CPU = 0x04, RESET_FULL = 0x08 };

struct reset_port {
    struct device device;
    uint8_t value;
};

static struct reset_port *reset_port_of(struct device *device)
{
    return container_of(device, struct reset_port, device);
}

static uint64_t reset_port_read(struct device *device, unsigned region, uint64_t offset,
                                unsigned size)
{
    return reset_port_of(device)->value;
}

static void reset_port_write(struct device *device, unsigned region, uint64_t offset,
                             unsigned size, uint64_t value)
{
    struct reset_port *port = reset_port_of(device);
    uint8_t before = port->value;

    port->value = (uint8_t)value & (RESET_SYSTEM | RESET_CPU | RESET_FULL);
    if ((port->value & RESET_CPU) != 0 && (before & RESET_CPU) == 0) {
        device_event(device, DEVICE_EVENT_RESET, port->value);
    }
}

static void reset_port_reset(struct device *device)
{
    reset_port_of(device)->value = 0;
}

static int reset_port_save(struct device *device, struct state_writer *writer)
{
    state_begin(writer, device->id, 1);
    state_put_u64(writer, "value", reset_port_of(device)->value);
    state_end(writer);
    return 0;
}

static int reset_port_load(struct device *device, struct state_reader *reader)
{
    uint64_t value;
    int rc = state_open(reader, device->id, 1, NULL);

    if (rc < 0) {
        return rc;
    }
    value = state_get_u64(reader, "value", UINT8_MAX);
    rc = state_reader_error(reader, NULL);
    if (rc == 0) {
        reset_port_of(device)->value = (uint8_t)value;
    }
    return rc;
}

static void reset_port_destroy(struct device *device)
{
    device_fini(device);
    free(reset_port_of(device));
}

static const struct device_ops reset_port_ops = {
    .type = "reset-port",
    .read = reset_port_read,
    .write = reset_port_write,
    .reset = reset_port_reset,
    .save = reset_port_save,
    .load = reset_port_load,
    .destroy = reset_port_destroy,
};

int reset_port_create(const struct device_env *env,
                      const struct reset_port_config *config, struct device **device,
                      struct umbra_error *error)
{
    struct reset_port *port = calloc(1, sizeof(*port));

    if (port == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s",
                           config->id);
    }
    device_init(&port->device, &reset_port_ops, env, config->id);
    *device = &port->device;
    return 0;
}
