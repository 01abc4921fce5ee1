/* SPDX-License-Identifier: MIT */
/* Logs of page tables: what is written is read back, damage is noticed, and a replay ends with
 * the tables that the log has, whatever translates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

#include "mmu_world.h"
#include "shadowpt-sim/shadow/space.h"
#include "shadowpt-sim/trace/replay.h"

enum { FRAMES = 128, TABLE_BASE = 0x200000 };

static const struct ptlog_meta meta = {
    .cpus = 2,
    .cpu = MMU_CPU_DEFAULT,
    .ranges = 2,
    .range = { { 0, 16 * MIB, false }, { GIB, MIB, true } },
};

/* ---- A guest whose tables change ---------------------------------------------------------------- */

struct guest {
    struct page_image image;
    struct ptlog_cpu cpu[2];
    uint64_t rng;
};

#define DIRECT_MAP 0xffff888000000000ull

enum { ROOT_A, ROOT_B, DIRECT_3, DIRECT_2, FIRST_FREE };

static uint64_t frame(unsigned index)
{
    return TABLE_BASE + (uint64_t)index * MMU_PAGE_SIZE;
}

static void guest_make(struct guest *guest, uint64_t seed)
{
    const uint64_t kernel = PTE_P | PTE_W | PTE_A | PTE_D;

    guest->rng = seed;
    image_init(&guest->image, NULL, NULL);
    for (unsigned root = ROOT_A; root <= ROOT_B; root++) {
        image_page(&guest->image, frame(root))[273] = frame(DIRECT_3) | kernel;
    }
    image_page(&guest->image, frame(DIRECT_3))[0] = frame(DIRECT_2) | kernel;
    for (unsigned i = 0; i < 8; i++) {
        image_page(&guest->image, frame(DIRECT_2))[i] =
            (uint64_t)i << 21 | kernel | PTE_PS | PTE_G;
    }
    for (unsigned i = 0; i < 2; i++) {
        guest->cpu[i] = (struct ptlog_cpu){ .cr0 = CR0_PE | CR0_PG | CR0_WP,
                                            .cr3 = frame(ROOT_A + i),
                                            .cr4 = CR4_PAE | CR4_PGE,
                                            .efer = EFER_LME | EFER_LMA | EFER_NXE };
    }
}

/* Link, change, mark or clear entries somewhere in the user's half, or switch. */
static void guest_step(struct guest *guest)
{
    uint64_t table = frame(rng_below(&guest->rng, 2)), *entry, mask;
    unsigned level = 4;

    if (rng_percent(&guest->rng, 10)) {
        unsigned cpu = rng_below(&guest->rng, 2);

        guest->cpu[cpu].cr3 = frame(rng_below(&guest->rng, 2));
        return;
    }
    for (;; level--) {
        entry = &image_page(&guest->image, table)[rng_below(&guest->rng, 6)];
        mask = ((uint64_t)1 << (12 + 9 * (level - 1))) - 1;
        if (level == 1 || rng_percent(&guest->rng, 15) || !(*entry & PTE_P) ||
            (level < 4 && (*entry & PTE_PS))) {
            break;
        }
        table = *entry & PTE_ADDRESS_MASK;
    }
    if (rng_percent(&guest->rng, 10)) {
        *entry = 0;
    } else if ((*entry & PTE_P) && rng_percent(&guest->rng, 40)) {
        *entry |= rng_percent(&guest->rng, 50) ? PTE_A : PTE_A | PTE_D;
    } else {
        *entry = (rng_next(&guest->rng) & 0xffffff & ~mask) |
                 (rng_next(&guest->rng) & (PTE_W | PTE_U | PTE_A | PTE_D | PTE_NX)) |
                 PTE_P;
        if (level > 1 && (level > 2 || rng_percent(&guest->rng, 70))) {
            /* Each frame is for one level only: tables are no leaves of themselves. */
            *entry = frame(FIRST_FREE + (level - 1) +
                           3 * rng_below(&guest->rng, (FRAMES - FIRST_FREE) / 3 - 1)) |
                     PTE_P | PTE_W | PTE_U;
        } else if (level == 2) {
            *entry |= PTE_PS;
        }
    }
}

static const struct ptlog_stat kvm_stats[2] = { { "pf_fixed", 5 },
                                                { "invlpg", UINT64_MAX } };

