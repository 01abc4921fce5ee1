/* SPDX-License-Identifier: MIT */
/* Completing privileged, serializing and other instructions that must not run natively.
 */
#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

#define MSR_TSC            0x10
#define MSR_TSC_AUX        0xc0000103
#define MSR_KERNEL_GS_BASE 0xc0000102

#define INVPCID_MAX 3 /* individual address, one context, all, all but global */

static int handle_nop(struct insn_run *run)
{
    return INSN_CONTINUE;
}

static int handle_fence(struct insn_run *run)
{
    __asm__ volatile("mfence" ::: "memory"); /* TSan builds refuse a C11 fence */
    return INSN_CONTINUE;
}

static int handle_undefined(struct insn_run *run)
{
    return insn_fault(run, VECTOR_UD);
}

static int handle_int3(struct insn_run *run)
{
    insn_fault(run, VECTOR_BP);
    return INSN_TRAPPED;
}

static int handle_int1(struct insn_run *run)
{
    insn_fault(run, VECTOR_DB);
    run->outcome->has_payload = true; /* no DR6 bit is set */
    return INSN_TRAPPED;
}

static int check_cpl0(struct insn_run *run)
{
    return run->cpu->cpl ? insn_fault_code(run, VECTOR_GP, 0) : INSN_CONTINUE;
}

static int handle_cache_flush_all(struct insn_run *run) /* WBINVD and the like */
{
    return check_cpl0(run);
}

/* Caches are coherent, so nothing remains but the access checks (a byte's read). */
static int handle_cache_line(struct insn_run *run)
{
    uint64_t address;
    uint8_t byte;
    int result = insn_address(run, &run->operand[0], 1, INSN_READ, &address);

    return result ? result : insn_read(run, address, &byte, sizeof(byte));
}

static int handle_ac(struct insn_run *run)
{
    if (run->cpu->cpl)
        return insn_fault(run, VECTOR_UD);
    insn_flags_set(run, RFLAGS_AC,
                   run->insn.mnemonic == ZYDIS_MNEMONIC_STAC ? RFLAGS_AC : 0);
    return INSN_CONTINUE;
}

static int handle_rdtscp(struct insn_run *run)
{
    struct insn_cpu *cpu = run->cpu;
    uint64_t tsc, aux;

    if ((cpu->cr4 & CR4_TSD) && cpu->cpl)
        return insn_fault_code(run, VECTOR_GP, 0);
    if (run->ops->msr_read(run->context, MSR_TSC, &tsc) ||
        run->ops->msr_read(run->context, MSR_TSC_AUX, &aux))
        return INSN_GIVE_UP;
    cpu->gpr[INSN_RAX] = tsc & 0xffffffff;
    cpu->gpr[INSN_RDX] = tsc >> 32;
    cpu->gpr[INSN_RCX] = aux & 0xffffffff;
    return INSN_CONTINUE;
}

static int handle_rdpid(struct insn_run *run)
{
    uint64_t aux;

    if (run->ops->msr_read(run->context, MSR_TSC_AUX, &aux))
        return INSN_GIVE_UP;
    insn_gpr_write(run, run->operand[0].reg.value, aux & 0xffffffff);
    return INSN_CONTINUE;
}

static bool address_canonical(const struct insn_run *run, uint64_t address)
{
    unsigned shift = run->cpu->cr4 & (1u << 12) ? 7 : 16; /* CR4.LA57 */

    return (uint64_t)((int64_t)(address << shift) >> shift) == address;
}

static int handle_segment_base(struct insn_run *run)
{
    ZydisMnemonic mnemonic = run->insn.mnemonic;
    ZydisRegister reg = run->operand[0].reg.value;
    bool fs = mnemonic == ZYDIS_MNEMONIC_RDFSBASE || mnemonic == ZYDIS_MNEMONIC_WRFSBASE;
    struct insn_segment *segment = &run->cpu->segment[fs ? INSN_FS : INSN_GS];

    if (run->bits != 64 || !(run->cpu->cr4 & CR4_FSGSBASE))
        return insn_fault(run, VECTOR_UD);
    if (mnemonic == ZYDIS_MNEMONIC_RDFSBASE || mnemonic == ZYDIS_MNEMONIC_RDGSBASE) {
        insn_gpr_write(run, reg, segment->base);
        return INSN_CONTINUE;
    }
    if (!address_canonical(run, insn_gpr_read(run, reg)))
        return insn_fault_code(run, VECTOR_GP, 0);
    segment->base = insn_gpr_read(run, reg);
    run->cpu->segments_changed = true;
    return INSN_CONTINUE;
}

