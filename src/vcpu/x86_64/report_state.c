/* SPDX-License-Identifier: MIT */
/*
 * The state of a vCPU in the order of a VMCS (Intel SDM volume 3, chapter 25), as far as KVM
 * shows it, whatever processor is underneath.
 */
#include "vcpu/x86_64/report_state.h"

#include <inttypes.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "vcpu/x86_64/cpu_model.h"

struct bit_name {
    uint8_t bit;
    const char *name;
};

static const struct bit_name cr0_bits[] = {
    { 31, "PG" }, { 30, "CD" }, { 29, "NW" }, { 18, "AM" }, { 16, "WP" },
    { 5, "NE" },  { 3, "TS" },  { 2, "EM" },  { 1, "MP" },  { 0, "PE" },
};
static const struct bit_name cr4_bits[] = {
    { 0, "VME" },      { 1, "PVI" },    { 2, "TSD" },         { 3, "DE" },
    { 4, "PSE" },      { 5, "PAE" },    { 6, "MCE" },         { 7, "PGE" },
    { 8, "PCE" },      { 9, "OSFXSR" }, { 10, "OSXMMEXCPT" }, { 11, "UMIP" },
    { 12, "LA57" },    { 13, "VMXE" },  { 16, "FSGSBASE" },   { 17, "PCIDE" },
    { 18, "OSXSAVE" }, { 20, "SMEP" },  { 21, "SMAP" },       { 22, "PKE" },
    { 23, "CET" },     { 24, "PKS" },
};
static const struct bit_name efer_bits[] = {
    { 0, "SCE" },  { 8, "LME" },   { 10, "LMA" },
    { 11, "NXE" }, { 12, "SVME" }, { 14, "FFXSR" },
};
static const struct bit_name rflags_bits[] = {
    { 0, "CF" },  { 2, "PF" },   { 4, "AF" },   { 6, "ZF" },  { 7, "SF" },  { 8, "TF" },
    { 9, "IF" },  { 10, "DF" },  { 11, "OF" },  { 14, "NT" }, { 16, "RF" }, { 17, "VM" },
    { 18, "AC" }, { 19, "VIF" }, { 20, "VIP" }, { 21, "ID" },
};

static void add_register(struct text *text, const char *name, uint64_t value,
                         const struct bit_name *bits, size_t count)
{
    text_add(text, "  %-8s %016" PRIx64, name, value);
    for (size_t i = 0; i < count; i++) {
        if (value >> bits[i].bit & 1) {
            text_add(text, " %s", bits[i].name);
        }
    }
    text_add(text, "\n");
}

/* Access rights in the format of the VMCS (25.4.1). */
static uint32_t segment_rights(const struct kvm_segment *s)
{
    return s->type | (uint32_t)s->s << 4 | (uint32_t)s->dpl << 5 |
           (uint32_t)s->present << 7 | (uint32_t)s->avl << 12 | (uint32_t)s->l << 13 |
           (uint32_t)s->db << 14 | (uint32_t)s->g << 15 | (uint32_t)s->unusable << 16;
}

static void add_segment(struct text *text, const char *name, const struct kvm_segment *s)
{
    const char *kind = s->unusable || !s->present ? "unusable"
                       : !s->s                    ? "system"
                       : s->type & 8              ? "code"
                                                  : "data";

    text_add(
        text, "  %-8s %04x  base %016" PRIx64 " limit %08x rights %05x (%s, DPL %u%s)\n",
        name, s->selector, (uint64_t)s->base, s->limit, segment_rights(s), kind, s->dpl,
        s->type & 8 && s->s ? s->l    ? ", 64-bit"
                              : s->db ? ", 32-bit"
                                      : ", 16-bit"
                            : "");
}

