/* SPDX-License-Identifier: MIT */
/* The public calls on a VM's life: create, start, wait, pause, stop, reset, destroy. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"
#include "devices/board/acpi_pm.h"
#include "devices/board/ioapic.h"
#include "devices/board/pvpanic.h"
#include "vcpu/dirty.h"
#include "vmm/api/hooks.h"
#include "vmm/control/control.h"
#include "vmm/debug/debug.h"
#include "vmm/debug/gdb.h"
#include "vmm/debug/report.h"
#include "vmm/symbols/symbols.h"
#include "vmm/vm/vm.h"

/* ---- What happens in the machine ------------------------------------------------------- */

static void vm_device_event(void *context, enum device_event_kind kind, uint32_t value)
{
    struct vm_end end = { .vcpu = UINT32_MAX };

    switch (kind) {
    case DEVICE_EVENT_POWEROFF:
        end.kind = UMBRA_OUTCOME_POWEROFF;
        snprintf(end.reason, sizeof(end.reason), "the guest powered off");
        break;
    case DEVICE_EVENT_RESET:
        end.kind = UMBRA_OUTCOME_RESET;
        snprintf(end.reason, sizeof(end.reason), "the guest asked for a reset");
        break;
    case DEVICE_EVENT_DEBUG_EXIT:
        end.kind = UMBRA_OUTCOME_EXIT;
        end.exit_value = value;
        snprintf(end.reason, sizeof(end.reason),
                 "the guest wrote 0x%" PRIx32 " to the debug-exit port", value);
        break;
    case DEVICE_EVENT_PANIC:
        if (!(value & PVPANIC_PANICKED)) {
            return;
        }
        end.kind = UMBRA_OUTCOME_PANIC;
        snprintf(end.reason, sizeof(end.reason), "the guest reported a panic (pvpanic)");
        break;
    }
    vm_report_end(context, &end);
}

static void vm_console_panicked(void *context)
{
    struct vm_end end = { .kind = UMBRA_OUTCOME_PANIC, .vcpu = UINT32_MAX };

    snprintf(end.reason, sizeof(end.reason), "the guest kernel printed a panic");
    vm_report_end(context, &end);
}

static void vm_vcpu_ended(void *context, struct vcpu *vcpu, enum vcpu_end_kind kind,
                          const char *reason)
{
    static const enum umbra_outcome_kind kinds[] = {
        [VCPU_END_TRIPLE_FAULT] = UMBRA_OUTCOME_TRIPLE_FAULT,
        [VCPU_END_RESET] = UMBRA_OUTCOME_RESET,
        [VCPU_END_POWEROFF] = UMBRA_OUTCOME_POWEROFF,
        [VCPU_END_CRASH] = UMBRA_OUTCOME_PANIC,
        [VCPU_END_ERROR] = UMBRA_OUTCOME_ERROR,
    };
    struct vm_end end = { .kind = kinds[kind], .vcpu = vcpu->index };

    snprintf(end.reason, sizeof(end.reason), "%s", reason);
    vm_report_end(context, &end);
}

static int vm_dirty_ring_full(void *context)
{
    struct umbra_vm *vm = context;

    return dirty_tracker_ring_full(vm->machine.dirty);
}

static void vm_ioapic_eoi(void *context, unsigned vector)
{
    struct umbra_vm *vm = context;

    ioapic_eoi(vm->machine.ioapic, vector);
}

/* ---- What rooms above the VM's own do --------------------------------------------------- */

static void vm_changed(struct umbra_vm *vm)
{
    if (vm->gdb != NULL) {
        gdb_notify(vm->gdb);
    }
}

static const struct vm_moments vm_moments = {
    .loaded = symbols_reset,
    .changed = vm_changed,
    .report = report_write,
};

/* ---- The public calls ---------------------------------------------------------------------- */

int umbra_vm_create(const struct umbra_config *config, struct umbra_vm **out,
                    struct umbra_error *error)
{
    struct machine_events events = {
        .device_event = vm_device_event,
        .vcpu_ended = vm_vcpu_ended,
        .dirty_ring_full = vm_dirty_ring_full,
        .vcpu_debug = debug_hit,
        .vcpu_int3 = debug_int3,
        .hook = hooks_access,
        .observe = hooks_observe,
        .fault_act = vm_fault_act,
        .fault_fired = hooks_fault,
        .ioapic_eoi = vm_ioapic_eoi,
        .console_panicked = vm_console_panicked,
    };
    struct umbra_vm *vm;
    pthread_condattr_t attributes;
    int ret;

