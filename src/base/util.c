/* SPDX-License-Identifier: MIT */
/* Sizes as people write them. */
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int size_parse(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGTP";
    unsigned shift = 0;
    uint64_t value;
    char *end;

    if (!isdigit((unsigned char)text[0])) {
        return -EINVAL;
    }
    errno = 0;
    value = strtoull(text, &end, 0);
    if (errno != 0) {
        return -ERANGE;
    }
    if (*end != '\0') {
        const char *unit = strchr(units, toupper((unsigned char)*end));

        if (unit != NULL) {
            shift = 10 * (unsigned)(unit - units + 1);
            end++;
            if (*end == 'i') {
                end++;
            }
        }
        if (*end == 'B' || *end == 'b') {
            end++;
        }
        if (*end != '\0') {
            return -EINVAL;
        }
    }
    if (shift != 0 && value >> (64 - shift) != 0) {
        return -ERANGE;
    }
    *bytes = value << shift;
    return 0;
}

const char *size_format(uint64_t bytes, char *text, size_t size)
{
    static const char units[] = "\0KMGTP";
    unsigned unit = 0;

    while (bytes != 0 && bytes % 1024 == 0 && unit < 5) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, size, "%" PRIu64 "%.1s", bytes, &units[unit]);
    return text;
}
