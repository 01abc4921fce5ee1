/* SPDX-License-Identifier: MIT */
/* umbra mmu: the MMU laboratory. Finds the verb and runs it. */
#include <stdio.h>
#include <string.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/mmu/mmu.h"
#include "vmm/cli/options.h"

static const struct verb {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} verbs[] = {
    { "walk", "references of a TLB miss, by levels and page sizes", mmu_command_walk },
    { "explain", "print one translation step by step", mmu_command_explain },
    { "run", "a trace or workload under all kinds of paging, side by side",
      mmu_command_run },
    { "generate", "write a synthetic workload as a trace", mmu_command_generate },
    { "crossover", "table updates per TLB miss at which shadow loses to nested",
      mmu_command_crossover },
    { "inspect", "the address spaces of a running guest or a core", mmu_command_inspect },
    { "record", "a log of a guest's page tables over time", mmu_command_record },
    { "costs", "print the parameters of the models, or measure them", mmu_command_costs },
};

enum { VERB_COUNT = sizeof(verbs) / sizeof(verbs[0]) };

static int print_help(void)
{
    puts(
        "Usage: umbra mmu VERB [options]\n\nShadow paging and nested paging in software: "
        "what each costs, on the same workload.\nOnly inspect and record need "
        "KVM.\n\nVerbs:");
    for (unsigned i = 0; i < VERB_COUNT; i++) {
        printf("  %-10s %s\n", verbs[i].name, verbs[i].summary);
    }
    puts("\numbra mmu VERB --help tells more.\n");
    exit_status_print(stdout);
    return EXIT_STATUS_OK;
}

int command_mmu(int argc, char **argv)
{
    const char *names[VERB_COUNT + 1] = { NULL }, *near;

    if (argc < 2) {
        return cli_usage("mmu", "a verb is missing; see umbra mmu --help");
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        return print_help();
    }
    for (unsigned i = 0; i < VERB_COUNT; i++) {
        names[i] = verbs[i].name;
        if (strcmp(argv[1], verbs[i].name) == 0) {
            return verbs[i].run(argc - 1, argv + 1);
        }
    }
    near = umbra_nearest(argv[1], names);
    return cli_usage("mmu", "there is no verb '%s'%s%s%s See umbra mmu --help", argv[1],
                     near != NULL ? "; did you mean '" : "", near != NULL ? near : "",
                     near != NULL ? "'?" : ".");
}
