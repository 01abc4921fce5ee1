/* SPDX-License-Identifier: MIT */
/* Positions of the values in a JSON text. */
#include "vmm/config/position.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POSITION_DEPTH = 2048 }; /* jansson's own limit */

struct scanner {
    struct config_positions *positions;
    const char *p;
    unsigned line, column;
    unsigned depth;
};

static void scan_forward(struct scanner *scanner)
{
    if (*scanner->p == '\n') {
        scanner->line++;
        scanner->column = 1;
    } else if (((unsigned char)*scanner->p & 0xc0) != 0x80) {
        scanner->column++; /* a UTF-8 continuation byte is not a character */
    }
    scanner->p++;
}

static void scan_space(struct scanner *scanner)
{
    while (*scanner->p != '\0' && strchr(" \t\r\n", *scanner->p) != NULL) {
        scan_forward(scanner);
    }
}

/* Over a string in quotes; *start and *length are the token with them. */
static int scan_string(struct scanner *scanner, const char **start, size_t *length)
{
    if (*scanner->p != '"') {
        return -EINVAL;
    }
    *start = scanner->p;
    scan_forward(scanner);
    while (*scanner->p != '"') {
        if (*scanner->p == '\\') {
            scan_forward(scanner);
        }
        if (*scanner->p == '\0') {
            return -EINVAL;
        }
        scan_forward(scanner);
    }
    scan_forward(scanner);
    *length = (size_t)(scanner->p - *start);
    return 0;
}

/* The text of a string token; escapes are left to jansson. */
static char *token_text(const char *start, size_t length)
{
    json_t *string;
    char *text;

    if (memchr(start, '\\', length) == NULL) {
        return strndup(start + 1, length - 2);
    }
    string = json_loadb(start, length, JSON_DECODE_ANY, NULL);
    text = string != NULL ? strdup(json_string_value(string)) : NULL;
    json_decref(string);
    return text;
}

static int add_node(struct scanner *scanner, size_t parent, size_t *node)
{
    struct config_positions *positions = scanner->positions;

    if (positions->count == positions->capacity) {
        size_t capacity = positions->capacity * 2 + 64;
        struct config_position *nodes =
            realloc(positions->nodes, capacity * sizeof(*nodes));

        if (nodes == NULL) {
            return -ENOMEM;
        }
        positions->nodes = nodes;
        positions->capacity = capacity;
    }
    *node = positions->count++;
    positions->nodes[*node] = (struct config_position){ .parent = parent };
    return 0;
}

static int scan_value(struct scanner *scanner, size_t node);

/* One element of an array or one member of an object, up to the "," or closer. */
static int scan_child(struct scanner *scanner, size_t parent, char closer, size_t *child)
{
    const char *start;
    size_t length;
    int rc = add_node(scanner, parent, child);

    if (rc == 0 && closer == '}') {
        scanner->positions->nodes[*child].key_line = scanner->line;
        scanner->positions->nodes[*child].key_column = scanner->column;
        rc = scan_string(scanner, &start, &length);
        if (rc == 0) {
            char *key = token_text(start, length);

            scanner->positions->nodes[*child].key = key;
            rc = key != NULL ? 0 : -ENOMEM;
        }
        scan_space(scanner);
        if (rc == 0 && *scanner->p == ':') {
            scan_forward(scanner);
        }
    }
    if (rc == 0) {
        rc = scan_value(scanner, *child);
    }
    scan_space(scanner);
    return rc;
}

static int scan_container(struct scanner *scanner, size_t node, char closer)
{
    size_t last = 0, index = 0;

    if (++scanner->depth > POSITION_DEPTH) {
        return -EINVAL;
    }
    scan_forward(scanner);
    scan_space(scanner);
    while (*scanner->p != closer) {
        size_t child;
        int rc = scan_child(scanner, node, closer, &child);

        if (rc != 0) {
            return rc;
        }
        scanner->positions->nodes[child].index = index++;
        if (last == 0) {
            scanner->positions->nodes[node].first_child = child;
        } else {
            scanner->positions->nodes[last].next = child;
        }
        last = child;
        if (*scanner->p == ',') {
            scan_forward(scanner);
            scan_space(scanner);
        } else if (*scanner->p != closer) {
            return -EINVAL;
        }
    }
    scan_forward(scanner);
    scanner->depth--;
    return 0;
}

static int scan_value(struct scanner *scanner, size_t node)
{
    const char *start;
    size_t length;

    scan_space(scanner);
    scanner->positions->nodes[node].line = scanner->line;
    scanner->positions->nodes[node].column = scanner->column;
    switch (*scanner->p) {
    case '{':
        return scan_container(scanner, node, '}');
    case '[':
        return scan_container(scanner, node, ']');
    case '"':
        return scan_string(scanner, &start, &length);
    default:
        length = strcspn(scanner->p, " \t\r\n,]}");
        scanner->p += length;
        scanner->column += (unsigned)length;
        return length > 0 ? 0 : -EINVAL;
    }
}

int config_positions_scan(struct config_positions *positions, const char *text)
{
    struct scanner scanner = {
        .positions = positions, .p = text, .line = 1, .column = 1
    };
    size_t root;
    int rc;

    *positions = (struct config_positions){ 0 };
    rc = add_node(&scanner, 0, &root);
    return rc != 0 ? rc : scan_value(&scanner, root);
}

void config_positions_free(struct config_positions *positions)
{
    for (size_t i = 0; i < positions->count; i++) {
        free(positions->nodes[i].key);
    }
    free(positions->nodes);
    *positions = (struct config_positions){ 0 };
}

/* A key that is not a plain word is quoted: $["two words"]. */
static int node_text(const struct config_positions *positions, size_t node, char *text,
                     size_t size)
{
    const struct config_position *position = &positions->nodes[node];
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz_-0123456789"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

    if (position->key == NULL) {
        return snprintf(text, size, "[%zu]", position->index);
    }
    if (position->key[0] != '\0' && position->key[strspn(position->key, plain)] == '\0') {
        return snprintf(text, size, ".%.64s", position->key);
    }
    return snprintf(text, size, "[\"%.64s\"]", position->key);
}

const char *config_positions_path(const struct config_positions *positions, size_t node,
                                  char *path, size_t size)
{
    enum { LEVELS = 8 };
    size_t levels[LEVELS], depth = 0, used;

    for (; node != 0 && depth < LEVELS; node = positions->nodes[node].parent) {
        levels[depth++] = node;
    }
    used = (size_t)snprintf(path, size, node != 0 ? "$..." : "$");
    while (depth-- > 0 && used < size) {
        used += (size_t)node_text(positions, levels[depth], path + used, size - used);
    }
    return path;
}
