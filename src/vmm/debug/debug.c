/* SPDX-License-Identifier: MIT */
/* Stopping guests where the embedder wants them stopped. */
#include "vmm/debug/debug.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "vcpu/x86_64/state.h"
#include "vmm/vm/vm.h"

enum { INT3 = 0xcc };

#define STEP_LIMIT_NS UINT64_C(1000000000)

static struct debug_breakpoint *debug_find(struct debug *debug,
                                           enum umbra_breakpoint_kind kind, uint64_t gva)
{
    for (unsigned i = 0; i < debug->count; i++) {
        if (debug->list[i].kind == kind && debug->list[i].gva == gva) {
            return &debug->list[i];
        }
    }
    return NULL;
}

/* ---- Hits ------------------------------------------------------------------------------- */

/* The first stop counts; the keeper holds the rest. */
static void debug_note(struct umbra_vm *vm, struct vcpu *vcpu, enum umbra_stop_kind kind,
                       const struct vcpu_debug_stop *hit)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->stop.kind == UMBRA_STOP_NONE) {
        vm->stop = (struct umbra_stop){
            .size = sizeof(vm->stop),
            .kind = kind,
            .vcpu = vcpu->index,
            .pc = hit->pc,
            .address = hit->address,
        };
    }
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    vcpu_set_close(vm->machine.vcpus);
}

/* What a watchpoint watches; false: not mapped yet. */
static bool debug_value(struct umbra_vm *vm, struct vcpu *vcpu,
                        struct debug_breakpoint *breakpoint, uint64_t *value)
{
    uint8_t bytes[sizeof(*value)] = { 0 };

    if (!breakpoint->placed) {
        breakpoint->placed =
            vcpu_translate(vcpu, breakpoint->gva, &breakpoint->gpa) ||
            boot_entry_physical(&vm->machine.entry, breakpoint->gva, &breakpoint->gpa);
    }
    if (!breakpoint->placed ||
        guest_mem_read(vm->machine.mem, breakpoint->gpa, bytes, breakpoint->length) < 0) {
        return false;
    }
    *value = load_le64(bytes);
    return true;
}

/* After a step of a guest that runs in steps: is there anything to stop for? */
static void debug_look(struct umbra_vm *vm, struct vcpu *vcpu,
                       const struct vcpu_debug_stop *step)
{
    for (unsigned i = 0; i < vm->debug->count; i++) {
        struct debug_breakpoint *breakpoint = &vm->debug->list[i];
        struct vcpu_debug_stop hit = *step;
        uint64_t value;

        if (breakpoint->kind == UMBRA_BREAKPOINT_SOFTWARE ||
            breakpoint->kind == UMBRA_BREAKPOINT_HARDWARE) {
            if (breakpoint->gva == step->pc) {
                debug_note(vm, vcpu, UMBRA_STOP_BREAKPOINT, &hit);
                return;
            }
        } else if (debug_value(vm, vcpu, breakpoint, &value) &&
                   __atomic_exchange_n(&breakpoint->value, value, __ATOMIC_ACQ_REL) !=
                       value) {
            hit.address = breakpoint->gva;
            debug_note(vm, vcpu, UMBRA_STOP_WATCHPOINT, &hit);
            return;
        }
    }
}

void debug_hit(void *context, struct vcpu *vcpu)
{
    static const enum umbra_stop_kind kinds[] = {
        [VCPU_DEBUG_STEP] = UMBRA_STOP_STEP,
        [VCPU_DEBUG_SOFTWARE] = UMBRA_STOP_BREAKPOINT,
        [VCPU_DEBUG_EXECUTE] = UMBRA_STOP_BREAKPOINT,
        [VCPU_DEBUG_WRITE] = UMBRA_STOP_WATCHPOINT,
        [VCPU_DEBUG_ACCESS] = UMBRA_STOP_WATCHPOINT,
    };
    struct umbra_vm *vm = context;
    struct vcpu_debug_stop hit;

    vcpu_debug_decode(vcpu, &vm->debug->active, &hit);
    /* Written while the gate was closed. */
    if (hit.kind == VCPU_DEBUG_STEP && vm->debug->stepped && !vm->stepping) {
        debug_look(vm, vcpu, &hit);
        return;
    }
    if (hit.kind == VCPU_DEBUG_SOFTWARE &&
        debug_find(vm->debug, UMBRA_BREAKPOINT_SOFTWARE, hit.pc) == NULL) {
        struct vcpu_debug inject = vm->debug->active;

        inject.inject_breakpoint = true; /* the guest's own int3 */
        vcpu_debug_set(vcpu, &inject);
        return;
    }
    debug_note(vm, vcpu, kinds[hit.kind], &hit);
}

