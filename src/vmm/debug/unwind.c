/* SPDX-License-Identifier: MIT */
/* Walking a guest's stack. All that is read is the guest's and may be anything. */
#include "vmm/debug/unwind.h"

#include <string.h>

#include "base/util.h"

enum {
    FRAME_REACH = 65536, /* a frame pointer is at most this far above the stack pointer */
    GUESS_REACH = 4096,  /* how much of the stack is searched for return addresses */
    LONGEST_CALL = 7,
    /* struct pt_regs of Linux on x86-64; what the processor pushes begins at its RIP. */
    REGS_BP = 32,
    REGS_IP = 128,
    REGS_SIZE = 168,
    IRET_CS = 8,
    IRET_SP = 24,
    IRET_SIZE = 40,
};

struct unwinder {
    const struct unwind_ops *ops;
    struct unwind_registers regs;
    bool exact; /* rip is where the code stands, not where a call returns to */
    bool first; /* the other registers are known too */
    enum unwind_how how;
};

static bool unwind_word(const struct unwinder *u, uint64_t address, uint64_t *value)
{
    uint8_t bytes[8] = { 0 };

    if (!u->ops->read(u->ops->context, address, bytes, u->regs.word)) {
        return false;
    }
    *value = load_le64(bytes);
    return true;
}

/* Whether the code before @address is a call: E8, or FF /2 with any operand (Intel SDM vol. 2,
 * CALL and table 2-2). */
static bool unwind_after_call(const struct unwinder *u, uint64_t address)
{
    uint8_t code[LONGEST_CALL];

    if (!u->ops->read(u->ops->context, address - LONGEST_CALL, code, sizeof(code))) {
        return false;
    }
    if (code[LONGEST_CALL - 5] == 0xe8) {
        return true;
    }
    for (size_t length = 2; length <= LONGEST_CALL; length++) {
        const uint8_t *at = code + LONGEST_CALL - length;
        unsigned mod = at[1] >> 6, rm = at[1] & 7;
        size_t need = 2;

        if (at[0] != 0xff || (at[1] >> 3 & 7) != 2) {
            continue;
        }
        need += mod != 3 && rm == 4; /* SIB */
        need += mod == 1 ? 1 : mod == 2 || (mod == 0 && rm == 5) ? 4 : 0;
        if (need == length) {
            return true;
        }
    }
    return false;
}

static bool unwind_is_return(const struct unwinder *u, uint64_t address)
{
    return address != 0 && u->ops->is_code(u->ops->context, address) &&
           unwind_after_call(u, address);
}

/* ---- By table -------------------------------------------------------------------------------- */

static bool rule_base(const struct unwinder *u, const struct orc_rule *rule,
                      uint64_t *base)
{
    const struct unwind_registers *r = &u->regs;
    uint64_t offset = (uint64_t)(int64_t)rule->sp_offset;

    switch (rule->sp) {
    case ORC_SP:
        *base = r->rsp + offset;
        return true;
    case ORC_BP:
        *base = r->rbp + offset;
        return true;
    case ORC_SP_INDIRECT:
        if (!unwind_word(u, r->rsp, base)) {
            return false;
        }
        *base += offset;
        return true;
    case ORC_BP_INDIRECT:
        return unwind_word(u, r->rbp + offset, base);
    case ORC_DX:
    case ORC_DI:
    case ORC_R10:
    case ORC_R13:
        *base = rule->sp == ORC_DX    ? r->rdx
                : rule->sp == ORC_DI  ? r->rdi
                : rule->sp == ORC_R10 ? r->r10
                                      : r->r13;
        return u->first;
    default:
        return false;
    }
}

