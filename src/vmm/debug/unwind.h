/* SPDX-License-Identifier: MIT */
/*
 * Backtraces of x86 code: exact by Linux's unwind tables where there are some, by frame
 * pointers elsewhere, and guesses from what lies on the stack where neither leads on.
 */
#ifndef VMM_DEBUG_UNWIND_H
#define VMM_DEBUG_UNWIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/symbols/orc.h"

/* The registers that unwinding needs. */
struct unwind_registers {
    uint64_t rip, rsp, rbp;
    uint64_t rdx, rdi, r10, r13;
    unsigned word; /* bytes of a stack slot: 8 or 4 */
};

struct unwind_ops {
    /* Copy stack or code; false when not all of it is there. */
    bool (*read)(void *context, uint64_t address, void *buffer, size_t size);
    /* The unwind rule for code at @pc; false: none. */
    bool (*rule)(void *context, uint64_t pc, struct orc_rule *rule);
    /* Whether @address can be executed. */
    bool (*is_code)(void *context, uint64_t address);
    void *context;
};

enum unwind_how {
    UNWIND_START,         /* the registers themselves */
    UNWIND_TABLE,         /* by an unwind table */
    UNWIND_INTERRUPT,     /* the same: where an interrupt or exception came */
    UNWIND_FRAME_POINTER, /* by a chain of frame pointers: callers may be missing */
    UNWIND_GUESS, /* a return address on the stack, perhaps an old one; what follows it
                     builds on that */
};

struct unwind_frame {
    uint64_t pc, sp;
    enum unwind_how how;
};

/* Fill in at most @max frames, the innermost first; how many. *complete tells that the last
 * is known to be the outermost. */
unsigned unwind(const struct unwind_ops *ops, const struct unwind_registers *registers,
                struct unwind_frame *frames, unsigned max, bool *complete);

#endif
