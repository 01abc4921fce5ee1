/* SPDX-License-Identifier: MIT */
/* The public calls on serial consoles. */
#include <errno.h>
#include <inttypes.h>

#include "base/error.h"
#include "devices/uart16550.h"
#include "vmm/vm.h"

static void vm_console_output(void *context, const void *bytes, size_t length)
{
    struct vm_output *output = context;
    struct callback_frame frame;

    callback_enter(&frame, output->vm);
    output->fn(output->context, bytes, length);
    callback_leave(&frame);
}

int umbra_console_set_output(struct umbra_vm *vm, unsigned port, umbra_console_fn fn,
                             void *context)
{
    if (port >= vm->config->serial_count || vm_state(vm) != VM_CREATED) {
        return -EINVAL;
    }
    vm->outputs[port] = (struct vm_output){ .vm = vm, .fn = fn, .context = context };
    vm->machine.consoles[port].output_context = &vm->outputs[port];
    vm->machine.consoles[port].output = fn != NULL ? vm_console_output : NULL;
    return 0;
}

int umbra_console_send(struct umbra_vm *vm, unsigned port, const void *bytes,
                       size_t length)
{
    int ret = callback_refuse(vm, "umbra_console_send", NULL);

    if (ret != 0) {
        return ret;
    }
    if (port >= vm->config->serial_count) {
        return -EINVAL;
    }
    return uart16550_send(vm->machine.serial[port], bytes, length);
}

int umbra_console_expect(struct umbra_vm *vm, unsigned port, const char *pattern,
                         unsigned flags, int64_t timeout_ms, struct umbra_match *match,
                         struct umbra_error *error)
{
    uint64_t deadline =
        clock_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000u;
    char tail[1024];
    int ret = callback_refuse(vm, "umbra_console_expect", error);

    if (ret != 0) {
        return ret;
    }
    if (port >= vm->config->serial_count) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_console_expect: serial port %u of %u", port,
                         vm->config->serial_count);
    }
    ret = console_expect(&vm->machine.consoles[port], pattern,
                         (flags & UMBRA_EXPECT_REGEX) != 0, deadline, match, error);
    if (ret == -ETIMEDOUT || ret == -EPIPE) {
        console_tail(&vm->machine.consoles[port], tail, sizeof(tail));
        if (ret == -EPIPE) {
            error_set(error, UMBRA_ERROR_STATE, EPIPE,
                      "the run ended before \"%s\" appeared on serial port %u; last "
                      "output:\n%s",
                      pattern, port, tail);
        } else {
            error_set(error, UMBRA_ERROR_STATE, ETIMEDOUT,
                      "\"%s\" did not appear on serial port %u within %" PRId64
                      " ms; last output:\n%s",
                      pattern, port, timeout_ms, tail);
        }
    }
    return ret;
}

char *umbra_console_transcript(struct umbra_vm *vm, unsigned port, size_t *length)
{
    return port < vm->config->serial_count
               ? console_transcript(&vm->machine.consoles[port], length)
               : NULL;
}