static int handle_swapgs(struct insn_run *run)
{
    struct insn_segment *gs = &run->cpu->segment[INSN_GS];
    uint64_t base;

    if (run->bits != 64)
        return insn_fault(run, VECTOR_UD);
    if (run->cpu->cpl)
        return insn_fault_code(run, VECTOR_GP, 0);
    if (!run->ops->msr_write ||
        run->ops->msr_read(run->context, MSR_KERNEL_GS_BASE, &base) ||
        run->ops->msr_write(run->context, MSR_KERNEL_GS_BASE, gs->base))
        return INSN_GIVE_UP;
    gs->base = base;
    run->cpu->segments_changed = true;
    return INSN_CONTINUE;
}

static int handle_cmpxchg16b(struct insn_run *run)
{
    struct insn_cpu *cpu = run->cpu;
    uint64_t expected[2] = { cpu->gpr[INSN_RAX], cpu->gpr[INSN_RDX] };
    const uint64_t desired[2] = { cpu->gpr[INSN_RBX], cpu->gpr[INSN_RCX] };
    struct insn_fault fault = { 0 };
    uint64_t address;
    bool swapped;
    int result = insn_address(run, &run->operand[0], 16, INSN_WRITE, &address);

    if (result)
        return result;
    if (address & 15)
        return insn_fault_code(run, VECTOR_GP, 0);
    result =
        run->ops->exchange16(run->context, address, expected, desired, &swapped, &fault);
    if (result)
        return insn_access_result(run, result, &fault);
    insn_flags_set(run, RFLAGS_ZF, swapped ? RFLAGS_ZF : 0);
    if (!swapped) {
        cpu->gpr[INSN_RAX] = expected[0];
        cpu->gpr[INSN_RDX] = expected[1];
    }
    return INSN_CONTINUE;
}

/* Flushing more than was asked for is always allowed. */
static int handle_invpcid(struct insn_run *run)
{
    uint8_t descriptor[16];
    uint64_t address;
    uint64_t type = insn_gpr_read(run, run->operand[0].reg.value);
    int result;

    if (run->cpu->cpl)
        return insn_fault_code(run, VECTOR_GP, 0);
    result = insn_address(run, &run->operand[1], sizeof(descriptor), INSN_READ, &address);
    if (!result)
        result = insn_read(run, address, descriptor, sizeof(descriptor));
    if (result)
        return result;
    if (type > INVPCID_MAX || load_le64(descriptor) >> 12 ||
        (type == 0 && !address_canonical(run, load_le64(descriptor + 8))))
        return insn_fault_code(run, VECTOR_GP, 0);
    if (!run->ops->tlb_flush || run->ops->tlb_flush(run->context))
        return INSN_GIVE_UP;
    return INSN_CONTINUE;
}

/* MONITOR and UMONITOR arm nothing, and the waits end at once: a wake-up without a
 * reason, which software must expect. */
static int handle_monitor(struct insn_run *run)
{
    return check_cpl0(run);
}

static int handle_timed_wait(struct insn_run *run)
{
    insn_flags_set(run, RFLAGS_ARITHMETIC, 0);
    return INSN_CONTINUE;
}

static int handle_movdiri(struct insn_run *run)
{
    const ZydisDecodedOperand *to = &run->operand[0];
    uint8_t value[8];
    uint64_t address;
    int result = insn_address(run, to, to->size / 8, INSN_WRITE, &address);

    store_le64(value, insn_gpr_read(run, run->operand[1].reg.value));
    return result ? result : insn_write(run, address, value, to->size / 8);
}

