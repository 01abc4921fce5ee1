/* SPDX-License-Identifier: MIT */
/* What the insn*.c files share: one completion in progress, and the helpers around it. */
#ifndef VCPU_X86_64_INSN_INTERNAL_H
#define VCPU_X86_64_INSN_INTERNAL_H

#include <Zydis/Zydis.h>

#include "vcpu/x86_64/insn/insn.h"

#define INSN_CODE_SLOTS 128 /* rewritten instructions kept ready to run */

#define CR0_PE UINT64_C(0x1)
#define CR0_MP UINT64_C(0x2)
#define CR0_EM UINT64_C(0x4)
#define CR0_TS UINT64_C(0x8)
#define CR0_NE UINT64_C(0x20)

#define CR4_TSD        UINT64_C(0x4)
#define CR4_OSFXSR     UINT64_C(0x200)
#define CR4_OSXMMEXCPT UINT64_C(0x400)
#define CR4_FSGSBASE   UINT64_C(0x10000)
#define CR4_OSXSAVE    UINT64_C(0x40000)

#define EFER_LMA UINT64_C(0x400)

#define RFLAGS_CF         UINT64_C(0x1)
#define RFLAGS_ZF         UINT64_C(0x40)
#define RFLAGS_TF         UINT64_C(0x100)
#define RFLAGS_RF         UINT64_C(0x10000)
#define RFLAGS_VM         UINT64_C(0x20000)
#define RFLAGS_AC         UINT64_C(0x40000)
#define RFLAGS_ARITHMETIC UINT64_C(0x8d5) /* CF PF AF ZF SF OF */

#define MXCSR_DEFAULT 0x1f80u /* all exceptions masked */

enum insn_vector {
    VECTOR_DB = 1,
    VECTOR_BP = 3,
    VECTOR_UD = 6,
    VECTOR_NM = 7,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_MF = 16,
    VECTOR_AC = 17,
    VECTOR_XM = 19,
};

/* State components (bits of XCR0 and XSTATE_BV) that native execution loads and stores.
 */
#define XSTATE_X87    UINT64_C(0x1)
#define XSTATE_SSE    UINT64_C(0x2)
#define XSTATE_AVX    UINT64_C(0x4)
#define XSTATE_AVX512 UINT64_C(0xe0)
#define XSTATE_NATIVE (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX | XSTATE_AVX512)

/* Offsets in the legacy region of an XSAVE or FXSAVE image. */
enum {
    IMAGE_FCW = 0,
    IMAGE_FSW = 2,
    IMAGE_FTW = 4,
    IMAGE_FOP = 6,
    IMAGE_FIP = 8,
    IMAGE_FDP = 16,
    IMAGE_MXCSR = 24,
    IMAGE_MXCSR_MASK = 28,
    IMAGE_ST = 32,
    IMAGE_XMM = 160,
    IMAGE_HEADER = 512, /* XSTATE_BV, XCOMP_BV */
    IMAGE_EXTENDED = 576,
    IMAGE_LEGACY_END = 416, /* of the 512 bytes: what the processor uses */
};

struct insn_native;

/* Where CPUID leaf 0xD puts a state component. */
struct insn_component {
    uint32_t offset;
    uint32_t size;
    bool align64; /* in the compacted form */
    bool supervisor;
};

