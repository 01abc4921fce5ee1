/* SPDX-License-Identifier: MIT */
/* A guest to look at: one that runs elsewhere (control socket), one of our own, or a core. */
#ifndef VMM_CLI_MMU_GUEST_H
#define VMM_CLI_MMU_GUEST_H

#include <umbra/umbra.h>

#include "shadowpt-sim/image.h"
#include "shadowpt-sim/shadow/shadow.h"

struct mmu_guest;

/* 0, or -errno with guest->error filled. All but hold() need the guest to stand still. */
struct mmu_guest_ops {
    /* -EFAULT where not all of it is memory. */
    int (*read)(struct mmu_guest *guest, uint64_t gpa, void *buffer, size_t length);
    /* NULL: it cannot be changed. */
    int (*write)(struct mmu_guest *guest, uint64_t gpa, const void *buffer,
                 size_t length);
    int (*paging)(struct mmu_guest *guest, unsigned vcpu, struct umbra_paging *paging);
    /* NULL: there is no KVM to ask (a core). */
    int (*translate)(struct mmu_guest *guest, unsigned vcpu, uint64_t cr3,
                     const uint64_t *gva, uint64_t *gpa, size_t count);
    int (*find)(struct mmu_guest *guest, unsigned offset, const void *bytes,
                size_t length, uint64_t *gpa, size_t max, size_t *count);
    /* NULL: it always stands still. */
    int (*hold)(struct mmu_guest *guest, bool hold);
    void (*close)(struct mmu_guest *guest);
};

enum {
    MMU_GUEST_RANGES = 32,
    MMU_GUEST_BATCH = 4096, /* addresses in one call of translate */
};

struct mmu_guest {
    const struct mmu_guest_ops *ops;
    const char *command; /* for messages */
    void *source;
    unsigned cpus;
    bool held;
    bool breakpoints;       /* mmu_guest_run() also ends at one */
    struct umbra_stop stop; /* ... and this is it, unless kind is NONE */
    struct umbra_memory_range range[MMU_GUEST_RANGES];
    unsigned ranges;
    struct umbra_error error;
};

/* Each returns -1 to go on, or prints a message and returns an exit status. */
int mmu_guest_open_name(struct mmu_guest *guest, const char *command, const char *name);
int mmu_guest_open_core(struct mmu_guest *guest, const char *command, const char *path);
/* Make the VM of @config, which stays the caller's, and hold it at its first instruction. */
int mmu_guest_open_config(struct mmu_guest *guest, const char *command,
                          const struct umbra_config *config);
void mmu_guest_close(struct mmu_guest *guest);

/* The VM behind mmu_guest_open_config(); NULL for other guests. */
struct umbra_vm *mmu_guest_vm(const struct mmu_guest *guest);
/* Let it run until the first serial port says @text (NULL: no such), or for @ms, or to its
 * end, and hold it. 0; 1: @text did not come within @ms; -EPIPE: the run has ended. */
int mmu_guest_run(struct mmu_guest *guest, const char *text, int64_t ms);

int mmu_guest_hold(struct mmu_guest *guest, bool hold);

/* The registers of @vcpu as a mode, with the PDPTEs that are in memory now. @cr3: another
 * one, or UMBRA_CR3_CURRENT. */
int mmu_guest_mode(struct mmu_guest *guest, struct page_image *image, unsigned vcpu,
                   uint64_t cr3, struct mmu_mode *mode);
/* An image that fetches from the guest. */
void mmu_guest_image(struct mmu_guest *guest, struct page_image *image);
/* Put what @image has, whose pages were fetched from the guest, back where it differs: KVM's
 * walks set accessed flags, and in what may be no tables any more. */
int mmu_guest_restore(struct mmu_guest *guest, const struct page_image *image);
/* Its memory as memslots with host pages of 1 << @host_shift. */
int mmu_guest_slots(const struct mmu_guest *guest, unsigned host_shift,
                    struct mmu_slots *slots);

#endif
