/* SPDX-License-Identifier: MIT */
/* Completing the instructions that move FPU state as a whole. */
#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

#define MSR_IA32_XSS 0xda0

#define XCOMP_COMPACT (UINT64_C(1) << 63)
#define XSTATE_FP     (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX)
#define XSTATE_BNDS   UINT64_C(0x18)
#define XSTATE_TILES  UINT64_C(0x60000)

#define MXCSR_SIZE 8 /* MXCSR and its mask */

/* How much of component @i this mode sees: outside 64-bit mode registers 8 and up stay.
 */
static size_t component_span(const struct insn_run *run, unsigned i)
{
    size_t size = run->engine->component[i].size;

    if (run->bits == 64)
        return size;
    return i == 7 ? 0 : i == 2 || i == 6 ? size / 2 : size;
}

static size_t xmm_span(const struct insn_run *run)
{
    return run->bits == 64 ? IMAGE_LEGACY_END - IMAGE_XMM
                           : (IMAGE_LEGACY_END - IMAGE_XMM) / 2;
}

/* Whether FIP and FDP are 64 bits wide in memory. */
static bool is_wide(const struct insn_run *run)
{
    switch (run->insn.mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS64:
        return true;
    default:
        return false;
    }
}

/* Whether the x87 state in @legacy has an exception pending that is not masked: the
 * processor computes FSW.ES from these, whatever memory says. */
static bool x87_pending(const uint8_t *legacy)
{
    return (load_le16(legacy + IMAGE_FSW) & ~load_le16(legacy + IMAGE_FCW) & 0x3f) != 0;
}

/* Write the x87 part of the legacy region to @address. */
static int legacy_x87_write(struct insn_run *run, uint64_t address)
{
    uint8_t control[IMAGE_MXCSR];
    bool pointers =
        run->engine->x87_pointers == INSN_X87_SAVED || x87_pending(run->image);
    int result;

    memcpy(control, run->image, sizeof(control));
    if (!pointers)
        memset(control + IMAGE_FOP, 0, IMAGE_MXCSR - IMAGE_FOP);
    if (!is_wide(run)) { /* selectors read as zero: FCS and FDS are deprecated */
        memset(control + IMAGE_FIP + 4, 0, 4);
        memset(control + IMAGE_FDP + 4, 0, 4);
    }
    result = insn_write(run, address, control,
                        pointers || run->engine->x87_pointers == INSN_X87_ZEROED
                            ? sizeof(control)
                            : IMAGE_FOP);
    if (result)
        return result;
    return insn_write(run, address + IMAGE_ST, run->image + IMAGE_ST,
                      IMAGE_XMM - IMAGE_ST);
}

static int legacy_mxcsr_write(struct insn_run *run, uint64_t address)
{
    uint8_t mxcsr[MXCSR_SIZE];

    store_le32(mxcsr, load_le32(run->image + IMAGE_MXCSR));
    store_le32(mxcsr + 4, run->engine->mxcsr_mask);
    return insn_write(run, address + IMAGE_MXCSR, mxcsr, sizeof(mxcsr));
}

static int legacy_xmm_write(struct insn_run *run, uint64_t address)
{
    return insn_write(run, address + IMAGE_XMM, run->image + IMAGE_XMM, xmm_span(run));
}

/* Take the x87 part over from the legacy region @legacy. */
static void legacy_x87_load(struct insn_run *run, const uint8_t *legacy)
{
    bool pointers = run->engine->x87_pointers != INSN_X87_KEPT || x87_pending(legacy);

    memcpy(run->image, legacy, pointers ? IMAGE_MXCSR : IMAGE_FOP);
    if (pointers && !is_wide(run)) {
        memset(run->image + IMAGE_FIP + 4, 0, 4);
        memset(run->image + IMAGE_FDP + 4, 0, 4);
    }
    memset(run->image + IMAGE_ST, 0, IMAGE_XMM - IMAGE_ST);
    for (unsigned i = IMAGE_ST; i < IMAGE_XMM; i += 16) /* 80 bits each */
        memcpy(run->image + i, legacy + i, 10);
}

static int mxcsr_load(struct insn_run *run, uint32_t mxcsr)
{
    if (mxcsr & ~run->engine->mxcsr_mask)
        return insn_fault_code(run, VECTOR_GP, 0);
    store_le32(run->image + IMAGE_MXCSR, mxcsr);
    return INSN_CONTINUE;
}

/* The operand's address for a state area of @size bytes, with the checks that come first.
 */
static int area_address(struct insn_run *run, size_t size, size_t alignment,
                        enum insn_access access, uint64_t *address)
{
    int result = insn_address(run, &run->operand[0], size, access, address);

