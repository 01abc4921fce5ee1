/* SPDX-License-Identifier: MIT */
/* Scan codes of PS/2 keyboards: sets 1 and 2, and the controller's translation. */
#include "devices/board/i8042_keys.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "devices/board/i8042.h"

/* Set 2 to set 1, as every AT keyboard controller has it. */
static const uint8_t translation[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, /* 00 */
    0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, /* 08 */
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, /* 10 */
    0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, /* 18 */
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, /* 20 */
    0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, /* 28 */
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, /* 30 */
    0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, /* 38 */
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, /* 40 */
    0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, /* 48 */
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, /* 50 */
    0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, /* 58 */
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, /* 60 */
    0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, /* 68 */
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, /* 70 */
    0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, /* 78 */
};

enum { SET2_F7 = 0x83, SET1_F7 = 0x41, SET2_SYSRQ = 0x84, SET1_SYSRQ = 0x54 };

uint8_t i8042_key_translate(uint8_t byte)
{
    if (byte < ARRAY_SIZE(translation)) {
        return translation[byte];
    }
    return byte == SET2_F7 ? SET1_F7 : byte == SET2_SYSRQ ? SET1_SYSRQ : byte;
}

static int key_set2(uint8_t code)
{
    if (code == SET1_F7) {
        return SET2_F7; /* 0x02 translates to it too, but no keyboard sends that */
    }
    for (unsigned i = 1; i < ARRAY_SIZE(translation); i++) {
        if (translation[i] == code) {
            return (int)i;
        }
    }
    return -EINVAL;
}

int i8042_key_encode(unsigned key, bool down, unsigned set,
                     uint8_t bytes[I8042_KEY_BYTES])
{
    uint8_t code = (uint8_t)(key & 0x7f);
    int set2 = key_set2(code), count = 0;

    if ((key & ~(unsigned)(I8042_EXTENDED | 0x7f)) != 0 || set2 < 0) {
        return -EINVAL;
    }
    if ((key & I8042_EXTENDED) != 0) {
        bytes[count++] = 0xe0;
    }
    if (set == 1) {
        bytes[count++] = down ? code : code | 0x80;
        return count;
    }
    if (!down) {
        bytes[count++] = 0xf0;
    }
    bytes[count++] = (uint8_t)set2;
    return count;
}

/* A US keyboard's rows: the code of the first key, then what each types. */
static const struct {
    uint8_t first;
    const char *plain, *shifted;
} rows[] = {
    { 0x01, "\033", "" },
    { 0x02, "1234567890-=\b\t", "!@#$%^&*()_+" },
    { 0x10, "qwertyuiop[]\n", "QWERTYUIOP{}" },
    { 0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~" },
    { 0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?" },
    { 0x39, " ", "" },
};

int i8042_key_for(char character, unsigned *key, bool *shift)
{
    const char *at;

    if (character == '\r') {
        character = '\n';
    }
    for (unsigned i = 0; i < ARRAY_SIZE(rows) && character != '\0'; i++) {
        at = strchr(rows[i].plain, character);
        *shift = at == NULL;
        if (at != NULL) {
            *key = rows[i].first + (unsigned)(at - rows[i].plain);
            return 0;
        }
        at = strchr(rows[i].shifted, character);
        if (at != NULL) {
            *key = rows[i].first + (unsigned)(at - rows[i].shifted);
            return 0;
        }
    }
    return -EINVAL;
}
