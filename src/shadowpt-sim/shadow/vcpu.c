/* SPDX-License-Identifier: MIT */
/* Processors: their registers, their roots, and the instructions that flush. */
#include "shadowpt-sim/shadow/internal.h"

#include <errno.h>
#include <stdlib.h>

/* ---- Roots
 * ----------------------------------------------------------------------------- */

/* A cached root is a promise: since the guest last flushed its PCID, what the guest
 * flushed was dropped from it. A root that leaves the cache is brought into step when it
 * comes back. */
static void root_drop(struct shadow_vcpu *vcpu, unsigned i)
{
    if (vcpu->root[i].valid) {
        vcpu->root[i].valid = false;
        shadow_page_unpin(vcpu->mmu, vcpu->root[i].page);
    }
}

void shadow_roots_drop(struct shadow_vcpu *vcpu, bool current_too)
{
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        if (i != vcpu->current || current_too) {
            root_drop(vcpu, i);
        }
    }
}

static bool pcid_on(const struct mmu_mode *mode)
{
    return mode->format == MMU_FORMAT_LONG && (mode->cr4 & CR4_PCIDE);
}

static void root_describe(const struct shadow_vcpu *vcpu, struct shadow_root *root)
{
    const struct mmu_mode *mode = &vcpu->mode;

    *root = (struct shadow_root){ .valid = true, .role = vcpu->role };
    root->role.level = mode->format == MMU_FORMAT_LONG ? mode->levels : 3;
    root->role.root32 = mode->format != MMU_FORMAT_LONG;
    root->role.vtlb = !vcpu->mmu->policy->tracked;
    root->role.nested = agile_role(vcpu->mmu, vcpu->role) &&
                        agile_nested(vcpu->mmu, mode->cr3 >> MMU_PAGE_SHIFT);
    switch (mode->format) {
    case MMU_FORMAT_LONG:
        root->cr3 = mode->cr3 & PTE_ADDRESS_MASK;
        root->pcid = pcid_on(mode) ? mode->cr3 & CR3_PCID : 0;
        break;
    case MMU_FORMAT_PAE:
        root->cr3 = mode->cr3 & 0xffffffe0u;
        memcpy(root->pdpte, mode->pdpte, sizeof(root->pdpte));
        break;
    case MMU_FORMAT_LEGACY:
        root->cr3 = mode->cr3 & 0xfffff000u;
        break;
    default:
        break;
    }
}

static bool root_equal(const struct shadow_root *a, const struct shadow_root *b)
{
    return a->valid && a->cr3 == b->cr3 && a->pcid == b->pcid &&
           a->role.word == b->role.word &&
           memcmp(a->pdpte, b->pdpte, sizeof(a->pdpte)) == 0;
}

/* A place in the cache: an empty one, or the least recently used. */
static unsigned root_place(const struct shadow_vcpu *vcpu)
{
    unsigned best = 0;

    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        if (!vcpu->root[i].valid) {
            return i;
        }
        if (vcpu->root[i].stamp < vcpu->root[best].stamp) {
            best = i;
        }
    }
    return best;
}

static void root_make(struct shadow_vcpu *vcpu, unsigned place, struct shadow_root *root)
{
    struct shadow_mmu *mmu = vcpu->mmu;
    bool private = root->role.vtlb || root->role.root32 || root->role.nested;
    uint32_t index = POOL_NONE;

    root_drop(vcpu, place);
    if (!private) {
        index = shadow_page_find(mmu, root->cr3 >> MMU_PAGE_SHIFT, root->role);
    }
    if (index == POOL_NONE) {
        index = shadow_page_make(mmu, root->cr3 >> MMU_PAGE_SHIFT, root->role);
    }
    mmu->page[index].pins++;
    mmu->policy->flush_root(mmu, index);
    root->page = index;
    vcpu->root[place] = *root;
}

int shadow_root_load(struct shadow_vcpu *vcpu, bool flush)
{
    struct shadow_mmu *mmu = vcpu->mmu;
    struct shadow_root wanted;
    unsigned place = SHADOW_ROOTS;

    if (shadow_make_room(mmu) != 0) {
        return -ENOMEM;
    }
    root_describe(vcpu, &wanted);
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        if (root_equal(&vcpu->root[i], &wanted)) {
            place = i;
        } else if (flush && vcpu->root[i].pcid == wanted.pcid) {
            root_drop(vcpu, i);
        }
    }
    if (place == SHADOW_ROOTS) {
        place = root_place(vcpu);
        root_make(vcpu, place, &wanted);
    } else if (flush) {
        mmu->policy->flush_root(mmu, vcpu->root[place].page);
    }
    vcpu->root[place].stamp = ++vcpu->clock;
    vcpu->current = place;
    vcpu->root_table = pool_page(&mmu->pool, vcpu->root[place].page);
    vcpu->root_level = vcpu->root[place].role.level;
    vcpu->nested = vcpu->root[place].role.nested;
    return 0;
}

