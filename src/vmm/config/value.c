/* SPDX-License-Identifier: MIT */
/* One configuration value from launcher text. */
#include "vmm/config/value.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"

int config_refuse(struct config_why *why, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why->text, sizeof(why->text), format, args);
    va_end(args);
    return -EINVAL;
}

const char *config_value_expected(const struct config_key *key, char *text, size_t size)
{
    size_t used = 0;

    switch (key->kind) {
    case CONFIG_KIND_BOOL:
    case CONFIG_KIND_NOT:
        return "true or false";
    case CONFIG_KIND_SWITCH:
        return "true, false or an object";
    case CONFIG_KIND_UINT:
    case CONFIG_KIND_INT:
        snprintf(text, size, "a whole number from %" PRIu64 " to %" PRIu64, key->min,
                 key->max);
        return text;
    case CONFIG_KIND_SIZE:
        snprintf(text, size, "a size such as \"%s\"", key->example);
        return text;
    case CONFIG_KIND_DURATION:
        return "a time such as \"90s\", or a number of seconds";
    case CONFIG_KIND_ENUM:
        used = (size_t)snprintf(text, size, "one of");
        for (unsigned i = 0; key->names[i] != NULL && used < size; i++) {
            used += (size_t)snprintf(text + used, size - used, "%s \"%s\"",
                                     i > 0 ? "," : "", key->names[i]);
        }
        return text;
    case CONFIG_KIND_STRINGS:
        return "a list of strings";
    case CONFIG_KIND_END:
    case CONFIG_KIND_ENDS:
        return "none, stdio, pty, file:PATH, unix:PATH or fd:N";
    case CONFIG_KIND_MAC:
        return "an address such as \"52:54:00:12:34:56\"";
    case CONFIG_KIND_FORWARDS:
        return "a forward such as \"tcp:2222:22\" or \"udp:127.0.0.1:5353:10.0.2.15:53\"";
    case CONFIG_KIND_OBJECT:
        return "an object";
    case CONFIG_KIND_LIST:
        return "a list of objects";
    case CONFIG_KIND_STRING:
    case CONFIG_KIND_PATH:
        break;
    }
    return "a string";
}

static int refuse_text(const struct config_key *key, const char *text,
                       struct config_why *why)
{
    char expected[256];

    return config_refuse(why, "expected %s, got \"%.100s\"",
                         config_value_expected(key, expected, sizeof(expected)), text);
}

/* ---- Scalars ----------------------------------------------------------------- */

static int store_number(const struct config_key *key, void *object, uint64_t value,
                        struct config_why *why)
{
    void *member = config_member(key, object);

    if (value < key->min || value > key->max) {
        char low[32], high[32];

        if (key->kind == CONFIG_KIND_SIZE) {
            return config_refuse(why, "out of range: expected %s to %s",
                                 size_format(key->min, low, sizeof(low)),
                                 size_format(key->max, high, sizeof(high)));
        }
        if (key->kind == CONFIG_KIND_DURATION) {
            return config_refuse(why, "out of range: expected at most %" PRIu64 " s",
                                 key->max / 1000);
        }
        return config_refuse(why,
                             "out of range: expected a whole number from %" PRIu64
                             " to %" PRIu64 ", got %" PRIu64,
                             key->min, key->max, value);
    }
    switch (key->size) {
    case sizeof(uint16_t):
        *(uint16_t *)member = (uint16_t)value;
        break;
    case sizeof(uint32_t):
        *(uint32_t *)member = (uint32_t)value;
        break;
    default:
        *(uint64_t *)member = value;
        break;
    }
    return 0;
}

int config_value_set_number(const struct config_key *key, void *object, int64_t value,
                            struct config_why *why)
{
    if (value < 0) {
        char expected[256];

        return config_refuse(why, "out of range: expected %s, got %" PRId64,
                             config_value_expected(key, expected, sizeof(expected)),
                             value);
    }
    return store_number(key, object, (uint64_t)value, why);
}

static int set_number_text(const struct config_key *key, void *object, const char *text,
                           struct config_why *why)
{
    uint64_t value;
    char *end;

