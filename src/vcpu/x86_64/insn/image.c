/* SPDX-License-Identifier: MIT */
/* The guest's FPU state as an XSAVE image, and when its instructions are available. */
#include <cpuid.h>
#include <string.h>

#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

#define MXCSR_MASK_DEFAULT 0xffbfu /* when FXSAVE leaves 0 (SDM volume 1, 11.6.6) */
#define FCW_DEFAULT        0x37f

static uint64_t host_xgetbv(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

void insn_x87_pointers_set(struct insn_engine *engine, enum insn_x87_pointers pointers)
{
    engine->x87_pointers = pointers;
}

enum insn_x87_pointers insn_x87_pointers_of(const char vendor[12], uint32_t extensions)
{
    if (memcmp(vendor, "AuthenticAMD", 12) != 0 &&
        memcmp(vendor, "HygonGenuine", 12) != 0)
        return INSN_X87_SAVED;
    return extensions & 1u << 2 ? INSN_X87_ZEROED : INSN_X87_KEPT;
}

static enum insn_x87_pointers host_x87_pointers(void)
{
    uint32_t eax, registers[3] = { 0 }, ecx, edx, extensions = 0;

    __get_cpuid(0, &eax, &registers[0], &registers[2], &registers[1]);
    __get_cpuid(0x80000008, &eax, &extensions, &ecx, &edx);
    return insn_x87_pointers_of((const char *)registers, extensions);
}

void insn_image_probe(struct insn_engine *engine)
{
    _Alignas(16) uint8_t fxsave[512] = { 0 };
    uint32_t eax, ebx, ecx, edx;

    engine->x87_pointers = host_x87_pointers();
    __asm__ volatile("fxsave64 %0" : "=m"(fxsave));
    engine->mxcsr_mask = load_le32(fxsave + IMAGE_MXCSR_MASK);
    if (!engine->mxcsr_mask)
        engine->mxcsr_mask = MXCSR_MASK_DEFAULT;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
        return;
    engine->host_xcr0 = host_xgetbv();
    for (unsigned i = 2; i < ARRAY_SIZE(engine->component); i++) {
        struct insn_component *component = &engine->component[i];

        if (!(engine->host_xcr0 >> i & 1) ||
            !__get_cpuid_count(0xd, i, &eax, &ebx, &ecx, &edx))
            continue;
        component->size = eax;
        component->offset = ebx;
        component->supervisor = ecx & 1;
        component->align64 = ecx & 2;
    }
}

/* Whether component @i lies within the image that was loaded. */
bool insn_image_holds(const struct insn_run *run, unsigned i)
{
    const struct insn_component *c = &run->engine->component[i];

    return i < 2 || (c->size && !c->supervisor && c->offset >= IMAGE_EXTENDED &&
                     (size_t)c->offset + c->size <= run->image_size);
}

uint64_t insn_image_used(const struct insn_run *run)
{
    return load_le64(run->image + IMAGE_HEADER);
}

/* Give component @i its initial configuration (SDM volume 1, 13.6). */
void insn_image_initialize(struct insn_run *run, unsigned i)
{
    const struct insn_component *c = &run->engine->component[i];

    if (i == 0) {
        memset(run->image, 0, IMAGE_MXCSR);
        store_le16(run->image + IMAGE_FCW, FCW_DEFAULT);
        memset(run->image + IMAGE_ST, 0, IMAGE_XMM - IMAGE_ST);
    } else if (i == 1) {
        memset(run->image + IMAGE_XMM, 0, IMAGE_LEGACY_END - IMAGE_XMM);
    } else if (insn_image_holds(run, i)) {
        memset(run->image + c->offset, 0, c->size);
    }
}

int insn_image_load(struct insn_run *run)
{
    void *image;
    uint64_t used;

    if (run->image)
        return INSN_CONTINUE;
    if (run->ops->fpu_load(run->context, &image, &run->image_size) ||
        run->image_size < IMAGE_EXTENDED)
        return INSN_GIVE_UP;
    run->image = image;
    used = insn_image_used(run);
    for (unsigned i = 0; i < ARRAY_SIZE(run->engine->component); i++) {
        if (!(used >> i & 1))
            insn_image_initialize(run, i);
    }
    return INSN_CONTINUE;
}

/* Note which components changed to what: @mask of them, of which @used are not initial.
 */
void insn_image_changed(struct insn_run *run, uint64_t mask, uint64_t used)
{
    used = (insn_image_used(run) & ~mask) | (used & mask);
    if (load_le32(run->image + IMAGE_MXCSR) != MXCSR_DEFAULT)
        used |= XSTATE_SSE; /* or KVM would not take MXCSR over */
    store_le64(run->image + IMAGE_HEADER, used);
    run->cpu->fpu_changed = true;
}

int insn_xcr0_load(struct insn_run *run)
{
    if (run->xcr0_loaded || !run->ops->xcr0_load)
        return INSN_CONTINUE;
    if (run->ops->xcr0_load(run->context, &run->cpu->xcr0))
        return INSN_GIVE_UP;
    run->xcr0_loaded = true;
    return INSN_CONTINUE;
}

int insn_fpu_check(struct insn_run *run, enum insn_unit unit)
{
    const struct insn_cpu *cpu = run->cpu;
    uint64_t needs = XSTATE_SSE | XSTATE_AVX;

    switch (unit) {
    case INSN_UNIT_X87:
        if (run->insn.mnemonic == ZYDIS_MNEMONIC_FWAIT)
            return (cpu->cr0 & CR0_TS) && (cpu->cr0 & CR0_MP) ? insn_fault(run, VECTOR_NM)
                                                              : INSN_CONTINUE;
        if (cpu->cr0 & CR0_EM)
            return insn_fault(run, run->insn.meta.isa_set == ZYDIS_ISA_SET_PENTIUMMMX
                                       ? VECTOR_UD
                                       : VECTOR_NM);
        break;
    case INSN_UNIT_SSE:
        if ((cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR))
            return insn_fault(run, VECTOR_UD);
        break;
    case INSN_UNIT_AVX512:
        needs |= XSTATE_AVX512;
        __attribute__((fallthrough));
    case INSN_UNIT_AVX:
        if (!insn_protected(cpu) || !(cpu->cr4 & CR4_OSXSAVE))
            return insn_fault(run, VECTOR_UD);
        if (insn_xcr0_load(run))
            return INSN_GIVE_UP;
        if ((cpu->xcr0 & needs) != needs)
            return insn_fault(run, VECTOR_UD);
        break;
    default:
        return INSN_CONTINUE;
    }
    return cpu->cr0 & CR0_TS ? insn_fault(run, VECTOR_NM) : INSN_CONTINUE;
}
