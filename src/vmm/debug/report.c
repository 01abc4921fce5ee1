/* SPDX-License-Identifier: MIT */
/* The report of an unexpected end, and of a VM on demand. */
#include "vcpu/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "vcpu/x86_64/look.h"
#include "vmm/debug/report.h"
#include "vmm/debug/unwind.h"
#include "vmm/symbols/symbols.h"
#include "vmm/vm/vm.h"

enum { REPORT_FAULTS = 8, REPORT_FRAMES = 32, REPORT_TAIL = 2048, REPORT_ORIGIN = 512 };

_Static_assert((int)REPORT_NAME_SIZE >= (int)SYMBOLS_TEXT, "names fit");

static bool report_wanted(enum umbra_outcome_kind kind)
{
    return kind == UMBRA_OUTCOME_TRIPLE_FAULT || kind == UMBRA_OUTCOME_ERROR ||
           kind == UMBRA_OUTCOME_DEADLINE || kind == UMBRA_OUTCOME_PANIC;
}

static void report_name(void *context, uint64_t address, char *text)
{
    symbols_describe(context, address, text);
}

/* ---- Backtraces -------------------------------------------------------------------------------- */

/* What unwinding works on. */
struct stack {
    struct umbra_vm *vm;
    struct vcpu_look look;
};

static bool stack_read(void *context, uint64_t address, void *buffer, size_t size)
{
    const struct stack *stack = context;

    return vcpu_look_read(&stack->look, address, buffer, size);
}

static bool stack_rule(void *context, uint64_t pc, struct orc_rule *rule)
{
    const struct stack *stack = context;

    return stack->look.bits == 64 && symbols_unwind_rule(stack->vm, pc, rule);
}

static bool stack_is_code(void *context, uint64_t address)
{
    const struct stack *stack = context;
    bool kernel = stack->look.regs.rip >> 63 != 0;

    /* In a kernel of the upper half of addresses the lower one is its programs'. */
    return (!kernel || address >> 63 != 0) && vcpu_look_executable(&stack->look, address);
}

static void report_frame(struct umbra_vm *vm, unsigned number,
                         const struct unwind_frame *frame, struct text *text)
{
    /* A call that never returns may be a function's last instruction: ask for the call. */
    bool called = frame->how == UNWIND_TABLE || frame->how == UNWIND_FRAME_POINTER ||
                  frame->how == UNWIND_GUESS;
    struct umbra_symbol symbol = { .size = sizeof(symbol) };

    text_add(text, "  #%-2u %s%016" PRIx64, number,
             frame->how == UNWIND_GUESS ? "? " : "", frame->pc);
    if (umbra_symbol_at(vm, frame->pc - called, &symbol, NULL) == 0) {
        text_add(text, " %s+0x%" PRIx64, symbol.name, symbol.offset + called);
        if (symbol.length > 0) {
            text_add(text, "/0x%" PRIx64, symbol.length);
        }
        if (symbol.module[0] != '\0') {
            text_add(text, " [%s]", symbol.module);
        }
    }
    text_add(text, "%s\n", frame->how == UNWIND_INTERRUPT ? "  <interrupted>" : "");
}

static void report_backtrace(struct umbra_vm *vm, struct vcpu *vcpu, struct text *text)
{
    struct stack stack = { .vm = vm };
    struct unwind_frame frames[REPORT_FRAMES];
    struct unwind_registers registers;
    const struct unwind_ops ops = { .read = stack_read,
                                    .rule = stack_rule,
                                    .is_code = stack_is_code,
                                    .context = &stack };
    bool complete, guessed = false;
    unsigned count;

    if (vcpu_look_begin(vcpu, &stack.look) < 0) {
        return;
    }
    if (stack.look.bits == 16) {
        text_add(text, "backtrace: none of 16-bit code\n");
        return;
    }
    registers = (struct unwind_registers){
        .rip = stack.look.code + stack.look.regs.rip,
        .rsp = stack.look.stack + stack.look.regs.rsp,
        .rbp = stack.look.stack + stack.look.regs.rbp,
        .rdx = stack.look.regs.rdx,
        .rdi = stack.look.regs.rdi,
        .r10 = stack.look.regs.r10,
        .r13 = stack.look.regs.r13,
        .word = stack.look.bits / 8,
    };
    count = unwind(&ops, &registers, frames, REPORT_FRAMES, &complete);
    text_add(text, "backtrace\n");
    for (unsigned i = 0; i < count; i++) {
        report_frame(vm, i, &frames[i], text);
        guessed |= frames[i].how == UNWIND_GUESS;
    }
    if (guessed) {
        text_add(text,
                 "  (? is a return address found on the stack, perhaps an old one)\n");
    } else if (!complete && count == REPORT_FRAMES) {
        text_add(text, "  ...\n");
    }
}

