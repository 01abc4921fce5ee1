/* SPDX-License-Identifier: MIT */
/* Planned faults of the machine itself: noted where they come due, carried out by the keeper. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "vmm/machine/faults.h"
#include "vmm/vm/vm.h"

void vm_fault_act(void *context, const struct fault_action *action)
{
    struct umbra_vm *vm = context;

    pthread_mutex_lock(&vm->lock);
    if (vm->action_count < VM_FAULT_ACTIONS) {
        vm->actions[vm->action_count++] = *action;
    }
    pthread_cond_broadcast(&vm->changed);
    if (vm->state == VM_RUNNING) {
        /* No instruction more on a vCPU whose access this was. */
        vcpu_set_close(vm->machine.vcpus);
    }
    pthread_mutex_unlock(&vm->lock);
}

bool vm_faults_due(const struct umbra_vm *vm)
{
    return vm->action_count > 0 && vm->state == VM_RUNNING;
}

void vm_faults_apply(struct umbra_vm *vm)
{
    struct fault_action actions[VM_FAULT_ACTIONS];
    struct umbra_error error;
    unsigned count;

    pthread_mutex_lock(&vm->control);
    pthread_mutex_lock(&vm->lock);
    count = vm_faults_due(vm) ? vm->action_count : 0;
    memcpy(actions, vm->actions, count * sizeof(actions[0]));
    vm->action_count -= count;
    pthread_mutex_unlock(&vm->lock);
    if (count > 0) {
        vm_hold(vm);
        for (unsigned i = 0; i < count; i++) {
            if (machine_fault(&vm->machine, &actions[i], &error) != 0) {
                log_warning(vm->machine.log, "a planned fault cannot be: %s",
                            error.message);
            }
        }
        vm_release(vm, NULL); /* or the run ends */
    }
    pthread_mutex_unlock(&vm->control);
}
