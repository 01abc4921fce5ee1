/* SPDX-License-Identifier: MIT */
/* Planned faults of a machine: their rules, and those of its memory and its clocks. */
#include "vmm/machine/faults.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "devices/board/rtc.h"
#include "vcpu/dirty.h"
#include "vcpu/x86_64/state.h"

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

int machine_fault(struct machine *machine, const struct fault_action *action,
                  struct umbra_error *error)
{
    return action->kind == UMBRA_FAULT_MEMORY_GONE
               ? machine_hide_memory(machine, action->address, action->bytes, error)
               : machine_jump_clocks(machine, action->clocks, action->jump_ns, error);
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
        (fault->jump_ns == 0 || fault->jump_ns > FAULT_JUMP_MAX ||
         fault->jump_ns < -FAULT_JUMP_MAX || (fault->clocks & ~FAULT_CLOCKS) != 0)) {
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
