/* SPDX-License-Identifier: MIT */
/* Reading, checking and costing one address space of a guest. */
#include "vmm/cli/mmu/space.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define POOL_HPA ((uint64_t)1 << 45)

enum { PROBE_OFFSET = 0xabc, PROGRESS = 16 };

/* ---- Pages and ranges -------------------------------------------------------------------- */

static bool range_continues(const struct mmu_range *range, const struct space_page *page)
{
    return range->gva + range->length == page->gva && range->shift == page->to.shift &&
           range->perms == page->to.perms && range->global == page->to.global &&
           range->cache == page->to.cache;
}

static bool space_add(void *context, const struct space_page *page)
{
    struct mmu_space *space = context;
    uint64_t size = (uint64_t)1 << page->to.shift;
    struct mmu_range *range = space->ranges > 0 ? &space->range[space->ranges - 1] : NULL;

    if (range == NULL || !range_continues(range, page)) {
        if (space->ranges == space->range_capacity) {
            size_t capacity = 2 * space->range_capacity + 64;
            struct mmu_range *grown =
                realloc(space->range, capacity * sizeof(*space->range));

            if (grown == NULL) {
                return false;
            }
            space->range = grown;
            space->range_capacity = capacity;
        }
        range = &space->range[space->ranges++];
        *range = (struct mmu_range){
            .gva = page->gva,
            .gpa = page->to.page,
            .shift = page->to.shift,
            .perms = page->to.perms,
            .cache = page->to.cache,
            .global = page->to.global,
            .linear = true,
        };
    }
    range->linear &= range->gpa + range->length == page->to.page;
    range->length += size;
    range->pages++;
    range->accessed += page->accessed;
    range->dirty += page->to.dirty;
    *((page->to.perms & MMU_PERM_U) ? &space->user : &space->kernel) += 1;
    space->write_execute +=
        (page->to.perms & (MMU_PERM_W | MMU_PERM_X)) == (MMU_PERM_W | MMU_PERM_X);
    space->accessed += page->accessed;
    space->dirty += page->to.dirty;
    return true;
}

int mmu_space_read(struct mmu_guest *guest, struct page_image *image,
                   const struct mmu_space_options *options, uint64_t cr3,
                   struct mmu_space *space)
{
    int err = mmu_guest_mode(guest, image, space->vcpu, cr3, &space->mode);

    if (err == 0) {
        space_walk(&space->mode, &image->memory, options->limit, space_add, space,
                   &space->stats);
    }
    return err;
}

void mmu_space_free(struct mmu_space *space)
{
    free(space->range);
    *space = (struct mmu_space){ 0 };
}

/* ---- KVM's opinion ------------------------------------------------------------------------ */

struct check {
    struct mmu_guest *guest;
    struct page_image *image;
    struct mmu_space *space;
    struct mmu_mode mode; /* as KVM_TRANSLATE walks: SMAP does not count */
    uint64_t gva[MMU_GUEST_BATCH], gpa[MMU_GUEST_BATCH];
    unsigned count, batches;
    bool progress;
};

static uint64_t check_expected(struct check *check, uint64_t gva)
{
    struct mmu_walk walk;

    return mmu_walk(&check->mode, &check->image->memory, gva, MMU_PROBE, &walk) == MMU_OK
               ? walk.gpa
               : UINT64_MAX;
}

static int check_flush(struct check *check)
{
    struct mmu_space *space = check->space;
    int err = check->guest->ops->translate(check->guest, space->vcpu, space->mode.cr3,
                                           check->gva, check->gpa, check->count);

    for (unsigned i = 0; i < check->count && err == 0; i++) {
        uint64_t expected = check_expected(check, check->gva[i]);

        if (expected == check->gpa[i]) {
            continue;
        }
        if (space->differ < ARRAY_SIZE(space->difference)) {
            space->difference[space->differ] =
                (struct mmu_difference){ check->gva[i], expected, check->gpa[i] };
        }
        space->differ++;
    }
    if (check->progress && ++check->batches % PROGRESS == 0) {
        fprintf(stderr, "\rasked KVM about %llu of %llu pages ",
                (unsigned long long)space->checked,
                (unsigned long long)space->stats.pages);
    }
    check->count = 0;
    return err;
}

