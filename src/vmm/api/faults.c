/* SPDX-License-Identifier: MIT */
/* Fault injection: the public calls, and what goes wrong with the machine itself. */
#include "vmm/api/faults.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "devices/board/rtc.h"
#include "vcpu/dirty.h"
#include "vcpu/x86_64/state.h"
#include "vmm/vm/vm.h"

/* A century: what the CMOS clock can show, and no sum overflows. */
static const int64_t fault_jump_max = INT64_C(3155760000000000000);

#define FAULT_CLOCKS (UMBRA_CLOCK_RTC | UMBRA_CLOCK_KVM | UMBRA_CLOCK_TSC)

/* ---- Memory and clocks; the machine stands still --------------------------------------- */

/* Hide [@address, +@length), or with @length 0 show everything. KVM's memslots follow, and
 * with them go what they logged. */
static int machine_change_memory(struct machine *machine, uint64_t address,
                                 uint64_t length)
{
    int ret = machine->dirty != NULL ? dirty_tracker_gather(machine->dirty) : 0;

    if (ret == 0 && length > 0) {
        ret = guest_mem_hide(machine->mem, address, length);
    } else if (ret == 0) {
        guest_mem_show(machine->mem);
    }
    if (ret == 0) {
        ret = kvm_remap_memory(&machine->kvm, machine->mem, machine->dirty != NULL);
    }
    if (ret == 0 && machine->dirty != NULL) {
        dirty_tracker_layout(machine->dirty);
    }
    return ret;
}

static int machine_hide_memory(struct machine *machine, uint64_t address, uint64_t length,
                               struct umbra_error *error)
{
    int ret = length == 0 ? -EINVAL : machine_change_memory(machine, address, length);

    return ret == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_USAGE, -ret,
                                  "cannot hide memory 0x%" PRIx64 "+0x%" PRIx64, address,
                                  length);
}

int machine_show_memory(struct machine *machine)
{
    return machine_change_memory(machine, 0, 0);
}

static int machine_jump_clocks(struct machine *machine, uint32_t clocks, int64_t ns,
                               struct umbra_error *error)
{
    struct device *rtc = machine_device(machine, "rtc");
    int ret = 0;

    if ((clocks & UMBRA_CLOCK_RTC) != 0 && rtc != NULL) {
        ret = rtc_jump(rtc, ns);
    }
    if (ret == 0 && (clocks & UMBRA_CLOCK_KVM) != 0) {
        ret = kvm_clock_jump(&machine->kvm, ns);
    }
    for (unsigned i = 0;
         ret == 0 && (clocks & UMBRA_CLOCK_TSC) != 0 && i < machine->vcpus->options.count;
         i++) {
        ret = vcpu_tsc_jump(&machine->vcpus->vcpus[i], ns);
    }
    return ret == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                                  "cannot have the clocks (mask %#" PRIx32
                                  ") jump by %" PRId64 " ns",
                                  clocks, ns);
}

static int machine_fault(struct machine *machine, const struct fault_action *action,
                         struct umbra_error *error)
{
    return action->kind == UMBRA_FAULT_MEMORY_GONE
               ? machine_hide_memory(machine, action->address, action->bytes, error)
               : machine_jump_clocks(machine, action->clocks, action->jump_ns, error);
}

/* ---- Triggered ones -------------------------------------------------------------------- */

void vm_fault_act(void *context, const struct fault_action *action)
{
    struct umbra_vm *vm = context;

    pthread_mutex_lock(&vm->lock);
    if (vm->action_count < FAULT_ACTIONS_MAX) {
        vm->actions[vm->action_count++] = *action;
    }
    pthread_cond_broadcast(&vm->changed);
    if (vm->state == VM_RUNNING) {
        /* No instruction more on a vCPU whose access this was. */
        vcpu_set_close(vm->machine.vcpus);
    }
    pthread_mutex_unlock(&vm->lock);
}

bool vm_faults_due(const struct umbra_vm *vm)
{
    return vm->action_count > 0 && vm->state == VM_RUNNING;
}

