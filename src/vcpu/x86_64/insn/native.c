/* SPDX-License-Identifier: MIT */
/* Running an instruction of the guest's on the host's processor, on the guest's state. */
#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

#define FSW_ES  0x80
#define FSW_ANY 0x3f

#define MXCSR_FLAGS      0x3fu
#define MXCSR_MASKS      MXCSR_DEFAULT
#define MXCSR_MASK_SHIFT 7

static bool uses_x87(const struct insn_run *run, enum insn_unit unit)
{
    if (unit == INSN_UNIT_X87)
        return true;
    for (unsigned i = 0; i < run->insn.operand_count; i++) {
        if (run->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(run->operand[i].reg.value) == ZYDIS_REGCLASS_MMX)
            return true;
    }
    return false;
}

/* x87 and MMX instructions report a pending unmasked exception before they start, except
 * for the control instructions without a wait. Run natively, they would signal umbra. */
static int x87_pending(struct insn_run *run)
{
    uint16_t fsw = load_le16(run->image + IMAGE_FSW);
    uint16_t fcw = load_le16(run->image + IMAGE_FCW);

    switch (run->insn.mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return INSN_CONTINUE;
    default:
        break;
    }
    if (!(fsw & FSW_ES) && !(fsw & ~fcw & FSW_ANY))
        return INSN_CONTINUE;
    return run->cpu->cr0 & CR0_NE ? insn_fault(run, VECTOR_MF) : INSN_GIVE_UP;
}

/* Real mode and virtual 8086 mode have their own layouts of the x87 environment. */
static bool is_environment(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_FLDENV || mnemonic == ZYDIS_MNEMONIC_FNSTENV ||
           mnemonic == ZYDIS_MNEMONIC_FRSTOR || mnemonic == ZYDIS_MNEMONIC_FNSAVE;
}

/* Alignment that the operand must have (SDM volume 2, 2.4 and 2.7: exception types). */
static size_t operand_alignment(const struct insn_run *run, size_t size)
{
    switch (run->insn.meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE1:
    case ZYDIS_EXCEPTION_CLASS_AVX1:
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E1NF:
        return size;
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE4:
        break;
    default:
        return 1;
    }
    switch (run->insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return 1;
    default:
        return size == 16 ? 16 : 1;
    }
}

/* Some elements may be masked out, and then must not fault. */
static bool is_masked(const struct insn_run *run, const ZydisDecodedOperand *op)
{
    switch (run->insn.mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    default:
        return (op->actions &
                (ZYDIS_OPERAND_ACTION_CONDREAD | ZYDIS_OPERAND_ACTION_CONDWRITE)) ||
               run->insn.avx.mask.mode > ZYDIS_MASK_MODE_DISABLED;
    }
}

/* Bring the memory operand's bytes into the data page; @address is where they live. */
static int operand_load(struct insn_run *run, const ZydisDecodedOperand *op,
                        uint64_t *address)
{
    bool write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    uint8_t *data = run->engine->native->data;
    size_t size = op->size / 8;
    int result = insn_address(run, op, size, write ? INSN_WRITE : INSN_READ, address);

    if (result)
        return result;
    if (*address & (operand_alignment(run, size) - 1))
        return insn_fault_code(run, VECTOR_GP, 0);
    /* Operands that are only written are read too: an x87 store with an unmasked
     * exception and a masked vector store leave bytes as they are. */
    result = insn_read(run, *address, data, size);
    if (result == INSN_FAULTED && is_masked(run, op))
        return INSN_GIVE_UP;
    if (result == INSN_FAULTED && write && run->outcome->vector == VECTOR_PF)
        run->outcome->error_code |= 2; /* the access that faults is a write */
    return result;
}

/* The guest's own addresses instead of ours where the x87 recorded them. */
static void x87_pointers_fix(struct insn_run *run, const uint8_t *code, uint64_t operand)
{
    const struct insn_native *native = run->engine->native;
    uint8_t *area = native->guest_area;
    uint64_t cs = run->bits == 64 ? 0 : run->cpu->segment[INSN_CS].selector;

    if (load_le64(area + IMAGE_FIP) == (uint64_t)(uintptr_t)code) {
        store_le64(area + IMAGE_FIP, run->cpu->rip | cs << 32);
        store_le16(area + IMAGE_FOP, (uint16_t)((run->insn.opcode & 7) << 8 |
                                                run->bytes[run->insn.raw.modrm.offset]));
    }
    if (load_le64(area + IMAGE_FDP) == (uint64_t)(uintptr_t)native->data)
        store_le64(area + IMAGE_FDP, operand);
}

/* Which state components are switched around an instruction. VEX and EVEX instructions
 * write whole registers, so everything that the host has goes along. */
static uint64_t components_choose(const struct insn_run *run, enum insn_unit unit)
{
    uint64_t have = run->engine->native->components;

    if (unit == INSN_UNIT_INTEGER)
        return 0;
    if (uses_x87(run, unit))
        return have & (XSTATE_X87 | XSTATE_SSE);
    if (unit == INSN_UNIT_SSE)
        return have & XSTATE_SSE;
    return have & ~XSTATE_X87;
}

/* Fill the guest's XSAVE area from its image. Everything that could make XRSTOR fault is
 * put right: the header, and reserved bits of MXCSR. */