    if (!isdigit((unsigned char)text[0])) {
        return refuse_text(key, text, why);
    }
    errno = 0;
    value = strtoull(text, &end, 0);
    if (errno != 0 || *end != '\0') {
        return refuse_text(key, text, why);
    }
    return store_number(key, object, value, why);
}

static int set_duration(const struct config_key *key, void *object, const char *text,
                        struct config_why *why)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = { { "", 1000 },   { "s", 1000 },    { "ms", 1 },
                  { "m", 60000 }, { "min", 60000 }, { "h", 3600000 } };
    uint64_t value;
    char *end;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || errno != 0) {
        return refuse_text(key, text, why);
    }
    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        if (strcmp(end, units[i].unit) == 0) {
            if (value > UINT64_MAX / units[i].ms) {
                value = UINT64_MAX;
            } else {
                value *= units[i].ms;
            }
            return store_number(key, object, value, why);
        }
    }
    return refuse_text(key, text, why);
}

static int set_bool_text(const struct config_key *key, void *object, const char *text,
                         struct config_why *why)
{
    static const char *const yes[] = { "on", "true", "yes", "1" };
    static const char *const no[] = { "off", "false", "no", "0" };

    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            config_set_bool(key, object, strcmp(text, yes[i]) == 0);
            return 0;
        }
    }
    return config_refuse(why, "expected on or off, got \"%.100s\"", text);
}

static int set_enum(const struct config_key *key, void *object, const char *text,
                    struct config_why *why)
{
    const char *near;
    char expected[256];

    for (unsigned i = 0; key->names[i] != NULL; i++) {
        if (strcmp(key->names[i], text) == 0) {
            if (key->size == sizeof(bool)) {
                *(bool *)config_member(key, object) = i != 0;
            } else {
                *(unsigned *)config_member(key, object) = i;
            }
            return 0;
        }
    }
    near = config_name_suggest(key->names, text);
    return config_refuse(why, "expected %s, got \"%.60s\"%s%s%s",
                         config_value_expected(key, expected, sizeof(expected)), text,
                         near != NULL ? "; did you mean \"" : "",
                         near != NULL ? near : "", near != NULL ? "\"?" : "");
}

/* ---- Strings and paths ------------------------------------------------------- */

/* Relative paths go behind @base_dir; "-" and URIs are not paths. */
static char *path_resolve(const char *path, const char *base_dir)
{
    char *resolved;

    if (base_dir == NULL || base_dir[0] == '\0' || path[0] == '/' ||
        strcmp(path, "-") == 0 || strstr(path, "://") != NULL) {
        return strdup(path);
    }
    if (asprintf(&resolved, "%s/%s", base_dir, path) < 0) {
        return NULL;
    }
    return resolved;
}

static int replace_string(char **member, char *string)
{
    if (string == NULL) {
        return -ENOMEM;
    }
    free(*member);
    *member = string;
    return 0;
}

static int set_string(const struct config_key *key, void *object, const char *text,
                      const char *base_dir, struct config_why *why)
{
    if (key->kind == CONFIG_KIND_STRING) {
        return replace_string(config_member(key, object), strdup(text));
    }
    if (text[0] == '\0') {
        return config_refuse(why, "expected a path, got an empty string");
    }
    return replace_string(config_member(key, object), path_resolve(text, base_dir));
}

static int add_string(const struct config_key *key, void *object, const char *text,
                      struct config_why *why)
{
    char **slot;
    char *copy;

    if (text[0] == '\0') {
        return config_refuse(why, "expected a name, got an empty string");
    }
    if (strchr(text, ',') != NULL) {
        return config_refuse(why, "expected one name, got a comma in it");
    }
    if (config_count(key, object) >= key->max) {
        return config_refuse(why, "too many: at most %" PRIu64, key->max);
    }
    copy = strdup(text);
    slot = copy != NULL ? config_list_grow(key, object, sizeof(*slot)) : NULL;
    if (slot == NULL) {
        free(copy);
        return -ENOMEM;
    }
    *slot = copy;
    return 0;
}

