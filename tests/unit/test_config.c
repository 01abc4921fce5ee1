/* SPDX-License-Identifier: MIT */
/* Configurations: JSON and launcher text into the struct and back. */
#include "unit/config_fixture.h"

#include <errno.h>
#include <stdio.h>

#include "base/util.h"

static void test_every_key(void **state)
{
    static const char json[] =
        "{\"name\": \"a\", \"kernel\": \"k\", \"initrd\": \"/i\", \"append\": \"x=1 "
        "y\",\n"
        " \"memory\": \"1G\", \"hugepages\": \"2M\", \"prefault\": true, \"cpus\": 4,\n"
        " \"topology\": {\"cores\": 2, \"threads\": 2}, \"features\": [\"-smap\"],\n"
        " \"irqchip\": \"split\", \"pit\": false, \"exits\": {\"hlt\": false},\n"
        " \"paging\": \"nested\", \"acpi\": false, \"fdt\": true, \"adapt\": false,\n"
        " \"serial\": [\"stdio\", \"file:log\", \"fd:7\"], \"debug_port\": \"pty\",\n"
        " \"disks\": [{\"path\": \"d\", \"readonly\": true, \"cache\": \"direct\"},\n"
        "             {\"path\": \"nbd://host/x\", \"queues\": 3}],\n"
        " \"net\": [{\"tap\": \"tap0\"}, {\"backend\": \"user\",\n"
        "           \"forward\": [\"udp:127.0.0.1:53:10.0.2.15:5353\"],\n"
        "           \"mac\": \"52:54:00:aa:bb:cc\"}],\n"
        " \"share\": [{\"tag\": \"t\", \"path\": \"/s\"}],\n"
        " \"consoles\": [{\"name\": \"c\", \"end\": \"unix:u\"}],\n"
        " \"rng\": {\"rate\": 1024}, \"balloon\": true, \"vsock\": {\"cid\": 3, "
        "\"path\": \"v\"},\n"
        " \"virtio_transport\": \"mmio\", \"timeout\": 1.5, \"on_reset\": \"restart\",\n"
        " \"dirty\": \"ring\", \"gdb\": \"1234\", \"gdb_wait\": true}";
    struct umbra_config *c = config_defaults();
    struct umbra_error error;

    assert_int_equal(config_load(c, json, &error), 0);
    assert_int_equal(umbra_config_validate(c, &error), 0);
    assert_string_equal(c->kernel, "dir/k");
    assert_string_equal(c->initrd, "/i");
    assert_string_equal(c->append, "x=1 y");
    assert_int_equal(c->memory, GIB);
    assert_int_equal(c->memory_options.backing, GUEST_MEM_2M);
    assert_true(c->memory_options.prefault);
    assert_int_equal(c->cpus, 4);
    assert_int_equal(c->cores, 2);
    assert_int_equal(c->feature_count, 1);
    assert_true(c->split_irqchip && c->no_pit && !c->exit_hlt && c->exit_pause);
    assert_true(c->no_acpi && c->fdt && c->no_adapt && c->virtio_mmio && c->balloon);
    assert_int_equal(c->paging, CONFIG_PAGING_NESTED);
    assert_int_equal(c->serial_count, 3);
    assert_int_equal(c->serial[1].kind, CONFIG_SERIAL_FILE);
    assert_string_equal(c->serial[1].path, "dir/log");
    assert_int_equal(c->serial[2].fd, 7);
    assert_int_equal(c->debug_port.kind, CONFIG_SERIAL_PTY);
    assert_true(c->disks[0].readonly && c->disks[0].direct);
    assert_int_equal(c->disks[0].queue_size, 256);
    assert_int_equal(c->disks[1].backend, CONFIG_DISK_NBD);
    assert_string_equal(c->disks[1].path, "nbd://host/x");
    assert_int_equal(c->nets[0].backend, CONFIG_NET_TAP);
    assert_int_equal(c->nets[0].fd, -1);
    assert_true(c->nets[1].forwards[0].udp);
    assert_string_equal(c->nets[1].forwards[0].guest_address, "10.0.2.15");
    assert_int_equal(c->nets[1].forwards[0].guest_port, 5353);
    assert_int_equal(c->nets[1].mac[5], 0xcc);
    assert_string_equal(c->consoles[0].end.path, "dir/u");
    assert_true(c->rng);
    assert_int_equal(c->rng_rate, 1024);
    assert_int_equal(c->vsock_cid, 3);
    assert_int_equal(c->timeout_ms, 1500);
    assert_int_equal(c->on_reset, CONFIG_ON_RESET_RESTART);
    assert_int_equal(c->dirty, CONFIG_DIRTY_RING);
    umbra_config_free(c);
}

