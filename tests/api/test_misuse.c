/* SPDX-License-Identifier: MIT */
/*
 * Every call on a VM, in every state of its life, inside one of its callbacks, and in a
 * process forked off its own: each gives what it says, and nothing hangs or dies. The table
 * must name every function of the header that takes a VM.
 */
#include "api_test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum state { CREATED, RUNNING, PAUSED, ENDED, INSIDE, FORKED, STATES };

enum { ANY = 1 }; /* any result will do, as long as there is one */

static struct umbra_vm *vm;
static struct umbra_error error;
static char folder[32];

static void ignore_page(void *context, uint64_t gpa)
{
}

static void ignore_exit(void *context, const struct umbra_exit_counter *counter)
{
}

static void ignore_stat(void *context, const struct umbra_kvm_stat *stat)
{
}

static void ignore_event(void *context, const struct umbra_event *event)
{
}

static void ignore_output(void *context, const void *bytes, size_t length)
{
}

static enum umbra_hook_verdict pass_hook(void *context, struct umbra_access *access)
{
    return UMBRA_HOOK_PASS;
}

/* Text that the caller frees: 0 when there is some. */
static int text(char *string)
{
    free(string);
    return string != NULL ? 0 : -EINVAL;
}

#define CALL(name, expression)                                                           \
    static int call_##name(void)                                                         \
    {                                                                                    \
        return expression;                                                               \
    }

static uint64_t word;
static uint32_t id;
static unsigned port;
static size_t count;
static int fd;

CALL(umbra_vm_start, umbra_vm_start(vm, &error))
CALL(umbra_vm_wait, umbra_vm_wait(vm, 0, NULL, &error))
CALL(umbra_vm_event_fd, umbra_vm_event_fd(vm) >= 0 ? 0 : -EBADF)
CALL(umbra_vm_pause, umbra_vm_pause(vm, &error))
CALL(umbra_vm_resume, umbra_vm_resume(vm, &error))
CALL(umbra_vm_power_button, umbra_vm_power_button(vm, &error))
CALL(umbra_vm_stop, umbra_vm_stop(vm, "a test", &error))
CALL(umbra_vm_reset, umbra_vm_reset(vm, &error))
CALL(umbra_memory_read, umbra_memory_read(vm, 0x1000, &word, 8, &error))
CALL(umbra_memory_write, umbra_memory_write(vm, 0x2000000, &word, 8, &error))
CALL(umbra_memory_resident, umbra_memory_resident(vm, &word, &error))
CALL(umbra_memory_read_virtual,
     umbra_memory_read_virtual(vm, 0, 0x200000, &word, 8, &error))
CALL(umbra_memory_write_virtual,
     umbra_memory_write_virtual(vm, 0, 0x2000000, &word, 8, &error))
CALL(umbra_memory_read_symbol,
     umbra_memory_read_symbol(vm, 0, "guest_main", &word, 8, &error))
CALL(umbra_memory_write_symbol,
     umbra_memory_write_symbol(vm, 0, "boot", &word, 0, &error))
CALL(umbra_translate, umbra_translate(vm, 0, 0x200000, &word, &error))
CALL(umbra_symbol_at,
     (umbra_symbol_at(vm, 0x200000,
                      &(struct umbra_symbol){ .size = sizeof(struct umbra_symbol) },
                      &error)))
CALL(umbra_vm_dirty_pages, umbra_vm_dirty_pages(vm, ignore_page, NULL, &error))
CALL(umbra_vm_write_core, umbra_vm_write_core(vm, "/nonexistent/core", &error))
CALL(umbra_vm_report, text(umbra_vm_report(vm, &error)))
CALL(umbra_gdb_listen, umbra_gdb_listen(vm, "unix:/nonexistent/gdb", &error))
CALL(umbra_control_listen, umbra_control_listen(vm, "/nonexistent/control", &error))
CALL(umbra_inject_irq, umbra_inject_irq(vm, 5, false, &error))
CALL(umbra_inject_msi, umbra_inject_msi(vm, 0xfee00000, 0x40, &error))
CALL(umbra_inject_nmi, umbra_inject_nmi(vm, 7, &error)) /* there is no vCPU 7 */
CALL(umbra_hook_remove, umbra_hook_remove(vm, 12345, &error))
CALL(umbra_fault_remove, umbra_fault_remove(vm, 12345, &error))
CALL(umbra_memory_show, umbra_memory_show(vm, &error))
CALL(umbra_memory_hide, umbra_memory_hide(vm, 1, 1, &error))
CALL(umbra_clock_jump, umbra_clock_jump(vm, UMBRA_CLOCK_RTC, 1, &error))
CALL(umbra_console_find, umbra_console_find(vm, "com1", &port, &error))
CALL(umbra_console_send, umbra_console_send(vm, 0, "", 0))
CALL(umbra_console_resize, umbra_console_resize(vm, 0, 80, 25, &error))
CALL(umbra_console_set_output, umbra_console_set_output(vm, 0, ignore_output, NULL))
CALL(umbra_console_expect,
     umbra_console_expect(vm, 0, "never printed", 0, 0, NULL, &error))
