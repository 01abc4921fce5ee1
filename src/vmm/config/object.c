/* SPDX-License-Identifier: MIT */
/* Members and whole objects of a configuration: walked by the table of keys. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "vmm/config/value.h"

void *config_member(const struct config_key *key, void *object)
{
    return (char *)object + key->offset;
}

static const void *member_of(const struct config_key *key, const void *object)
{
    return (const char *)object + key->offset;
}

static void *list_of(const struct config_key *key, const void *object)
{
    void *list;

    memcpy(&list, member_of(key, object), sizeof(list));
    return list;
}

size_t config_count(const struct config_key *key, const void *object)
{
    const void *count = (const char *)object + key->count_offset;

    return key->count_size == sizeof(unsigned) ? *(const unsigned *)count
                                               : *(const size_t *)count;
}

void config_set_count(const struct config_key *key, void *object, size_t count)
{
    void *member = (char *)object + key->count_offset;

    if (key->count_size == sizeof(unsigned)) {
        *(unsigned *)member = (unsigned)count;
    } else {
        *(size_t *)member = count;
    }
}

bool config_get_bool(const struct config_key *key, const void *object)
{
    return *(const bool *)member_of(key, object) != (key->kind == CONFIG_KIND_NOT);
}

void config_set_bool(const struct config_key *key, void *object, bool value)
{
    *(bool *)config_member(key, object) = value != (key->kind == CONFIG_KIND_NOT);
}

uint64_t config_get_uint(const struct config_key *key, const void *object)
{
    const void *member = member_of(key, object);

    switch (key->size) {
    case sizeof(bool):
        return *(const bool *)member;
    case sizeof(uint16_t):
        return *(const uint16_t *)member;
    case sizeof(uint32_t):
        return *(const uint32_t *)member;
    default:
        return *(const uint64_t *)member;
    }
}

void *config_list_grow(const struct config_key *key, void *object, size_t size)
{
    size_t count = config_count(key, object);
    char *list = realloc(list_of(key, object), (count + 1) * size);

    if (list == NULL) {
        return NULL;
    }
    memcpy(config_member(key, object), &list, sizeof(list));
    memset(list + count * size, 0, size);
    config_set_count(key, object, count + 1);
    return list + count * size;
}

/* ---- Clearing ---------------------------------------------------------------- */

void config_value_clear(const struct config_key *key, void *object)
{
    struct config_serial *ends = config_member(key, object);
    char **string = config_member(key, object);

    switch (key->kind) {
    case CONFIG_KIND_STRING:
    case CONFIG_KIND_PATH:
        free(*string);
        *string = NULL;
        break;
    case CONFIG_KIND_STRINGS:
        for (size_t i = 0; i < config_count(key, object); i++) {
            free((*(char ***)config_member(key, object))[i]);
        }
        break;
    case CONFIG_KIND_END:
    case CONFIG_KIND_ENDS:
        for (size_t i = 0; i < key->size / sizeof(*ends); i++) {
            free(ends[i].path);
            ends[i] = (struct config_serial){ .fd = -1 };
        }
        break;
    case CONFIG_KIND_LIST:
        for (size_t i = 0; i < config_count(key, object); i++) {
            config_object_clear(key->table, (char *)list_of(key, object) +
                                                i * key->table->element_size);
        }
        break;
    case CONFIG_KIND_OBJECT:
    case CONFIG_KIND_SWITCH:
        config_object_clear(key->table, object);
        break;
    default:
        break;
    }
    if (key->kind == CONFIG_KIND_STRINGS || key->kind == CONFIG_KIND_LIST ||
        key->kind == CONFIG_KIND_FORWARDS) {
        void *none = NULL;

        free(list_of(key, object));
        memcpy(config_member(key, object), &none, sizeof(none));
        config_set_count(key, object, 0);
    } else if (key->kind == CONFIG_KIND_ENDS) {
        config_set_count(key, object, 0);
    }
}

void config_object_clear(const struct config_table *table, void *object)
{
    for (size_t i = 0; i < table->count; i++) {
        config_value_clear(&table->keys[i], object);
    }
}

/* ---- Copying ----------------------------------------------------------------- */

static int unshare_string(char **to, const char *from)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL ? 0 : -ENOMEM;
}

static int unshare_list(const struct config_key *key, void *to, const void *from)
{
    size_t count = config_count(key, from), size;
    const char *source = list_of(key, from);
    char *list = NULL;
    int rc = 0;

    size = key->kind == CONFIG_KIND_LIST      ? key->table->element_size
           : key->kind == CONFIG_KIND_STRINGS ? sizeof(char *)
                                              : sizeof(struct config_forward);
    if (count > 0) {
        list = calloc(count, size);
        rc = list != NULL ? 0 : -ENOMEM;
    }
    memcpy(config_member(key, to), &list, sizeof(list));
    config_set_count(key, to, list != NULL ? count : 0);
    for (size_t i = 0; i < count && list != NULL; i++) {
        int one = 0;

        if (key->kind == CONFIG_KIND_STRINGS) {
            one = unshare_string((char **)(void *)list + i,
                                 ((char *const *)(const void *)source)[i]);
        } else {
            memcpy(list + i * size, source + i * size, size);
            if (key->kind == CONFIG_KIND_LIST) {
                one =
                    config_object_unshare(key->table, list + i * size, source + i * size);
            }
        }
        rc = rc != 0 ? rc : one;
    }
    return rc;
}

