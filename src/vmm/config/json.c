/* SPDX-License-Identifier: MIT */
/* Strict JSON into a configuration, by the table of keys. */
#include "vmm/config/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "vmm/config/position.h"
#include "vmm/config/value.h"

struct reader {
    struct umbra_config *config;
    const char *name, *base_dir;
    struct config_positions positions;
    struct config_errors *errors;
};

static struct config_place value_place(const struct reader *reader, size_t node)
{
    const struct config_position *position = &reader->positions.nodes[node];

    return (struct config_place){ reader->name, position->line, position->column };
}

static void fault(struct reader *reader, size_t node, const struct config_place *place,
                  const char *message)
{
    char path[256];

    config_errors_add(reader->errors, place,
                      config_positions_path(&reader->positions, node, path, sizeof(path)),
                      UMBRA_ERROR_CONFIG, "%s", message);
}

static const char *json_kind(const json_t *json)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",
        [JSON_ARRAY] = "a list",
        [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a whole number",
        [JSON_REAL] = "a number with a fraction",
        [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",
        [JSON_NULL] = "null",
    };

    return names[json_typeof(json)];
}

static int refuse_type(const struct config_key *key, const json_t *json,
                       struct config_why *why)
{
    char expected[256];

    return config_refuse(why, "expected %s, got %s",
                         config_value_expected(key, expected, sizeof(expected)),
                         json_kind(json));
}

/* ---- Scalars ----------------------------------------------------------------- */

static int read_seconds(const struct config_key *key, void *object, double seconds,
                        struct config_why *why)
{
    double ms = seconds * 1000 + 0.5; /* truncated below: rounded */

    /* Compared as doubles first: the conversion of a larger one is undefined. */
    if (!(seconds >= 0 && ms <= (double)key->max + 0.5)) {
        return config_refuse(why, "out of range: expected 0 to %.0f seconds",
                             (double)key->max / 1000);
    }
    return config_value_set_number(key, object, (int64_t)ms, why);
}

static int read_scalar(struct reader *reader, const struct config_key *key, void *object,
                       const json_t *json, struct config_why *why)
{
    switch (key->kind) {
    case CONFIG_KIND_BOOL:
    case CONFIG_KIND_NOT:
        if (!json_is_boolean(json)) {
            return refuse_type(key, json, why);
        }
        config_set_bool(key, object, json_is_true(json));
        return 0;
    case CONFIG_KIND_UINT:
    case CONFIG_KIND_INT:
        if (!json_is_integer(json)) {
            return refuse_type(key, json, why);
        }
        return config_value_set_number(key, object, json_integer_value(json), why);
    case CONFIG_KIND_SIZE:
        if (json_is_integer(json)) {
            return config_value_set_number(key, object, json_integer_value(json), why);
        }
        break;
    case CONFIG_KIND_DURATION:
        if (json_is_number(json)) {
            return read_seconds(key, object, json_number_value(json), why);
        }
        break;
    default:
        break;
    }
    if (!json_is_string(json)) {
        return refuse_type(key, json, why);
    }
    return config_value_set(key, object, json_string_value(json), reader->base_dir, why);
}

/* ---- Lists of strings -------------------------------------------------------- */

static int read_string_element(struct reader *reader, const struct config_key *key,
                               void *object, const json_t *json, unsigned index,
                               struct config_why *why)
{
    int rc;

    if (!json_is_string(json)) {
        return config_refuse(why, "expected a string, got %s", json_kind(json));
    }
    if (key->kind != CONFIG_KIND_ENDS) {
        /* In JSON one string is one name: a comma does not separate. */
        if (key->kind == CONFIG_KIND_STRINGS &&
            strchr(json_string_value(json), ',') != NULL) {
            return config_refuse(why, "expected one name, got a comma");
        }
        return config_value_set(key, object, json_string_value(json), NULL, why);
    }
    if (index >= key->max) {
        return config_refuse(why, "too many: at most %u", (unsigned)key->max);
    }
    rc = config_value_set_end(key, object, index, json_string_value(json),
                              reader->base_dir, why);
    if (rc == 0) {
        config_set_count(key, object, index + 1);
    }
    return rc;
}