static int handle_movdir64b(struct insn_run *run)
{
    ZydisDecodedOperand to = run->operand[1];
    uint8_t line[64];
    uint64_t source, target;
    int result;

    to.mem.segment = ZYDIS_REGISTER_ES; /* no override applies to the destination */
    to.mem.base = run->operand[0].reg.value;
    to.mem.index = ZYDIS_REGISTER_NONE;
    to.mem.disp.has_displacement = false;
    result = insn_address(run, &run->operand[1], sizeof(line), INSN_READ, &source);
    if (!result)
        result = insn_address(run, &to, sizeof(line), INSN_WRITE, &target);
    if (!result && (target & (sizeof(line) - 1)))
        result = insn_fault_code(run, VECTOR_GP, 0);
    if (!result)
        result = insn_read(run, source, line, sizeof(line));
    return result ? result : insn_write(run, target, line, sizeof(line));
}

/* ---- Segment descriptors: VERR, VERW, LAR, LSL ---- */

enum descriptor_type {
    TYPE_TSS16_AVAILABLE = 1,
    TYPE_LDT = 2,
    TYPE_TSS16_BUSY = 3,
    TYPE_CALL_GATE16 = 4,
    TYPE_TASK_GATE = 5,
    TYPE_TSS_AVAILABLE = 9,
    TYPE_TSS_BUSY = 11,
    TYPE_CALL_GATE = 12,
};

/* Read the descriptor of @selector; @found is false when there is none to be read. */
static int descriptor_read(struct insn_run *run, uint16_t selector, uint64_t *descriptor,
                           bool *found)
{
    const struct insn_cpu *cpu = run->cpu;
    bool local = selector & 4;
    uint64_t base = local ? cpu->ldt.base : cpu->gdt_base;
    uint32_t limit = local ? cpu->ldt.limit : cpu->gdt_limit;
    struct insn_fault fault = { 0 };
    uint8_t bytes[8];
    int error;

    *found = false;
    if (!(selector & ~3) || (local && cpu->ldt.unusable) || (selector | 7u) > limit)
        return INSN_CONTINUE;
    error = run->ops->read(run->context, base + (selector & ~7u), bytes, sizeof(bytes),
                           INSN_READ_SYSTEM, &fault);
    if (error)
        return insn_access_result(run, error, &fault);
    *descriptor = load_le64(bytes);
    *found = true;
    return INSN_CONTINUE;
}

static bool descriptor_is_segment(uint64_t descriptor)
{
    return descriptor >> 44 & 1;
}

static bool descriptor_is_conforming(uint64_t descriptor)
{
    return descriptor_is_segment(descriptor) && (descriptor >> 42 & 3) == 3;
}

static bool descriptor_privilege(const struct insn_run *run, uint64_t descriptor,
                                 uint16_t selector)
{
    unsigned dpl = descriptor >> 45 & 3;

    return descriptor_is_conforming(descriptor) ||
           (dpl >= run->cpu->cpl && dpl >= (selector & 3u));
}

/* The selector operand, a register's or memory's 16 bits. */
static int selector_operand(struct insn_run *run, const ZydisDecodedOperand *op,
                            uint16_t *selector)
{
    uint8_t bytes[2];
    uint64_t address;
    int result;

    if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        *selector = (uint16_t)insn_gpr_read(run, op->reg.value);
        return INSN_CONTINUE;
    }
    result = insn_address(run, op, sizeof(bytes), INSN_READ, &address);
    if (!result)
        result = insn_read(run, address, bytes, sizeof(bytes));
    if (!result)
        *selector = load_le16(bytes);
    return result;
}

static int handle_verify(struct insn_run *run)
{
    bool write = run->insn.mnemonic == ZYDIS_MNEMONIC_VERW;
    uint64_t descriptor = 0;
    uint16_t selector = 0;
    bool found, good;
    int result;

    if (!insn_protected(run->cpu))
        return insn_fault(run, VECTOR_UD);
    result = selector_operand(run, &run->operand[0], &selector);
    if (!result)
        result = descriptor_read(run, selector, &descriptor, &found);
    if (result)
        return result;
    good = found && descriptor_is_segment(descriptor) &&
           descriptor_privilege(run, descriptor, selector);
    if (good) {
        bool code = descriptor >> 43 & 1;
        bool bit = descriptor >> 41 & 1; /* code: readable; data: writable */

        good = write ? !code && bit : !code || bit;
    }
    insn_flags_set(run, RFLAGS_ZF, good ? RFLAGS_ZF : 0);
    return INSN_CONTINUE;
}

