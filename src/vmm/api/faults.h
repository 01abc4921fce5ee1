/* SPDX-License-Identifier: MIT */
/* Planned faults of one VM: those of the machine are carried out by the keeper. */
#ifndef VMM_API_FAULTS_H
#define VMM_API_FAULTS_H

#include <umbra/umbra.h>

#include "devices/faults.h"

struct machine;

enum { FAULT_ACTIONS_MAX = 16 };

/* faults_options.act: context is the VM. */
void vm_fault_act(void *context, const struct fault_action *action);
/* Are there actions, and is the VM in a state to have them? The caller holds lock. */
bool vm_faults_due(const struct umbra_vm *vm);
/* Carry them out; on the keeper's thread. */
void vm_faults_apply(struct umbra_vm *vm);

/* The rules of the config, once the devices are there. */
int machine_plan_faults(struct machine *machine, struct umbra_error *error);
/* Check @fault and add it for the device it names. */
int machine_add_fault(struct machine *machine, const struct umbra_fault *fault,
                      uint32_t *id, struct umbra_error *error);
/* Give hidden memory back. The machine stands still. 0 or -errno. */
int machine_show_memory(struct machine *machine);

#endif
