/* SPDX-License-Identifier: MIT */
/* Shadow paging: tables from GVA to HPA, kept beside the guest's own and in step with
 * them. */
#ifndef SHADOWPT_SIM_SHADOW_SHADOW_H
#define SHADOWPT_SIM_SHADOW_SHADOW_H

#include "shadowpt-sim/slots.h"
#include "shadowpt-sim/walker.h"

/*
 * One struct shadow_mmu serves one guest: it owns the shadow pages. Each of the guest's
 * processors is a struct shadow_vcpu with its own registers and roots. The caller
 * serialises all calls on one shadow_mmu; real MMUs may walk the shadow tables at the
 * same time (entries are stored whole, and flush() is called before anything relies on an
 * entry being gone).
 *
 * The processor that walks shadow tables runs with CR0.WP = 1, EFER.NXE = 1 and otherwise
 * the guest's SMEP, SMAP, PKE, PKRU and RFLAGS.AC. Tables have the 64-bit format with as
 * many levels as the guest's; guests in 32-bit formats or without paging get PAE-shaped
 * ones: a level-3 root of four entries (P only) over levels 2 and 1.
 */
struct shadow_mmu;
struct shadow_vcpu;

/* How shadow tables learn of changes in the guest's tables. */
enum shadow_policy {
    SHADOW_WP, /* every shadowed table is write-protected; writes to it are emulated */
    SHADOW_UNSYNC, /* leaf tables may go out of sync until INVLPG, CR3 load, mode change
                    */
    SHADOW_VTLB, /* a virtual TLB: protect nothing, drop on CR3 load and INVLPG, refill */
    SHADOW_AGILE, /* tables that change often are not shadowed but walked nested: needs a
                   * processor that goes on nested in the midst of a walk, see below */
    SHADOW_POLICIES,
};

const char *shadow_policy_name(enum shadow_policy policy);
/* 0 or -EINVAL. */
int shadow_policy_parse(const char *name, enum shadow_policy *policy);

/* What ended an access. */
enum shadow_outcome {
    SHADOW_OK,
    SHADOW_FAULT,        /* inject #PF: error_code, CR2 = the GVA */
    SHADOW_NONCANONICAL, /* inject #GP(0) or #SS(0) */
    SHADOW_UNBACKED,     /* a guest table entry is not in memory */
    SHADOW_MMIO, /* gpa is in no slot, or a write to a read-only one: emulate the device
                  */
    SHADOW_TABLE_WRITE, /* gpa is in a protected table: do the write with shadow_write()
                         */
    SHADOW_EMULATE,   /* permitted, but no entry can say so (CR0.WP = 0 with SMAP or PKE):
                       * the write is to be done with shadow_write() at gpa */
    SHADOW_NO_MEMORY, /* the library could not allocate */
};

/* What the guest's processor left guest mode for, and what was done about it. */
enum shadow_event {
    SHADOW_EXIT_TRUE_FAULT,  /* a fault of the guest's own, reflected */
    SHADOW_EXIT_HIDDEN_FILL, /* the shadow lacked what the guest's tables permit */
    SHADOW_EXIT_DIRTY,       /* first write to a clean page: the D bit was emulated */
    SHADOW_EXIT_UNSYNC,      /* a write that let a leaf table go out of sync */
    SHADOW_EXIT_TABLE_WRITE, /* a write to a protected table */
    SHADOW_EXIT_WP_CLEAR, /* CR0.WP = 0: the page changed sides between user and kernel */
    SHADOW_EXIT_EMULATE,
    SHADOW_EXIT_NESTED, /* a hidden fill for a walk that goes on nested */
    SHADOW_EXIT_MMIO,
    SHADOW_EXIT_CR3,
    SHADOW_EXIT_INVLPG,
    SHADOW_EXIT_INVPCID,
    SHADOW_EXIT_MODE, /* CR0, CR4, EFER */
    SHADOW_EXITS,     /* how many kinds of exit there are */

    SHADOW_REMOTE_FLUSH = SHADOW_EXITS, /* every processor's TLB was flushed */
    SHADOW_PAGE_NEW,                    /* shadow pages made */
    SHADOW_PAGE_ZAP,                    /* shadow pages dropped */
    SHADOW_PAGE_EVICT,                  /* of these, for want of room */
    SHADOW_PAGE_FLOOD,    /* of these, because the guest kept writing to the table */
    SHADOW_PAGE_SYNC,     /* out-of-sync tables brought into step */
    SHADOW_ENTRY_SYNC,    /* of their entries, those that had changed */
    SHADOW_ENTRY_SET,     /* shadow entries written */
    SHADOW_ENTRY_ZAP,     /* shadow entries cleared */
    SHADOW_SPLINTER,      /* guest large pages mapped by smaller ones */
    SHADOW_WRITE_PROTECT, /* writable mappings taken away to protect a table */
    SHADOW_TABLE_NESTED,  /* agile: tables that are walked nested from then on */
    SHADOW_TABLE_BACK,    /* ... shadowed again */
    SHADOW_ENTRY_PREFILL, /* ... their entries, made at once */
    SHADOW_TABLE_COMPARE, /* ... looked through for changes, at the end of an interval */
    SHADOW_EVENTS,
};

