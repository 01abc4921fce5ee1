/* SPDX-License-Identifier: MIT */
/*
 * vCPUs: one thread each around KVM_RUN, a table of exit handlers, and the gate at which
 * all of them can be held.
 *
 * Threads: a vCPU's thread runs it; any thread may kick, pause and resume. While the gate
 * is closed (vcpu_set_pause returned) any one thread may read and change vCPU state.
 */
#ifndef VCPU_VCPU_H
#define VCPU_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "base/log.h"
#include "vcpu/exit_stats.h"

struct bus;
struct cpu_model;
struct guest_mem;
struct kvm_run;
struct vcpu;
struct vcpu_set;

/* Why a vCPU cannot go on. */
enum vcpu_end_kind {
    VCPU_END_TRIPLE_FAULT,
    VCPU_END_RESET,    /* KVM_SYSTEM_EVENT_RESET */
    VCPU_END_POWEROFF, /* KVM_SYSTEM_EVENT_SHUTDOWN */
    VCPU_END_CRASH,    /* KVM_SYSTEM_EVENT_CRASH */
    VCPU_END_ERROR,
};

struct vcpu_set_options {
    int kvm_fd, vm_fd;
    size_t run_size; /* of struct kvm_run's mapping */
    unsigned count;
    struct bus *pio, *mmio;
    struct guest_mem *mem;
    const struct log *log;
    const struct cpu_model *model; /* the processor that guests see */
    /* A vCPU met its end: called on its thread, which then waits at the gate. */
    void (*ended)(void *context, struct vcpu *vcpu, enum vcpu_end_kind kind,
                  const char *reason);
    /*
     * Look at an access before the devices do: true when it is done (*value is what a read
     * gives; *fault asks for #GP on an MSR). Called only while `hooked` is set.
     */
    bool (*hook)(void *context, struct vcpu *vcpu, enum exit_key_kind kind,
                 uint64_t address, unsigned size, uint64_t *value, bool *fault);
    /* A KVM_EXIT_DEBUG (breakpoint, single step); NULL: such an exit is an error. */
    void (*debug)(void *context, struct vcpu *vcpu);
    /* KVM's emulator gave up on an int3 at @pc: true if it was the debugger's. NULL: never. */
    bool (*int3)(void *context, struct vcpu *vcpu, uint64_t pc);
    /* A vCPU's dirty ring is full: make room (vcpu/dirty.h); 0 or -errno. */
    int (*dirty_ring_full)(void *context);
    /* The guest acknowledged @vector (split irqchip); NULL when the irqchip is KVM's. */
    void (*ioapic_eoi)(void *context, unsigned vector);
    void *context;
};

struct vcpu {
    struct vcpu_set *set;
    unsigned index;
    int fd;
    int stats_fd; /* of KVM's own statistics; -1: none */
    struct kvm_run *run;
    pthread_t thread;
    bool started; /* there is a thread to join; the controller's */
    bool stepped; /* a debugger wants to see every instruction */
    bool alive;   /* the thread may be signalled; under the set's lock */
    struct exit_stats *stats;
    struct exit_detail detail; /* of the exit being handled */
    char end_exit[256];        /* the exit that ended the run, for a person; "": none */
    void *arch;                /* the architecture's private part (struct vcpu_x86) */
};

struct vcpu_set {
    struct vcpu_set_options options;
    struct vcpu *vcpus;
    /* The gate. */
    pthread_mutex_t lock;
    pthread_cond_t open;  /* vCPUs wait for want to change */
    pthread_cond_t quiet; /* controllers wait for running to reach 0 */
    atomic_int want;      /* enum vcpu_want; written under lock, read without */
    unsigned running;     /* vCPU threads on this side of the gate */
    atomic_bool hooked;   /* options.hook wants to see accesses */
    atomic_int only;      /* a vCPU index that alone may pass (single step), or -1 */
};

/* Create @options->count vCPUs; threads start closed at the gate at vcpu_set_start. */
int vcpu_set_create(const struct vcpu_set_options *options, struct vcpu_set **set,
                    struct umbra_error *error);
/* Stops and joins every thread. NULL is fine. */
void vcpu_set_destroy(struct vcpu_set *set);

/* Start the threads with the gate closed. */
int vcpu_set_start(struct vcpu_set *set, struct umbra_error *error);

/*
 * Close the gate and return when every vCPU has left KVM_RUN with its last exit
 * completed. Called on a vCPU's own thread it only closes the gate. Idempotent.
 */
void vcpu_set_pause(struct vcpu_set *set);
/* The same without waiting: signal-free, any thread, device locks may be held. */
void vcpu_set_close(struct vcpu_set *set);
/* Open the gate; with @only >= 0 just for that vCPU. */
void vcpu_set_resume(struct vcpu_set *set, int only);
/* End and join all threads; the vCPUs stay and vcpu_set_start may follow. */
void vcpu_set_stop(struct vcpu_set *set);

/* Make a vCPU leave KVM_RUN soon. Any thread. */
void vcpu_kick(struct vcpu *vcpu);

/* The name of KVM_EXIT_* @reason ("IO", "MMIO", ...). */
const char *vcpu_exit_name(unsigned reason);

/* Ask the hook, if there is one, about an access; true: it is done. */
static inline bool vcpu_hook(struct vcpu *vcpu, enum exit_key_kind kind, uint64_t address,
                             unsigned size, uint64_t *value, bool *fault)
{
    struct vcpu_set *set = vcpu->set;

    return atomic_load_explicit(&set->hooked, memory_order_acquire) &&
           set->options.hook(set->options.context, vcpu, kind, address, size, value,
                             fault);
}

/* What KVM says about the exit that is being handled, for a person. */
void vcpu_describe_exit(const struct vcpu *vcpu, char *text, size_t size);

/* What a handler answers. */
enum vcpu_verdict { VCPU_GO_ON, VCPU_ENDED };

/* The exit table's lookup (vcpu/exits.c). */
enum vcpu_verdict vcpu_handle_exit(struct vcpu *vcpu);

/* End the run from a handler: notes the end and answers VCPU_ENDED. */
enum vcpu_verdict vcpu_end(struct vcpu *vcpu, enum vcpu_end_kind kind, const char *format,
                           ...) __attribute__((format(printf, 3, 4)));

/* ---- The architecture's part (vcpu/x86_64/)
 * -------------------------------------------- */

int vcpu_arch_create(struct vcpu *vcpu, struct umbra_error *error);
void vcpu_arch_destroy(struct vcpu *vcpu);
/* Remember the state that a reset goes back to: after creation, before the entry is set.
 */
int vcpu_arch_capture(struct vcpu *vcpu, struct umbra_error *error);
int vcpu_arch_reset(struct vcpu *vcpu, struct umbra_error *error);
/* Raise an NMI; the vCPU is not in KVM_RUN. 0 or -errno. */
int vcpu_inject_nmi(struct vcpu *vcpu);
/* Have accesses to the @count MSRs in @list exit (replaces the list before); gate closed. */
int vcpu_arch_filter_msrs(struct vcpu_set *set, const uint32_t *list, unsigned count);
/* Handle an exit that the common table does not know. */
enum vcpu_verdict vcpu_arch_exit(struct vcpu *vcpu, bool *handled);
/* KVM's emulator gave up on an instruction: complete it or end the run. */
enum vcpu_verdict vcpu_arch_emulation_failure(struct vcpu *vcpu);
/* Add the architecture's own statistics to a JSON object (jansson json_t). */
void vcpu_arch_stats(struct vcpu *vcpu, void *json);
#endif
