/* SPDX-License-Identifier: MIT */
/* Shadow pages: making and dropping them, the lists through their entries, protection. */
#include "shadowpt-sim/shadow/internal.h"

#include <errno.h>

/* ---- Lists of entries ---------------------------------------------------------------
 */

static entry_ref *list_head(struct shadow_mmu *mmu, uint32_t owner)
{
    if (owner & REF_OWNER_PAGE) {
        return &mmu->page[owner & REF_INDEX].parents;
    }
    return &mmu->frames.node[owner & REF_INDEX].leaves;
}

static void list_add(struct shadow_mmu *mmu, entry_ref ref, uint32_t owner)
{
    entry_ref *head = list_head(mmu, owner);

    mmu->link[ref].next = *head;
    mmu->link[ref].prev = owner;
    if (*head != REF_NONE) {
        mmu->link[*head].prev = ref;
    }
    *head = ref;
}

/* Returns the owner if the list is empty now, else REF_NONE. */
static uint32_t list_remove(struct shadow_mmu *mmu, entry_ref ref)
{
    struct shadow_link link = mmu->link[ref];

    if (link.next != REF_NONE) {
        mmu->link[link.next].prev = link.prev;
    }
    if (!(link.prev & REF_OWNER)) {
        mmu->link[link.prev].next = link.next;
        return REF_NONE;
    }
    *list_head(mmu, link.prev) = link.next;
    return link.next == REF_NONE ? link.prev : REF_NONE;
}

void entry_set_leaf(struct shadow_mmu *mmu, entry_ref ref, uint64_t entry, uint64_t gfn)
{
    struct shadow_page *page = &mmu->page[ref_page(ref)];
    unsigned level = (entry & SHADOW_SWITCH) ? 1 : page->role.level;
    uint32_t node = frames_get(&mmu->frames, gfn, level);

    list_add(mmu, ref, REF_OWNER | node);
    page->present++;
    entry_store(entry_at(mmu, ref), entry);
    count(mmu, SHADOW_ENTRY_SET);
}

/* PAE roots hold PDPTEs, in which only P and the address may be set. */
void entry_set_pointer(struct shadow_mmu *mmu, entry_ref ref, uint32_t child)
{
    struct shadow_page *page = &mmu->page[ref_page(ref)];
    uint64_t bits = page->role.root32 ? PTE_P : PTE_P | PTE_W | PTE_U | PTE_A;

    list_add(mmu, ref, REF_OWNER | REF_OWNER_PAGE | child);
    page->present++;
    if (mmu->page[child].unsync || mmu->page[child].unsync_count != 0) {
        shadow_unsync_link(mmu, ref);
    }
    entry_store(entry_at(mmu, ref), pool_hpa(&mmu->pool, child) | bits);
    count(mmu, SHADOW_ENTRY_SET);
}

void entry_drop(struct shadow_mmu *mmu, entry_ref ref)
{
    struct shadow_page *page = &mmu->page[ref_page(ref)];
    unsigned slot = ref_slot(ref);
    uint64_t *entry = entry_at(mmu, ref);
    uint32_t child = POOL_NONE, owner;

    if (!entry_leaf(page, *entry)) {
        child = pool_index(&mmu->pool, *entry);
    }
    entry_store(entry, 0);
    page->present--;
    if (page->unsync_below[slot / 64] >> (slot % 64) & 1) {
        page->unsync_below[slot / 64] &= ~((uint64_t)1 << (slot % 64));
        page->unsync_count--;
    }
    count(mmu, SHADOW_ENTRY_ZAP);
    owner = list_remove(mmu, ref);
    if (child == POOL_NONE) {
        if (owner != REF_NONE) {
            frames_put(&mmu->frames, owner & REF_INDEX);
        }
    } else if (owner != REF_NONE && !page_tracked(&mmu->page[child])) {
        shadow_page_zap(mmu, child); /* nobody else can find it */
    }
}

/* ---- Frames -------------------------------------------------------------------------
 */

void frame_unmap(struct shadow_mmu *mmu, uint32_t index)
{
    entry_ref next;

    for (entry_ref ref = mmu->frames.node[index].leaves; ref != REF_NONE; ref = next) {
        next = mmu->link[ref].next;
        entry_drop(mmu, ref);
        mmu->flush_needed = true;
    }
}