void vm_faults_apply(struct umbra_vm *vm)
{
    struct fault_action actions[FAULT_ACTIONS_MAX];
    struct umbra_error error;
    unsigned count;

    pthread_mutex_lock(&vm->control);
    pthread_mutex_lock(&vm->lock);
    count = vm_faults_due(vm) ? vm->action_count : 0;
    memcpy(actions, vm->actions, count * sizeof(actions[0]));
    vm->action_count -= count;
    pthread_mutex_unlock(&vm->lock);
    if (count > 0) {
        vm_hold(vm);
        for (unsigned i = 0; i < count; i++) {
            if (machine_fault(&vm->machine, &actions[i], &error) != 0) {
                log_warning(vm->machine.log, "a planned fault cannot be: %s",
                            error.message);
            }
        }
        if (vm_release(vm, &error) != 0) {
            struct vm_end end = { .kind = UMBRA_OUTCOME_ERROR, .vcpu = UINT32_MAX };

            snprintf(end.reason, sizeof(end.reason), "after a planned fault: %.400s",
                     error.message);
            vm_report_end(vm, &end);
        }
    }
    pthread_mutex_unlock(&vm->control);
}

/* ---- Rules ----------------------------------------------------------------------------- */

static int fault_check_machine(const struct machine *machine,
                               const struct umbra_fault *fault, struct umbra_error *error)
{
    if (fault->kind == UMBRA_FAULT_MEMORY_GONE) {
        if (fault->bytes == 0 || (fault->address | fault->bytes) % 4096 != 0 ||
            guest_mem_ptr(machine->mem, fault->address, fault->bytes) == NULL) {
            return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                             "memory-gone: 0x%" PRIx64 "+0x%" PRIx64
                             " is not whole pages of RAM",
                             fault->address, fault->bytes);
        }
    }
    if (fault->kind == UMBRA_FAULT_CLOCK_JUMP &&
        (fault->jump_ns == 0 || fault->jump_ns > fault_jump_max ||
         fault->jump_ns < -fault_jump_max || (fault->clocks & ~FAULT_CLOCKS) != 0)) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "clock-jump: of a clock there is, by up to a century");
    }
    return 0;
}

static const char *machine_device_names(const struct machine *machine, char *text,
                                        size_t size)
{
    size_t used = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < machine->device_count && used < size; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s%s", i > 0 ? ", " : "",
                                 machine->devices[i]->id);
    }
    return text;
}

int machine_add_fault(struct machine *machine, const struct umbra_fault *fault,
                      uint32_t *id, struct umbra_error *error)
{
    const struct device *device = machine_device(machine, fault->device);
    struct umbra_fault copy = *fault;
    enum fault_point point;
    char names[1024];
    int ret;

    if (device == NULL) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENODEV,
                         "fault %s: there is no device \"%.60s\"; there are %s",
                         umbra_fault_name(fault->kind), fault->device,
                         machine_device_names(machine, names, sizeof(names)));
    }
    if ((device->faults & FAULT_BIT(fault->kind)) == 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOTSUP,
                         "%s (%s) cannot have the fault %s; it can have %s", device->id,
                         device->ops->type, umbra_fault_name(fault->kind),
                         faults_names(device->faults, names, sizeof(names)));
    }
    ret = fault_check_machine(machine, fault, error);
    if (ret != 0) {
        return ret;
    }
    point = device->fault_point;
    if (fault->kind == UMBRA_FAULT_IRQ_LOST) {
        point = FAULT_INTERRUPT;
    } else if (fault->kind == UMBRA_FAULT_IRQ_SPURIOUS && point == FAULT_ACCESS) {
        point = FAULT_CALM;
    }
    copy.clocks = copy.clocks == 0 ? FAULT_CLOCKS : copy.clocks;
    ret = faults_add(machine->faults, &copy, point, id);
    return ret == 0
               ? 0
               : error_errno(error, UMBRA_ERROR_USAGE, -ret,
                             "cannot add the fault (%d rules at most)", FAULT_RULES_MAX);
}