static int unshare_value(const struct config_key *key, void *to, const void *from)
{
    struct config_serial *to_ends = config_member(key, to);
    const struct config_serial *ends = member_of(key, from);
    int rc = 0;

    switch (key->kind) {
    case CONFIG_KIND_STRING:
    case CONFIG_KIND_PATH:
        return unshare_string(config_member(key, to),
                              *(char *const *)member_of(key, from));
    case CONFIG_KIND_STRINGS:
    case CONFIG_KIND_LIST:
    case CONFIG_KIND_FORWARDS:
        return unshare_list(key, to, from);
    case CONFIG_KIND_END:
    case CONFIG_KIND_ENDS:
        for (size_t i = 0; i < key->size / sizeof(*ends); i++) {
            int one = unshare_string(&to_ends[i].path, ends[i].path);

            rc = rc != 0 ? rc : one;
        }
        return rc;
    case CONFIG_KIND_OBJECT:
    case CONFIG_KIND_SWITCH:
        return config_object_unshare(key->table, to, from);
    default:
        return 0;
    }
}

/* Goes on after a failure, so that nothing in @to still points into @from. */
int config_object_unshare(const struct config_table *table, void *to, const void *from)
{
    int rc = 0;

    for (size_t i = 0; i < table->count; i++) {
        int one = unshare_value(&table->keys[i], to, from);

        rc = rc != 0 ? rc : one;
    }
    return rc;
}

/* ---- Writing ----------------------------------------------------------------- */

static char *end_text(const struct config_serial *end)
{
    static const char *const names[] = {
        [CONFIG_SERIAL_NONE] = "none",  [CONFIG_SERIAL_STDIO] = "stdio",
        [CONFIG_SERIAL_FILE] = "file:", [CONFIG_SERIAL_PTY] = "pty",
        [CONFIG_SERIAL_UNIX] = "unix:", [CONFIG_SERIAL_FD] = "fd:",
    };
    char *text;
    int rc;

    if (end->kind == CONFIG_SERIAL_FD) {
        rc = asprintf(&text, "fd:%d", end->fd);
    } else {
        rc =
            asprintf(&text, "%s%s", names[end->kind], end->path != NULL ? end->path : "");
    }
    return rc >= 0 ? text : NULL;
}

static char *forward_text(const struct config_forward *forward)
{
    const char *ends[2] = { forward->host_address, forward->guest_address };
    char address[2][64];
    char *text;

    for (int i = 0; i < 2; i++) {
        bool v6 = strchr(ends[i], ':') != NULL;

        snprintf(address[i], sizeof(address[i]), "%s%s%s%s", v6 ? "[" : "", ends[i],
                 v6 ? "]" : "", ends[i][0] != '\0' ? ":" : "");
    }
    if (asprintf(&text, "%s:%s%u:%s%u", forward->udp ? "udp" : "tcp", address[0],
                 forward->host_port, address[1], forward->guest_port) < 0) {
        return NULL;
    }
    return text;
}

static char *duration_text(uint64_t ms)
{
    char *text;

    if (asprintf(&text, ms % 1000 == 0 ? "%" PRIu64 "s" : "%" PRIu64 "ms",
                 ms % 1000 == 0 ? ms / 1000 : ms) < 0) {
        return NULL;
    }
    return text;
}

static char *mac_text(const uint8_t mac[6])
{
    char *text;

    if (memcmp(mac, "\0\0\0\0\0\0", 6) == 0) {
        return NULL;
    }
    if (asprintf(&text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                 mac[4], mac[5]) < 0) {
        return NULL;
    }
    return text;
}

