/* SPDX-License-Identifier: MIT */
/* Guests to look at: what all kinds share, and VMs of the launcher's own. */
#include "vmm/cli/mmu/guest.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli/exit_status.h"

#define SLOTS_HPA ((uint64_t)1 << 40)

static int guest_fetch(void *context, uint64_t gpa, void *page)
{
    struct mmu_guest *guest = context;

    return guest->ops->read(guest, gpa, page, MMU_PAGE_SIZE);
}

void mmu_guest_image(struct mmu_guest *guest, struct page_image *image)
{
    image_init(image, guest_fetch, guest);
}

int mmu_guest_hold(struct mmu_guest *guest, bool hold)
{
    int err = 0;

    if (guest->ops->hold != NULL && guest->held != hold) {
        err = guest->ops->hold(guest, hold);
        guest->held = err == 0 ? hold : guest->held;
    }
    return err;
}

int mmu_guest_mode(struct mmu_guest *guest, struct page_image *image, unsigned vcpu,
                   uint64_t cr3, struct mmu_mode *mode)
{
    struct umbra_paging paging = { .size = sizeof(paging) };
    int err = guest->ops->paging(guest, vcpu, &paging);

    if (err != 0) {
        return err;
    }
    *mode = (struct mmu_mode){
        .cr0 = paging.cr0,
        .cr3 = cr3 == UMBRA_CR3_CURRENT ? paging.cr3 : cr3,
        .cr4 = paging.cr4,
        .efer = paging.efer,
        .pkru = paging.pkru,
        .cpu = {
            .maxphyaddr = paging.physical_bits >= 32 && paging.physical_bits <= 52
                              ? paging.physical_bits
                              : 46,
            .gbpages = paging.gbpages,
            .pse36 = true,
            .amd = paging.amd,
        },
    };
    mmu_mode_update(mode);
    if (mode->format == MMU_FORMAT_PAE &&
        mmu_load_pdptes(mode, &image->memory, mode->cr3) != 0) {
        memset(mode->pdpte, 0, sizeof(mode->pdpte)); /* nothing is mapped */
    }
    return 0;
}

int mmu_guest_restore(struct mmu_guest *guest, const struct page_image *image)
{
    uint64_t now[MMU_PAGE_SIZE / 8];
    int err = 0;

    for (uint32_t i = 0; i < image->capacity && err == 0; i++) {
        const struct image_slot *slot = &image->slot[i];
        uint64_t gpa = (slot->key - 1) << MMU_PAGE_SHIFT;

        if (slot->key == 0 || slot->page == NULL) {
            continue;
        }
        err = guest->ops->read(guest, gpa, now, sizeof(now));
        for (unsigned n = 0; n < ARRAY_SIZE(now) && err == 0; n++) {
            if (now[n] != slot->page[n]) {
                err = guest->ops->write(guest, gpa, slot->page, MMU_PAGE_SIZE);
                break;
            }
        }
    }
    return err;
}

int mmu_guest_slots(const struct mmu_guest *guest, unsigned host_shift,
                    struct mmu_slots *slots)
{
    int err = 0;

    mmu_slots_init(slots);
    for (unsigned i = 0; i < guest->ranges && err == 0; i++) {
        const struct umbra_memory_range *range = &guest->range[i];
        const struct mmu_slot slot = { range->gpa, range->length, SLOTS_HPA + range->gpa,
                                       range->readonly, (uint8_t)host_shift };

        err = mmu_slots_add(slots, &slot);
    }
    return err;
}

void mmu_guest_close(struct mmu_guest *guest)
{
    if (guest->ops != NULL) {
        guest->ops->close(guest);
        guest->ops = NULL;
    }
}

/* ---- Our own VM ------------------------------------------------------------------------- */

static int vm_read(struct mmu_guest *guest, uint64_t gpa, void *buffer, size_t length)
{
    return umbra_memory_read(guest->source, gpa, buffer, length, &guest->error);
}

static int vm_write(struct mmu_guest *guest, uint64_t gpa, const void *buffer,
                    size_t length)
{
    return umbra_memory_write(guest->source, gpa, buffer, length, &guest->error);
}

static int vm_paging(struct mmu_guest *guest, unsigned vcpu, struct umbra_paging *paging)
{
    return umbra_paging_get(guest->source, vcpu, paging, &guest->error);
}

static int vm_translate(struct mmu_guest *guest, unsigned vcpu, uint64_t cr3,
                        const uint64_t *gva, uint64_t *gpa, size_t count)
{
    return umbra_translate_list(guest->source, vcpu, cr3, gva, gpa, count, &guest->error);
}

