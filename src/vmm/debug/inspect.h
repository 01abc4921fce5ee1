/* SPDX-License-Identifier: MIT */
/* What the functions that look into a VM share. */
#ifndef VMM_DEBUG_INSPECT_H
#define VMM_DEBUG_INSPECT_H

#include <umbra/umbra.h>

#include "memory/guest_mem.h"
#include "vcpu/vcpu.h"

/* vCPU @index, with control taken, when it may be looked at; 0 or -errno with an error that
 * names @call. */
int inspect_begin(struct umbra_vm *vm, unsigned index, const char *call,
                  struct vcpu **vcpu, struct umbra_error *error);
void inspect_end(struct umbra_vm *vm);

/* umbra_paging_get() for who holds control. */
int inspect_paging(struct umbra_vm *vm, struct vcpu *vcpu, struct umbra_paging *paging,
                   struct umbra_error *error);

#endif
