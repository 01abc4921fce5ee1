/* SPDX-License-Identifier: MIT */
/* The debug console of Bochs and QEMU: a write is a byte of output, a read gives 0xe9. */
#ifndef DEVICES_BOARD_DEBUGCON_H
#define DEVICES_BOARD_DEBUGCON_H

#include "backend/chardev/char_end.h"
#include "devices/device.h"

struct debugcon_config {
    const char *id;
    struct char_end_config end;
};

/* One region, 0: one port. There is no flow control: what the end cannot take is dropped
 * and counted. */
int debugcon_create(const struct device_env *env, const struct debugcon_config *config,
                    struct device **device, struct umbra_error *error);

struct char_end *debugcon_end(struct device *device);

#endif
