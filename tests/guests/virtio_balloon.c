/* SPDX-License-Identifier: MIT */
/* A virtio balloon's driver over a pool of pages, in ring 3. The host leads by the target: so
 * many pages in the balloon, 0: all back and written again, 2: report the whole pool as free,
 * 1: the end. Words: pool=MIB, packed, indirect, event (features), hostile; rounds=N: write,
 * report and look again, without the host's lead; worker: whenever nothing is to be in the
 * balloon, work on the pool, and report it as free then if that was negotiated. */
#include "virtio.h"

#define PAGE   4096
#define POOL   0x1000000 /* 16 MiB */
#define BATCH  256
#define REPORT 16 /* ranges in one chain */

#define BALLOON_STATS     1
#define BALLOON_OOM       2
#define BALLOON_REPORTING 5

#define CONFIG_TARGET 0
#define CONFIG_ACTUAL 4

#define STAT_FREE  4
#define STAT_TOTAL 5

enum { INFLATE, DEFLATE, STATS, REPORTING = 4, QUEUES };

struct stat {
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));

static struct virtio balloon;
static struct ring rings[QUEUES];
static struct ring_memory memories[QUEUES] __attribute__((aligned(4096)));
static uint32_t numbers[BATCH];
static struct stat stats[2];
static uint64_t pool_pages = 8192, actual, stats_given;
static uint32_t target;
static unsigned seen; /* configuration interrupts */
static const char *trouble;

/* ---- The pool, ring 3 ------------------------------------------------------------------- */

static uint64_t *pool(uint64_t page)
{
    return (uint64_t *)(POOL + page * PAGE);
}

static uint64_t pattern(uint64_t page, unsigned word)
{
    uint64_t x = (page << 10 | word) * UINT64_C(0x9e3779b97f4a7c15);

    return x ^ x >> 29;
}

static uint64_t fill(void *argument)
{
    uint64_t page;
    unsigned i;

    for (page = 0; page < pool_pages; page++)
        for (i = 0; i < PAGE / 8; i++)
            pool(page)[i] = pattern(page, i);
    return 0;
}

/* Pages below *@argument are zero, the others as written; the number of those that are not. */
static uint64_t verify(void *argument)
{
    uint64_t zero = *(uint64_t *)argument, page, bad = 0;
    unsigned i;

    for (page = 0; page < pool_pages; page++)
        for (i = 0; i < PAGE / 8; i++)
            if (pool(page)[i] != (page < zero ? 0 : pattern(page, i))) {
                bad++;
                break;
            }
    return bad;
}

/* ---- The driver, ring 3 ------------------------------------------------------------------ */

static bool request(unsigned queue, const struct ring_buffer *buffers, unsigned readable,
                    unsigned writable)
{
    uint32_t length;
    unsigned id;

    if (ring_add(&rings[queue], buffers, readable, writable) < 0) {
        trouble = "a ring is full";
        return false;
    }
    ring_kick(&rings[queue]);
    if (!ring_wait(&rings[queue], &id, &length, 4000000000)) {
        trouble = "a request does not come back";
        return false;
    }
    return true;
}

/* An order that is none: 37 has no divisor in common with any batch that is a power of 2. */
static uint64_t nth_page(uint64_t from, uint64_t count, uint64_t n)
{
    return from + (count % 37 ? n * 37 % count : n);
}

static bool move_batch(unsigned queue, uint64_t from, uint64_t count)
{
    struct ring_buffer buffer = { numbers, (uint32_t)(count * 4) };
    uint64_t i;

    for (i = 0; i < count; i++)
        numbers[i] = (uint32_t)(POOL / PAGE + nth_page(from, count, i));
    return request(queue, &buffer, 1, 0);
}

/* Bring the balloon to the target; its pages are the pool's first. */
static uint64_t adjust(void *argument)
{
    uint64_t goal = target < pool_pages ? target : pool_pages, count;

    while (actual < goal) {
        count = goal - actual < BATCH ? goal - actual : BATCH;
        if (!move_batch(INFLATE, actual, count))
            return 0;
        actual += count;
    }
    while (actual > goal) {
        count = actual - goal < BATCH ? actual - goal : BATCH;
        if (!move_batch(DEFLATE, actual - count, count))
            return 0;
        actual -= count;
    }
    mmio_write32(balloon.config + CONFIG_ACTUAL, (uint32_t)actual);
    return 1;
}

static uint64_t report(void *argument)
{
    struct ring_buffer buffers[REPORT];
    uint64_t page = 0, step = 512, i;

    while (page < pool_pages) {
        for (i = 0; i < REPORT && page < pool_pages; i++, page += step)
            buffers[i] = (struct ring_buffer){ pool(page), (uint32_t)(step * PAGE) };
        if (!request(REPORTING, buffers, 0, (unsigned)i))
            return 0;
    }
    return 1;
}