/* Elements joined by commas; a comma inside one is doubled. */
static char *joined_text(const struct config_key *key, const void *object)
{
    size_t count = config_count(key, object), length;
    char *text = NULL;
    FILE *out = count > 0 ? open_memstream(&text, &length) : NULL;

    if (out == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        char *one;

        if (key->kind == CONFIG_KIND_STRINGS) {
            one = strdup(((char **)list_of(key, object))[i]);
        } else if (key->kind == CONFIG_KIND_FORWARDS) {
            one = forward_text((struct config_forward *)list_of(key, object) + i);
        } else {
            one = end_text((const struct config_serial *)member_of(key, object) + i);
        }
        fputs(i > 0 ? "," : "", out);
        for (const char *p = one; p != NULL && *p != '\0'; p++) {
            fputs(*p == ',' ? "," : "", out);
            fputc(*p, out);
        }
        free(one);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

char *config_value_text(const struct config_key *key, const void *object)
{
    char number[32];
    const char *string = number;

    switch (key->kind) {
    case CONFIG_KIND_BOOL:
    case CONFIG_KIND_NOT:
    case CONFIG_KIND_SWITCH:
        string = config_get_bool(key, object) ? "on" : "off";
        break;
    case CONFIG_KIND_INT:
        if (*(const int *)member_of(key, object) < 0) {
            return NULL;
        }
        /* fall through */
    case CONFIG_KIND_UINT:
        snprintf(number, sizeof(number), "%" PRIu64, config_get_uint(key, object));
        break;
    case CONFIG_KIND_SIZE:
        size_format(config_get_uint(key, object), number, sizeof(number));
        break;
    case CONFIG_KIND_DURATION:
        return duration_text(config_get_uint(key, object));
    case CONFIG_KIND_STRING:
    case CONFIG_KIND_PATH:
        string = *(char *const *)member_of(key, object);
        break;
    case CONFIG_KIND_ENUM:
        string = key->names[config_get_uint(key, object)];
        break;
    case CONFIG_KIND_END:
        return end_text(member_of(key, object));
    case CONFIG_KIND_MAC:
        return mac_text(member_of(key, object));
    case CONFIG_KIND_STRINGS:
    case CONFIG_KIND_ENDS:
    case CONFIG_KIND_FORWARDS:
        return joined_text(key, object);
    case CONFIG_KIND_OBJECT:
    case CONFIG_KIND_LIST:
        return NULL;
    }
    return string != NULL ? strdup(string) : NULL;
}

static json_t *list_json(const struct config_key *key, const void *object)
{
    json_t *list = json_array();

    for (size_t i = 0; i < config_count(key, object); i++) {
        json_t *one;
        char *text = NULL;

        if (key->kind == CONFIG_KIND_LIST) {
            one = config_object_json(key->table, (char *)list_of(key, object) +
                                                     i * key->table->element_size);
        } else if (key->kind == CONFIG_KIND_STRINGS) {
            one = json_string(((char **)list_of(key, object))[i]);
        } else {
            text =
                key->kind == CONFIG_KIND_ENDS
                    ? end_text((const struct config_serial *)member_of(key, object) + i)
                    : forward_text((struct config_forward *)list_of(key, object) + i);
            one = json_string(text);
            free(text);
        }
        if (json_array_append_new(list, one) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *text_json(const struct config_key *key, const void *object)
{
    char *text = config_value_text(key, object);
    json_t *json = json_string(text);

    free(text);
    return json;
}

/* A required number that is not there (0) means that its whole object is not. */
static bool object_given(const struct config_table *table, const void *object)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct config_key *key = &table->keys[i];

        if (key->required && key->kind == CONFIG_KIND_UINT &&
            config_get_uint(key, object) == 0) {
            return false;
        }
    }
    return true;
}

static json_t *value_json(const struct config_key *key, const void *object)
{
    switch (key->kind) {
    case CONFIG_KIND_BOOL:
    case CONFIG_KIND_NOT:
        return json_boolean(config_get_bool(key, object));
    case CONFIG_KIND_UINT:
    case CONFIG_KIND_INT:
        return json_integer((json_int_t)config_get_uint(key, object));
    case CONFIG_KIND_STRINGS:
    case CONFIG_KIND_ENDS:
    case CONFIG_KIND_FORWARDS:
    case CONFIG_KIND_LIST:
        return list_json(key, object);
    case CONFIG_KIND_SWITCH:
        return config_get_bool(key, object) ? config_object_json(key->table, object)
                                            : json_false();
    case CONFIG_KIND_OBJECT:
        return config_object_json(key->table, object);
    default:
        return text_json(key, object);
    }
}

/* Not set: an absent string, an empty list, a number below the least one allowed. */
static bool value_absent(const struct config_key *key, const void *object)
{
    switch (key->kind) {
    case CONFIG_KIND_STRING:
    case CONFIG_KIND_PATH:
        return *(char *const *)member_of(key, object) == NULL;
    case CONFIG_KIND_STRINGS:
    case CONFIG_KIND_ENDS:
    case CONFIG_KIND_FORWARDS:
    case CONFIG_KIND_LIST:
        return config_count(key, object) == 0;
    case CONFIG_KIND_UINT:
        return config_get_uint(key, object) < key->min;
    case CONFIG_KIND_INT:
        return *(const int *)member_of(key, object) < 0;
    case CONFIG_KIND_MAC:
        return memcmp(member_of(key, object), "\0\0\0\0\0\0", 6) == 0;
    case CONFIG_KIND_OBJECT:
        return !object_given(key->table, object);
    default:
        return false;
    }
}

json_t *config_object_json(const struct config_table *table, const void *object)
{
    json_t *json = json_object();

    for (size_t i = 0; i < table->count; i++) {
        const struct config_key *key = &table->keys[i];
        json_t *value;

        if (value_absent(key, object)) {
            continue;
        }
        value = value_json(key, object);
        if (json_object_set_new(json, key->name, value) != 0) {
            json_decref(json);
            return NULL;
        }
        if (key->kind == CONFIG_KIND_OBJECT && json_object_size(value) == 0) {
            json_object_del(json, key->name);
        }
    }
    return json;
}