void frame_protect(struct shadow_mmu *mmu, uint64_t gfn)
{
    uint32_t index = frames_find(&mmu->frames, gfn, 1);

    /* A TLB may still hold a writable entry whose shadow is gone already. */
    mmu->flush_needed |= mmu->tlb_stale;
    if (index == NODE_NONE) {
        return;
    }
    for (entry_ref ref = mmu->frames.node[index].leaves; ref != REF_NONE;
         ref = mmu->link[ref].next) {
        uint64_t *entry = entry_at(mmu, ref);

        if (*entry & PTE_W) {
            entry_store(entry, *entry & ~(PTE_W | PTE_D));
            mmu->flush_needed = true;
            count(mmu, SHADOW_WRITE_PROTECT);
        }
    }
}

bool frame_protected(const struct shadow_mmu *mmu, uint64_t gfn)
{
    uint32_t index = frames_find(&mmu->frames, gfn, 1);

    if (index == NODE_NONE) {
        return false;
    }
    for (uint32_t at = mmu->frames.node[index].pages; at != POOL_NONE;
         at = mmu->page[at].next) {
        if (!mmu->page[at].unsync) {
            return true;
        }
    }
    return false;
}

/* The frame becomes a shadowed table: no leaf larger than it may map it, none may write
 * it. */
static void frame_shadow(struct shadow_mmu *mmu, uint64_t gfn)
{
    for (unsigned level = 2; level <= 3; level++) {
        uint32_t index = frames_get(&mmu->frames, gfn, level);

        mmu->frames.node[index].shadowed++;
        frame_unmap(mmu, index);
    }
}

static void frame_unshadow(struct shadow_mmu *mmu, uint64_t gfn)
{
    for (unsigned level = 2; level <= 3; level++) {
        uint32_t index = frames_find(&mmu->frames, gfn, level);

        mmu->frames.node[index].shadowed--;
        frames_put(&mmu->frames, index);
    }
}

/* ---- The eviction queue ---------------------------------------------------------------
 */

static void queue_add(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    page->newer = POOL_NONE;
    page->older = mmu->newest;
    if (mmu->newest != POOL_NONE) {
        mmu->page[mmu->newest].newer = index;
    } else {
        mmu->oldest = index;
    }
    mmu->newest = index;
}

static void queue_remove(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    if (page->older != POOL_NONE) {
        mmu->page[page->older].newer = page->newer;
    } else {
        mmu->oldest = page->newer;
    }
    if (page->newer != POOL_NONE) {
        mmu->page[page->newer].older = page->older;
    } else {
        mmu->newest = page->older;
    }
}

/* The oldest page that is neither pinned nor was of use since we last came by. Ends: a
 * second round finds `used` cleared, and more pages are in the queue than roots can pin.
 */
static bool evict_one(struct shadow_mmu *mmu)
{
    for (uint32_t tries = 0; tries <= 2 * mmu->live; tries++) {
        uint32_t index = mmu->oldest;

        if (index == POOL_NONE) {
            return false;
        }
        if (mmu->page[index].pins == 0 && !mmu->page[index].used) {
            shadow_page_zap(mmu, index);
            count(mmu, SHADOW_PAGE_EVICT);
            return true;
        }
        mmu->page[index].used = false;
        queue_remove(mmu, index);
        queue_add(mmu, index);
    }
    return false;
}

int shadow_make_room(struct shadow_mmu *mmu)
{
    while (mmu->pool.pages - mmu->pool.in_use < mmu->policy->room) {
        if (!evict_one(mmu)) {
            return -ENOMEM;
        }
    }
    shadow_flush_due(
        mmu); /* before a page that a processor may still walk is used anew */
    return frames_reserve(&mmu->frames, SHADOW_NODES);
}

bool shadow_evict(struct shadow_mmu *mmu, uint32_t choice)
{
    uint32_t free_to_go = 0;

    for (uint32_t i = mmu->oldest; i != POOL_NONE; i = mmu->page[i].newer) {
        free_to_go += mmu->page[i].pins == 0;
    }
    if (free_to_go == 0) {
        return false;
    }
    choice %= free_to_go;
    for (uint32_t i = mmu->oldest;; i = mmu->page[i].newer) {
        if (mmu->page[i].pins == 0 && choice-- == 0) {
            shadow_page_zap(mmu, i);
            count(mmu, SHADOW_PAGE_EVICT);
            shadow_flush_due(mmu);
            return true;
        }
    }
}

