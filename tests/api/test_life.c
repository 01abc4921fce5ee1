/* SPDX-License-Identifier: MIT */
/* Many VMs in one process: cycles, crowds, destruction in every state, nothing left over. */
#include "api_test.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { CYCLES = 200 }; /* UMBRA_CYCLES: another number (label slow) */
#else
enum { CYCLES = 1000 };
#endif
enum { CROWD = 64, WARM_UP = 3 };

static unsigned count_entries(const char *path)
{
    DIR *folder = opendir(path);
    unsigned count = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

static void run_once(const char *append, uint32_t expected)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_vm *vm = api_create(api_config("exit", append));
    struct umbra_error error;

    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait(vm, INT64_MAX, &outcome, &error)); /* for ever */
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
    assert_int_equal(outcome.exit_value, expected);
    umbra_vm_destroy(vm);
}

static void test_cycles(void **state)
{
    const char *wanted = getenv("UMBRA_CYCLES");
    uint32_t cycles = wanted != NULL ? (uint32_t)atoi(wanted) : CYCLES;
    unsigned fds, threads;
    char append[16];

    for (int i = 0; i < WARM_UP; i++) {
        run_once("value=7", 7);
    }
    fds = count_entries("/proc/self/fd");
    threads = count_entries("/proc/self/task");
    for (uint32_t i = 0; i < cycles; i++) {
        snprintf(append, sizeof(append), "value=%u", i % 100);
        run_once(append, i % 100);
    }
    assert_int_equal(count_entries("/proc/self/fd"), fds);
    assert_int_equal(count_entries("/proc/self/task"), threads);
}

/* 64 at once from one thread, by their event descriptors; each has its own answer. */
static void test_crowd(void **state)
{
    struct umbra_vm *vms[CROWD];
    struct umbra_error error;
    char append[16];

    for (uint32_t i = 0; i < CROWD; i++) {
        snprintf(append, sizeof(append), "value=%u", i);
        vms[i] = api_create(api_config("exit", append));
    }
    for (unsigned i = 0; i < CROWD; i++) {
        assert_ok(umbra_vm_start(vms[i], &error));
    }
    for (uint32_t i = 0; i < CROWD; i++) {
        struct umbra_outcome outcome = { .size = sizeof(outcome) };

        assert_true(umbra_vm_event_fd(vms[i]) >= 0);
        assert_ok(umbra_vm_wait(vms[i], 120000, &outcome, &error));
        assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
        assert_int_equal(outcome.exit_value, i);
        umbra_vm_destroy(vms[i]);
    }
}

static void *thread_main(void *context)
{
    for (int i = 0; i < 5; i++) {
        run_once("value=9", 9);
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[8];

    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, thread_main, NULL), 0);
    }
    for (size_t i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void test_destroy_in_every_state(void **state)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;
    struct umbra_vm *vm;

    umbra_vm_destroy(NULL);
    umbra_vm_destroy(api_create(api_config("ends", "hang"))); /* created */
    vm = api_create(api_config("ends", "hang"));              /* running */
    assert_ok(umbra_vm_start(vm, &error));
    umbra_vm_destroy(vm);
    vm = api_create(api_config("ends", "hang")); /* paused */
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_pause(vm, &error));
    assert_ok(umbra_vm_pause(vm, &error));
    umbra_vm_destroy(vm);
    vm = api_create(api_config("ends", "hang")); /* stopping */
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_stop(vm, NULL, &error));
    umbra_vm_destroy(vm);
    vm = api_create(
        api_config("exit", "value=3")); /* ended, then reset, then ended again */
    for (int i = 0; i < 3; i++) {
        assert_ok(umbra_vm_start(vm, &error));
        assert_ok(umbra_vm_wait(vm, 120000, &outcome, &error));
        assert_int_equal(outcome.exit_value, 3);
        assert_int_not_equal(umbra_vm_start(vm, &error), 0);
        assert_int_not_equal(umbra_vm_pause(vm, &error), 0);
        assert_ok(umbra_vm_reset(vm, &error));
    }
    umbra_vm_destroy(vm);
}

static void test_pause_and_expect(void **state)
{
    struct umbra_vm *vm = api_create(api_config("ends", "hang"));
    struct umbra_match match;
    struct umbra_error error;

    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_console_expect(vm, 0, "^ending by ([a-z]+)[^a-z]", UMBRA_EXPECT_REGEX,
                                   60000, &match, &error));
    assert_int_equal(strncmp(match.text, "ending by hang", 14), 0);
    for (int i = 0; i < 50; i++) {
        assert_ok(umbra_vm_pause(vm, &error));
        assert_ok(umbra_vm_resume(vm, &error));
    }
    assert_int_equal(umbra_console_expect(vm, 0, "never printed", 0, 10, NULL, &error),
                     -ETIMEDOUT);
    assert_non_null(strstr(error.message, "never printed"));
    assert_ok(umbra_vm_stop(vm, NULL, &error));
    assert_int_equal(umbra_console_expect(vm, 0, "never printed", 0, 60000, NULL, &error),
                     -EPIPE);
    umbra_vm_destroy(vm);
}

struct seen {
    unsigned reads, writes, resets, destroys;
    uint64_t last;
};

static uint64_t device_read(void *context, uint64_t offset, unsigned width)
{
    ((struct seen *)context)->reads++;
    return 0x60 + offset;
}

