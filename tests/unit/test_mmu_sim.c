/* SPDX-License-Identifier: MIT */
/* The simulation: all kinds of paging agree on one workload, and traces are read safely. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "shadowpt-sim/sim/report.h"
#include "shadowpt-sim/trace/generate.h"
#include "shadowpt-sim/trace/trace.h"

#define BATCH 1024

static void machines_make(struct sim_machine **machine, const struct sim_config *config)
{
    struct umbra_error error;

    for (unsigned i = 0; i < SIM_KINDS; i++) {
        assert_int_equal(sim_create(config, (enum sim_kind)i, &machine[i], &error), 0);
    }
}

/* The guest must be the same guest, whatever is below it. */
static void machines_agree(struct sim_machine **machine)
{
    struct umbra_error error;

    for (unsigned i = 0; i < SIM_KINDS; i++) {
        assert_true(sim_digest(machine[i]) == sim_digest(machine[0]));
        if (sim_audit(machine[i], &error) != 0) {
            fail_msg("%s: %s", sim_kind_name((enum sim_kind)i), error.message);
        }
    }
}

static void machines_run(struct sim_machine **machine, const struct sim_event *events,
                         unsigned count)
{
    struct umbra_error error;

    for (unsigned i = 0; i < SIM_KINDS; i++) {
        if (sim_run(machine[i], events, count, &error) != 0) {
            fail_msg("%s", error.message);
        }
    }
}

static void run_workload(enum generate_kind kind, bool pcid, bool large, unsigned levels)
{
    struct sim_config config = {
        .cost = cost_default, .ram = 2 * GIB, .pcid = pcid, .levels = (uint8_t)levels
    };
    struct sim_machine *machine[SIM_KINDS];
    struct sim_result result[SIM_KINDS];
    struct generate_config workload;
    struct sim_source *source;
    struct sim_event events[BATCH];
    struct umbra_error error;
    int count;

    generate_defaults(kind, &workload);
    workload.bytes = large ? 16 * MIB : 4 * MIB;
    workload.accesses = 20000;
    workload.large = large;
    machines_make(machine, &config);
    assert_int_equal(generate_open(kind, &workload, &source), 0);
    while ((count = source->next(source, events, BATCH, &error)) > 0) {
        machines_run(machine, events, (unsigned)count);
    }
    assert_int_equal(count, 0);
    sim_source_close(source);
    machines_agree(machine);
    for (unsigned i = 0; i < SIM_KINDS; i++) {
        sim_result(machine[i], &result[i]);
        assert_true(result[i].count.accesses >= workload.accesses);
        assert_int_equal(result[i].count.segfaults, 0);
        assert_int_equal(result[i].count.guest_faults, result[0].count.guest_faults);
        sim_destroy(machine[i]);
    }
    assert_int_equal(result[SIM_NATIVE].exits, 0);
    if (kind == GENERATE_FORK) {
        const uint64_t *wp = result[SIM_SHADOW_WP].shadow.count;
        const uint64_t *vtlb = result[SIM_SHADOW_VTLB].shadow.count;

        assert_true(wp[SHADOW_EXIT_TABLE_WRITE] > 0);
        assert_int_equal(vtlb[SHADOW_EXIT_TABLE_WRITE], 0);
        /* Only tables of 4 KiB pages go out of sync. */
        assert_true(large ||
                    result[SIM_SHADOW_UNSYNC].exits < result[SIM_SHADOW_WP].exits);
        assert_true(result[SIM_NESTED].cycles < result[SIM_SHADOW_VTLB].cycles);
    }
}

static void test_workloads(void **state)
{
    for (unsigned kind = 0; kind < GENERATE_KINDS; kind++) {
        run_workload((enum generate_kind)kind, kind & 1, false, 4);
    }
    run_workload(GENERATE_FORK, true, true, 5);
    run_workload(GENERATE_CHURN, false, true, 4);
}