/* What to_json writes reads back as the same, also through a copy. */
static void test_round_trip(void **state)
{
    static const char json[] =
        "{\"kernel\": \"k\", \"timeout\": \"1ms\", \"rng\": {\"rate\": \"3K\"},"
        " \"serial\": [\"file:a,b\", \"none\"], \"features\": [\"+a\", \"-b\"],"
        " \"net\": [{\"forward\": [\"tcp:[::1]:1:2\", \"tcp:1:10.0.0.1:2\"]}],"
        " \"disks\": [{\"path\": \"p\", \"id\": \"d\"}], \"append\": \"\\\"q\\\" \\\\ "
        "\\u00e9\"}";
    struct umbra_config *first = config_defaults(), *copy, *second = config_defaults();
    struct umbra_error error;
    char *one, *two, *three;

    assert_int_equal(config_load(first, json, &error), 0);
    assert_int_equal(config_copy(first, &copy), 0);
    one = umbra_config_to_json(first);
    umbra_config_free(first);
    two = umbra_config_to_json(copy);
    assert_int_equal(umbra_config_load_text(second, one, "y", NULL, &error), 0);
    three = umbra_config_to_json(second);
    assert_string_equal(one, two);
    assert_string_equal(one, three);
    free(one);
    free(two);
    free(three);
    umbra_config_free(copy);
    umbra_config_free(second);
}

static void test_positions(void **state)
{
    assert_refused(
        "{\"memroy\": 1}",
        "x.json:1:2: $.memroy: unknown key \"memroy\"; did you mean \"memory\"?");
    assert_refused(
        "{\n  \"cpus\":\n    \"2\"\n}",
        "x.json:3:5: $.cpus: expected a whole number from 1 to 255, got a string");
    assert_refused("{\"cpus\": 0}", "x.json:1:10: $.cpus: out of range: expected a whole "
                                    "number from 1 to 255, got 0");
    assert_refused("{\"cpus\": -1}",
                   "x.json:1:10: $.cpus: out of range: expected a whole "
                   "number from 1 to 255, got -1");
    assert_refused("{\"cpus\": 2, \"cpus\": 3}",
                   "x.json:1:13: $.cpus: this key was given before in the same object");
    assert_refused("{\"disks\": [{\"path\": \"a\"},\n {\"path\": \"b\", \"id\": 5}]}",
                   "x.json:2:22: $.disks[1].id: expected a string, got a whole number");
    assert_refused("{\"name\": \"\xc3\xa9\xc3\xa9\", \"x\\u0079\": 1}",
                   "x.json:1:16: $.xy: unknown key \"xy\"");
    assert_refused("[1]", "x.json:1:1: $: expected an object, got a list");
    assert_refused(
        "{\"paging\": \"nestd\"}",
        "x.json:1:12: $.paging: expected one of \"auto\", \"nested\", \"shadow\", "
        "got \"nestd\"; did you mean \"nested\"?");
    assert_refused("{\"memory\": \"1K\"}",
                   "x.json:1:12: $.memory: out of range: expected 1M to 16T");
    assert_refused("{\"memory\": 99999999999999}",
                   "x.json:1:12: $.memory: out of range: expected 1M to 16T");
    assert_refused("{\"kernel\": \"\"}",
                   "x.json:1:12: $.kernel: expected a path, got an empty string");
    assert_refused("{\"vsock\": {\"path\": \"v\"}}",
                   "x.json:1:11: $.vsock: the key \"cid\" is "
                   "missing (the guest's context id)");
    assert_refused("{\"two words\": 1}",
                   "x.json:1:2: $[\"two words\"]: unknown key \"two words\"");
}

