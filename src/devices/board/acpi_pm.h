/* SPDX-License-Identifier: MIT */
/* ACPI fixed hardware (ACPI 6.4, 4.8.3): PM1a event and control blocks and the PM timer.
 */
#ifndef DEVICES_BOARD_ACPI_PM_H
#define DEVICES_BOARD_ACPI_PM_H

#include "devices/device.h"

/* Offsets in the one region, which is 16 bytes long. */
enum {
    ACPI_PM1_STS = 0x0, /* 16 bits, write 1 to clear */
    ACPI_PM1_EN = 0x2,  /* 16 bits */
    ACPI_PM1_CNT = 0x4, /* 16 bits; SCI_EN is always set (there is no SMI_CMD) */
    ACPI_PM_TMR = 0x8,  /* 32 bits, read only, 3.579545 MHz */
    ACPI_PM_SIZE = 0x10,
};

struct acpi_pm_config {
    const char *id;
    unsigned gsi;        /* of the SCI: level triggered, active high */
    unsigned slp_typ_s5; /* the value of SLP_TYP that _S5 names */
};

int acpi_pm_create(const struct device_env *env, const struct acpi_pm_config *config,
                   struct device **device, struct umbra_error *error);

/* Press the power button: the guest gets an SCI if it listens. Any thread, lock not held.
 * -ENODEV when the guest has not enabled the button (the press is kept in the status). */
int acpi_pm_power_button(struct device *device);

#endif
