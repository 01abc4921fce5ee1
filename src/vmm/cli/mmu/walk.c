/* SPDX-License-Identifier: MIT */
/* umbra mmu walk, explain: the references of one translation, counted and told. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shadowpt-sim/shadow/shadow.h"
#include "shadowpt-sim/trace/generate.h"
#include "shadowpt-sim/trace/trace.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/mmu/mmu.h"
#include "vmm/cli/options.h"

#define EXAMPLE_GVA 0x00007f1234567abcull
#define PAGE_GPA    (2 * GIB)
#define TABLES_GPA  MIB
#define RAM_HPA     ((uint64_t)1 << 40)
#define POOL_HPA    ((uint64_t)1 << 45)
#define EXAMPLE_RAM (4 * GIB)

/* A guest with one page. */
struct example {
    struct sim_ram ram;
    struct mmu_slots slots;
    struct nested_table nested;
    struct mmu_mode mode;
    struct mmu_trace trace; /* of the combined walk */
    struct nested_walk walk;
    unsigned levels, guest_level, host_level; /* 1: 4 KiB, 2: 2 MiB, 3: 1 GiB */
    bool json;
    const char *path, *strace; /* explain: a workload to take the tables from */
};

static int example_tables(struct example *example, uint64_t gva)
{
    uint64_t table = TABLES_GPA, mask;
    int err = 0;

    for (unsigned level = example->levels; level >= example->guest_level; level--) {
        uint64_t at = table + 8 * ((gva >> (12 + 9 * (level - 1))) & 511);
        uint64_t entry = table + MMU_PAGE_SIZE;

        if (level == example->guest_level) {
            mask = ((uint64_t)1 << (12 + 9 * (level - 1))) - 1;
            entry = (PAGE_GPA + (gva & (GIB - 1))) & ~mask;
            entry |= level > 1 ? PTE_PS : 0;
        }
        err = mmu_store(&example->ram.memory, at, 8, entry | PTE_P | PTE_W | PTE_U);
        table += MMU_PAGE_SIZE;
        if (err != 0) {
            break;
        }
    }
    return err;
}

static int example_make(struct example *example, uint64_t gva)
{
    static const uint8_t shifts[] = { 0, 12, 21, 30 };
    struct mmu_slot slot = { 0, EXAMPLE_RAM, RAM_HPA, false,
                             shifts[example->host_level] };
    struct nested_config config = {
        .kind = NESTED_EPT,
        .levels = (uint8_t)example->levels,
        .max_level = 3,
        .maxphyaddr = 46,
        .ad = true,
        .pool_hpa = POOL_HPA,
    };
    int err;

    sim_ram_init(&example->ram);
    mmu_slots_init(&example->slots);
    example->mode = (struct mmu_mode){
        .cpu = MMU_CPU_DEFAULT,
        .cr0 = CR0_PE | CR0_PG | CR0_WP,
        .cr3 = TABLES_GPA,
        .cr4 = CR4_PAE | (example->levels == 5 ? CR4_LA57 : 0),
        .efer = EFER_LME | EFER_LMA | EFER_NXE,
    };
    mmu_mode_update(&example->mode);
    err = sim_ram_add(&example->ram, 0, EXAMPLE_RAM, false);
    if (err == 0) {
        err = mmu_slots_add(&example->slots, &slot);
    }
    if (err == 0) {
        err =
            nested_init(&example->nested, &config, &example->slots, &example->ram.memory);
    }
    return err == 0 ? example_tables(example, gva) : err;
}

static void example_destroy(struct example *example)
{
    nested_destroy(&example->nested);
    mmu_slots_destroy(&example->slots);
    sim_ram_destroy(&example->ram);
}

/* The combined walk, once all violations on its way are handled. */
static int example_walk(struct example *example, uint64_t gva, unsigned *violations)
{
    enum mmu_outcome outcome;

    for (*violations = 0;; ++*violations) {
        example->trace.count = 0;
        example->walk = (struct nested_walk){ .trace = &example->trace };
        outcome = nested_translate(&example->nested, &example->mode, gva,
                                   MMU_USER | MMU_WRITE, &example->walk);
        if (outcome != MMU_NESTED_FAULT) {
            return outcome == MMU_OK ? 0 : -1;
        }
        if (nested_fill(&example->nested, example->walk.fault.gpa, NESTED_WRITE) != 0) {
            return -1;
        }
    }
}

