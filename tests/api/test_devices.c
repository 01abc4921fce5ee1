/* SPDX-License-Identifier: MIT */
/* Devices changed while the VM lives: the balloon, a disk, a cable, by name, in every state. */
#include "api_test.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { PAGE = 4096, MIB = 1 << 20, POOL = 4 * MIB, POOL_START = 16 * MIB };

static const uint64_t unknown = UINT64_MAX;

static struct umbra_balloon_stats stats_of(struct umbra_vm *vm)
{
    struct umbra_balloon_stats stats = { .size = sizeof(stats) };
    struct umbra_error error;

    assert_ok(umbra_balloon_stats(vm, "balloon", &stats, &error));
    return stats;
}

static void expect(struct umbra_vm *vm, const char *text)
{
    struct umbra_error error;

    assert_ok(umbra_console_expect(vm, 0, text, 0, 60000, NULL, &error));
}

/* A VM with a balloon, disk "data" of one MiB at @path, and net0 whose other end is @end. */
static struct umbra_vm *make(char *path, int *end)
{
    struct umbra_config *config = api_config("virtio_balloon", "packed pool=4");
    char text[128];
    int ends[2], fd = mkstemp(path);
    struct umbra_vm *vm;

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, MIB), 0);
    close(fd);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    snprintf(text, sizeof(text), "path=%s,id=data", path);
    api_set(config, "disks", text);
    snprintf(text, sizeof(text), "unix,fd=%d", ends[0]);
    api_set(config, "net", text);
    api_set(config, "balloon", "reporting");
    api_set(config, "dirty", "bitmap");
    vm = api_create(config);
    close(ends[0]);
    *end = ends[1];
    return vm;
}

static void check_names(struct umbra_vm *vm)
{
    struct umbra_balloon_stats stats = { .size = sizeof(stats) };
    struct umbra_error error;

    assert_int_equal(umbra_balloon_set(vm, "no", 0, &error), -ENOENT);
    assert_non_null(strstr(error.message, "no virtio device \"no\""));
    assert_int_equal(umbra_balloon_set(vm, NULL, 0, &error), -EINVAL);
    assert_int_equal(umbra_balloon_set(vm, "data", 0, &error), -EINVAL);
    assert_int_equal(umbra_balloon_stats(vm, "net0", &stats, &error), -EINVAL);
    assert_int_equal(umbra_disk_resize(vm, "balloon", 0, NULL, &error), -EINVAL);
    assert_int_equal(umbra_net_set_link(vm, "data", true, NULL), -EINVAL);
    assert_int_equal(umbra_balloon_set(vm, "balloon", UINT64_C(65) * MIB, &error),
                     -ERANGE);
    assert_int_equal(umbra_balloon_set(vm, "balloon", UINT64_MAX, &error), -ERANGE);
}

static void check_disk(struct umbra_vm *vm, const char *path)
{
    struct umbra_error error;
    struct stat st;
    uint64_t size = 0;

    assert_ok(umbra_disk_resize(vm, "data", 2 * MIB, &size, &error));
    assert_int_equal(size, 2 * MIB);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 2 * MIB);
    assert_int_equal(umbra_disk_resize(vm, "data", MIB, &size, &error), -ERANGE);
    assert_int_equal(umbra_disk_resize(vm, "data", 2 * MIB + 1, &size, &error), -ERANGE);
    assert_int_equal(truncate(path, 3 * MIB), 0);
    assert_ok(umbra_disk_resize(vm, "data", 0, &size, &error));
    assert_int_equal(size, 3 * MIB);
    assert_int_equal(truncate(path, MIB), 0);
    assert_ok(umbra_disk_resize(vm, "data", 0, NULL, &error));
    assert_ok(umbra_net_set_link(vm, "net0", false, &error));
    assert_ok(umbra_net_set_link(vm, "net0", true, &error));
}

static void count_pool(void *context, uint64_t gpa)
{
    *(unsigned *)context += gpa >= POOL_START && gpa < POOL_START + POOL;
}

