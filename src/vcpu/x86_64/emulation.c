/* SPDX-License-Identifier: MIT */
/* Instructions that KVM's emulator gave up on: completed by vcpu/x86_64/insn/insn.c on the vCPU's state. */
#include "vcpu/x86_64/emulation.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "base/util.h"
#include "vcpu/x86_64/insn/insn.h"
#include "vcpu/x86_64/state.h"
#include "vcpu/x86_64/walk.h"
#include "vcpu/x86_64/x86.h"

enum {
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE = 0xc0000101,
    VECTOR_DB = 1,
    VECTOR_UD = 6,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    INT3 = 0xcc,
    SYNC_AFTER = 16,
    BURST = 1000, /* some instructions take a microsecond; interrupts wait that long */
    SYNC_PARTS = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS,
    STATE_PARTS = VCPU_STATE_REGS | VCPU_STATE_SREGS | VCPU_STATE_EVENTS,
};

#define CR4_PGE UINT64_C(0x80)
#define DR6_BS  UINT64_C(0x4000)

/* Made at the first instruction to complete; belongs to the vCPU's thread, but for the
 * engine's counters. */
struct emulation {
    struct vcpu *vcpu;
    struct insn_engine *engine;
    struct insn_cpu cpu;
    struct vcpu_state state;
    _Alignas(64) struct kvm_xsave xsave;
    bool xsave_loaded;
    bool synced; /* state travels in the run structure */
    unsigned failures;
};

/* ---- The vCPU as vcpu/x86_64/insn/insn.h sees it ---- */

static int emulation_read(void *context, uint64_t address, void *buffer, size_t size,
                          enum insn_access access, struct insn_fault *fault)
{
    const struct emulation *emulation = context;

    return walk_read(emulation->vcpu->set->options.mem, &emulation->cpu, address, buffer,
                     size, access, fault);
}

static int emulation_write(void *context, uint64_t address, const void *buffer,
                           size_t size, struct insn_fault *fault)
{
    const struct emulation *emulation = context;

    return walk_write(emulation->vcpu->set->options.mem, &emulation->cpu, address, buffer,
                      size, fault);
}

static int emulation_exchange16(void *context, uint64_t address, uint64_t expected[2],
                                const uint64_t desired[2], bool *swapped,
                                struct insn_fault *fault)
{
    const struct emulation *emulation = context;

    return walk_exchange16(emulation->vcpu->set->options.mem, &emulation->cpu, address,
                           expected, desired, swapped, fault);
}

static int emulation_fpu_load(void *context, void **image, size_t *size)
{
    struct emulation *emulation = context;

    if (!emulation->xsave_loaded &&
        ioctl(emulation->vcpu->fd, KVM_GET_XSAVE, &emulation->xsave) < 0)
        return -errno;
    emulation->xsave_loaded = true;
    *image = &emulation->xsave;
    *size = sizeof(emulation->xsave.region);
    return 0;
}

static int emulation_xcr0_load(void *context, uint64_t *xcr0)
{
    const struct emulation *emulation = context;
    struct kvm_xcrs xcrs = { 0 };

    if (ioctl(emulation->vcpu->fd, KVM_GET_XCRS, &xcrs) < 0 || xcrs.nr_xcrs == 0)
        return -ENODEV;
    *xcr0 = xcrs.xcrs[0].value;
    return 0;
}

static int emulation_msr_read(void *context, uint32_t index, uint64_t *value)
{
    const struct emulation *emulation = context;

    return vcpu_msr_get(emulation->vcpu, index, value);
}

static int emulation_msr_write(void *context, uint32_t index, uint64_t value)
{
    const struct emulation *emulation = context;

    return vcpu_msr_set(emulation->vcpu, index, value);
}

/* KVM flushes when CR4.PGE changes, as the processor does. */
static int emulation_tlb_flush(void *context)
{
    struct emulation *emulation = context;
    struct kvm_sregs sregs = emulation->state.sregs;
    int fd = emulation->vcpu->fd;

    sregs.cr4 ^= CR4_PGE;
    if (ioctl(fd, KVM_SET_SREGS, &sregs) < 0 ||
        ioctl(fd, KVM_SET_SREGS, &emulation->state.sregs) < 0)
        return -errno;
    return 0;
}

static const struct insn_ops emulation_ops = {
    .read = emulation_read,
    .write = emulation_write,
    .exchange16 = emulation_exchange16,
    .fpu_load = emulation_fpu_load,
    .xcr0_load = emulation_xcr0_load,
    .msr_read = emulation_msr_read,
    .msr_write = emulation_msr_write,
    .tlb_flush = emulation_tlb_flush,
};