/* The frame that an interrupt or exception came in. */
static bool unwind_interrupted(struct unwinder *u, uint64_t at, bool all)
{
    uint8_t bytes[REGS_SIZE];
    const uint8_t *iret = all ? bytes + REGS_IP : bytes;

    if (!u->ops->read(u->ops->context, at, bytes, all ? REGS_SIZE : IRET_SIZE)) {
        return false;
    }
    u->regs.rip = load_le64(iret);
    u->regs.rsp = load_le64(iret + IRET_SP);
    if (all) {
        u->regs.rbp = load_le64(bytes + REGS_BP);
    }
    u->exact = true;
    u->how = UNWIND_INTERRUPT;
    return true;
}

static bool unwind_by_rule(struct unwinder *u, const struct orc_rule *rule)
{
    uint64_t base, pc, bp = u->regs.rbp;
    bool good = rule_base(u, rule, &base);

    if (!good || base % u->regs.word != 0) {
        return false;
    }
    if (rule->type != ORC_TYPE_CALL) {
        return unwind_interrupted(u, base, rule->type == ORC_TYPE_REGISTERS);
    }
    good = unwind_word(u, base - 8, &pc);
    if (good && rule->bp == ORC_PREVIOUS_SP) {
        good = unwind_word(u, base + (uint64_t)(int64_t)rule->bp_offset, &bp);
    } else if (good && rule->bp == ORC_BP) {
        good = unwind_word(u, u->regs.rbp + (uint64_t)(int64_t)rule->bp_offset, &bp);
    }
    if (good) {
        u->regs.rip = pc;
        u->regs.rsp = base;
        u->regs.rbp = bp;
        u->exact = false;
        u->how = UNWIND_TABLE;
    }
    return good;
}

/* ---- By frame pointer, and by guess ------------------------------------------------------------ */

static bool unwind_by_frame_pointer(struct unwinder *u)
{
    uint64_t bp = u->regs.rbp, saved, pc;

    if (bp < u->regs.rsp || bp - u->regs.rsp > FRAME_REACH || bp % u->regs.word != 0 ||
        !unwind_word(u, bp, &saved) || !unwind_word(u, bp + u->regs.word, &pc) ||
        !unwind_is_return(u, pc)) {
        return false;
    }
    u->regs.rip = pc;
    u->regs.rsp = bp + (uint64_t)2 * u->regs.word;
    u->regs.rbp = saved;
    u->exact = false;
    u->how = UNWIND_FRAME_POINTER;
    return true;
}

/* The next return address on the stack. */
static bool unwind_guess(struct unwinder *u)
{
    uint64_t from = align_up(u->regs.rsp, u->regs.word), value;

    for (uint64_t at = from; at - from < GUESS_REACH; at += u->regs.word) {
        if (!unwind_word(u, at, &value)) {
            return false;
        }
        if (unwind_is_return(u, value)) {
            u->regs.rip = value;
            u->regs.rsp = at + u->regs.word;
            u->exact = false;
            u->how = UNWIND_GUESS;
            return true;
        }
    }
    return false;
}

/* One frame out; false when nothing leads on. */
static bool unwind_step(struct unwinder *u, bool *complete)
{
    struct orc_rule rule;
    bool stepped;

    if (u->ops->rule(u->ops->context, u->exact ? u->regs.rip : u->regs.rip - 1, &rule)) {
        if (rule.type == ORC_TYPE_END) {
            *complete = true;
            return false;
        }
        stepped = unwind_by_rule(u, &rule);
    } else {
        stepped = unwind_by_frame_pointer(u);
    }
    u->first = false;
    return stepped;
}

unsigned unwind(const struct unwind_ops *ops, const struct unwind_registers *registers,
                struct unwind_frame *frames, unsigned max, bool *complete)
{
    struct unwinder u = {
        .ops = ops, .regs = *registers, .exact = true, .first = true, .how = UNWIND_START
    };
    unsigned count = 0;

    *complete = false;
    while (count < max) {
        frames[count++] = (struct unwind_frame){ u.regs.rip, u.regs.rsp, u.how };
        if (!unwind_step(&u, complete) && (*complete || !unwind_guess(&u))) {
            break;
        }
        if (u.regs.rip == 0) {
            *complete = true; /* a thread's first function returns nowhere */
            break;
        }
    }
    return count;
}
