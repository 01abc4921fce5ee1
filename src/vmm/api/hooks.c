/* SPDX-License-Identifier: MIT */
/* Hooks and devices that the embedder adds to a VM. */
#include "vmm/api/hooks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vmm/vm/vm.h"

enum { MSR_KINDS = UMBRA_MSR_READ | UMBRA_MSR_WRITE, MSR_FILTER_MAX = 16 };

struct hooks *hooks_create(void)
{
    struct hooks *hooks = calloc(1, sizeof(*hooks));

    if (hooks != NULL) {
        pthread_rwlock_init(&hooks->lock, NULL);
    }
    return hooks;
}

void hooks_destroy(struct hooks *hooks)
{
    if (hooks != NULL) {
        pthread_rwlock_destroy(&hooks->lock);
        free(hooks);
    }
}

/* Ask the hooks from the latest to the first. The caller holds the lock for reading. */
static enum umbra_hook_verdict hooks_ask(struct hooks *hooks, struct umbra_access *access)
{
    for (unsigned i = hooks->count; i > 0; i--) {
        const struct hook *hook = &hooks->list[i - 1];
        enum umbra_hook_verdict verdict;

        if (!(hook->kinds & access->kind) ||
            access->address - hook->base >= hook->length) {
            continue;
        }
        verdict = hook->fn(hook->context, access);
        if (verdict != UMBRA_HOOK_PASS) {
            return verdict;
        }
    }
    return UMBRA_HOOK_PASS;
}

bool hooks_access(void *context, struct vcpu *vcpu, enum exit_key_kind kind,
                  uint64_t address, unsigned size, uint64_t *value, bool *fault)
{
    static const enum umbra_access_kind kinds[] = {
        [EXIT_KEY_PORT_IN] = UMBRA_PORT_READ,   [EXIT_KEY_PORT_OUT] = UMBRA_PORT_WRITE,
        [EXIT_KEY_MMIO_READ] = UMBRA_MMIO_READ, [EXIT_KEY_MMIO_WRITE] = UMBRA_MMIO_WRITE,
        [EXIT_KEY_MSR_READ] = UMBRA_MSR_READ,   [EXIT_KEY_MSR_WRITE] = UMBRA_MSR_WRITE,
    };
    struct umbra_vm *vm = context;
    struct umbra_access access = {
        .size = sizeof(access),
        .kind = kinds[kind],
        .address = address,
        .width = size,
        .vcpu = vcpu->index,
        .value = *value,
    };
    enum umbra_hook_verdict verdict;
    struct callback_frame frame;

    pthread_rwlock_rdlock(&vm->hooks->lock);
    callback_enter(&frame, vm);
    verdict = hooks_ask(vm->hooks, &access);
    callback_leave(&frame);
    pthread_rwlock_unlock(&vm->hooks->lock);
    *value = access.value;
    *fault = verdict == UMBRA_HOOK_FAULT;
    return verdict != UMBRA_HOOK_PASS;
}

/* Tell KVM which MSRs are hooked now. The caller holds the lock; the gate is closed. */
static int hooks_filter_msrs(struct umbra_vm *vm)
{
    uint32_t list[MSR_FILTER_MAX];
    unsigned count = 0;

    for (unsigned i = 0; i < vm->hooks->count; i++) {
        const struct hook *hook = &vm->hooks->list[i];

        for (uint64_t n = 0; (hook->kinds & MSR_KINDS) && n < hook->length; n++) {
            if (count == MSR_FILTER_MAX) {
                return -ENOSPC;
            }
            list[count++] = (uint32_t)(hook->base + n);
        }
    }
    return vcpu_arch_filter_msrs(vm->machine.vcpus, list, count);
}

static int hook_insert(struct umbra_vm *vm, const struct hook *hook, uint32_t *id,
                       struct umbra_error *error)
{
    struct hooks *hooks = vm->hooks;
    int ret = 0;

    pthread_rwlock_wrlock(&hooks->lock);
    if (hooks->count == HOOKS_MAX) {
        ret = error_set(error, UMBRA_ERROR_USAGE, ENOSPC,
                        "umbra_hook_add: %d hooks at most", HOOKS_MAX);
    } else {
        hooks->list[hooks->count] = *hook;
        hooks->list[hooks->count].id = ++hooks->next_id;
        *id = hooks->next_id;
        hooks->count++;
        if (hook->kinds & MSR_KINDS) {
            ret = hooks_filter_msrs(vm);
        }
        if (ret < 0) {
            hooks->count--;
            ret = error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                              "umbra_hook_add: KVM cannot filter these MSRs (%d at most)",
                              MSR_FILTER_MAX);
        }
    }
    atomic_store_explicit(&vm->machine.vcpus->hooked, hooks->count > 0,
                          memory_order_release); /* pairs with vcpu_hook() */
    pthread_rwlock_unlock(&hooks->lock);
    return ret;
}