static struct insn_segment segment_load(const struct kvm_segment *from)
{
    return (struct insn_segment){
        .base = from->base,
        .limit = from->limit,
        .selector = from->selector,
        .type = from->type,
        .dpl = from->dpl,
        .system = !from->s,
        .unusable = from->unusable || !from->present,
        .db = from->db,
        .l = from->l,
    };
}

static void registers_copy(struct kvm_regs *regs, uint64_t *gpr, bool load)
{
    __u64 *const list[] = {
        &regs->rax, &regs->rcx, &regs->rdx, &regs->rbx, &regs->rsp, &regs->rbp,
        &regs->rsi, &regs->rdi, &regs->r8,  &regs->r9,  &regs->r10, &regs->r11,
        &regs->r12, &regs->r13, &regs->r14, &regs->r15,
    };

    for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
        if (load)
            gpr[i] = *list[i];
        else
            *list[i] = gpr[i];
    }
}

/*
 * Where failures are frequent (every kernel instruction that KVM's emulator lacks), the
 * ioctls that get and set state cost several times the exit itself. Then the state
 * travels in the run structure (KVM_CAP_SYNC_REGS); other exits pay for that, so not
 * before the @SYNC_AFTERth failure.
 */
static int emulation_fetch(struct emulation *emulation, struct umbra_error *error)
{
    struct vcpu *vcpu = emulation->vcpu;
    struct vcpu_state *state = &emulation->state;
    struct kvm_run *run = vcpu->run;

    emulation->synced = run->kvm_valid_regs == SYNC_PARTS;
    if (!emulation->synced) {
        if (++emulation->failures == SYNC_AFTER &&
            (ioctl(vcpu->set->options.vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS) &
             SYNC_PARTS) == SYNC_PARTS)
            run->kvm_valid_regs = SYNC_PARTS; /* from the next exit on */
        return vcpu_state_get(vcpu, STATE_PARTS, state, error);
    }
    state->regs = run->s.regs.regs;
    state->sregs = run->s.regs.sregs;
    state->events = run->s.regs.events;
    state->parts = STATE_PARTS;
    return 0;
}

/* Put @parts back; KVM takes synced ones over when it is entered, even only to return
 * (which is what a vCPU does before it waits at the gate). */
static int emulation_put(struct emulation *emulation, unsigned parts,
                         struct umbra_error *error)
{
    struct vcpu_state *state = &emulation->state;
    struct kvm_run *run = emulation->vcpu->run;

    /* An NMI that another vCPU sent since the exit must not be taken back. */
    state->events.flags &= ~(uint32_t)KVM_VCPUEVENT_VALID_NMI_PENDING;

    if (!emulation->synced)
        return vcpu_state_set(emulation->vcpu, parts, state, error);
    if (parts & VCPU_STATE_REGS) {
        run->s.regs.regs = state->regs;
        run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
    }
    if (parts & VCPU_STATE_SREGS) {
        run->s.regs.sregs = state->sregs;
        run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
    }
    if (parts & VCPU_STATE_EVENTS) {
        run->s.regs.events = state->events;
        run->kvm_dirty_regs |= KVM_SYNC_X86_EVENTS;
    }
    return 0;
}

static int emulation_load(struct emulation *emulation, struct umbra_error *error)
{
    struct vcpu_state *state = &emulation->state;
    const struct kvm_sregs *sregs = &state->sregs;
    struct insn_cpu *cpu = &emulation->cpu;
    int ret = emulation_fetch(emulation, error);

    if (ret < 0)
        return ret;
    memset(cpu, 0, sizeof(*cpu));
    registers_copy(&state->regs, cpu->gpr, true);
    cpu->rip = state->regs.rip;
    cpu->rflags = state->regs.rflags;
    cpu->cr0 = sregs->cr0;
    cpu->cr3 = sregs->cr3;
    cpu->cr4 = sregs->cr4;
    cpu->efer = sregs->efer;
    cpu->segment[INSN_ES] = segment_load(&sregs->es);
    cpu->segment[INSN_CS] = segment_load(&sregs->cs);
    cpu->segment[INSN_SS] = segment_load(&sregs->ss);
    cpu->segment[INSN_DS] = segment_load(&sregs->ds);
    cpu->segment[INSN_FS] = segment_load(&sregs->fs);
    cpu->segment[INSN_GS] = segment_load(&sregs->gs);
    cpu->ldt = segment_load(&sregs->ldt);
    cpu->gdt_base = sregs->gdt.base;
    cpu->gdt_limit = sregs->gdt.limit;
    cpu->cpl = sregs->ss.dpl;
    emulation->xsave_loaded = false;
    return 0;
}

/* ---- Putting the result back ---- */

/* Have KVM deliver an exception at the next entry. */
static void emulation_raise(struct emulation *emulation, unsigned vector,
                            bool has_error_code, uint32_t error_code)
{
    struct kvm_vcpu_events *events = &emulation->state.events;

    events->exception.injected = 1;
    events->exception.pending = 0;
    events->exception.nr = (uint8_t)vector;
    events->exception.has_error_code = has_error_code;
    events->exception.error_code = error_code;
}