CALL(umbra_console_transcript, text(umbra_console_transcript(vm, 0, &count)))
CALL(umbra_vsock_connect, umbra_vsock_connect(vm, 1, 0, &fd, &error))
CALL(umbra_vsock_listen, umbra_vsock_listen(vm, 1, &error))
CALL(umbra_vsock_accept, umbra_vsock_accept(vm, 1, 0, &fd, &error))
CALL(umbra_balloon_set, umbra_balloon_set(vm, "balloon", 0, &error))
CALL(umbra_balloon_stats,
     (umbra_balloon_stats(vm, "balloon",
                          &(struct umbra_balloon_stats){
                              .size = sizeof(struct umbra_balloon_stats) },
                          &error)))
CALL(umbra_disk_resize, umbra_disk_resize(vm, "disk0", 0, &word, &error))
CALL(umbra_net_set_link, umbra_net_set_link(vm, "net0", true, &error))
CALL(umbra_vm_exits, umbra_vm_exits(vm, ignore_exit, NULL, &error))
CALL(umbra_vm_kvm_stats, umbra_vm_kvm_stats(vm, 5, ignore_stat, NULL, &error))
CALL(umbra_vm_stats_json, text(umbra_vm_stats_json(vm)))
CALL(umbra_symbols_load, umbra_symbols_load(vm, "/nonexistent/vmlinux", 0, &error))

static int call_umbra_symbol_lookup(void)
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) };

    return umbra_symbol_lookup(vm, "guest_main", &symbol, &error);
}

static int call_umbra_memory_range_at(void)
{
    struct umbra_memory_range range = { .size = sizeof(range) };

    return umbra_memory_range_at(vm, 0, &range);
}

static int call_umbra_memory_find(void)
{
    uint64_t at[1];

    return umbra_memory_find(vm, 0, "no page begins with this", 24, at, 1, &count,
                             &error);
}

static int call_umbra_paging_get(void)
{
    struct umbra_paging paging = { .size = sizeof(paging) };

    return umbra_paging_get(vm, 0, &paging, &error);
}

static int call_umbra_translate_list(void)
{
    const uint64_t gva = 0x200000;

    return umbra_translate_list(vm, 0, UMBRA_CR3_CURRENT, &gva, &word, 1, &error);
}

static int call_umbra_registers_get(void)
{
    struct umbra_registers registers = { .size = sizeof(registers) };

    return umbra_registers_get(vm, 0, &registers, &error);
}

static int call_umbra_registers_set(void)
{
    struct umbra_registers registers = { .size = sizeof(registers) };
    int ret = umbra_registers_get(vm, 0, &registers, &error);

    return ret == 0 ? umbra_registers_set(vm, 0, &registers, &error) : ret;
}

/* Where the guest stands still for ever, so that nobody runs into it. */
static int call_umbra_breakpoint_add(void)
{
    return umbra_breakpoint_add(vm, UMBRA_BREAKPOINT_HARDWARE, 0x1000, 1, &error);
}

static int call_umbra_breakpoint_remove(void)
{
    return umbra_breakpoint_remove(vm, UMBRA_BREAKPOINT_HARDWARE, 0x1000, 1, &error);
}

static int call_umbra_breakpoint_add_symbol(void)
{
    return umbra_breakpoint_add_symbol(vm, UMBRA_BREAKPOINT_HARDWARE, "no_such_name", 1,
                                       &error);
}

static int call_umbra_vm_wait_stop(void)
{
    struct umbra_stop stop = { .size = sizeof(stop) };

    return umbra_vm_wait_stop(vm, 0, &stop, &error);
}

static int call_umbra_vm_step(void)
{
    struct umbra_stop stop = { .size = sizeof(stop) };

    return umbra_vm_step(vm, 9, &stop, &error); /* there is no vCPU 9 */
}

static int call_umbra_hook_add(void)
{
    int ret =
        umbra_hook_add(vm, UMBRA_PORT_WRITE, 0x4321, 1, pass_hook, NULL, &id, &error);

    return ret == 0 ? umbra_hook_remove(vm, id, &error) : ret;
}

