/* SPDX-License-Identifier: MIT */
/* The table of keys for others: the JSON schema, and the public listing for help texts.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "vmm/config/config.h"
#include "vmm/config/value.h"

static json_t *object_schema(const struct config_table *table);

static json_t *typed(const char *type)
{
    return json_pack("{s:s}", "type", type);
}

static json_t *pattern(const char *expression)
{
    return json_pack("{s:s, s:s}", "type", "string", "pattern", expression);
}

static json_t *number(const struct config_key *key, const char *type)
{
    return json_pack("{s:s, s:I, s:I}", "type", type, "minimum", (json_int_t)key->min,
                     "maximum", (json_int_t)key->max);
}

/* One of two; takes both references. */
static json_t *either(json_t *a, json_t *b)
{
    return json_pack("{s:[o,o]}", "anyOf", a, b);
}

static json_t *list_of(const struct config_key *key, json_t *items)
{
    return json_pack("{s:s, s:o, s:I}", "type", "array", "items", items, "maxItems",
                     (json_int_t)key->max);
}

static json_t *enum_schema(const struct config_key *key)
{
    json_t *names = json_array();

    for (unsigned i = 0; key->names[i] != NULL; i++) {
        json_array_append_new(names, json_string(key->names[i]));
    }
    return json_pack("{s:o}", "enum", names);
}

#define END_PATTERN     "^(none|stdio|pty|file:.+|unix:.+|fd:[0-9]+)$"
#define FORWARD_HOST    "(([0-9]*\\.[0-9.]*|\\[[0-9a-fA-F:.]*\\]):)?"
#define FORWARD_PATTERN "^(tcp|udp):" FORWARD_HOST "[0-9]+:" FORWARD_HOST "[0-9]+$"

static json_t *kind_schema(const struct config_key *key)
{
    switch (key->kind) {
    case CONFIG_KIND_BOOL:
    case CONFIG_KIND_NOT:
        return typed("boolean");
    case CONFIG_KIND_UINT:
    case CONFIG_KIND_INT:
        return number(key, "integer");
    case CONFIG_KIND_SIZE:
        return either(number(key, "integer"),
                      pattern("^(0[xX][0-9a-fA-F]+|[0-9]+)([kKmMgGtTpP]i?)?[bB]?$"));
    case CONFIG_KIND_DURATION:
        return either(json_pack("{s:s, s:i, s:I}", "type", "number", "minimum", 0,
                                "maximum", (json_int_t)(key->max / 1000)),
                      pattern("^[0-9]+(s|ms|m|min|h)?$"));
    case CONFIG_KIND_STRING:
        return typed("string");
    case CONFIG_KIND_PATH:
        return json_pack("{s:s, s:i}", "type", "string", "minLength", 1);
    case CONFIG_KIND_ENUM:
        return enum_schema(key);
    case CONFIG_KIND_STRINGS:
        return list_of(key, pattern("^[^,]+$"));
    case CONFIG_KIND_END:
        return pattern(END_PATTERN);
    case CONFIG_KIND_ENDS:
        return either(pattern(END_PATTERN), list_of(key, pattern(END_PATTERN)));
    case CONFIG_KIND_MAC:
        return pattern("^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$");
    case CONFIG_KIND_FORWARDS:
        return either(pattern(FORWARD_PATTERN), list_of(key, pattern(FORWARD_PATTERN)));
    case CONFIG_KIND_OBJECT:
        return object_schema(key->table);
    case CONFIG_KIND_SWITCH:
        return either(typed("boolean"), object_schema(key->table));
    case CONFIG_KIND_LIST:
        return list_of(key, object_schema(key->table));
    }
    return NULL;
}

static json_t *object_schema(const struct config_table *table)
{
    json_t *properties = json_object(), *required = json_array(), *object;
    json_t *either = json_array();

    for (size_t i = 0; i < table->count; i++) {
        const struct config_key *key = &table->keys[i];
        json_t *schema = kind_schema(key);

        json_object_set_new(schema, "description", json_string(key->help));
        json_object_set_new(properties, key->name, schema);
        if (key->unless != NULL) {
            json_array_append_new(either, json_pack("{s:[s]}", "required", key->name));
            json_array_append_new(either, json_pack("{s:[s]}", "required", key->unless));
        } else if (key->required) {
            json_array_append_new(required, json_string(key->name));
        }
    }
    object = json_pack("{s:s, s:o, s:o, s:b}", "type", "object", "properties", properties,
                       "required", required, "additionalProperties", 0);
    if (json_array_size(either) > 0) {
        json_object_set(object, "anyOf", either);
    }
    json_decref(either);
    return object;
}

char *umbra_config_schema(void)
{
    json_t *schema = object_schema(&config_root);
    json_t *whole =
        json_pack("{s:s, s:s, s:s}", "$schema", "http://json-schema.org/draft-07/schema#",
                  "title", "umbra configuration", "description",
                  "A virtual machine for umbra run; see umbra.json(5)");
    char *text = NULL;

    if (whole != NULL && schema != NULL && json_object_update(whole, schema) == 0) {
        text = json_dumps(whole, JSON_INDENT(2));
    }
    json_decref(whole);
    json_decref(schema);
    return text;
}

/* ---- The listing ------------------------------------------------------------- */

static void describe(const struct config_key *key, const struct config_key *parent,
                     struct umbra_config_key *out)
{
    struct umbra_config_key full = {
        .size = out->size,
        .is_switch = key->kind == CONFIG_KIND_BOOL || key->kind == CONFIG_KIND_NOT ||
                     key->kind == CONFIG_KIND_SWITCH,
        .parent = parent != NULL ? parent->name : NULL,
        .name = key->name,
        .option = key->option,
        .value = key->value,
        .help = key->help,
        .example = key->example,
    };

    memcpy(out, &full, out->size < sizeof(full) ? out->size : sizeof(full));
}

int umbra_config_key_at(size_t index, struct umbra_config_key *key)
{
    for (size_t i = 0; i < config_root.count; i++) {
        const struct config_key *root = &config_root.keys[i];
        size_t inner = root->table != NULL ? root->table->count : 0;

        if (index == 0) {
            describe(root, NULL, key);
            return 0;
        }
        if (index <= inner) {
            describe(&root->table->keys[index - 1], root, key);
            return 0;
        }
        index -= 1 + inner;
    }
    return -ENOENT;
}