int umbra_hook_add(struct umbra_vm *vm, unsigned kinds, uint64_t base, uint64_t length,
                   umbra_hook_fn fn, void *context, uint32_t *id,
                   struct umbra_error *error)
{
    const struct hook hook = {
        .kinds = kinds, .base = base, .length = length, .fn = fn, .context = context
    };
    int ret;

    if (kinds == 0 || length == 0 || fn == NULL) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_hook_add: kinds, length and fn must be given");
    }
    ret = vm_enter(vm, "umbra_hook_add", error);
    if (ret != 0) {
        return ret;
    }
    if ((kinds & MSR_KINDS) && vm_state(vm) == VM_RUNNING) {
        ret = error_set(error, UMBRA_ERROR_STATE, EBUSY,
                        "umbra_hook_add: pause the VM to hook MSRs");
    } else {
        ret = hook_insert(vm, &hook, id, error);
    }
    pthread_mutex_unlock(&vm->control);
    return ret;
}

static bool hook_take_away(struct umbra_vm *vm, uint32_t id)
{
    struct hooks *hooks = vm->hooks;
    unsigned at = 0;

    while (at < hooks->count && hooks->list[at].id != id) {
        at++;
    }
    if (at == hooks->count) {
        return false;
    }
    hooks->count--;
    memmove(&hooks->list[at], &hooks->list[at + 1],
            (hooks->count - at) * sizeof(hooks->list[0]));
    /* The MSR filter keeps what it had until the next change: such exits simply pass. */
    atomic_store_explicit(&vm->machine.vcpus->hooked, hooks->count > 0,
                          memory_order_release); /* pairs with vcpu_hook() */
    return true;
}

/* What is wanted now; the caller holds the lock for writing. */
static void hooks_count_events(struct umbra_vm *vm)
{
    unsigned wanted = 0;

    for (unsigned i = 0; i < vm->hooks->event_count; i++) {
        wanted |= vm->hooks->events[i].kinds;
    }
    atomic_store_explicit(&vm->machine.observer.wanted, wanted,
                          memory_order_release); /* pairs with device_tell() */
}

static bool event_hook_take_away(struct umbra_vm *vm, uint32_t id)
{
    struct hooks *hooks = vm->hooks;
    unsigned at = 0;

    while (at < hooks->event_count && hooks->events[at].id != id) {
        at++;
    }
    if (at == hooks->event_count) {
        return false;
    }
    hooks->event_count--;
    memmove(&hooks->events[at], &hooks->events[at + 1],
            (hooks->event_count - at) * sizeof(hooks->events[0]));
    hooks_count_events(vm);
    return true;
}

int umbra_hook_remove(struct umbra_vm *vm, uint32_t id, struct umbra_error *error)
{
    int ret = callback_refuse(vm, "umbra_hook_remove", error);
    bool found;

    if (ret != 0) {
        return ret;
    }
    pthread_rwlock_wrlock(&vm->hooks->lock);
    found = hook_take_away(vm, id) || event_hook_take_away(vm, id);
    pthread_rwlock_unlock(&vm->hooks->lock);
    return found ? 0
                 : error_set(error, UMBRA_ERROR_USAGE, ENOENT,
                             "umbra_hook_remove: there is no hook %" PRIu32, id);
}

/* ---- Events ---------------------------------------------------------------------------- */

void hooks_observe(void *context, const struct umbra_event *event)
{
    struct umbra_vm *vm = context;
    struct callback_frame frame;

    pthread_rwlock_rdlock(&vm->hooks->lock);
    callback_enter(&frame, vm);
    for (unsigned i = 0; i < vm->hooks->event_count; i++) {
        const struct event_hook *hook = &vm->hooks->events[i];

        if ((hook->kinds & event->kind) != 0 &&
            (hook->device[0] == '\0' || strcmp(hook->device, event->device) == 0)) {
            hook->fn(hook->context, event);
        }
    }
    callback_leave(&frame);
    pthread_rwlock_unlock(&vm->hooks->lock);
}

void hooks_fault(void *context, const struct umbra_fault_event *event)
{
    struct umbra_vm *vm = context;

    device_tell(&vm->machine.env, UMBRA_EVENT_FAULT, event->device, UMBRA_EVENT_NO_QUEUE,
                event->kind);
}

static int event_hook_insert(struct umbra_vm *vm, const struct event_hook *hook,
                             uint32_t *id, struct umbra_error *error)
{
    struct hooks *hooks = vm->hooks;
    int ret = 0;

    pthread_rwlock_wrlock(&hooks->lock);
    if (hooks->event_count == HOOKS_MAX) {
        ret = error_set(error, UMBRA_ERROR_USAGE, ENOSPC,
                        "umbra_event_hook_add: %d hooks at most", HOOKS_MAX);
    } else {
        hooks->events[hooks->event_count] = *hook;
        hooks->events[hooks->event_count].id = ++hooks->next_id;
        *id = hooks->next_id;
        hooks->event_count++;
        hooks_count_events(vm);
    }
    pthread_rwlock_unlock(&hooks->lock);
    return ret;
}

