/* SPDX-License-Identifier: MIT */
/* Planned faults as a guest suffers them, again with the same seed; device events; calls
 * inside callbacks. */
#include "api_test.h"

#include <errno.h>
#include <fcntl.h>

enum { REQUESTS = 32, EVENTS_MAX = 4096 };

struct run {
    struct umbra_config *config;
    struct umbra_vm *vm;
    char *text; /* the console */
    char image[32];
    struct umbra_error error;
};

/* The guest called faults with @append, and a disk of zeroes. */
static void run_begin(struct run *run, const char *append)
{
    char disk[64];
    int fd;

    memset(run, 0, sizeof(*run));
    snprintf(run->image, sizeof(run->image), "/tmp/umbra-faults-XXXXXX");
    fd = mkstemp(run->image);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    close(fd);
    snprintf(disk, sizeof(disk), "path=%s", run->image);
    run->config = api_config("faults", append);
    api_set(run->config, "disks", disk);
    api_set(run->config, "rng", "on");
    api_set(run->config, "timeout", "60s");
}

static void run_create(struct run *run)
{
    run->vm = api_create(run->config);
}

static void run_wait(struct run *run)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;
    size_t length;

    assert_ok(umbra_vm_wait(run->vm, 120000, &outcome, &error));
    free(run->text);
    run->text = umbra_console_transcript(run->vm, 0, &length);
    assert_non_null(run->text);
    if (outcome.kind != UMBRA_OUTCOME_EXIT || outcome.exit_value != 0) {
        fail_msg("%s\n%s", outcome.reason, run->text);
    }
}

static void run_go(struct run *run)
{
    struct umbra_error error;

    assert_ok(umbra_vm_start(run->vm, &error));
    run_wait(run);
}

static void run_end(struct run *run)
{
    umbra_vm_destroy(run->vm);
    unlink(run->image);
    free(run->text);
}

static void plan(struct run *run, struct umbra_fault fault)
{
    struct umbra_error error;

    fault.size = sizeof(fault);
    assert_ok(umbra_fault_add(run->vm, &fault, NULL, &error));
}

static bool says(const struct run *run, const char *line)
{
    char text[160];

    snprintf(text, sizeof(text), "%s\r\n", line);
    return strstr(run->text, text) != NULL;
}

static void expect_request(const struct run *run, unsigned n, unsigned status,
                           unsigned moved, unsigned bits)
{
    char line[128];

    snprintf(line, sizeof(line), "request %u status %u length 4097 moved %u bits %u", n,
             status, moved, bits);
    if (!says(run, line)) {
        fail_msg("no \"%s\" in:\n%s", line, run->text);
    }
}

static struct umbra_fault_event event_at(struct run *run, uint64_t index)
{
    struct umbra_fault_event event = { .size = sizeof(event) };

    assert_int_equal(umbra_fault_event_at(run->vm, index, &event), 0);
    return event;
}

/* Each kind of a disk's faults does what it says to the request that it says. */
static void test_disk(void **state)
{
    struct run run;

    run_begin(&run, "disk=8");
    run_create(&run);
    plan(&run,
         (struct umbra_fault){
             .kind = UMBRA_FAULT_IO_ERROR, .device = "disk0", .skip = 1, .count = 1 });
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_SHORT,
                                     .device = "disk0",
                                     .skip = 3,
                                     .count = 1,
                                     .bytes = 1500 });
    plan(&run,
         (struct umbra_fault){
             .kind = UMBRA_FAULT_CORRUPT, .device = "disk0", .skip = 5, .count = 1 });
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_DELAY,
                                     .device = "disk0",
                                     .skip = 6,
                                     .count = 1,
                                     .delay_ns = 2000000 });
    run_go(&run);
    for (unsigned i = 1; i <= 8; i++) {
        expect_request(&run, i, i == 2 || i == 4,
                       i == 2   ? 0
                       : i == 4 ? 1024
                                : 4096,
                       i == 6);
    }
    assert_int_equal(event_at(&run, 0).kind, UMBRA_FAULT_IO_ERROR);
    assert_int_equal(event_at(&run, 0).opportunity, 2);
    assert_int_equal(event_at(&run, 1).value, 1500);
    assert_in_range(event_at(&run, 2).value, 0, 4096 * 8 - 1);
    assert_int_equal(event_at(&run, 3).value, 2000000);
    assert_string_equal(event_at(&run, 3).device, "disk0");
    run_end(&run);
}

