/* SPDX-License-Identifier: MIT */
/* Looking into a VM and touching it: memory, registers, interrupts. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vcpu/x86_64/state.h"
#include "vmm/debug/inspect.h"
#include "vmm/vm/vm.h"

enum { PAGE_BYTES = 4096 };

int umbra_memory_read(struct umbra_vm *vm, uint64_t address, void *buffer, size_t length,
                      struct umbra_error *error)
{
    int ret = callback_foreign(vm, "umbra_memory_read", error);

    if (ret != 0) {
        return ret;
    }
    ret = guest_mem_read(vm->machine.mem, address, buffer, length);
    return ret < 0 ? error_set(error, UMBRA_ERROR_USAGE, -ret,
                               "read of %zu bytes at GPA 0x%" PRIx64
                               ": not all of it is memory",
                               length, address)
                   : 0;
}

int umbra_memory_write(struct umbra_vm *vm, uint64_t address, const void *buffer,
                       size_t length, struct umbra_error *error)
{
    int ret = callback_foreign(vm, "umbra_memory_write", error);

    if (ret != 0) {
        return ret;
    }
    ret = guest_mem_write(vm->machine.mem, address, buffer, length);
    return ret < 0 ? error_set(error, UMBRA_ERROR_USAGE, -ret,
                               "write of %zu bytes at GPA 0x%" PRIx64
                               ": not all of it is RAM",
                               length, address)
                   : 0;
}

int inspect_begin(struct umbra_vm *vm, unsigned index, const char *call,
                  struct vcpu **vcpu, struct umbra_error *error)
{
    int ret = vm_enter(vm, call, error);

    if (ret != 0) {
        return ret;
    }
    if (index >= vm->machine.vcpus->options.count) {
        ret = error_set(error, UMBRA_ERROR_USAGE, EINVAL, "%s: vCPU %u of %u", call,
                        index, vm->machine.vcpus->options.count);
    } else if (vm_state(vm) == VM_RUNNING) {
        ret = error_set(error, UMBRA_ERROR_STATE, EBUSY, "%s: pause the VM first", call);
    } else {
        *vcpu = &vm->machine.vcpus->vcpus[index];
        return 0;
    }
    vm_leave(vm);
    return ret;
}

void inspect_end(struct umbra_vm *vm)
{
    pthread_mutex_unlock(&vm->control);
}

static int inspect_translate(struct vcpu *vcpu, uint64_t gva, uint64_t *address,
                             struct umbra_error *error)
{
    if (!vcpu_translate(vcpu, gva, address)) {
        return error_set(error, UMBRA_ERROR_USAGE, EFAULT,
                         "GVA 0x%" PRIx64 " is not mapped on vCPU %u", gva, vcpu->index);
    }
    return 0;
}

int umbra_translate(struct umbra_vm *vm, unsigned index, uint64_t gva, uint64_t *address,
                    struct umbra_error *error)
{
    struct vcpu *vcpu;
    int ret = inspect_begin(vm, index, "umbra_translate", &vcpu, error);

    if (ret < 0) {
        return ret;
    }
    ret = inspect_translate(vcpu, gva, address, error);
    inspect_end(vm);
    return ret;
}

/* Page by page: first all of it is checked, then @copy runs on each piece. */
static int inspect_virtual(struct umbra_vm *vm, struct vcpu *vcpu, uint64_t gva,
                           uint8_t *buffer, size_t length, bool write,
                           struct umbra_error *error)
{
    for (int pass = 0; pass < 2; pass++) {
        for (size_t done = 0; done < length;) {
            size_t part = PAGE_BYTES - (gva + done) % PAGE_BYTES;
            uint64_t address;
            int ret;

            part = part < length - done ? part : length - done;
            ret = inspect_translate(vcpu, gva + done, &address, error);
            if (ret < 0) {
                return ret;
            }
            if (pass == 0) {
                ret =
                    (write ? guest_mem_ptr(vm->machine.mem, address, part) != NULL
                           : guest_mem_const_ptr(vm->machine.mem, address, part) != NULL)
                        ? 0
                        : error_set(error, UMBRA_ERROR_USAGE, EFAULT,
                                    "GVA 0x%" PRIx64 " maps GPA 0x%" PRIx64
                                    ", which is not RAM",
                                    gva + done, address);
            } else {
                ret = write ? umbra_memory_write(vm, address, buffer + done, part, error)
                            : umbra_memory_read(vm, address, buffer + done, part, error);
            }
            if (ret < 0) {
                return ret;
            }
            done += part;
        }
    }
    return 0;
}

int umbra_memory_read_virtual(struct umbra_vm *vm, unsigned index, uint64_t gva,
                              void *buffer, size_t length, struct umbra_error *error)
{
    struct vcpu *vcpu;
    int ret = inspect_begin(vm, index, "umbra_memory_read_virtual", &vcpu, error);

    if (ret < 0) {
        return ret;
    }
    ret = inspect_virtual(vm, vcpu, gva, buffer, length, false, error);
    inspect_end(vm);
    return ret;
}

