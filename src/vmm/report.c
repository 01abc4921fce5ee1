/* SPDX-License-Identifier: MIT */
/* The report of an unexpected end. */
#include <stdio.h>

#include "vmm/vm.h"

static bool report_wanted(enum umbra_outcome_kind kind)
{
    return kind == UMBRA_OUTCOME_TRIPLE_FAULT || kind == UMBRA_OUTCOME_ERROR ||
           kind == UMBRA_OUTCOME_DEADLINE || kind == UMBRA_OUTCOME_PANIC;
}

void vm_write_report(struct umbra_vm *vm, const struct vm_end *end, char *text,
                     size_t size)
{
    text[0] = '\0';
    if (report_wanted(end->kind)) {
        unsigned index = end->vcpu == UINT32_MAX ? 0 : end->vcpu;

        vcpu_report(&vm->machine.vcpus->vcpus[index], text, size);
    }
}
