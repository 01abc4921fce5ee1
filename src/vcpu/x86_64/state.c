/* SPDX-License-Identifier: MIT */
/* Getting and setting x86-64 vCPU state. */
#include "vcpu/x86_64/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "base/util.h"
#include "vcpu/x86_64/x86.h"

/* A part that is one fixed-size structure behind a pair of ioctls. */
struct state_part {
    unsigned part;
    const char *name;
    unsigned long get, set;
    size_t offset;
};

#define CR4_SMAP (UINT64_C(1) << 21)

#define STATE_PART(flag, what, member)                                                   \
    {                                                                                    \
        VCPU_STATE_##flag, #what, KVM_GET_##what, KVM_SET_##what,                        \
            offsetof(struct vcpu_state, member)                                          \
    }

/* In the order in which KVM wants them set: XCR0 needs CR4.OSXSAVE, the LAPIC needs the
 * APIC base (in SREGS) and precedes the MSRs (TSC deadline). */
static const struct state_part parts[] = {
    STATE_PART(REGS, REGS, regs),
    STATE_PART(SREGS, SREGS, sregs),
    STATE_PART(XSAVE, XCRS, xcrs),
    STATE_PART(XSAVE, XSAVE, xsave),
    STATE_PART(DEBUG, DEBUGREGS, debug),
    STATE_PART(LAPIC, LAPIC, lapic),
    STATE_PART(EVENTS, VCPU_EVENTS, events),
    STATE_PART(MP, MP_STATE, mp),
};

static int state_ioctl_failed(struct vcpu *vcpu, const char *verb, const char *name,
                              struct umbra_error *error)
{
    return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "KVM_%s_%s on vCPU %u failed",
                       verb, name, vcpu->index);
}

static int state_get_msrs(struct vcpu *vcpu, struct vcpu_msrs *msrs,
                          struct umbra_error *error)
{
    const struct vcpu_x86 *x86 = vcpu->arch;
    int got;

    msrs->count = x86->msr_count;
    msrs->pad = 0;
    for (uint32_t i = 0; i < x86->msr_count; i++) {
        msrs->entries[i] = (struct kvm_msr_entry){ .index = x86->msr_list[i] };
    }
    got = ioctl(vcpu->fd, KVM_GET_MSRS, msrs);
    if (got < 0) {
        return state_ioctl_failed(vcpu, "GET", "MSRS", error);
    }
    /* KVM stops at the first MSR it cannot read; what follows it is kept out. */
    msrs->count = (uint32_t)got;
    return 0;
}

int vcpu_state_get(struct vcpu *vcpu, unsigned wanted, struct vcpu_state *state,
                   struct umbra_error *error)
{
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        if ((wanted & parts[i].part) &&
            ioctl(vcpu->fd, parts[i].get, (char *)state + parts[i].offset) < 0) {
            return state_ioctl_failed(vcpu, "GET", parts[i].name, error);
        }
    }
    state->parts = wanted;
    return wanted & VCPU_STATE_MSRS ? state_get_msrs(vcpu, &state->msrs, error) : 0;
}

static int state_set_msrs(struct vcpu *vcpu, const struct vcpu_msrs *msrs,
                          struct umbra_error *error)
{
    /* Those that KVM lists but refuses to take back as they were (read-only ones) are
     * passed over one by one. */
    uint32_t next = 0;

    while (next < msrs->count) {
        struct vcpu_msrs *rest = malloc(sizeof(*rest));
        int set;

        if (rest == NULL) {
            return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot set MSRs");
        }
        rest->count = msrs->count - next;
        rest->pad = 0;
        memcpy(rest->entries, &msrs->entries[next],
               rest->count * sizeof(rest->entries[0]));
        set = ioctl(vcpu->fd, KVM_SET_MSRS, rest);
        free(rest);
        if (set < 0) {
            return state_ioctl_failed(vcpu, "SET", "MSRS", error);
        }
        next += (uint32_t)set + 1;
    }
    return 0;
}

int vcpu_state_set(struct vcpu *vcpu, unsigned wanted, const struct vcpu_state *state,
                   struct umbra_error *error)
{
    unsigned missing = wanted & ~state->parts;

    if (missing != 0) {
        return error_set(error, UMBRA_ERROR_INTERNAL, EINVAL,
                         "vCPU state parts 0x%x were never fetched", missing);
    }
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        int ret;

        if (!(wanted & parts[i].part)) {
            continue;
        }
        ret = ioctl(vcpu->fd, parts[i].set, (const char *)state + parts[i].offset);
        if (ret < 0) {
            return state_ioctl_failed(vcpu, "SET", parts[i].name, error);
        }
    }
    return wanted & VCPU_STATE_MSRS ? state_set_msrs(vcpu, &state->msrs, error) : 0;
}