    *out = NULL;
    ret = umbra_config_validate(config, error);
    if (ret < 0) {
        return ret;
    }
    vm = calloc(1, sizeof(*vm));
    if (vm == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot allocate a VM");
    }
    vm->owner = getpid();
    pthread_mutex_init(&vm->control, NULL);
    vm->moments = &vm_moments;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->inject_lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&vm->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    vm->devices_paused = true;
    vm->hooks = hooks_create();
    vm->debug = calloc(1, sizeof(*vm->debug));
    vm->symbols = symbols_create();
    vm->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vm->hooks == NULL || vm->debug == NULL || vm->symbols == NULL) {
        ret = error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot allocate a VM");
        goto fail;
    }
    if (vm->event_fd < 0) {
        ret = error_errno(error, UMBRA_ERROR_INTERNAL, errno, "cannot create an eventfd");
        goto fail;
    }
    ret = config_copy(config, &vm->config);
    if (ret < 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot copy the config");
        goto fail;
    }
    for (unsigned i = 0; i < IRQ_GSI_COUNT; i++) {
        irq_line_init(&vm->injected[i], &vm->machine.kvm.irqs, i);
    }
    events.context = vm;
    ret = machine_create(&vm->machine, vm->config, &events, error);
    if (ret == 0) {
        symbols_reset(vm);
        ret = symbols_open(vm, error);
    }
    if (ret == 0 && vm->config->gdb != NULL) {
        ret = umbra_gdb_listen(vm, vm->config->gdb, error);
    }
    if (ret < 0) {
        goto fail;
    }
    *out = vm;
    return 0;
fail:
    umbra_vm_destroy(vm);
    return ret;
}

int umbra_vm_start(struct umbra_vm *vm, struct umbra_error *error)
{
    int ret;

    if (vm->config->gdb_wait) {
        return vm_start_paused(vm, error);
    }
    ret = vm_enter(vm, "umbra_vm_start", error);
    if (ret != 0) {
        return ret;
    }
    ret = vm_start_held(vm, VM_RUNNING, "umbra_vm_start", error);
    if (ret == 0) {
        ret = vm_release(vm, error);
    }
    vm_leave(vm);
    return ret;
}

/* Copy at most what the caller's version of the struct holds. */
static void vm_copy_outcome(const struct umbra_outcome *from, struct umbra_outcome *to)
{
    uint32_t size = to->size < sizeof(*from) ? to->size : (uint32_t)sizeof(*from);

    if (size > sizeof(to->size)) {
        memcpy((char *)to + sizeof(to->size), (const char *)from + sizeof(from->size),
               size - sizeof(to->size));
    }
}

int umbra_vm_wait(struct umbra_vm *vm, int64_t timeout_ms, struct umbra_outcome *outcome,
                  struct umbra_error *error)
{
    const struct timespec deadline = timespec_of(vm_deadline(timeout_ms));
    int ret = callback_refuse(vm, "umbra_vm_wait", error);

    if (ret != 0) {
        return ret;
    }
    pthread_mutex_lock(&vm->lock);
    if (vm->state == VM_CREATED) {
        ret = vm_wrong_state(vm->state, "umbra_vm_wait", error);
    }
    while (ret == 0 && vm->state != VM_ENDED) {
        ret = timeout_ms < 0
                  ? pthread_cond_wait(&vm->changed, &vm->lock)
                  : -pthread_cond_timedwait(&vm->changed, &vm->lock, &deadline);
        if (ret == -ETIMEDOUT && vm->state == VM_ENDED) {
            ret = 0;
        } else if (ret == -ETIMEDOUT) {
            error_set(error, UMBRA_ERROR_STATE, ETIMEDOUT,
                      "the VM still runs after %" PRId64 " ms", timeout_ms);
        }
    }
    if (ret == 0 && outcome != NULL) {
        vm_copy_outcome(&vm->outcome, outcome);
    }
    pthread_mutex_unlock(&vm->lock);
    return ret;
}

int umbra_vm_event_fd(struct umbra_vm *vm)
{
    return vm->event_fd;
}

int umbra_vm_pause(struct umbra_vm *vm, struct umbra_error *error)
{
    int ret = vm_enter(vm, "umbra_vm_pause", error);
    enum vm_state state;

    if (ret != 0) {
        return ret;
    }
    state = vm_state(vm);
    if (state == VM_RUNNING) {
        vm_hold(vm);
        vm_set_state(vm, VM_PAUSED);
    } else if (state != VM_PAUSED) {
        ret = vm_wrong_state(state, "umbra_vm_pause", error);
    }
    vm_leave(vm);
    return ret;
}

int umbra_vm_resume(struct umbra_vm *vm, struct umbra_error *error)
{
    int ret = vm_enter(vm, "umbra_vm_resume", error);
    enum vm_state state;

    if (ret != 0) {
        return ret;
    }
    state = vm_state(vm);
    if (state == VM_PAUSED) {
        ret = debug_step_over(vm, error);
        if (ret == 0) {
            vm_set_state(vm, VM_RUNNING);
            ret = vm_release(vm, error);
        }
    } else if (state != VM_RUNNING) {
        ret = vm_wrong_state(state, "umbra_vm_resume", error);
    }
    vm_leave(vm);
    return ret;
}