    if (!result && (*address & (alignment - 1)))
        result = insn_fault_code(run, VECTOR_GP, 0);
    return result ? result : insn_image_load(run);
}

static int fxsave_check(struct insn_run *run)
{
    if (run->cpu->cr0 & CR0_EM)
        return insn_fault(run, VECTOR_UD);
    return run->cpu->cr0 & CR0_TS ? insn_fault(run, VECTOR_NM) : INSN_CONTINUE;
}

int insn_fxsave(struct insn_run *run)
{
    uint64_t address;
    int result = fxsave_check(run);

    if (!result)
        result = area_address(run, 512, 16, INSN_WRITE, &address);
    if (!result)
        result = legacy_x87_write(run, address);
    if (!result)
        result = legacy_mxcsr_write(run, address);
    if (!result)
        result = legacy_xmm_write(run, address);
    return result;
}

int insn_fxrstor(struct insn_run *run)
{
    uint8_t legacy[IMAGE_LEGACY_END];
    uint64_t address;
    int result = fxsave_check(run);

    if (!result)
        result = area_address(run, 512, 16, INSN_READ, &address);
    if (!result)
        result = insn_read(run, address, legacy, sizeof(legacy));
    if (!result)
        result = mxcsr_load(run, load_le32(legacy + IMAGE_MXCSR));
    if (result)
        return result;
    legacy_x87_load(run, legacy);
    memcpy(run->image + IMAGE_XMM, legacy + IMAGE_XMM, xmm_span(run));
    insn_image_changed(run, XSTATE_X87 | XSTATE_SSE, XSTATE_X87 | XSTATE_SSE);
    return INSN_CONTINUE;
}

/* What an XSAVE-family instruction is to do. */
struct xsave_plan {
    uint64_t address;
    uint64_t components; /* RFBM: requested and enabled */
    bool supervisor;     /* XSAVES, XRSTORS */
    bool compact;        /* XSAVEC, XSAVES */
    bool optimize;       /* components in their initial configuration are not written */
};

static int xsave_plan(struct insn_run *run, enum insn_access access,
                      struct xsave_plan *plan)
{
    const struct insn_cpu *cpu = run->cpu;
    uint64_t requested =
        (cpu->gpr[INSN_RDX] & 0xffffffff) << 32 | (cpu->gpr[INSN_RAX] & 0xffffffff);
    uint64_t xss = 0;
    int result;

    if (!(cpu->cr4 & CR4_OSXSAVE))
        return insn_fault(run, VECTOR_UD);
    if (cpu->cr0 & CR0_TS)
        return insn_fault(run, VECTOR_NM);
    if (plan->supervisor && cpu->cpl)
        return insn_fault_code(run, VECTOR_GP, 0);
    if (insn_xcr0_load(run))
        return INSN_GIVE_UP;
    if (plan->supervisor && run->ops->msr_read(run->context, MSR_IA32_XSS, &xss))
        xss = 0;
    if (requested & xss) /* supervisor state is not in the image */
        return INSN_GIVE_UP;
    plan->components = requested & cpu->xcr0;
    result = area_address(run, IMAGE_EXTENDED, 64, access, &plan->address);
    if (result)
        return result;
    for (unsigned i = 2; i < ARRAY_SIZE(run->engine->component); i++) {
        if ((plan->components >> i & 1) && !insn_image_holds(run, i))
            return INSN_GIVE_UP;
    }
    return INSN_CONTINUE;
}

/* Offset of component @i in an area whose compacted format holds @components, or 0 in
 * @components for the standard form. */
static size_t component_offset(const struct insn_run *run, unsigned i,
                               uint64_t components)
{
    const struct insn_component *component = run->engine->component;
    size_t offset = IMAGE_EXTENDED;

    if (!(components & XCOMP_COMPACT))
        return component[i].offset;
    for (unsigned k = 2; k <= i; k++) {
        if (!(components >> k & 1))
            continue;
        if (component[k].align64)
            offset = align_up(offset, 64);
        if (k < i)
            offset += component[k].size;
    }
    return offset;
}

static int xsave_extended_write(struct insn_run *run, const struct xsave_plan *plan,
                                uint64_t written, uint64_t format)
{
    for (unsigned i = 2; i < ARRAY_SIZE(run->engine->component); i++) {
        size_t offset = component_offset(run, i, format);
        size_t span = component_span(run, i);
        int result;

        if (!(written >> i & 1) || !span)
            continue;
        result = insn_write(run, plan->address + offset,
                            run->image + run->engine->component[i].offset, span);
        if (result)
            return result;
    }
    return INSN_CONTINUE;
}

