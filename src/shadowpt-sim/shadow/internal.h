/* SPDX-License-Identifier: MIT */
/* Inside the shadow MMU: shadow pages, the frame index, and what its parts ask of each
 * other. */
#ifndef SHADOWPT_SIM_SHADOW_INTERNAL_H
#define SHADOWPT_SIM_SHADOW_INTERNAL_H

#include "shadowpt-sim/pool.h"
#include "shadowpt-sim/shadow/shadow.h"

struct walk_start;

/* ---- References to entries ---- */

/* A shadow entry is named by its page's index and its slot. Every present entry is on one
 * list: a leaf on that of the frame it maps (the reverse map), a pointer on that of the
 * page it points at (its parents). The list is doubly linked through struct shadow_link,
 * parallel to the entries; the first one's `prev` names the list's owner. */
typedef uint32_t entry_ref;

#define REF_NONE       UINT32_MAX
#define REF_OWNER      0x80000000u /* set in `prev` of the first: an owner, not an entry */
#define REF_OWNER_PAGE 0x40000000u /* ... a page, otherwise a frame node */
#define REF_INDEX      0x3fffffffu

struct shadow_link {
    entry_ref next, prev;
};

static inline entry_ref ref_make(uint32_t page, unsigned slot)
{
    return page << 9 | slot;
}

static inline uint32_t ref_page(entry_ref ref)
{
    return ref >> 9;
}

static inline unsigned ref_slot(entry_ref ref)
{
    return ref & 511;
}

/* ---- Shadow pages ---- */

/* All that decides what a shadow page's entries look like, besides the guest's table. */
union shadow_role {
    struct {
        uint32_t level : 3;
        uint32_t access : 3;   /* MMU_PERM_* that the guest's upper levels leave */
        uint32_t quadrant : 2; /* legacy format: which part of the guest's table */
        uint32_t direct : 1;   /* maps consecutive frames; no guest table behind it */
        uint32_t vtlb : 1;     /* part of a virtual TLB; no guest table behind it */
        uint32_t root32 : 1;   /* the four-entry root of a 32-bit guest; private */
        uint32_t nested : 1; /* stands for a root that is walked nested: empty; private */
        /* From the registers. */
        uint32_t format : 2;
        uint32_t nx : 1;
        uint32_t pse : 1;
        uint32_t pge : 1;
        uint32_t pkeys : 1;
        uint32_t wp : 1;
        uint32_t smep_nowp : 1; /* SMEP, and CR0.WP is 0 */
        uint32_t
            flip_nowp : 1; /* CR0.WP is 0 and pages may change sides (no SMAP, no PKE) */
    };
    uint32_t word;
};

struct shadow_page {
    uint64_t
        gfn; /* the guest table's frame; direct: first frame; vtlb: first GVA >> 12 */
    union shadow_role role;
    uint32_t next; /* next page shadowing the same frame, POOL_NONE */
    entry_ref parents;
    uint32_t older, newer; /* the queue that eviction goes along */
    uint32_t pins;         /* roots in use are not dropped */
    uint16_t present;      /* entries in use */
    uint16_t unsync_count; /* bits set in unsync_below */
    bool live;
    bool unsync; /* the guest may write the table unseen */
    bool used;   /* since eviction last looked */
    bool aged;   /* A was taken from the leaves, to see which the processor sets again */
    bool splinter;  /* vtlb: parts of a guest page larger than this whole page */
    uint8_t writes; /* to the guest's table since the shadow page was last of use */
    uint64_t unsync_below[8]; /* entries that lead to an unsync page (or did) */
};

static inline bool page_tracked(const struct shadow_page *page)
{
    return !page->role.direct && !page->role.vtlb && !page->role.root32 &&
           !page->role.nested;
}

/* ---- The frame index ---- */