static int read_strings(struct reader *reader, const struct config_key *key, void *object,
                        const json_t *json, size_t node)
{
    size_t child = reader->positions.nodes[node].first_child;
    bool single = json_is_string(json) && key->kind != CONFIG_KIND_STRINGS;
    unsigned count = single ? 1 : (unsigned)json_array_size(json);
    struct config_why why;
    int rc = 0;

    if (!single && !json_is_array(json)) {
        struct config_place place = value_place(reader, node);

        refuse_type(key, json, &why);
        fault(reader, node, &place, why.text);
        return 0;
    }
    config_value_clear(key, object);
    for (unsigned i = 0; i < count && rc != -ENOMEM; i++) {
        const json_t *one = single ? json : json_array_get(json, i);
        size_t at = single ? node : child;

        rc = read_string_element(reader, key, object, one, i, &why);
        if (rc == -EINVAL) {
            struct config_place place = value_place(reader, at);

            fault(reader, at, &place, why.text);
        }
        child = reader->positions.nodes[child].next;
    }
    return rc == -ENOMEM ? rc : 0;
}

/* Remember where the value came from; below it, older origins no longer hold. */
static int note_origin(struct reader *reader, size_t node)
{
    struct config_place place = value_place(reader, node);
    char path[256];

    config_positions_path(&reader->positions, node, path, sizeof(path));
    config_origins_forget(reader->config->origins, path);
    return config_origins_add(&reader->config->origins, path, &place);
}

/* ---- Objects ----------------------------------------------------------------- */

static int read_object(struct reader *reader, const struct config_table *table,
                       void *object, const json_t *json, size_t node);

static int read_list(struct reader *reader, const struct config_key *key, void *object,
                     const json_t *json, size_t node)
{
    size_t child = reader->positions.nodes[node].first_child;
    int rc = 0;

    config_value_clear(key, object);
    for (size_t i = 0; i < json_array_size(json) && rc == 0; i++) {
        struct config_place place = value_place(reader, child);
        void *element;

        if (i >= key->max) {
            fault(reader, child, &place, "too many of them");
            break;
        }
        element = config_list_grow(key, object, key->table->element_size);
        if (element == NULL) {
            return -ENOMEM;
        }
        if (key->table->init != NULL) {
            key->table->init(element);
        }
        rc = note_origin(reader, child);
        rc = rc != 0 ? rc
                     : read_object(reader, key->table, element, json_array_get(json, i),
                                   child);
        child = reader->positions.nodes[child].next;
    }
    return rc;
}

static int read_value(struct reader *reader, const struct config_key *key, void *object,
                      const json_t *json, size_t node)
{
    struct config_place place = value_place(reader, node);
    struct config_why why;
    int rc;

    switch (key->kind) {
    case CONFIG_KIND_OBJECT:
        return read_object(reader, key->table, object, json, node);
    case CONFIG_KIND_SWITCH:
        if (json_is_object(json)) {
            config_set_bool(key, object, true);
            return read_object(reader, key->table, object, json, node);
        }
        rc = json_is_boolean(json) ? 0 : refuse_type(key, json, &why);
        if (rc == 0) {
            config_set_bool(key, object, json_is_true(json));
        }
        break;
    case CONFIG_KIND_STRINGS:
    case CONFIG_KIND_ENDS:
    case CONFIG_KIND_FORWARDS:
        return read_strings(reader, key, object, json, node);
    case CONFIG_KIND_LIST:
        if (json_is_array(json)) {
            return read_list(reader, key, object, json, node);
        }
        rc = refuse_type(key, json, &why);
        break;
    default:
        rc = read_scalar(reader, key, object, json, &why);
        break;
    }
    if (rc == -EINVAL) {
        fault(reader, node, &place, why.text);
        rc = 0;
    }
    return rc;
}

static void fault_unknown(struct reader *reader, const struct config_table *table,
                          size_t node, const struct config_place *place)
{
    const char *name = reader->positions.nodes[node].key;
    const char *near = config_key_suggest(table, name);
    struct config_why why;

    if (near != NULL) {
        config_refuse(&why, "unknown key \"%.64s\"; did you mean \"%s\"?", name, near);
    } else {
        config_refuse(&why, "unknown key \"%.64s\"", name);
    }
    fault(reader, node, place, why.text);
}

