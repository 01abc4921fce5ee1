/* SPDX-License-Identifier: MIT */
/* Turning a guest's instruction into host code that cannot touch anything of the host's.
 */
#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

#define PREFIX_OPERAND_SIZE 0x66
#define PREFIX_ADDRESS_SIZE 0x67

#define MODRM_RIP_RELATIVE 0x05 /* mod 0, rm 5 */

#define MEMORY_MAX 128 /* bytes; FNSAVE's 108 is the largest */

static bool is_segment_prefix(uint8_t value)
{
    return value == 0x26 || value == 0x2e || value == 0x36 || value == 0x3e ||
           value == 0x64 || value == 0x65;
}

static bool is_gpr(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15;
}

static unsigned gpr_number(ZydisRegister reg)
{
    return (unsigned)ZydisRegisterGetId(
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

static bool register_allowed(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
    case ZYDIS_REGCLASS_MASK:
    case ZYDIS_REGCLASS_FLAGS:
        return true;
    default:
        return reg == ZYDIS_REGISTER_X87CONTROL || reg == ZYDIS_REGISTER_X87STATUS ||
               reg == ZYDIS_REGISTER_X87TAG || reg == ZYDIS_REGISTER_MXCSR;
    }
}

/* Where an operand's register number sits, so that it can be replaced. */
static bool encoding_replaceable(ZydisOperandEncoding encoding)
{
    return encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG ||
           encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
           encoding == ZYDIS_OPERAND_ENCODING_NDSNDD;
}

/* Check every operand, hidden ones included; find the memory operand and whether RSP is
 * used, and a register to stand for it. */
static int operands_check(const struct insn_run *run, struct insn_rewrite *rewrite)
{
    static const uint8_t spares[] = { INSN_RAX, INSN_RCX, INSN_RDX, INSN_RBX,
                                      INSN_RSI, INSN_RDI, INSN_RBP };
    uint32_t used = 0;

    for (unsigned i = 0; i < run->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &run->operand[i];

        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (!register_allowed(op->reg.value))
                return INSN_GIVE_UP;
            if (!is_gpr(op->reg.value))
                continue;
            used |= 1u << gpr_number(op->reg.value);
            if (gpr_number(op->reg.value) == INSN_RSP &&
                !encoding_replaceable(op->encoding))
                return INSN_GIVE_UP;
        } else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (rewrite->memory || op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
                op->mem.type != ZYDIS_MEMOP_TYPE_MEM || !op->size || op->size % 8 ||
                op->size > MEMORY_MAX * 8)
                return INSN_GIVE_UP;
            rewrite->memory = op;
        } else if (op->type != ZYDIS_OPERAND_TYPE_IMMEDIATE || op->imm.is_relative) {
            return INSN_GIVE_UP;
        }
    }
    if (!(used & 1u << INSN_RSP))
        return INSN_CONTINUE;
    for (size_t i = 0; i < ARRAY_SIZE(spares); i++) {
        if (!(used & 1u << spares[i])) {
            rewrite->spare = (int8_t)spares[i];
            return INSN_CONTINUE;
        }
    }
    return INSN_GIVE_UP;
}

/* Put the spare register's number where RSP's is: @code is a copy of the guest's bytes.
 * RSP is number 4 and spares are below 8, so extension bits stay as they are. */
static void code_replace_rsp(const struct insn_run *run, int spare, uint8_t *code)
{
    const ZydisDecodedInstructionRaw *raw = &run->insn.raw;

    for (unsigned i = 0; i < run->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &run->operand[i];
        uint8_t *modrm = &code[raw->modrm.offset];
        unsigned at;

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !is_gpr(op->reg.value) ||
            gpr_number(op->reg.value) != INSN_RSP)
            continue;
        if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
            *modrm = (uint8_t)((*modrm & ~0x38) | spare << 3);
        } else if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
            *modrm = (uint8_t)((*modrm & ~7) | spare);
        } else { /* vvvv, inverted: bits 6 to 3 of a VEX or EVEX prefix byte */
            at = run->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX
                     ? raw->evex.offset + 2u
                     : raw->vex.offset + raw->vex.size - 1u;
            code[at] = (uint8_t)((code[at] & ~0x78) | (~spare & 0xf) << 3);
        }
    }
}

/* Assemble: the prefixes that matter but for segments and address size, the opcode, and
 * instead of a memory operand a RIP-relative one. */
static int code_emit(const struct insn_run *run, bool toggle_66,
                     struct insn_rewrite *rewrite)
{
    const ZydisDecodedInstructionRaw *raw = &run->insn.raw;
    uint8_t bytes[INSN_MAX_LENGTH];
    unsigned at = raw->prefix_count;
    unsigned n = 0;
    bool have_66 = false;