static int xsave_header_write(struct insn_run *run, const struct xsave_plan *plan,
                              uint64_t used, uint64_t format)
{
    uint8_t header[16];
    int result;

    if (plan->compact) {
        store_le64(header, used);
        store_le64(header + 8, format);
        return insn_write(run, plan->address + IMAGE_HEADER, header, 16);
    }
    result = insn_read(run, plan->address + IMAGE_HEADER, header, 8);
    if (result)
        return result;
    store_le64(header, (load_le64(header) & ~plan->components) | used);
    return insn_write(run, plan->address + IMAGE_HEADER, header, 8);
}

int insn_xsave(struct insn_run *run)
{
    ZydisMnemonic mnemonic = run->insn.mnemonic;
    struct xsave_plan plan = {
        .supervisor =
            mnemonic == ZYDIS_MNEMONIC_XSAVES || mnemonic == ZYDIS_MNEMONIC_XSAVES64,
        .optimize =
            mnemonic != ZYDIS_MNEMONIC_XSAVE && mnemonic != ZYDIS_MNEMONIC_XSAVE64,
    };
    uint64_t used, written, format;
    bool mxcsr;
    int result;

    plan.compact = plan.supervisor || mnemonic == ZYDIS_MNEMONIC_XSAVEC ||
                   mnemonic == ZYDIS_MNEMONIC_XSAVEC64;
    result = xsave_plan(run, INSN_WRITE, &plan);
    if (result)
        return result;
    used = insn_image_used(run) & plan.components;
    written = plan.optimize ? used : plan.components;
    format = plan.compact ? XCOMP_COMPACT | plan.components : 0;
    /* The compacted form keeps MXCSR with SSE; the standard one writes it for AVX too. */
    mxcsr =
        plan.compact ? written & XSTATE_SSE : plan.components & (XSTATE_SSE | XSTATE_AVX);
    if (written & XSTATE_X87)
        result = legacy_x87_write(run, plan.address);
    if (!result && mxcsr)
        result = legacy_mxcsr_write(run, plan.address);
    if (!result && (written & XSTATE_SSE))
        result = legacy_xmm_write(run, plan.address);
    if (!result)
        result = xsave_extended_write(run, &plan, written, format);
    return result ? result : xsave_header_write(run, &plan, used, format);
}

/* The header's rules (SDM volume 1, 13.8.1 and 13.12); a breach is a #GP. */
static bool xrstor_header_valid(const struct insn_run *run, const struct xsave_plan *plan,
                                const uint8_t header[64])
{
    uint64_t used = load_le64(header);
    uint64_t format = load_le64(header + 8);
    uint64_t rest = 0;

    if (!(format & XCOMP_COMPACT))
        return !plan->supervisor && !(used & ~run->cpu->xcr0) && !format &&
               !load_le64(header + 16);
    for (unsigned i = 16; i < 64; i += 8)
        rest |= load_le64(header + i);
    return !(format & ~XCOMP_COMPACT & ~run->cpu->xcr0) && !(used & ~format) &&
           !(used & XCOMP_COMPACT) && !rest;
}

static int xrstor_legacy(struct insn_run *run, const struct xsave_plan *plan,
                         const uint8_t *legacy, uint64_t used, bool compact)
{
    uint64_t from_memory = plan->components & used;
    uint64_t with_mxcsr = compact ? XSTATE_SSE : XSTATE_SSE | XSTATE_AVX;
    int result = INSN_CONTINUE;

    if (plan->components & with_mxcsr)
        result = mxcsr_load(run, compact && !(used & XSTATE_SSE)
                                     ? MXCSR_DEFAULT
                                     : load_le32(legacy + IMAGE_MXCSR));
    if (result)
        return result;
    if (from_memory & XSTATE_X87)
        legacy_x87_load(run, legacy);
    else if (plan->components & XSTATE_X87)
        insn_image_initialize(run, 0);
    if (from_memory & XSTATE_SSE)
        memcpy(run->image + IMAGE_XMM, legacy + IMAGE_XMM, xmm_span(run));
    else if (plan->components & XSTATE_SSE)
        memset(run->image + IMAGE_XMM, 0, xmm_span(run));
    return INSN_CONTINUE;
}