bool debug_int3(void *context, struct vcpu *vcpu, uint64_t pc)
{
    const struct vcpu_debug_stop hit = { .pc = pc, .address = pc };
    struct umbra_vm *vm = context;

    if (debug_find(vm->debug, UMBRA_BREAKPOINT_SOFTWARE, pc) == NULL) {
        return false;
    }
    debug_note(vm, vcpu, UMBRA_STOP_BREAKPOINT, &hit);
    return true;
}

/* Whether this host's KVM stops a guest for a breakpoint of that kind. KVM's emulator, where
 * it runs guest kernels, does not look at debug registers for data. */
static bool debug_stops(const struct umbra_vm *vm, enum umbra_breakpoint_kind kind)
{
    bool watch = kind == UMBRA_WATCHPOINT_WRITE || kind == UMBRA_WATCHPOINT_ACCESS;

    return !vm->debug->only_steps && !(watch && vm->machine.probe.cpl0_interpreted);
}

/* ---- Setting and clearing; the caller holds control and nothing runs ---------------------- */

static int debug_apply(struct umbra_vm *vm)
{
    struct vcpu_debug active = { 0 };
    int ret = 0;

    for (unsigned i = 0; i < vm->debug->count; i++) {
        const struct debug_breakpoint *breakpoint = &vm->debug->list[i];

        if (!debug_stops(vm, breakpoint->kind)) {
            active.step = true;
            /* An interrupt's handler runs without steps where steps are RFLAGS.TF. */
            active.interrupts = !vm->debug->only_steps;
        }
        if (breakpoint->kind == UMBRA_BREAKPOINT_SOFTWARE) {
            active.software = true;
            continue;
        }
        if (active.count == VCPU_DEBUG_REGISTERS) {
            return -ENOSPC;
        }
        active.registers[active.count].kind =
            breakpoint->kind == UMBRA_BREAKPOINT_HARDWARE ? VCPU_DEBUG_EXECUTE
            : breakpoint->kind == UMBRA_WATCHPOINT_WRITE  ? VCPU_DEBUG_WRITE
                                                          : VCPU_DEBUG_ACCESS;
        active.registers[active.count].address = breakpoint->gva;
        active.registers[active.count].length = breakpoint->length;
        active.count++;
    }
    vm->debug->active = active;
    vm->debug->stepped = active.step;
    for (unsigned i = 0; ret == 0 && i < vm->machine.vcpus->options.count; i++) {
        ret = vcpu_debug_set(&vm->machine.vcpus->vcpus[i], &active);
    }
    return ret;
}

/* Write the int3 of a software breakpoint, or take it back. */
static int debug_patch(struct umbra_vm *vm, struct debug_breakpoint *breakpoint,
                       bool insert)
{
    const uint8_t int3 = INT3;

    if (breakpoint->kind != UMBRA_BREAKPOINT_SOFTWARE || vm->debug->only_steps) {
        return 0;
    }
    return guest_mem_load(vm->machine.mem, breakpoint->gpa,
                          insert ? &int3 : &breakpoint->original, 1);
}

static int debug_insert(struct umbra_vm *vm, struct debug_breakpoint *breakpoint,
                        struct umbra_error *error)
{
    int ret = 0;

    if (vm->debug->count == DEBUG_MAX_BREAKPOINTS) {
        return error_set(error, UMBRA_ERROR_USAGE, ENOSPC, "%d breakpoints at most",
                         DEBUG_MAX_BREAKPOINTS);
    }
    if (breakpoint->kind == UMBRA_BREAKPOINT_SOFTWARE) {
        /* Before a kernel maps itself the loader knows where its code is. */
        if ((!vcpu_translate(&vm->machine.vcpus->vcpus[0], breakpoint->gva,
                             &breakpoint->gpa) &&
             !boot_entry_physical(&vm->machine.entry, breakpoint->gva,
                                  &breakpoint->gpa)) ||
            guest_mem_read(vm->machine.mem, breakpoint->gpa, &breakpoint->original, 1) <
                0) {
            return error_set(error, UMBRA_ERROR_USAGE, EFAULT,
                             "no memory at GVA 0x%" PRIx64 " to put a breakpoint on",
                             breakpoint->gva);
        }
        ret = debug_patch(vm, breakpoint, true);
    }
    if (ret == 0) {
        vm->debug->list[vm->debug->count++] = *breakpoint;
        ret = debug_apply(vm);
        if (ret < 0) {
            vm->debug->count--;
            debug_patch(vm, breakpoint, false);
            debug_apply(vm);
        }
    }
    return ret < 0 ? error_errno(error, UMBRA_ERROR_USAGE, -ret,
                                 "cannot set a breakpoint at GVA 0x%" PRIx64
                                 " (%d debug registers)",
                                 breakpoint->gva, VCPU_DEBUG_REGISTERS)
                   : 0;
}