/* What is written short is written so far, and what is spoilt is spoilt on the disk. */
static void test_disk_writes(void **state)
{
    static uint8_t bytes[3 * 4096];
    unsigned bits = 0;
    struct run run;
    int fd;

    run_begin(&run, "disk=3 write=1");
    fd = open(run.image, O_RDWR);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(pwrite(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    run_create(&run);
    plan(&run,
         (struct umbra_fault){
             .kind = UMBRA_FAULT_SHORT, .device = "disk0", .count = 1, .bytes = 2048 });
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_CORRUPT,
                                     .device = "disk0",
                                     .direction = UMBRA_FAULT_OUT,
                                     .skip = 2,
                                     .seed = 5 });
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_IO_ERROR,
                                     .device = "disk0",
                                     .direction = UMBRA_FAULT_IN }); /* there are none */
    run_go(&run);
    assert_int_equal(pread(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    close(fd);
    for (unsigned i = 0; i < 4096; i++) {
        assert_int_equal(bytes[i], i < 2048 ? 0 : 0xff);
        assert_int_equal(bytes[4096 + i], 0);
        bits += (unsigned)__builtin_popcount(bytes[8192 + i]);
    }
    assert_int_equal(bits, 1);
    assert_true(says(&run, "request 1 status 1 length 1 moved 4096 bits 0"));
    assert_true(says(&run, "request 3 status 0 length 1 moved 4096 bits 0"));
    run_end(&run);
}

/* The console and the record of a run with a seed; with reset, twice in one VM. */
static void random_run(uint64_t seed, bool reset, char **text, char *record, size_t size)
{
    struct umbra_fault_event event = { .size = sizeof(event) };
    struct umbra_error error;
    size_t used = 0;
    struct run run;
    char *faults;

    run_begin(&run, "disk=32");
    run_create(&run);
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_IO_ERROR,
                                     .device = "disk0",
                                     .seed = seed,
                                     .one_in = 4 });
    plan(&run,
         (struct umbra_fault){
             .kind = UMBRA_FAULT_SHORT, .device = "disk0", .seed = seed, .one_in = 5 });
    plan(&run,
         (struct umbra_fault){
             .kind = UMBRA_FAULT_CORRUPT, .device = "disk0", .seed = seed, .one_in = 6 });
    run_go(&run);
    if (reset) {
        assert_ok(umbra_vm_reset(run.vm, &error));
        assert_int_equal(umbra_fault_event_at(run.vm, 0, &event), -ENOENT);
        run_go(&run);
    }
    for (uint64_t i = 0; umbra_fault_event_at(run.vm, i, &event) == 0; i++) {
        used += (size_t)snprintf(record + used, size - used, "%s %s %llu %llu\n",
                                 event.device, umbra_fault_name(event.kind),
                                 (unsigned long long)event.opportunity,
                                 (unsigned long long)event.value);
    }
    faults = umbra_vm_stats_json(run.vm);
    assert_non_null(strstr(faults, "\"fault\": \"io-error\""));
    free(faults);
    *strstr(run.text, "interrupts") = '\0'; /* how many merge is the processor's affair */
    *text = run.text;
    run.text = NULL;
    run_end(&run);
}

static void test_same_seed(void **state)
{
    char records[4][8192], *texts[4];

    random_run(1, false, &texts[0], records[0], sizeof(records[0]));
    random_run(1, false, &texts[1], records[1], sizeof(records[1]));
    random_run(1, true, &texts[2], records[2], sizeof(records[2]));
    random_run(2, false, &texts[3], records[3], sizeof(records[3]));
    assert_non_null(strchr(records[0], '\n'));
    assert_string_equal(records[0], records[1]);
    assert_string_equal(records[0], records[2]);
    assert_string_not_equal(records[0], records[3]);
    assert_string_equal(texts[0], texts[1]);
    assert_string_equal(texts[0], texts[2]);
    assert_string_not_equal(texts[0], texts[3]);
    for (unsigned i = 0; i < 4; i++) {
        free(texts[i]);
    }
}

/* Lost interrupts are lost on every way that they take; spurious ones come without any. */
static void test_interrupts(void **state)
{
    static const struct {
        const char *transport, *append;
    } ways[] = { { "pci", "disk=4" }, { "pci", "disk=4 msix=0" }, { "mmio", "disk=4" } };

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        for (unsigned spurious = 0; spurious < 2; spurious++) {
            struct run run;
            char append[64];

            snprintf(append, sizeof(append), "%s wait=%u", ways[i].append, spurious);
            run_begin(&run, append);
            api_set(run.config, "virtio_transport", ways[i].transport);
            run_create(&run);
            plan(&run,
                 (struct umbra_fault){ .kind = UMBRA_FAULT_IRQ_LOST, .device = "disk0" });
            if (spurious) {
                plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_IRQ_SPURIOUS,
                                                 .device = "disk0" });
            }
            run_go(&run);
            assert_int_equal(says(&run, "interrupts 0"), !spurious);
            expect_request(&run, 4, 0, 4096, 0);
            run_end(&run);
        }
    }
}

