/* SPDX-License-Identifier: MIT */
/* The shadow MMU as a whole: creation, statistics, memslots, policies. */
#include "shadowpt-sim/shadow/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static const char *const event_names[SHADOW_EVENTS] = {
    [SHADOW_EXIT_TRUE_FAULT] = "true-fault",
    [SHADOW_EXIT_HIDDEN_FILL] = "hidden-fill",
    [SHADOW_EXIT_DIRTY] = "dirty",
    [SHADOW_EXIT_UNSYNC] = "unsync",
    [SHADOW_EXIT_TABLE_WRITE] = "table-write",
    [SHADOW_EXIT_WP_CLEAR] = "wp-clear",
    [SHADOW_EXIT_EMULATE] = "emulate",
    [SHADOW_EXIT_NESTED] = "nested-fill",
    [SHADOW_EXIT_MMIO] = "mmio",
    [SHADOW_EXIT_CR3] = "cr3",
    [SHADOW_EXIT_INVLPG] = "invlpg",
    [SHADOW_EXIT_INVPCID] = "invpcid",
    [SHADOW_EXIT_MODE] = "mode",
    [SHADOW_REMOTE_FLUSH] = "remote-flush",
    [SHADOW_PAGE_NEW] = "page-new",
    [SHADOW_PAGE_ZAP] = "page-zap",
    [SHADOW_PAGE_EVICT] = "page-evict",
    [SHADOW_PAGE_FLOOD] = "page-flood",
    [SHADOW_PAGE_SYNC] = "page-sync",
    [SHADOW_ENTRY_SYNC] = "entry-sync",
    [SHADOW_ENTRY_SET] = "entry-set",
    [SHADOW_ENTRY_ZAP] = "entry-zap",
    [SHADOW_SPLINTER] = "splinter",
    [SHADOW_WRITE_PROTECT] = "write-protect",
    [SHADOW_TABLE_NESTED] = "table-nested",
    [SHADOW_TABLE_BACK] = "table-back",
    [SHADOW_ENTRY_PREFILL] = "entry-prefill",
    [SHADOW_TABLE_COMPARE] = "table-compare",
};

const char *shadow_event_name(enum shadow_event event)
{
    return (unsigned)event < SHADOW_EVENTS ? event_names[event] : "none";
}

const char *shadow_policy_name(enum shadow_policy policy)
{
    return (unsigned)policy < SHADOW_POLICIES ? shadow_policy_ops[policy].name : "none";
}