static int vm_find(struct mmu_guest *guest, unsigned offset, const void *bytes,
                   size_t length, uint64_t *gpa, size_t max, size_t *count)
{
    return umbra_memory_find(guest->source, offset, bytes, length, gpa, max, count,
                             &guest->error);
}

static int vm_hold(struct mmu_guest *guest, bool hold)
{
    return hold ? umbra_vm_pause(guest->source, &guest->error)
                : umbra_vm_resume(guest->source, &guest->error);
}

static void vm_close(struct mmu_guest *guest)
{
    umbra_vm_destroy(guest->source);
}

static const struct mmu_guest_ops vm_ops = {
    .read = vm_read,
    .write = vm_write,
    .paging = vm_paging,
    .translate = vm_translate,
    .find = vm_find,
    .hold = vm_hold,
    .close = vm_close,
};

/* The guest's console is the launcher's stderr: stdout is for the report. */
static void vm_console(void *context, const void *bytes, size_t length)
{
    (void)context;
    while (length > 0) {
        ssize_t n = write(STDERR_FILENO, bytes, length);

        if (n <= 0) {
            return;
        }
        bytes = (const char *)bytes + n;
        length -= (size_t)n;
    }
}

int mmu_guest_open_config(struct mmu_guest *guest, const char *command,
                          const struct umbra_config *config)
{
    struct umbra_vm *vm;
    char *cpus;

    *guest = (struct mmu_guest){ .command = command };
    if (umbra_config_validate(config, &guest->error) != 0 ||
        umbra_config_check_files(config, &guest->error) != 0 ||
        umbra_vm_create(config, &vm, &guest->error) != 0) {
        return exit_status_fail(command, &guest->error);
    }
    guest->ops = &vm_ops;
    guest->source = vm;
    cpus = umbra_config_get(config, "cpus");
    guest->cpus = cpus != NULL ? (unsigned)strtoul(cpus, NULL, 10) : 1;
    free(cpus);
    for (; guest->ranges < MMU_GUEST_RANGES; guest->ranges++) {
        guest->range[guest->ranges].size = sizeof(guest->range[0]);
        if (umbra_memory_range_at(vm, guest->ranges, &guest->range[guest->ranges]) != 0) {
            break;
        }
    }
    guest->held = true;
    umbra_console_set_output(vm, 0, vm_console, NULL);
    return -1;
}

struct umbra_vm *mmu_guest_vm(const struct mmu_guest *guest)
{
    return guest->ops == &vm_ops ? guest->source : NULL;
}

/* Until a breakpoint, for @ms; has @text been said? As umbra_console_expect(). */
static int vm_run_to_breakpoint(struct mmu_guest *guest, const char *text, int64_t ms)
{
    int ret;

    guest->stop = (struct umbra_stop){ .size = sizeof(guest->stop) };
    ret = umbra_vm_wait_stop(guest->source, ms, &guest->stop, &guest->error);
    if (ret == 0 && guest->stop.kind == UMBRA_STOP_ENDED) {
        return -EPIPE;
    }
    if (ret != 0) {
        guest->stop.kind = UMBRA_STOP_NONE;
    }
    return text == NULL ? -ETIMEDOUT
                        : umbra_console_expect(guest->source, 0, text, UMBRA_EXPECT_TEXT,
                                               0, NULL, &guest->error);
}

int mmu_guest_run(struct mmu_guest *guest, const char *text, int64_t ms)
{
    struct umbra_vm *vm = guest->source;
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    int ret = vm_hold(guest, false);

    if (ret < 0) { /* it never ran */
        ret = umbra_vm_start(vm, &guest->error);
    }
    if (ret < 0) {
        return ret;
    }
    guest->held = false;
    if (guest->breakpoints) {
        ret = vm_run_to_breakpoint(guest, text, ms);
    } else if (text != NULL) {
        ret =
            umbra_console_expect(vm, 0, text, UMBRA_EXPECT_TEXT, ms, NULL, &guest->error);
    } else {
        ret = umbra_vm_wait(vm, ms, &outcome, &guest->error);
        ret = ret == 0 ? -EPIPE : ret;
    }
    if (ret == -EPIPE || mmu_guest_hold(guest, true) != 0) {
        guest->held = true; /* it ended: what is there can still be looked at */
        return -EPIPE;
    }
    return ret == -ETIMEDOUT && text != NULL ? 1 : ret == -ETIMEDOUT ? 0 : ret;
}
