/* SPDX-License-Identifier: MIT */
/*
 * configs/schema.json agrees with the parser: it is what the table of keys makes of it; what
 * the parser takes it takes; and what it can express, both refuse.
 */
#include "unit/config_fixture.h"

#include <glob.h>
#include <inttypes.h>
#include <jansson.h>
#include <regex.h>
#include <stdio.h>

#include "base/util.h"

#define CONFIGS SOURCE_DIR "/configs"

/* ---- A validator of the keywords that the schema uses ------------------------ */

static bool valid(const json_t *schema, json_t *value);

static bool type_matches(const char *type, json_t *value)
{
    return (strcmp(type, "object") == 0 && json_is_object(value)) ||
           (strcmp(type, "array") == 0 && json_is_array(value)) ||
           (strcmp(type, "string") == 0 && json_is_string(value)) ||
           (strcmp(type, "boolean") == 0 && json_is_boolean(value)) ||
           (strcmp(type, "integer") == 0 && json_is_integer(value)) ||
           (strcmp(type, "number") == 0 && json_is_number(value));
}

static bool pattern_matches(const char *pattern, const char *text)
{
    regex_t regex;
    bool matches;

    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    matches = regexec(&regex, text, 0, NULL, 0) == 0;
    regfree(&regex);
    return matches;
}

static bool object_valid(const json_t *schema, json_t *value)
{
    const json_t *properties = json_object_get(schema, "properties"), *member;
    const char *key;

    assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
    for (void *at = json_object_iter(value); at != NULL;
         at = json_object_iter_next(value, at)) {
        key = json_object_iter_key(at);
        member = json_object_get(properties, key);
        if (member == NULL || !valid(member, json_object_iter_value(at))) {
            return false;
        }
    }
    return true;
}

static bool any_valid(const json_t *schemas, json_t *value)
{
    const json_t *one;
    size_t i;

    json_array_foreach(schemas, i, one)
    {
        if (valid(one, value)) {
            return true;
        }
    }
    return false;
}

static bool bounds_valid(const json_t *schema, json_t *value)
{
    const json_t *low = json_object_get(schema, "minimum");
    const json_t *high = json_object_get(schema, "maximum");

    if (!json_is_number(value)) {
        return true;
    }
    return (low == NULL || json_number_value(value) >= json_number_value(low)) &&
           (high == NULL || json_number_value(value) <= json_number_value(high));
}

static bool array_valid(const json_t *schema, json_t *value)
{
    const json_t *limit = json_object_get(schema, "maxItems");
    json_t *item;
    size_t i;

    if (limit != NULL && json_array_size(value) > (size_t)json_integer_value(limit)) {
        return false;
    }
    json_array_foreach(value, i, item)
    {
        if (!valid(json_object_get(schema, "items"), item)) {
            return false;
        }
    }
    return true;
}

static bool enum_valid(const json_t *names, json_t *value)
{
    const json_t *name;
    size_t i;

    json_array_foreach(names, i, name)
    {
        if (json_equal(name, value)) {
            return true;
        }
    }
    return names == NULL;
}

static bool has_required(const json_t *names, json_t *value)
{
    const json_t *name;
    size_t i;

    json_array_foreach(names, i, name)
    {
        if (json_object_get(value, json_string_value(name)) == NULL) {
            return false;
        }
    }
    return true;
}

static bool valid(const json_t *schema, json_t *value)
{
    const char *type = json_string_value(json_object_get(schema, "type"));
    const char *pattern = json_string_value(json_object_get(schema, "pattern"));
    const json_t *any = json_object_get(schema, "anyOf");

    if ((type != NULL && !type_matches(type, value)) ||
        (any != NULL && !any_valid(any, value)) ||
        !enum_valid(json_object_get(schema, "enum"), value) ||
        !has_required(json_object_get(schema, "required"), value) ||
        !bounds_valid(schema, value)) {
        return false;
    }
    if (json_is_string(value) &&
        ((pattern != NULL && !pattern_matches(pattern, json_string_value(value))) ||
         json_string_length(value) <
             (size_t)json_integer_value(json_object_get(schema, "minLength")))) {
        return false;
    }
    if (type != NULL && strcmp(type, "object") == 0) {
        return object_valid(schema, value);
    }
    return type == NULL || strcmp(type, "array") != 0 || array_valid(schema, value);
}

/* ---- The parser -------------------------------------------------------------- */

static bool parses(json_t *value)
{
    struct umbra_config *config = config_defaults();
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    struct umbra_error error;
    int rc = config_load(config, text, &error);

    free(text);
    umbra_config_free(config);
    return rc == 0;
}

/* Both say @expected about @value. */
static void assert_both(const json_t *schema, json_t *value, bool expected)
{
    bool by_schema = valid(schema, value), by_parser = parses(value);

    if (by_schema != expected || by_parser != expected) {
        char *text = json_dumps(value, JSON_ENCODE_ANY);

        fail_msg("schema says %d, parser %d, expected %d: %s", by_schema, by_parser,
                 expected, text);
    }
}

/* ---- Tests ------------------------------------------------------------------- */

static void test_current(void **state)
{
    json_t *stored = json_load_file(CONFIGS "/schema.json", 0, NULL);
    char *made = umbra_config_schema();
    json_t *fresh = json_loads(made, 0, NULL);

    /* umbra schema > configs/schema.json brings it up to date */
    assert_true(stored != NULL && json_equal(stored, fresh));
    json_decref(stored);
    json_decref(fresh);
    free(made);
}