/* A repeated object hides the first one's members; they must not confuse the reader. */
static void test_duplicates(void **state)
{
    assert_refused("{\"rng\": {\"rate\": 1}, \"rng\": {}}",
                   "x.json:1:22: $.rng: this key was given before in the same object");
    assert_refused("{\"disks\": [], \"disks\": [{\"path\": \"a\"}, {\"path\": 1}]}",
                   "x.json:1:15: $.disks: this key was given before in the same object\n"
                   "x.json:1:49: $.disks[1].path: expected a string, got a whole number");
}

static void test_several(void **state)
{
    assert_refused(
        "{\"timeout\": -1,\n \"cpu\": 1,\n \"net\": [{\"backend\": \"usr\"}]}",
        "x.json:1:13: $.timeout: out of range: expected 0 to 31536000 seconds\n"
        "x.json:2:2: $.cpu: unknown key \"cpu\"; did you mean \"cpus\"?\n"
        "x.json:3:22: $.net[0].backend: expected one of \"user\", \"tap\", \"unix\", "
        "\"vhost-user\", got \"usr\"; did you mean \"user\"?");
}

/* More faults than the message holds: as many as fit, and how many are left. */
static void test_many(void **state)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error;
    char json[20000] = "{", *p = json + 1;
    size_t lines = 1;
    unsigned long more;

    for (int i = 0; i < 500; i++) {
        p += sprintf(p, "%s\"unknown-%d\": %d", i > 0 ? ",\n" : "", i, i);
    }
    strcpy(p, "}");
    assert_true(config_load(config, json, &error) < 0);
    assert_true(strlen(error.message) < sizeof(error.message));
    for (p = error.message; (p = strchr(p, '\n')) != NULL; p++) {
        lines++;
    }
    p = strrchr(error.message, '\n');
    assert_int_equal(sscanf(p, "\nand %lu more", &more), 1);
    assert_int_equal(lines - 1 + more, 500);
    umbra_config_free(config);
}

static void test_syntax(void **state)
{
    static const char *const bad[] = { "",
                                       "{",
                                       "{\"a\" 1}",
                                       "{\"a\": }",
                                       "{\"a\": 1,}",
                                       "{} x",
                                       "{\"append\": \"\\u0000\"}",
                                       "{\"a\": \"\xff\"}" };
    struct umbra_error error;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct umbra_config *config = config_defaults();

        assert_int_equal(config_load(config, bad[i], &error), -EINVAL);
        assert_int_equal(strncmp(error.message, "x.json:1:", 9), 0);
        assert_non_null(strstr(error.message, "not valid JSON"));
        umbra_config_free(config);
    }
}

/* A refused text leaves the config as it was. */
static void test_unchanged(void **state)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error;
    char *before = umbra_config_to_json(config), *after;

    assert_true(
        config_load(config, "{\"memory\": \"2G\", \"cpus\": 3, \"x\": 1}", &error) < 0);
    assert_true(umbra_config_set(config, "disk", "path=a,bad=1", &error) < 0);
    assert_true(umbra_config_set(config, "serial", "stdio,what", &error) < 0);
    after = umbra_config_to_json(config);
    assert_string_equal(before, after);
    free(before);
    free(after);
    umbra_config_free(config);
}

static void assert_set(struct umbra_config *config, const char *key, const char *value)
{
    struct umbra_error error = { 0 };
    int rc = umbra_config_set(config, key, value, &error);

    if (rc != 0) {
        fail_msg("%s: %s", key, error.message);
    }
}