/* ---- Pages ----------------------------------------------------------------------------
 */

uint32_t shadow_page_find(const struct shadow_mmu *mmu, uint64_t gfn,
                          union shadow_role role)
{
    uint32_t node = frames_find(&mmu->frames, gfn, 1), at = POOL_NONE;

    if (node != NODE_NONE) {
        at = mmu->frames.node[node].pages;
    }
    while (at != POOL_NONE && mmu->page[at].role.word != role.word) {
        at = mmu->page[at].next;
    }
    return at;
}

/* shadow_make_room() was called: neither pages nor nodes can run out. */
uint32_t shadow_page_make(struct shadow_mmu *mmu, uint64_t gfn, union shadow_role role)
{
    uint32_t index = pool_alloc(&mmu->pool);
    struct shadow_page *page = &mmu->page[index];

    *page = (struct shadow_page){
        .gfn = gfn,
        .role = role,
        .next = POOL_NONE,
        .parents = REF_NONE,
        .live = true,
        .used = true,
    };
    queue_add(mmu, index);
    mmu->live++;
    count(mmu, SHADOW_PAGE_NEW);
    if (page_tracked(page)) {
        uint32_t node;

        agile_unnest(mmu, gfn); /* one or the other */
        node = frames_get(&mmu->frames, gfn, 1);
        if (mmu->frames.node[node].pages == POOL_NONE) {
            frame_shadow(mmu, gfn);
        } else {
            shadow_sync_frame(mmu, gfn);
        }
        page->next = mmu->frames.node[node].pages;
        mmu->frames.node[node].pages = index;
        frame_protect(mmu, gfn);
        mmu->formats |= 1u << role.format;
    }
    return index;
}

void shadow_page_empty(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    for (unsigned slot = 0; slot < 512 && page->present != 0; slot++) {
        if (pool_page(&mmu->pool, index)[slot] & PTE_P) {
            entry_drop(mmu, ref_make(index, slot));
            mmu->flush_needed = true;
        }
    }
}

static void page_forget_frame(struct shadow_mmu *mmu, uint32_t index)
{
    uint64_t gfn = mmu->page[index].gfn;
    uint32_t node = frames_find(&mmu->frames, gfn, 1), *at;

    for (at = &mmu->frames.node[node].pages; *at != index; at = &mmu->page[*at].next) {
    }
    *at = mmu->page[index].next;
    if (mmu->frames.node[node].pages == POOL_NONE) {
        frame_unshadow(mmu, gfn);
        frames_put(&mmu->frames, node);
    }
}

void shadow_page_zap(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    if (!page->live) { /* its last parent is being dropped by ourselves, below */
        return;
    }
    if (page->pins != 0) {
        shadow_page_empty(mmu, index);
        return;
    }
    page->live = false;
    while (page->parents != REF_NONE) {
        entry_drop(mmu, page->parents);
    }
    shadow_page_empty(mmu, index);
    if (page_tracked(page)) {
        page_forget_frame(mmu, index);
    }
    queue_remove(mmu, index);
    mmu->live--;
    mmu->flush_needed = true; /* paging-structure caches may lead here */
    pool_free(&mmu->pool, index);
    count(mmu, SHADOW_PAGE_ZAP);
}

void shadow_page_unpin(struct shadow_mmu *mmu, uint32_t index)
{
    if (--mmu->page[index].pins == 0 && !page_tracked(&mmu->page[index])) {
        shadow_page_zap(mmu, index);
    }
}

void shadow_flush_due(struct shadow_mmu *mmu)
{
    if (!mmu->flush_needed) {
        return;
    }
    mmu->flush_needed = false;
    mmu->tlb_stale = false;
    count(mmu, SHADOW_REMOTE_FLUSH);
    if (mmu->config.hooks.flush != NULL) {
        mmu->config.hooks.flush(mmu->config.hooks.context);
    }
}
