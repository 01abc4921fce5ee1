/* SPDX-License-Identifier: MIT */
/* umbra mmu costs: the parameters of the models, as they are or measured on this machine. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <umbra/umbra.h>

#include "shadowpt-sim/sim/cost.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/mmu/mmu.h"
#include "vmm/cli/options.h"

#define LINE       64
#define PAGE       4096
#define STEPS      (1u << 20)
#define MEMORY_MAX (512 * MIB)

/* ---- Latencies ----------------------------------------------------------------------------- */

/* Of this thread: what others do on the same core is not counted. */
static double now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Nanoseconds of a cycle: of an operation that waits for the one before. (No addition of a
 * constant: some processors do several of these at once.) */
static double cycle_ns(void)
{
    double best = 1e9;

    for (unsigned round = 0; round < 5; round++) {
        uint64_t value = 1, other = 0x5555;
        double start = now_ns();

        for (unsigned i = 0; i < STEPS; i++) {
            for (unsigned n = 0; n < 16; n++) {
                value ^= other;
                __asm__ volatile("" : "+r"(value), "+r"(other));
            }
        }
        start = (now_ns() - start) / (16.0 * STEPS);
        best = start < best ? start : best;
    }
    return best;
}

static uint64_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

/* Make the @count places, @stride apart, one random circle; each holds the next one's
 * address. Every place uses a line of its own of its page, so that no set of a cache gets
 * all of them. */
static void **circle(uint8_t *base, size_t count, size_t stride)
{
    uint32_t *order = malloc(count * sizeof(*order));
    uint64_t random = 1;
    void **first;

    if (order == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        order[i] = (uint32_t)i;
    }
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = random_next(&random) % (i + 1);
        uint32_t kept = order[i];

        order[i] = order[other];
        order[other] = kept;
    }
#define PLACE(i) ((void **)(void *)(base + (i)*stride + (i)*LINE % stride))
    for (size_t i = 0; i < count; i++) {
        *PLACE((size_t)order[i]) = PLACE((size_t)order[(i + 1) % count]);
    }
    first = PLACE((size_t)order[0]);
#undef PLACE
    free(order);
    return first;
}

/* Nanoseconds of a load that waits for the one before; the least of some rounds, since
 * others run on this machine too. Negative: no memory. */
static double load_ns(size_t count, size_t stride, int pages)
{
    size_t size = align_up(count * stride, 2 * MIB) + 2 * MIB;
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    double best = -1;
    void **at;

    if (memory == MAP_FAILED) {
        return -1;
    }
    (void)madvise(memory, size, pages);
    at = circle((uint8_t *)align_up((uintptr_t)memory, 2 * MIB), count, stride);
    for (unsigned round = 0; round < 5 && at != NULL; round++) {
        double start = now_ns();

        for (unsigned i = 0; i < STEPS; i++) {
            at = *at;
            __asm__ volatile("" : "+r"(at));
        }
        start = (now_ns() - start) / STEPS;
        best = best < 0 || start < best ? start : best;
    }
    munmap(memory, size);
    return best;
}

/* A page fault that the kernel answers with a fresh page. */
static double fault_ns(void)
{
    size_t size = 4096 * (size_t)PAGE;
    volatile uint8_t *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double start;

    if (memory == MAP_FAILED) {
        return -1;
    }
    (void)madvise((void *)(uintptr_t)memory, size, MADV_NOHUGEPAGE);
    start = now_ns();
    for (size_t at = 0; at < size; at += PAGE) {
        memory[at] = 1;
    }
    start = (now_ns() - start) / ((double)size / PAGE);
    munmap((void *)(uintptr_t)memory, size);
    return start;
}

