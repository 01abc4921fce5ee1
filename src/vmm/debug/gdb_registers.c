/* SPDX-License-Identifier: MIT */
/* The register set that gdb sees: core, x87, SSE, AVX, segment bases, control registers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "vcpu/x86_64/state.h"
#include "vmm/debug/gdb.h"

/* Where a register lives. */
enum gdb_source { GDB_REGS, GDB_SREGS, GDB_XSAVE };

struct gdb_register {
    uint16_t first, count; /* gdb's numbers */
    uint8_t bytes;         /* as gdb sees it */
    uint8_t stored;        /* as it is stored, the rest reads as zero */
    uint8_t source;
    uint16_t offset, stride;
};

#define REG(number, member)                                                              \
    {                                                                                    \
        number, 1, 8, 8, GDB_REGS, offsetof(struct kvm_regs, member), 0                  \
    }
#define SEG(number, member)                                                              \
    {                                                                                    \
        number, 1, 4, 2, GDB_SREGS, offsetof(struct kvm_sregs, member.selector), 0       \
    }
#define SYS(number, member)                                                              \
    {                                                                                    \
        number, 1, 8, 8, GDB_SREGS, offsetof(struct kvm_sregs, member), 0                \
    }

/* The legacy area of XSAVE is FXSAVE's (Intel SDM vol. 1, 10.5.1 and 13.4). */
static const struct gdb_register registers[] = {
    REG(0, rax),
    REG(1, rbx),
    REG(2, rcx),
    REG(3, rdx),
    REG(4, rsi),
    REG(5, rdi),
    REG(6, rbp),
    REG(7, rsp),
    REG(8, r8),
    REG(9, r9),
    REG(10, r10),
    REG(11, r11),
    REG(12, r12),
    REG(13, r13),
    REG(14, r14),
    REG(15, r15),
    REG(16, rip),
    { 17, 1, 4, 4, GDB_REGS, offsetof(struct kvm_regs, rflags), 0 },
    SEG(18, cs),
    SEG(19, ss),
    SEG(20, ds),
    SEG(21, es),
    SEG(22, fs),
    SEG(23, gs),
    { 24, 8, 10, 10, GDB_XSAVE, 32, 16 },   /* st0..st7 */
    { 32, 1, 4, 2, GDB_XSAVE, 0, 0 },       /* fctrl */
    { 33, 1, 4, 2, GDB_XSAVE, 2, 0 },       /* fstat */
    { 34, 1, 4, 1, GDB_XSAVE, 4, 0 },       /* ftag, abridged */
    { 35, 1, 4, 2, GDB_XSAVE, 12, 0 },      /* fiseg */
    { 36, 1, 4, 4, GDB_XSAVE, 8, 0 },       /* fioff */
    { 37, 1, 4, 2, GDB_XSAVE, 20, 0 },      /* foseg */
    { 38, 1, 4, 4, GDB_XSAVE, 16, 0 },      /* fooff */
    { 39, 1, 4, 2, GDB_XSAVE, 6, 0 },       /* fop */
    { 40, 16, 16, 16, GDB_XSAVE, 160, 16 }, /* xmm0..xmm15 */
    { 56, 1, 4, 4, GDB_XSAVE, 24, 0 },      /* mxcsr */
    SYS(57, fs.base),
    SYS(58, gs.base),
    SYS(59, cr0),
    SYS(60, cr2),
    SYS(61, cr3),
    SYS(62, cr4),
    SYS(63, cr8),
    SYS(64, efer),
    { 65, 16, 16, 16, GDB_XSAVE, 576, 16 }, /* ymm0h..ymm15h */
};

static const char target_xml[] =
    "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
    "<architecture>i386:x86-64</architecture>"
    "<feature name=\"org.gnu.gdb.i386.core\">"
    "<flags id=\"i386_eflags\" size=\"4\">"
    "<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"PF\" start=\"2\" end=\"2\"/>"
    "<field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/>"
    "<field name=\"SF\" start=\"7\" end=\"7\"/><field name=\"TF\" start=\"8\" end=\"8\"/>"
    "<field name=\"IF\" start=\"9\" end=\"9\"/><field name=\"DF\" start=\"10\" "
    "end=\"10\"/>"
    "<field name=\"OF\" start=\"11\" end=\"11\"/></flags>"
