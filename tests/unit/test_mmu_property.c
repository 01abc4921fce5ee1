/* SPDX-License-Identifier: MIT */
/* The shadow MMU under random events, against the oracle: every policy, with and without a
 * TLB in front, with every invariant audited after each step in a part of the runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "mmu_events.h"

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
                                          .audit = true },
                  60000);
        }
    }
}

static void test_wp(void **state)
{
    check((struct events_config){ .policy = SHADOW_WP, .stores = true }, 8000000);
}

static void test_unsync(void **state)
{
    check((struct events_config){ .policy = SHADOW_UNSYNC, .stores = true }, 2000000);
}

static void test_vtlb(void **state)
{
    check((struct events_config){ .policy = SHADOW_VTLB, .stores = true }, 2000000);
}

static void test_with_tlb(void **state)
{
    for (unsigned policy = 0; policy < SHADOW_POLICIES; policy++) {
        check((struct events_config){ .policy = (enum shadow_policy)policy,
                                      .tlb = true,
                                      .stores = true },
              800000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_audited),  cmocka_unit_test(test_wp),
        cmocka_unit_test(test_unsync),   cmocka_unit_test(test_vtlb),
        cmocka_unit_test(test_with_tlb),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