int insn_xrstor(struct insn_run *run)
{
    struct xsave_plan plan = { .supervisor =
                                   run->insn.mnemonic == ZYDIS_MNEMONIC_XRSTORS ||
                                   run->insn.mnemonic == ZYDIS_MNEMONIC_XRSTORS64 };
    uint8_t area[IMAGE_EXTENDED];
    uint64_t used, format;
    int result = xsave_plan(run, INSN_READ, &plan);

    if (!result)
        result = insn_read(run, plan.address, area, sizeof(area));
    if (result)
        return result;
    if (!xrstor_header_valid(run, &plan, area + IMAGE_HEADER))
        return insn_fault_code(run, VECTOR_GP, 0);
    used = load_le64(area + IMAGE_HEADER);
    format = load_le64(area + IMAGE_HEADER + 8);
    result = xrstor_legacy(run, &plan, area, used, format & XCOMP_COMPACT);
    for (unsigned i = 2; !result && i < ARRAY_SIZE(run->engine->component); i++) {
        uint8_t *to = run->image + run->engine->component[i].offset;
        size_t span = component_span(run, i);

        if (!(plan.components >> i & 1) || !span)
            continue;
        if (used >> i & 1)
            result =
                insn_read(run, plan.address + component_offset(run, i, format), to, span);
        else
            memset(to, 0, span);
    }
    if (result)
        return result;
    /* Outside 64-bit mode upper registers stay, and may be in use. */
    if (run->bits != 64)
        used |= insn_image_used(run);
    insn_image_changed(run, plan.components, used);
    return INSN_CONTINUE;
}

int insn_xgetbv(struct insn_run *run)
{
    struct insn_cpu *cpu = run->cpu;
    uint32_t index = (uint32_t)cpu->gpr[INSN_RCX];
    uint64_t value;
    int result;

    if (!(cpu->cr4 & CR4_OSXSAVE))
        return insn_fault(run, VECTOR_UD);
    if (index > 1)
        return insn_fault_code(run, VECTOR_GP, 0);
    result = insn_xcr0_load(run);
    if (result)
        return result;
    value = cpu->xcr0;
    if (index == 1) { /* XCR0 and XINUSE */
        result = insn_image_load(run);
        if (result)
            return result;
        value &= insn_image_used(run);
    }
    cpu->gpr[INSN_RAX] = value & 0xffffffff;
    cpu->gpr[INSN_RDX] = value >> 32;
    return INSN_CONTINUE;
}

/* SDM volume 1, 13.3: which values XCR0 may have. */
static bool xcr0_valid(const struct insn_engine *engine, uint64_t value)
{
    uint64_t avx512 = value & XSTATE_AVX512;
    uint64_t bounds = value & XSTATE_BNDS;
    uint64_t tiles = value & XSTATE_TILES;

    if (!(value & XSTATE_X87) || (value & ~engine->host_xcr0))
        return false;
    if ((value & XSTATE_AVX) && !(value & XSTATE_SSE))
        return false;
    if (avx512 && (avx512 != XSTATE_AVX512 || (value & XSTATE_FP) != XSTATE_FP))
        return false;
    return (!bounds || bounds == XSTATE_BNDS) && (!tiles || tiles == XSTATE_TILES);
}

int insn_xsetbv(struct insn_run *run)
{
    struct insn_cpu *cpu = run->cpu;
    uint64_t value =
        (cpu->gpr[INSN_RDX] & 0xffffffff) << 32 | (cpu->gpr[INSN_RAX] & 0xffffffff);

    if (!(cpu->cr4 & CR4_OSXSAVE))
        return insn_fault(run, VECTOR_UD);
    if (cpu->cpl || (uint32_t)cpu->gpr[INSN_RCX] || !xcr0_valid(run->engine, value))
        return insn_fault_code(run, VECTOR_GP, 0);
    cpu->xcr0 = value;
    cpu->xcr0_changed = true;
    return INSN_CONTINUE;
}

int insn_mxcsr(struct insn_run *run)
{
    bool load = run->insn.mnemonic == ZYDIS_MNEMONIC_LDMXCSR ||
                run->insn.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR;
    bool vex = run->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    uint8_t value[4];
    uint64_t address;
    int result = insn_fpu_check(run, vex ? INSN_UNIT_AVX : INSN_UNIT_SSE);

    if (!result)
        result = area_address(run, 4, 1, load ? INSN_READ : INSN_WRITE, &address);
    if (result)
        return result;
    if (!load) {
        store_le32(value, load_le32(run->image + IMAGE_MXCSR));
        return insn_write(run, address, value, sizeof(value));
    }
    result = insn_read(run, address, value, sizeof(value));
    if (!result)
        result = mxcsr_load(run, load_le32(value));
    if (result)
        return result;
    insn_image_changed(run, 0, 0);
    return INSN_CONTINUE;
}
