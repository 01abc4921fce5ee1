/* SPDX-License-Identifier: MIT */
/* Completing instructions: decode, dispatch, counters, disassembly. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

enum {
    DECODER_REAL_16,
    DECODER_16,
    DECODER_32,
    DECODER_64,
};

static const struct {
    ZydisMachineMode mode;
    ZydisStackWidth stack;
} decoder_modes[] = {
    [DECODER_REAL_16] = { ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16 },
    [DECODER_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
    [DECODER_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
    [DECODER_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
};

static void formatter_init(ZydisFormatter *formatter)
{
    ZydisFormatterInit(formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_FORCE_SIZE, ZYAN_TRUE);
    ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
}

int insn_engine_create(struct insn_engine **engine)
{
    struct insn_engine *e = calloc(1, sizeof(*e));
    int error;

    if (!e)
        return -ENOMEM;
    for (size_t i = 0; i < ARRAY_SIZE(decoder_modes); i++)
        ZydisDecoderInit(&e->decoder[i], decoder_modes[i].mode, decoder_modes[i].stack);
    formatter_init(&e->formatter);
    e->host_features = insn_host_features();
    insn_image_probe(e);
    error = insn_native_create(e);
    if (error)
        goto fail;
    *engine = e;
    return 0;

fail:
    insn_engine_destroy(e);
    return error;
}

void insn_engine_destroy(struct insn_engine *engine)
{
    if (!engine)
        return;
    insn_native_destroy(engine->native);
    free(engine);
}

int insn_fault(struct insn_run *run, enum insn_vector vector)
{
    run->outcome->vector = (uint8_t)vector;
    run->outcome->has_error_code = false;
    run->outcome->has_payload = false;
    return INSN_FAULTED;
}

int insn_fault_code(struct insn_run *run, enum insn_vector vector, uint32_t error_code)
{
    insn_fault(run, vector);
    run->outcome->has_error_code = true;
    run->outcome->error_code = error_code;
    return INSN_FAULTED;
}

bool insn_protected(const struct insn_cpu *cpu)
{
    return (cpu->cr0 & CR0_PE) && !(cpu->rflags & RFLAGS_VM);
}

unsigned insn_code_bits(const struct insn_cpu *cpu)
{
    const struct insn_segment *cs = &cpu->segment[INSN_CS];

    if ((cpu->efer & EFER_LMA) && cs->l)
        return 64;
    return cs->db ? 32 : 16;
}

static const ZydisDecoder *decoder_choose(const struct insn_run *run)
{
    if (run->bits == 64)
        return &run->engine->decoder[DECODER_64];
    if (run->bits == 32)
        return &run->engine->decoder[DECODER_32];
    return &run->engine->decoder[insn_protected(run->cpu) ? DECODER_16 : DECODER_REAL_16];
}

static bool is_high_byte(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

/* The index in insn_cpu.gpr of @reg, which is a general register of any size. */
static unsigned gpr_index(ZydisRegister reg)
{
    ZydisRegister whole =
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    return (unsigned)ZydisRegisterGetId(whole) & (INSN_GPR_COUNT - 1);
}

uint64_t insn_gpr_read(const struct insn_run *run, ZydisRegister reg)
{
    uint64_t value = run->cpu->gpr[gpr_index(reg)];

    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
        return (is_high_byte(reg) ? value >> 8 : value) & 0xff;
    case ZYDIS_REGCLASS_GPR16:
        return value & 0xffff;
    case ZYDIS_REGCLASS_GPR32:
        return value & 0xffffffff;
    default:
        return value;
    }
}

void insn_gpr_write(struct insn_run *run, ZydisRegister reg, uint64_t value)
{
    uint64_t *gpr = &run->cpu->gpr[gpr_index(reg)];
    unsigned shift = is_high_byte(reg) ? 8 : 0;

    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
        *gpr = (*gpr & ~(UINT64_C(0xff) << shift)) | (value & 0xff) << shift;
        break;
    case ZYDIS_REGCLASS_GPR16:
        *gpr = (*gpr & ~UINT64_C(0xffff)) | (value & 0xffff);
        break;
    case ZYDIS_REGCLASS_GPR32:
        *gpr = value & 0xffffffff;
        break;
    default:
        *gpr = value;
        break;
    }
}

void insn_flags_set(struct insn_run *run, uint64_t mask, uint64_t value)
{
    run->cpu->rflags = (run->cpu->rflags & ~mask) | (value & mask);
}

int insn_decode(struct insn_run *run, const uint8_t *bytes, size_t count)
{
    size_t length = count < sizeof(run->bytes) ? count : sizeof(run->bytes);
    ZyanStatus status;
    int result;

    if (length)
        memcpy(run->bytes, bytes, length);
    for (;;) {
        size_t known = length;

        status = ZydisDecoderDecodeFull(decoder_choose(run), run->bytes, length,
                                        &run->insn, run->operand);
        if (ZYAN_SUCCESS(status))
            break;
        if (status != ZYDIS_STATUS_NO_MORE_DATA || length == sizeof(run->bytes))
            return INSN_GIVE_UP;
        result = insn_fetch(run, known, &length);
        if (result)
            return result;
        if (length == known)
            return INSN_GIVE_UP;
    }
    run->outcome->mnemonic = (uint16_t)run->insn.mnemonic;
    run->outcome->length = run->insn.length;
    return INSN_CONTINUE;
}

