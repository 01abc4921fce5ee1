/* SPDX-License-Identifier: MIT */
/* What completing a vCPU's instructions keeps from one exit to the next. */
#ifndef VCPU_X86_64_EMULATION_H
#define VCPU_X86_64_EMULATION_H

struct emulation;

/* The vCPU's thread has ended. NULL is fine. */
void emulation_destroy(struct emulation *emulation);

#endif
