/* SPDX-License-Identifier: MIT */
/* The public calls on consoles: serial ports, and ports of the virtio console. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "devices/board/uart16550.h"
#include "virtio/registry.h"
#include "vmm/vm/vm.h"

static void vm_console_output(void *context, const void *bytes, size_t length)
{
    struct vm_output *output = context;
    struct callback_frame frame;

    callback_enter(&frame, output->vm);
    output->fn(output->context, bytes, length);
    callback_leave(&frame);
}

int umbra_console_find(struct umbra_vm *vm, const char *name, unsigned *port,
                       struct umbra_error *error)
{
    const char *names[MACHINE_CONSOLES + 1];
    unsigned count = 0;
    const char *near;

    if (callback_foreign(vm, "umbra_console_find", error) != 0) {
        return -EPERM;
    }
    for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
        if (vm_console(vm, i) == NULL) {
            continue;
        }
        names[count] = vm_console_name(vm, i);
        if (strcmp(names[count++], name) == 0) {
            *port = i;
            return 0;
        }
    }
    names[count] = NULL;
    near = umbra_nearest(name, names);
    return error_set(error, UMBRA_ERROR_USAGE, ENOENT,
                     "there is no console \"%.64s\"%s%s%s", name,
                     near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
                     near != NULL ? "\"?" : "");
}

int umbra_console_set_output(struct umbra_vm *vm, unsigned port, umbra_console_fn fn,
                             void *context)
{
    struct console *console = vm_console(vm, port);
    int ret = callback_refuse(vm, "umbra_console_set_output", NULL);

    if (ret != 0) {
        return ret;
    }
    if (console == NULL || vm_state(vm) != VM_CREATED) {
        return -EINVAL;
    }
    vm->outputs[port] = (struct vm_output){ .vm = vm, .fn = fn, .context = context };
    console->output_context = &vm->outputs[port];
    console->output = fn != NULL ? vm_console_output : NULL;
    return 0;
}

int umbra_console_send(struct umbra_vm *vm, unsigned port, const void *bytes,
                       size_t length)
{
    int ret = callback_refuse(vm, "umbra_console_send", NULL);

    if (ret != 0) {
        return ret;
    }
    if (vm_console(vm, port) == NULL) {
        return -EINVAL;
    }
    return port < MACHINE_SERIAL_PORTS
               ? uart16550_send(vm->machine.serial[port], bytes, length)
               : virtio_console_send(vm->machine.virtio_console,
                                     port - MACHINE_SERIAL_PORTS, bytes, length);
}

int umbra_console_resize(struct umbra_vm *vm, unsigned port, unsigned columns,
                         unsigned rows, struct umbra_error *error)
{
    int ret = callback_refuse(vm, "umbra_console_resize", error);

    if (ret != 0) {
        return ret;
    }
    if (vm_console(vm, port) == NULL || columns > UINT16_MAX || rows > UINT16_MAX) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_console_resize: console %u is not there, or %u columns "
                         "and %u rows are too many",
                         port, columns, rows);
    }
    if (port < MACHINE_SERIAL_PORTS) {
        return error_set(error, UMBRA_ERROR_USAGE, ENOTSUP,
                         "umbra_console_resize: a serial port (%s) has no size",
                         vm_console_name(vm, port));
    }
    virtio_console_resize(vm->machine.virtio_console, port - MACHINE_SERIAL_PORTS,
                          (uint16_t)columns, (uint16_t)rows);
    return 0;
}

int umbra_console_expect(struct umbra_vm *vm, unsigned port, const char *pattern,
                         unsigned flags, int64_t timeout_ms, struct umbra_match *match,
                         struct umbra_error *error)
{
    uint64_t deadline = vm_deadline(timeout_ms < 0 ? 0 : timeout_ms);
    struct console *console = vm_console(vm, port);
    char tail[1024];
    int ret = callback_refuse(vm, "umbra_console_expect", error);

    if (ret != 0) {
        return ret;
    }
    if (console == NULL) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_console_expect: there is no console %u", port);
    }
    ret = console_expect(console, pattern, (flags & UMBRA_EXPECT_REGEX) != 0, deadline,
                         match, error);
    if (ret == -ETIMEDOUT || ret == -EPIPE) {
        console_tail(console, tail, sizeof(tail));
        if (ret == -EPIPE) {
            error_set(error, UMBRA_ERROR_STATE, EPIPE,
                      "the run ended before \"%s\" appeared on %s; last output:\n%s",
                      pattern, vm_console_name(vm, port), tail);
        } else {
            error_set(error, UMBRA_ERROR_STATE, ETIMEDOUT,
                      "\"%s\" did not appear on %s within %" PRId64
                      " ms; last output:\n%s",
                      pattern, vm_console_name(vm, port), timeout_ms, tail);
        }
    }
    return ret;
}

char *umbra_console_transcript(struct umbra_vm *vm, unsigned port, size_t *length)
{
    struct console *console = vm_console(vm, port);

    return console != NULL && callback_foreign(vm, "umbra_console_transcript", NULL) == 0
               ? console_transcript(console, length)
               : NULL;
}