static void run_text(struct insn_run *run)
{
    struct insn_outcome *outcome = run->outcome;

    if (!outcome->mnemonic || !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
                                  &run->engine->formatter, &run->insn, run->operand,
                                  run->insn.operand_count_visible, outcome->text,
                                  sizeof(outcome->text), run->cpu->rip, ZYAN_NULL)))
        snprintf(outcome->text, sizeof(outcome->text), "(bad)");
}

void insn_advance(struct insn_run *run)
{
    struct insn_cpu *cpu = run->cpu;

    cpu->rip += run->insn.length;
    if (run->bits != 64)
        cpu->rip &= run->bits == 32 ? 0xffffffff : 0xffff;
    cpu->rflags &= ~RFLAGS_RF;
}

void insn_count_one(struct insn_engine *engine, unsigned mnemonic)
{
    __atomic_fetch_add(&engine->counts[mnemonic], 1, __ATOMIC_RELAXED);
}

void insn_complete(struct insn_engine *engine, struct insn_cpu *cpu,
                   const struct insn_ops *ops, void *context, const uint8_t *bytes,
                   size_t count, struct insn_outcome *outcome)
{
    struct insn_run run = { .engine = engine,
                            .cpu = cpu,
                            .ops = ops,
                            .context = context,
                            .outcome = outcome,
                            .bits = insn_code_bits(cpu) };
    bool single_step = cpu->rflags & RFLAGS_TF;
    insn_handler handler = NULL;
    bool present;
    int result;

    memset(outcome, 0, sizeof(*outcome));
    cpu->segments_changed = false;
    cpu->xcr0_changed = false;
    cpu->fpu_changed = false;
    result = insn_decode(&run, bytes, count);
    if (result == INSN_CONTINUE) {
        handler = insn_system_handler(run.insn.mnemonic);
        result = handler ? handler(&run) : insn_native_run(&run);
    }
    if (result == INSN_GIVE_UP) {
        outcome->result = INSN_UNHANDLED;
        run_text(&run);
        return;
    }
    insn_count_one(engine, outcome->mnemonic);
    outcome->result = result == INSN_CONTINUE ? INSN_DONE : INSN_EXCEPTION;
    if (result != INSN_FAULTED)
        insn_advance(&run);
    outcome->computing = outcome->result == INSN_DONE && !handler &&
                         insn_host_unit(engine, &run.insn, &present) > INSN_UNIT_INTEGER;
    outcome->single_step = result == INSN_CONTINUE && single_step;
}

size_t insn_counts(const struct insn_engine *engine, struct insn_count *counts,
                   size_t max, uint64_t *total)
{
    uint64_t sum = 0;
    size_t stored = 0;

    for (unsigned m = 0; m < ARRAY_SIZE(engine->counts); m++) {
        uint64_t count = __atomic_load_n(&engine->counts[m], __ATOMIC_RELAXED);
        size_t i;

        sum += count;
        if (!count || !max)
            continue;
        if (stored == max && counts[max - 1].count >= count)
            continue;
        i = stored < max ? stored++ : max - 1;
        for (; i && counts[i - 1].count < count; i--)
            counts[i] = counts[i - 1];
        counts[i].mnemonic = m ? ZydisMnemonicGetString((ZydisMnemonic)m) : "(bad)";
        counts[i].count = count;
    }
    if (total)
        *total = sum;
    return stored;
}

void insn_counts_add(struct insn_engine *into, const struct insn_engine *from)
{
    for (unsigned m = 0; m < ARRAY_SIZE(from->counts); m++)
        __atomic_fetch_add(&into->counts[m],
                           __atomic_load_n(&from->counts[m], __ATOMIC_RELAXED),
                           __ATOMIC_RELAXED);
}

int insn_disassemble(const uint8_t *bytes, size_t count, uint64_t rip, unsigned bits,
                     char *text, size_t size)
{
    unsigned mode = bits == 64 ? DECODER_64 : bits == 32 ? DECODER_32 : DECODER_16;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction insn;
    ZydisFormatter formatter;
    ZydisDecoder decoder;

    ZydisDecoderInit(&decoder, decoder_modes[mode].mode, decoder_modes[mode].stack);
    formatter_init(&formatter);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, count, &insn, operand)) ||
        !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &insn, operand,
                                                      insn.operand_count_visible, text,
                                                      size, rip, ZYAN_NULL))) {
        snprintf(text, size, "(bad)");
        return -EINVAL;
    }
    return insn.length;
}
