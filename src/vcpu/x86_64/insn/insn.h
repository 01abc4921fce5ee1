/* SPDX-License-Identifier: MIT */
/* Completing in userspace the instructions that KVM's emulator gives up on; knows no KVM.
 */
#ifndef VCPU_X86_64_INSN_INSN_H
#define VCPU_X86_64_INSN_INSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INSN_MAX_LENGTH 15

/* Indices into insn_cpu.gpr, as instructions encode them. */
enum insn_gpr {
    INSN_RAX,
    INSN_RCX,
    INSN_RDX,
    INSN_RBX,
    INSN_RSP,
    INSN_RBP,
    INSN_RSI,
    INSN_RDI,
    INSN_GPR_COUNT = 16, /* R8 to R15 follow RDI */
};

/* Indices into insn_cpu.segment, as instructions encode them. */
enum insn_segment_index {
    INSN_ES,
    INSN_CS,
    INSN_SS,
    INSN_DS,
    INSN_FS,
    INSN_GS,
    INSN_SEGMENT_COUNT,
};

/* A segment register's hidden part. */
struct insn_segment {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint16_t selector;
    uint8_t type; /* the descriptor's four type bits */
    uint8_t dpl;
    bool system; /* the S bit is clear */
    bool unusable;
    bool db;
    bool l;
};

/* The part of a processor's state that completion reads and changes. */
struct insn_cpu {
    uint64_t gpr[INSN_GPR_COUNT];
    uint64_t rip;
    uint64_t rflags;
    uint64_t cr0;
    uint64_t cr3;
    uint64_t cr4;
    uint64_t efer;
    uint64_t xcr0; /* looked at only where insn_ops has no xcr0_load() */
    struct insn_segment segment[INSN_SEGMENT_COUNT];
    struct insn_segment ldt;
    uint64_t gdt_base;
    uint32_t gdt_limit;
    uint8_t cpl;

    /* Set by completion: what changed besides general registers, RIP and RFLAGS. */
    bool segments_changed; /* FS or GS base */
    bool xcr0_changed;
    bool fpu_changed; /* the image that fpu_load() returned */
};

/* Why a guest memory access cannot be done: the exception the guest is due. */
struct insn_fault {
    uint8_t vector;
    uint32_t error_code;
    uint64_t address; /* becomes CR2 when the vector is a page fault */
};

enum insn_access {
    INSN_READ,
    INSN_WRITE,
    INSN_FETCH,
    INSN_READ_SYSTEM, /* a descriptor: privileged whatever CPL is */
};

/*
 * The world of one completion. Addresses are linear (segment bases are applied already),
 * at most 16 KiB long, and may cross pages. The memory functions return 0; -EFAULT with
 * @fault filled (nothing was transferred); or another -errno when the access is not to
 * RAM, which leaves the instruction unhandled. Functions marked optional may be NULL.
 */
struct insn_ops {
    int (*read)(void *context, uint64_t address, void *buffer, size_t size,
                enum insn_access access, struct insn_fault *fault);
    int (*write)(void *context, uint64_t address, const void *buffer, size_t size,
                 struct insn_fault *fault);
    /* Atomically: if 16 bytes at @address (16-aligned) equal @expected, store @desired;
     * otherwise put them in @expected. */
    int (*exchange16)(void *context, uint64_t address, uint64_t expected[2],
                      const uint64_t desired[2], bool *swapped, struct insn_fault *fault);
    /* The vCPU's XSAVE image in standard form (512 + 64 bytes or more). Valid until the
     * completion ends. */
    int (*fpu_load)(void *context, void **image, size_t *size);
    int (*xcr0_load)(void *context, uint64_t *xcr0); /* optional: fetch it when needed */
    int (*msr_read)(void *context, uint32_t index, uint64_t *value);
    int (*msr_write)(void *context, uint32_t index, uint64_t value); /* optional */
    int (*tlb_flush)(void *context);                                 /* optional */
};

