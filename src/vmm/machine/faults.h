/* SPDX-License-Identifier: MIT */
/* Planned faults of a machine: the rules that it is given, and what its memory and clocks do. */
#ifndef VMM_MACHINE_FAULTS_H
#define VMM_MACHINE_FAULTS_H

#include <umbra/umbra.h>

#include "devices/faults.h"
#include "vmm/machine/machine.h"

/* By how far clocks may jump, in ns: a century, which the CMOS clock can show, and no sum
 * overflows. */
#define FAULT_JUMP_MAX INT64_C(3155760000000000000)
#define FAULT_CLOCKS   (UMBRA_CLOCK_RTC | UMBRA_CLOCK_KVM | UMBRA_CLOCK_TSC)

/* The rules of the config, once the devices are there. */
int machine_plan_faults(struct machine *machine, struct umbra_error *error);
/* Check @fault and add it for the device it names. */
int machine_add_fault(struct machine *machine, const struct umbra_fault *fault,
                      uint32_t *id, struct umbra_error *error);

/* Hide memory, or have clocks jump. The machine stands still. */
int machine_fault(struct machine *machine, const struct fault_action *action,
                  struct umbra_error *error);
/* Give hidden memory back. The machine stands still. 0 or -errno. */
int machine_show_memory(struct machine *machine);

#endif