static void write_log(uint64_t seed, unsigned stops, char **bytes, size_t *size,
                      struct guest *guest)
{
    FILE *out = open_memstream(bytes, size);
    struct ptlog_writer *writer;
    struct umbra_error error;

    guest_make(guest, seed);
    assert_int_equal(ptlog_writer_create(out, &meta, &writer, &error), 0);
    for (unsigned i = 0; i < stops; i++) {
        unsigned steps = rng_below(&guest->rng, 60);

        assert_int_equal(
            ptlog_write_stop(writer, i * 1000u, guest->cpu, &guest->image, &error), 0);
        for (unsigned n = 0; n < steps; n++) {
            guest_step(guest);
        }
    }
    assert_int_equal(
        ptlog_write_stop(writer, stops * 1000u, guest->cpu, &guest->image, &error), 0);
    assert_int_equal(ptlog_write_stats(writer, kvm_stats, 2, &error), 0);
    assert_int_equal(ptlog_writer_finish(writer, &error), 0);
    ptlog_writer_destroy(writer);
    assert_int_equal(fclose(out), 0);
}

/* ---- Reading back --------------------------------------------------------------------------------- */

struct list {
    struct space_page page[20000];
    unsigned count;
};

static bool list_add(void *context, const struct space_page *page)
{
    struct list *list = context;

    memset(&list->page[list->count], 0, sizeof(*page));
    list->page[list->count].gva = page->gva;
    list->page[list->count].accessed = page->accessed;
    list->page[list->count++].to = page->to;
    return list->count < ARRAY_SIZE(list->page);
}

static void test_round_trip(void **state)
{
    static struct list truth, read;

    for (uint64_t seed = 1; seed <= 20; seed++) {
        const struct ptlog_stop *stop;
        struct ptlog_reader *reader;
        struct umbra_error error;
        struct guest guest;
        unsigned stops = 0, count;
        size_t size;
        char *bytes;

        write_log(seed, 30, &bytes, &size, &guest);
        assert_int_equal(ptlog_reader_create(bytes, size, &reader, &error), 0);
        assert_memory_equal(ptlog_reader_meta(reader), &meta, sizeof(meta));
        while (ptlog_reader_next(reader, &stop, &error) == 1) {
            assert_int_equal(stop->time_ns, 1000u * stops++);
            assert_true(stops > 1 || stop->changes >= 8);
        }
        assert_int_equal(stops, 31);
        assert_memory_equal(ptlog_reader_stats(reader, &count), kvm_stats,
                            sizeof(kvm_stats));
        assert_int_equal(count, 2);
        for (unsigned cpu = 0; cpu < 2;
             cpu++) { /* the last stop's spaces, page by page */
            struct space_stats stats;
            struct mmu_mode mode;

            assert_memory_equal(&stop->cpu[cpu], &guest.cpu[cpu], sizeof(guest.cpu[cpu]));
            ptlog_mode(&meta, &guest.cpu[cpu], &mode);
            truth.count = read.count = 0;
            space_walk(&mode, &guest.image.memory, 1 << 20, list_add, &truth, &stats);
            space_walk(&mode, &ptlog_reader_image(reader)->memory, 1 << 20, list_add,
                       &read, &stats);
            assert_int_equal(truth.count, read.count);
            assert_memory_equal(truth.page, read.page,
                                truth.count * sizeof(truth.page[0]));
        }
        ptlog_reader_destroy(reader);
        image_destroy(&guest.image);
        free(bytes);
    }
}

/* ---- Replaying ------------------------------------------------------------------------------------- */

