/* SPDX-License-Identifier: MIT */
/* Which instructions may run natively, by ISA set, and whether the host's processor has
 * them. */
#include <cpuid.h>

#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

enum feature {
    FEATURE_FPU,
    FEATURE_CMOV,
    FEATURE_MMX,
    FEATURE_SSE,
    FEATURE_SSE2,
    FEATURE_SSE3,
    FEATURE_SSSE3,
    FEATURE_SSE4_1,
    FEATURE_SSE4_2,
    FEATURE_POPCNT,
    FEATURE_MOVBE,
    FEATURE_AES,
    FEATURE_PCLMULQDQ,
    FEATURE_AVX,
    FEATURE_F16C,
    FEATURE_FMA,
    FEATURE_RDRAND,
    FEATURE_LZCNT,
    FEATURE_SSE4A,
    FEATURE_BMI1,
    FEATURE_BMI2,
    FEATURE_AVX2,
    FEATURE_ADX,
    FEATURE_RDSEED,
    FEATURE_SHA,
    FEATURE_GFNI,
    FEATURE_VAES,
    FEATURE_VPCLMULQDQ,
    FEATURE_AVX_VNNI,
    FEATURE_AVX512F,
    FEATURE_AVX512DQ,
    FEATURE_AVX512IFMA,
    FEATURE_AVX512CD,
    FEATURE_AVX512BW,
    FEATURE_AVX512VL,
    FEATURE_AVX512VBMI,
    FEATURE_AVX512VBMI2,
    FEATURE_AVX512VNNI,
    FEATURE_AVX512BITALG,
    FEATURE_AVX512VPOPCNTDQ,
};

enum cpuid_register {
    EAX,
    EBX,
    ECX,
    EDX,
};

static const struct {
    uint32_t leaf;
    uint32_t subleaf;
    uint8_t reg;
    uint8_t bit;
} feature_bits[] = {
    [FEATURE_FPU] = { 1, 0, EDX, 0 },
    [FEATURE_CMOV] = { 1, 0, EDX, 15 },
    [FEATURE_MMX] = { 1, 0, EDX, 23 },
    [FEATURE_SSE] = { 1, 0, EDX, 25 },
    [FEATURE_SSE2] = { 1, 0, EDX, 26 },
    [FEATURE_SSE3] = { 1, 0, ECX, 0 },
    [FEATURE_SSSE3] = { 1, 0, ECX, 9 },
    [FEATURE_SSE4_1] = { 1, 0, ECX, 19 },
    [FEATURE_SSE4_2] = { 1, 0, ECX, 20 },
    [FEATURE_POPCNT] = { 1, 0, ECX, 23 },
    [FEATURE_MOVBE] = { 1, 0, ECX, 22 },
    [FEATURE_AES] = { 1, 0, ECX, 25 },
    [FEATURE_PCLMULQDQ] = { 1, 0, ECX, 1 },
    [FEATURE_AVX] = { 1, 0, ECX, 28 },
    [FEATURE_F16C] = { 1, 0, ECX, 29 },
    [FEATURE_FMA] = { 1, 0, ECX, 12 },
    [FEATURE_RDRAND] = { 1, 0, ECX, 30 },
    [FEATURE_LZCNT] = { 0x80000001, 0, ECX, 5 },
    [FEATURE_SSE4A] = { 0x80000001, 0, ECX, 6 },
    [FEATURE_BMI1] = { 7, 0, EBX, 3 },
    [FEATURE_BMI2] = { 7, 0, EBX, 8 },
    [FEATURE_AVX2] = { 7, 0, EBX, 5 },
    [FEATURE_ADX] = { 7, 0, EBX, 19 },
    [FEATURE_RDSEED] = { 7, 0, EBX, 18 },
    [FEATURE_SHA] = { 7, 0, EBX, 29 },
    [FEATURE_GFNI] = { 7, 0, ECX, 8 },
    [FEATURE_VAES] = { 7, 0, ECX, 9 },
    [FEATURE_VPCLMULQDQ] = { 7, 0, ECX, 10 },
    [FEATURE_AVX_VNNI] = { 7, 1, EAX, 4 },
    [FEATURE_AVX512F] = { 7, 0, EBX, 16 },
    [FEATURE_AVX512DQ] = { 7, 0, EBX, 17 },
    [FEATURE_AVX512IFMA] = { 7, 0, EBX, 21 },
    [FEATURE_AVX512CD] = { 7, 0, EBX, 28 },
    [FEATURE_AVX512BW] = { 7, 0, EBX, 30 },
    [FEATURE_AVX512VL] = { 7, 0, EBX, 31 },
    [FEATURE_AVX512VBMI] = { 7, 0, ECX, 1 },
    [FEATURE_AVX512VBMI2] = { 7, 0, ECX, 6 },
    [FEATURE_AVX512VNNI] = { 7, 0, ECX, 11 },
    [FEATURE_AVX512BITALG] = { 7, 0, ECX, 12 },
    [FEATURE_AVX512VPOPCNTDQ] = { 7, 0, ECX, 14 },
};

