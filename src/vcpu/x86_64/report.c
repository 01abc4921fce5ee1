/* SPDX-License-Identifier: MIT */
/* Registers, code, page walks and last exits of a vCPU for a person. */
#include "vcpu/report.h"

#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>

#include "base/util.h"
#include "memory/guest_mem.h"
#include "vcpu/x86_64/insn/insn.h"
#include "vcpu/x86_64/look.h"
#include "vcpu/x86_64/report_state.h"
#include "vcpu/x86_64/walk.h"

enum {
    LAST_EXITS = 16,
    CODE_BEFORE = 24,
    CODE_BYTES = 64,
    LINES_BEFORE = 4,
    LINES_BEHIND = 8,
    LINE_TEXT = 96,
};

static void report_name(const struct report_names *names, uint64_t address,
                        const char *before, struct text *text)
{
    char name[REPORT_NAME_SIZE] = "";

    if (names != NULL) {
        names->name(names->context, address, name);
    }
    if (name[0] != '\0') {
        text_add(text, "%s%s", before, name);
    }
}

static void report_registers(const struct kvm_regs *regs,
                             const struct report_names *names, struct text *text)
{
    const struct {
        const char *name;
        uint64_t value;
    } list[] = {
        { "rax", regs->rax }, { "rbx", regs->rbx }, { "rcx", regs->rcx },
        { "rdx", regs->rdx }, { "rsi", regs->rsi }, { "rdi", regs->rdi },
        { "rbp", regs->rbp }, { "rsp", regs->rsp }, { "r8", regs->r8 },
        { "r9", regs->r9 },   { "r10", regs->r10 }, { "r11", regs->r11 },
        { "r12", regs->r12 }, { "r13", regs->r13 }, { "r14", regs->r14 },
        { "r15", regs->r15 }, { "rip", regs->rip }, { "rflags", regs->rflags },
    };
    bool any = false;

    for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
        text_add(text, "  %-6s %016" PRIx64 "%s", list[i].name, list[i].value,
                 i % 3 == 2 ? "\n" : "");
    }
    for (size_t i = 0; i < ARRAY_SIZE(list) - 1; i++) {
        char name[REPORT_NAME_SIZE] = "";

        if (names != NULL) {
            names->name(names->context, list[i].value, name);
        }
        if (name[0] != '\0') {
            text_add(text, "%s%s %s", any ? ", " : "  ", list[i].name, name);
            any = true;
        }
    }
    text_add(text, "%s", any ? "\n" : "");
}

void vcpu_report_state(struct vcpu *vcpu, const struct report_names *names,
                       struct text *text)
{
    const unsigned parts = VCPU_STATE_ALL & ~(unsigned)VCPU_STATE_XSAVE;
    struct vcpu_state *state = calloc(1, sizeof(*state));
    struct umbra_error error;

    if (state == NULL || vcpu_state_get(vcpu, parts, state, &error) < 0) {
        text_add(text, "  its registers cannot be read: %s\n",
                 state == NULL ? "out of memory" : error.message);
    } else {
        report_registers(&state->regs, names, text);
        text_add(text, "guest state\n");
        report_guest_state(state, text);
        text_add(text, "controls\n");
        report_controls(vcpu, state, text);
        text_add(text, "exit information\n  %s\n",
                 vcpu->end_exit[0] != '\0' ? vcpu->end_exit
                                           : "none: it was stopped from outside");
    }
    free(state);
}

/* ---- Code ------------------------------------------------------------------------------------ */

/* One instruction; its length, at least 1. */
static size_t code_line(const uint8_t *bytes, size_t count, uint64_t rip, unsigned bits,
                        bool here, struct text *text)
{
    char line[LINE_TEXT];
    int length = insn_disassemble(bytes, count, rip, bits, line, sizeof(line));
    size_t used = length > 0 ? (size_t)length : 1;

    text_add(text, "  %s %016" PRIx64 "  ", here ? "->" : "  ", rip);
    for (size_t i = 0; i < used; i++) {
        text_add(text, "%02x", bytes[i]);
    }
    text_add(text, "%*s%s\n", used < 10 ? (int)(22 - 2 * used) : 2, "", line);
    return used;
}

/* The first byte from which instructions end exactly at @target: x86 code read from a wrong
 * start falls into step soon, so the earliest start that does is likely right. */
static size_t code_start(const uint8_t *bytes, size_t from, size_t target, unsigned bits)
{
    char line[LINE_TEXT];

    for (size_t start = from; start < target; start++) {
        size_t at = start, starts[CODE_BEFORE], count = 0;

        while (at < target && count < CODE_BEFORE) {
            int length =
                insn_disassemble(bytes + at, target - at, 0, bits, line, sizeof(line));

            if (length <= 0) {
                break;
            }
            starts[count++] = at;
            at += (size_t)length;
        }
        if (at == target && count > 0) {
            return starts[count > LINES_BEFORE ? count - LINES_BEFORE : 0];
        }
    }
    return target;
}