static void test_rng(void **state)
{
    struct run run;

    run_begin(&run, "random=6");
    run_create(&run);
    plan(&run,
         (struct umbra_fault){
             .kind = UMBRA_FAULT_IO_ERROR, .device = "rng", .skip = 1, .count = 1 });
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_SHORT,
                                     .device = "rng",
                                     .skip = 2,
                                     .count = 2,
                                     .bytes = 7 });
    plan(&run, (struct umbra_fault){
                   .kind = UMBRA_FAULT_DELAY, .device = "rng", .skip = 3, .count = 2 });
    run_go(&run);
    for (unsigned i = 1; i <= 6; i++) {
        char line[64];

        snprintf(line, sizeof(line), "request %u length %u", i,
                 i == 2             ? 0
                 : i == 3 || i == 4 ? 7
                                    : 64);
        assert_true(says(&run, line));
    }
    run_end(&run);
}

/* A page vanishes when the guest touches a device, and comes back with its contents. */
static void test_memory(void **state)
{
    struct umbra_error error;
    uint64_t word = 0;
    struct run run;

    run_begin(&run, "memory=0x2000000");
    run_create(&run);
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_MEMORY_GONE,
                                     .device = "debugcon",
                                     .address = 0x2000000,
                                     .bytes = 4096 });
    assert_ok(umbra_vm_start(run.vm, &error));
    assert_ok(umbra_console_expect(run.vm, 0, "memory ffffffffffffffff", 0, 60000, NULL,
                                   &error));
    assert_ok(umbra_console_expect(run.vm, 0, "waiting", 0, 60000, NULL, &error));
    assert_int_equal(umbra_memory_read(run.vm, 0x2000000, &word, 8, &error), -EFAULT);
    assert_int_equal(umbra_memory_read(run.vm, 0x2001000, &word, 8, &error), 0);
    assert_ok(umbra_memory_show(run.vm, &error));
    run_wait(&run);
    assert_true(says(&run, "memory 1122334455667788"));
    assert_int_equal(umbra_memory_read(run.vm, 0x2000000, &word, 8, &error), 0);
    assert_int_equal(word, UINT64_C(0x1122334455667788));
    /* The same by call, while nothing runs; a reset gives it back. */
    assert_ok(umbra_memory_hide(run.vm, 0x2000000, 4096, &error));
    assert_int_equal(umbra_memory_hide(run.vm, 0x2000000, 4096, &error), -EEXIST);
    assert_int_equal(umbra_memory_hide(run.vm, 0x2000000, 100, &error), -EINVAL);
    assert_int_equal(umbra_memory_hide(run.vm, UINT64_C(1) << 40, 4096, &error), -EFAULT);
    assert_ok(umbra_vm_reset(run.vm, &error));
    assert_int_equal(umbra_memory_read(run.vm, 0x2000000, &word, 8, &error), 0);
    run_end(&run);
}

/* The report of a bad end says what was planned. */
static void test_report(void **state)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;
    struct run run;

    run_begin(&run, "memory=0x2000000");
    api_set(run.config, "timeout", "4s"); /* plenty to get there, on a busy host too */
    run_create(&run);
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_MEMORY_GONE,
                                     .device = "debugcon",
                                     .address = 0x2000000,
                                     .bytes = 4096 });
    assert_ok(umbra_vm_start(run.vm, &error));
    assert_ok(umbra_vm_wait(run.vm, 120000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_DEADLINE);
    assert_non_null(strstr(outcome.report, "planned faults: 1 happened"));
    assert_non_null(strstr(outcome.report, "memory-gone of debugcon, opportunity 1"));
    run_end(&run);
}