static void test_replay(void **state)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct replay_counters first = { 0 };
        struct umbra_error error;
        struct guest guest;
        size_t size;
        char *bytes;

        write_log(world_seed(100) + seed, 25, &bytes, &size, &guest);
        for (unsigned kind = SIM_NATIVE; kind < SIM_KINDS; kind++) {
            const struct replay_config config = { .cost = cost_default };
            const struct ptlog_stop *stop;
            struct ptlog_reader *reader;
            struct replay *replay;
            struct sim_result result;

            assert_int_equal(ptlog_reader_create(bytes, size, &reader, &error), 0);
            if (replay_create(&meta, &config, (enum sim_kind)kind, &replay, &error) !=
                0) {
                fail_msg("%s", error.message);
            }
            while (ptlog_reader_next(reader, &stop, &error) == 1) {
                if (replay_stop(replay, stop, &error) != 0 ||
                    replay_compare(replay, ptlog_reader_image(reader), &error) != 0 ||
                    replay_audit(replay, &error) != 0) {
                    fail_msg("seed %llu: %s", (unsigned long long)seed, error.message);
                }
            }
            if (kind == SIM_NATIVE) {
                first = *replay_counters(replay);
                assert_true(first.stores > 100 && first.accesses > 10);
                assert_true(first.cr3_loads > 5 &&
                            first.invlpgs + first.full_flushes > 5);
            }
            /* What the guest did does not depend on who translates. */
            assert_memory_equal(&first, replay_counters(replay), sizeof(first));
            replay_result(replay, &result);
            assert_true((result.exits == 0) == (kind == SIM_NATIVE));
            replay_destroy(replay);
            ptlog_reader_destroy(reader);
        }
        image_destroy(&guest.image);
        free(bytes);
    }
}

/* ---- Events by hand ----------------------------------------------------------------------------------- */

/* One page of the user's, at address 0, through what happens to it. */
static void test_events(void **state)
{
    enum { L3 = FIRST_FREE + 2, L2, L1 };
    static const struct {
        uint64_t entry;
        unsigned stores, invlpgs, accesses; /* more than at the stop before */
    } steps[] = {
        { 0x800000 | PTE_P | PTE_U | PTE_W | PTE_A, 1, 0, 1 }, /* mapped, since touched */
        { 0x800000 | PTE_P | PTE_U | PTE_W | PTE_A | PTE_D, 0, 0, 1 }, /* written */
        { 0x800000 | PTE_P | PTE_U | PTE_A | PTE_D, 1, 1, 0 },         /* protected */
        { 0x801000 | PTE_P | PTE_U | PTE_W | PTE_A | PTE_D, 1, 1, 1 }, /* copied */
        { 0x801000 | PTE_P | PTE_U | PTE_W | PTE_A | PTE_D, 0, 0, 0 }, /* nothing */
        { 0, 1, 1, 0 },                                                /* unmapped */
    };
    const struct replay_config config = { .cost = cost_default };
    struct replay_counters before = { 0 };
    struct ptlog_writer *writer;
    struct ptlog_reader *reader;
    const struct ptlog_stop *stop;
    struct umbra_error error;
    struct replay *replay;
    struct guest guest;
    size_t size;
    char *bytes;
    FILE *out = open_memstream(&bytes, &size);

    guest_make(&guest, 1);
    guest.cpu[1].cr0 = CR0_PE; /* waits, without paging */
    image_page(&guest.image, frame(ROOT_A))[0] = frame(L3) | PTE_P | PTE_W | PTE_U;
    image_page(&guest.image, frame(L3))[0] = frame(L2) | PTE_P | PTE_W | PTE_U;
    image_page(&guest.image, frame(L2))[0] = frame(L1) | PTE_P | PTE_W | PTE_U;
    image_page(&guest.image, frame(L1))[0] = 0;
    assert_int_equal(ptlog_writer_create(out, &meta, &writer, &error), 0);
    assert_int_equal(ptlog_write_stop(writer, 0, guest.cpu, &guest.image, &error), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
        image_page(&guest.image, frame(L1))[0] = steps[i].entry;
        assert_int_equal(ptlog_write_stop(writer, i, guest.cpu, &guest.image, &error), 0);
    }
    assert_int_equal(ptlog_writer_finish(writer, &error), 0);
    ptlog_writer_destroy(writer);
    fclose(out);

    assert_int_equal(ptlog_reader_create(bytes, size, &reader, &error), 0);
    assert_int_equal(replay_create(&meta, &config, SIM_SHADOW_WP, &replay, &error), 0);
    for (unsigned i = 0; i <= ARRAY_SIZE(steps); i++) {
        const struct replay_counters *now = replay_counters(replay);

        assert_int_equal(ptlog_reader_next(reader, &stop, &error), 1);
        assert_int_equal(replay_stop(replay, stop, &error), 0);
        if (i > 0) {
            assert_int_equal(now->stores - before.stores, steps[i - 1].stores);
            assert_int_equal(now->invlpgs - before.invlpgs, steps[i - 1].invlpgs);
            assert_int_equal(now->accesses - before.accesses, steps[i - 1].accesses);
            assert_int_equal(now->unseen, 0);
        }
        before = *now;
    }
    assert_int_equal(ptlog_reader_next(reader, &stop, &error), 0);
    replay_destroy(replay);
    ptlog_reader_destroy(reader);
    image_destroy(&guest.image);
    free(bytes);
}

