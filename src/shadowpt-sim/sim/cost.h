/* SPDX-License-Identifier: MIT */
/* The parameters of the models: geometry of the caches, and cycles of what happens. */
#ifndef SHADOWPT_SIM_SIM_COST_H
#define SHADOWPT_SIM_SIM_COST_H

#include "shadowpt-sim/tlb/tlb.h"

#include <stdio.h>

#include <umbra/umbra.h>

struct cost_model {
    struct tlb_geometry geometry;
    /* Cycles. */
    uint32_t access;      /* an access whose translation is in the first TLB */
    uint32_t tlb_l2;      /* more, when it is in the second */
    uint32_t line[3];     /* a table entry in L1, L2, L3 */
    uint32_t memory;      /* ... and in none of them */
    uint32_t vm_exit;     /* exit and entry, without the handler */
    uint32_t guest_fault; /* #PF: delivery, the guest's handler, IRET */
    uint32_t guest_cr3;   /* MOV to CR3 without an exit */
    uint32_t guest_invlpg;
    uint32_t table_store; /* the guest stores a table entry, without an exit */
    uint32_t reflect;     /* handlers: a true fault is injected */
    uint32_t fill;        /* ... a shadow or nested entry is made */
    uint32_t dirty;       /* ... D is emulated */
    uint32_t unsync;      /* ... a table goes out of sync */
    uint32_t emulate;     /* ... a store is decoded and emulated */
    uint32_t cr3;         /* ... CR3 is loaded */
    uint32_t invlpg;      /* ... one address is invalidated */
    uint32_t sync_page;   /* an out-of-sync table is compared */
    uint32_t sync_entry;  /* ... per entry that had changed */
    uint32_t page_new;    /* a shadow page is made */
    uint32_t page_zap;    /* ... dropped */
    uint32_t flush;       /* the hypervisor flushes the TLBs of all processors */
    /* Agile paging: not cycles. */
    uint32_t agile_writes;   /* in an interval, that make a table nested */
    uint32_t agile_interval; /* events */
};

extern const struct cost_model cost_default;

/* Read "name = value" lines, "#" begins a comment, over what is in @cost already. -EINVAL:
 * a name, value or line is wrong, and @error says which line. */
int cost_load(struct cost_model *cost, const char *path, struct umbra_error *error);

/* Set one parameter; -ENOENT: no such name; -EINVAL: no such value. */
int cost_set(struct cost_model *cost, const char *name, const char *value);

/* Write a file that cost_load() reads, with what each parameter means and where its value
 * comes from: one of the names in @measured (ends with NULL; may be NULL), set by somebody,
 * or a default that is published or an estimate. */
void cost_print(const struct cost_model *cost, const char *const *measured, FILE *out);

#endif
