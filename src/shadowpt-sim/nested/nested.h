/* SPDX-License-Identifier: MIT */
/* Nested paging: EPT and NPT tables (GPA to HPA) and the two-dimensional walk over them.
 */
#ifndef SHADOWPT_SIM_NESTED_NESTED_H
#define SHADOWPT_SIM_NESTED_NESTED_H

#include "shadowpt-sim/pool.h"
#include "shadowpt-sim/slots.h"
#include "shadowpt-sim/walker.h"

/* EPT entry bits (SDM 29.3.2). NPT entries are 64-bit-format page-table entries. */
#define EPT_R          ((uint64_t)1 << 0)
#define EPT_W          ((uint64_t)1 << 1)
#define EPT_X          ((uint64_t)1 << 2)
#define EPT_TYPE_SHIFT 3 /* memory type of a leaf, bits 5:3 */
#define EPT_TYPE_WB    6
#define EPT_PS         ((uint64_t)1 << 7)
#define EPT_A          ((uint64_t)1 << 8)
#define EPT_D          ((uint64_t)1 << 9)

enum nested_kind {
    NESTED_EPT,
    NESTED_NPT,
};

struct nested_config {
    enum nested_kind kind;
    uint8_t levels;      /* 4 or 5 */
    uint8_t max_level;   /* largest leaf: 1, 2, 3 for 4 KiB, 2 MiB, 1 GiB */
    uint8_t maxphyaddr;  /* of the host: reserved bits */
    bool ad;             /* EPT: EPTP bit 6; NPT always has A/D */
    bool execute_only;   /* EPT: X without R is no misconfiguration */
    uint32_t pool_pages; /* 0: 65536 */
    uint64_t pool_hpa;   /* where the tables stand in host memory */
};

struct nested_table {
    struct nested_config config;
    struct table_pool pool;
    const struct mmu_slots *slots;
    const struct mmu_memory *memory; /* where the guest's tables are read */
    uint32_t root;
    uint64_t reserved[2][6]; /* as in struct mmu_mode */
};

int nested_init(struct nested_table *table, const struct nested_config *config,
                const struct mmu_slots *slots, const struct mmu_memory *memory);
void nested_destroy(struct nested_table *table);

/* ---- One dimension: GPA to HPA ---- */

#define NESTED_READ  0x1u
#define NESTED_WRITE 0x2u
#define NESTED_FETCH 0x4u
#define NESTED_TABLE                                                                     \
    0x8u /* for an entry of the guest's tables, not for the page itself */

enum nested_outcome {
    NESTED_OK,
    NESTED_VIOLATION, /* EPT violation; NPT: #VMEXIT(NPF) */
    NESTED_MISCONFIG, /* EPT misconfiguration; NPT reports reserved bits as #NPF, RSVD set
                       */
};

struct nested_fault {
    uint8_t outcome; /* enum nested_outcome */
    uint8_t level;   /* of the entry that ended the walk */
    uint64_t gpa;
    uint64_t
        info; /* EPT: exit qualification (SDM 28.2.1); NPT: EXITINFO1 (APM 15.25.6) */
};

/* Where a leaf leads. */
struct nested_leaf {
    uint64_t page; /* HPA of the page's first byte */
    uint8_t shift; /* 12, 21, 30 */
    uint8_t perms; /* NESTED_READ | NESTED_WRITE | NESTED_FETCH */
    bool dirty;
};

/* Walk for @access (NESTED_*) and set A/D as the hardware would. */
enum nested_outcome nested_walk(const struct nested_table *table, uint64_t gpa,
                                uint32_t access, struct nested_leaf *leaf,
                                struct nested_fault *fault);

/* The entries such a walk reads, appended to @trace. */
void nested_trace(const struct nested_table *table, uint64_t gpa, uint8_t for_level,
                  struct mmu_trace *trace);

/* What the hypervisor does at a violation: map @gpa as the slots say, the largest leaf
 * that fits. 0; -ENOENT: MMIO; -EACCES: a write to a read-only slot; -ENOSPC: pool
 * exhausted. */
int nested_fill(struct nested_table *table, uint64_t gpa, uint32_t access);

/* Map every slot at once. */
int nested_fill_all(struct nested_table *table);

/* Take @perms (NESTED_READ | ...) away from, or give them back to, [gpa, gpa + size):
 * large leaves at the edges are split. Giving back never exceeds the slot. Page-aligned.
 */
int nested_protect(struct nested_table *table, uint64_t gpa, uint64_t size,
                   uint32_t perms);

/* Forget [gpa, gpa + size): a slot goes away. Empty tables go back to the pool. */
int nested_unmap(struct nested_table *table, uint64_t gpa, uint64_t size);

/* Read, then clear, the dirty flag of the leaf around @gpa. */
bool nested_clear_dirty(struct nested_table *table, uint64_t gpa);

/* The entry of @level on the path to @gpa, NULL when there is none: for tests and dumps.
 */
uint64_t *nested_entry(const struct nested_table *table, uint64_t gpa, unsigned level);

/* ---- Two dimensions: GVA to HPA ---- */

struct nested_walk {
    /* In: where to put every reference in order, NULL for none. n*m + n + m of them for n
     * guest and m nested levels with 4 KiB pages. */
    struct mmu_trace *trace;
    struct mmu_walk guest;     /* guest.outcome is the outcome; guest.to is GVA to GPA */
    struct nested_fault fault; /* after MMU_NESTED_FAULT */
    struct nested_leaf leaf;   /* after MMU_OK: of the page itself */
    struct mmu_translation
        to; /* after MMU_OK: GVA to HPA, the smaller page, both permissions */
    uint64_t hpa;
};

/* The combined walk over the memory given to nested_init(). On MMU_NESTED_FAULT the
 * caller fills (nested_fill) and repeats. */
enum mmu_outcome nested_translate(const struct nested_table *table,
                                  const struct mmu_mode *mode, uint64_t gva,
                                  uint32_t access, struct nested_walk *walk);

#endif