int vcpu_msr_get(struct vcpu *vcpu, uint32_t index, uint64_t *value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } msr = { .header = { .nmsrs = 1 }, .entry = { .index = index } };
    int got = ioctl(vcpu->fd, KVM_GET_MSRS, &msr.header);

    if (got == 1) {
        *value = msr.entry.data;
        return 0;
    }
    return got < 0 ? -errno : -ENOENT;
}

int vcpu_msr_set(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } msr = { .header = { .nmsrs = 1 }, .entry = { .index = index, .data = value } };
    int set = ioctl(vcpu->fd, KVM_SET_MSRS, &msr.header);

    return set == 1 ? 0 : set < 0 ? -errno : -ENOENT;
}

enum {
    SEGMENT_DATA = 0x3, /* read/write, accessed */
    SEGMENT_CODE = 0xb, /* execute/read, accessed */
    SEGMENT_BUSY_TSS = 0xb,
};

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
    return (struct kvm_segment){
        .limit = 0xffffffff,
        .selector = selector,
        .type = type,
        .present = 1,
        .db = !long_mode || type == SEGMENT_DATA,
        .s = 1,
        .l = long_mode && type == SEGMENT_CODE,
        .g = 1,
    };
}

static void entry_sregs(const struct vcpu_entry *entry, struct kvm_sregs *sregs)
{
    bool long_mode = entry->mode == VCPU_ENTRY_LONG;
    struct kvm_segment data = flat_segment(entry->ds, SEGMENT_DATA, long_mode);

    if (entry->mode == VCPU_ENTRY_REAL) {
        sregs->cs.selector = entry->cs;
        sregs->cs.base = (uint64_t)entry->cs << 4;
        return;
    }
    sregs->cs = flat_segment(entry->cs, SEGMENT_CODE, long_mode);
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr =
        (struct kvm_segment){ .limit = 0x67, .type = SEGMENT_BUSY_TSS, .present = 1 };
    sregs->gdt.base = entry->gdt;
    sregs->gdt.limit = entry->gdt_limit;
    sregs->idt.base = 0;
    sregs->idt.limit = 0;
    sregs->cr0 = 0x11; /* PE, ET */
    sregs->cr4 = 0;
    sregs->efer = 0;
    if (long_mode) {
        sregs->cr0 = 0x80000011; /* PG, ET, PE */
        sregs->cr3 = entry->cr3;
        sregs->cr4 = 0x20;   /* PAE */
        sregs->efer = 0x500; /* LME, LMA */
    }
}

int vcpu_set_entry(struct vcpu *vcpu, const struct vcpu_entry *entry,
                   struct umbra_error *error)
{
    struct vcpu_state *state = calloc(1, sizeof(*state));
    int ret;

    if (state == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot set entry state");
    }
    ret = vcpu_state_get(vcpu, VCPU_STATE_REGS | VCPU_STATE_SREGS, state, error);
    if (ret == 0) {
        entry_sregs(entry, &state->sregs);
        state->regs = (struct kvm_regs){
            .rip = entry->rip,
            .rsp = entry->rsp,
            .rax = entry->rax,
            .rbx = entry->rbx,
            .rsi = entry->rsi,
            .rdi = entry->rdi,
            .rflags = 2,
        };
        ret = vcpu_state_set(vcpu, VCPU_STATE_REGS | VCPU_STATE_SREGS, state, error);
    }
    free(state);
    return ret;
}

static bool state_translate(struct vcpu *vcpu, uint64_t gva, uint64_t *gpa)
{
    struct kvm_translation translation = { .linear_address = gva };

    if (ioctl(vcpu->fd, KVM_TRANSLATE, &translation) < 0 || !translation.valid) {
        return false;
    }
    *gpa = translation.physical_address;
    return true;
}

bool vcpu_translate(struct vcpu *vcpu, uint64_t gva, uint64_t *gpa)
{
    struct kvm_sregs sregs, plain;
    bool mapped = state_translate(vcpu, gva, gpa);

    /* KVM asks as the guest's kernel would, whom SMAP keeps from user pages. */
    if (mapped || ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0 || !(sregs.cr4 & CR4_SMAP)) {
        return mapped;
    }
    plain = sregs;
    plain.cr4 &= ~CR4_SMAP;
    if (ioctl(vcpu->fd, KVM_SET_SREGS, &plain) < 0) {
        return false;
    }
    mapped = state_translate(vcpu, gva, gpa);
    return ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) == 0 && mapped;
}