const char *shadow_event_name(enum shadow_event event);

struct shadow_stats {
    uint64_t count[SHADOW_EVENTS];
};

/* Called back during the calls below; may be NULL. */
struct shadow_hooks {
    void *context;
    /* Drop everything, global entries too, from the hardware TLBs of all processors, before
     * returning. Flushes that a guest's own instruction asks for are not reported here: the
     * caller does them with the instruction. */
    void (*flush)(void *context);
};

struct shadow_config {
    const struct mmu_memory
        *memory; /* the guest's; must outlive the MMU, like the slots */
    const struct mmu_slots *slots;
    enum shadow_policy policy;
    struct shadow_hooks hooks;
    uint32_t pool_pages; /* shadow pages at most, 64 (agile 128) or more; 0: 65536 */
    void *pool;          /* where they are, pool_pages * 4 KiB; NULL: own memory */
    uint64_t pool_hpa;   /* host-physical address of the pool: page-aligned */
    uint8_t
        flood_limit;   /* writes to a table without use in between that unshadow it (twice
                          * as many for page tables); 0: 3, 255: never */
    uint8_t max_level; /* largest shadow leaf, 1 to 3; 0: 3 */
    uint8_t
        agile_writes; /* agile: writes in an interval that make a table nested; 0: 2 */
    uint8_t nested_levels; /* agile: of the nested tables, 4 or 5; 0: 4 */
};

int shadow_create(const struct shadow_config *config, struct shadow_mmu **mmu);
void shadow_destroy(struct shadow_mmu *mmu);

const struct shadow_stats *shadow_stats(const struct shadow_mmu *mmu);
void shadow_stats_reset(struct shadow_mmu *mmu);

/* Shadow pages in use (4 KiB each). */
uint32_t shadow_pages(const struct shadow_mmu *mmu);

/* Change the policy of a running guest: drops every shadow page. -ENOSPC: the pool is too
 * small for it. */
int shadow_set_policy(struct shadow_mmu *mmu, enum shadow_policy policy);

/* ---- Processors ------------------------------------------------------------------ */

/* Processors start with paging off. */
int shadow_vcpu_create(struct shadow_mmu *mmu, const struct mmu_cpu *cpu,
                       struct shadow_vcpu **vcpu);
void shadow_vcpu_destroy(struct shadow_vcpu *vcpu);

/* The guest's registers as the MMU knows them. */
const struct mmu_mode *shadow_vcpu_mode(const struct shadow_vcpu *vcpu);
/* What the real processor is to run with on the shadow tables; use it to check a TLB hit.
 */
const struct mmu_mode *shadow_vcpu_hardware(const struct shadow_vcpu *vcpu);
/* HPA of the root table, for the real CR3. */
uint64_t shadow_vcpu_root(const struct shadow_vcpu *vcpu);

/* Set all registers at once (reset, restored state, far jumps between modes). Reads CR0,
 * CR3, CR4, EFER, PKRU and, for PAE, loads the PDPTEs from memory. -EINVAL: #GP(0), and
 * nothing changed. Flushes. */
int shadow_set_mode(struct shadow_vcpu *vcpu, const struct mmu_mode *mode);

/* MOV to CR3 with this operand (bit 63: keep the PCID's translations). -EINVAL: #GP(0).
 */
int shadow_load_cr3(struct shadow_vcpu *vcpu, uint64_t operand);

void shadow_set_pkru(struct shadow_vcpu *vcpu, uint32_t pkru);

/* To be intercepted unless shadow_traps_invlpg() says that the processor's own flush is
 * enough. */
void shadow_invlpg(struct shadow_vcpu *vcpu, uint64_t gva);
bool shadow_traps_invlpg(const struct shadow_mmu *mmu);

enum invpcid_type {
    INVPCID_ADDRESS,        /* @gva in @pcid, not global */
    INVPCID_CONTEXT,        /* all of @pcid, not global */
    INVPCID_ALL,            /* everything */
    INVPCID_ALL_NOT_GLOBAL, /* everything but global */
};

/* -EINVAL: #GP(0). */
int shadow_invpcid(struct shadow_vcpu *vcpu, enum invpcid_type type, uint16_t pcid,
                   uint64_t gva);

/* ---- Accesses -------------------------------------------------------------------- */