static void measure(const struct sim_config *config, enum generate_kind kind,
                    const struct generate_config *workload, enum sim_kind sim,
                    struct sim_result *result)
{
    struct sim_machine *machine;
    struct sim_source *source;
    struct sim_event events[BATCH];
    struct umbra_error error;
    int count;

    assert_int_equal(sim_create(config, sim, &machine, &error), 0);
    assert_int_equal(generate_open(kind, workload, &source), 0);
    while ((count = source->next(source, events, BATCH, &error)) > 0) {
        assert_int_equal(sim_run(machine, events, (unsigned)count, &error), 0);
    }
    sim_result(machine, result);
    sim_source_close(source);
    sim_destroy(machine);
}

/* Without caches in its way, the simulated processor's own walk makes the references that
 * the formulas, and the exact walks of the library, say. */
static void test_references_without_caches(void **state)
{
    static const struct {
        uint8_t levels, host_shift;
        bool large;
        unsigned native, nested, shadow;
    } cases[] = { { 4, 12, false, 4, 24, 4 }, { 5, 12, false, 5, 35, 5 },
                  { 4, 21, false, 4, 19, 4 }, { 4, 30, false, 4, 14, 4 },
                  { 4, 21, true, 3, 15, 3 },  { 4, 12, true, 3, 19, 4 } };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct sim_config config = { .cost = cost_default,
                                     .ram = 2 * GIB,
                                     .levels = cases[i].levels,
                                     .host_shift = cases[i].host_shift };
        struct tlb_geometry *geometry = &config.cost.geometry;
        struct generate_config workload;
        struct sim_result result;

        memset(geometry->pwc, 0, sizeof(geometry->pwc));
        memset(geometry->npwc, 0, sizeof(geometry->npwc));
        memset(&geometry->nested, 0, sizeof(geometry->nested));
        generate_defaults(GENERATE_RANDOM, &workload);
        workload.bytes = cases[i].large ? GIB : 64 * MIB;
        workload.accesses = 20000;
        workload.large = cases[i].large;
        geometry->l2 = (struct tlb_shape){ 0, 1 };
        measure(&config, GENERATE_RANDOM, &workload, SIM_NATIVE, &result);
        assert_true(result.count.walks > 10000);
        assert_int_equal(result.count.references, result.count.walks * cases[i].native);
        measure(&config, GENERATE_RANDOM, &workload, SIM_NESTED, &result);
        assert_int_equal(result.count.references, result.count.walks * cases[i].nested);
        assert_int_equal(result.count.skipped, 0);
        /* Never switched; see also the counts at each switching point in test_mmu_shadow.c. */
        config.cost.agile_writes = 255;
        config.cost.agile_interval = 100; /* in which no table has 255 writes */
        measure(&config, GENERATE_RANDOM, &workload, SIM_SHADOW_AGILE, &result);
        assert_int_equal(result.shadow.count[SHADOW_TABLE_NESTED], 0);
        assert_int_equal(result.count.references, result.count.walks * cases[i].shadow);
        if (!cases[i].large && cases[i].host_shift == 12) { /* two levels of tables are */
            config.cost.agile_writes = 2;
            config.cost.agile_interval = 1 << 20;
            measure(&config, GENERATE_RANDOM, &workload, SIM_SHADOW_AGILE, &result);
            assert_int_equal(result.count.references,
                             result.count.walks * cases[i].levels * 3);
        }
    }
}

/* With caches, what they save and what is left are together the same numbers, and the short
 * cuts for many accesses in a row count as the plain way does (sets of more than 16 ways
 * take it). */
