/* SPDX-License-Identifier: MIT */
/* Which callbacks the calling thread is inside. */
#include "vmm/vm/callback.h"

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/vm/vm.h"

static _Thread_local struct callback_frame *callback_innermost;

void callback_enter(struct callback_frame *frame, const struct umbra_vm *vm)
{
    *frame = (struct callback_frame){ .vm = vm, .outer = callback_innermost };
    callback_innermost = frame;
}

void callback_leave(struct callback_frame *frame)
{
    callback_innermost = frame->outer;
}

bool callback_inside(const struct umbra_vm *vm)
{
    const struct callback_frame *frame = callback_innermost;

    while (frame != NULL && frame->vm != vm) {
        frame = frame->outer;
    }
    return frame != NULL;
}

int callback_foreign(const struct umbra_vm *vm, const char *call,
                     struct umbra_error *error)
{
    return vm->owner == getpid()
               ? 0
               : error_set(error, UMBRA_ERROR_STATE, EPERM,
                           "%s: the VM belongs to process %d, of which this one is a "
                           "fork (see umbra_vm_create())",
                           call, (int)vm->owner);
}

int callback_refuse(const struct umbra_vm *vm, const char *call,
                    struct umbra_error *error)
{
    int ret = callback_foreign(vm, call, error);

    if (ret == 0 && callback_inside(vm)) {
        ret = error_set(error, UMBRA_ERROR_STATE, EDEADLK,
                        "%s: not from inside a callback of this VM: it would wait for "
                        "itself (do it on another thread)",
                        call);
    }
    return ret;
}