static int debug_begin(struct umbra_vm *vm, struct umbra_error *error)
{
    int ret = vm_enter(vm, "breakpoints", error);

    if (ret != 0) {
        return ret;
    }
    if (vm_state(vm) != VM_RUNNING) {
        return 0;
    }
    pthread_mutex_unlock(&vm->control);
    return error_set(error, UMBRA_ERROR_STATE, EBUSY, "breakpoints: pause the VM first");
}

int umbra_breakpoint_add(struct umbra_vm *vm, enum umbra_breakpoint_kind kind,
                         uint64_t gva, unsigned length, struct umbra_error *error)
{
    struct debug_breakpoint breakpoint = { .kind = kind, .gva = gva, .length = length };
    bool watch = kind == UMBRA_WATCHPOINT_WRITE || kind == UMBRA_WATCHPOINT_ACCESS;
    int ret;

    if (!watch) {
        breakpoint.length = 1;
    } else if ((length != 1 && length != 2 && length != 4 && length != 8) ||
               gva % length != 0) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "a watchpoint of %u bytes at 0x%" PRIx64
                         ": 1, 2, 4 or 8 bytes, aligned to that",
                         length, gva);
    }
    ret = debug_begin(vm, error);
    if (ret < 0) {
        return ret;
    }
    vm->debug->only_steps = vcpu_debug_only_steps();
    if (debug_find(vm->debug, kind, gva) != NULL) {
        ret = 0;
    } else if (kind == UMBRA_WATCHPOINT_ACCESS && !debug_stops(vm, kind)) {
        ret = error_set(error, UMBRA_ERROR_USAGE, ENOTSUP,
                        "this host's KVM does not stop guests for reads; watch writes");
    } else {
        if (watch) {
            debug_value(vm, &vm->machine.vcpus->vcpus[0], &breakpoint, &breakpoint.value);
        }
        ret = debug_insert(vm, &breakpoint, error);
    }
    pthread_mutex_unlock(&vm->control);
    return ret;
}

int umbra_breakpoint_remove(struct umbra_vm *vm, enum umbra_breakpoint_kind kind,
                            uint64_t gva, unsigned length, struct umbra_error *error)
{
    struct debug_breakpoint *breakpoint;
    int ret = debug_begin(vm, error);

    (void)length;
    if (ret < 0) {
        return ret;
    }
    breakpoint = debug_find(vm->debug, kind, gva);
    if (breakpoint == NULL) {
        ret = error_set(error, UMBRA_ERROR_USAGE, ENOENT,
                        "no such breakpoint at 0x%" PRIx64, gva);
    } else {
        debug_patch(vm, breakpoint, false);
        *breakpoint = vm->debug->list[--vm->debug->count];
        ret = debug_apply(vm);
        if (ret < 0) {
            error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "KVM_SET_GUEST_DEBUG failed");
        }
    }
    pthread_mutex_unlock(&vm->control);
    return ret;
}

/* ---- Steps -------------------------------------------------------------------------------- */

/* Wait, under lock, for the step's stop or an end. */
static int debug_wait_step(struct umbra_vm *vm)
{
    const struct timespec deadline = timespec_of(clock_ns() + STEP_LIMIT_NS);
    int ret = 0;

    while (vm->stop.kind == UMBRA_STOP_NONE && vm->pending.kind == UMBRA_OUTCOME_NONE &&
           ret == 0) {
        ret = pthread_cond_timedwait(&vm->changed, &vm->lock, &deadline);
    }
    return vm->stop.kind != UMBRA_STOP_NONE         ? 0
           : vm->pending.kind != UMBRA_OUTCOME_NONE ? -EPIPE
                                                    : -ETIMEDOUT;
}

/* One instruction on @vcpu. The caller holds control; the gate is closed before and after. */
static int debug_step(struct umbra_vm *vm, struct vcpu *vcpu, struct umbra_stop *stop)
{
    struct vcpu_debug step = vm->debug->active;
    int ret;

    step.step = true;
    step.interrupts = false;
    ret = vcpu_debug_set(vcpu, &step);
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&vm->lock);
    vm->stop.kind = UMBRA_STOP_NONE;
    vm->stepping = true;
    vcpu_set_resume(vm->machine.vcpus, (int)vcpu->index);
    ret = debug_wait_step(vm);
    vm->stepping = false;
    *stop = vm->stop;
    pthread_mutex_unlock(&vm->lock);
    vcpu_set_pause(vm->machine.vcpus);
    vcpu_debug_set(vcpu, &vm->debug->active);
    return ret;
}