enum insn_result {
    INSN_DONE,      /* registers and memory are as after the instruction */
    INSN_EXCEPTION, /* inject the exception; for a trap RIP is past the instruction
                       already */
    INSN_UNHANDLED, /* nothing changed */
};

struct insn_outcome {
    enum insn_result result;
    uint16_t mnemonic; /* a ZydisMnemonic; 0 when the bytes do not decode */
    uint8_t length;
    uint8_t vector; /* INSN_EXCEPTION */
    bool has_error_code;
    bool has_payload; /* payload is CR2 (#PF) or DR6 bits (#DB) */
    uint32_t error_code;
    uint64_t payload;
    bool computing; /* INSN_DONE by an FPU or vector instruction: insn_burst() may pay */
    bool single_step; /* INSN_DONE with RFLAGS.TF set: a #DB with DR6.BS is due */
    char text[96];    /* the disassembly, filled when INSN_UNHANDLED */
};

struct insn_count {
    const char *mnemonic;
    uint64_t count;
};

/* Decoder, native execution area and counters of one vCPU; used by one thread at a time,
 * except for the counters. */
struct insn_engine;

int insn_engine_create(struct insn_engine **engine);
void insn_engine_destroy(struct insn_engine *engine);

/*
 * What FXSAVE and XSAVE do with FOP, FIP and FDP while no unmasked x87 exception is pending
 * (APM volume 5, FXSAVE; CPUID 8000_0008 EBX[2], RstrFpErrPtrs; SDM volume 1, 10.5.1). An
 * engine begins with what this host's processor does, since guests see its CPUID.
 */
enum insn_x87_pointers {
    INSN_X87_SAVED,  /* Intel: as ever */
    INSN_X87_ZEROED, /* AMD with RstrFpErrPtrs: zeroes are saved, restoring loads them */
    INSN_X87_KEPT,   /* AMD without: neither memory nor registers change */
};
void insn_x87_pointers_set(struct insn_engine *engine, enum insn_x87_pointers pointers);
/* Of the processor with this CPUID: leaf 0's EBX, ECX, EDX and 8000_0008's EBX. */
enum insn_x87_pointers insn_x87_pointers_of(const char vendor[12], uint32_t extensions);

/*
 * Complete the instruction at CS:RIP of @cpu. @bytes are its first @count bytes as far as
 * known (0 is fine); the rest is fetched through @ops.
 */
void insn_complete(struct insn_engine *engine, struct insn_cpu *cpu,
                   const struct insn_ops *ops, void *context, const uint8_t *bytes,
                   size_t count, struct insn_outcome *outcome);

/*
 * After an INSN_DONE that was computing: complete what follows at CS:RIP, at most @max
 * instructions, while more such instructions keep coming; plain register arithmetic, loads
 * and jumps between them are run along. Stops before an instruction that is anything else
 * or would fault. Returns how many were completed.
 */
unsigned insn_burst(struct insn_engine *engine, struct insn_cpu *cpu,
                    const struct insn_ops *ops, void *context, unsigned max);

/* The @max most frequent completed mnemonics, most frequent first; returns how many were
 * stored. @total (may be NULL) is the number of completed instructions. Any thread. */
size_t insn_counts(const struct insn_engine *engine, struct insn_count *counts,
                   size_t max, uint64_t *total);

/* Add @from's counters to @into's (to sum over vCPUs). */
void insn_counts_add(struct insn_engine *into, const struct insn_engine *from);

/* Write "mnemonic operands" for the instruction at @bytes into @text; returns its length
 * in bytes, or -EINVAL (text is then "(bad)"). @bits is the code's size: 16, 32 or 64. */
int insn_disassemble(const uint8_t *bytes, size_t count, uint64_t rip, unsigned bits,
                     char *text, size_t size);

/* The code's size at CS:RIP: 16, 32 or 64. */
unsigned insn_code_bits(const struct insn_cpu *cpu);

#endif