int umbra_vm_power_button(struct umbra_vm *vm, struct umbra_error *error)
{
    enum vm_state state = vm_state(vm);
    int ret = callback_refuse(vm, "umbra_vm_power_button", error);

    if (ret != 0) {
        return ret;
    }
    if (state != VM_RUNNING && state != VM_PAUSED) {
        return vm_wrong_state(state, "umbra_vm_power_button", error);
    }
    if (acpi_pm_power_button(vm->machine.pm) < 0) {
        return error_set(
            error, UMBRA_ERROR_STATE, ENOTCONN,
            "the guest does not listen to its power button (its ACPI driver has "
            "not enabled it)");
    }
    return 0;
}

int umbra_vm_stop(struct umbra_vm *vm, const char *reason, struct umbra_error *error)
{
    struct vm_end end = { .kind = UMBRA_OUTCOME_STOPPED, .vcpu = UINT32_MAX };
    int ret = callback_foreign(vm, "umbra_vm_stop", error);

    if (ret != 0) {
        return ret;
    }
    snprintf(end.reason, sizeof(end.reason), "%s",
             reason != NULL ? reason : "stopped by the host");
    if (vm_state(vm) == VM_CREATED) {
        return vm_wrong_state(VM_CREATED, "umbra_vm_stop", error);
    }
    vm_report_end(vm, &end);
    return 0;
}

/* The machine is as after its creation: the state follows. The caller holds control. */
static int vm_after_reset(struct umbra_vm *vm, bool running, struct umbra_error *error)
{
    uint64_t drained;

    symbols_reset(vm);
    pthread_mutex_lock(&vm->lock);
    vm->pending.kind = UMBRA_OUTCOME_NONE;
    vm->action_count = 0;
    vm->state = running ? VM_RUNNING : VM_CREATED;
    pthread_mutex_unlock(&vm->lock);
    if (read(vm->event_fd, &drained, sizeof(drained)) < 0 && errno != EAGAIN) {
        log_error(vm->machine.log, "cannot drain the eventfd: %s",
                  strerrorname_np(errno));
    }
    return running ? vm_release(vm, error) : 0;
}

int umbra_vm_reset(struct umbra_vm *vm, struct umbra_error *error)
{
    struct umbra_error why;
    enum vm_state state;
    int ret = vm_enter(vm, "umbra_vm_reset", error);

    if (ret != 0) {
        return ret;
    }
    state = vm_state(vm);
    if (state != VM_CREATED) {
        vm_hold(vm);
        faults_restart(vm->machine.faults);
        ret = machine_reset(&vm->machine, &why);
        if (ret == 0) {
            ret = vm_after_reset(vm, state == VM_RUNNING, error);
        } else {
            vm_fail(vm, "the reset failed", &why);
            if (error != NULL) {
                *error = why;
            }
        }
    }
    vm_leave(vm);
    return ret;
}

void umbra_vm_destroy(struct umbra_vm *vm)
{
    struct gdb *gdb;

    if (vm == NULL) {
        return;
    }
    if (callback_foreign(vm, "umbra_vm_destroy", NULL) != 0) {
        return; /* nothing of it is this process's to release */
    }
    if (callback_inside(vm)) {
        log_error(vm->machine.log, "umbra_vm_destroy: not from inside a callback of this "
                                   "VM: it is still there");
        return;
    }
    pthread_mutex_lock(&vm->lock);
    gdb = vm->gdb;
    vm->gdb = NULL;
    pthread_mutex_unlock(&vm->lock);
    gdb_destroy(gdb);
    control_close(vm);
    if (vm->keeper_started) {
        pthread_mutex_lock(&vm->lock);
        vm->quit = true;
        pthread_cond_broadcast(&vm->changed);
        pthread_mutex_unlock(&vm->lock);
        pthread_join(vm->keeper, NULL);
    }
    if (vm->machine.vcpus != NULL) {
        vm_hold(vm);
    }
    machine_destroy(&vm->machine);
    if (vm->event_fd >= 0) {
        close(vm->event_fd);
    }
    if (vm->config != NULL) {
        config_destroy(vm->config);
    }
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    pthread_mutex_destroy(&vm->inject_lock);
    symbols_destroy(vm->symbols);
    free(vm->debug);
    hooks_destroy(vm->hooks);
    pthread_mutex_destroy(&vm->control);
    free(vm);
}

int umbra_vm_dirty_pages(struct umbra_vm *vm, umbra_page_fn fn, void *context,
                         struct umbra_error *error)
{
    int ret = callback_refuse(vm, "umbra_vm_dirty_pages", error);

    if (ret != 0) {
        return ret;
    }
    if (vm->machine.dirty == NULL) {
        return error_set(error, UMBRA_ERROR_STATE, EINVAL,
                         "dirty pages are not tracked (set \"dirty\" to \"bitmap\" or "
                         "\"ring\" in the config)");
    }
    return dirty_tracker_fetch(vm->machine.dirty, fn, context, error);
}
