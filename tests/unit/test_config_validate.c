/* SPDX-License-Identifier: MIT */
/* Configurations: values that must fit each other, and the files that they name. */
#include "unit/config_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/util.h"

/* A config that reads, with one fault that validation finds. */
static const struct {
    const char *json, *message;
} faults[] = {
    { "{\"kernel\": \"k\", \"demo\": true}",
      "x.json:1:25: $.demo: the demo guest and a kernel exclude each other" },
    { "{\"kernel\": \"k\", \"kernel_load\": 4096}",
      "x.json:1:32: $.kernel_load: only for \"kernel_format\": \"flat\"" },
    { "{\"kernel\": \"k\", \"kernel_format\": \"flat\", \"kernel_load\": \"1G\", "
      "\"memory\": \"512M\"}",
      "x.json:1:57: $.kernel_load: lies behind the end of memory" },
    { "{\"kernel\": \"k\", \"memory\": 1048577}",
      "x.json:1:27: $.memory: must be a multiple of 4K" },
    { "{\"kernel\": \"k\", \"hugepages\": \"2M\", \"memory\": \"3M\"}",
      "x.json:1:46: $.memory: must be a multiple of 2M" },
    { "{\"kernel\": \"k\", \"hugepages\": \"2M\", \"mergeable\": true}",
      "x.json:1:49: $.mergeable: the host merges only ordinary pages: \"hugepages\" "
      "excludes it" },
    { "{\"kernel\": \"k\", \"cpus\": 4, \"topology\": {\"cores\": 3}}",
      "x.json:1:40: $.topology: makes 3 (or a multiple of it) CPUs, but \"cpus\" is 4" },
    { "{\"kernel\": \"k\", \"features\": [\"-smap\", \"+AVX\"]}",
      "x.json:1:29: $.features[1]: \"+AVX\" is not a feature: expected +name or -name, "
      "as "
      "in /proc/cpuinfo" },
    { "{\"kernel\": \"k\", \"disks\": [{\"path\": \"a\", \"queue_size\": 3}]}",
      "x.json:1:55: $.disks[0].queue_size: must be a power of two" },
    { "{\"kernel\": \"k\", \"disks\": [{\"path\": \"a\", \"block_size\": 513}]}",
      "x.json:1:55: $.disks[0].block_size: must be a power of two" },
    { "{\"kernel\": \"k\", \"disks\": [{\"path\": \"a\", \"overlay\": \"keep\"}]}",
      "x.json:1:52: $.disks[0].overlay: \"keep\" needs \"overlay_path\"" },
    { "{\"kernel\": \"k\", \"disks\": [{\"path\": \"a\", \"size\": \"1G\"}]}",
      "x.json:1:49: $.disks[0].size: needs \"overlay\"" },
    { "{\"kernel\": \"k\", \"disks\": [{\"path\": \"a\", \"id\": \"x\"}], "
      "\"net\": [{\"id\": \"x\"}]}",
      "x.json:1:69: $.net[0].id: \"x\" is used twice" },
    { "{\"kernel\": \"k\", \"debug_port\": \"stdio\"}",
      "x.json:1:31: $.debug_port: stdio is for consoles; the debug port ends at "
      "file:PATH, pty, unix:PATH or fd:N" },
    { "{\"kernel\": \"k\", \"net\": [{\"backend\": \"tap\"}]}",
      "x.json:1:25: $.net[0]: the tap backend needs \"tap\" or \"fd\"" },
    { "{\"kernel\": \"k\", \"net\": [{\"tap\": \"t\", \"forward\": \"tcp:1:2\"}]}",
      "x.json:1:49: $.net[0].forward: only the user backend forwards ports" },
    { "{\"kernel\": \"k\", \"net\": [{\"vhost\": true}]}",
      "x.json:1:35: $.net[0].vhost: is for the tap backend" },
    { "{\"kernel\": \"k\", \"share\": [{\"tag\": \"t\"}]}",
      "x.json:1:27: $.share[0]: needs \"path\" or \"socket\", not both" },
    { "{\"kernel\": \"k\", \"gdb\": \"70000\"}",
      "x.json:1:24: $.gdb: expected a port or unix:PATH, got \"70000\"" },
    { "{\"kernel\": \"k\", \"gdb_wait\": true}",
      "x.json:1:29: $.gdb_wait: needs \"gdb\"" },
};