int machine_plan_faults(struct machine *machine, struct umbra_error *error)
{
    const struct umbra_config *config = machine->config;
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < config->fault_count; i++) {
        const struct config_fault *from = &config->faults[i];
        static const uint32_t clocks[] = { 0, UMBRA_CLOCK_RTC, UMBRA_CLOCK_KVM,
                                           UMBRA_CLOCK_TSC };
        const struct umbra_fault fault = {
            .size = sizeof(fault),
            .kind = (enum umbra_fault_kind)from->kind,
            .device = from->device,
            .seed = from->seed,
            .skip = from->skip,
            .one_in = from->one_in,
            .count = from->count,
            .direction = (enum umbra_fault_direction)from->direction,
            .clocks = clocks[from->clock],
            .delay_ns = from->delay_ms * 1000000u,
            .bytes = from->bytes,
            .address = from->address,
            .jump_ns = (from->back ? -1 : 1) * (int64_t)(from->jump_ms * 1000000u),
        };

        ret = machine_add_fault(machine, &fault, NULL, error);
    }
    return ret;
}

/* ---- The public calls ------------------------------------------------------------------ */

int umbra_fault_add(struct umbra_vm *vm, const struct umbra_fault *fault, uint32_t *id,
                    struct umbra_error *error)
{
    int ret;

    if (fault->size < sizeof(*fault) || fault->device == NULL ||
        (unsigned)fault->kind >= FAULT_KIND_COUNT ||
        (unsigned)fault->direction > UMBRA_FAULT_OUT) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_fault_add: size, kind, device and direction must be "
                         "those of a fault");
    }
    ret = vm_enter(vm, "umbra_fault_add", error);
    if (ret == 0) {
        ret = machine_add_fault(&vm->machine, fault, id, error);
        vm_leave(vm);
    }
    return ret;
}

int umbra_fault_remove(struct umbra_vm *vm, uint32_t id, struct umbra_error *error)
{
    int ret = callback_foreign(vm, "umbra_fault_remove", error);

    if (ret != 0) {
        return ret;
    }
    return faults_remove(vm->machine.faults, id) == 0
               ? 0
               : error_set(error, UMBRA_ERROR_USAGE, ENOENT,
                           "umbra_fault_remove: there is no fault %" PRIu32, id);
}

int umbra_fault_event_at(struct umbra_vm *vm, uint64_t index,
                         struct umbra_fault_event *event)
{
    struct umbra_fault_event whole;
    uint32_t size = event->size;
    int ret = callback_foreign(vm, "umbra_fault_event_at", NULL);

    if (ret != 0 || size < sizeof(size)) {
        return ret != 0 ? ret : -EINVAL;
    }
    ret = faults_event_at(vm->machine.faults, index, &whole);
    if (ret == 0) {
        whole.size = size;
        memcpy(event, &whole, size < sizeof(whole) ? size : sizeof(whole));
    }
    return ret;
}

/* Have @action happen now, whatever the VM's state. */
static int fault_now(struct umbra_vm *vm, const struct fault_action *action,
                     const char *call, struct umbra_error *error)
{
    int ret = vm_enter(vm, call, error);
    bool running;

    if (ret != 0) {
        return ret;
    }
    running = vm_state(vm) == VM_RUNNING;
    if (running) {
        vm_hold(vm);
    }
    if (action != NULL) {
        ret = machine_fault(&vm->machine, action, error);
    } else {
        ret = machine_show_memory(&vm->machine);
        if (ret != 0) {
            error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot give memory back");
        }
    }
    if (running) {
        int released = vm_release(vm, ret == 0 ? error : NULL);

        ret = ret == 0 ? released : ret;
    }
    vm_leave(vm);
    return ret;
}

int umbra_memory_hide(struct umbra_vm *vm, uint64_t address, uint64_t length,
                      struct umbra_error *error)
{
    const struct fault_action action = { .kind = UMBRA_FAULT_MEMORY_GONE,
                                         .address = address,
                                         .bytes = length };

    return fault_now(vm, &action, "umbra_memory_hide", error);
}

int umbra_memory_show(struct umbra_vm *vm, struct umbra_error *error)
{
    return fault_now(vm, NULL, "umbra_memory_show", error);
}

int umbra_clock_jump(struct umbra_vm *vm, uint32_t clocks, int64_t ns,
                     struct umbra_error *error)
{
    const struct fault_action action = { .kind = UMBRA_FAULT_CLOCK_JUMP,
                                         .clocks = clocks,
                                         .jump_ns = ns };

    if (clocks == 0 || (clocks & ~FAULT_CLOCKS) != 0 || ns > fault_jump_max ||
        ns < -fault_jump_max) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_clock_jump: of clocks there are, by up to a century");
    }
    return fault_now(vm, &action, "umbra_clock_jump", error);
}