static int add_strings(const struct config_key *key, void *object, const char *text,
                       struct config_why *why)
{
    int rc = 0;
    char *part;

    while (rc == 0 && (rc = config_next_part(&text, &part)) == 0 && part != NULL) {
        rc = add_string(key, object, part, why);
        free(part);
    }
    return rc;
}

int config_next_part(const char **cursor, char **part)
{
    const char *p = *cursor, *next = NULL;
    size_t n = 0;
    char *out;

    *part = NULL;
    if (p == NULL) {
        return 0;
    }
    out = malloc(strlen(p) + 1);
    if (out == NULL) {
        return -ENOMEM;
    }
    for (; *p != '\0'; p++) {
        if (*p == ',' && *++p != ',') {
            next = p;
            break;
        }
        out[n++] = *p;
    }
    out[n] = '\0';
    *cursor = next;
    *part = out;
    return 0;
}

/* ---- Console ends ------------------------------------------------------------ */

static int end_parse(const struct config_key *key, struct config_serial *end,
                     const char *text, const char *base_dir, struct config_why *why)
{
    static const struct {
        const char *prefix;
        enum config_serial_kind kind;
    } kinds[] = {
        { "none", CONFIG_SERIAL_NONE },  { "stdio", CONFIG_SERIAL_STDIO },
        { "pty", CONFIG_SERIAL_PTY },    { "file:", CONFIG_SERIAL_FILE },
        { "unix:", CONFIG_SERIAL_UNIX }, { "fd:", CONFIG_SERIAL_FD },
    };

    *end = (struct config_serial){ .fd = -1 };
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        size_t n = strlen(kinds[i].prefix);
        bool takes_more = kinds[i].prefix[n - 1] == ':';
        char *stop;
        long fd;

        if (strncmp(text, kinds[i].prefix, n) != 0 || (text[n] != '\0') != takes_more) {
            continue;
        }
        end->kind = kinds[i].kind;
        if (kinds[i].kind == CONFIG_SERIAL_FD) {
            fd = strtol(text + n, &stop, 10);
            if (!isdigit((unsigned char)text[n]) || *stop != '\0' || fd > 1048576) {
                break;
            }
            end->fd = (int)fd;
        } else if (takes_more) {
            end->path = path_resolve(text + n, base_dir);
            return end->path != NULL ? 0 : -ENOMEM;
        }
        return 0;
    }
    return refuse_text(key, text, why);
}

int config_value_set_end(const struct config_key *key, void *object, unsigned index,
                         const char *text, const char *base_dir, struct config_why *why)
{
    struct config_serial *ends = config_member(key, object), end;
    int rc = end_parse(key, &end, text, base_dir, why);

    if (rc == 0) {
        free(ends[index].path);
        ends[index] = end;
    }
    return rc;
}

static int set_ends(const struct config_key *key, void *object, const char *text,
                    const char *base_dir, struct config_why *why)
{
    unsigned count = 0;
    char *part;
    int rc;

    config_value_clear(key, object);
    while ((rc = config_next_part(&text, &part)) == 0 && part != NULL) {
        if (count == key->max) {
            rc = config_refuse(why, "too many: at most %" PRIu64, key->max);
        } else {
            rc = config_value_set_end(key, object, count, part, base_dir, why);
        }
        free(part);
        if (rc != 0) {
            break;
        }
        config_set_count(key, object, ++count);
    }
    return rc;
}

/* ---- MAC addresses and forwards ---------------------------------------------- */

static int set_mac(const struct config_key *key, void *object, const char *text,
                   struct config_why *why)
{
    uint8_t mac[6];