static int area_fill(struct insn_run *run, uint64_t components, uint32_t *mxcsr)
{
    const struct insn_native *native = run->engine->native;
    uint8_t *area = native->guest_area;

    if (run->image_size < native->area_size)
        return INSN_GIVE_UP;
    memcpy(area, run->image, native->area_size);
    memset(area + IMAGE_HEADER, 0, IMAGE_EXTENDED - IMAGE_HEADER);
    store_le64(area + IMAGE_HEADER, load_le64(run->image + IMAGE_HEADER) & components);
    /* All exceptions masked and no flags: what the instruction raises shows afterwards.
     */
    *mxcsr = load_le32(run->image + IMAGE_MXCSR) & run->engine->mxcsr_mask;
    store_le32(area + IMAGE_MXCSR, (*mxcsr | MXCSR_MASKS) & ~MXCSR_FLAGS);
    return INSN_CONTINUE;
}

/* SIMD exceptions that the guest has not masked; otherwise MXCSR as it is to be. An exact
 * tiny result with underflow unmasked is the one case that masked execution cannot see.
 */
static int mxcsr_settle(struct insn_run *run, uint32_t mxcsr)
{
    uint8_t *area = run->engine->native->guest_area;
    uint32_t raised = load_le32(area + IMAGE_MXCSR) & MXCSR_FLAGS;

    mxcsr |= raised;
    if (!(raised & ~(mxcsr >> MXCSR_MASK_SHIFT))) {
        store_le32(area + IMAGE_MXCSR, mxcsr);
        return INSN_CONTINUE;
    }
    store_le32(run->image + IMAGE_MXCSR, mxcsr);
    store_le64(run->image + IMAGE_HEADER,
               load_le64(run->image + IMAGE_HEADER) | XSTATE_SSE);
    run->cpu->fpu_changed = true;
    return insn_fault(run, run->cpu->cr4 & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD);
}

/* Take the guest's XSAVE area over into its image. */
static void area_commit(struct insn_run *run, uint64_t components)
{
    const struct insn_native *native = run->engine->native;
    uint8_t *area = native->guest_area;
    uint64_t before = load_le64(run->image + IMAGE_HEADER);
    uint64_t after = load_le64(area + IMAGE_HEADER);

    memcpy(run->image, area, IMAGE_HEADER);
    memcpy(run->image + IMAGE_EXTENDED, area + IMAGE_EXTENDED,
           native->area_size - IMAGE_EXTENDED);
    after = (before & ~components) | (after & components);
    if (load_le32(area + IMAGE_MXCSR) != MXCSR_DEFAULT)
        after |= XSTATE_SSE;
    store_le64(run->image + IMAGE_HEADER, after);
    run->cpu->fpu_changed = true;
}

/* Load the state that @components name, or find out why the instruction must not run. */
static int state_prepare(struct insn_run *run, enum insn_unit unit, uint64_t components,
                         uint32_t *mxcsr)
{
    int result;

    if (unit == INSN_UNIT_INTEGER)
        return INSN_CONTINUE;
    result = insn_fpu_check(run, unit);
    if (!result && (!components ||
                    (is_environment(run->insn.mnemonic) && !insn_protected(run->cpu))))
        result = INSN_GIVE_UP;
    if (!result)
        result = insn_image_load(run);
    if (!result && uses_x87(run, unit))
        result = x87_pending(run);
    return result ? result : area_fill(run, components, mxcsr);
}

static void registers_commit(struct insn_run *run, const struct insn_frame *frame,
                             int spare)
{
    struct insn_cpu *cpu = run->cpu;

    for (unsigned i = 0; i < INSN_GPR_COUNT; i++) {
        if (i != INSN_RSP && (int)i != spare)
            cpu->gpr[i] = frame->gpr[i];
    }
    if (spare >= 0)
        cpu->gpr[INSN_RSP] = frame->gpr[spare];
    insn_flags_set(run, RFLAGS_ARITHMETIC, frame->flags);
}

int insn_native_run_as(struct insn_run *run, enum insn_unit unit)
{
    struct insn_native *native = run->engine->native;
    struct insn_frame frame = { .guest_area = native->guest_area,
                                .host_area = native->host_area };
    struct insn_rewrite rewrite;
    uint64_t address = 0;
    uint32_t mxcsr = 0;
    int result = insn_rewrite(run, &rewrite);

    if (result)
        return result;
    frame.components = components_choose(run, unit);
    result = state_prepare(run, unit, frame.components, &mxcsr);
    if (!result && rewrite.memory)
        result = operand_load(run, rewrite.memory, &address);
    if (result)
        return result;

    memcpy(frame.gpr, run->cpu->gpr, sizeof(frame.gpr));
    if (rewrite.spare >= 0)
        frame.gpr[rewrite.spare] = run->cpu->gpr[INSN_RSP];
    frame.flags = (run->cpu->rflags & RFLAGS_ARITHMETIC) | 2;
    frame.code = insn_native_place(native, &rewrite);
    insn_native_enter(&frame);

    if (unit == INSN_UNIT_SSE || unit == INSN_UNIT_AVX || unit == INSN_UNIT_AVX512)
        result = mxcsr_settle(run, mxcsr);
    else if (frame.components)
        store_le32(native->guest_area + IMAGE_MXCSR, mxcsr);
    if (!result && rewrite.memory &&
        (rewrite.memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        result = insn_write(run, address, native->data, rewrite.memory->size / 8);
    if (result)
        return result;
    if (frame.components) {
        if (uses_x87(run, unit))
            x87_pointers_fix(run, frame.code, address);
        area_commit(run, frame.components);
    }
    registers_commit(run, &frame, rewrite.spare);
    return INSN_CONTINUE;
}

int insn_native_run(struct insn_run *run)
{
    bool present;
    enum insn_unit unit = insn_host_unit(run->engine, &run->insn, &present);

    if (unit == INSN_UNIT_NONE)
        return INSN_GIVE_UP;
    return present ? insn_native_run_as(run, unit) : insn_fault(run, VECTOR_UD);
}