/* Values that replace each value of an example in turn; most of them are wrong there. */
static json_t *mutation(size_t i)
{
    switch (i) {
    case 0:
        return json_null();
    case 1:
        return json_true();
    case 2:
        return json_integer(-1);
    case 3:
        return json_integer(INT64_MAX);
    case 4:
        return json_real(0.25);
    case 5:
        return json_string("");
    case 6:
        return json_string("no such thing, surely");
    case 7:
        return json_pack("[s]", "x:y:z");
    case 8:
        return json_pack("{s:i}", "unknown", 1);
    case 9:
        return json_integer(3);
    default:
        return NULL;
    }
}

static void mutate_object(const json_t *schema, json_t *root, json_t *object);

/* Put each mutation at @slot of @parent, by key or (key == NULL) by index. */
static void mutate_slot(const json_t *schema, json_t *root, json_t *parent,
                        const char *key, size_t index)
{
    json_t *old = json_incref(key != NULL ? json_object_get(parent, key)
                                          : json_array_get(parent, index));
    json_t *item;
    size_t i;

    for (i = 0; (item = mutation(i)) != NULL; i++) {
        if (key != NULL) {
            json_object_set_new(parent, key, item);
        } else {
            json_array_set_new(parent, index, item);
        }
        assert_both(schema, root, valid(schema, root));
    }
    if (key != NULL) {
        json_object_set(parent, key, old);
    } else {
        json_array_set(parent, index, old);
    }
    if (json_is_object(old)) {
        mutate_object(schema, root, old);
    }
    json_array_foreach(old, i, item)
    {
        mutate_slot(schema, root, old, NULL, i);
    }
    json_decref(old);
}

static void mutate_object(const json_t *schema, json_t *root, json_t *object)
{
    json_t *keys = json_array(), *name;
    const char *key;
    json_t *value;
    size_t i;

    json_object_foreach(object, key, value)
    {
        json_array_append_new(keys, json_string(key));
    }
    json_array_foreach(keys, i, name)
    {
        mutate_slot(schema, root, object, json_string_value(name), 0);
    }
    /* A key that nobody knows is refused anywhere. */
    json_object_set_new(object, "unknown", json_true());
    assert_both(schema, root, false);
    json_object_del(object, "unknown");
    json_decref(keys);
}

static void test_examples(void **state)
{
    json_t *schema = json_load_file(CONFIGS "/schema.json", 0, NULL);
    size_t count = 0;
    glob_t files;

    assert_int_equal(glob(CONFIGS "/*.json", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        json_t *example = json_load_file(files.gl_pathv[i], 0, NULL);

        assert_non_null(example);
        if (json_object_get(example, "$schema") == NULL) {
            assert_both(schema, example, true);
            mutate_object(schema, example, example);
            assert_both(schema, example, true);
            count++;
        }
        json_decref(example);
    }
    assert_true(count >= 7);
    globfree(&files);
    json_decref(schema);
}

/* The effective configuration that --dry-run prints is a valid one too. */
static void test_effective(void **state)
{
    json_t *schema = json_load_file(CONFIGS "/schema.json", 0, NULL);
    struct umbra_config *config = config_defaults();
    struct umbra_error error;
    char *text;
    json_t *value;

    assert_int_equal(umbra_config_load_file(config, CONFIGS "/server.json", &error), 0);
    text = umbra_config_to_json(config);
    value = json_loads(text, 0, NULL);
    assert_both(schema, value, true);
    json_decref(value);
    json_decref(schema);
    free(text);
    umbra_config_free(config);
}

/* The edges of ranges and of the written forms. */
static void test_edges(void **state)
{
    static const struct {
        const char *json;
        bool good;
    } rows[] = {
        { "{\"cpus\": 1}", true },
        { "{\"cpus\": 255}", true },
        { "{\"cpus\": 256}", false },
        { "{\"memory\": 1048576}", true },
        { "{\"memory\": 1048575}", false },
        { "{\"memory\": \"1GiB\"}", true },
        { "{\"memory\": \"1 G\"}", false },
        { "{\"memory\": \"0x40000000\"}", true },
        { "{\"timeout\": \"1d\"}", false },
        { "{\"timeout\": \"2h\"}", true },
        { "{\"timeout\": 0.001}", true },
        { "{\"serial\": []}", true },
        { "{\"serial\": [\"none\",\"none\",\"none\",\"none\"]}", true },
        { "{\"serial\": [\"none\",\"none\",\"none\",\"none\",\"none\"]}", false },
        { "{\"serial\": \"fd:x\"}", false },
        { "{\"serial\": \"file:\"}", false },
        { "{\"features\": [\"a,b\"]}", false },
        { "{\"net\": [{\"mac\": \"53:54:00:12:34:56\"}]}", false },
        { "{\"net\": [{\"mac\": \"52:54:00:12:34:5\"}]}", false },
        { "{\"net\": [{\"mac\": \"52:54:00:12:34:56:\"}]}", false },
        { "{\"net\": [{\"forward\": \"tcp:[::1]:80:[fe80::2]:80\"}]}", true },
        { "{\"net\": [{\"forward\": \"tcp:80\"}]}", false },
        { "{\"net\": [{\"forward\": \"sctp:80:80\"}]}", false },
        { "{\"rng\": false}", true },
        { "{\"rng\": {}}", true },
        { "{\"vsock\": {\"cid\": 2, \"path\": \"x\"}}", false },
        { "{\"vsock\": {}}", false },
        { "{\"disks\": [{}]}", false },
        { "{\"disks\": [{\"vhost-user\": \"a.sock\"}]}", true },
        { "{\"disks\": [\"x\"]}", false },
        { "[]", false },
        { "{}", true },
    };
    json_t *schema = json_load_file(CONFIGS "/schema.json", 0, NULL);

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        json_t *value = json_loads(rows[i].json, 0, NULL);

        assert_non_null(value);
        assert_both(schema, value, rows[i].good);
        json_decref(value);
    }
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_current),
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_effective),
        cmocka_unit_test(test_edges),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