#define R64(name) "<reg name=\"" name "\" bitsize=\"64\" type=\"int64\"/>"
#define R32(name) "<reg name=\"" name "\" bitsize=\"32\" type=\"int32\"/>"
#define RFP(name) "<reg name=\"" name "\" bitsize=\"80\" type=\"i387_ext\"/>"
#define RFC(name) "<reg name=\"" name "\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
    R64("rax") R64("rbx") R64("rcx") R64("rdx") R64("rsi") R64(
        "rdi") "<reg name=\"rbp\" bitsize=\"64\" type=\"data_ptr\"/>"
               "<reg name=\"rsp\" bitsize=\"64\" type=\"data_ptr\"/>" R64("r8") R64("r9")
                   R64("r10") R64("r11") R64("r12") R64("r13") R64("r14") R64(
                       "r15") "<reg name=\"rip\" bitsize=\"64\" type=\"code_ptr\"/>"
                              "<reg name=\"eflags\" bitsize=\"32\" "
                              "type=\"i386_eflags\"/>" R32("cs") R32("ss") R32("ds")
                                  R32("es") R32("fs") R32("gs") RFP("st0") RFP("st1") RFP(
                                      "st2") RFP("st3") RFP("st4") RFP("st5") RFP("st6")
                                      RFP("st7") RFC("fctrl") RFC("fstat") RFC(
                                          "ftag") RFC("fiseg") RFC("fioff") RFC("foseg")
                                          RFC("fooff") RFC(
                                              "fop") "</feature><feature "
                                                     "name=\"org.gnu.gdb.i386.sse\">"
                                                     "<vector id=\"v4f\" "
                                                     "type=\"ieee_single\" count=\"4\"/>"
                                                     "<vector id=\"v2d\" "
                                                     "type=\"ieee_double\" count=\"2\"/>"
                                                     "<vector id=\"v16i8\" type=\"int8\" "
                                                     "count=\"16\"/>"
                                                     "<vector id=\"v8i16\" "
                                                     "type=\"int16\" count=\"8\"/>"
                                                     "<vector id=\"v4i32\" "
                                                     "type=\"int32\" count=\"4\"/>"
                                                     "<vector id=\"v2i64\" "
                                                     "type=\"int64\" count=\"2\"/>"
                                                     "<union id=\"vec128\"><field "
                                                     "name=\"v4_float\" type=\"v4f\"/>"
                                                     "<field name=\"v2_double\" "
                                                     "type=\"v2d\"/><field "
                                                     "name=\"v16_int8\" type=\"v16i8\"/>"
                                                     "<field name=\"v8_int16\" "
                                                     "type=\"v8i16\"/><field "
                                                     "name=\"v4_int32\" type=\"v4i32\"/>"
                                                     "<field name=\"v2_int64\" "
                                                     "type=\"v2i64\"/><field "
                                                     "name=\"uint128\" type=\"uint128\"/>"
                                                     "</union>"
#define XMM(name) "<reg name=\"" name "\" bitsize=\"128\" type=\"vec128\"/>"
    XMM("xmm0") XMM("xmm1") XMM("xmm2") XMM("xmm3") XMM("xmm4") XMM("xmm5") XMM(
        "xmm6") XMM("xmm7") XMM("xmm8") XMM("xmm9") XMM("xmm10") XMM("xmm11") XMM("xmm12")
        XMM("xmm13") XMM("xmm14") XMM(
            "xmm15") "<reg name=\"mxcsr\" bitsize=\"32\" type=\"int\" group=\"vector\"/>"
                     "</feature><feature name=\"org.gnu.gdb.i386.segments\">" R64(
                         "fs_base")
                         R64("gs_base") "</feature><feature "
                                        "name=\"org.umbra.control\">" R64("cr0") R64(
                                            "cr2") R64("cr3") R64("cr4") R64("cr8")
                                            R64("efer") "</feature><feature "
                                                        "name=\"org.gnu.gdb.i386.avx\">"