static int emulation_debug_status(struct emulation *emulation, uint64_t bits,
                                  struct umbra_error *error)
{
    struct vcpu_state *state = &emulation->state;
    int ret = vcpu_state_get(emulation->vcpu, VCPU_STATE_DEBUG, state, error);

    if (ret == 0) {
        state->debug.dr6 |= bits;
        ret = vcpu_state_set(emulation->vcpu, VCPU_STATE_DEBUG, state, error);
    }
    state->parts = STATE_PARTS;
    return ret;
}

/* The exception of @outcome, or the single step that follows the instruction. */
static int emulation_events(struct emulation *emulation,
                            const struct insn_outcome *outcome, unsigned *parts,
                            struct umbra_error *error)
{
    struct vcpu_state *state = &emulation->state;

    if (outcome->single_step) {
        emulation_raise(emulation, VECTOR_DB, false, 0);
        *parts |= VCPU_STATE_EVENTS;
        return emulation_debug_status(emulation, DR6_BS, error);
    }
    if (outcome->result != INSN_EXCEPTION) {
        /* What an STI or MOV SS before this instruction held off may come now. */
        if (state->events.interrupt.shadow) {
            state->events.interrupt.shadow = 0;
            state->events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
            *parts |= VCPU_STATE_EVENTS;
        }
        return 0;
    }
    emulation_raise(emulation, outcome->vector, outcome->has_error_code,
                    outcome->error_code);
    *parts |= VCPU_STATE_EVENTS;
    if (outcome->vector == VECTOR_PF) {
        state->sregs.cr2 = outcome->payload;
        *parts |= VCPU_STATE_SREGS;
    }
    return outcome->vector == VECTOR_DB
               ? emulation_debug_status(emulation, outcome->payload, error)
               : 0;
}

/* XSETBV with a value that KVM does not offer this guest is a #GP, as any bad value is. */
static void emulation_set_xcr0(struct emulation *emulation, struct insn_outcome *outcome)
{
    struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = emulation->cpu.xcr0 };

    if (ioctl(emulation->vcpu->fd, KVM_SET_XCRS, &xcrs) == 0)
        return;
    emulation->cpu.rip = emulation->state.regs.rip;
    outcome->result = INSN_EXCEPTION;
    outcome->vector = VECTOR_GP;
    outcome->has_error_code = true;
    outcome->error_code = 0;
    outcome->single_step = false;
}

static int emulation_set_bases(struct emulation *emulation, struct umbra_error *error)
{
    const struct {
        uint32_t msr;
        __u64 *old;
        uint64_t new;
    } bases[] = {
        { MSR_FS_BASE, &emulation->state.sregs.fs.base,
          emulation->cpu.segment[INSN_FS].base },
        { MSR_GS_BASE, &emulation->state.sregs.gs.base,
          emulation->cpu.segment[INSN_GS].base },
    };

    for (size_t i = 0; i < ARRAY_SIZE(bases); i++) {
        if (*bases[i].old == bases[i].new)
            continue;
        if (vcpu_msr_set(emulation->vcpu, bases[i].msr, bases[i].new) < 0)
            return error_set(error, UMBRA_ERROR_INTERNAL, EIO,
                             "setting MSR 0x%x of vCPU %u failed", bases[i].msr,
                             emulation->vcpu->index);
        *bases[i].old = bases[i].new;
    }
    return 0;
}

static int emulation_store(struct emulation *emulation,
                           const struct insn_outcome *outcome, struct umbra_error *error)
{
    struct vcpu *vcpu = emulation->vcpu;
    struct insn_cpu *cpu = &emulation->cpu;
    struct vcpu_state *state = &emulation->state;
    unsigned parts = VCPU_STATE_REGS;
    int ret;

    registers_copy(&state->regs, cpu->gpr, false);
    state->regs.rip = cpu->rip;
    state->regs.rflags = cpu->rflags;
    if (cpu->fpu_changed && ioctl(vcpu->fd, KVM_SET_XSAVE, &emulation->xsave) < 0)
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "KVM_SET_XSAVE on vCPU %u failed", vcpu->index);
    ret = cpu->segments_changed ? emulation_set_bases(emulation, error) : 0;
    if (ret < 0)
        return ret;
    ret = emulation_events(emulation, outcome, &parts, error);
    return ret < 0 ? ret : emulation_put(emulation, parts, error);
}

/* ---- The exit ---- */

static struct emulation *emulation_get(struct vcpu *vcpu)
{
    struct vcpu_x86 *x86 = vcpu->arch;
    struct emulation *emulation = x86->emulation;