int debug_step_over(struct umbra_vm *vm, struct umbra_error *error)
{
    for (unsigned i = 0;
         vm->debug->active.software && i < vm->machine.vcpus->options.count; i++) {
        struct vcpu *vcpu = &vm->machine.vcpus->vcpus[i];
        struct debug_breakpoint *breakpoint;
        struct umbra_stop stop;
        uint64_t pc;
        int ret;

        if (vcpu_get_pc(vcpu, &pc) < 0) {
            continue;
        }
        breakpoint = debug_find(vm->debug, UMBRA_BREAKPOINT_SOFTWARE, pc);
        if (breakpoint == NULL) {
            continue;
        }
        debug_patch(vm, breakpoint, false);
        ret = debug_step(vm, vcpu, &stop);
        debug_patch(vm, breakpoint, true);
        if (ret < 0 && ret != -EPIPE) {
            return error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                               "cannot step vCPU %u over its breakpoint at 0x%" PRIx64, i,
                               pc);
        }
    }
    pthread_mutex_lock(&vm->lock);
    vm->stop.kind = UMBRA_STOP_NONE;
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

int umbra_vm_step(struct umbra_vm *vm, unsigned index, struct umbra_stop *stop,
                  struct umbra_error *error)
{
    struct umbra_stop hit = { 0 };
    int ret;

    if (index >= vm->machine.vcpus->options.count) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL, "umbra_vm_step: vCPU %u of %u",
                         index, vm->machine.vcpus->options.count);
    }
    ret = vm_enter(vm, "umbra_vm_step", error);
    if (ret != 0) {
        return ret;
    }
    if (vm_state(vm) != VM_PAUSED) {
        ret = error_set(error, UMBRA_ERROR_STATE, EBUSY,
                        "umbra_vm_step: the VM is not paused");
    } else {
        ret = debug_step(vm, &vm->machine.vcpus->vcpus[index], &hit);
        if (ret == -EPIPE) {
            error_set(error, UMBRA_ERROR_STATE, EPIPE, "the run ended in this step");
        } else if (ret < 0) {
            error_errno(error, UMBRA_ERROR_STATE, -ret, "vCPU %u did not complete a step",
                        index);
        }
    }
    pthread_mutex_unlock(&vm->control);
    if (ret == 0 && stop != NULL) {
        uint32_t size = stop->size < sizeof(hit) ? stop->size : (uint32_t)sizeof(hit);

        hit.size = stop->size;
        memcpy(stop, &hit, size);
    }
    return ret;
}

/* Why the VM is not running; the caller holds lock. */
static enum umbra_stop_kind debug_stop_kind(const struct umbra_vm *vm)
{
    switch (vm->state) {
    case VM_RUNNING:
        return UMBRA_STOP_NONE;
    case VM_ENDED:
        return UMBRA_STOP_ENDED;
    default:
        return vm->stop.kind != UMBRA_STOP_NONE ? vm->stop.kind : UMBRA_STOP_PAUSED;
    }
}

int umbra_vm_wait_stop(struct umbra_vm *vm, int64_t timeout_ms, struct umbra_stop *stop,
                       struct umbra_error *error)
{
    const struct timespec deadline = timespec_of(vm_deadline(timeout_ms));
    struct umbra_stop hit = { 0 };
    int ret = callback_refuse(vm, "umbra_vm_wait_stop", error);

    if (ret != 0) {
        return ret;
    }
    pthread_mutex_lock(&vm->lock);
    while (vm->state == VM_RUNNING && ret == 0) {
        ret = timeout_ms < 0 ? pthread_cond_wait(&vm->changed, &vm->lock)
                             : pthread_cond_timedwait(&vm->changed, &vm->lock, &deadline);
    }
    ret = vm->state == VM_RUNNING ? -ETIMEDOUT : 0;
    hit = vm->stop;
    hit.kind = debug_stop_kind(vm);
    pthread_mutex_unlock(&vm->lock);
    if (ret < 0) {
        return error_set(error, UMBRA_ERROR_STATE, ETIMEDOUT, "the VM runs");
    }
    if (stop != NULL) {
        uint32_t size = stop->size < sizeof(hit) ? stop->size : (uint32_t)sizeof(hit);

        hit.size = stop->size;
        memcpy(stop, &hit, size);
    }
    return 0;
}