    for (unsigned i = 0; i < sizeof(mac); i++) {
        const char *p = text + 3 * i;
        char digits[3] = { p[0], p[0] != '\0' ? p[1] : '\0', '\0' };

        if (!isxdigit((unsigned char)digits[0]) || !isxdigit((unsigned char)digits[1]) ||
            p[2] != (i < 5 ? ':' : '\0')) {
            return refuse_text(key, text, why);
        }
        mac[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    if ((mac[0] & 1) != 0) {
        return config_refuse(
            why, "\"%s\" is a group address: its first byte must be even", text);
    }
    memcpy(config_member(key, object), mac, sizeof(mac));
    return 0;
}

/* An optional "ADDRESS:" (IPv6 in brackets) before "PORT"; *p is left behind the port. */
static bool forward_end(const char **p, char *address, size_t size, uint16_t *port)
{
    const char *start = *p, *end = start;
    struct in6_addr binary;
    unsigned long value;
    bool v6 = *start == '[';
    char *stop;

    if (v6) {
        end = strchr(++start, ']');
        if (end == NULL || end[1] != ':') {
            return false;
        }
        *p = end + 2;
    } else {
        end += strspn(start, "0123456789.");
        if (memchr(start, '.', (size_t)(end - start)) == NULL || *end != ':') {
            end = start;
        } else {
            *p = end + 1;
        }
    }
    if ((size_t)(end - start) >= size) {
        return false;
    }
    memcpy(address, start, (size_t)(end - start));
    address[end - start] = '\0';
    if (end != start && inet_pton(v6 ? AF_INET6 : AF_INET, address, &binary) != 1) {
        return false;
    }
    value = strtoul(*p, &stop, 10);
    if (!isdigit((unsigned char)**p) || value == 0 || value > UINT16_MAX) {
        return false;
    }
    *port = (uint16_t)value;
    *p = stop;
    return true;
}

static int add_forward(const struct config_key *key, void *object, const char *text,
                       struct config_why *why)
{
    struct config_forward forward = { 0 }, *slot;
    const char *p = text + strnlen(text, 4);

    if (config_count(key, object) >= key->max) {
        return config_refuse(why, "too many: at most %" PRIu64, key->max);
    }
    forward.udp = strncmp(text, "udp:", 4) == 0;
    if ((!forward.udp && strncmp(text, "tcp:", 4) != 0) ||
        !forward_end(&p, forward.host_address, sizeof(forward.host_address),
                     &forward.host_port) ||
        *p++ != ':' ||
        !forward_end(&p, forward.guest_address, sizeof(forward.guest_address),
                     &forward.guest_port) ||
        *p != '\0') {
        return refuse_text(key, text, why);
    }
    slot = config_list_grow(key, object, sizeof(*slot));
    if (slot == NULL) {
        return -ENOMEM;
    }
    *slot = forward;
    return 0;
}

int config_value_set(const struct config_key *key, void *object, const char *text,
                     const char *base_dir, struct config_why *why)
{
    switch (key->kind) {
    case CONFIG_KIND_BOOL:
    case CONFIG_KIND_NOT:
        return set_bool_text(key, object, text, why);
    case CONFIG_KIND_UINT:
    case CONFIG_KIND_INT:
        return set_number_text(key, object, text, why);
    case CONFIG_KIND_SIZE: {
        uint64_t bytes = 0;
        int rc = size_parse(text, &bytes);

        if (rc == -ERANGE) {
            bytes = UINT64_MAX;
        } else if (rc != 0) {
            return refuse_text(key, text, why);
        }
        return store_number(key, object, bytes, why);
    }
    case CONFIG_KIND_DURATION:
        return set_duration(key, object, text, why);
    case CONFIG_KIND_STRING:
    case CONFIG_KIND_PATH:
        return set_string(key, object, text, base_dir, why);
    case CONFIG_KIND_ENUM:
        return set_enum(key, object, text, why);
    case CONFIG_KIND_STRINGS:
        return add_strings(key, object, text, why);
    case CONFIG_KIND_END:
        return config_value_set_end(key, object, 0, text, base_dir, why);
    case CONFIG_KIND_ENDS:
        return set_ends(key, object, text, base_dir, why);
    case CONFIG_KIND_MAC:
        return set_mac(key, object, text, why);
    case CONFIG_KIND_FORWARDS:
        return add_forward(key, object, text, why);
    case CONFIG_KIND_OBJECT:
    case CONFIG_KIND_SWITCH:
    case CONFIG_KIND_LIST:
        break;
    }
    return refuse_text(key, text, why);
}
