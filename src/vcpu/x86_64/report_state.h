/* SPDX-License-Identifier: MIT */
/* Tables of a report: guest state and controls as a VMCS has them. */
#ifndef VCPU_X86_64_REPORT_STATE_H
#define VCPU_X86_64_REPORT_STATE_H

#include "base/text.h"
#include "vcpu/x86_64/state.h"

void report_guest_state(const struct vcpu_state *state, struct text *text);
void report_controls(struct vcpu *vcpu, const struct vcpu_state *state,
                     struct text *text);

#endif