struct insn_engine {
    ZydisDecoder decoder[4]; /* real 16, 16, 32 and 64 bit code */
    ZydisFormatter formatter;
    struct insn_native *native;
    struct insn_component component[63];
    uint64_t host_features;
    uint64_t host_xcr0; /* 0 without OSXSAVE */
    uint32_t mxcsr_mask;
    enum insn_x87_pointers x87_pointers;
    /* Written by the vCPU's thread, read by any: relaxed atomics, no ordering implied. */
    uint64_t counts[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

/* One completion in progress. */
struct insn_run {
    struct insn_engine *engine;
    struct insn_cpu *cpu;
    const struct insn_ops *ops;
    void *context;
    struct insn_outcome *outcome;
    uint8_t bytes[INSN_MAX_LENGTH];
    unsigned bits;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t *image; /* the XSAVE image, once loaded */
    size_t image_size;
    bool xcr0_loaded;
};

/* Handlers and helpers return INSN_CONTINUE, or what the completion ended with. */
enum {
    INSN_CONTINUE = 0, /* it worked; for a handler: done, RIP is to advance */
    INSN_FAULTED = -1, /* outcome holds the exception, RIP stays */
    INSN_TRAPPED = -2, /* outcome holds the exception, RIP is to advance */
    INSN_GIVE_UP = -3, /* unhandled */
};

/* ---- insn.c ---- */

/* Decode at CS:RIP, fetching what the @count known bytes lack. */
int insn_decode(struct insn_run *run, const uint8_t *bytes, size_t count);
void insn_advance(struct insn_run *run); /* RIP behind the decoded instruction */
void insn_count_one(struct insn_engine *engine, unsigned mnemonic);
/* Put the exception in the outcome; returns INSN_FAULTED. */
int insn_fault(struct insn_run *run, enum insn_vector vector);
int insn_fault_code(struct insn_run *run, enum insn_vector vector, uint32_t error_code);
bool insn_protected(const struct insn_cpu *cpu); /* protected mode, not virtual 8086 */
uint64_t insn_gpr_read(const struct insn_run *run, ZydisRegister reg);
void insn_gpr_write(struct insn_run *run, ZydisRegister reg, uint64_t value);
void insn_flags_set(struct insn_run *run, uint64_t mask, uint64_t value);

/* ---- mem.c ---- */

/* The offset that memory operand @op stands for, in its segment. */
uint64_t insn_offset(const struct insn_run *run, const ZydisDecodedOperand *op);
/* The linear address of memory operand @op, checked for @size bytes of @access. */
int insn_address(struct insn_run *run, const ZydisDecodedOperand *op, size_t size,
                 enum insn_access access, uint64_t *address);
int insn_read(struct insn_run *run, uint64_t address, void *buffer, size_t size);
int insn_write(struct insn_run *run, uint64_t address, const void *buffer, size_t size);
/* What an access function of insn_ops returned, as a handler's result. */
int insn_access_result(struct insn_run *run, int error, const struct insn_fault *fault);
/* Fetch up to INSN_MAX_LENGTH bytes at CS:RIP, of which @count are in run->bytes; @length
 * is how many there are. INSN_FAULTED only when none can be fetched beyond @count. */
int insn_fetch(struct insn_run *run, size_t count, size_t *length);

/* ---- native.c ---- */

enum insn_unit {
    INSN_UNIT_NONE,    /* not for native execution */
    INSN_UNIT_INTEGER, /* general registers and arithmetic flags only */
    INSN_UNIT_X87,     /* x87 or MMX */
    INSN_UNIT_SSE,
    INSN_UNIT_AVX,
    INSN_UNIT_AVX512,
};

/* Run the decoded instruction on the host's processor. */
int insn_native_run(struct insn_run *run);
/* The same as an instruction of @unit, whatever its ISA set; insn_rewrite()'s rules hold. */
int insn_native_run_as(struct insn_run *run, enum insn_unit unit);

/* ---- thunk.c ---- */

/*
 * One memfd: code pages, mapped readable and executable and, elsewhere, readable and
 * writable; so no mapping is ever both writable and executable. The page that holds the
 * memory operand follows the executable mapping, within reach of RIP-relative addressing.
 */
struct insn_native {
    uint8_t *exec;       /* the code, then the operand's page */
    uint8_t *data;       /* the operand */
    uint8_t *code;       /* the writable alias */
    uint8_t *guest_area; /* XSAVE areas */
    uint8_t *host_area;
    size_t area_size;
    uint64_t components; /* of XSTATE_NATIVE: what this host has */
};

/* What the entry routine loads and stores; offsets are spelled out in the assembly. */
struct insn_frame {
    uint64_t gpr[INSN_GPR_COUNT]; /* 0; RSP is left alone */
    uint64_t flags;               /* 128 */
    const void *code;             /* 136 */
    uint64_t components;          /* 144: state to switch, 0: none */
    void *guest_area;             /* 152 */
    void *host_area;              /* 160 */
};

int insn_native_create(struct insn_engine *engine);
void insn_native_destroy(struct insn_native *native);

struct insn_rewrite;

/* The executable address of @rewrite's code, written now unless it is there already. */
const uint8_t *insn_native_place(struct insn_native *native,
                                 struct insn_rewrite *rewrite);

/*
 * Switch to the frame's registers, call its code, store the registers, switch back. The
 * stack stays the host's throughout, so that a signal may arrive at any point; the
 * direction flag, alignment check and trap flag are never the guest's.
 */
void insn_native_enter(struct insn_frame *frame);

/* ---- rewrite.c ---- */

/* What insn_rewrite() found out about an instruction that may run natively. */
struct insn_rewrite {
    uint8_t code[INSN_MAX_LENGTH + 8];
    uint8_t length;
    uint8_t displacement; /* offset of the RIP-relative disp32 in code; 0: no memory */
    int8_t spare;         /* register that stands for RSP, -1: none */
    const ZydisDecodedOperand *memory; /* NULL: none */
};

/* Make 64-bit code of the decoded instruction that touches nothing but registers other
 * than RSP and, RIP-relative, one operand. INSN_GIVE_UP when that cannot be done safely.
 */
int insn_rewrite(const struct insn_run *run, struct insn_rewrite *rewrite);

/* ---- host.c ---- */

/* The unit an instruction belongs to, and whether this host's processor has it. */
enum insn_unit insn_host_unit(const struct insn_engine *engine,
                              const ZydisDecodedInstruction *insn, bool *present);
uint64_t insn_host_features(void); /* what insn_host_unit() compares with */

/* ---- image.c ---- */

/* Fill component[], host_xcr0, mxcsr_mask and x87_pointers. */
void insn_image_probe(struct insn_engine *engine);

/* Make run->image available: components that XSTATE_BV says are initial hold their
 * initial values in memory too. */
int insn_image_load(struct insn_run *run);

/* Make run->cpu->xcr0 valid. */
int insn_xcr0_load(struct insn_run *run);

/* The exception due before an x87/MMX, SSE or AVX instruction may run. */
int insn_fpu_check(struct insn_run *run, enum insn_unit unit);

/* Of the loaded image: which components are in use (XSTATE_BV); whether it holds component
 * @i; give that its initial configuration; note that those of @mask changed, and which of
 * them are now in use. */
uint64_t insn_image_used(const struct insn_run *run);
bool insn_image_holds(const struct insn_run *run, unsigned i);
void insn_image_initialize(struct insn_run *run, unsigned i);
void insn_image_changed(struct insn_run *run, uint64_t mask, uint64_t used);

/* ---- xsave.c ---- */

int insn_fxsave(struct insn_run *run);
int insn_fxrstor(struct insn_run *run);
int insn_xsave(struct insn_run *run);
int insn_xrstor(struct insn_run *run);
int insn_xgetbv(struct insn_run *run);
int insn_xsetbv(struct insn_run *run);
int insn_mxcsr(struct insn_run *run);

/* ---- system.c ---- */

typedef int (*insn_handler)(struct insn_run *run);

/* The hand-written completion of @mnemonic; NULL: none. */
insn_handler insn_system_handler(ZydisMnemonic mnemonic);

#endif
