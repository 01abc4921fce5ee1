/* SPDX-License-Identifier: MIT */
/* Guest-linear memory as the guest's own page tables map it, with the faults due. */
#ifndef VCPU_X86_64_WALK_H
#define VCPU_X86_64_WALK_H

#include "memory/guest_mem.h"
#include "vcpu/x86_64/insn/insn.h"

/*
 * Translate linear @address for @access as @cpu would, setting accessed and dirty bits.
 * 0; -EFAULT with @fault filled (#PF); -ENXIO when a page table is not in RAM. Protection
 * keys are not looked at.
 */
int walk_translate(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
                   enum insn_access access, gpa *physical, struct insn_fault *fault);

/* Copy @size (at most 16 KiB) bytes; a fault on any page leaves everything untouched.
 * -ENXIO also when a page is not RAM. */
int walk_read(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
              void *buffer, size_t size, enum insn_access access,
              struct insn_fault *fault);
int walk_write(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
               const void *buffer, size_t size, struct insn_fault *fault);

enum { WALK_MAX_LEVELS = 5 };

/* What the tables say of one address, level by level. */
struct walk_path {
    unsigned levels; /* of the tables; 0: paging is off */
    unsigned count;  /* of steps taken, the top level's first */
    struct {
        gpa at;
        uint64_t entry;
        unsigned index;
    } step[WALK_MAX_LEVELS];
    bool mapped;
    bool outside;       /* the table after the last step is not in RAM */
    gpa physical;       /* if mapped */
    uint64_t page_size; /* if mapped */
    bool writable, user, executable;
};

/* Look up linear @address as @cpu's tables are, changing nothing. */
void walk_look(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
               struct walk_path *path);

/* As insn_ops.exchange16. */
int walk_exchange16(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
                    uint64_t expected[2], const uint64_t desired[2], bool *swapped,
                    struct insn_fault *fault);

#endif
