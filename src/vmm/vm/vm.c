/* SPDX-License-Identifier: MIT */
/* A VM's states: how ends are noted, everything is held and released, and runs start. */
#include "vmm/vm/vm.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>

#include "base/error.h"
#include "base/util.h"

/* ---- Ends ------------------------------------------------------------------------------- */

void vm_report_end(struct umbra_vm *vm, const struct vm_end *end)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->pending.kind == UMBRA_OUTCOME_NONE && vm->state != VM_ENDED) {
        vm->pending = *end;
        pthread_cond_broadcast(&vm->changed);
        /* Under lock, as vm_open_gate() opens it: a reset takes both back, or neither. */
        if (vm->machine.vcpus != NULL) {
            vcpu_set_close(vm->machine.vcpus);
        }
    }
    pthread_mutex_unlock(&vm->lock);
}

/* ---- Holding and releasing everything; the caller holds control -------------------------- */

void vm_hold(struct umbra_vm *vm)
{
    vcpu_set_pause(vm->machine.vcpus);
    if (!vm->devices_paused) {
        machine_pause_devices(&vm->machine);
        vm->devices_paused = true;
    }
}

void vm_open_gate(struct umbra_vm *vm)
{
    /* An end that was reported closed the gate for good: the check and the opening are one
     * step under lock, and so are noting an end and closing the gate (vm_report_end()). */
    pthread_mutex_lock(&vm->lock);
    if (vm->pending.kind == UMBRA_OUTCOME_NONE) {
        vcpu_set_resume(vm->machine.vcpus, -1);
    }
    pthread_mutex_unlock(&vm->lock);
}

void vm_fail(struct umbra_vm *vm, const char *what, const struct umbra_error *error)
{
    struct vm_end end = { .kind = UMBRA_OUTCOME_ERROR, .vcpu = UINT32_MAX };

    snprintf(end.reason, sizeof(end.reason), "%s: %.400s", what, error->message);
    vm_report_end(vm, &end);
}

int vm_release(struct umbra_vm *vm, struct umbra_error *error)
{
    struct umbra_error why;
    int ret = machine_resume_devices(&vm->machine, &why);

    if (ret == 0) {
        vm->devices_paused = false;
        vm_open_gate(vm);
        return 0;
    }
    vm_fail(vm, "the devices cannot go on", &why);
    if (error != NULL) {
        *error = why;
    }
    return ret;
}

void vm_set_state(struct umbra_vm *vm, enum vm_state state)
{
    pthread_mutex_lock(&vm->lock);
    vm->state = state;
    pthread_cond_broadcast(&vm->changed);
    vm->moments->changed(vm);
    pthread_mutex_unlock(&vm->lock);
}

enum vm_state vm_state(struct umbra_vm *vm)
{
    enum vm_state state;

    pthread_mutex_lock(&vm->lock);
    state = vm->state;
    pthread_mutex_unlock(&vm->lock);
    return state;
}

int vm_enter(struct umbra_vm *vm, const char *call, struct umbra_error *error)
{
    int ret = callback_refuse(vm, call, error);

    if (ret == 0) {
        pthread_mutex_lock(&vm->control);
    }
    return ret;
}

void vm_leave(struct umbra_vm *vm)
{
    pthread_mutex_unlock(&vm->control);
}

int vm_wrong_state(enum vm_state state, const char *call, struct umbra_error *error)
{
    static const char *const names[] = { "created, not started", "running", "paused",
                                         "at its end" };

    return error_set(error, UMBRA_ERROR_STATE, EINVAL, "%s: the VM is %s", call,
                     names[state]);
}

/* ---- Starting -------------------------------------------------------------------------- */

static int vm_start_threads(struct umbra_vm *vm, struct umbra_error *error)
{
    int ret = 0;

    if (!vm->threads_started) {
        ret = vcpu_set_start(vm->machine.vcpus, error);
        vm->threads_started = ret == 0;
    }
    if (ret == 0 && !vm->keeper_started) {
        ret = vm_start_keeper(vm, error);
    }
    return ret;
}

/* Everything is started, and held: the caller releases it or not. It holds control. */
int vm_start_held(struct umbra_vm *vm, enum vm_state next, const char *call,
                  struct umbra_error *error)
{
    enum vm_state state = vm_state(vm);
    int ret;

    if (state != VM_CREATED) {
        return vm_wrong_state(state, call, error);
    }
    ret = vm_start_threads(vm, error);
    if (ret == 0) {
        pthread_mutex_lock(&vm->lock);
        vm->start_ns = clock_ns();
        vm->deadline_ns = vm->config->timeout_ms == 0
                              ? 0
                              : deadline_after(vm->start_ns, vm->config->timeout_ms);
        vm->state = next;
        vm->stop.kind = UMBRA_STOP_NONE;
        pthread_cond_broadcast(&vm->changed);
        pthread_mutex_unlock(&vm->lock);
    }
    return ret;
}

int vm_start_paused(struct umbra_vm *vm, struct umbra_error *error)
{
    int ret;

    ret = vm_enter(vm, "umbra_vm_start", error);
    if (ret == 0) {
        ret = vm_start_held(vm, VM_PAUSED, "umbra_vm_start", error);
        vm_leave(vm);
    }
    return ret;
}

/* ---- What public calls share ----------------------------------------------------------- */

struct console *vm_console(struct umbra_vm *vm, unsigned port)
{
    bool there = port < MACHINE_SERIAL_PORTS
                     ? port < vm->config->serial_count
                     : port - MACHINE_SERIAL_PORTS < vm->config->console_count;

    return there ? &vm->machine.consoles[port] : NULL;
}

const char *vm_console_name(const struct umbra_vm *vm, unsigned port)
{
    static const char *const serial[MACHINE_SERIAL_PORTS] = { "com1", "com2", "com3",
                                                              "com4" };

    return port < MACHINE_SERIAL_PORTS
               ? serial[port]
               : vm->config->consoles[port - MACHINE_SERIAL_PORTS].name;
}

uint64_t vm_deadline(int64_t timeout_ms)
{
    return timeout_ms < 0 ? 0 : deadline_after(clock_ns(), (uint64_t)timeout_ms);
}

int vm_poll(struct umbra_vm *vm, int fd, short events, uint64_t deadline_ns)
{
    struct pollfd fds[] = { { .fd = fd, .events = events },
                            { .fd = vm != NULL ? vm->event_fd : -1, .events = POLLIN } };

    for (;;) {
        uint64_t now = clock_ns();
        uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
        const struct timespec timeout = timespec_of(left);
        int ready = ppoll(fds, 2, deadline_ns != 0 ? &timeout : NULL, NULL);

        if (ready > 0) {
            return fds[0].revents != 0 ? 0 : -EPIPE;
        }
        if (ready == 0) {
            return -ETIMEDOUT;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}