static void test_live(void **state)
{
    char path[] = "/tmp/umbra-devices-XXXXXX";
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_balloon_stats stats;
    struct umbra_error error;
    unsigned dirty = 0;
    int end;
    struct umbra_vm *vm = make(path, &end);

    check_names(vm);
    check_disk(vm, path);
    stats = stats_of(vm);
    assert_false(stats.driver_ready);
    assert_int_equal(stats.age_ms, unknown);
    assert_int_equal(stats.guest[UMBRA_BALLOON_FREE], unknown);
    /* A caller of another day knows fewer members: the others are left alone. */
    memset(&stats, 0x5a, sizeof(stats));
    stats.size = offsetof(struct umbra_balloon_stats, actual);
    assert_ok(umbra_balloon_stats(vm, "balloon", &stats, &error));
    assert_int_equal(stats.target, 0);
    assert_int_equal(stats.actual, UINT64_C(0x5a5a5a5a5a5a5a5a));

    assert_ok(umbra_vm_start(vm, &error));
    expect(vm, "filled");
    check_names(vm);
    check_disk(vm, path);
    assert_ok(umbra_vm_dirty_pages(vm, count_pool, &dirty, &error));
    assert_int_equal(dirty, POOL / PAGE);
    assert_ok(umbra_balloon_set(vm, "balloon", 2 * MIB, &error));
    expect(vm, "balloon 512 pages");
    stats = stats_of(vm);
    assert_true(stats.driver_ready);
    assert_int_equal(stats.target, 2 * MIB);
    assert_int_equal(stats.actual, 2 * MIB);
    assert_int_equal(stats.released, 2 * MIB);
    assert_true(stats.resident >= 2 * MIB);
    assert_int_equal(stats.guest[UMBRA_BALLOON_SWAP_IN], unknown);
    /* What was lent became zeroes: it counts as written. */
    dirty = 0;
    assert_ok(umbra_vm_dirty_pages(vm, count_pool, &dirty, &error));
    assert_int_equal(dirty, 2 * MIB / PAGE);

    /* Over a reset the target stays, the balloon is empty until the driver is back. */
    assert_ok(umbra_vm_reset(vm, &error));
    expect(vm, "filled");
    stats = stats_of(vm);
    assert_int_equal(stats.target, 2 * MIB);
    assert_int_equal(stats.actual, 0);
    assert_ok(umbra_vm_pause(vm, &error));
    check_names(vm);
    check_disk(vm, path);
    assert_ok(umbra_balloon_set(vm, "balloon", PAGE, &error)); /* the end */
    assert_ok(umbra_vm_resume(vm, &error));
    assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
    assert_int_equal(outcome.exit_value, 0);
    assert_int_equal(umbra_balloon_set(vm, "balloon", 0, &error), -ESHUTDOWN);
    assert_int_equal(umbra_disk_resize(vm, "data", 0, NULL, &error), -ESHUTDOWN);
    assert_int_equal(umbra_net_set_link(vm, "net0", true, &error), -ESHUTDOWN);
    umbra_vm_destroy(vm);
    close(end);
    unlink(path);
}

/* A target of the config is there from the start; a VM without a balloon has none. */
static void test_config(void **state)
{
    struct umbra_config *config = api_config("virtio_balloon", "pool=4");
    struct umbra_balloon_stats stats = { .size = sizeof(stats) };
    struct umbra_error error;
    struct umbra_vm *vm;

    api_set(config, "balloon", "target=8M,stats=1s");
    vm = api_create(config);
    assert_int_equal(stats_of(vm).target, 8 * MIB);
    umbra_vm_destroy(vm);
    vm = api_create(api_config("echo", "x"));
    assert_int_equal(umbra_balloon_set(vm, "balloon", 0, &error), -ENOENT);
    assert_int_equal(umbra_balloon_stats(vm, "balloon", &stats, &error), -ENOENT);
    umbra_vm_destroy(vm);
    config = api_config("echo", "x");
    api_set(config, "balloon", "target=64M");
    assert_int_equal(umbra_config_validate(config, &error), -EINVAL);
    assert_non_null(strstr(error.message, "$.balloon.target: must be less than"));
    umbra_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_live),
        cmocka_unit_test(test_config),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