#define YMM(name) "<reg name=\"" name "\" bitsize=\"128\" type=\"uint128\"/>"
    YMM("ymm0h") YMM("ymm1h") YMM("ymm2h") YMM("ymm3h") YMM("ymm4h") YMM("ymm5h")
        YMM("ymm6h") YMM("ymm7h") YMM("ymm8h") YMM("ymm9h") YMM("ymm10h") YMM("ymm11h")
            YMM("ymm12h") YMM("ymm13h") YMM("ymm14h") YMM("ymm15h") "</feature></target>";

enum { GDB_STATE = VCPU_STATE_REGS | VCPU_STATE_SREGS | VCPU_STATE_XSAVE };

const char *gdb_target_xml(void)
{
    return target_xml;
}

static uint8_t *register_source(struct vcpu_state *state, const struct gdb_register *reg,
                                unsigned index)
{
    uint8_t *const sources[] = {
        [GDB_REGS] = (uint8_t *)&state->regs,
        [GDB_SREGS] = (uint8_t *)&state->sregs,
        [GDB_XSAVE] = (uint8_t *)state->xsave.region,
    };

    return sources[reg->source] + reg->offset + (size_t)index * reg->stride;
}

bool gdb_register_place(unsigned number, size_t *offset, size_t *size)
{
    size_t at = 0;

    for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
        const struct gdb_register *reg = &registers[i];

        if (number - reg->first < reg->count) {
            *offset = at + (size_t)(number - reg->first) * reg->bytes;
            *size = reg->bytes;
            return true;
        }
        at += (size_t)reg->count * reg->bytes;
    }
    return false;
}

/* Copy every register between @state and gdb's order; returns the bytes of the latter. */
static size_t registers_copy(struct vcpu_state *state, uint8_t *bytes, bool to_state)
{
    size_t at = 0;

    for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
        const struct gdb_register *reg = &registers[i];

        for (unsigned n = 0; n < reg->count; n++) {
            uint8_t *source = register_source(state, reg, n);

            if (to_state) {
                memcpy(source, bytes + at, reg->stored);
            } else {
                memset(bytes + at, 0, reg->bytes);
                memcpy(bytes + at, source, reg->stored);
            }
            at += reg->bytes;
        }
    }
    return at;
}

int gdb_registers_get(struct vcpu *vcpu, uint8_t bytes[GDB_REGISTERS_BYTES])
{
    struct vcpu_state *state = calloc(1, sizeof(*state));
    int ret = -ENOMEM;

    if (state != NULL) {
        ret = vcpu_state_get(vcpu, GDB_STATE, state, NULL);
        if (ret == 0) {
            ret = (int)registers_copy(state, bytes, false);
        }
    }
    free(state);
    return ret;
}

int gdb_registers_set(struct vcpu *vcpu, const uint8_t *bytes, size_t size)
{
    /* XSTATE_BV: x87, SSE and AVX are no longer in their initial configuration. */
    enum { XSTATE_BV = 512 / sizeof(uint32_t), LEGACY = 3, AVX = 4 };
    struct vcpu_state *state = calloc(1, sizeof(*state));
    uint8_t all[GDB_REGISTERS_BYTES], before[GDB_REGISTERS_BYTES];
    unsigned parts = VCPU_STATE_REGS | VCPU_STATE_SREGS;
    int ret = -ENOMEM;

    if (state == NULL) {
        return ret;
    }
    ret = vcpu_state_get(vcpu, GDB_STATE, state, NULL);
    if (ret == 0) {
        size_t total = registers_copy(state, before, false), x87, first;

        memcpy(all, before, total);
        memcpy(all, bytes, size < total ? size : total);
        registers_copy(state, all, true);
        gdb_register_place(24, &x87, &first);
        if (memcmp(all + x87, before + x87, total - x87) != 0) {
            parts |= VCPU_STATE_XSAVE;
            state->xsave.region[XSTATE_BV] |=
                LEGACY | (state->xcrs.xcrs[0].value & AVX ? AVX : 0u);
        }
        ret = vcpu_state_set(vcpu, parts, state, NULL);
    }
    free(state);
    return ret;
}