static void test_references_saved(void **state)
{
    for (enum sim_kind kind = SIM_NATIVE; kind < SIM_KINDS; kind++) {
        struct sim_config config = { .cost = cost_default,
                                     .ram = 2 * GIB,
                                     .host_shift = 12 };
        struct generate_config workload;
        struct sim_result quick, plain;
        /* Agile: its first interval does not end here, so it goes on nested in the two lower
         * levels, where the pages were mapped one by one. */
        uint64_t full = kind == SIM_NESTED         ? 24
                        : kind == SIM_SHADOW_AGILE ? 4 + 2 * 4
                                                   : 4;

        generate_defaults(GENERATE_RANDOM, &workload);
        workload.bytes = 256 * MIB;
        workload.accesses = 50000;
        config.cost.agile_interval = 1 << 20;
        measure(&config, GENERATE_RANDOM, &workload, kind, &quick);
        assert_true(quick.count.references < quick.count.walks * full / 2);
        assert_int_equal(quick.count.references + quick.count.skipped,
                         quick.count.walks * full);
        config.cost.geometry.l1_1g = (struct tlb_shape){ 32, 32 };
        measure(&config, GENERATE_RANDOM, &workload, kind, &plain);
        assert_memory_equal(&quick.count, &plain.count, sizeof(quick.count));
        assert_memory_equal(&quick.tlb, &plain.tlb, sizeof(quick.tlb));
    }
}

/* Any events, in any order: the kinds agree, and nothing breaks. */
static void test_random_events(void **state)
{
    static const uint8_t kinds[] = { SIM_ACCESS, SIM_ACCESS, SIM_ACCESS,  SIM_ACCESS,
                                     SIM_MAP,    SIM_UNMAP,  SIM_PROTECT, SIM_FORK,
                                     SIM_SWITCH, SIM_EXIT,   SIM_ACCESS,  77 };
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct sim_config config = { .cost = cost_default,
                                     .ram = GIB,
                                     .pcid = seed & 1,
                                     .auto_map = seed & 2,
                                     .shadow_pages = 256 };
        struct sim_machine *machine[SIM_KINDS];
        uint64_t random = seed;

        machines_make(machine, &config);
        for (unsigned step = 0; step < 3000; step++) {
            struct sim_event event;

            random = random * 6364136223846793005ull + 1442695040888963407ull;
            event = (struct sim_event){
                .address = 0x40000000 + ((random >> 20) % 2048 << 12),
                .pages = (random >> 40) % 64 == 0 ? 1024 : (uint32_t)(random >> 41) % 8,
                .kind = kinds[(random >> 50) % ARRAY_SIZE(kinds)],
                .flags = (uint8_t)(random >> 56) & 31,
                .process = (uint16_t)((random >> 33) % 5),
            };
            if (event.kind == SIM_ACCESS) {
                event.flags &= (event.flags & 1) ? MMU_WRITE : MMU_FETCH;
            }
            machines_run(machine, &event, 1);
            if (step % 100 == 0) {
                machines_agree(machine);
            }
        }
        machines_agree(machine);
        for (unsigned i = 0; i < SIM_KINDS; i++) {
            sim_destroy(machine[i]);
        }
    }
}

