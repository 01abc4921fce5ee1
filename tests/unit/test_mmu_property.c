/* SPDX-License-Identifier: MIT */
/* The shadow MMU under random events, against the oracle: every policy, with and without a
 * TLB in front, with every invariant audited after each step in a part of the runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "mmu_play.h"

static void check(struct events_config config, uint64_t steps)
{
    uint64_t seed = world_seed(1000003 * (config.policy + 1));
    struct shadow_stats total;

    steps = world_steps(steps);
    print_message("%s%s%s: %" PRIu64 " steps from UMBRA_MMU_SEED=%" PRIu64 "\n",
                  shadow_policy_name(config.policy), config.tlb ? " tlb" : "",
                  config.audit ? " audited" : "", steps, seed);
    assert_int_equal(events_check(config, steps, seed, &total), 0);
    for (unsigned event = 0; event < SHADOW_EVENTS; event++) {
        print_message("  %s %" PRIu64, shadow_event_name((enum shadow_event)event),
                      total.count[event]);
    }
    print_message("\n");
}

static void test_audited(void **state)
{
    for (unsigned policy = 0; policy < SHADOW_POLICIES; policy++) {
        for (unsigned tlb = 0; tlb < 2; tlb++) {
            check((struct events_config){ .policy = (enum shadow_policy)policy,
                                          .tlb = tlb,
                                          .stores = true,
                                          .modern = policy == SHADOW_AGILE,
                                          .audit = true },
                  60000);
        }
    }
}

static void test_wp(void **state)
{
    check((struct events_config){ .policy = SHADOW_WP, .stores = true }, 6000000);
}

static void test_unsync(void **state)
{
    check((struct events_config){ .policy = SHADOW_UNSYNC, .stores = true }, 2000000);
}

static void test_vtlb(void **state)
{
    check((struct events_config){ .policy = SHADOW_VTLB, .stores = true }, 2000000);
}

static void test_agile(void **state)
{
    check(
        (struct events_config){ .policy = SHADOW_AGILE, .stores = true, .modern = true },
        3000000);
}

static void test_with_tlb(void **state)
{
    for (unsigned policy = 0; policy < SHADOW_POLICIES; policy++) {
        check((struct events_config){ .policy = (enum shadow_policy)policy,
                                      .tlb = true,
                                      .modern = policy == SHADOW_AGILE,
                                      .stores = true },
              500000);
    }
}

/* ---- Policies side by side -------------------------------------------------------------------- */

#define SIDES (SHADOW_POLICIES + 1) /* the policies, and wp again without evictions */

/* Fault or not, where to: what the guest can tell. */
static uint64_t visible(const struct shadow_result *result)
{
    switch (result->outcome) {
    case SHADOW_FAULT:
        return (uint64_t)result->error_code << 8 | 1;
    case SHADOW_NONCANONICAL:
        return 2;
    case SHADOW_UNBACKED:
        return 3;
    case SHADOW_MMIO:
        return result->gpa << 8 | 4;
    default:
        return 5; /* permitted; where to is checked against the oracle */
    }
}

/* After a full flush every address must look the same under every policy. */
static void compare_sides(struct run *sides, unsigned vcpu, uint64_t seed, uint64_t step)
{
    static const uint32_t accesses[] = {
        0, MMU_WRITE, MMU_FETCH, MMU_USER, MMU_USER | MMU_WRITE, MMU_AC
    };

    for (unsigned i = 0; i < SIDES; i++) {
        shadow_invpcid(sides[i].processor[vcpu].vcpu, INVPCID_ALL, 0, 0);
        for (unsigned c = 0; c < CONTEXTS; c++) {
            sides[i].processor[vcpu].context[c].valid &=
                c == sides[i].processor[vcpu].current;
        }
    }
    for (unsigned n = 0; n < EVENT_GVAS * ARRAY_SIZE(accesses); n++) {
        uint64_t gva = sides[0].gva[n % EVENT_GVAS], first = 0;
        uint32_t access = accesses[n / EVENT_GVAS];

        for (unsigned i = 0; i < SIDES; i++) {
            struct shadow_result result;

            shadow_access(sides[i].processor[vcpu].vcpu, gva, access, &result);
            if (i == 0) {
                first = visible(&result);
            } else if (visible(&result) != first) {
                fail_msg("side %u disagrees on GVA %#" PRIx64 " access %#x: seed %" PRIu64
                         " step %" PRIu64,
                         i, gva, access, seed, step);
            }
        }
    }
}