/* SDM volume 2, tables 3-51 (LAR) and 3-57 (LSL): system types that have the property. */
static bool system_type_valid(const struct insn_run *run, unsigned type, bool limit)
{
    bool long_mode = run->cpu->efer & EFER_LMA;

    switch (type) {
    case TYPE_LDT:
    case TYPE_TSS_AVAILABLE:
    case TYPE_TSS_BUSY:
        return true;
    case TYPE_TSS16_AVAILABLE:
    case TYPE_TSS16_BUSY:
        return !long_mode;
    case TYPE_CALL_GATE16:
    case TYPE_TASK_GATE:
        return !limit && !long_mode;
    case TYPE_CALL_GATE:
        return !limit;
    default:
        return false;
    }
}

static int handle_descriptor(struct insn_run *run)
{
    bool limit = run->insn.mnemonic == ZYDIS_MNEMONIC_LSL;
    uint64_t descriptor = 0;
    uint16_t selector = 0;
    uint32_t value;
    bool found;
    int result;

    if (!insn_protected(run->cpu))
        return insn_fault(run, VECTOR_UD);
    result = selector_operand(run, &run->operand[1], &selector);
    if (!result)
        result = descriptor_read(run, selector, &descriptor, &found);
    if (result)
        return result;
    if (!found || !descriptor_privilege(run, descriptor, selector) ||
        (!descriptor_is_segment(descriptor) &&
         !system_type_valid(run, descriptor >> 40 & 15, limit))) {
        insn_flags_set(run, RFLAGS_ZF, 0);
        return INSN_CONTINUE;
    }
    value = (uint32_t)(descriptor >> 32) & 0x00ffff00;
    if (limit) {
        value = (uint32_t)(descriptor & 0xffff) | (uint32_t)(descriptor >> 32 & 0xf0000);
        if (descriptor >> 55 & 1)
            value = value << 12 | 0xfff;
    }
    insn_gpr_write(run, run->operand[0].reg.value, value);
    insn_flags_set(run, RFLAGS_ZF, RFLAGS_ZF);
    return INSN_CONTINUE;
}