static void test_lines(void **state)
{
    static const char *const bad[] = {
        "",
        "\n",
        "I",
        "I  ",
        "I  4000",
        "I  4000,",
        "I  4000,0",
        "I  4000,5000",
        "I  4000,3x",
        "I  -4000,3",
        " L 10000000000000000,8",
        " L ffff800000000000,8",
        " L 7fffffffffff,8",
        " X 1000,8",
        " S 1000;8",
        "==1== hello",
        "@",
        "@map",
        "@map 0x1000 1",
        "@map 0x1000 0 1",
        "@map 0x1000 99999999999 1",
        "@map 0x7ffffffff000 2 1",
        "@map 0x1000 1 32",
        "@fork 4096",
        "@fork -1",
        "@mark 1",
        "SYSCALL[",
        "SYSCALL[1,1](9) sys_mmap ( 0x0",
        "SYSCALL[1,1](9) sys_mmap ( 0x0, 8192, 3, 34 ) --> Failure(0xc)",
        "SYSCALL[1,1](9) sys_mmap ( 0x0, 8192, 3, 34 ) --> Success(",
        "SYSCALL[1,1](11) sys_munmap ( 0x1000, 18446744073709551615 ) Success(0x0)",
    };
    struct sim_event event[2];
    unsigned count;
    long pid;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (trace_parse_line(bad[i], event, &count)) {
            fail_msg("'%s' was accepted", bad[i]);
        }
        assert_false(trace_parse_strace(bad[i], event, &pid));
    }
    assert_true(trace_parse_line("I  0401ab70,3\n", event, &count));
    assert_true(count == 1 && event[0].address == 0x401ab70 &&
                event[0].flags == MMU_FETCH);
    assert_true(trace_parse_line(" M 1ffc,8\n", event, &count));
    assert_true(count == 2 && event[1].address == 0x2000 && event[1].flags == MMU_WRITE);
    assert_true(trace_parse_line(
        "SYSCALL[1,1](9) sys_mmap ( 0x0, 8193, 3, 34, 4294967295, 0 ) --> [pre-success] "
        "Success(0x4835000) \n",
        event, &count));
    assert_true(event[0].kind == SIM_MAP && event[0].address == 0x4835000 &&
                event[0].pages == 3 && event[0].flags == 3);
    assert_true(trace_parse_strace("[pid 12] mmap(NULL, 8192, PROT_READ|PROT_EXEC, "
                                   "MAP_PRIVATE, 3, 0) = 0x7f84d1ac9000",
                                   event, &pid));
    assert_true(pid == 12 && event[0].kind == SIM_MAP && event[0].flags == 5 &&
                event[0].address == 0x7f84d1ac9000);
    assert_true(
        trace_parse_strace("12 mprotect(0x1000, 4096, PROT_NONE) = 0", event, &pid));
    assert_true(event[0].kind == SIM_PROTECT && event[0].flags == 0);
    assert_false(
        trace_parse_strace("mmap(NULL, 8192, PROT_READ) = -1 ENOMEM", event, &pid));
}

/* What is written is read back the same. */
static void test_round_trip(void **state)
{
    char path[] = "/tmp/umbra-trace-XXXXXX";
    struct generate_config config;
    struct sim_source *source, *again;
    struct sim_event want[64], got[BATCH];
    struct umbra_error error;
    FILE *out = fdopen(mkstemp(path), "w");
    int count;

    generate_defaults(GENERATE_FORK, &config);
    assert_int_equal(generate_open(GENERATE_FORK, &config, &source), 0);
    count = source->next(source, want, 64, &error);
    assert_int_equal(count, 64);
    for (int i = 0; i < count; i++) {
        trace_write_event(out, &want[i]);
    }
    fputs("nonsense\n", out);
    fclose(out);
    assert_int_equal(trace_open(path, NULL, &again, &error), 0);
    assert_int_equal(again->next(again, got, BATCH, &error), 64);
    for (int i = 0; i < 64; i++) {
        assert_memory_equal(&want[i], &got[i], sizeof(got[i]));
    }
    assert_int_equal(trace_lines(again)->skipped, 1);
    sim_source_close(again);
    sim_source_close(source);
    unlink(path);
    assert_int_not_equal(trace_open("/does/not/exist", NULL, &again, &error), 0);
}

static void test_crossover(void **state)
{
    struct crossover_point points[2] = {
        { 0.1,
          { [SIM_NESTED] = 10,
            [SIM_SHADOW_WP] = 8,
            [SIM_SHADOW_UNSYNC] = 11,
            [SIM_SHADOW_VTLB] = 1 } },
        { 0.2,
          { [SIM_NESTED] = 10,
            [SIM_SHADOW_WP] = 12,
            [SIM_SHADOW_UNSYNC] = 12,
            [SIM_SHADOW_VTLB] = 2 } },
    };

    assert_true(crossover_find(points, 2, SIM_SHADOW_WP) > 0.149 &&
                crossover_find(points, 2, SIM_SHADOW_WP) < 0.151);
    assert_true(crossover_find(points, 2, SIM_SHADOW_UNSYNC) == 0);
    assert_true(crossover_find(points, 2, SIM_SHADOW_VTLB) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_workloads),
        cmocka_unit_test(test_references_without_caches),
        cmocka_unit_test(test_references_saved),
        cmocka_unit_test(test_random_events),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_crossover),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
