/* SPDX-License-Identifier: MIT */
/* Numbers that the guest runtime's C, assembly and linker script share. */
#ifndef VMM_GUEST_LAYOUT_H
#define VMM_GUEST_LAYOUT_H

#define TRAMPOLINE 0x8000 /* real-mode start of the other CPUs, a 4 KiB page */

/* Selectors of the GDT in boot.S; each CPU has a 16-byte TSS descriptor from SEL_TSS on.
 */
#define SEL_CODE      0x08
#define SEL_DATA      0x10
#define SEL_USER_DATA 0x1b
#define SEL_USER_CODE 0x23
#define SEL_CODE32    0x28
#define SEL_TSS       0x30

#define MAX_CPUS 64

/*
 * One aligned block per CPU: struct cpu at its start, the stack for traps out of ring 3
 * below CPU_TRAP_STACK, the main stack below CPU_MAIN_STACK. Masking RSP finds the block.
 */
#define CPU_BLOCK      0x4000
#define CPU_TRAP_STACK 0x1ff0
#define CPU_MAIN_STACK 0x3ff0
#define CPU_RESUME     0 /* offsetof(struct cpu, resume) */

#define PTE_PRESENT  0x01
#define PTE_WRITE    0x02
#define PTE_USER     0x04
#define PTE_UNCACHED 0x18 /* PWT and PCD */
#define PTE_LARGE    0x80

#endif
