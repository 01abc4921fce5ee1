/* SPDX-License-Identifier: MIT */
/* The pvpanic ISA device: a guest kernel reports that it has panicked. */
#ifndef DEVICES_BOARD_PVPANIC_H
#define DEVICES_BOARD_PVPANIC_H

#include "devices/device.h"

/* Event bits; a read of the port gives the set that is understood. */
enum {
    PVPANIC_PANICKED = 1 << 0,
    PVPANIC_CRASH_LOADED = 1 << 1, /* the guest goes on to dump itself: not the end */
};

struct pvpanic_config {
    const char *id;
};

/* One region, 0: one port. A write is DEVICE_EVENT_PANIC with the bits understood. */
int pvpanic_create(const struct device_env *env, const struct pvpanic_config *config,
                   struct device **device, struct umbra_error *error);

#endif