/* What umbra doctor says of an exit to this process and back; negative: nothing. */
static double exit_ns(void)
{
    struct umbra_error error;
    char *text = NULL;
    double result = -1;
    json_t *report, *check;
    size_t i;

    if (umbra_doctor_json(NULL, &text, &error) != 0) {
        return -1;
    }
    report = json_loads(text, 0, NULL);
    json_array_foreach(json_object_get(report, "checks"), i, check)
    {
        const char *name = json_string_value(json_object_get(check, "name"));
        const char *value = json_string_value(json_object_get(check, "value"));

        if (name != NULL && value != NULL && strcmp(name, "exit round trip") == 0) {
            result = strtod(value, NULL) * 1000;
        }
    }
    json_decref(report);
    free(text);
    return result > 0 ? result : -1;
}

/* ---- The set --------------------------------------------------------------------------------- */

/* Four times the last cache, so that most loads miss it. */
static size_t memory_lines(void)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    uint64_t size = cache > 0 ? 4 * (uint64_t)cache : 256 * MIB;

    return (size_t)((size < MEMORY_MAX ? size : MEMORY_MAX) / LINE);
}

struct measurement {
    const char *name;
    double ns;
};

static void measure(struct cost_model *cost, const char **measured)
{
    double cycle = cycle_ns(), l1 = load_ns(256, LINE, MADV_HUGEPAGE);
    /* As many lines, on pages of their own, or on one large page. */
    double apart = load_ns(512, PAGE, MADV_NOHUGEPAGE);
    double together = load_ns(512, LINE, MADV_HUGEPAGE);
    const struct measurement all[] = {
        { "cycles.tlb.l2", apart > together ? apart - together : -1 },
        { "cycles.line.l1", l1 },
        { "cycles.line.l2", load_ns(256 * KIB / LINE, LINE, MADV_HUGEPAGE) },
        { "cycles.line.l3", load_ns(8 * MIB / LINE, LINE, MADV_HUGEPAGE) },
        { "cycles.memory", load_ns(memory_lines(), LINE, MADV_HUGEPAGE) },
        { "cycles.guest.fault", fault_ns() },
        { "cycles.exit", exit_ns() },
    };
    unsigned count = 0;

    printf(
        "# Measured on this machine: a cycle is %.3f ns (dependent operations).\n"
        "# cycles.exit is umbra doctor's: to this process and back, more than a "
        "hypervisor in the\n# kernel needs. cycles.guest.fault is this kernel's, with a "
        "fresh page.\n",
        cycle);
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        char value[32];

        if (all[i].ns < 0 || all[i].ns / cycle < 0.5) {
            printf("# %s could not be measured.\n", all[i].name);
            continue;
        }
        snprintf(value, sizeof(value), "%.0f", all[i].ns / cycle);
        if (cost_set(cost, all[i].name, value) == 0) {
            measured[count++] = all[i].name;
        }
    }
    measured[count] = NULL;
}

struct costs_options {
    struct cost_model cost;
    const char *file;
    bool measure;
};

static bool set_option(void *context, const char *name, const char *value)
{
    struct costs_options *options = context;

    if (strcmp(name, "measure") == 0) {
        options->measure = true;
    } else {
        options->file = value;
    }
    return true;
}

int mmu_command_costs(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "costs", "FILE", "over the defaults" },
        { "measure", NULL, "what can be measured on this machine, over these" },
        { NULL, NULL, NULL },
    };
    struct costs_options options = { .cost = cost_default };
    const struct cli_parser parser = {
        .command = "mmu costs",
        .synopsis = "[--costs FILE] [--measure]",
        .summary =
            "Print the parameters of the models: geometry of TLBs and caches "
            "(entries/ways),\nand cycles. Change the output and give it to --costs.",
        .options = own,
        .set = set_option,
        .context = &options,
    };
    const char *measured[16] = { NULL };
    struct umbra_error error;
    struct cli_line line;
    int status = cli_parse(&parser, argc, argv, NULL, &line);

    if (status >= 0) {
        return status;
    }
    if (options.file != NULL && cost_load(&options.cost, options.file, &error) != 0) {
        return exit_status_fail("mmu costs", &error);
    }
    if (options.measure) {
        measure(&options.cost, measured);
    }
    cost_print(&options.cost, measured, stdout);
    return fflush(stdout) == 0 ? EXIT_STATUS_OK : EXIT_STATUS_INTERNAL;
}