static bool parse_pages(const char *value, unsigned *level)
{
    *level = strcmp(value, "4K") == 0 ? 1 : strcmp(value, "2M") == 0 ? 2 : 3;
    return *level != 3 || strcmp(value, "1G") == 0;
}

static bool set_option(void *context, const char *name, const char *value)
{
    struct example *example = context;

    if (strcmp(name, "json") == 0) {
        example->json = true;
        return true;
    }
    if (strcmp(name, "trace") == 0) {
        example->path = value;
        return true;
    }
    if (strcmp(name, "strace") == 0) {
        example->strace = value;
        return true;
    }
    if (strcmp(name, "guest-pages") == 0) {
        return parse_pages(value, &example->guest_level);
    }
    if (strcmp(name, "host-pages") == 0) {
        return parse_pages(value, &example->host_level);
    }
    example->levels = (unsigned)(value[0] - '0');
    return (value[0] == '4' || value[0] == '5') && value[1] == '\0';
}

/* ---- walk --------------------------------------------------------------------------------- */

static const char *const page_names[] = { "", "4K", "2M", "1G" };

/* What an agile walk needs: [0] with all tables shadowed, [n] with the lowest n of them nested.
 * *@count: one more than there are tables. */
static int walk_agile(struct example *example, unsigned references[6], unsigned *count)
{
    const struct shadow_config config = { .memory = &example->ram.memory,
                                          .slots = &example->slots,
                                          .policy = SHADOW_AGILE,
                                          .pool_pages = 256,
                                          .pool_hpa = POOL_HPA,
                                          .nested_levels = (uint8_t)example->levels };
    struct shadow_vcpu *vcpu = NULL;
    struct shadow_mmu *mmu;
    int err = shadow_create(&config, &mmu);

    err = err != 0 ? err : shadow_vcpu_create(mmu, &example->mode.cpu, &vcpu);
    err = err != 0 ? err : shadow_set_mode(vcpu, &example->mode);
    *count = example->levels - example->guest_level + 2;
    for (unsigned n = 0; n < *count && err == 0; n++) {
        /* Tables lie one behind the other, from the root's on. */
        uint64_t table = TABLES_GPA + (*count - 1 - n) * MMU_PAGE_SIZE;
        struct shadow_result result;
        struct mmu_trace trace;

        if ((n > 0 && !shadow_switch_table(mmu, table, true)) ||
            shadow_access(vcpu, EXAMPLE_GVA, MMU_USER | MMU_WRITE, &result) !=
                SHADOW_OK) {
            err = -1;
        }
        shadow_trace(vcpu, EXAMPLE_GVA, &trace);
        references[n] = trace.count;
    }
    shadow_vcpu_destroy(vcpu);
    shadow_destroy(mmu);
    return err;
}

static void walk_print(const struct example *example, const unsigned *agile,
                       unsigned count, bool json, bool first)
{
    unsigned native = example->levels - example->guest_level + 1;
    const char *guest = page_names[example->guest_level];
    const char *host = page_names[example->host_level];

    if (json) {
        printf(
            "%s\n  {\"levels\": %u, \"guest_pages\": \"%s\", \"nested_pages\": \"%s\", "
            "\"native\": %u, \"nested\": %u, \"agile\": [",
            first ? "" : ",", example->levels, guest, host, native, example->trace.count);
    } else {
        printf("%6u  %6s  %6s  %8u  %8u      ", example->levels, guest, host, native,
               example->trace.count);
    }
    for (unsigned n = 0; n < count; n++) {
        printf(json ? "%s%u" : "%s%3u", json && n > 0 ? ", " : " ", agile[n]);
    }
    fputs(json ? "]}" : "\n", stdout);
}

static int walk_row(unsigned levels, unsigned guest, unsigned host, bool json, bool first)
{
    struct example example = { .levels = levels,
                               .guest_level = guest,
                               .host_level = host };
    unsigned violations, agile[6], count = 0;
    int err = example_make(&example, EXAMPLE_GVA);

    if (err == 0) {
        err = example_walk(&example, EXAMPLE_GVA, &violations);
    }
    if (err == 0) {
        err = walk_agile(&example, agile, &count);
    }
    if (err == 0) {
        walk_print(&example, agile, count, json, first);
    }
    example_destroy(&example);
    return err;
}

