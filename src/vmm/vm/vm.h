/* SPDX-License-Identifier: MIT */
/*
 * A VM's life: CREATED -> RUNNING <-> PAUSED -> ENDED, and by reset back to CREATED.
 *
 * Locks, in this order: `control` serialises what stops and starts the machine and is held
 * while waiting for it; `lock` guards the fields below it for moments only, so that device
 * and vCPU threads may report an end at any time.
 */
#ifndef VMM_VM_VM_H
#define VMM_VM_VM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <umbra/umbra.h>

#include "vmm/machine/machine.h"
#include "vmm/vm/callback.h"

struct control;
struct debug;
struct gdb;
struct hooks;
struct symbols;

enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED, VM_ENDED };

/* An end as it was first reported. */
struct vm_end {
    enum umbra_outcome_kind kind; /* NONE: nothing is pending */
    uint32_t exit_value;
    uint32_t vcpu; /* UINT32_MAX: none */
    char reason[512];
};

enum { VM_FAULT_ACTIONS = 16 };

/* What the rooms above do at moments of a VM's life. */
struct vm_moments {
    /* The guest was loaded, for the first time or afresh. The caller holds control. */
    void (*loaded)(struct umbra_vm *vm);
    /* There is a new state. The caller holds lock. */
    void (*changed)(struct umbra_vm *vm);
    /* Evidence for a person about why the run ended. Everything is paused. */
    void (*report)(struct umbra_vm *vm, const struct vm_end *end, char *text,
                   size_t size);
};

struct vm_output { /* the embedder's callback for a console */
    struct umbra_vm *vm;
    umbra_console_fn fn;
    void *context;
};

struct umbra_vm {
    struct umbra_config *config;
    pid_t owner; /* the process that made it */
    struct machine machine;
    struct vm_output outputs[MACHINE_CONSOLES];
    const struct vm_moments *moments;
    /* Each is its own room's business. */
    struct hooks *hooks;
    struct debug *debug;
    struct symbols *symbols;

    pthread_mutex_t control;
    bool threads_started; /* under control */
    bool devices_paused;  /* under control */

    pthread_mutex_t inject_lock;             /* a leaf: callbacks inject too */
    struct irq_line injected[IRQ_GSI_COUNT]; /* the embedder's lines; under inject_lock */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* CLOCK_MONOTONIC; pending, quit or state changed */
    enum vm_state state;
    struct vm_end pending;
    bool quit;
    struct umbra_stop stop; /* where a debugger had the guest stop; kind NONE: nowhere */
    bool stepping;          /* umbra_vm_step() waits for that */
    struct fault_action actions[VM_FAULT_ACTIONS]; /* planned faults that are due */
    unsigned action_count;
    struct umbra_outcome outcome;   /* valid once ENDED */
    uint64_t start_ns, deadline_ns; /* deadline 0: none */

    struct control *control_socket; /* NULL: none; under control */
    struct gdb *gdb;                /* NULL: nobody listens; under lock */
    pthread_t keeper;               /* turns reported ends into outcomes */
    bool keeper_started;
    int event_fd;
};

/* Report an end; the first one counts. Any thread, device locks may be held. */
void vm_report_end(struct umbra_vm *vm, const struct vm_end *end);

/* Take control for the public call @call; refused inside callbacks. */
int vm_enter(struct umbra_vm *vm, const char *call, struct umbra_error *error);
void vm_leave(struct umbra_vm *vm);

/* The error of public call @call in this state. */
int vm_wrong_state(enum vm_state state, const char *call, struct umbra_error *error);

/* From CREATED to @next: everything is started and held. The caller holds control. */
int vm_start_held(struct umbra_vm *vm, enum vm_state next, const char *call,
                  struct umbra_error *error);
/* From CREATED to PAUSED: everything is started and stands at the first instruction. */
int vm_start_paused(struct umbra_vm *vm, struct umbra_error *error);

/* What was asked for failed half way, as @error says: the run ends with that, so that nobody
 * waits for a VM that stands still. */
void vm_fail(struct umbra_vm *vm, const char *what, const struct umbra_error *error);

/* Hold every vCPU and device, and let them go again; where they cannot, the run ends. The
 * caller holds control. */
void vm_hold(struct umbra_vm *vm);
int vm_release(struct umbra_vm *vm, struct umbra_error *error);

void vm_set_state(struct umbra_vm *vm, enum vm_state state);

/* Start the keeper (vmm/vm/keeper.c). */
int vm_start_keeper(struct umbra_vm *vm, struct umbra_error *error);

/* Let the vCPUs run on, unless an end was reported meanwhile. The caller holds control. */
void vm_open_gate(struct umbra_vm *vm);

enum vm_state vm_state(struct umbra_vm *vm);

/* The console with this number in the public calls; NULL: there is none. */
struct console *vm_console(struct umbra_vm *vm, unsigned port);
/* "com1", "hvc0": of a port that there is. */
const char *vm_console_name(const struct umbra_vm *vm, unsigned port);

/*
 * Wait until @fd polls for @events, or the run of @vm (may be NULL) has ended: 0, -EPIPE,
 * or -ETIMEDOUT at @deadline_ns (0: never). Whatever polls already wins.
 */
int vm_poll(struct umbra_vm *vm, int fd, short events, uint64_t deadline_ns);
/* The public calls' @timeout_ms as a deadline. */
uint64_t vm_deadline(int64_t timeout_ms);

/* Planned faults of the machine (vmm/vm/faults.c). faults_options.act: context is the VM. */
void vm_fault_act(void *context, const struct fault_action *action);
/* Are there actions, and is the VM in a state to have them? The caller holds lock. */
bool vm_faults_due(const struct umbra_vm *vm);
/* Carry them out; on the keeper's thread. */
void vm_faults_apply(struct umbra_vm *vm);

#endif