struct shadow_result {
    uint8_t outcome; /* enum shadow_outcome */
    uint8_t event;   /* enum shadow_event that was counted last; SHADOW_EVENTS: no exit */
    uint32_t error_code;
    uint64_t gpa; /* all but FAULT, NONCANONICAL; after OK only if there was an exit */
    uint64_t hpa; /* OK */
    struct mmu_translation to; /* OK: the shadow leaf; to.page is an HPA */
};

/* What the real MMU does: walk the shadow tables. True and the translation, or false: a
 * page fault that goes to shadow_fault(). Sets A in the leaf, and nothing else. */
bool shadow_translate(const struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                      struct mmu_translation *to);

/* The entries that such a walk reads (HPAs), for TLB and cost models. */
void shadow_trace(const struct shadow_vcpu *vcpu, uint64_t gva, struct mmu_trace *trace);

/* The page-fault handler: walk the guest's tables, then reflect, fill or hand over. After
 * SHADOW_OK the shadow tables serve the access (to, hpa say how). */
enum shadow_outcome shadow_fault(struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                                 struct shadow_result *result);

/* shadow_translate(), else shadow_fault(). */
enum shadow_outcome shadow_access(struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                                  struct shadow_result *result);

/* ---- Agile paging ------------------------------------------------------------------ */

/*
 * A guest table is either shadowed, which keeps it write-protected, or nested: then nothing
 * follows its changes, and an entry of the shadow page above it switches the walk. It goes
 * on in the guest's own tables, through nested tables (NPT's format) that belong to the MMU,
 * with the rights that the switching entry leaves. So shadow_translate() may set A and D in
 * the guest's tables, and the guest's own faults in this part need no exit.
 *
 * Only guests with 64-bit tables, CR0.WP and EFER.NXE get nested parts: their registers are
 * those that the processor has on shadow tables. All else is done as under `wp`. Roots change with the tables: load
 * shadow_vcpu_root() anew after each call of flush().
 */

/* An entry that switches: ignored by today's processors. Its address is the guest's table's
 * HPA, W, U and NX are what the guest's entries down to here permit. */
#define SHADOW_SWITCH ((uint64_t)1 << 10)

/* An interval has passed, a second or so. Writes are counted by the interval, and a nested
 * table that did not change in one is shadowed again. Other policies: nothing to do. */
void shadow_tick(struct shadow_mmu *mmu);

/* Decide it for the table at @gpa: nested or shadowed. False where it cannot be: nested, but
 * in ROM or no slot, or used by a guest that gets no nested parts. */
bool shadow_switch_table(struct shadow_mmu *mmu, uint64_t gpa, bool nested);

/* Where shadow_translate() said false: whether this is a fault of the guest's own that the
 * processor met in a nested part and delivers without an exit. */
bool shadow_delivers(const struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                     uint32_t *error_code);

/* Whether the walk is nested from the guest's CR3 on: shadow_vcpu_root() is not used then. */
bool shadow_vcpu_nested(const struct shadow_vcpu *vcpu);
/* HPA of the nested tables' root; 0: no walk is nested yet. */
uint64_t shadow_nested_root(const struct shadow_mmu *mmu);

/* ---- Changes of memory ------------------------------------------------------------ */

/* The hypervisor stores into guest memory (an emulated instruction, a device's DMA) and
 * brings shadow tables into step. @size 1 to 8, any alignment. -EFAULT: no RAM there. */
int shadow_write(struct shadow_mmu *mmu, uint64_t gpa, unsigned size, uint64_t value);

/* The same for bytes that were already stored: [gpa, gpa + size). */
void shadow_memory_changed(struct shadow_mmu *mmu, uint64_t gpa, uint64_t size);

/* A slot is about to go away, move or turn read-only: drop all that maps it or shadows a
 * table in it. Call this before mmu_slots_remove(). Additions need no call. */
void shadow_slot_zap(struct shadow_mmu *mmu, uint64_t gpa, uint64_t size);

/* Drop one shadow page, the @choice'th of those that may go (modulo their number): what
 * memory pressure does. False when there is none. */
bool shadow_evict(struct shadow_mmu *mmu, uint32_t choice);

/* Drop everything; roots are made anew. */
void shadow_zap_all(struct shadow_mmu *mmu);

/* ---- Audit ------------------------------------------------------------------------ */

/* Check every invariant (docs/shadow-paging.md lists them): slow, for tests. 0, or
 * -EPROTO and which one in @error. Changes nothing that can be seen. */
int shadow_audit(struct shadow_mmu *mmu, struct umbra_error *error);

/* Right after a flush of the current root (CR3 load, INVPCID): no out-of-sync page is
 * reachable from it. */
int shadow_audit_synced(const struct shadow_vcpu *vcpu, struct umbra_error *error);

#endif
