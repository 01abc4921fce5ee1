/* SPDX-License-Identifier: MIT */
/*
 * Exit accounting of one vCPU: counts, time and latency histograms by exit reason and by
 * port, MMIO page and MSR. Time is what the exit cost outside KVM_RUN: from its return
 * until the handler is done.
 *
 * Threads: only the vCPU's thread writes; any thread may read at any time and sees each
 * counter whole (relaxed atomics: counters of one exit may be seen apart).
 */
#ifndef VCPU_EXIT_STATS_H
#define VCPU_EXIT_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    EXIT_REASON_COUNT = 48,
    EXIT_HISTOGRAM_BUCKETS =
        24, /* bucket i holds [2^i, 2^(i+1)) ticks, the last all above */
    EXIT_KEY_SLOTS = 256,
    EXIT_RING_SIZE = 64,
};

struct exit_counter {
    uint64_t count;
    uint64_t ticks; /* of exit_clock() */
    uint32_t histogram[EXIT_HISTOGRAM_BUCKETS];
};

enum exit_key_kind {
    EXIT_KEY_NONE,
    EXIT_KEY_PORT_IN,
    EXIT_KEY_PORT_OUT,
    EXIT_KEY_MMIO_READ,
    EXIT_KEY_MMIO_WRITE,
    EXIT_KEY_MSR_READ,
    EXIT_KEY_MSR_WRITE,
};

const char *exit_key_kind_name(enum exit_key_kind kind);

struct exit_key {
    uint64_t tag; /* kind << 56 | key; 0: free */
    struct exit_counter counter;
};

/* One of the last exits, for reports. */
struct exit_record {
    uint64_t clock;
    uint64_t key;
    uint64_t value;
    uint16_t reason;
    uint8_t kind; /* enum exit_key_kind */
    uint8_t size;
};

struct exit_stats {
    struct exit_counter
        reasons[EXIT_REASON_COUNT];       /* by KVM_EXIT_*, the last for others */
    struct exit_key keys[EXIT_KEY_SLOTS]; /* open addressing */
    struct exit_counter other_keys;       /* when the table is full */
    struct exit_record ring[EXIT_RING_SIZE];
    uint64_t ring_next;
    uint64_t unhandled_io; /* accesses that no device answered */
};

/* The clock of the accounting: the TSC where there is one. */
static inline uint64_t exit_clock(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    uint64_t ticks;

    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#endif
}

/* What an exit handler learns about its exit, for the accounting. */
struct exit_detail {
    enum exit_key_kind kind;
    uint64_t key; /* port, GPA of the page, MSR index */
    uint64_t value;
    unsigned size;
};

void exit_stats_count(struct exit_stats *stats, unsigned reason,
                      const struct exit_detail *detail, uint64_t start, uint64_t end);

#endif
