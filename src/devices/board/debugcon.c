/* SPDX-License-Identifier: MIT */
/* Debug console: one port, every byte written goes to the end. */
#include "devices/board/debugcon.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"

enum { DEBUGCON_SIGNATURE = 0xe9 };

struct debugcon {
    struct device device;
    struct char_end *end;
    uint64_t lost;
};

static struct debugcon *debugcon_of(struct device *device)
{
    return container_of(device, struct debugcon, device);
}

static uint64_t debugcon_read(struct device *device, unsigned region, uint64_t offset,
                              unsigned size)
{
    return DEBUGCON_SIGNATURE;
}

static void debugcon_write(struct device *device, unsigned region, uint64_t offset,
                           unsigned size, uint64_t value)
{
    struct debugcon *debugcon = debugcon_of(device);
    uint8_t byte = (uint8_t)value;

    if (char_end_write(debugcon->end, &byte, 1) == 0) {
        debugcon->lost++;
    }
}

static void debugcon_reset(struct device *device)
{
}

/* The section is empty, but there: a stream says which devices it was made of. */
static int debugcon_save(struct device *device, struct state_writer *writer)
{
    state_begin(writer, device->id, 1);
    state_end(writer);
    return 0;
}

static int debugcon_load(struct device *device, struct state_reader *reader)
{
    return state_open(reader, device->id, 1, NULL);
}

static void debugcon_stats(struct device *device, void *json)
{
    struct debugcon *debugcon = debugcon_of(device);
    struct char_end_stats stats;

    char_end_get_stats(debugcon->end, &stats);
    json_object_set_new(json, "bytes_out", json_integer((json_int_t)stats.bytes_out));
    json_object_set_new(json, "dropped",
                        json_integer((json_int_t)(stats.dropped + debugcon->lost)));
}

static void debugcon_destroy(struct device *device)
{
    struct debugcon *debugcon = debugcon_of(device);

    char_end_destroy(debugcon->end);
    device_fini(device);
    free(debugcon);
}

static const struct device_ops debugcon_ops = {
    .type = "debugcon",
    .read = debugcon_read,
    .write = debugcon_write,
    .reset = debugcon_reset,
    .save = debugcon_save,
    .load = debugcon_load,
    .stats = debugcon_stats,
    .destroy = debugcon_destroy,
};

static void debugcon_end_ready(void *context)
{
    uint8_t unread[64];

    /* Input has nowhere to go. */
    while (char_end_read(((struct debugcon *)context)->end, unread, sizeof(unread)) ==
           sizeof(unread)) {
    }
}

static const struct char_end_ops debugcon_end_ops = { .ready = debugcon_end_ready };

int debugcon_create(const struct device_env *env, const struct debugcon_config *config,
                    struct device **device, struct umbra_error *error)
{
    struct debugcon *debugcon = calloc(1, sizeof(*debugcon));
    int rc;

    if (debugcon == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s",
                           config->id);
    }
    device_init(&debugcon->device, &debugcon_ops, env, config->id);
    rc = char_end_create(env->loop, env->log, config->id, &config->end,
                         &debugcon->device.lock, &debugcon->end, error);
    if (rc < 0) {
        goto fail;
    }
    rc = char_end_attach(debugcon->end, &debugcon_end_ops, debugcon, error);
    if (rc < 0) {
        goto fail;
    }
    *device = &debugcon->device;
    return 0;

fail:
    debugcon_destroy(&debugcon->device);
    return rc;
}

struct char_end *debugcon_end(struct device *device)
{
    return debugcon_of(device)->end;
}