    if (emulation)
        return emulation;
    emulation = aligned_alloc(64, align_up(sizeof(*emulation), 64));
    if (!emulation)
        return NULL;
    memset(emulation, 0, sizeof(*emulation));
    emulation->vcpu = vcpu;
    if (insn_engine_create(&emulation->engine) < 0) {
        emulation_destroy(emulation);
        return NULL;
    }
    /* Pairs with vcpu_arch_stats(), on any thread. */
    __atomic_store_n(&x86->emulation, emulation, __ATOMIC_RELEASE);
    return emulation;
}

void emulation_destroy(struct emulation *emulation)
{
    if (!emulation)
        return;
    insn_engine_destroy(emulation->engine);
    free(emulation);
}

/* The instruction's bytes, as far as KVM says them. */
static size_t failure_bytes(const struct kvm_run *run, uint8_t bytes[INSN_MAX_LENGTH])
{
    size_t size = 0;

    if (run->emulation_failure.ndata > 0 &&
        (run->emulation_failure.flags &
         KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
        size = run->emulation_failure.insn_size;
    if (size > INSN_MAX_LENGTH)
        size = INSN_MAX_LENGTH;
    memcpy(bytes, run->emulation_failure.insn_bytes, size);
    return size;
}

static enum vcpu_verdict failure_end(struct vcpu *vcpu, uint64_t rip,
                                     const struct insn_outcome *outcome,
                                     const uint8_t *bytes, size_t count)
{
    char hex[3 * INSN_MAX_LENGTH + 1] = "";

    for (size_t i = 0; i < count; i++)
        snprintf(hex + 3 * i, 4, " %02x", bytes[i]);
    return vcpu_end(vcpu, VCPU_END_ERROR,
                    "vCPU %u, rip 0x%" PRIx64 ": neither KVM nor umbra can execute \"%s\""
                    " (%s) in place of the processor",
                    vcpu->index, rip, outcome->text, count ? hex + 1 : "no bytes");
}

enum vcpu_verdict vcpu_arch_emulation_failure(struct vcpu *vcpu)
{
    const struct vcpu_set_options *options = &vcpu->set->options;
    struct emulation *emulation = emulation_get(vcpu);
    uint8_t bytes[INSN_MAX_LENGTH];
    size_t count = failure_bytes(vcpu->run, bytes);
    struct insn_outcome outcome;
    struct umbra_error error;

    if (!emulation)
        return vcpu_end(vcpu, VCPU_END_ERROR,
                        "out of memory to complete an instruction of vCPU %u",
                        vcpu->index);
    if (emulation_load(emulation, &error) < 0)
        return vcpu_end(vcpu, VCPU_END_ERROR, "%s", error.message);
    if (count > 0 && bytes[0] == INT3 && options->int3 != NULL &&
        options->int3(options->context, vcpu, emulation->cpu.rip))
        return VCPU_GO_ON;
    insn_complete(emulation->engine, &emulation->cpu, &emulation_ops, emulation, bytes,
                  count, &outcome);
    /* Not while a debugger steps this vCPU. */
    if (outcome.computing && !outcome.single_step && !vcpu->stepped)
        insn_burst(emulation->engine, &emulation->cpu, &emulation_ops, emulation, BURST);
    if (outcome.result == INSN_UNHANDLED) {
        if (emulation->cpu.cpl == 0)
            return failure_end(vcpu, emulation->cpu.rip, &outcome, bytes, count);
        /* A guest's program must not end the guest: KVM's own answer is #UD. */
        outcome.result = INSN_EXCEPTION;
        outcome.vector = VECTOR_UD;
        outcome.has_error_code = false;
    }
    if (emulation->cpu.xcr0_changed)
        emulation_set_xcr0(emulation, &outcome);
    if (emulation_store(emulation, &outcome, &error) < 0)
        return vcpu_end(vcpu, VCPU_END_ERROR, "%s", error.message);
    return VCPU_GO_ON;
}

void vcpu_arch_stats(struct vcpu *vcpu, void *json)
{
    enum { MOST = 64 };
    struct vcpu_x86 *x86 = vcpu->arch;
    /* Pairs with emulation_get(). */
    struct emulation *emulation = __atomic_load_n(&x86->emulation, __ATOMIC_ACQUIRE);
    json_t *completed = json_object();
    json_t *by_mnemonic = json_object();
    struct insn_count counts[MOST];
    uint64_t total = 0;
    size_t n = 0;

    if (emulation)
        n = insn_counts(emulation->engine, counts, MOST, &total);
    for (size_t i = 0; i < n; i++)
        json_object_set_new(by_mnemonic, counts[i].mnemonic,
                            json_integer((json_int_t)counts[i].count));
    json_object_set_new(completed, "total", json_integer((json_int_t)total));
    json_object_set_new(completed, "by_mnemonic", by_mnemonic);
    json_object_set_new(json, "completed_instructions", completed);
}