/* ---- A stock Debian kernel's boot, recorded with umbra mmu record ---------------------------------- */

static void *read_file(const char *path, size_t *size)
{
    FILE *in = fopen(path, "rb");
    void *bytes = malloc(1 << 20);

    assert_true(in != NULL && bytes != NULL);
    *size = fread(bytes, 1, 1 << 20, in);
    fclose(in);
    return bytes;
}

static void test_boot(void **state)
{
    enum { KINDS = SIM_KINDS, AUDIT = 50 };
    const struct replay_config config = { .cost = cost_default };
    struct sim_result result[KINDS];
    struct umbra_error error;
    size_t size;
    void *bytes = read_file(SOURCE_DIR "/tests/unit/data/debian-boot.ptlog", &size);

    for (unsigned kind = 0; kind < KINDS; kind++) {
        const struct ptlog_stop *stop;
        struct ptlog_reader *reader;
        struct replay *replay;
        uint64_t stops = 0;

        assert_int_equal(ptlog_reader_create(bytes, size, &reader, &error), 0);
        assert_int_equal(replay_create(ptlog_reader_meta(reader), &config,
                                       (enum sim_kind)kind, &replay, &error),
                         0);
        while (ptlog_reader_next(reader, &stop, &error) == 1) {
            if (replay_stop(replay, stop, &error) != 0 ||
                (stops++ % AUDIT == 0 && replay_audit(replay, &error) != 0)) {
                fail_msg("stop %llu: %s", (unsigned long long)stops, error.message);
            }
        }
        if (replay_compare(replay, ptlog_reader_image(reader), &error) != 0) {
            fail_msg("%s", error.message);
        }
        /* A kernel maps its tables: that mapping was found. */
        assert_true(replay_counters(replay)->unseen * 100 <
                    replay_counters(replay)->stores);
        replay_result(replay, &result[kind]);
        replay_destroy(replay);
        ptlog_reader_destroy(reader);
    }
    assert_true(result[SIM_NESTED].exits < result[SIM_SHADOW_VTLB].exits);
    assert_true(result[SIM_SHADOW_UNSYNC].exits < result[SIM_SHADOW_WP].exits);
    assert_true(result[SIM_SHADOW_UNSYNC].shadow.count[SHADOW_EXIT_TABLE_WRITE] <
                result[SIM_SHADOW_WP].shadow.count[SHADOW_EXIT_TABLE_WRITE]);
    assert_int_equal(result[SIM_SHADOW_VTLB].shadow.count[SHADOW_EXIT_TABLE_WRITE], 0);
    free(bytes);
}

/* ---- Damage --------------------------------------------------------------------------------------------- */

/* How reading ends: 0 at the log's end, else -errno. */
static int read_to_end(const char *bytes, size_t size)
{
    const struct ptlog_stop *stop;
    struct ptlog_reader *reader;
    struct umbra_error error;
    int ret = ptlog_reader_create(bytes, size, &reader, &error);

    if (ret == 0) {
        do {
            ret = ptlog_reader_next(reader, &stop, &error);
        } while (ret == 1);
    }
    ptlog_reader_destroy(reader);
    return ret;
}

static void test_damage(void **state)
{
    struct guest guest;
    size_t size;
    char *bytes;

    write_log(7, 6, &bytes, &size, &guest);
    assert_int_equal(read_to_end(bytes, size), 0);
    for (size_t length = 0; length < size; length++) {
        assert_int_equal(read_to_end(bytes, length), -EPROTO);
    }
    for (size_t at = 0; at < size; at++) {
        bytes[at] ^= (char)(1 << at % 8);
        assert_int_equal(read_to_end(bytes, size), -EPROTO);
        bytes[at] ^= (char)(1 << at % 8);
    }
    assert_int_equal(read_to_end(bytes, size), 0);
    image_destroy(&guest.image);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_replay),
        cmocka_unit_test(test_events),     cmocka_unit_test(test_damage),
        cmocka_unit_test(test_boot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