static bool root_follows(const struct shadow_mmu *mmu, const struct shadow_root *root)
{
    bool nested =
        agile_role(mmu, root->role) && agile_nested(mmu, root->cr3 >> MMU_PAGE_SHIFT);

    return !root->valid || root->role.nested == nested;
}

int shadow_roots_follow(struct shadow_mmu *mmu)
{
    int err = 0;

    for (unsigned v = 0; v < mmu->vcpus && err == 0; v++) {
        struct shadow_vcpu *vcpu = mmu->vcpu[v];

        for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
            if (i != vcpu->current && !root_follows(mmu, &vcpu->root[i])) {
                root_drop(vcpu, i);
            }
        }
        if (!root_follows(mmu, &vcpu->root[vcpu->current])) {
            err = shadow_make_room(mmu); /* then the load cannot fail */
            if (err == 0) {
                root_drop(vcpu, vcpu->current);
                err = shadow_root_load(vcpu, false);
            }
        }
    }
    return err;
}

/* ---- Registers
 * --------------------------------------------------------------------------- */

/* What the real processor runs with: shadow tables rely on WP and NXE; without guest
 * paging nothing may be forbidden. */
static void hardware_update(struct shadow_vcpu *vcpu)
{
    struct mmu_mode *hardware = &vcpu->hardware;

    *hardware = vcpu->mode;
    hardware->cr0 |= CR0_PE | CR0_PG | CR0_WP;
    hardware->cr4 |= CR4_PAE;
    hardware->efer |= EFER_NXE;
    if (vcpu->mode.format != MMU_FORMAT_LONG) {
        hardware->efer &= ~EFER_LME;
    }
    if (vcpu->mode.format == MMU_FORMAT_NONE) {
        hardware->cr4 &= ~(CR4_SMEP | CR4_SMAP);
    }
    mmu_mode_update(hardware);
}

static int registers_set(struct shadow_vcpu *vcpu, const struct mmu_mode *mode,
                         bool flush)
{
    struct mmu_mode before = vcpu->mode;
    int err;

    vcpu->mode = *mode;
    vcpu->role = shadow_role_of(mode);
    err = shadow_root_load(vcpu, flush);
    if (err != 0) {
        vcpu->mode = before;
        vcpu->role = shadow_role_of(&before);
        return err;
    }
    hardware_update(vcpu);
    shadow_flush_due(vcpu->mmu);
    return 0;
}

int shadow_set_mode(struct shadow_vcpu *vcpu, const struct mmu_mode *mode)
{
    struct mmu_mode next = *mode;
    const char *reason;
    int err;

    count(vcpu->mmu, SHADOW_EXIT_MODE);
    next.cpu = vcpu->mmu->cpu;
    err = mmu_mode_check(&next, &reason);
    if (err != 0) {
        return err;
    }
    mmu_mode_update(&next);
    if (next.format == MMU_FORMAT_PAE) {
        err = mmu_load_pdptes(&next, vcpu->mmu->config.memory, next.cr3);
        if (err != 0) {
            return err;
        }
    }
    if (shadow_make_room(vcpu->mmu) != 0) {
        return -ENOMEM;
    }
    shadow_roots_drop(vcpu, true);
    return registers_set(vcpu, &next, true);
}

int shadow_load_cr3(struct shadow_vcpu *vcpu, uint64_t operand)
{
    struct mmu_mode next = vcpu->mode;
    bool flush = true;

    count(vcpu->mmu, SHADOW_EXIT_CR3);
    if (pcid_on(&next) && (operand & CR3_NOFLUSH)) {
        flush = false;
        operand &= ~CR3_NOFLUSH;
    }
    if (next.format == MMU_FORMAT_LONG) {
        if (operand >> next.cpu.maxphyaddr != 0) {
            return -EINVAL;
        }
    } else {
        operand = (uint32_t)operand;
    }
    next.cr3 = operand;
    if (next.format == MMU_FORMAT_PAE) {
        int err = mmu_load_pdptes(&next, vcpu->mmu->config.memory, operand);

        if (err != 0) {
            return err;
        }
    }
    return registers_set(vcpu, &next, flush);
}

void shadow_set_pkru(struct shadow_vcpu *vcpu, uint32_t pkru)
{
    vcpu->mode.pkru = pkru;
    vcpu->hardware.pkru = pkru;
}

/* ---- Flushing instructions
 * ------------------------------------------------------------------ */

/* In every root the processor keeps: a global translation goes in all PCIDs. */
void shadow_invlpg(struct shadow_vcpu *vcpu, uint64_t gva)
{
    struct shadow_mmu *mmu = vcpu->mmu;

    count(mmu, SHADOW_EXIT_INVLPG);
    if (!mmu_canonical(&vcpu->mode, gva)) {
        return;
    }
    if (vcpu->mode.format != MMU_FORMAT_LONG) {
        gva = (uint32_t)gva;
    }
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        if (vcpu->root[i].valid) {
            mmu->policy->invlpg(mmu, vcpu->root[i].page, gva);
        }
    }
    shadow_flush_due(mmu);
}