static void test_faults(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        struct umbra_config *config = config_defaults();
        struct umbra_error error = { 0 };

        if (config_load(config, faults[i].json, &error) != 0) {
            fail_msg("%s: %s", faults[i].json, error.message);
        }
        assert_int_equal(umbra_config_validate(config, &error), -EINVAL);
        assert_string_equal(error.message, faults[i].message);
        assert_int_equal(error.code, UMBRA_ERROR_CONFIG);
        umbra_config_free(config);
    }
}

/* Without a kernel: wrong usage from the command line, a bad config from a file. */
static void test_no_kernel(void **state)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error;

    assert_int_equal(umbra_config_validate(config, &error), -EINVAL);
    assert_int_equal(error.code, UMBRA_ERROR_USAGE);
    assert_int_equal(config_load(config, "{}", &error), 0);
    assert_int_equal(umbra_config_validate(config, &error), -EINVAL);
    assert_int_equal(error.code, UMBRA_ERROR_CONFIG);
    umbra_config_free(config);
}

/* An option that overrides a value also takes its place. */
static void test_origins(void **state)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error;

    assert_int_equal(
        config_load(config, "{\"kernel\": \"k\", \"memory\": 1048577}", &error), 0);
    assert_int_equal(umbra_config_set(config, "memory", "1048578", &error), 0);
    assert_int_equal(umbra_config_validate(config, &error), -EINVAL);
    assert_string_equal(error.message, "$.memory: must be a multiple of 4K");
    umbra_config_free(config);
}

static void test_too_many_devices(void **state)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error;

    assert_int_equal(umbra_config_set(config, "kernel", "k", &error), 0);
    for (int i = 0; i < 31; i++) {
        assert_int_equal(umbra_config_set(config, "disk", "d", &error), 0);
    }
    assert_int_equal(umbra_config_validate(config, &error), -EINVAL);
    assert_non_null(strstr(error.message, "31 virtio devices"));
    umbra_config_free(config);
}

static void test_files(void **state)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error;
    char path[] = "/tmp/umbra-test-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(umbra_config_set(config, "kernel", path, &error), 0);
    assert_int_equal(umbra_config_check_files(config, &error), 0);
    assert_int_equal(umbra_config_set(config, "initrd", "/nowhere/x", &error), 0);
    assert_int_equal(umbra_config_check_files(config, &error), -ENOENT);
    assert_int_equal(error.code, UMBRA_ERROR_MISSING);
    assert_string_equal(error.message,
                        "$.initrd: there is no initrd '/nowhere/x': No such "
                        "file or directory");
    assert_int_equal(umbra_config_set(config, "initrd", "/tmp", &error), 0);
    assert_int_equal(umbra_config_check_files(config, &error), -EINVAL);
    assert_int_equal(error.code, UMBRA_ERROR_CONFIG);
    umbra_config_free(config);
    unlink(path);
}

static void test_load_file(void **state)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error;

    assert_int_equal(umbra_config_load_file(config, "/nowhere/x.json", &error), -ENOENT);
    assert_int_equal(error.code, UMBRA_ERROR_MISSING);
    assert_true(umbra_config_load_file(config, "/tmp", &error) < 0);
    assert_int_equal(error.code, UMBRA_ERROR_CONFIG);
    assert_true(umbra_config_load_file(config, "/dev/zero", &error) < 0);
    assert_int_equal(error.code, UMBRA_ERROR_CONFIG);
    umbra_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),  cmocka_unit_test(test_no_kernel),
        cmocka_unit_test(test_origins), cmocka_unit_test(test_too_many_devices),
        cmocka_unit_test(test_files),   cmocka_unit_test(test_load_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
