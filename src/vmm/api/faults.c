/* SPDX-License-Identifier: MIT */
/* The public calls on planned faults. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "vmm/machine/faults.h"
#include "vmm/vm/vm.h"

int umbra_fault_add(struct umbra_vm *vm, const struct umbra_fault *fault, uint32_t *id,
                    struct umbra_error *error)
{
    int ret;

    if (fault->size < sizeof(*fault) || fault->device == NULL ||
        (unsigned)fault->kind >= FAULT_KIND_COUNT ||
        (unsigned)fault->direction > UMBRA_FAULT_OUT) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_fault_add: size, kind, device and direction must be "
                         "those of a fault");
    }
    ret = vm_enter(vm, "umbra_fault_add", error);
    if (ret == 0) {
        ret = machine_add_fault(&vm->machine, fault, id, error);
        vm_leave(vm);
    }
    return ret;
}

int umbra_fault_remove(struct umbra_vm *vm, uint32_t id, struct umbra_error *error)
{
    int ret = callback_foreign(vm, "umbra_fault_remove", error);

    if (ret != 0) {
        return ret;
    }
    return faults_remove(vm->machine.faults, id) == 0
               ? 0
               : error_set(error, UMBRA_ERROR_USAGE, ENOENT,
                           "umbra_fault_remove: there is no fault %" PRIu32, id);
}

int umbra_fault_event_at(struct umbra_vm *vm, uint64_t index,
                         struct umbra_fault_event *event)
{
    struct umbra_fault_event whole;
    uint32_t size = event->size;
    int ret = callback_foreign(vm, "umbra_fault_event_at", NULL);

    if (ret != 0 || size < sizeof(size)) {
        return ret != 0 ? ret : -EINVAL;
    }
    ret = faults_event_at(vm->machine.faults, index, &whole);
    if (ret == 0) {
        whole.size = size;
        memcpy(event, &whole, size < sizeof(whole) ? size : sizeof(whole));
    }
    return ret;
}

/* Have @action happen now, whatever the VM's state. */
static int fault_now(struct umbra_vm *vm, const struct fault_action *action,
                     const char *call, struct umbra_error *error)
{
    int ret = vm_enter(vm, call, error);
    bool running;

    if (ret != 0) {
        return ret;
    }
    running = vm_state(vm) == VM_RUNNING;
    if (running) {
        vm_hold(vm);
    }
    if (action != NULL) {
        ret = machine_fault(&vm->machine, action, error);
    } else {
        ret = machine_show_memory(&vm->machine);
        if (ret != 0) {
            error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot give memory back");
        }
    }
    if (running) {
        int released = vm_release(vm, ret == 0 ? error : NULL);

        ret = ret == 0 ? released : ret;
    }
    vm_leave(vm);
    return ret;
}

int umbra_memory_hide(struct umbra_vm *vm, uint64_t address, uint64_t length,
                      struct umbra_error *error)
{
    const struct fault_action action = { .kind = UMBRA_FAULT_MEMORY_GONE,
                                         .address = address,
                                         .bytes = length };

    return fault_now(vm, &action, "umbra_memory_hide", error);
}

int umbra_memory_show(struct umbra_vm *vm, struct umbra_error *error)
{
    return fault_now(vm, NULL, "umbra_memory_show", error);
}

int umbra_clock_jump(struct umbra_vm *vm, uint32_t clocks, int64_t ns,
                     struct umbra_error *error)
{
    const struct fault_action action = { .kind = UMBRA_FAULT_CLOCK_JUMP,
                                         .clocks = clocks,
                                         .jump_ns = ns };

    if (clocks == 0 || (clocks & ~FAULT_CLOCKS) != 0 || ns > FAULT_JUMP_MAX ||
        ns < -FAULT_JUMP_MAX) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_clock_jump: of clocks there are, by up to a century");
    }
    return fault_now(vm, &action, "umbra_clock_jump", error);
}