/* wp has nothing to do either, but is what hypervisors do that intercept it. */
bool shadow_traps_invlpg(const struct shadow_mmu *mmu)
{
    return mmu->config.policy != SHADOW_AGILE;
}

static void invpcid_context(struct shadow_vcpu *vcpu, uint16_t pcid, bool all)
{
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        struct shadow_root *root = &vcpu->root[i];

        if (!root->valid || (!all && root->pcid != pcid)) {
            continue;
        }
        if (i == vcpu->current) {
            vcpu->mmu->policy->flush_root(vcpu->mmu, root->page);
        } else {
            root_drop(vcpu, i);
        }
    }
}

int shadow_invpcid(struct shadow_vcpu *vcpu, enum invpcid_type type, uint16_t pcid,
                   uint64_t gva)
{
    struct shadow_mmu *mmu = vcpu->mmu;

    count(mmu, SHADOW_EXIT_INVPCID);
    if ((unsigned)type > INVPCID_ALL_NOT_GLOBAL) {
        return -EINVAL;
    }
    if (type == INVPCID_ADDRESS || type == INVPCID_CONTEXT) {
        if (pcid > CR3_PCID || (pcid != 0 && !(vcpu->mode.cr4 & CR4_PCIDE)) ||
            (type == INVPCID_ADDRESS && !mmu_canonical(&vcpu->mode, gva))) {
            return -EINVAL;
        }
    }
    if (type == INVPCID_ADDRESS) {
        if (vcpu->mode.format != MMU_FORMAT_LONG) {
            gva = (uint32_t)gva;
        }
        for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
            if (vcpu->root[i].valid && vcpu->root[i].pcid == pcid) {
                mmu->policy->invlpg(mmu, vcpu->root[i].page, gva);
            }
        }
    } else {
        invpcid_context(vcpu, pcid, type != INVPCID_CONTEXT);
    }
    shadow_flush_due(mmu);
    return 0;
}

/* ---- Life
 * --------------------------------------------------------------------------------- */

static bool cpu_equal(const struct mmu_cpu *a, const struct mmu_cpu *b)
{
    return a->maxphyaddr == b->maxphyaddr && a->gbpages == b->gbpages &&
           a->pse36 == b->pse36 && a->amd == b->amd;
}

static int vcpu_enlist(struct shadow_mmu *mmu, struct shadow_vcpu *vcpu)
{
    if (mmu->vcpus == mmu->vcpu_capacity) {
        unsigned capacity = mmu->vcpu_capacity != 0 ? 2 * mmu->vcpu_capacity : 4;
        struct shadow_vcpu **grown = realloc(mmu->vcpu, capacity * sizeof(*grown));

        if (grown == NULL) {
            return -ENOMEM;
        }
        mmu->vcpu = grown;
        mmu->vcpu_capacity = capacity;
    }
    mmu->vcpu[mmu->vcpus++] = vcpu;
    return 0;
}

int shadow_vcpu_create(struct shadow_mmu *mmu, const struct mmu_cpu *cpu,
                       struct shadow_vcpu **out)
{
    struct mmu_mode initial = { .cpu = *cpu };
    struct shadow_vcpu *vcpu;
    int err;

    *out = NULL;
    if (mmu->vcpus != 0 && !cpu_equal(&mmu->cpu, cpu)) {
        return -EINVAL;
    }
    if (!shadow_pool_suffices(mmu, mmu->policy, mmu->vcpus + 1)) {
        return -ENOSPC;
    }
    vcpu = calloc(1, sizeof(*vcpu));
    if (vcpu == NULL) {
        return -ENOMEM;
    }
    mmu->cpu = *cpu;
    vcpu->mmu = mmu;
    vcpu->pool = &mmu->pool;
    mmu_mode_update(&initial);
    err = vcpu_enlist(mmu, vcpu);
    if (err == 0) {
        err = registers_set(vcpu, &initial, true);
    }
    if (err != 0) {
        shadow_vcpu_destroy(vcpu);
        return err;
    }
    *out = vcpu;
    return 0;
}

void shadow_vcpu_destroy(struct shadow_vcpu *vcpu)
{
    struct shadow_mmu *mmu;

    if (vcpu == NULL) {
        return;
    }
    mmu = vcpu->mmu;
    shadow_roots_drop(vcpu, true);
    for (unsigned i = 0; i < mmu->vcpus; i++) {
        if (mmu->vcpu[i] == vcpu) {
            mmu->vcpu[i] = mmu->vcpu[--mmu->vcpus];
            break;
        }
    }
    shadow_flush_due(mmu);
    free(vcpu);
}

const struct mmu_mode *shadow_vcpu_mode(const struct shadow_vcpu *vcpu)
{
    return &vcpu->mode;
}

const struct mmu_mode *shadow_vcpu_hardware(const struct shadow_vcpu *vcpu)
{
    return &vcpu->hardware;
}

uint64_t shadow_vcpu_root(const struct shadow_vcpu *vcpu)
{
    return pool_hpa(vcpu->pool, vcpu->root[vcpu->current].page);
}