int umbra_memory_write_virtual(struct umbra_vm *vm, unsigned index, uint64_t gva,
                               const void *buffer, size_t length,
                               struct umbra_error *error)
{
    struct vcpu *vcpu;
    int ret = inspect_begin(vm, index, "umbra_memory_write_virtual", &vcpu, error);

    if (ret < 0) {
        return ret;
    }
    /* inspect_virtual() only reads from the buffer when it writes to the guest. */
    ret =
        inspect_virtual(vm, vcpu, gva, (uint8_t *)(uintptr_t)buffer, length, true, error);
    inspect_end(vm);
    return ret;
}

/* ---- Registers ------------------------------------------------------------------------ */

/* Where each of the encoding's registers is in struct kvm_regs. */
static const size_t gpr_offsets[16] = {
    offsetof(struct kvm_regs, rax), offsetof(struct kvm_regs, rcx),
    offsetof(struct kvm_regs, rdx), offsetof(struct kvm_regs, rbx),
    offsetof(struct kvm_regs, rsp), offsetof(struct kvm_regs, rbp),
    offsetof(struct kvm_regs, rsi), offsetof(struct kvm_regs, rdi),
    offsetof(struct kvm_regs, r8),  offsetof(struct kvm_regs, r9),
    offsetof(struct kvm_regs, r10), offsetof(struct kvm_regs, r11),
    offsetof(struct kvm_regs, r12), offsetof(struct kvm_regs, r13),
    offsetof(struct kvm_regs, r14), offsetof(struct kvm_regs, r15),
};

/* Pairs of a public and a KVM segment register. */
static const struct {
    size_t public, kvm;
} segment_offsets[] = {
    { offsetof(struct umbra_registers, es), offsetof(struct kvm_sregs, es) },
    { offsetof(struct umbra_registers, cs), offsetof(struct kvm_sregs, cs) },
    { offsetof(struct umbra_registers, ss), offsetof(struct kvm_sregs, ss) },
    { offsetof(struct umbra_registers, ds), offsetof(struct kvm_sregs, ds) },
    { offsetof(struct umbra_registers, fs), offsetof(struct kvm_sregs, fs) },
    { offsetof(struct umbra_registers, gs), offsetof(struct kvm_sregs, gs) },
    { offsetof(struct umbra_registers, ldtr), offsetof(struct kvm_sregs, ldt) },
    { offsetof(struct umbra_registers, tr), offsetof(struct kvm_sregs, tr) },
};

static void segment_to_public(const struct kvm_segment *from, struct umbra_segment *to)
{
    *to = (struct umbra_segment){
        .base = from->base,
        .limit = from->limit,
        .selector = from->selector,
        .attributes =
            (uint16_t)(from->type | from->s << 4 | from->dpl << 5 | from->present << 7 |
                       from->avl << 8 | from->l << 9 | from->db << 10 | from->g << 11),
    };
}

static void segment_from_public(const struct umbra_segment *from, struct kvm_segment *to)
{
    uint16_t bits = from->attributes;

    *to = (struct kvm_segment){
        .base = from->base,
        .limit = from->limit,
        .selector = from->selector,
        .type = bits & 0xf,
        .s = bits >> 4 & 1,
        .dpl = bits >> 5 & 3,
        .present = bits >> 7 & 1,
        .avl = bits >> 8 & 1,
        .l = bits >> 9 & 1,
        .db = bits >> 10 & 1,
        .g = bits >> 11 & 1,
        .unusable = !(bits >> 7 & 1),
    };
}

static void registers_to_public(const struct vcpu_state *state,
                                struct umbra_registers *to)
{
    const struct kvm_sregs *sregs = &state->sregs;

    for (size_t i = 0; i < 16; i++) {
        memcpy(&to->gpr[i], (const char *)&state->regs + gpr_offsets[i],
               sizeof(uint64_t));
    }
    for (size_t i = 0; i < ARRAY_SIZE(segment_offsets); i++) {
        segment_to_public((const void *)((const char *)sregs + segment_offsets[i].kvm),
                          (void *)((char *)to + segment_offsets[i].public));
    }
    to->rip = state->regs.rip;
    to->rflags = state->regs.rflags;
    to->cr0 = sregs->cr0;
    to->cr2 = sregs->cr2;
    to->cr3 = sregs->cr3;
    to->cr4 = sregs->cr4;
    to->cr8 = sregs->cr8;
    to->efer = sregs->efer;
    to->gdt_base = sregs->gdt.base;
    to->gdt_limit = sregs->gdt.limit;
    to->idt_base = sregs->idt.base;
    to->idt_limit = sregs->idt.limit;
}

static void registers_from_public(const struct umbra_registers *from,
                                  struct vcpu_state *state)
{
    struct kvm_sregs *sregs = &state->sregs;

