/* SPDX-License-Identifier: MIT */
/*
 * Where each value of a JSON text stands. jansson checks the syntax but keeps no
 * positions, so the text that it accepted is walked once more; keys that occur twice are
 * seen too.
 */
#ifndef VMM_CONFIG_POSITION_H
#define VMM_CONFIG_POSITION_H

#include <stddef.h>

struct config_position {
    char *key;                        /* in an object; NULL in an array and at the root */
    size_t index;                     /* in an array */
    size_t parent, first_child, next; /* nodes; 0 is the root and means none */
    unsigned line, column;            /* of the value, from 1, in characters */
    unsigned key_line, key_column;    /* of the key in an object */
};

struct config_positions {
    struct config_position *nodes;
    size_t count, capacity;
};

/* Walk @text, which jansson has accepted. 0, -ENOMEM, or -EINVAL for other text. */
int config_positions_scan(struct config_positions *positions, const char *text);
void config_positions_free(struct config_positions *positions);

/* "$.disks[0].path" for @node; a very long one is cut. */
const char *config_positions_path(const struct config_positions *positions, size_t node,
                                  char *path, size_t size);

#endif