static const struct {
    ZydisMnemonic mnemonic;
    insn_handler handler;
} handlers[] = {
    { ZYDIS_MNEMONIC_INT3, handle_int3 },
    { ZYDIS_MNEMONIC_INT1, handle_int1 },
    { ZYDIS_MNEMONIC_UD0, handle_undefined },
    { ZYDIS_MNEMONIC_UD1, handle_undefined },
    { ZYDIS_MNEMONIC_UD2, handle_undefined },
    { ZYDIS_MNEMONIC_CLAC, handle_ac },
    { ZYDIS_MNEMONIC_STAC, handle_ac },
    { ZYDIS_MNEMONIC_RDTSCP, handle_rdtscp },
    { ZYDIS_MNEMONIC_RDPID, handle_rdpid },
    { ZYDIS_MNEMONIC_RDFSBASE, handle_segment_base },
    { ZYDIS_MNEMONIC_RDGSBASE, handle_segment_base },
    { ZYDIS_MNEMONIC_WRFSBASE, handle_segment_base },
    { ZYDIS_MNEMONIC_WRGSBASE, handle_segment_base },
    { ZYDIS_MNEMONIC_SWAPGS, handle_swapgs },
    { ZYDIS_MNEMONIC_CMPXCHG16B, handle_cmpxchg16b },
    { ZYDIS_MNEMONIC_INVPCID, handle_invpcid },
    { ZYDIS_MNEMONIC_XGETBV, insn_xgetbv },
    { ZYDIS_MNEMONIC_XSETBV, insn_xsetbv },
    { ZYDIS_MNEMONIC_FXSAVE, insn_fxsave },
    { ZYDIS_MNEMONIC_FXSAVE64, insn_fxsave },
    { ZYDIS_MNEMONIC_FXRSTOR, insn_fxrstor },
    { ZYDIS_MNEMONIC_FXRSTOR64, insn_fxrstor },
    { ZYDIS_MNEMONIC_XSAVE, insn_xsave },
    { ZYDIS_MNEMONIC_XSAVE64, insn_xsave },
    { ZYDIS_MNEMONIC_XSAVEOPT, insn_xsave },
    { ZYDIS_MNEMONIC_XSAVEOPT64, insn_xsave },
    { ZYDIS_MNEMONIC_XSAVEC, insn_xsave },
    { ZYDIS_MNEMONIC_XSAVEC64, insn_xsave },
    { ZYDIS_MNEMONIC_XSAVES, insn_xsave },
    { ZYDIS_MNEMONIC_XSAVES64, insn_xsave },
    { ZYDIS_MNEMONIC_XRSTOR, insn_xrstor },
    { ZYDIS_MNEMONIC_XRSTOR64, insn_xrstor },
    { ZYDIS_MNEMONIC_XRSTORS, insn_xrstor },
    { ZYDIS_MNEMONIC_XRSTORS64, insn_xrstor },
    { ZYDIS_MNEMONIC_LDMXCSR, insn_mxcsr },
    { ZYDIS_MNEMONIC_STMXCSR, insn_mxcsr },
    { ZYDIS_MNEMONIC_VLDMXCSR, insn_mxcsr },
    { ZYDIS_MNEMONIC_VSTMXCSR, insn_mxcsr },
    { ZYDIS_MNEMONIC_LFENCE, handle_fence },
    { ZYDIS_MNEMONIC_SFENCE, handle_fence },
    { ZYDIS_MNEMONIC_MFENCE, handle_fence },
    { ZYDIS_MNEMONIC_SERIALIZE, handle_fence },
    { ZYDIS_MNEMONIC_NOP, handle_nop },
    { ZYDIS_MNEMONIC_PAUSE, handle_nop },
    { ZYDIS_MNEMONIC_ENDBR32, handle_nop },
    { ZYDIS_MNEMONIC_ENDBR64, handle_nop },
    { ZYDIS_MNEMONIC_RDSSPD, handle_nop }, /* without CET a NOP, like ENDBR */
    { ZYDIS_MNEMONIC_RDSSPQ, handle_nop },
    { ZYDIS_MNEMONIC_PREFETCH, handle_nop },
    { ZYDIS_MNEMONIC_PREFETCHNTA, handle_nop },
    { ZYDIS_MNEMONIC_PREFETCHT0, handle_nop },
    { ZYDIS_MNEMONIC_PREFETCHT1, handle_nop },
    { ZYDIS_MNEMONIC_PREFETCHT2, handle_nop },
    { ZYDIS_MNEMONIC_PREFETCHW, handle_nop },
    { ZYDIS_MNEMONIC_PREFETCHWT1, handle_nop },
    { ZYDIS_MNEMONIC_CLDEMOTE, handle_nop },
    { ZYDIS_MNEMONIC_CLFLUSH, handle_cache_line },
    { ZYDIS_MNEMONIC_CLFLUSHOPT, handle_cache_line },
    { ZYDIS_MNEMONIC_CLWB, handle_cache_line },
    { ZYDIS_MNEMONIC_WBINVD, handle_cache_flush_all },
    { ZYDIS_MNEMONIC_INVD, handle_cache_flush_all },
    { ZYDIS_MNEMONIC_MONITOR, handle_monitor },
    { ZYDIS_MNEMONIC_MWAIT, handle_monitor },
    { ZYDIS_MNEMONIC_UMONITOR, handle_nop },
    { ZYDIS_MNEMONIC_UMWAIT, handle_timed_wait },
    { ZYDIS_MNEMONIC_TPAUSE, handle_timed_wait },
    { ZYDIS_MNEMONIC_MOVDIRI, handle_movdiri },
    { ZYDIS_MNEMONIC_MOVDIR64B, handle_movdir64b },
    { ZYDIS_MNEMONIC_VERR, handle_verify },
    { ZYDIS_MNEMONIC_VERW, handle_verify },
    { ZYDIS_MNEMONIC_LAR, handle_descriptor },
    { ZYDIS_MNEMONIC_LSL, handle_descriptor },
};

insn_handler insn_system_handler(ZydisMnemonic mnemonic)
{
    for (size_t i = 0; i < ARRAY_SIZE(handlers); i++) {
        if (handlers[i].mnemonic == mnemonic)
            return handlers[i].handler;
    }
    return NULL;
}
