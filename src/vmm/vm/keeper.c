/* SPDX-License-Identifier: MIT */
/* The keeper: the thread that turns reported ends, deadlines and breakpoints into states. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/util.h"
#include "vmm/vm/vm.h"

static bool vm_panic_printed(struct umbra_vm *vm)
{
    for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
        if (machine_is_console(&vm->machine, i) &&
            console_panic_seen(&vm->machine.consoles[i])) {
            return true;
        }
    }
    return false;
}

/* The end of what the first console printed, or that of another if it was silent. */
static void vm_console_tail(struct umbra_vm *vm)
{
    for (unsigned i = 0; i < MACHINE_CONSOLES && vm->outcome.console_tail[0] == '\0';
         i++) {
        if (machine_is_console(&vm->machine, i)) {
            console_tail(&vm->machine.consoles[i], vm->outcome.console_tail,
                         sizeof(vm->outcome.console_tail));
        }
    }
}

/* A kernel that panics with panic=-1 resets at once: that is a panic, not a reboot. */
static void vm_classify(struct umbra_vm *vm, struct vm_end *end)
{
    if ((end->kind == UMBRA_OUTCOME_RESET || end->kind == UMBRA_OUTCOME_TRIPLE_FAULT ||
         end->kind == UMBRA_OUTCOME_DEADLINE) &&
        vm_panic_printed(vm)) {
        end->kind = UMBRA_OUTCOME_PANIC;
        snprintf(end->reason, sizeof(end->reason), "the guest kernel printed a panic");
    }
}

/* The caller holds control. */
static void vm_finish(struct umbra_vm *vm, struct vm_end *end)
{
    const uint64_t one = 1;

    vm_hold(vm);
    vm_classify(vm, end);
    vm->outcome = (struct umbra_outcome){
        .size = sizeof(vm->outcome),
        .kind = end->kind,
        .exit_value = end->exit_value,
        .vcpu = end->vcpu,
        .run_ns = vm->start_ns == 0 ? 0 : clock_ns() - vm->start_ns,
    };
    memcpy(vm->outcome.reason, end->reason, sizeof(vm->outcome.reason));
    vm_console_tail(vm);
    vm->moments->report(vm, end, vm->outcome.report, sizeof(vm->outcome.report));
    vm_set_state(vm, VM_ENDED);
    for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
        console_end(&vm->machine.consoles[i]);
    }
    if (write(vm->event_fd, &one, sizeof(one)) < 0) {
        log_error(vm->machine.log, "cannot signal the end of the run: %s",
                  strerrorname_np(errno));
    }
}

/* The caller holds control. */
static int vm_restart(struct umbra_vm *vm, struct umbra_error *error)
{
    int ret;

    vm_hold(vm);
    ret = machine_reset(&vm->machine, error);
    if (ret == 0) {
        vm->moments->loaded(vm);
        pthread_mutex_lock(&vm->lock);
        vm->pending.kind = UMBRA_OUTCOME_NONE;
        pthread_mutex_unlock(&vm->lock);
        ret = vm_release(vm, error);
    }
    return ret;
}

/* The caller holds control. */
static void vm_apply_end(struct umbra_vm *vm, struct vm_end *end)
{
    struct umbra_error error;

    if (end->kind == UMBRA_OUTCOME_RESET &&
        vm->config->on_reset == CONFIG_ON_RESET_RESTART && !vm_panic_printed(vm)) {
        log_info(vm->machine.log, "%s: restarting it", end->reason);
        if (vm_restart(vm, &error) == 0) {
            return;
        }
        end->kind = UMBRA_OUTCOME_ERROR;
        snprintf(end->reason, sizeof(end->reason), "restart after a reset failed: %.400s",
                 error.message);
    }
    vm_finish(vm, end);
}

static void vm_handle_end(struct umbra_vm *vm)
{
    struct vm_end end;
    bool valid;

    pthread_mutex_lock(&vm->control);
    /* While control was waited for a reset may have made the end that was seen undone. */
    pthread_mutex_lock(&vm->lock);
    end = vm->pending;
    valid = end.kind != UMBRA_OUTCOME_NONE && vm->state != VM_ENDED;
    pthread_mutex_unlock(&vm->lock);
    if (valid) {
        vm_apply_end(vm, &end);
    }
    pthread_mutex_unlock(&vm->control);
}

/* A vCPU hit a breakpoint: have everything stand still before anyone is told. */
static void vm_handle_stop(struct umbra_vm *vm)
{
    pthread_mutex_lock(&vm->control);
    if (vm_state(vm) == VM_RUNNING) {
        vm_hold(vm);
        vm_set_state(vm, VM_PAUSED);
    }
    pthread_mutex_unlock(&vm->control);
}

enum keeper_work { KEEPER_QUIT, KEEPER_END, KEEPER_STOP, KEEPER_FAULTS };

/* Wait for something to do. The caller holds lock. */
static enum keeper_work vm_keeper_wait(struct umbra_vm *vm)
{
    for (;;) {
        bool live = vm->state == VM_RUNNING || vm->state == VM_PAUSED;

        if (vm->quit) {
            return KEEPER_QUIT;
        }
        if (vm->pending.kind != UMBRA_OUTCOME_NONE && vm->state != VM_ENDED) {
            return KEEPER_END;
        }
        if (vm->stop.kind != UMBRA_STOP_NONE && !vm->stepping &&
            vm->state == VM_RUNNING) {
            return KEEPER_STOP;
        }
        if (vm_faults_due(vm)) {
            return KEEPER_FAULTS;
        }
        if (live && vm->deadline_ns != 0 && clock_ns() >= vm->deadline_ns) {
            vm->pending =
                (struct vm_end){ .kind = UMBRA_OUTCOME_DEADLINE, .vcpu = UINT32_MAX };
            snprintf(vm->pending.reason, sizeof(vm->pending.reason),
                     "the guest still ran after %" PRIu64 ".%03" PRIu64 " s",
                     vm->config->timeout_ms / 1000, vm->config->timeout_ms % 1000);
        } else if (live && vm->deadline_ns != 0) {
            const struct timespec until = timespec_of(vm->deadline_ns);

            pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
        } else {
            pthread_cond_wait(&vm->changed, &vm->lock);
        }
    }
}

static void *vm_keeper(void *context)
{
    struct umbra_vm *vm = context;
    enum keeper_work work;

    pthread_setname_np(pthread_self(), "keeper");
    pthread_mutex_lock(&vm->lock);
    while ((work = vm_keeper_wait(vm)) != KEEPER_QUIT) {
        pthread_mutex_unlock(&vm->lock);
        if (work == KEEPER_FAULTS) {
            vm_faults_apply(vm);
        } else if (work == KEEPER_STOP) {
            vm_handle_stop(vm);
        } else {
            vm_handle_end(vm);
        }
        pthread_mutex_lock(&vm->lock);
    }
    pthread_mutex_unlock(&vm->lock);
    return NULL;
}

int vm_start_keeper(struct umbra_vm *vm, struct umbra_error *error)
{
    int ret = thread_start(&vm->keeper, NULL, vm_keeper, vm);

    if (ret != 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                           "cannot start the keeper thread");
    }
    vm->keeper_started = true;
    return 0;
}