static bool give_stats(void)
{
    struct ring_buffer buffer = { stats, sizeof(stats) };

    stats[0] = (struct stat){ STAT_FREE, (pool_pages - actual) * PAGE };
    stats[1] = (struct stat){ STAT_TOTAL, pool_pages * PAGE + stats_given++ };
    if (ring_add(&rings[STATS], &buffer, 1, 0) < 0)
        return false;
    ring_kick(&rings[STATS]);
    return true;
}

/* Answer for statistics until the target is another one. */
static uint64_t wait_target(void *argument)
{
    uint32_t now, length;
    unsigned id;

    for (;;) {
        unsigned count = interrupt_counts[VIRTIO_CONFIG_VECTOR];

        if (ring_take(&rings[STATS], &id, &length) && !give_stats())
            return 0;
        if (count == seen) {
            cpu_pause();
            continue;
        }
        seen = count;
        now = virtio_config32(&balloon, CONFIG_TARGET);
        if (now != target) {
            target = now;
            return 1;
        }
    }
}

/* ---- Ring 0 ----------------------------------------------------------------------------- */

static void must(uint64_t (*step)(void *), const char *what)
{
    trouble = NULL;
    if (user_run(step, NULL, NULL) == 0)
        guest_fail("%s: %s", what, trouble ? trouble : "no");
}

static void set_up(uint64_t features)
{
    unsigned i;

    CHECK(virtio_begin(&balloon, features | FEATURE(BALLOON_STATS) |
                                     FEATURE(BALLOON_OOM) | FEATURE(BALLOON_REPORTING)));
    CHECK((balloon.features & features) == features);
    for (i = 0; i < QUEUES; i++)
        if (i < 3 || (i == REPORTING && balloon.features & FEATURE(BALLOON_REPORTING))) {
            CHECK(virtio_queue(&balloon, i, &rings[i], &memories[i], 64));
            ring_interrupts(&rings[i], false);
        }
    virtio_ready(&balloon);
    actual = 0;
}

static void check_pool(uint64_t zero)
{
    uint64_t bad = user_run(verify, &zero, NULL);

    if (bad)
        guest_fail("%lu pages of the pool are wrong", bad);
}

static void follow(void)
{
    uint64_t lent = 0;
    bool reported = false;

    user_run(fill, NULL, NULL);
    print("filled %lu pages\n", pool_pages);
    CHECK(give_stats());
    for (;;) {
        must(wait_target, "statistics");
        if (target == 1)
            break;
        if (target == 2) {
            must(report, "reporting");
            print("reported %lu pages\n", pool_pages);
            reported = true;
            continue;
        }
        lent = target > lent ? target : lent;
        must(adjust, "the balloon");
        if (target == 0) {
            check_pool(lent < pool_pages ? lent : pool_pages);
            user_run(fill, NULL, NULL);
            check_pool(0);
            lent = 0;
        }
        print("balloon %lu pages\n", actual);
    }
    if (reported)
        check_pool(pool_pages);
}

/* A guest that is idle most of the time, and asleep then: for examples/overcommit.c. */
static void work(void)
{
    unsigned count;

    print("idle\n");
    for (;;) {
        interrupts_off();
        count = interrupt_counts[VIRTIO_CONFIG_VECTOR];
        if (count == seen) {
            interrupts_wait();
            continue;
        }
        interrupts_on();
        seen = count;
        target = virtio_config32(&balloon, CONFIG_TARGET);
        must(adjust, "the balloon");
        if (target) {
            print("lent %lu pages\n", actual);
            continue;
        }
        user_run(fill, NULL, NULL);
        check_pool(0);
        if (balloon.features & FEATURE(BALLOON_REPORTING))
            must(report, "reporting");
        print("worked on %lu pages\n", pool_pages);
    }
}

/* Every round writes all, reports pieces of odd sizes here and there, and finds those zero and
 * all others as written. Returns how many pages were not, or -1. */
