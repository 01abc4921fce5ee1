/* SPDX-License-Identifier: MIT */
/* The debug-exit port: what the guest writes ends the run (DEVICE_EVENT_DEBUG_EXIT). */
#ifndef DEVICES_BOARD_DEBUG_EXIT_H
#define DEVICES_BOARD_DEBUG_EXIT_H

#include "devices/device.h"

enum { DEBUG_EXIT_PORTS = 4 };

struct debug_exit_config {
    const char *id;
};

/* One region, 0: 4 ports, so that outb, outw and outl all serve. Reads give 0. */
int debug_exit_create(const struct device_env *env,
                      const struct debug_exit_config *config, struct device **device,
                      struct umbra_error *error);

#endif