/* ---- Reports ----------------------------------------------------------------------------------- */

static void report_vcpu(struct umbra_vm *vm, struct vcpu *vcpu, struct text *text)
{
    const struct report_names names = { .name = report_name, .context = vm };

    text_add(text, "vCPU %u\n", vcpu->index);
    vcpu_report_state(vcpu, &names, text);
    vcpu_report_code(vcpu, &names, text);
    report_backtrace(vm, vcpu, text);
    vcpu_report_walks(vcpu, text);
    vcpu_report_exits(vcpu, text);
}

/* A vCPU beside the one that matters. */
static void report_vcpu_briefly(struct umbra_vm *vm, struct vcpu *vcpu, struct text *text)
{
    text_add(text, "vCPU %u ", vcpu->index);
    report_backtrace(vm, vcpu, text);
}

/* What was planned to go wrong and did, the last of it: it may be why. */
static void report_faults(struct umbra_vm *vm, struct text *text)
{
    uint64_t count = faults_count(vm->machine.faults);
    struct umbra_fault_event event;

    if (count == 0) {
        return;
    }
    text_add(text, "planned faults: %" PRIu64 " happened\n", count);
    for (uint64_t i = count > REPORT_FAULTS ? count - REPORT_FAULTS : 0; i < count; i++) {
        if (faults_event_at(vm->machine.faults, i, &event) == 0) {
            text_add(text, "  %s of %s, opportunity %" PRIu64 ", after %.6f s\n",
                     umbra_fault_name(event.kind), event.device, event.opportunity,
                     (double)event.time_ns / 1e9);
        }
    }
}

static void report_head(struct umbra_vm *vm, struct text *text)
{
    char origin[REPORT_ORIGIN];

    symbols_origin(vm, origin, sizeof(origin));
    text_add(text, "kernel   %s\n", vm->machine.entry.description);
    text_add(text, "paging   %s\n", kvm_has_nested_paging() ? "nested" : "shadow");
    text_add(text, "symbols  %s\n", origin[0] != '\0' ? origin : "none");
    report_faults(vm, text);
}

void report_write(struct umbra_vm *vm, const struct vm_end *end, char *buffer,
                  size_t size)
{
    const unsigned count = vm->machine.vcpus->options.count;
    unsigned index = end->vcpu == UINT32_MAX ? 0 : end->vcpu;
    struct text text;

    text_fixed(&text, buffer, size);
    if (!report_wanted(end->kind)) {
        return;
    }
    report_head(vm, &text);
    report_vcpu(vm, &vm->machine.vcpus->vcpus[index], &text);
    for (unsigned i = 0; i < count; i++) {
        if (i != index) {
            report_vcpu_briefly(vm, &vm->machine.vcpus->vcpus[i], &text);
        }
    }
}

/* The last lines of the first console, told apart from ours. */
static void report_console(struct umbra_vm *vm, struct text *text)
{
    char tail[REPORT_TAIL];

    console_tail(&vm->machine.consoles[0], tail, sizeof(tail));
    text_add(text, "console%s\n", tail[0] != '\0' ? "" : ": nothing was printed");
    for (const char *line = tail; *line != '\0';) {
        size_t length = strcspn(line, "\n");
        size_t shown = length > 0 && line[length - 1] == '\r' ? length - 1 : length;

        text_add(text, "  | %.*s\n", (int)shown, line);
        line += length + (line[length] == '\n');
    }
}

/* Everything stands still; the caller holds control. */
static void report_all(struct umbra_vm *vm, enum vm_state state, struct text *text)
{
    static const char *const states[] = { "created", "running", "paused", "ended" };

    text_add(text, "state    %s", states[state]);
    if (state == VM_ENDED) {
        text_add(text, ": %s", vm->outcome.reason);
    }
    text_add(text, "\n");
    report_head(vm, text);
    for (unsigned i = 0; i < vm->machine.vcpus->options.count; i++) {
        report_vcpu(vm, &vm->machine.vcpus->vcpus[i], text);
    }
    report_console(vm, text);
}

char *umbra_vm_report(struct umbra_vm *vm, struct umbra_error *error)
{
    enum vm_state state;
    struct text text;

    if (callback_refuse(vm, "umbra_vm_report", error) != 0) {
        return NULL;
    }
    if (text_grown(&text) < 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "umbra_vm_report");
        return NULL;
    }
    pthread_mutex_lock(&vm->control);
    state = vm_state(vm);
    if (state == VM_RUNNING) {
        vcpu_set_pause(vm->machine.vcpus);
    }
    report_all(vm, state, &text);
    if (state == VM_RUNNING) {
        vm_open_gate(vm);
    }
    pthread_mutex_unlock(&vm->control);
    return text.data;
}
