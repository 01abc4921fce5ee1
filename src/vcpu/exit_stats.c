/* SPDX-License-Identifier: MIT */
/* Exit accounting: a few adds on the vCPU's own cache lines for each exit. */
#include "vcpu/exit_stats.h"

#include "base/util.h"

/* The key is 56 bits; ports, MSRs and page-aligned GPAs all fit. */
#define EXIT_KEY_BITS 56

const char *exit_key_kind_name(enum exit_key_kind kind)
{
    static const char *const names[] = {
        [EXIT_KEY_NONE] = "none",
        [EXIT_KEY_PORT_IN] = "port-in",
        [EXIT_KEY_PORT_OUT] = "port-out",
        [EXIT_KEY_MMIO_READ] = "mmio-read",
        [EXIT_KEY_MMIO_WRITE] = "mmio-write",
        [EXIT_KEY_MSR_READ] = "msr-read",
        [EXIT_KEY_MSR_WRITE] = "msr-write",
    };

    return kind < ARRAY_SIZE(names) ? names[kind] : "?";
}

/* One writer, any reader: a plain add whose store is whole. */
static inline void counter_add(uint64_t *counter, uint64_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

static void counter_count(struct exit_counter *counter, uint64_t ticks)
{
    unsigned bucket = ticks == 0 ? 0 : 63 - (unsigned)__builtin_clzll(ticks);

    if (bucket >= EXIT_HISTOGRAM_BUCKETS) {
        bucket = EXIT_HISTOGRAM_BUCKETS - 1;
    }
    counter_add(&counter->count, 1);
    counter_add(&counter->ticks, ticks);
    __atomic_store_n(&counter->histogram[bucket], counter->histogram[bucket] + 1,
                     __ATOMIC_RELAXED);
}

static struct exit_counter *key_find(struct exit_stats *stats,
                                     const struct exit_detail *detail)
{
    uint64_t key =
        detail->kind >= EXIT_KEY_MMIO_READ && detail->kind <= EXIT_KEY_MMIO_WRITE
            ? align_down(detail->key, 4096)
            : detail->key;
    uint64_t tag = (uint64_t)detail->kind << EXIT_KEY_BITS |
                   (key & ((UINT64_C(1) << EXIT_KEY_BITS) - 1));
    size_t slot = (tag * UINT64_C(0x9e3779b97f4a7c15)) >> 56;

    for (size_t probe = 0; probe < 16; probe++) {
        struct exit_key *entry = &stats->keys[(slot + probe) % EXIT_KEY_SLOTS];

        if (entry->tag == tag) {
            return &entry->counter;
        }
        if (entry->tag == 0) {
            __atomic_store_n(&entry->tag, tag, __ATOMIC_RELAXED);
            return &entry->counter;
        }
    }
    return &stats->other_keys;
}

void exit_stats_count(struct exit_stats *stats, unsigned reason,
                      const struct exit_detail *detail, uint64_t start, uint64_t end)
{
    struct exit_record *record = &stats->ring[stats->ring_next % EXIT_RING_SIZE];

    if (reason >= EXIT_REASON_COUNT) {
        reason = EXIT_REASON_COUNT - 1;
    }
    counter_count(&stats->reasons[reason], end - start);
    if (detail->kind != EXIT_KEY_NONE) {
        counter_count(key_find(stats, detail), end - start);
    }
    *record = (struct exit_record){
        .clock = start,
        .key = detail->key,
        .value = detail->value,
        .reason = (uint16_t)reason,
        .kind = (uint8_t)detail->kind,
        .size = (uint8_t)detail->size,
    };
    counter_add(&stats->ring_next, 1);
}