static int check_add(struct check *check, uint64_t gva)
{
    check->gva[check->count++] = gva;
    return check->count == MMU_GUEST_BATCH ? check_flush(check) : 0;
}

/* The pages of one range, and the page behind it if nothing is mapped there. */
static int check_range(struct check *check, const struct mmu_range *range,
                       const struct mmu_space_options *options, uint64_t *turn)
{
    uint64_t behind = range->gva + range->length;
    int err = 0;

    for (uint64_t i = 0; i < range->pages && err == 0; i++, ++*turn) {
        if (*turn % options->check == 0) {
            check->space->checked++;
            /* Not always the page's first bytes. */
            err = check_add(check, range->gva + (i << range->shift) +
                                       (*turn * PROBE_OFFSET) % MMU_PAGE_SIZE);
        }
    }
    if (err == 0 && mmu_canonical(&check->mode, behind) &&
        check_expected(check, behind) == UINT64_MAX) {
        check->space->holes_checked++;
        err = check_add(check, behind);
    }
    return err;
}

int mmu_space_check(struct mmu_guest *guest, struct page_image *image,
                    const struct mmu_space_options *options, struct mmu_space *space)
{
    struct check *check = calloc(1, sizeof(*check));
    uint64_t turn = 0;
    int err = check != NULL ? 0 : -ENOMEM;

    if (err == 0) {
        check->guest = guest;
        check->image = image;
        check->space = space;
        check->mode = space->mode;
        check->mode.cr4 &= ~CR4_SMAP;
        mmu_mode_update(&check->mode);
        check->progress = !options->quiet && isatty(STDERR_FILENO);
    }
    for (size_t i = 0; i < space->ranges && err == 0; i++) {
        err = check_range(check, &space->range[i], options, &turn);
    }
    if (err == 0 && check->count > 0) {
        err = check_flush(check);
    }
    if (check != NULL && check->batches >= PROGRESS) {
        fputs("\r                                               \r", stderr);
    }
    free(check);
    return err;
}

/* ---- The cost of shadowing ------------------------------------------------------------------ */

static int cost_touch(struct shadow_mmu *mmu, const struct page_image *image,
                      const struct mmu_space_options *options,
                      const struct mmu_space *spaces, size_t count,
                      struct shadow_census *census)
{
    struct shadow_vcpu *vcpu = NULL;
    int err = shadow_vcpu_create(mmu, &spaces[0].mode.cpu, &vcpu);

    for (size_t i = 0; i < count && err == 0; i++) {
        err = shadow_set_mode(vcpu, &spaces[i].mode);
        if (err == 0) {
            err = space_touch(vcpu, &image->memory, options->limit, census);
        }
    }
    if (err == 0) {
        shadow_census(mmu, census);
    }
    shadow_vcpu_destroy(vcpu);
    return err;
}

int mmu_space_cost(struct mmu_guest *guest, struct page_image *image,
                   const struct mmu_space_options *options,
                   const struct mmu_space *spaces, size_t count,
                   struct shadow_census *census)
{
    struct shadow_mmu *mmu = NULL;
    struct mmu_slots slots;
    struct page_image copy;
    struct shadow_config config;
    int err = mmu_guest_slots(guest, options->host_shift, &slots);

    *census = (struct shadow_census){ 0 };
    image_init_over(&copy, image); /* shadowing sets A and D */
    config = (struct shadow_config){
        .memory = &copy.memory,
        .slots = &slots,
        .policy = options->policy,
        .pool_hpa = POOL_HPA,
        .pool_pages = 1u << 20,
    };
    if (err == 0) {
        err = shadow_create(&config, &mmu);
    }
    if (err == 0) {
        err = cost_touch(mmu, &copy, options, spaces, count, census);
    }
    shadow_destroy(mmu);
    mmu_slots_destroy(&slots);
    image_destroy(&copy);
    return err;
}
