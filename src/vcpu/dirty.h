/* SPDX-License-Identifier: MIT */
/*
 * Dirty tracking behind one interface: which pages of guest RAM were written since the last
 * look, by the guest (KVM's dirty bitmap, or the vCPUs' dirty rings) or by umbra's own
 * devices (guest_mem_mark_dirty).
 *
 * Threads: calls are serialised by the tracker itself and may be made while vCPUs run.
 */
#ifndef VCPU_DIRTY_H
#define VCPU_DIRTY_H

#include <stdbool.h>
#include <stddef.h>

#include <umbra/umbra.h>

#include "memory/guest_mem.h"
#include "vcpu/vcpu.h"

enum { DIRTY_RING_ENTRIES = 65536 };

struct dirty_tracker;

/* Before the first vCPU: have KVM keep rings. -ENOTSUP where it cannot. */
int dirty_ring_enable(int vm_fd);
/* Before memslots log: let a fetch clear only what it took (KVM_CLEAR_DIRTY_LOG). */
int dirty_bitmap_enable(int vm_fd);

/* Track writes from now on; the memslots carry KVM_MEM_LOG_DIRTY_PAGES already. */
int dirty_tracker_create(struct vcpu_set *set, struct guest_mem *mem, bool ring,
                         struct dirty_tracker **tracker, struct umbra_error *error);
void dirty_tracker_destroy(struct dirty_tracker *tracker);

/* Call @fn with the GPA of every page (4 KiB) written since the last fetch, ascending. */
int dirty_tracker_fetch(struct dirty_tracker *tracker,
                        void (*fn)(void *context, gpa page), void *context,
                        struct umbra_error *error);

/*
 * The memslots change, while the VM stands still: before that take what KVM has logged of
 * them (0 or -errno), and after it look at the new ones (guest_mem_pieces()). A fetch tells of
 * writes before and after.
 */
int dirty_tracker_gather(struct dirty_tracker *tracker);
void dirty_tracker_layout(struct dirty_tracker *tracker);

/* A vCPU's ring is full (KVM_EXIT_DIRTY_RING_FULL): make room. On that vCPU's thread. */
int dirty_tracker_ring_full(struct dirty_tracker *tracker);

#endif