static const struct config_key *key_by_json_name(const struct config_table *table,
                                                 const char *name)
{
    const struct config_key *key = config_key_find(table, name);

    return key != NULL && strcmp(key->name, name) == 0 ? key : NULL;
}

static void check_required(struct reader *reader, const struct config_table *table,
                           const bool *seen, size_t node)
{
    struct config_place place = value_place(reader, node);

    for (size_t i = 0; i < table->count; i++) {
        if (config_key_missing(table, i, seen)) {
            struct config_why why;

            config_refuse(&why, "the key \"%s\" is missing (%s)", table->keys[i].name,
                          table->keys[i].help);
            fault(reader, node, &place, why.text);
        }
    }
}

/* The node of each key's last occurrence (0: none): the one whose value jansson kept. */
static void find_last(const struct reader *reader, const struct config_table *table,
                      size_t node, size_t *last)
{
    size_t child = reader->positions.nodes[node].first_child;

    for (; child != 0; child = reader->positions.nodes[child].next) {
        const struct config_key *key =
            key_by_json_name(table, reader->positions.nodes[child].key);

        if (key != NULL) {
            last[key - table->keys] = child;
        }
    }
}

static int read_members(struct reader *reader, const struct config_table *table,
                        void *object, const json_t *json, size_t node)
{
    size_t last[CONFIG_KEYS_MAX] = { 0 };
    bool seen[CONFIG_KEYS_MAX] = { false };
    size_t child = reader->positions.nodes[node].first_child;
    int rc = 0;

    find_last(reader, table, node, last);
    for (; child != 0 && rc == 0; child = reader->positions.nodes[child].next) {
        const struct config_position *position = &reader->positions.nodes[child];
        const struct config_key *key = key_by_json_name(table, position->key);
        struct config_place place = { reader->name, position->key_line,
                                      position->key_column };

        if (key == NULL) {
            fault_unknown(reader, table, child, &place);
            continue;
        }
        if (seen[key - table->keys]) {
            fault(reader, child, &place, "this key was given before in the same object");
        }
        seen[key - table->keys] = true;
        if (last[key - table->keys] == child) {
            rc = note_origin(reader, child);
            rc = rc != 0 ? rc
                         : read_value(reader, key, object,
                                      json_object_get(json, key->name), child);
        }
    }
    if (rc == 0) {
        check_required(reader, table, seen, node);
    }
    return rc;
}

static int read_object(struct reader *reader, const struct config_table *table,
                       void *object, const json_t *json, size_t node)
{
    struct config_place place = value_place(reader, node);
    struct config_why why;

    if (!json_is_object(json)) {
        config_refuse(&why, "expected an object, got %s", json_kind(json));
        fault(reader, node, &place, why.text);
        return 0;
    }
    return read_members(reader, table, object, json, node);
}

int config_read_json(struct umbra_config *config, const char *text, const char *name,
                     const char *base_dir, struct config_errors *errors)
{
    struct reader reader = {
        .config = config, .name = name, .base_dir = base_dir, .errors = errors
    };
    json_error_t syntax;
    json_t *json = json_loads(text, JSON_DECODE_ANY, &syntax);
    int rc;

    if (json == NULL) {
        struct config_place place = { name, (unsigned)(syntax.line > 0 ? syntax.line : 1),
                                      (unsigned)(syntax.column > 0 ? syntax.column : 1) };

        config_errors_add(errors, &place, "", UMBRA_ERROR_CONFIG, "not valid JSON: %s",
                          syntax.text);
        return 0;
    }
    rc = config_positions_scan(&reader.positions, text);
    if (rc == 0) {
        rc = read_object(&reader, &config_root, config, json, 0);
    } else if (rc == -EINVAL) {
        struct config_place place = { name, 1, 1 };

        config_errors_add(errors, &place, "$", UMBRA_ERROR_CONFIG, "nested too deeply");
        rc = 0;
    }
    config_positions_free(&reader.positions);
    json_decref(json);
    return rc;
}
