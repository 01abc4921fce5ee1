/* SPDX-License-Identifier: MIT */
/* The keyboard controller of a PC (8042) with a PS/2 keyboard, no mouse. */
#ifndef DEVICES_BOARD_I8042_H
#define DEVICES_BOARD_I8042_H

#include "devices/device.h"

enum { I8042_DATA_PORT = 0x60, I8042_COMMAND_PORT = 0x64, I8042_FAST_A20_PORT = 0x92 };

enum i8042_region {
    I8042_REGION_DATA,     /* port 0x60 */
    I8042_REGION_COMMAND,  /* port 0x64 */
    I8042_REGION_FAST_A20, /* port 0x92: bit 0 resets, bit 1 is A20; optional */
};

struct i8042_config {
    const char *id;
    unsigned gsi; /* of the keyboard: 1 */
};

/* Three regions of one port each (enum i8042_region). */
int i8042_create(const struct device_env *env, const struct i8042_config *config,
                 struct device **device, struct umbra_error *error);

/*
 * Press or release a key, named by its scan code of set 1 (with I8042_EXTENDED for those
 * behind 0xe0). Any thread, lock not held. -EAGAIN: the keyboard's 16-byte buffer is
 * full, -EINVAL: no such key, -ENODEV: the guest has disabled scanning.
 */
enum { I8042_EXTENDED = 0x100 };
int i8042_key(struct device *device, unsigned key, bool down);

/* The key (and whether Shift goes with it) that types @character on a US keyboard;
 * -EINVAL when none does. */
int i8042_key_for(char character, unsigned *key, bool *shift);

/* The state of the keyboard's LEDs as the guest set them: bit 0 scroll, 1 num, 2 caps. */
uint8_t i8042_leds(struct device *device);

#endif
