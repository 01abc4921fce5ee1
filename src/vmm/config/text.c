/* SPDX-License-Identifier: MIT */
/* Launcher text into a configuration. */
#include "vmm/config/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

static int refuse_unknown(const struct config_table *table, const char *name,
                          struct config_why *why)
{
    const char *near = config_key_suggest(table, name);

    return config_refuse(why, "unknown key \"%.64s\"%s%s%s", name,
                         near != NULL ? "; did you mean \"" : "",
                         near != NULL ? near : "", near != NULL ? "\"?" : "");
}

static bool first_part(const struct config_table *table, const bool *given)
{
    for (size_t i = 0; i < table->count; i++) {
        if (given[i]) {
            return false;
        }
    }
    return true;
}

/* "name=value", or "name" alone for a switch, or a leading value for the positional
 * key. @given is by the keys' index. */
static int set_part(const struct config_table *table, void *object, char *part,
                    bool *given, struct config_why *why)
{
    char *value = strchr(part, '=');
    const struct config_key *key;
    struct config_why inner;
    int rc;

    if (value != NULL) {
        *value++ = '\0';
    }
    key = config_key_find(table, part);
    if (key == NULL) { /* as options are written: deflate-on-oom */
        char name[64];

        snprintf(name, sizeof(name), "%s", part);
        for (char *at = name; (at = strchr(at, '-')) != NULL;) {
            *at = '_';
        }
        key = config_key_find(table, name);
    }
    if (value == NULL && key != NULL && key->kind == CONFIG_KIND_BOOL) {
        config_set_bool(key, object, true);
        given[key - table->keys] = true;
        return 0;
    }
    if (value == NULL && first_part(table, given) && table->positional != NULL &&
        part[0] != '\0') {
        key = config_key_find(table, table->positional);
        value = part;
    }
    if (key == NULL) {
        return refuse_unknown(table, part, why);
    }
    given[key - table->keys] = true;
    if (value == NULL) {
        return config_refuse(why, "\"%s\" needs a value, as in \"%s=%s\"", key->name,
                             key->name, key->example);
    }
    rc = config_value_set(key, object, value, NULL, &inner);
    if (rc == -EINVAL) {
        config_refuse(why, "%s: %s", key->name, inner.text);
    }
    return rc;
}

static int set_parts(const struct config_table *table, void *object, const char *text,
                     struct config_why *why)
{
    bool given[CONFIG_KEYS_MAX] = { false };
    char *part;
    int rc;

    while ((rc = config_next_part(&text, &part)) == 0 && part != NULL) {
        rc = set_part(table, object, part, given, why);
        free(part);
        if (rc != 0) {
            return rc;
        }
    }
    for (size_t i = 0; i < table->count && rc == 0; i++) {
        if (config_key_missing(table, i, given)) {
            rc = config_refuse(why, "\"%s\" is missing (%s)", table->keys[i].name,
                               table->keys[i].help);
        }
    }
    return rc;
}

/* The element is made whole before it joins the list. */
static int add_element(const struct config_key *key, void *object, const char *text,
                       struct config_why *why)
{
    const struct config_table *table = key->table;
    void *element, *slot;
    int rc;

    if (config_count(key, object) >= key->max) {
        return config_refuse(why, "too many: at most %u", (unsigned)key->max);
    }
    element = calloc(1, table->element_size);
    if (element == NULL) {
        return -ENOMEM;
    }
    if (table->init != NULL) {
        table->init(element);
    }
    rc = set_parts(table, element, text, why);
    slot = rc == 0 ? config_list_grow(key, object, table->element_size) : NULL;
    if (slot != NULL) {
        memcpy(slot, element, table->element_size);
    } else {
        rc = rc != 0 ? rc : -ENOMEM;
        config_object_clear(table, element);
    }
    free(element);
    return rc;
}

int config_read_text(struct umbra_config *config, const struct config_key *key,
                     const char *text, struct config_why *why)
{
    bool on;

    switch (key->kind) {
    case CONFIG_KIND_LIST:
        return add_element(key, config, text, why);
    case CONFIG_KIND_OBJECT:
        return set_parts(key->table, config, text, why);
    case CONFIG_KIND_SWITCH:
        on = strcmp(text, "on") == 0 || strcmp(text, "true") == 0;
        if (on || strcmp(text, "off") == 0 || strcmp(text, "false") == 0) {
            config_set_bool(key, config, on);
            return 0;
        }
        config_set_bool(key, config, true);
        return set_parts(key->table, config, text, why);
    default:
        return config_value_set(key, config, text, NULL, why);
    }
}