void vcpu_report_code(struct vcpu *vcpu, const struct report_names *names,
                      struct text *text)
{
    uint8_t bytes[CODE_BEFORE + CODE_BYTES];
    struct vcpu_look look;
    size_t before = CODE_BEFORE, count, at;

    if (vcpu_look_begin(vcpu, &look) < 0) {
        return;
    }
    while (before > 0 &&
           !vcpu_look_read(&look, look.code + look.regs.rip - before, bytes, before)) {
        before--;
    }
    for (count = CODE_BYTES;
         count > 0 &&
         !vcpu_look_read(&look, look.code + look.regs.rip, bytes + before, count);
         count--) {
    }
    text_add(text, "code at rip (%u-bit)%s", look.bits,
             count == 0 ? ": not in mapped memory" : "");
    report_name(names, look.code + look.regs.rip, " ", text);
    text_add(text, "\n");
    at = count > 0 ? code_start(bytes, 0, before, look.bits) : 0;
    for (unsigned line = 0; count > 0 && line < LINES_BEHIND && at < before + count;) {
        size_t end = at < before ? before : before + count;

        line += at >= before;
        at += code_line(bytes + at, end - at, look.regs.rip + at - before, look.bits,
                        at == before, text);
    }
}

/* ---- Page walks -------------------------------------------------------------------------------- */

static void report_entry_flags(uint64_t entry, struct text *text)
{
    static const struct {
        unsigned bit;
        const char *name;
    } flags[] = { { 1, "write" },    { 2, "user" },       { 3, "write-through" },
                  { 4, "uncached" }, { 5, "accessed" },   { 6, "dirty" },
                  { 8, "global" },   { 63, "no-execute" } };

    if (!(entry & 1)) {
        text_add(text, "not present");
        return;
    }
    text_add(text, "present");
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        if (entry >> flags[i].bit & 1) {
            text_add(text, " %s", flags[i].name);
        }
    }
}

static void report_walk(const struct vcpu_look *look, const char *name, uint64_t address,
                        struct text *text)
{
    static const char *const tables[] = { "PT", "PD", "PDPT", "PML4", "PML5" };
    struct walk_path path;

    walk_look(look->mem, &look->cpu, address, &path);
    text_add(text, "page walk of %s %016" PRIx64, name, address);
    if (path.levels == 0) {
        text_add(text, ": paging is off\n");
        return;
    }
    text_add(text, " (%u levels from cr3 %" PRIx64 ")\n", path.levels, look->cpu.cr3);
    for (unsigned i = 0; i < path.count; i++) {
        text_add(text, "  %-4s[%3u] at %012" PRIx64 " = %016" PRIx64 "  ",
                 tables[path.levels - 1 - i], path.step[i].index, path.step[i].at,
                 path.step[i].entry);
        report_entry_flags(path.step[i].entry, text);
        text_add(text, "\n");
    }
    if (path.outside) {
        text_add(text, "  the next table is not in RAM\n");
    } else if (path.mapped) {
        char size[16];
        const void *host = guest_mem_const_ptr(look->mem, path.physical, 1);

        text_add(text, "  maps GPA %" PRIx64 " (%s page, %s, %s%s)%s\n", path.physical,
                 size_format(path.page_size, size, sizeof(size)),
                 path.user ? "user" : "supervisor",
                 path.writable ? "writable" : "read-only",
                 path.executable ? ", executable" : "", host == NULL ? ": not RAM" : "");
    } else {
        text_add(text, "  not mapped\n");
    }
}

void vcpu_report_walks(struct vcpu *vcpu, struct text *text)
{
    struct vcpu_look look;

    if (vcpu_look_begin(vcpu, &look) < 0) {
        return;
    }
    report_walk(&look, "rip", look.code + look.regs.rip, text);
    report_walk(&look, "rsp", look.stack + look.regs.rsp, text);
}

/* ---- Exits ------------------------------------------------------------------------------------- */

void vcpu_report_exits(struct vcpu *vcpu, struct text *text)
{
    const struct exit_stats *stats = vcpu->stats;
    uint64_t count = stats->ring_next < LAST_EXITS ? stats->ring_next : LAST_EXITS;

    text_add(text, "last exits (oldest first)%s\n", count == 0 ? ": none" : "");
    for (uint64_t i = stats->ring_next - count; i < stats->ring_next; i++) {
        const struct exit_record *record = &stats->ring[i % EXIT_RING_SIZE];

        if (record->kind == EXIT_KEY_NONE) {
            text_add(text, "  %s\n", vcpu_exit_name(record->reason));
        } else {
            text_add(text, "  %-6s %-10s 0x%" PRIx64 " size %u value 0x%" PRIx64 "\n",
                     vcpu_exit_name(record->reason), exit_key_kind_name(record->kind),
                     record->key, record->size, record->value);
        }
    }
}
