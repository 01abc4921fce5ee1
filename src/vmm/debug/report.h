/* SPDX-License-Identifier: MIT */
/* The report of an unexpected end, and of a VM on demand. */
#ifndef VMM_DEBUG_REPORT_H
#define VMM_DEBUG_REPORT_H

#include <stddef.h>

#include "vmm/vm/vm.h"

/* vm_moments.report */
void report_write(struct umbra_vm *vm, const struct vm_end *end, char *text, size_t size);

#endif
