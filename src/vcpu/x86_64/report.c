/* SPDX-License-Identifier: MIT */
/* A vCPU's state for a person: registers, controls, what ran last. */
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "memory/guest_mem.h"
#include "vcpu/x86_64/insn.h"
#include "vcpu/x86_64/state.h"

enum { REPORT_LAST_EXITS = 16, REPORT_CODE_BYTES = 48, REPORT_CODE_LINES = 6 };

struct report {
    char *text;
    size_t size, used;
};

static void __attribute__((format(printf, 2, 3)))
report_add(struct report *report, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(report->text + report->used, report->size - report->used, format, args);
    va_end(args);
    if (n > 0) {
        report->used += (size_t)n;
        if (report->used >= report->size) {
            report->used = report->size - 1;
        }
    }
}

static void report_registers(struct report *report, const struct kvm_regs *regs)
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

    for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
        report_add(report, "  %-6s %016" PRIx64 "%s", list[i].name, list[i].value,
                   i % 3 == 2 ? "\n" : "");
    }
}

static void report_segment(struct report *report, const char *name,
                           const struct kvm_segment *segment)
{
    report_add(report,
               "  %-4s sel %04x base %016" PRIx64
               " limit %08x type %x dpl %u%s%s%s%s%s\n",
               name, segment->selector, (uint64_t)segment->base, segment->limit,
               segment->type, segment->dpl, segment->present ? " present" : "",
               segment->l    ? " 64-bit"
               : segment->db ? " 32-bit"
                             : "",
               segment->g ? " pages" : "", segment->s ? "" : " system",
               segment->unusable ? " unusable" : "");
}

static void report_system(struct report *report, const struct kvm_sregs *sregs)
{
    report_add(report,
               "  cr0  %016" PRIx64 "  cr2  %016" PRIx64 "  cr3  %016" PRIx64 "\n"
               "  cr4  %016" PRIx64 "  cr8  %016" PRIx64 "  efer %016" PRIx64 "\n",
               (uint64_t)sregs->cr0, (uint64_t)sregs->cr2, (uint64_t)sregs->cr3,
               (uint64_t)sregs->cr4, (uint64_t)sregs->cr8, (uint64_t)sregs->efer);
    report_segment(report, "cs", &sregs->cs);
    report_segment(report, "ss", &sregs->ss);
    report_segment(report, "ds", &sregs->ds);
    report_segment(report, "es", &sregs->es);
    report_segment(report, "fs", &sregs->fs);
    report_segment(report, "gs", &sregs->gs);
    report_segment(report, "tr", &sregs->tr);
    report_segment(report, "ldt", &sregs->ldt);
    report_add(report,
               "  gdt  base %016" PRIx64 " limit %04x   idt  base %016" PRIx64
               " limit %04x\n",
               (uint64_t)sregs->gdt.base, sregs->gdt.limit, (uint64_t)sregs->idt.base,
               sregs->idt.limit);
}

static void report_events(struct report *report, const struct vcpu_state *state)
{
    static const char *const mp_names[] = { "runnable", "uninitialized", "init-received",
                                            "halted", "sipi-received" };
    const struct kvm_vcpu_events *events = &state->events;
    uint32_t mp = state->mp.mp_state;

    report_add(report, "  mp state %s", mp < ARRAY_SIZE(mp_names) ? mp_names[mp] : "?");
    if (events->exception.injected) {
        report_add(report, ", exception %u error 0x%x being delivered",
                   events->exception.nr, events->exception.error_code);
    }
    if (events->interrupt.injected) {
        report_add(report, ", interrupt %u being delivered", events->interrupt.nr);
    }
    report_add(report, "%s%s\n", events->interrupt.shadow ? ", interrupt shadow" : "",
               events->nmi.masked ? ", NMI blocked" : "");
}

/* The bytes at CS:RIP that are mapped and RAM. */
static size_t report_fetch(struct vcpu *vcpu, uint64_t address,
                           uint8_t bytes[REPORT_CODE_BYTES])
{
    size_t count = 0;

    while (count < REPORT_CODE_BYTES) {
        size_t part = 4096 - (address + count) % 4096;
        uint64_t at;

        if (part > REPORT_CODE_BYTES - count) {
            part = REPORT_CODE_BYTES - count;
        }
        if (!vcpu_translate(vcpu, address + count, &at) ||
            guest_mem_read(vcpu->set->options.mem, at, bytes + count, part) < 0) {
            break;
        }
        count += part;
    }
    return count;
}

static void report_code(struct report *report, struct vcpu *vcpu,
                        const struct vcpu_state *state)
{
    const struct kvm_segment *cs = &state->sregs.cs;
    bool wide = (state->sregs.efer & 0x400) && cs->l; /* EFER.LMA */
    unsigned bits = wide ? 64 : cs->db ? 32 : 16;
    uint64_t rip = state->regs.rip;
    uint8_t bytes[REPORT_CODE_BYTES];
    size_t count = report_fetch(vcpu, wide ? rip : (uint32_t)(cs->base + rip), bytes);
    size_t at = 0;

    report_add(report, "  code at rip (%u-bit)%s\n", bits,
               count == 0 ? ": not in mapped memory" : ":");
    for (unsigned line = 0; line < REPORT_CODE_LINES && at < count; line++) {
        char text[96];
        int length =
            insn_disassemble(bytes + at, count - at, rip + at, bits, text, sizeof(text));

        report_add(report, "    %016" PRIx64 "  ", rip + at);
        for (int i = 0; i < (length > 0 ? length : 1); i++) {
            report_add(report, "%02x ", bytes[at + (size_t)i]);
        }
        report_add(report, " %s\n", text);
        if (length < 0) {
            break;
        }
        at += (size_t)length;
    }
}

static void report_last_exits(struct report *report, const struct exit_stats *stats)
{
    uint64_t count =
        stats->ring_next < REPORT_LAST_EXITS ? stats->ring_next : REPORT_LAST_EXITS;

    report_add(report, "last exits (oldest first):\n");
    for (uint64_t i = stats->ring_next - count; i < stats->ring_next; i++) {
        const struct exit_record *record = &stats->ring[i % EXIT_RING_SIZE];

        if (record->kind == EXIT_KEY_NONE) {
            report_add(report, "  %s\n", vcpu_exit_name(record->reason));
        } else {
            report_add(report, "  %-6s %-10s 0x%" PRIx64 " size %u value 0x%" PRIx64 "\n",
                       vcpu_exit_name(record->reason), exit_key_kind_name(record->kind),
                       record->key, record->size, record->value);
        }
    }
}

void vcpu_report(struct vcpu *vcpu, char *text, size_t size)
{
    const unsigned parts =
        VCPU_STATE_REGS | VCPU_STATE_SREGS | VCPU_STATE_EVENTS | VCPU_STATE_MP;
    struct report report = { .text = text, .size = size };
    struct vcpu_state *state = calloc(1, sizeof(*state));
    struct umbra_error error;

    text[0] = '\0';
    report_add(&report, "vCPU %u:\n", vcpu->index);
    if (state == NULL || vcpu_state_get(vcpu, parts, state, &error) < 0) {
        report_add(&report, "  its registers cannot be read: %s\n",
                   state == NULL ? "out of memory" : error.message);
    } else {
        report_registers(&report, &state->regs);
        report_system(&report, &state->sregs);
        report_events(&report, state);
        report_code(&report, vcpu, state);
    }
    free(state);
    report_last_exits(&report, vcpu->stats);
}
