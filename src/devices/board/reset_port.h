/* SPDX-License-Identifier: MIT */
/*
 * The reset control register of PC chipsets (port 0xcf9): a write that takes bit 2 from 0
 * to 1 resets the machine; ACPI's reset register names the same port.
 *
 * It lies inside CF8..CFB, the PCI CONFIG_ADDRESS register. That one answers only 32-bit
 * accesses (PCI 3.0, 3.2.2.3.2), and a byte at CF9 is ordinary I/O, so this device goes
 * onto the bus with bus_add_nested(): an access goes to the innermost range that holds it
 * whole.
 */
#ifndef DEVICES_BOARD_RESET_PORT_H
#define DEVICES_BOARD_RESET_PORT_H

#include "devices/device.h"

struct reset_port_config {
    const char *id;
};

/* One region, 0: one port. */
int reset_port_create(const struct device_env *env,
                      const struct reset_port_config *config, struct device **device,
                      struct umbra_error *error);

#endif