static int call_umbra_event_hook_add(void)
{
    int ret = umbra_event_hook_add(vm, 1, "com1", ignore_event, NULL, &id, &error);

    return ret == 0 ? umbra_hook_remove(vm, id, &error) : ret;
}

static int call_umbra_device_add(void)
{
    const struct umbra_device device = {
        .size = sizeof(device), .name = "com one", .base = 0x3f8, .length = 8
    };

    return umbra_device_add(vm, &device, &error); /* overlaps */
}

static int call_umbra_fault_add(void)
{
    const struct umbra_fault fault = { .size = sizeof(fault), .device = "com1" };
    int ret = umbra_fault_add(vm, &fault, &id, &error);

    return ret == 0 ? umbra_fault_remove(vm, id, &error) : ret;
}

static int call_umbra_fault_event_at(void)
{
    struct umbra_fault_event event = { .size = sizeof(event) };

    return umbra_fault_event_at(vm, 0, &event);
}

static int call_umbra_stream_open(void)
{
    struct umbra_stream *stream;
    int ends[2], ret;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    ret = umbra_stream_open(vm, ends[0], &stream, &error);
    umbra_stream_close(stream);
    close(ends[1]);
    return ret;
}

/* What each gives when CREATED, RUNNING, PAUSED, ENDED, INSIDE a callback, and FORKED. */
static const struct row {
    const char *name;
    int (*call)(void);
    int expected[STATES];
} rows[] = {
#define ROW(name, ...)                                                                   \
    {                                                                                    \
#name, call_##name,                                                              \
        {                                                                                \
            __VA_ARGS__                                                                  \
        }                                                                                \
    }
    ROW(umbra_vm_start, ANY, -EINVAL, -EINVAL, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_vm_wait, -EINVAL, -ETIMEDOUT, -ETIMEDOUT, 0, -EDEADLK, -EPERM),
    ROW(umbra_vm_event_fd, 0, 0, 0, 0, 0, 0),
    ROW(umbra_vm_pause, -EINVAL, ANY, 0, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_vm_resume, -EINVAL, 0, ANY, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_vm_power_button, -EINVAL, -ENOTCONN, -ENOTCONN, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_vm_stop, -EINVAL, ANY, ANY, 0, ANY, -EPERM),
    ROW(umbra_vm_reset, 0, ANY, ANY, ANY, -EDEADLK, -EPERM),
    ROW(umbra_memory_read, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_memory_write, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_memory_read_virtual, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_memory_write_virtual, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_memory_read_symbol, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_memory_write_symbol, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_memory_range_at, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_memory_resident, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_memory_find, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_translate, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_translate_list, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_paging_get, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_symbols_load, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -EPERM),
    ROW(umbra_symbol_lookup, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_symbol_at, ANY, ANY, ANY, ANY, ANY, -EPERM),
    ROW(umbra_vm_dirty_pages, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_registers_get, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_registers_set, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_breakpoint_add, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_breakpoint_remove, 0, -EBUSY, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_breakpoint_add_symbol, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -EPERM),
    ROW(umbra_vm_wait_stop, 0, -ETIMEDOUT, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_vm_step, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL, ANY),
    ROW(umbra_gdb_listen, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -EDEADLK, -EPERM),
    ROW(umbra_vm_report, 0, 0, 0, 0, -EINVAL, -EINVAL),
    ROW(umbra_vm_write_core, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -EDEADLK, -EPERM),
    ROW(umbra_control_listen, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -EDEADLK, -EPERM),
    ROW(umbra_inject_irq, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_inject_msi, ANY, ANY, ANY, ANY, ANY, -EPERM),
    ROW(umbra_inject_nmi, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL, ANY),
    ROW(umbra_hook_add, 0, 0, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_hook_remove, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -EDEADLK, -EPERM),
    ROW(umbra_event_hook_add, 0, 0, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_device_add, -EEXIST, -EBUSY, -EBUSY, -EBUSY, -EDEADLK, -EPERM),
    ROW(umbra_fault_add, 0, 0, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_fault_remove, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -EPERM),
    ROW(umbra_fault_event_at, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -EPERM),
    ROW(umbra_memory_hide, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_memory_show, 0, 0, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_clock_jump, 0, 0, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_console_find, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_console_set_output, 0, -EINVAL, -EINVAL, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_console_send, 0, 0, 0, 0, -EDEADLK, -EPERM),
    ROW(umbra_console_resize, -ENOTSUP, -ENOTSUP, -ENOTSUP, -ENOTSUP, -EDEADLK, -EPERM),
    ROW(umbra_console_expect, -ETIMEDOUT, -ETIMEDOUT, -ETIMEDOUT, -EPIPE, -EDEADLK,
        -EPERM),
    ROW(umbra_console_transcript, 0, 0, 0, 0, 0, -EINVAL),
    ROW(umbra_vsock_connect, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_vsock_listen, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_vsock_accept, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EDEADLK, -EPERM),
    ROW(umbra_stream_open, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_balloon_set, -ENOENT, -ENOENT, -ENOENT, -ESHUTDOWN, -EDEADLK, -EPERM),
    ROW(umbra_balloon_stats, -ENOENT, -ENOENT, -ENOENT, -ESHUTDOWN, -EDEADLK, -EPERM),
    ROW(umbra_disk_resize, -ENOENT, -ENOENT, -ENOENT, -ESHUTDOWN, -EDEADLK, -EPERM),
    ROW(umbra_net_set_link, -ENOENT, -ENOENT, -ENOENT, -ESHUTDOWN, -EDEADLK, -EPERM),
    ROW(umbra_vm_exits, 0, 0, 0, 0, 0, -EPERM),
    ROW(umbra_vm_kvm_stats, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EPERM),
    ROW(umbra_vm_stats_json, 0, 0, 0, 0, -EINVAL, -EINVAL),
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

/* Back to @state after a call that may have changed it. */
static void go_to(enum state state)
{
    assert_ok(umbra_vm_reset(vm, &error));
    if (umbra_vm_stop(vm, "a test", &error) == 0) { /* it was running: now it ends */
        assert_ok(umbra_vm_wait(vm, 60000, NULL, &error));
        assert_ok(umbra_vm_reset(vm, &error));
    }
    if (state == CREATED) {
        return;
    }
    assert_ok(umbra_vm_start(vm, &error));
    if (state == PAUSED) {
        assert_ok(umbra_vm_pause(vm, &error));
    } else if (state == ENDED) {
        assert_ok(umbra_vm_stop(vm, "a test", &error));
        assert_ok(umbra_vm_wait(vm, 60000, NULL, &error));
    }
}

static bool try_row(const struct row *row, enum state state)
{
    int result;

    error = (struct umbra_error){ .code = UMBRA_ERROR_NONE };
    result = row->call();
    if (row->expected[state] != ANY && result != row->expected[state]) {
        print_message("%s, state %d: %d, not %d: %s\n", row->name, (int)state, result,
                      row->expected[state], error.message);
        return false;
    }
    return true;
}

static void test_states(void **context)
{
    bool right = true;

    vm = api_create(api_config("ends", "hang"));
    for (enum state state = CREATED; state <= ENDED; state++) {
        for (unsigned i = 0; i < ROWS; i++) {
            go_to(state);
            right &= try_row(&rows[i], state);
        }
    }
    umbra_vm_destroy(vm);
    assert_true(right);
}

static bool inside_right = true;

static enum umbra_hook_verdict try_inside(void *context, struct umbra_access *access)
{
    for (unsigned i = 0; i < ROWS; i++) {
        inside_right &= try_row(&rows[i], INSIDE);
    }
    return UMBRA_HOOK_PASS;
}

static void test_inside(void **context)
{
    vm = api_create(api_config("exit", "value=0"));
    assert_ok(
        umbra_hook_add(vm, UMBRA_PORT_WRITE, 0xf4, 1, try_inside, NULL, &id, &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait(vm, 60000, NULL, &error));
    umbra_vm_destroy(vm);
    assert_true(inside_right);
}

/* Does the VM go on, and is its memory its own? */
static void check_alive(uint64_t expected)
{
    uint64_t now = 0;

    assert_ok(umbra_vm_pause(vm, &error));
    assert_ok(umbra_vm_resume(vm, &error));
    assert_ok(umbra_memory_read(vm, 0x2000000, &now, sizeof(now), &error));
    assert_int_equal(now, expected);
}

static void test_forked(void **context)
{
    uint64_t mark = UINT64_C(0xfeedfacecafebeef);
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    char control[64];
    struct umbra_config *config;
    pid_t child;
    int status;

    snprintf(control, sizeof(control), "%s/control", folder);
    config = api_config("ends", "hang");
    api_set(config, "mergeable", "on"); /* private memory: fork would copy it */
    vm = api_create(config);
    assert_ok(umbra_control_listen(vm, control, &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_console_expect(vm, 0, "ready", 0, 60000, NULL, &error));
    assert_ok(umbra_memory_write(vm, 0x2000000, &mark, sizeof(mark), &error));
    child = fork();
    if (child == 0) {
        bool right = true;

        for (unsigned i = 0; i < ROWS; i++) {
            right &= try_row(&rows[i], FORKED);
        }
        umbra_vm_destroy(vm); /* does nothing */
        right &= access(control, F_OK) == 0;
        vm = NULL;
#ifndef __SANITIZE_THREAD__ /* it allows no threads after such a fork */
        if (umbra_vm_create(config = api_config("exit", "value=5"), &vm, &error) != 0 ||
            umbra_vm_start(vm, &error) != 0 ||
            umbra_vm_wait(vm, 60000, &outcome, &error) != 0 || outcome.exit_value != 5) {
            print_message("the child's own VM: %s\n", error.message);
            right = false;
        }
        umbra_vm_destroy(vm);
        umbra_config_free(config);
#endif
        _exit(right ? 0 : 1);
    }
    assert_true(child > 0);
    check_alive(mark);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_alive(mark);
    child = fork(); /* and one that just goes away */
    if (child == 0) {
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    check_alive(mark);
    assert_ok(umbra_vm_stop(vm, "a test", &error));
    assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_STOPPED);
    umbra_vm_destroy(vm);
}

/* Nothing that a VM opens outlives an exec. */
static void test_descriptors(void **context)
{
    bool before[1024];
    char disk[128], path[64];
    struct umbra_config *config;
    int flags;

    snprintf(path, sizeof(path), "%s/disk", folder);
    fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    close(fd);
    for (int i = 0; i < 1024; i++) {
        before[i] = fcntl(i, F_GETFD) >= 0;
    }
    snprintf(disk, sizeof(disk), "path=%s,overlay=discard", path);
    config = api_config("ends", "hang");
    api_set(config, "disks", disk);
    api_set(config, "net", "user");
    api_set(config, "rng", "on");
    api_set(config, "cpus", "2");
    snprintf(disk, sizeof(disk), "stdio,unix:%s/serial,pty", folder);
    api_set(config, "serial", disk);
    snprintf(disk, sizeof(disk), "unix:%s/gdb", folder);
    api_set(config, "gdb", disk);
    vm = api_create(config);
    snprintf(path, sizeof(path), "%s/control2", folder);
    assert_ok(umbra_control_listen(vm, path, &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_console_expect(vm, 0, "ready", 0, 60000, NULL, &error));
    count = 0;
    for (int i = 0; i < 1024; i++) {
        flags = fcntl(i, F_GETFD);
        if (flags >= 0 && !before[i]) {
            char name[64], target[256] = "";

            count++;
            snprintf(name, sizeof(name), "/proc/self/fd/%d", i);
            if (readlink(name, target, sizeof(target) - 1) < 0 || !(flags & FD_CLOEXEC)) {
                fail_msg("descriptor %d (%s) would survive an exec", i, target);
            }
        }
    }
    assert_true(count > 10);
    umbra_vm_destroy(vm);
}

/* The table is whole: each function of the header that takes a VM is in it. */
static void test_table(void **context)
{
    static const char *const elsewhere[] = { "umbra_vm_create", "umbra_vm_destroy" };
    char *header = calloc(1, 1 << 20), *at;
    FILE *file = fopen(SOURCE_DIR "/include/umbra/umbra.h", "re");
    unsigned found = 0;

    assert_non_null(file);
    assert_non_null(header);
    assert_true(fread(header, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    for (at = strstr(header, "UMBRA_API "); at != NULL;
         at = strstr(at + 1, "UMBRA_API ")) {
        const char *open_at = strchr(at, '('), *name = open_at;
        unsigned length = 0;
        bool known = false;

        while (name > at && (name[-1] == '_' || (name[-1] >= 'a' && name[-1] <= 'z'))) {
            name--;
            length++;
        }
        if (open_at == NULL || strncmp(open_at, "(struct umbra_vm *", 18) != 0) {
            continue;
        }
        for (unsigned i = 0; i < ROWS; i++) {
            known |= strlen(rows[i].name) == length &&
                     strncmp(rows[i].name, name, length) == 0;
        }
        for (unsigned i = 0; i < 2; i++) {
            known |= strncmp(elsewhere[i], name, length) == 0;
        }
        if (!known) {
            fail_msg("%.*s is not in the table", (int)length, name);
        }
        found++;
    }
    free(header);
    assert_int_equal(found, ROWS + 1); /* umbra_vm_destroy() */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),       cmocka_unit_test(test_states),
        cmocka_unit_test(test_inside),      cmocka_unit_test(test_forked),
        cmocka_unit_test(test_descriptors),
    };
    char command[64];
    int failed;

    snprintf(folder, sizeof(folder), "/tmp/umbra-misuse-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command) != 0 || failed != 0;
}