    memcpy(bytes, run->bytes, sizeof(bytes));
    if (rewrite->spare >= 0)
        code_replace_rsp(run, rewrite->spare, bytes);
    for (unsigned i = 0; i < raw->prefix_count; i++)
        have_66 |= raw->prefixes[i].value == PREFIX_OPERAND_SIZE;
    if (toggle_66 && !have_66)
        rewrite->code[n++] = PREFIX_OPERAND_SIZE;
    for (unsigned i = 0; i < raw->prefix_count; i++) {
        uint8_t value = raw->prefixes[i].value;

        if (raw->prefixes[i].type == ZYDIS_PREFIX_TYPE_IGNORED ||
            is_segment_prefix(value) || value == PREFIX_ADDRESS_SIZE ||
            (toggle_66 && value == PREFIX_OPERAND_SIZE))
            continue;
        rewrite->code[n++] = value;
    }
    if (rewrite->memory) {
        memcpy(&rewrite->code[n], &bytes[at], raw->modrm.offset - at);
        n += raw->modrm.offset - at;
        rewrite->code[n++] =
            (uint8_t)((bytes[raw->modrm.offset] & 0x38) | MODRM_RIP_RELATIVE);
        rewrite->displacement = (uint8_t)n;
        memset(&rewrite->code[n], 0, 4);
        n += 4;
        at = raw->modrm.offset + 1u + raw->disp.size / 8u +
             (run->insn.attributes & ZYDIS_ATTRIB_HAS_SIB ? 1u : 0u);
    }
    if (at > run->insn.length || n + run->insn.length - at > INSN_MAX_LENGTH)
        return INSN_GIVE_UP;
    memcpy(&rewrite->code[n], &bytes[at], run->insn.length - at);
    rewrite->length = (uint8_t)(n + run->insn.length - at);
    return INSN_CONTINUE;
}

static bool operand_same(const ZydisDecodedOperand *guest,
                         const ZydisDecodedOperand *host, int spare)
{
    if (guest->type != host->type)
        return false;
    if (guest->type == ZYDIS_OPERAND_TYPE_MEMORY)
        return guest->size == host->size && host->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
               host->mem.base == ZYDIS_REGISTER_RIP &&
               host->mem.index == ZYDIS_REGISTER_NONE &&
               host->mem.segment == ZYDIS_REGISTER_DS &&
               host->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
    if (guest->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return guest->size == host->size && guest->imm.value.u == host->imm.value.u;
    if (!register_allowed(host->reg.value))
        return false;
    if (guest->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && !is_gpr(guest->reg.value))
        return true; /* flags and status registers, named by mode */
    if (is_gpr(guest->reg.value) && gpr_number(guest->reg.value) == INSN_RSP)
        return guest->size == host->size && is_gpr(host->reg.value) && spare >= 0 &&
               gpr_number(host->reg.value) == (unsigned)spare;
    return guest->reg.value == host->reg.value;
}

/* Decode what was made: it must be the same operation on the same registers. */
static bool code_verify(const struct insn_run *run, const struct insn_rewrite *rewrite)
{
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    const ZydisDecodedInstruction *guest = &run->insn;
    ZydisDecodedInstruction host;
    const ZydisDecoder *decoder =
        &run->engine->decoder[ARRAY_SIZE(run->engine->decoder) - 1];

    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, rewrite->code, rewrite->length,
                                             &host, operand)))
        return false;
    if (host.length != rewrite->length || host.mnemonic != guest->mnemonic ||
        host.encoding != guest->encoding || host.operand_count != guest->operand_count ||
        host.meta.isa_set != guest->meta.isa_set ||
        host.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
        (host.attributes & (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_IS_PRIVILEGED)) ||
        host.avx.vector_length != guest->avx.vector_length ||
        host.avx.mask.mode != guest->avx.mask.mode ||
        host.avx.mask.reg != guest->avx.mask.reg ||
        host.avx.broadcast.mode != guest->avx.broadcast.mode ||
        host.avx.rounding.mode != guest->avx.rounding.mode ||
        host.avx.has_sae != guest->avx.has_sae)
        return false;
    for (unsigned i = 0; i < host.operand_count; i++) {
        if (!operand_same(&run->operand[i], &operand[i], rewrite->spare))
            return false;
    }
    return true;
}

int insn_rewrite(const struct insn_run *run, struct insn_rewrite *rewrite)
{
    const ZydisDecodedInstruction *insn = &run->insn;
    int result;

    memset(rewrite, 0, sizeof(*rewrite));
    rewrite->spare = -1;
    if ((insn->attributes & (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_IS_PRIVILEGED)) ||
        insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
        return INSN_GIVE_UP;
    result = operands_check(run, rewrite);
    if (result)
        return result;
    result = code_emit(run, false, rewrite);
    if (result || code_verify(run, rewrite))
        return result;
    if (run->bits != 16) /* there the 66 prefix means 32 bits, here 16 */
        return INSN_GIVE_UP;
    result = code_emit(run, true, rewrite);
    if (result)
        return result;
    return code_verify(run, rewrite) ? INSN_CONTINUE : INSN_GIVE_UP;
}
