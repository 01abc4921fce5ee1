/* SPDX-License-Identifier: MIT */
/* A vCPU's state for a person, in parts. The gate is closed. */
#ifndef VCPU_REPORT_H
#define VCPU_REPORT_H

#include "base/text.h"
#include "vcpu/vcpu.h"

enum { REPORT_NAME_SIZE = 352 };

/* What is known about addresses; may be NULL. */
struct report_names {
    /* Write a name ("start_kernel+0x10"), or "", into @text of REPORT_NAME_SIZE bytes. */
    void (*name)(void *context, uint64_t address, char *text);
    void *context;
};

/* General registers; guest state, controls and exit information as a VMCS has them. */
void vcpu_report_state(struct vcpu *vcpu, const struct report_names *names,
                       struct text *text);
/* Disassembly around the instruction pointer. */
void vcpu_report_code(struct vcpu *vcpu, const struct report_names *names,
                      struct text *text);
/* Walks of the page tables for the instruction and the stack pointer. */
void vcpu_report_walks(struct vcpu *vcpu, struct text *text);
/* What the vCPU last left the guest for. */
void vcpu_report_exits(struct vcpu *vcpu, struct text *text);

#endif