/* What is known of one guest frame, or of a 2 MiB or 1 GiB run of them. */
struct frame_node {
    uint64_t key; /* first frame << 2 | (level - 1) */
    uint32_t hash_next;
    entry_ref leaves;  /* shadow leaves of this size that map it, and switching entries */
    uint32_t pages;    /* level 1: shadow pages of the table in this frame, POOL_NONE */
    uint32_t shadowed; /* levels 2, 3: shadowed frames inside; no leaf may cover them */
    uint32_t digest;   /* agile: of a nested table at the last tick, 0: there was none */
    bool nested;       /* agile: the table is walked nested; it has no shadow pages */
    uint8_t writes;    /* agile: to a shadowed table, since the last tick */
    uint8_t idle;      /* agile: ticks that nothing switched to a nested table */
};

struct frame_index {
    struct frame_node *node;
    uint32_t *bucket;
    uint32_t capacity, buckets; /* buckets: a power of two */
    uint32_t fresh, free_head, in_use;
};

#define NODE_NONE UINT32_MAX

int frames_init(struct frame_index *frames);
void frames_destroy(struct frame_index *frames);
/* Make sure that @count nodes can be had. 0 or -ENOMEM. */
int frames_reserve(struct frame_index *frames, uint32_t count);
/* The node of the @level-sized run around @gfn, or NODE_NONE. */
uint32_t frames_find(const struct frame_index *frames, uint64_t gfn, unsigned level);
/* The same, made if need be; frames_reserve() has seen to it that this cannot fail. */
uint32_t frames_get(struct frame_index *frames, uint64_t gfn, unsigned level);
/* Forget the node if nothing is known any more. */
void frames_put(struct frame_index *frames, uint32_t node);

static inline uint64_t node_gfn(const struct frame_node *node)
{
    return node->key >> 2;
}

static inline unsigned node_level(const struct frame_node *node)
{
    return (unsigned)(node->key & 3) + 1;
}

/* ---- The MMU ---- */

#define SHADOW_ROOTS      8  /* roots a processor keeps, one of them in use */
#define SHADOW_ROOM       8  /* free pages that one fault may need */
#define SHADOW_ROOM_AGILE 32 /* ... with nested tables for the path and the page */
#define SHADOW_NODES      32 /* new nodes that one fault may need */

struct shadow_policy_ops {
    const char *name;
    bool tracked; /* shadow pages follow guest tables, which are protected */
    /* The guest wants to write a protected frame. True: let it, from now on unseen. */
    bool (*may_write)(struct shadow_mmu *mmu, uint32_t node);
    /* The guest wrote to a shadowed table, and that was emulated. NULL: nothing to do. */
    void (*written)(struct shadow_mmu *mmu, uint64_t gfn);
    /* The guest flushed everything that translates through @root. */
    void (*flush_root)(struct shadow_mmu *mmu, uint32_t root);
    /* The guest flushed @gva in @root. */
    void (*invlpg)(struct shadow_mmu *mmu, uint32_t root, uint64_t gva);
    uint32_t room; /* free pages that one fault may need */
};

extern const struct shadow_policy_ops shadow_policy_ops[SHADOW_POLICIES];

struct shadow_mmu {
    struct shadow_config config;
    const struct shadow_policy_ops *policy;
    struct table_pool pool;
    struct shadow_page *page; /* parallel to the pool */
    struct shadow_link *link; /* 512 a page */
    struct frame_index frames;
    uint32_t oldest, newest; /* the eviction queue */
    uint32_t nested_root;    /* agile: page of the nested tables' root, POOL_NONE */
    uint32_t live;
    struct shadow_vcpu **vcpu;
    unsigned vcpus, vcpu_capacity;
    struct mmu_cpu cpu;
    uint32_t formats;  /* guest formats shadowed so far, as bits */
    bool flush_needed; /* a TLB may hold what must be gone before we return */
    bool tlb_stale;    /* a TLB may hold what only the guest asked to be gone */
    struct mmu_mode
        role_mode; /* registers rebuilt from role_word, see shadow_role_mode() */
    uint32_t role_word;
    struct shadow_stats stats;
};

