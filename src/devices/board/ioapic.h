/* SPDX-License-Identifier: MIT */
/*
 * An IOAPIC in userspace (Intel 82093AA), for the split irqchip where only the local APICs
 * are KVM's: pins become messages to them.
 */
#ifndef DEVICES_BOARD_IOAPIC_H
#define DEVICES_BOARD_IOAPIC_H

#include "devices/device.h"

enum { IOAPIC_SIZE = 0x1000 };

struct ioapic_config {
    const char *id;
    unsigned apic_id;
    /* Pin @pin now sends this message (masked: none): KVM wants to know, so that the EOI of
     * a level-triggered vector comes back. May be NULL. */
    void (*route)(void *context, unsigned pin, bool masked, uint64_t address,
                  uint32_t data);
    void *context;
};

/* One region, 0: its 4 KiB of MMIO. */
int ioapic_create(const struct device_env *env, const struct ioapic_config *config,
                  struct device **device, struct umbra_error *error);

/* Drive a pin; any thread, the IOAPIC's lock not held. */
void ioapic_set_pin(struct device *device, unsigned pin, bool level);

/* A local APIC acknowledged @vector; any thread, lock not held. */
void ioapic_eoi(struct device *device, unsigned vector);

#endif