/* The walks above set A and D: the models learn of them from memory. */
static void models_follow(struct run *sides)
{
    for (unsigned i = 0; i < SIDES; i++) {
        for (unsigned t = 0; t < WORLD_TABLES; t++) {
            memcpy(sides[i].world.model[t], sides[i].world.host[t], 4096);
        }
        past_all(&sides[i]);
    }
}

/* Whether the guests still are the same. When A is set in a table is the processor's choice
 * within limits (it depends on what is cached), and a table that PAE's PDPTEs are loaded from
 * must have bit 5 clear: then the same MOV to CR3 or CR4 is #GP on one side only. */
static bool same_registers(const struct run *sides, unsigned vcpu)
{
    const struct mmu_mode *first = shadow_vcpu_mode(sides[0].processor[vcpu].vcpu);
    bool same = true, pae = first->format == MMU_FORMAT_PAE;

    for (unsigned i = 1; i < SIDES; i++) {
        const struct mmu_mode *mode = shadow_vcpu_mode(sides[i].processor[vcpu].vcpu);

        same &= mode->cr0 == first->cr0 && mode->cr3 == first->cr3 &&
                mode->cr4 == first->cr4 && mode->efer == first->efer &&
                memcmp(mode->pdpte, first->pdpte, sizeof(mode->pdpte)) == 0;
        pae |= mode->format == MMU_FORMAT_PAE;
    }
    assert_true(same || pae);
    return same;
}

/* Steps until the guests may differ: all, but for very few seeds. */
static uint64_t play_sides(struct run *sides, uint64_t seed)
{
    static struct event events[1500];
    uint64_t step;

    events_make(events, ARRAY_SIZE(events), seed);
    for (unsigned i = 0; i < SIDES; i++) {
        memset(&sides[i], 0, sizeof(sides[i]));
        sides[i].config = (struct events_config){
            .policy = (enum shadow_policy)(i % SHADOW_POLICIES),
            .keep_pages = i == SHADOW_POLICIES,
            .modern = seed & 1,
            .seed = seed,
        };
        assert_true(run_begin(&sides[i]));
    }
    for (step = 0; step < ARRAY_SIZE(events); step++) {
        const struct event *event = &events[step];

        for (unsigned i = 0; i < SIDES; i++) {
            sides[i].step = step;
            if (!run_event(&sides[i], event)) {
                fail_msg("side %u: %s: seed %" PRIu64 " step %" PRIu64, i, sides[i].why,
                         seed, step);
            }
        }
        if (event->kind == EVENT_ACCESS) { /* eviction changes counters only */
            assert_int_equal(visible(&sides[0].last),
                             visible(&sides[SHADOW_POLICIES].last));
        } else if (event->kind == EVENT_CR3 || event->kind == EVENT_MODE) {
            if (!same_registers(sides, event->vcpu)) {
                break;
            }
            compare_sides(sides, event->vcpu, seed, step);
            models_follow(sides);
        }
    }
    for (unsigned i = 0; i < SIDES; i++) {
        shadow_destroy(sides[i].mmu);
        world_destroy(&sides[i].world);
    }
    return step;
}

static void test_policies_agree(void **state)
{
    uint64_t rounds = world_steps(300000) / 1500, seed = world_seed(31), steps = 0;
    struct run *sides = malloc(SIDES * sizeof(*sides));

    assert_non_null(sides);
    print_message("%" PRIu64 " steps from UMBRA_MMU_SEED=%" PRIu64 "\n", rounds * 1500,
                  seed);
    for (uint64_t i = 0; i < rounds; i++) {
        steps += play_sides(sides, seed + i);
    }
    print_message("%" PRIu64 " of them until registers differed\n", steps);
    assert_true(steps + 3000 >= rounds * 1500 / 100 * 95);
    free(sides);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_audited),        cmocka_unit_test(test_wp),
        cmocka_unit_test(test_unsync),         cmocka_unit_test(test_vtlb),
        cmocka_unit_test(test_agile),          cmocka_unit_test(test_with_tlb),
        cmocka_unit_test(test_policies_agree),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