    for (size_t i = 0; i < 16; i++) {
        memcpy((char *)&state->regs + gpr_offsets[i], &from->gpr[i], sizeof(uint64_t));
    }
    for (size_t i = 0; i < ARRAY_SIZE(segment_offsets); i++) {
        segment_from_public(
            (const void *)((const char *)from + segment_offsets[i].public),
            (void *)((char *)sregs + segment_offsets[i].kvm));
    }
    state->regs.rip = from->rip;
    state->regs.rflags = from->rflags;
    sregs->cr0 = from->cr0;
    sregs->cr2 = from->cr2;
    sregs->cr3 = from->cr3;
    sregs->cr4 = from->cr4;
    sregs->cr8 = from->cr8;
    sregs->efer = from->efer;
    sregs->gdt.base = from->gdt_base;
    sregs->gdt.limit = from->gdt_limit;
    sregs->idt.base = from->idt_base;
    sregs->idt.limit = from->idt_limit;
}

enum { REGISTER_PARTS = VCPU_STATE_REGS | VCPU_STATE_SREGS };

int umbra_registers_get(struct umbra_vm *vm, unsigned index,
                        struct umbra_registers *registers, struct umbra_error *error)
{
    struct umbra_registers full = { .size = sizeof(full) };
    struct vcpu_state *state = calloc(1, sizeof(*state));
    struct vcpu *vcpu;
    int ret = -EINVAL;

    if (state == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "umbra_registers_get");
    }
    ret = inspect_begin(vm, index, "umbra_registers_get", &vcpu, error);
    if (ret == 0) {
        ret = vcpu_state_get(vcpu, REGISTER_PARTS, state, error);
        inspect_end(vm);
    }
    if (ret == 0) {
        uint32_t size = registers->size < sizeof(full) ? registers->size : sizeof(full);

        registers_to_public(state, &full);
        full.size = registers->size;
        memcpy(registers, &full, size);
    }
    free(state);
    return ret;
}

int umbra_registers_set(struct umbra_vm *vm, unsigned index,
                        const struct umbra_registers *registers,
                        struct umbra_error *error)
{
    struct vcpu_state *state;
    struct vcpu *vcpu;
    int ret = -EINVAL;

    if (registers->size < sizeof(*registers)) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_registers_set: size is %" PRIu32
                         ", at least %zu is needed",
                         registers->size, sizeof(*registers));
    }
    state = calloc(1, sizeof(*state));
    if (state == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "umbra_registers_set");
    }
    ret = inspect_begin(vm, index, "umbra_registers_set", &vcpu, error);
    if (ret == 0) {
        ret = vcpu_state_get(vcpu, REGISTER_PARTS, state, error);
        if (ret == 0) {
            registers_from_public(registers, state);
            ret = vcpu_state_set(vcpu, REGISTER_PARTS, state, error);
        }
        inspect_end(vm);
    }
    free(state);
    return ret;
}

/* ---- Interrupts ------------------------------------------------------------------------- */

int umbra_inject_irq(struct umbra_vm *vm, unsigned gsi, bool level,
                     struct umbra_error *error)
{
    int ret = callback_foreign(vm, "umbra_inject_irq", error);

    if (ret != 0) {
        return ret;
    }
    if (gsi >= IRQ_GSI_COUNT) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_inject_irq: pin %u of %d", gsi, IRQ_GSI_COUNT);
    }
    pthread_mutex_lock(&vm->inject_lock);
    irq_line_set(&vm->injected[gsi], level);
    pthread_mutex_unlock(&vm->inject_lock);
    return 0;
}

int umbra_inject_msi(struct umbra_vm *vm, uint64_t address, uint32_t data,
                     struct umbra_error *error)
{
    int ret = callback_foreign(vm, "umbra_inject_msi", error);

    if (ret != 0) {
        return ret;
    }
    ret = irq_send_msi(&vm->machine.kvm.irqs, address, data);
    return ret < 0 ? error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                                 "KVM refused the MSI 0x%" PRIx64 "/0x%" PRIx32, address,
                                 data)
                   : 0;
}

int umbra_inject_nmi(struct umbra_vm *vm, unsigned vcpu, struct umbra_error *error)
{
    bool running;
    int ret;

    if (vcpu >= vm->machine.vcpus->options.count) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_inject_nmi: vCPU %u of %u", vcpu,
                         vm->machine.vcpus->options.count);
    }
    /* KVM_NMI waits for KVM_RUN to return: have it do so. */
    ret = vm_enter(vm, "umbra_inject_nmi", error);
    if (ret != 0) {
        return ret;
    }
    running = vm_state(vm) == VM_RUNNING;
    if (running) {
        vcpu_set_pause(vm->machine.vcpus);
    }
    ret = vcpu_inject_nmi(&vm->machine.vcpus->vcpus[vcpu]);
    if (running) {
        vm_open_gate(vm);
    }
    pthread_mutex_unlock(&vm->control);
    return ret < 0 ? error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                                 "KVM_NMI on vCPU %u failed", vcpu)
                   : 0;
}