static void add_msrs(const struct vcpu_msrs *msrs, struct text *text)
{
    static const struct {
        uint32_t index;
        const char *name;
    } known[] = {
        { 0xc0000081, "STAR" },
        { 0xc0000082, "LSTAR" },
        { 0xc0000083, "CSTAR" },
        { 0xc0000084, "SFMASK" },
        { 0xc0000102, "KERNEL_GS" },
        { 0x174, "SYSENTER_CS" },
        { 0x175, "SYSENTER_ESP" },
        { 0x176, "SYSENTER_EIP" },
        { 0x277, "PAT" },
        { 0x10, "TSC" },
        { 0xc0000103, "TSC_AUX" },
        { 0x6e0, "TSC_DEADLINE" },
        { 0x1b, "APIC_BASE" },
        { 0x1a0, "MISC_ENABLE" },
        { 0x48, "SPEC_CTRL" },
        { 0x3b, "TSC_ADJUST" },
        { 0x4b564d01, "KVM_CLOCK" },
        { 0x4b564d03, "KVM_STEAL" },
    };
    unsigned column = 0;

    for (size_t k = 0; k < ARRAY_SIZE(known); k++) {
        for (uint32_t i = 0; i < msrs->count; i++) {
            if (msrs->entries[i].index == known[k].index) {
                text_add(text, "%s%-12s %016" PRIx64, column % 3 == 0 ? "\n  " : "  ",
                         known[k].name, (uint64_t)msrs->entries[i].data);
                column++;
            }
        }
    }
    text_add(text, "\n");
}

static void add_activity(const struct vcpu_state *state, struct text *text)
{
    static const char *const mp_names[] = { "active", "wait-for-INIT", "INIT received",
                                            "HLT", "wait-for-SIPI" };
    const struct kvm_vcpu_events *events = &state->events;
    uint32_t mp = state->mp.mp_state;

    text_add(text, "  activity %s; blocked by%s%s%s%s\n",
             mp < ARRAY_SIZE(mp_names) ? mp_names[mp] : "?",
             events->interrupt.shadow & 1 ? " MOV-SS" : "",
             events->interrupt.shadow & 2 ? " STI" : "", events->nmi.masked ? " NMI" : "",
             (events->interrupt.shadow & 3) == 0 && !events->nmi.masked ? " nothing"
                                                                        : "");
}

void report_guest_state(const struct vcpu_state *state, struct text *text)
{
    const struct kvm_sregs *s = &state->sregs;

    add_register(text, "CR0", s->cr0, cr0_bits, ARRAY_SIZE(cr0_bits));
    text_add(text, "  CR2      %016" PRIx64 "\n  CR3      %016" PRIx64 "\n",
             (uint64_t)s->cr2, (uint64_t)s->cr3);
    add_register(text, "CR4", s->cr4, cr4_bits, ARRAY_SIZE(cr4_bits));
    add_register(text, "EFER", s->efer, efer_bits, ARRAY_SIZE(efer_bits));
    add_register(text, "RFLAGS", state->regs.rflags, rflags_bits,
                 ARRAY_SIZE(rflags_bits));
    text_add(text, "  DR6      %016" PRIx64 "  DR7 %016" PRIx64 "\n",
             (uint64_t)state->debug.dr6, (uint64_t)state->debug.dr7);
    add_segment(text, "CS", &s->cs);
    add_segment(text, "SS", &s->ss);
    add_segment(text, "DS", &s->ds);
    add_segment(text, "ES", &s->es);
    add_segment(text, "FS", &s->fs);
    add_segment(text, "GS", &s->gs);
    add_segment(text, "LDTR", &s->ldt);
    add_segment(text, "TR", &s->tr);
    text_add(text,
             "  GDTR           base %016" PRIx64 " limit %08x\n"
             "  IDTR           base %016" PRIx64 " limit %08x",
             (uint64_t)s->gdt.base, s->gdt.limit, (uint64_t)s->idt.base, s->idt.limit);
    add_msrs(&state->msrs, text);
    add_activity(state, text);
}

/* ---- Controls ---------------------------------------------------------------------------------- */