static void test_clocks(void **state)
{
    struct umbra_error error;
    struct run run;

    run_begin(&run, "clock=1");
    run_create(&run);
    plan(&run, (struct umbra_fault){ .kind = UMBRA_FAULT_CLOCK_JUMP,
                                     .device = "debugcon",
                                     .clocks = UMBRA_CLOCK_RTC | UMBRA_CLOCK_KVM,
                                     .jump_ns = INT64_C(7200) * 1000000000 });
    run_go(&run);
    /* The guest's own doings take no minute. */
    assert_true(strstr(run.text, "rtc 72") != NULL);
    assert_true(strstr(run.text, "kvm 72") != NULL);
    assert_ok(umbra_clock_jump(run.vm, UMBRA_CLOCK_RTC, -1000000000, &error));
    assert_int_equal(umbra_clock_jump(run.vm, 0, 1, &error), -EINVAL);
    assert_int_equal(umbra_clock_jump(run.vm, 64, 1, &error), -EINVAL);
    assert_int_equal(umbra_clock_jump(run.vm, UMBRA_CLOCK_RTC, INT64_MAX, &error),
                     -EINVAL);
    run_end(&run);
}

static void test_refusals(void **state)
{
    struct umbra_fault fault = { .size = sizeof(fault),
                                 .kind = UMBRA_FAULT_DROP,
                                 .device = "disk0" };
    struct umbra_error error;
    struct umbra_config *config;
    struct run run;
    uint32_t id;

    run_begin(&run, "disk=1");
    run_create(&run);
    assert_int_equal(umbra_fault_add(run.vm, &fault, &id, &error), -ENOTSUP);
    assert_non_null(strstr(error.message, "io-error, short, delay, corrupt"));
    fault.device = "disk7";
    assert_int_equal(umbra_fault_add(run.vm, &fault, &id, &error), -ENODEV);
    assert_non_null(strstr(error.message, "disk0"));
    fault.device = NULL;
    assert_int_equal(umbra_fault_add(run.vm, &fault, &id, &error), -EINVAL);
    fault.device = "disk0";
    fault.kind = (enum umbra_fault_kind)99;
    assert_int_equal(umbra_fault_add(run.vm, &fault, &id, &error), -EINVAL);
    fault.kind = UMBRA_FAULT_MEMORY_GONE;
    fault.bytes = 4095;
    assert_int_equal(umbra_fault_add(run.vm, &fault, &id, &error), -EINVAL);
    fault.kind = UMBRA_FAULT_CLOCK_JUMP;
    assert_int_equal(umbra_fault_add(run.vm, &fault, &id, &error), -EINVAL);
    fault.kind = UMBRA_FAULT_IO_ERROR;
    assert_ok(umbra_fault_add(run.vm, &fault, &id, &error));
    assert_ok(umbra_fault_remove(run.vm, id, &error));
    assert_int_equal(umbra_fault_remove(run.vm, id, &error), -ENOENT);
    run_go(&run);
    expect_request(&run, 1, 0, 4096, 0);
    run_end(&run);
    config = api_config("exit", "value=0");
    api_set(config, "faults", "drop,device=com1");
    assert_int_equal(umbra_vm_create(config, &run.vm, &error), -ENOTSUP);
    umbra_config_free(config);
}

/* ---- Events and callbacks ------------------------------------------------------------------ */

struct seen {
    struct umbra_vm *vm;
    unsigned counts[7]; /* by bit */
    unsigned wrong_device;
    int add, remove, pause, stats, fault;
    uint32_t hook;
};

static void count_event(void *context, const struct umbra_event *event)
{
    struct seen *seen = context;

    __atomic_add_fetch(&seen->counts[__builtin_ctz(event->kind)], 1, __ATOMIC_RELAXED);
    if (strcmp(event->device, "disk0") != 0 || event->size != sizeof(*event)) {
        __atomic_add_fetch(&seen->wrong_device, 1, __ATOMIC_RELAXED);
    }
}

static unsigned counted(const struct seen *seen, enum umbra_event_kind kind)
{
    return __atomic_load_n(&seen->counts[__builtin_ctz(kind)], __ATOMIC_RELAXED);
}

