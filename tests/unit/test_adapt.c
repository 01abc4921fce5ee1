/* SPDX-License-Identifier: MIT */
/* The command line where CPUID masks do not apply. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "vmm/boot/adapt.h"

#define CLEARED "smap,smep,popcnt,cx16,erms,fsrm,invpcid,pcid,fsgsbase,rdpid,umip"
#define BLACKLIST                                                                        \
    "initcall_blacklist=ptp_kvm_init"                                                    \
    ",ftrace_check_for_weak_functions,trace_eval_init,tracer_init_tracefs"               \
    ",cubictcp_register,kfunc_init,bpf_prog_test_run_init,bpf_rstat_kfunc_init"          \
    ",bpf_tcp_ca_kfunc_init,bpf_key_sig_kfuncs_init,blake2s_mod_init"
#define REST " noxsave " BLACKLIST " nopvspin nosoftlockup cryptomgr.notests"

static const struct kvm_probe interpreted = { .measured = true,
                                              .cpl0_interpreted = true };

static void assert_adapted(const char *append, const char *expected)
{
    char *adapted;

    assert_int_equal(adapt_command_line(&interpreted, append, &adapted), 0);
    assert_string_equal(adapted, expected);
    free(adapted);
}

static void test_adapted(void **state)
{
    assert_adapted("", "clearcpuid=" CLEARED REST);
    assert_adapted("console=ttyS0", "console=ttyS0 clearcpuid=" CLEARED REST);
    /* The user's list is kept, and only the last clearcpuid= counts. */
    assert_adapted("clearcpuid=a,b quiet clearcpuid=c",
                   "clearcpuid=a,b quiet clearcpuid=c clearcpuid=c," CLEARED REST);
    assert_adapted("noxsave initcall_blacklist=x",
                   "noxsave initcall_blacklist=x clearcpuid=" CLEARED " " BLACKLIST
                   " nopvspin nosoftlockup cryptomgr.notests");
    assert_adapted("noxsaveopt", "noxsaveopt clearcpuid=" CLEARED REST);
    /* What follows "--" is init's. */
    assert_adapted("quiet -- clearcpuid=x noxsave",
                   "quiet clearcpuid=" CLEARED REST " -- clearcpuid=x noxsave");
    assert_adapted("a=b--c", "a=b--c clearcpuid=" CLEARED REST);
}

static void test_left_alone(void **state)
{
    const struct kvm_probe unmeasured = { .cpl0_interpreted = true };
    const struct kvm_probe masked = { .measured = true,
                                      .masks_apply = true,
                                      .cpl0_interpreted = true };
    const struct kvm_probe native = { .measured = true };
    const struct kvm_probe *probes[] = { &unmeasured, &masked, &native };

    for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++) {
        char *adapted = (char *)&adapted;

        assert_int_equal(adapt_command_line(probes[i], "quiet", &adapted), 0);
        assert_null(adapted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapted),
        cmocka_unit_test(test_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