/* What will be delivered at the next entry (the VM-entry interruption-information field). */
static void add_entry_event(const struct kvm_vcpu_events *events, struct text *text)
{
    static const char *const exceptions[] = {
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "?",
        "#TS", "#NP", "#SS", "#GP", "#PF", "?",   "#MF", "#AC", "#MC", "#XM",
    };

    text_add(text, "  at the next entry");
    if (events->exception.injected || events->exception.pending) {
        text_add(text, " exception %u (%s) error code 0x%x", events->exception.nr,
                 events->exception.nr < ARRAY_SIZE(exceptions)
                     ? exceptions[events->exception.nr]
                     : "?",
                 events->exception.error_code);
    }
    if (events->interrupt.injected) {
        text_add(text, " %s interrupt %u",
                 events->interrupt.soft ? "software" : "external", events->interrupt.nr);
    }
    text_add(text, "%s%s%s\n", events->nmi.injected || events->nmi.pending ? " NMI" : "",
             events->smi.pending ? " SMI" : "",
             !events->exception.injected && !events->exception.pending &&
                     !events->interrupt.injected && !events->nmi.injected &&
                     !events->nmi.pending && !events->smi.pending
                 ? " nothing"
                 : "");
}

static uint32_t lapic_register(const struct kvm_lapic_state *lapic, unsigned offset)
{
    return load_le32(lapic->regs + offset);
}

/* The vectors set in a 256-bit register of the APIC. */
static void add_vectors(const struct kvm_lapic_state *lapic, unsigned offset,
                        const char *name, struct text *text)
{
    bool any = false;

    text_add(text, ", %s", name);
    for (unsigned vector = 0; vector < 256; vector++) {
        if (lapic_register(lapic, offset + vector / 32 * 16) >> vector % 32 & 1) {
            text_add(text, " %02x", vector);
            any = true;
        }
    }
    text_add(text, "%s", any ? "" : " none");
}

/* Register offsets: Intel SDM vol. 3, table 11-1. */
static void add_lapic(const struct vcpu_state *state, struct text *text)
{
    enum { ID = 0x20, TPR = 0x80, ISR = 0x100, IRR = 0x200, LVT_TIMER = 0x320 };
    const struct kvm_lapic_state *lapic = &state->lapic;
    uint64_t base = state->sregs.apic_base;
    uint32_t timer = lapic_register(lapic, LVT_TIMER);
    static const char *const modes[] = { "one-shot", "periodic", "deadline", "?" };

    text_add(text, "  local APIC %s, TPR %02x",
             !(base & 0x800) ? "off"
             : base & 0x400  ? "x2APIC"
                             : "xAPIC",
             lapic_register(lapic, TPR) & 0xff);
    add_vectors(lapic, ISR, "in service", text);
    add_vectors(lapic, IRR, "requested", text);
    text_add(text, "; timer %s vector %02x%s\n", modes[timer >> 17 & 3], timer & 0xff,
             timer & 0x10000 ? " masked" : "");
}

static bool tsc_offset(struct vcpu *vcpu, uint64_t *offset)
{
    const struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uintptr_t)offset,
    };

    return ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attribute) == 0;
}

void report_controls(struct vcpu *vcpu, const struct vcpu_state *state, struct text *text)
{
    const struct cpu_model_options *model = &vcpu->set->options.model->options;
    struct kvm_xcrs xcrs;
    uint64_t offset;
    int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

    text_add(text, "  exits on%s%s%s%s%s\n", model->exit_hlt ? " HLT" : "",
             model->exit_pause ? " PAUSE" : "", model->exit_mwait ? " MWAIT" : "",
             model->bus_lock_exit ? " bus locks" : "",
             atomic_load(&vcpu->set->hooked) ? "; hooks are set" : "");
    text_add(text, "  TSC");
    if (khz > 0) {
        text_add(text, " %d kHz", khz);
    }
    if (tsc_offset(vcpu, &offset)) {
        text_add(text, ", offset %016" PRIx64, offset);
    }
    if (ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs) == 0 && xcrs.nr_xcrs > 0) {
        text_add(text, ", XCR0 %" PRIx64, (uint64_t)xcrs.xcrs[0].value);
    }
    text_add(text, "\n");
    add_entry_event(&state->events, text);
    add_lapic(state, text);
}