static void test_events(void **state)
{
    struct seen all = { 0 }, other = { 0 };
    struct umbra_error error;
    uint32_t hook, second;
    struct run run;

    run_begin(&run, "disk=5");
    run_create(&run);
    plan(&run,
         (struct umbra_fault){
             .kind = UMBRA_FAULT_IO_ERROR, .device = "disk0", .skip = 2, .count = 1 });
    assert_ok(
        umbra_event_hook_add(run.vm, 0x7f, "disk0", count_event, &all, &hook, &error));
    assert_ok(umbra_event_hook_add(run.vm, UMBRA_EVENT_STARTED, NULL, count_event, &other,
                                   &second, &error));
    assert_int_equal(
        umbra_event_hook_add(run.vm, 1, "nobody", count_event, &all, &hook, &error),
        -ENODEV);
    assert_int_equal(
        umbra_event_hook_add(run.vm, 0, NULL, count_event, &all, &hook, &error), -EINVAL);
    run_go(&run);
    assert_int_equal(counted(&all, UMBRA_EVENT_STARTED), 5);
    assert_int_equal(counted(&all, UMBRA_EVENT_DONE), 5);
    assert_int_equal(counted(&all, UMBRA_EVENT_FAULT), 1);
    assert_true(counted(&all, UMBRA_EVENT_NOTIFY) >= 1);
    assert_in_range(counted(&all, UMBRA_EVENT_INTERRUPT), 1, 5);
    assert_true(counted(&all, UMBRA_EVENT_RESET) > 0);
    assert_true(counted(&all, UMBRA_EVENT_STATE) >= 3);
    assert_int_equal(all.wrong_device, 0);
    assert_int_equal(counted(&other, UMBRA_EVENT_STARTED), 5);
    assert_ok(umbra_hook_remove(run.vm, hook, &error));
    assert_int_equal(umbra_hook_remove(run.vm, hook, &error), -ENOENT);
    assert_ok(umbra_vm_reset(run.vm, &error));
    run_go(&run);
    assert_int_equal(counted(&all, UMBRA_EVENT_STARTED), 5);
    assert_int_equal(counted(&other, UMBRA_EVENT_STARTED), 10);
    run_end(&run);
}

/* What a callback may not call, and what it may. */
static void try_calls(struct seen *seen)
{
    const struct umbra_fault fault = { .size = sizeof(fault), .device = "disk0" };
    struct umbra_error error;
    uint32_t hook;
    uint64_t word;

    seen->add = umbra_event_hook_add(seen->vm, 1, NULL, count_event, seen, &hook, &error);
    seen->remove = umbra_hook_remove(seen->vm, seen->hook, &error);
    seen->pause = umbra_vm_pause(seen->vm, &error);
    seen->stats = umbra_vm_stats_json(seen->vm) == NULL ? -EDEADLK : 0;
    seen->fault = umbra_fault_add(seen->vm, &fault, &hook, &error);
    assert_int_equal(umbra_vm_resume(seen->vm, &error), -EDEADLK);
    assert_int_equal(umbra_vm_wait(seen->vm, 0, NULL, &error), -EDEADLK);
    assert_non_null(strstr(error.message, "inside a callback"));
    umbra_vm_destroy(seen->vm); /* does nothing */
    assert_int_equal(umbra_memory_read(seen->vm, 0x1000, &word, 8, &error), 0);
    assert_int_equal(umbra_inject_irq(seen->vm, 5, false, &error), 0);
}

static void check_calls(const struct seen *seen)
{
    assert_int_equal(seen->add, -EDEADLK);
    assert_int_equal(seen->remove, -EDEADLK);
    assert_int_equal(seen->pause, -EDEADLK);
    assert_int_equal(seen->stats, -EDEADLK);
    assert_int_equal(seen->fault, -EDEADLK);
}

static void call_event(void *context, const struct umbra_event *event)
{
    try_calls(context);
}

static enum umbra_hook_verdict call_hook(void *context, struct umbra_access *access)
{
    try_calls(context);
    return UMBRA_HOOK_PASS;
}

static void call_output(void *context, const void *bytes, size_t length)
{
    try_calls(context);
}

static void test_inside_callbacks(void **state)
{
    struct umbra_error error;

    for (unsigned kind = 0; kind < 3; kind++) {
        struct seen seen = { 0 };
        struct run run;

        run_begin(&run, "disk=2");
        run_create(&run);
        seen.vm = run.vm;
        if (kind == 0) {
            assert_ok(umbra_event_hook_add(run.vm, UMBRA_EVENT_DONE, NULL, call_event,
                                           &seen, &seen.hook, &error));
        } else if (kind == 1) {
            assert_ok(umbra_hook_add(run.vm, UMBRA_PORT_WRITE, 0xf4, 1, call_hook, &seen,
                                     &seen.hook, &error));
        } else {
            assert_int_equal(umbra_console_set_output(run.vm, 0, call_output, &seen), 0);
        }
        run_go(&run);
        check_calls(&seen);
        run_end(&run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disk),
        cmocka_unit_test(test_disk_writes),
        cmocka_unit_test(test_same_seed),
        cmocka_unit_test(test_interrupts),
        cmocka_unit_test(test_rng),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_inside_callbacks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