static void test_text(void **state)
{
    struct umbra_config *c = config_defaults();
    char *text;

    assert_set(c, "memory", "512M");
    assert_set(c, "disk", "path=root.img,readonly,cache=direct");
    assert_set(c, "disk", "a,,b.img,overlay=discard");
    assert_set(c, "net", "user,forward=tcp:2222:22,forward=tcp:80:80");
    assert_set(c, "net", "tap=tap0");
    assert_set(c, "rng", "on");
    assert_set(c, "balloon", "target=64M,deflate-on-oom=true,reporting=off,stats=5s");
    assert_set(c, "vsock", "cid=3,path=v");
    assert_set(c, "share", "/src,tag=src");
    assert_set(c, "virtio-transport", "mmio");
    assert_set(c, "cpu-features", "-avx512f,+x2apic");
    assert_set(c, "cpu-features", "-smap");
    assert_set(c, "serial", "stdio,file:a,,b");
    assert_set(c, "timeout", "2m");
    assert_set(c, "acpi", "off");
    assert_int_equal(c->memory, 512 * MIB);
    assert_int_equal(c->disk_count, 2);
    assert_true(c->disks[0].readonly && c->disks[0].direct && !c->disks[1].readonly);
    assert_string_equal(c->disks[1].path, "a,b.img");
    assert_int_equal(c->nets[0].forward_count, 2);
    assert_int_equal(c->nets[1].backend, CONFIG_NET_TAP);
    assert_true(c->rng && c->balloon && c->balloon_deflate_on_oom);
    assert_int_equal(c->balloon_target, 64 * MIB);
    assert_int_equal(c->balloon_stats_ms, 5000);
    assert_string_equal(c->shares[0].path, "/src");
    assert_int_equal(c->feature_count, 3);
    assert_int_equal(c->timeout_ms, 120000);
    assert_true(c->no_acpi);
    text = umbra_config_get(c, "serial");
    assert_string_equal(text, "stdio,file:a,,b");
    free(text);
    assert_null(umbra_config_get(c, "kernel"));
    assert_null(umbra_config_get(c, "nothing"));
    umbra_config_free(c);
}

static void assert_text_refused(const char *key, const char *value, const char *message)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error;

    assert_int_equal(umbra_config_set(config, key, value, &error), -EINVAL);
    assert_string_equal(error.message, message);
    assert_int_equal(error.code, UMBRA_ERROR_USAGE);
    umbra_config_free(config);
}

static void test_text_refused(void **state)
{
    assert_text_refused("memory", "12Q",
                        "memory '12Q': expected a size such as \"512M\", got \"12Q\"");
    assert_text_refused("cpu", "1", "unknown key 'cpu'; did you mean 'cpus'?");
    assert_text_refused(
        "disk", "readonly",
        "disk 'readonly': \"path\" is missing (image file, block device, NBD "
        "URI or vhost-user socket)");
    assert_text_refused("net", "user,mtu",
                        "net 'user,mtu': \"mtu\" needs a value, as in "
                        "\"mtu=1500\"");
    assert_text_refused("net", "usr",
                        "net 'usr': backend: expected one of \"user\", \"tap\", "
                        "\"unix\", \"vhost-user\", got \"usr\"; did you mean "
                        "\"user\"?");
    assert_text_refused("serial", "none,none,none,none,none",
                        "serial 'none,none,none,none,none': too many: at most 4");
}

/* Every key's example is taken, and its option is found. */
static void test_examples(void **state)
{
    struct umbra_config_key key = { .size = sizeof(key) };
    size_t count = 0;

    for (size_t i = 0; umbra_config_key_at(i, &key) == 0; i++) {
        struct umbra_config *config = config_defaults();
        char text[128];

        assert_true(key.help != NULL && key.value != NULL && key.example != NULL);
        if (key.parent == NULL) {
            assert_non_null(key.option);
            assert_set(config, key.option, key.example);
            assert_set(config, key.name, key.example);
        } else {
            struct umbra_error error;

            /* Required siblings may be missing; the value itself must not be at fault. */
            snprintf(text, sizeof(text), "%s=%s", key.name, key.example);
            if (umbra_config_set(config, key.parent, text, &error) != 0) {
                assert_non_null(strstr(error.message, "\" is missing ("));
            }
        }
        umbra_config_free(config);
        count++;
    }
    assert_true(count > 80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_key), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_positions), cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_several),   cmocka_unit_test(test_many),
        cmocka_unit_test(test_syntax),    cmocka_unit_test(test_unchanged),
        cmocka_unit_test(test_text),      cmocka_unit_test(test_text_refused),
        cmocka_unit_test(test_examples),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
