/* SPDX-License-Identifier: MIT */
/* Scan codes of PS/2 keyboards: sets 1 and 2, and the controller's translation. */
#ifndef DEVICES_BOARD_I8042_KEYS_H
#define DEVICES_BOARD_I8042_KEYS_H

#include <stdbool.h>
#include <stdint.h>

enum { I8042_KEY_BYTES = 3 };

/* What the controller makes of a byte of set 2. */
uint8_t i8042_key_translate(uint8_t byte);

/* The bytes that a keyboard sends for @key (as in i8042_key()) in scan set 1 or 2; their
 * count or -EINVAL. */
int i8042_key_encode(unsigned key, bool down, unsigned set,
                     uint8_t bytes[I8042_KEY_BYTES]);

#endif