int shadow_policy_parse(const char *name, enum shadow_policy *policy)
{
    for (unsigned i = 0; i < SHADOW_POLICIES; i++) {
        if (strcmp(name, shadow_policy_ops[i].name) == 0) {
            *policy = (enum shadow_policy)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* Host memory that costs nothing until it is touched. */
static void *lazy_map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p != MAP_FAILED ? p : NULL;
}

static int config_complete(struct shadow_config *config)
{
    if (config->memory == NULL || config->slots == NULL ||
        (unsigned)config->policy >= SHADOW_POLICIES || config->max_level > 3) {
        return -EINVAL;
    }
    if (config->pool_pages == 0) {
        config->pool_pages = 65536;
    }
    if (config->pool_pages < 64 || config->pool_pages > REF_OWNER >> 9) {
        return -EINVAL;
    }
    if (config->flood_limit == 0) {
        config->flood_limit = 3;
    }
    if (config->max_level == 0) {
        config->max_level = 3;
    }
    if (config->agile_writes == 0) {
        config->agile_writes = 2;
    }
    if (config->nested_levels == 0) {
        config->nested_levels = 4;
    }
    return config->nested_levels == 4 || config->nested_levels == 5 ? 0 : -EINVAL;
}

int shadow_create(const struct shadow_config *config, struct shadow_mmu **out)
{
    struct shadow_mmu *mmu = calloc(1, sizeof(*mmu));
    int err;

    *out = NULL;
    if (mmu == NULL) {
        return -ENOMEM;
    }
    mmu->config = *config;
    mmu->oldest = mmu->newest = mmu->nested_root = POOL_NONE;
    mmu->role_word = UINT32_MAX;
    err = config_complete(&mmu->config);
    if (err != 0) {
        goto fail;
    }
    config = &mmu->config;
    mmu->policy = &shadow_policy_ops[config->policy];
    err = pool_init(&mmu->pool, config->pool_pages, config->pool, config->pool_hpa);
    if (err != 0) {
        goto fail;
    }
    err = frames_init(&mmu->frames);
    if (err != 0) {
        goto fail;
    }
    mmu->page = lazy_map(config->pool_pages * sizeof(*mmu->page));
    mmu->link = lazy_map((size_t)config->pool_pages * 512 * sizeof(*mmu->link));
    if (mmu->page == NULL || mmu->link == NULL) {
        err = -ENOMEM;
        goto fail;
    }
    *out = mmu;
    return 0;
fail:
    shadow_destroy(mmu);
    return err;
}

void shadow_destroy(struct shadow_mmu *mmu)
{
    if (mmu == NULL) {
        return;
    }
    while (mmu->vcpus > 0) {
        shadow_vcpu_destroy(mmu->vcpu[0]);
    }
    free(mmu->vcpu);
    if (mmu->page != NULL) {
        munmap(mmu->page, mmu->config.pool_pages * sizeof(*mmu->page));
    }
    if (mmu->link != NULL) {
        munmap(mmu->link, (size_t)mmu->config.pool_pages * 512 * sizeof(*mmu->link));
    }
    frames_destroy(&mmu->frames);
    pool_destroy(&mmu->pool);
    free(mmu);
}

const struct shadow_stats *shadow_stats(const struct shadow_mmu *mmu)
{
    return &mmu->stats;
}

void shadow_stats_reset(struct shadow_mmu *mmu)
{
    memset(&mmu->stats, 0, sizeof(mmu->stats));
}

uint32_t shadow_pages(const struct shadow_mmu *mmu)
{
    return mmu->live;
}

/* ---- Dropping much at once
 * ------------------------------------------------------------------ */

/* Processors keep their registers; their roots are loaded anew. Cannot fail: the pool is
 * empty but for the roots. */
static int roots_reload(struct shadow_mmu *mmu)
{
    int err = 0;

    for (unsigned i = 0; i < mmu->vcpus && err == 0; i++) {
        err = shadow_root_load(mmu->vcpu[i], true);
    }
    return err;
}

static void pages_drop(struct shadow_mmu *mmu)
{
    for (unsigned i = 0; i < mmu->vcpus; i++) {
        shadow_roots_drop(mmu->vcpu[i], true);
    }
    agile_reset(mmu);
    while (mmu->oldest != POOL_NONE) {
        shadow_page_zap(mmu, mmu->oldest);
    }
    mmu->formats = 0;
    mmu->flush_needed = true;
}

void shadow_zap_all(struct shadow_mmu *mmu)
{
    pages_drop(mmu);
    roots_reload(mmu);
    shadow_flush_due(mmu);
}

bool shadow_pool_suffices(const struct shadow_mmu *mmu,
                          const struct shadow_policy_ops *policy, unsigned vcpus)
{
    return (uint64_t)vcpus * SHADOW_ROOTS + 3 * (uint64_t)policy->room <= mmu->pool.pages;
}

int shadow_set_policy(struct shadow_mmu *mmu, enum shadow_policy policy)
{
    int err;

    if ((unsigned)policy >= SHADOW_POLICIES) {
        return -EINVAL;
    }
    if (!shadow_pool_suffices(mmu, &shadow_policy_ops[policy], mmu->vcpus)) {
        return -ENOSPC;
    }
    pages_drop(mmu);
    mmu->config.policy = policy;
    mmu->policy = &shadow_policy_ops[policy];
    err = roots_reload(mmu);
    shadow_flush_due(mmu);
    return err;
}

/* All that is known of one run of frames goes: what maps it, what shadows tables in it.
 */
static void node_zap(struct shadow_mmu *mmu, uint32_t index)
{
    struct frame_node *node = &mmu->frames.node[index];
    uint32_t at = node->pages, next;

    for (; at != POOL_NONE; at = next) {
        next = mmu->page[at].next;
        shadow_page_zap(mmu, at);
    }
    /* The node itself may have gone with its last page. */
    if (mmu->frames.node[index].key != UINT64_MAX) {
        frame_unmap(mmu, index);
    }
}

void shadow_slot_zap(struct shadow_mmu *mmu, uint64_t gpa, uint64_t size)
{
    uint64_t first = gpa >> MMU_PAGE_SHIFT, last = (gpa + (size - 1)) >> MMU_PAGE_SHIFT;

    mmu->flush_needed = true; /* TLBs may hold what the shadow tables lost long ago */
    for (uint32_t i = 0; i < mmu->frames.fresh; i++) {
        const struct frame_node *node = &mmu->frames.node[i];
        uint64_t gfn = node_gfn(node), run = (uint64_t)1 << (9 * (node_level(node) - 1));

        if (node->key != UINT64_MAX && gfn <= last && gfn + (run - 1) >= first) {
            node_zap(mmu, i);
        }
    }
    shadow_flush_due(mmu);
}