int umbra_event_hook_add(struct umbra_vm *vm, unsigned kinds, const char *device,
                         umbra_event_fn fn, void *context, uint32_t *id,
                         struct umbra_error *error)
{
    struct event_hook hook = { .kinds = kinds, .fn = fn, .context = context };
    int ret;

    if (kinds == 0 || fn == NULL || id == NULL) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_event_hook_add: kinds, fn and hook must be given");
    }
    ret = vm_enter(vm, "umbra_event_hook_add", error);
    if (ret != 0) {
        return ret;
    }
    if (device != NULL && machine_device(&vm->machine, device) == NULL) {
        ret = error_set(error, UMBRA_ERROR_USAGE, ENODEV,
                        "umbra_event_hook_add: there is no device \"%.60s\"", device);
    } else {
        snprintf(hook.device, sizeof(hook.device), "%s", device != NULL ? device : "");
        ret = event_hook_insert(vm, &hook, id, error);
    }
    vm_leave(vm);
    return ret;
}

/* ---- Devices ---------------------------------------------------------------------------- */

struct embedder_device {
    struct device device;
    struct umbra_device callbacks;
    struct umbra_vm *vm;
};

static uint64_t embedder_read(struct device *device, unsigned region, uint64_t offset,
                              unsigned size)
{
    const struct embedder_device *embedder = (const struct embedder_device *)device;

    struct callback_frame frame;
    uint64_t value = UINT64_MAX;

    (void)region;
    if (embedder->callbacks.read != NULL) {
        callback_enter(&frame, embedder->vm);
        value = embedder->callbacks.read(embedder->callbacks.context, offset, size);
        callback_leave(&frame);
    }
    return value;
}

static void embedder_write(struct device *device, unsigned region, uint64_t offset,
                           unsigned size, uint64_t value)
{
    const struct embedder_device *embedder = (const struct embedder_device *)device;

    struct callback_frame frame;

    (void)region;
    if (embedder->callbacks.write != NULL) {
        callback_enter(&frame, embedder->vm);
        embedder->callbacks.write(embedder->callbacks.context, offset, size, value);
        callback_leave(&frame);
    }
}

static void embedder_reset(struct device *device)
{
    const struct embedder_device *embedder = (const struct embedder_device *)device;
    struct callback_frame frame;

    if (embedder->callbacks.reset != NULL) {
        callback_enter(&frame, embedder->vm);
        embedder->callbacks.reset(embedder->callbacks.context);
        callback_leave(&frame);
    }
}

static void embedder_destroy(struct device *device)
{
    const struct embedder_device *embedder = (const struct embedder_device *)device;
    struct callback_frame frame;

    if (embedder->callbacks.destroy != NULL) {
        callback_enter(&frame, embedder->vm);
        embedder->callbacks.destroy(embedder->callbacks.context);
        callback_leave(&frame);
    }
    device_fini(device);
    free(device);
}

static const struct device_ops embedder_ops = {
    .type = "embedder",
    .read = embedder_read,
    .write = embedder_write,
    .reset = embedder_reset,
    .destroy = embedder_destroy,
};

static int device_add_failed(const struct umbra_device *callbacks, int ret)
{
    if (callbacks->size >= sizeof(*callbacks) && callbacks->destroy != NULL) {
        callbacks->destroy(callbacks->context);
    }
    return ret;
}

int umbra_device_add(struct umbra_vm *vm, const struct umbra_device *callbacks,
                     struct umbra_error *error)
{
    struct embedder_device *embedder;
    struct board_device place;
    int ret;

    if (callbacks->size < sizeof(*callbacks) || callbacks->name == NULL ||
        callbacks->length == 0 || callbacks->base + callbacks->length < callbacks->base) {
        ret = error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                        "umbra_device_add: size, name, base and length must be given");
        return device_add_failed(callbacks, ret);
    }
    ret = vm_enter(vm, "umbra_device_add", error);
    if (ret != 0) {
        return device_add_failed(callbacks, ret);
    }
    embedder = vm_state(vm) == VM_CREATED ? calloc(1, sizeof(*embedder)) : NULL;
    if (embedder != NULL) {
        embedder->callbacks = *callbacks;
        embedder->vm = vm;
        place = (struct board_device){ .kind = BOARD_OTHER,
                                       .space = callbacks->mmio ? BOARD_MMIO : BOARD_PIO,
                                       .base = callbacks->base,
                                       .size = callbacks->length,
                                       .gsi = -1 };
        device_init(&embedder->device, &embedder_ops, &vm->machine.env, callbacks->name);
        ret = machine_place(&vm->machine, &embedder->device, &place, error);
    } else if (vm_state(vm) != VM_CREATED) {
        ret = error_set(error, UMBRA_ERROR_STATE, EBUSY,
                        "umbra_device_add: devices are added before umbra_vm_start()");
        device_add_failed(callbacks, ret);
    } else {
        ret = error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "umbra_device_add");
        device_add_failed(callbacks, ret);
    }
    vm_leave(vm);
    return ret;
}
