/* SPDX-License-Identifier: MIT */
/*
 * A bus: an address space (ports or MMIO) whose ranges belong to devices. Lookup is a
 * binary search under a read lock that is dropped before the device is called, so a
 * device may move its own ranges (PCI BARs) from inside an access. Devices live as long
 * as the bus.
 */
#ifndef DEVICES_BUS_H
#define DEVICES_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/device.h"

struct bus;

int bus_create(const char *name, struct bus **bus);
void bus_destroy(struct bus *bus); /* does not destroy the devices */

/* Give [base, base + size) to @device as its region @region. -EEXIST on overlap. */
int bus_add(struct bus *bus, uint64_t base, uint64_t size, struct device *device,
            unsigned region);
/* The same inside a range that is there already (or in none): an access goes to the
 * innermost range that holds it whole. For 0xcf9 inside the PCI address register.
 * -EEXIST when it overlaps another nested range. */
int bus_add_nested(struct bus *bus, uint64_t base, uint64_t size, struct device *device,
                   unsigned region);
/* Take away the range that starts at @base (a nested one first). -ENOENT when there is
 * none. */
int bus_remove(struct bus *bus, uint64_t base);

/*
 * Route one access of 1, 2, 4 or 8 bytes. Nobody there: reads give all ones, writes
 * vanish, and the call returns false (so it can be counted). An access that straddles a
 * range's end counts as nobody's. Any thread.
 */
bool bus_read(struct bus *bus, uint64_t address, unsigned size, uint64_t *value);
bool bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value);

/* The device at @address, or NULL; for reports. */
struct device *bus_find(struct bus *bus, uint64_t address, uint64_t *base);

#endif
