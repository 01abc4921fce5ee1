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

#include "vmm/api/faults.h"
#include "vmm/api/hooks.h"
#include "vmm/control/control.h"
#include "vmm/debug/debug.h"
#include "vmm/debug/gdb.h"
#include "vmm/machine/machine.h"
#include "vmm/symbols/symbols.h"
#include "vmm/vm/callback.h"

enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED, VM_ENDED };

/* An end as it was first reported. */
struct vm_end {
    enum umbra_outcome_kind kind; /* NONE: nothing is pending */
    uint32_t exit_value;
    uint32_t vcpu; /* UINT32_MAX: none */
    char reason[512];
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
    struct hooks hooks;
    struct vm_output outputs[MACHINE_CONSOLES];
    struct debug debug;
    struct symbols symbols;

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
    struct fault_action actions[FAULT_ACTIONS_MAX]; /* planned faults that are due */
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

/* From CREATED to PAUSED: everything is started and stands at the first instruction. */
int vm_start_paused(struct umbra_vm *vm, struct umbra_error *error);

/* Hold every vCPU and device, and let them go again. The caller holds control. */
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

/* Evidence for a person about why the run ended (vmm/debug/report.c). Everything is paused. */
void vm_write_report(struct umbra_vm *vm, const struct vm_end *end, char *text,
                     size_t size);

#endif