int mmu_command_walk(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "json", NULL, "print JSON" },
        { NULL, NULL, NULL },
    };
    struct example options = { .json = false };
    const struct cli_parser parser = {
        .command = "mmu walk",
        .synopsis = "[--json]",
        .summary =
            "Build guest and nested tables of every page size, walk them, and count "
            "the\nreferences that a TLB miss makes without caches. Shadow tables "
            "are walked natively;\nagile paging's walks go over from the shadow to "
            "the guest's own tables.",
        .options = own,
        .set = set_option,
        .context = &options,
    };
    struct cli_line line;
    int status = cli_parse(&parser, argc, argv, NULL, &line);
    bool first = true;

    if (status >= 0) {
        return status;
    }
    puts(options.json ? "{\"walks\": ["
                      : "levels   guest  nested    native    nested       agile "
                        "(lowest 0, 1, ... tables nested)");
    for (unsigned levels = 4; levels <= 5; levels++) {
        for (unsigned guest = 1; guest <= 3; guest++) {
            for (unsigned host = 1; host <= 3; host++) {
                if (walk_row(levels, guest, host, options.json, first) != 0) {
                    fputs("umbra mmu walk: out of memory\n", stderr);
                    return EXIT_STATUS_INTERNAL;
                }
                first = false;
            }
        }
    }
    if (options.json) {
        puts("\n]}");
    }
    return EXIT_STATUS_OK;
}

/* ---- explain ------------------------------------------------------------------------------- */

static void print_flags(uint64_t entry, bool nested, unsigned level)
{
    static const struct {
        uint64_t bit;
        const char *guest, *nested;
    } flags[] = { { 1, "P", "R" },       { 2, "W", "W" },       { 4, "U", "X" },
                  { 1 << 5, "A", NULL }, { 1 << 6, "D", NULL }, { 1 << 8, "G", "A" },
                  { 1 << 9, NULL, "D" }, { PTE_NX, "NX", NULL } };

    for (unsigned i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        const char *name = nested ? flags[i].nested : flags[i].guest;

        if ((entry & flags[i].bit) && name != NULL) {
            printf(" %s", name);
        }
    }
    if (level > 1 && (entry & PTE_PS)) {
        printf(" PS");
    }
}

static void explain_ref(const struct example *example, unsigned i)
{
    static const char *const guest_names[] = {
        "", "PTE", "PDE", "PDPTE", "PML4E", "PML5E"
    };
    const struct mmu_ref *ref = &example->trace.ref[i];
    bool nested = ref->dimension == MMU_REF_NESTED;

    if (nested && (i == 0 || example->trace.ref[i - 1].dimension != MMU_REF_NESTED)) {
        if (ref->for_level == 0) {
            printf("\nThe page has the GPA %#" PRIx64 "; where is that?\n",
                   example->walk.guest.gpa);
        } else {
            printf("\nThe guest's %s has the GPA %#" PRIx64 "; where is that?\n",
                   guest_names[ref->for_level],
                   example->walk.guest.entry_gpa[ref->for_level]);
        }
    }
    printf("%3u. %s %s at HPA %#" PRIx64 ": %#018" PRIx64, i + 1,
           nested ? "  EPT" : "guest", guest_names[ref->level], ref->address, ref->value);
    print_flags(ref->value, nested, ref->level);
    putchar('\n');
}

static int explain(struct example *example, uint64_t gva)
{
    unsigned violations;

    if (!mmu_canonical(&example->mode, gva)) {
        printf("GVA %#" PRIx64 " is not canonical with %u levels: #GP, no walk.\n", gva,
               example->levels);
        return EXIT_STATUS_OK;
    }
    if (example_walk(example, gva, &violations) != 0) {
        fputs("umbra mmu explain: the walk failed\n", stderr);
        return EXIT_STATUS_INTERNAL;
    }
    printf("A user's write to GVA %#" PRIx64 ": %u levels, %s pages in the guest, %s "
           "in the nested tables.\nThe index at each level:",
           gva, example->levels, page_names[example->guest_level],
           page_names[example->host_level]);
    for (unsigned level = example->levels; level >= example->guest_level; level--) {
        printf(" %" PRIu64, (gva >> (12 + 9 * (level - 1))) & 511);
    }
    printf("; CR3 = %#" PRIx64 ".\n", example->mode.cr3);
    printf(
        "At first the nested tables were empty: %u violations (VM exits) filled them.\n",
        violations);
    for (unsigned i = 0; i < example->trace.count; i++) {
        explain_ref(example, i);
    }
    printf("\nHPA %#" PRIx64
           ", after %u references; natively, or with a shadow table for "
           "GVA to HPA, it\nwould have been %u.\n",
           example->walk.hpa, example->trace.count,
           example->levels - example->guest_level + 1);
    return EXIT_STATUS_OK;
}