static void device_write(void *context, uint64_t offset, unsigned width, uint64_t value)
{
    struct seen *seen = context;

    seen->writes++;
    seen->last = value;
}

static void device_destroy(void *context)
{
    ((struct seen *)context)->destroys++;
}

static enum umbra_hook_verdict count_hook(void *context, struct umbra_access *access)
{
    struct seen *seen = context;

    seen->writes++;
    seen->last = access->value;
    return UMBRA_HOOK_PASS;
}

static enum umbra_hook_verdict change_hook(void *context, struct umbra_access *access)
{
    access->value = 42;
    return UMBRA_HOOK_PASS;
}

/* A hook sees and changes what the guest writes to the debug-exit port. */
static void test_hooks(void **state)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_vm *vm = api_create(api_config("exit", "value=5"));
    struct seen seen = { 0 };
    struct umbra_error error;
    uint32_t first, second;

    assert_ok(
        umbra_hook_add(vm, UMBRA_PORT_WRITE, 0xf4, 1, count_hook, &seen, &first, &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait(vm, 120000, &outcome, &error));
    assert_int_equal(outcome.exit_value, 5);
    assert_int_equal(seen.writes, 1);
    assert_int_equal(seen.last, 5);
    assert_ok(umbra_vm_reset(vm, &error));
    assert_ok(umbra_hook_remove(vm, first, &error));
    assert_int_equal(umbra_hook_remove(vm, first, &error), -ENOENT);
    assert_ok(umbra_hook_add(vm, UMBRA_PORT_WRITE, 0xf0, 16, change_hook, NULL, &second,
                             &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait(vm, 120000, &outcome, &error));
    assert_int_equal(outcome.exit_value, 42);
    assert_int_equal(seen.writes, 1);
    umbra_vm_destroy(vm);
}

/* A device of ours takes the place of COM2, which this config does not have. */
static void test_device(void **state)
{
    struct seen seen = { 0 };
    const struct umbra_device device = {
        .size = sizeof(device),
        .name = "mine",
        .base = 0x2f8,
        .length = 8,
        .context = &seen,
        .read = device_read,
        .write = device_write,
        .destroy = device_destroy,
    };
    struct umbra_device overlapping = device;
    struct umbra_vm *vm = api_create(api_config("exit", "value=1"));
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;

    assert_ok(umbra_device_add(vm, &device, &error));
    overlapping.base = 0x3f8;
    assert_int_not_equal(umbra_device_add(vm, &overlapping, &error), 0);
    assert_non_null(strstr(error.message, "overlaps"));
    assert_int_equal(seen.destroys, 1);
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait(vm, 120000, &outcome, &error));
    assert_int_equal(umbra_device_add(vm, &device, &error), -EBUSY);
    assert_int_equal(seen.destroys, 2); /* of the one that was refused */
    umbra_vm_destroy(vm);
    assert_int_equal(seen.destroys, 3);
}

/* A reset that cannot be leaves a VM at its end, and not one that seems to run. */
static void test_reset_fails(void **state)
{
    struct umbra_config *config = api_config("ends", "hang");
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    char path[4096], copy[] = "api-life-XXXXXX", command[4400];
    struct umbra_error error;
    struct umbra_vm *vm;
    int fd = mkstemp(copy);

    assert_true(fd >= 0);
    close(fd);
    snprintf(path, sizeof(path), "%s/ends.elf",
             getenv("UMBRA_GUESTS") != NULL ? getenv("UMBRA_GUESTS") : ".");
    snprintf(command, sizeof(command), "cp '%s' %s", path, copy);
    assert_int_equal(system(command), 0);
    api_set(config, "kernel", copy);
    vm = api_create(config);
    assert_ok(umbra_vm_start(vm, &error));
    for (unsigned paused = 0; paused < 2; paused++) {
        if (paused) {
            assert_ok(umbra_vm_pause(vm, &error));
        }
        assert_int_equal(unlink(copy), 0);
        assert_int_not_equal(umbra_vm_reset(vm, &error), 0);
        assert_non_null(strstr(error.message, copy));
        assert_ok(umbra_vm_wait(vm, -1, &outcome, &error));
        assert_int_equal(outcome.kind, UMBRA_OUTCOME_ERROR);
        assert_non_null(strstr(outcome.reason, copy));
        assert_int_equal(system(command), 0); /* and with its file back it goes on */
        assert_ok(umbra_vm_reset(vm, &error));
        assert_ok(umbra_vm_start(vm, &error));
    }
    umbra_vm_destroy(vm);
    unlink(copy);
}

/* Nothing about the embedder's signals changes. */
static void test_manners(void **state)
{
    struct sigaction before[64 + 1], after;
    sigset_t mask_before, mask_after;

    for (int i = 1; i <= 64; i++) {
        if (sigaction(i, NULL, &before[i]) < 0) {
            before[i].sa_handler = SIG_ERR; /* the C library's own */
        }
    }
    pthread_sigmask(SIG_SETMASK, NULL, &mask_before);
    run_once("value=2", 2);
    pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
    for (int i = 1; i <= 64; i++) {
        if (sigaction(i, NULL, &after) == 0) {
            assert_int_equal(sigismember(&mask_before, i), sigismember(&mask_after, i));
            assert_ptr_equal(before[i].sa_handler, after.sa_handler);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cycles),
        cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_destroy_in_every_state),
        cmocka_unit_test(test_pause_and_expect),
        cmocka_unit_test(test_hooks),
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_reset_fails),
        cmocka_unit_test(test_manners),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
