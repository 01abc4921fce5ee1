/* SPDX-License-Identifier: MIT */
/*
 * Inside the embedder's callbacks. A callback runs on a thread that the VM's own business
 * waits for, so calls that would have to wait for that business are refused there. What is
 * kept is the calling thread's stack of callbacks, nothing of any VM.
 */
#ifndef VMM_VM_CALLBACK_H
#define VMM_VM_CALLBACK_H

#include <stdbool.h>

#include <umbra/umbra.h>

struct callback_frame {
    const struct umbra_vm *vm;
    struct callback_frame *outer;
};

/* Around each call of an embedder's function on behalf of @vm. */
void callback_enter(struct callback_frame *frame, const struct umbra_vm *vm);
void callback_leave(struct callback_frame *frame);

/*
 * 0, or -EPERM with @error about @call in a process that was forked off the VM's: KVM, the
 * guest's memory and the VM's threads are not there.
 */
int callback_foreign(const struct umbra_vm *vm, const char *call,
                     struct umbra_error *error);

/* Is the calling thread inside a callback of @vm? */
bool callback_inside(const struct umbra_vm *vm);

/* 0, or inside a callback of @vm -EDEADLK with @error about @call; foreign as above. */
int callback_refuse(const struct umbra_vm *vm, const char *call,
                    struct umbra_error *error);

#endif