static uint64_t round_run(void *argument)
{
    uint64_t round = *(uint64_t *)argument, page, bad = 0;
    struct ring_buffer buffers[REPORT];
    unsigned count = 0, i;

    for (page = 0; page < pool_pages; page++)
        for (i = 0; i < PAGE / 8; i++)
            pool(page)[i] = pattern(page + round * pool_pages, i);
    for (page = 0; page < pool_pages; page++) {
        if (pattern(page, (unsigned)round) % 3) { /* stays */
            continue;
        }
        buffers[count++] = (struct ring_buffer){ pool(page), PAGE };
        if (count == REPORT && !request(REPORTING, buffers, 0, count))
            return UINT64_MAX;
        count %= REPORT;
    }
    if (count && !request(REPORTING, buffers, 0, count))
        return UINT64_MAX;
    for (page = 0; page < pool_pages; page++) {
        bool gone = !(pattern(page, (unsigned)round) % 3);

        for (i = 0; i < PAGE / 8; i++)
            if (pool(page)[i] != (gone ? 0 : pattern(page + round * pool_pages, i))) {
                bad++;
                break;
            }
    }
    return bad;
}

static void play_rounds(uint64_t rounds)
{
    uint64_t round, bad;

    for (round = 0; round < rounds; round++) {
        bad = user_run(round_run, &round, NULL);
        if (bad)
            guest_fail("round %lu: %lu pages are wrong", round, bad);
    }
    print("%lu rounds\n", rounds);
}

/* ---- A driver that lies -------------------------------------------------------------------- */

static const uint32_t
    lies[] = {
        0xa0,       0xc0,       0xe0,       0xff, /* video memory and ROM */
        0xd8000,    0xe0000,    0xfea00,    0xfec00,
        0xfee00,    0xfffff,    0x100000,   0x7fffffff,
        0x80000000, 0xfffffffe, 0xffffffff, POOL / PAGE + 1, /* and one that is true */
    };

static uint64_t lie(void *argument)
{
    struct ring_buffer buffer = { numbers, sizeof(lies) };
    unsigned queue;

    memcpy(numbers, lies, sizeof(lies));
    for (queue = INFLATE; queue <= DEFLATE; queue++)
        if (!request(queue, &buffer, 1, 0))
            return 0;
    return 1;
}

static void wait_needs_reset(const char *what)
{
    uint64_t until = time_us() + 5000000;

    while (!(virtio_status(&balloon) & VIRTIO_NEEDS_RESET))
        if (time_us() >= until)
            guest_fail("not noticed: %s", what);
    print("survived: %s\n", what);
}

static void offer(unsigned queue, void *start, uint32_t size, bool writable)
{
    struct ring_buffer buffer = { start, size };

    CHECK(ring_add(&rings[queue], &buffer, !writable, writable) >= 0);
    ring_kick_always(&rings[queue]);
}

static void hostile(uint64_t features)
{
    uint64_t one = 0;

    user_run(fill, NULL, NULL);
    must(lie, "lies");
    must(lie, "lies again");
    CHECK(!(virtio_status(&balloon) & VIRTIO_NEEDS_RESET));
    CHECK(pool(0)[0] == pattern(0, 0) && pool(1)[0] == 0 && pool(2)[7] == pattern(2, 7));
    print("survived: pages that are none\n");
    offer(INFLATE, pool(0), 1 << 20, false); /* 262144 numbers */
    wait_needs_reset("too many pages");
    set_up(features);
    offer(REPORTING, (void *)0xd8000000, 2 << 20, true);
    wait_needs_reset("a report of no RAM");
    set_up(features);
    offer(REPORTING, (void *)0xe0000, PAGE, true);
    wait_needs_reset("a report of ROM");
    set_up(features);
    user_run(fill, NULL, NULL);
    target = 300;
    must(adjust, "the balloon");
    one = 300;
    check_pool(one);
    print("survived: all\n");
}

int guest_main(int argc, char **argv)
{
    uint64_t features = 0, mib, rounds = 0;
    bool lying = false, working = false;
    int i;

    acpi_init();
    time_init();
    for (i = 0; i < argc; i++) {
        features |= !strcmp(argv[i], "packed")     ? FEATURE(VIRTIO_F_PACKED)
                    : !strcmp(argv[i], "indirect") ? FEATURE(VIRTIO_F_INDIRECT)
                    : !strcmp(argv[i], "event")    ? FEATURE(VIRTIO_F_EVENT_INDEX)
                                                   : 0;
        lying |= !strcmp(argv[i], "hostile");
        working |= !strcmp(argv[i], "worker");
    }
    if (boot_option("pool") && number_parse(boot_option("pool"), &mib))
        pool_pages = mib << 8;
    if (!virtio_find(&balloon, VIRTIO_BALLOON, 0))
        guest_fail("there is no virtio-balloon");
    set_up(features);
    interrupts_on();
    if (boot_option("rounds"))
        number_parse(boot_option("rounds"), &rounds);
    if (lying)
        hostile(features);
    else if (working)
        work();
    else if (rounds)
        play_rounds(rounds);
    else
        follow();
    return EXIT_PASS;
}