struct shadow_root {
    bool valid;
    uint16_t pcid;
    uint32_t page;
    uint64_t cr3; /* without PCID */
    union shadow_role role;
    uint64_t pdpte[4];
    uint64_t stamp; /* for replacing the least recently used */
};

struct shadow_vcpu {
    const uint64_t *root_table; /* what shadow_translate() starts from */
    const struct table_pool *pool;
    uint8_t root_level;
    bool nested; /* the root too is walked nested: root_table is empty */
    struct mmu_mode hardware;
    struct mmu_mode mode;
    union shadow_role role; /* the registers' part */
    struct shadow_mmu *mmu;
    unsigned current; /* in root[] */
    uint64_t clock;
    struct shadow_root root[SHADOW_ROOTS];
};

static inline void count(struct shadow_mmu *mmu, enum shadow_event event)
{
    mmu->stats.count[event]++;
}

static inline uint64_t *entry_at(const struct shadow_mmu *mmu, entry_ref ref)
{
    return pool_page(&mmu->pool, ref_page(ref)) + ref_slot(ref);
}

/* A processor may be reading: entries are stored whole. */
static inline void entry_store(uint64_t *entry, uint64_t value)
{
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

/* Log2 of what a shadow entry of @level spans. */
static inline unsigned shadow_shift(unsigned level)
{
    return MMU_PAGE_SHIFT + 9 * (level - 1);
}

static inline bool entry_leaf(const struct shadow_page *page, uint64_t entry)
{
    return page->role.level == 1 || ((entry & PTE_PS) && !page->role.root32);
}

/* shadow.c: whether pinned roots leave room enough to work in. */
bool shadow_pool_suffices(const struct shadow_mmu *mmu,
                          const struct shadow_policy_ops *policy, unsigned vcpus);

/* page.c: pages, lists, protection. */
int shadow_make_room(struct shadow_mmu *mmu);
uint32_t shadow_page_find(const struct shadow_mmu *mmu, uint64_t gfn,
                          union shadow_role role);
uint32_t shadow_page_make(struct shadow_mmu *mmu, uint64_t gfn, union shadow_role role);
/* Drop a page and what only it kept; a pinned one is only emptied. */
void shadow_page_zap(struct shadow_mmu *mmu, uint32_t index);
void shadow_page_empty(struct shadow_mmu *mmu, uint32_t index);
void shadow_page_unpin(struct shadow_mmu *mmu, uint32_t index);
void entry_set_leaf(struct shadow_mmu *mmu, entry_ref ref, uint64_t entry, uint64_t gfn);
void entry_set_pointer(struct shadow_mmu *mmu, entry_ref ref, uint32_t child);
/* Clear a present entry. The caller decides whether TLBs matter (flush_needed,
 * tlb_stale). */
void entry_drop(struct shadow_mmu *mmu, entry_ref ref);
/* Drop every leaf on a node's list. */
void frame_unmap(struct shadow_mmu *mmu, uint32_t node);
/* Take write permission from every leaf that maps the frame. */
void frame_protect(struct shadow_mmu *mmu, uint64_t gfn);
/* Whether a synced shadow page depends on writes to the frame being seen. */
bool frame_protected(const struct shadow_mmu *mmu, uint64_t gfn);
/* Call the flush hook if it is due: the last thing every public function does. */
void shadow_flush_due(struct shadow_mmu *mmu);

/* entry.c: from guest entries to shadow entries. */
const struct mmu_mode *shadow_role_mode(struct shadow_mmu *mmu, union shadow_role role);
union shadow_role shadow_role_of(const struct mmu_mode *mode);
/* Ignored by processors: the guest's D was set when the leaf was made. */
#define SHADOW_GUEST_DIRTY ((uint64_t)1 << 9)

/* A shadow leaf of @level at @hpa for a guest translation; @role gives CR0.WP and
 * friends. It may be written if the guest's tables permit it, D is set there, and
 * @writable. */
uint64_t shadow_leaf(const struct mmu_translation *guest, union shadow_role role,
                     unsigned level, uint64_t hpa, bool writable);
/* What a TLB may keep of a shadow leaf. */
void shadow_leaf_translation(uint64_t leaf, unsigned level, struct mmu_translation *to);
/* The CR0.WP = 0 variant: the kernel may write, the user may not touch. */
uint64_t shadow_leaf_flip(uint64_t leaf, union shadow_role role);
/* The most that the guest's table permits now at an entry of a tracked level-1 page; 0:
 * none. *gfn: the frame it maps. */
uint64_t shadow_leaf_wanted(struct shadow_mmu *mmu, const struct shadow_page *page,
                            unsigned slot, uint64_t *gfn);
/* Whether @leaf says no more than @wanted, a leaf of the same role, permits. */
bool shadow_leaf_fits(uint64_t leaf, uint64_t wanted, union shadow_role role);
/* Where the guest entry behind a slot of a tracked page is, and its size. */
uint64_t shadow_guest_entry(const struct shadow_page *page, unsigned slot,
                            unsigned *size);

/* sync.c: following the guest's changes. */
void shadow_unsync_mark(struct shadow_mmu *mmu, uint32_t index);
/* A page or something below it is unsync: tell the entries above. */
void shadow_unsync_link(struct shadow_mmu *mmu, entry_ref parent);
void shadow_sync_page(struct shadow_mmu *mmu, uint32_t index);
/* Every unsync page that can be reached below a page. */
void shadow_sync_below(struct shadow_mmu *mmu, uint32_t index);
/* Every unsync page of one frame. */
void shadow_sync_frame(struct shadow_mmu *mmu, uint64_t gfn);
/* [gpa, gpa + size) was written, inside one frame. @skip_formats: formats (bits) whose
 * shadow pages need not know. @flood: count it as a sign that the frame is no table any
 * more. */
void shadow_table_written(struct shadow_mmu *mmu, uint64_t gpa, unsigned size,
                          uint32_t skip_formats, bool flood);

/* walk.c: the processor. */
/* Where a walk goes on nested: what the rest says, and *to after MMU_OK. MMU_NESTED_FAULT:
 * the nested tables lack something. NULL for @start: from CR3 on. */
enum mmu_outcome shadow_walk_nested(const struct shadow_vcpu *vcpu,
                                    const struct walk_start *start, uint64_t gva,
                                    uint32_t access, struct mmu_walk *walk,
                                    struct mmu_translation *to);

/* GVA to GPA by @walk and on by the nested tables' @page: *to, and the HPA. */
uint64_t shadow_combine(const struct mmu_walk *walk, const struct mmu_translation *page,
                        struct mmu_translation *to);

/* agile.c: which tables are nested. */
/* Whether guests in such a role get nested parts. */
bool agile_role(const struct shadow_mmu *mmu, union shadow_role role);
bool agile_nested(const struct shadow_mmu *mmu, uint64_t gfn);
/* Whether the table may be walked nested below a path; pinned pages: no. */
bool agile_may_nest(const struct shadow_mmu *mmu, uint64_t gfn);
/* From now on nested: its shadow pages go. Not for a frame with pinned pages. */
void agile_nest(struct shadow_mmu *mmu, uint64_t gfn);
/* ... not nested: what switches to it goes. */
void agile_unnest(struct shadow_mmu *mmu, uint64_t gfn);
/* Make the entries of a new level-1 page that the guest's A bits ask for. */
void agile_prefill(struct shadow_mmu *mmu, uint32_t index);
/* The guest wrote to a shadowed table: enough to make it nested? */
void agile_written(struct shadow_mmu *mmu, uint64_t gfn);
/* Forget which tables are nested, and the nested tables: all pages are dropped. */
void agile_reset(struct shadow_mmu *mmu);

/* vcpu.c: roots. */
int shadow_root_load(struct shadow_vcpu *vcpu, bool flush);
/* A table became nested, or is not any more: where it is a root, the root changes. -ENOMEM. */
int shadow_roots_follow(struct shadow_mmu *mmu);
void shadow_roots_drop(struct shadow_vcpu *vcpu, bool current_too);

#endif
