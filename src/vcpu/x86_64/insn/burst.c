/* SPDX-License-Identifier: MIT */
/*
 * Runs of instructions that KVM's emulator lacks: a hash in SSE code is thousands of them,
 * and the way through KVM_RUN costs many times what one does.
 */
#include "vcpu/x86_64/insn/internal.h"

/* Plain instructions in a row after which the run is taken to be over. */
#define BURST_PATIENCE 16

#define RFLAGS_PF UINT64_C(0x4)
#define RFLAGS_SF UINT64_C(0x80)
#define RFLAGS_OF UINT64_C(0x800)

/* Arithmetic on registers that KVM's emulator knows too: worth running along, not worth
 * counting. Nothing here divides, pushes, or touches state other than flags. */
static bool is_plain(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_BSWAP:
        return true;
    default:
        return false;
    }
}

/* Plain stores are left to KVM: they may be to page tables that it shadows, and the writes
 * that userspace makes go unnoticed there. */
static bool writes_memory(const struct insn_run *run)
{
    for (unsigned i = 0; i < run->insn.operand_count; i++) {
        if (run->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (run->operand[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return true;
    }
    return false;
}

/* Condition codes as opcodes 70 to 7F and 0F 80 to 8F number them. */
static bool condition_holds(uint64_t flags, unsigned code)
{
    bool less = !(flags & RFLAGS_SF) != !(flags & RFLAGS_OF);
    bool holds;

    switch (code >> 1) {
    case 0:
        holds = flags & RFLAGS_OF;
        break;
    case 1:
        holds = flags & RFLAGS_CF;
        break;
    case 2:
        holds = flags & RFLAGS_ZF;
        break;
    case 3:
        holds = flags & (RFLAGS_CF | RFLAGS_ZF);
        break;
    case 4:
        holds = flags & RFLAGS_SF;
        break;
    case 5:
        holds = flags & RFLAGS_PF;
        break;
    case 6:
        holds = less;
        break;
    default:
        holds = less || (flags & RFLAGS_ZF);
        break;
    }
    return holds != (code & 1);
}

/* A relative jump in 64-bit code. */
static int burst_jump(struct insn_run *run)
{
    const ZydisDecodedInstruction *insn = &run->insn;
    const ZydisDecodedOperand *target = &run->operand[0];
    bool conditional = insn->meta.category == ZYDIS_CATEGORY_COND_BR;
    bool known =
        conditional
            ? (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && insn->opcode >> 4 == 7) ||
                  (insn->opcode_map == ZYDIS_OPCODE_MAP_0F && insn->opcode >> 4 == 8)
            : insn->mnemonic == ZYDIS_MNEMONIC_JMP;

    if (!known || run->bits != 64 || target->type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
        !target->imm.is_relative)
        return INSN_GIVE_UP;
    /* insn_decode() at the target faults if that is not canonical or not mapped; KVM then
     * raises the fault. */
    if (!conditional || condition_holds(run->cpu->rflags, insn->opcode & 15))
        run->cpu->rip += (uint64_t)target->imm.value.s;
    return INSN_CONTINUE;
}

static int burst_lea(struct insn_run *run)
{
    insn_gpr_write(run, run->operand[0].reg.value, insn_offset(run, &run->operand[1]));
    return INSN_CONTINUE;
}

/* One instruction; @plain says that it was only run along. */
static int burst_step(struct insn_run *run, bool *plain)
{
    bool present;
    int result = insn_decode(run, NULL, 0);

    *plain = false;
    if (result)
        return result;
    if (insn_host_unit(run->engine, &run->insn, &present) != INSN_UNIT_NONE &&
        !insn_system_handler(run->insn.mnemonic))
        return insn_native_run(run);
    *plain = true;
    if (run->insn.meta.category == ZYDIS_CATEGORY_COND_BR ||
        run->insn.meta.category == ZYDIS_CATEGORY_UNCOND_BR)
        return burst_jump(run);
    if (run->insn.mnemonic == ZYDIS_MNEMONIC_LEA)
        return burst_lea(run);
    if (!is_plain(run->insn.mnemonic) || writes_memory(run))
        return INSN_GIVE_UP;
    return insn_native_run_as(run, INSN_UNIT_INTEGER);
}

unsigned insn_burst(struct insn_engine *engine, struct insn_cpu *cpu,
                    const struct insn_ops *ops, void *context, unsigned max)
{
    struct insn_outcome outcome = { 0 };
    struct insn_run run = { .engine = engine,
                            .cpu = cpu,
                            .ops = ops,
                            .context = context,
                            .outcome = &outcome,
                            .bits = insn_code_bits(cpu) };
    unsigned idle = 0;
    unsigned done = 0;

    while (done < max && idle < BURST_PATIENCE) {
        bool plain;

        if (burst_step(&run, &plain))
            break; /* whatever is due, KVM or the next completion raises it */
        insn_advance(&run);
        idle = plain ? idle + 1 : 0;
        if (!plain)
            insn_count_one(engine, outcome.mnemonic);
        done++;
    }
    return done;
}