_Static_assert(ARRAY_SIZE(feature_bits) <= 64, "features are a 64-bit mask");

#define ONE(f)         (UINT64_C(1) << FEATURE_##f)
#define TWO(f, g)      (ONE(f) | ONE(g))
#define THREE(f, g, h) (ONE(f) | ONE(g) | ONE(h))

#define ISA(set, unit, needs) [ZYDIS_ISA_SET_##set] = { INSN_UNIT_##unit, needs }
/* An AVX-512 extension in its 512-bit form and, with VL, the narrower ones. */
#define ISA_512(set, f)                                                                  \
    ISA(set##_512, AVX512, TWO(AVX512F, f)),                                             \
        ISA(set##_256, AVX512, THREE(AVX512F, f, AVX512VL)),                             \
        ISA(set##_128, AVX512, THREE(AVX512F, f, AVX512VL))

/* Only sets whose instructions read and write nothing but registers, flags and an
 * explicit memory operand are here (insn_rewrite() checks each instruction once more). */
static const struct {
    uint8_t unit;
    uint64_t needs;
} isa_sets[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    ISA(POPCNT, INTEGER, ONE(POPCNT)),
    ISA(LZCNT, INTEGER, ONE(LZCNT)),
    ISA(BMI1, INTEGER, ONE(BMI1)),
    ISA(BMI2, INTEGER, ONE(BMI2)),
    ISA(ADOX_ADCX, INTEGER, ONE(ADX)),
    ISA(MOVBE, INTEGER, ONE(MOVBE)),
    ISA(RDRAND, INTEGER, ONE(RDRAND)),
    ISA(RDSEED, INTEGER, ONE(RDSEED)),
    ISA(X87, X87, ONE(FPU)),
    ISA(FCMOV, X87, TWO(FPU, CMOV)),
    ISA(SSE3X87, X87, TWO(FPU, SSE3)),
    ISA(PENTIUMMMX, X87, ONE(MMX)),
    ISA(SSE, SSE, ONE(SSE)),
    ISA(SSE2, SSE, ONE(SSE2)),
    ISA(SSE2MMX, SSE, ONE(SSE2)),
    ISA(SSE3, SSE, ONE(SSE3)),
    ISA(SSSE3, SSE, ONE(SSSE3)),
    ISA(SSSE3MMX, SSE, ONE(SSSE3)),
    ISA(SSE4, SSE, ONE(SSE4_1)),
    ISA(SSE42, SSE, ONE(SSE4_2)),
    ISA(SSE4A, SSE, ONE(SSE4A)),
    ISA(AES, SSE, ONE(AES)),
    ISA(PCLMULQDQ, SSE, ONE(PCLMULQDQ)),
    ISA(SHA, SSE, ONE(SHA)),
    ISA(GFNI, SSE, ONE(GFNI)),
    ISA(AVX, AVX, ONE(AVX)),
    ISA(AVX2, AVX, ONE(AVX2)),
    ISA(F16C, AVX, TWO(AVX, F16C)),
    ISA(FMA, AVX, TWO(AVX, FMA)),
    ISA(AVXAES, AVX, TWO(AVX, AES)),
    ISA(VAES, AVX, TWO(AVX, VAES)),
    ISA(VPCLMULQDQ, AVX, TWO(AVX, VPCLMULQDQ)),
    ISA(AVX_GFNI, AVX, TWO(AVX, GFNI)),
    ISA(AVX_VNNI, AVX, ONE(AVX_VNNI)),
    ISA_512(AVX512F, AVX512F),
    ISA(AVX512F_128N, AVX512, ONE(AVX512F)),
    ISA(AVX512F_SCALAR, AVX512, ONE(AVX512F)),
    ISA(AVX512F_KOP, AVX512, ONE(AVX512F)),
    ISA_512(AVX512BW, AVX512BW),
    ISA(AVX512BW_128N, AVX512, ONE(AVX512BW)),
    ISA(AVX512BW_KOP, AVX512, ONE(AVX512BW)),
    ISA_512(AVX512DQ, AVX512DQ),
    ISA(AVX512DQ_128N, AVX512, ONE(AVX512DQ)),
    ISA(AVX512DQ_SCALAR, AVX512, ONE(AVX512DQ)),
    ISA(AVX512DQ_KOP, AVX512, ONE(AVX512DQ)),
    ISA_512(AVX512CD, AVX512CD),
    ISA_512(AVX512_IFMA, AVX512IFMA),
    ISA_512(AVX512_VBMI, AVX512VBMI),
    ISA_512(AVX512_VBMI2, AVX512VBMI2),
    ISA_512(AVX512_VNNI, AVX512VNNI),
    ISA_512(AVX512_BITALG, AVX512BITALG),
    ISA_512(AVX512_VPOPCNTDQ, AVX512VPOPCNTDQ),
    ISA_512(AVX512_VAES, VAES),
    ISA_512(AVX512_GFNI, GFNI),
    ISA_512(AVX512_VPCLMULQDQ, VPCLMULQDQ),
};

uint64_t insn_host_features(void)
{
    uint64_t features = 0;
    uint32_t leaf = 0;
    uint32_t subleaf = 0;
    uint32_t r[4] = { 0 };

    for (size_t i = 0; i < ARRAY_SIZE(feature_bits); i++) {
        /* CPUID exits when umbra itself runs in a VM: ask once for entries in a row. */
        if (feature_bits[i].leaf != leaf || feature_bits[i].subleaf != subleaf) {
            leaf = feature_bits[i].leaf;
            subleaf = feature_bits[i].subleaf;
            if (!__get_cpuid_count(leaf, subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]))
                memset(r, 0, sizeof(r));
        }
        if (r[feature_bits[i].reg] >> feature_bits[i].bit & 1)
            features |= UINT64_C(1) << i;
    }
    return features;
}

enum insn_unit insn_host_unit(const struct insn_engine *engine,
                              const ZydisDecodedInstruction *insn, bool *present)
{
    uint64_t needs = isa_sets[insn->meta.isa_set].needs;

    if (insn->meta.isa_set == ZYDIS_ISA_SET_PPRO &&
        insn->meta.isa_ext == ZYDIS_ISA_EXT_X87) { /* FCOMI and its kin */
        *present = engine->host_features & ONE(FPU);
        return INSN_UNIT_X87;
    }
    *present = (engine->host_features & needs) == needs;
    if (insn->mnemonic == ZYDIS_MNEMONIC_CRC32 || insn->mnemonic == ZYDIS_MNEMONIC_MOVNTI)
        return INSN_UNIT_INTEGER; /* of an SSE set, but without SSE state */
    return (enum insn_unit)isa_sets[insn->meta.isa_set].unit;
}