/* The walk on the tables that a workload left behind. */
static int explain_machine(struct example *example, const struct sim_machine *machine,
                           uint64_t gva)
{
    const struct mmu_mode *mode = sim_mode(machine);
    enum mmu_outcome outcome;

    example->walk = (struct nested_walk){ .trace = &example->trace };
    outcome = nested_translate(sim_nested(machine), mode, gva, MMU_USER | MMU_PROBE,
                               &example->walk);
    printf("A user's read of GVA %#" PRIx64 " after %s; CR3 = %#" PRIx64 ".\n", gva,
           example->path, mode->cr3);
    for (unsigned i = 0; i < example->trace.count; i++) {
        explain_ref(example, i);
    }
    switch (outcome) {
    case MMU_OK:
        printf("\nHPA %#" PRIx64 ", after %u references, a page of %u KiB; natively, or "
               "with a shadow table\nfor GVA to HPA, it would have been %u.\n",
               example->walk.hpa, example->trace.count,
               1u << (example->walk.to.shift - 10),
               example->levels - example->walk.guest.level + 1);
        break;
    case MMU_FAULT:
        printf("\nA page fault with error code %#x: at the end the program %s here.\n",
               example->walk.guest.error_code,
               (example->walk.guest.error_code & PF_P) ? "may not read" : "has no page");
        break;
    case MMU_NESTED_FAULT:
        printf("\nA violation of the nested tables at GPA %#" PRIx64 ": a VM exit.\n",
               example->walk.fault.gpa);
        break;
    default:
        puts("\nNot canonical: #GP, no walk.");
    }
    return EXIT_STATUS_OK;
}

static int explain_trace(struct example *example, uint64_t gva)
{
    static const uint8_t shifts[] = { 0, 12, 21, 30 };
    struct sim_config config = { .cost = cost_default,
                                 .levels = (uint8_t)example->levels,
                                 .host_shift = shifts[example->host_level] };
    struct sim_machine *machine = NULL;
    struct sim_source *source;
    struct sim_event events[1024];
    struct umbra_error error;
    int count, err = trace_open(example->path, example->strace, &source, &error);

    if (err != 0) {
        return exit_status_fail("mmu explain", &error);
    }
    config.auto_map = source->auto_map;
    err = sim_create(&config, SIM_NESTED, &machine, &error);
    while (err == 0 &&
           (count = source->next(source, events, ARRAY_SIZE(events), &error)) != 0) {
        err = count < 0 ? count : sim_run(machine, events, (unsigned)count, &error);
    }
    err = err != 0 ? exit_status_fail("mmu explain", &error)
                   : explain_machine(example, machine, gva);
    sim_destroy(machine);
    sim_source_close(source);
    return err;
}

int mmu_command_explain(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "levels", "4|5", "of both dimensions; default 4" },
        { "guest-pages", "4K|2M|1G", "page that the guest maps; default 4K" },
        { "host-pages", "4K|2M|1G", "largest pages of the host; default 4K" },
        { "trace", "FILE", "on the tables that this workload makes (see mmu run)" },
        { "strace", "FILE", "... with its system calls" },
        { NULL, NULL, NULL },
    };
    struct example example = { .levels = 4, .guest_level = 1, .host_level = 1 };
    const struct cli_parser parser = {
        .command = "mmu explain",
        .synopsis = "GVA [options]",
        .summary =
            "Print the two-dimensional walk for an address step by step, on example "
            "tables that\nmap it or, with --trace, on those of a workload of yours.",
        .options = own,
        .max_arguments = 1,
        .set = set_option,
        .context = &example,
    };
    struct cli_line line;
    uint64_t gva;
    char *end;
    int status = cli_parse(&parser, argc, argv, NULL, &line);

    if (status >= 0) {
        return status;
    }
    if (line.count == 0) {
        return cli_usage("mmu explain", "name the address, as 0x7f1234567abc");
    }
    gva = strtoull(line.arguments[0], &end, 0);
    if (*end != '\0' || end == line.arguments[0] || line.arguments[0][0] == '-') {
        return cli_usage("mmu explain", "'%s' is no address: expected as 0x7f1234567abc",
                         line.arguments[0]);
    }
    if (example.path != NULL) {
        return explain_trace(&example, gva);
    }
    if (example_make(&example, gva) != 0) {
        fputs("umbra mmu explain: out of memory\n", stderr);
        status = EXIT_STATUS_INTERNAL;
    } else {
        status = explain(&example, gva);
    }
    example_destroy(&example);
    return status;
}
