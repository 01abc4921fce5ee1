/* SPDX-License-Identifier: MIT */
/* umbra mmu run, generate, crossover: workloads through the simulation. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shadowpt-sim/sim/report.h"
#include "shadowpt-sim/trace/generate.h"
#include "shadowpt-sim/trace/trace.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/mmu/mmu.h"
#include "vmm/cli/mmu/replay.h"
#include "vmm/cli/options.h"

enum { BATCH = 4096, PROGRESS_EVENTS = 1 << 20 };

enum format {
    FORMAT_TABLE,
    FORMAT_JSON,
    FORMAT_CSV,
};

struct run_options {
    const char *command;
    struct sim_config config;
    const char *trace, *strace, *log, *generate, *costs, *svg;
    bool only[SIM_KINDS], some, quiet, speed;
    enum format format;
    struct generate_config workload; /* 0 in a field: the kind's default */
    bool updates_set;
};

/* ---- Options ----------------------------------------------------------------------------- */

static bool number_in(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
    char *end;
    unsigned long long parsed = strtoull(text, &end, 10);

    *value = parsed;
    return *text >= '0' && *text <= '9' && *end == '\0' && parsed >= low &&
           parsed <= high;
}

static bool set_workload(struct run_options *options, const char *name, const char *value)
{
    char *end;

    if (strcmp(name, "size") == 0) {
        return size_parse(value, &options->workload.bytes) == 0;
    }
    if (strcmp(name, "accesses") == 0) {
        return number_in(value, 1, 1000000000000ull, &options->workload.accesses);
    }
    if (strcmp(name, "seed") == 0) {
        return number_in(value, 0, INT64_MAX, &options->workload.seed);
    }
    if (strcmp(name, "updates") == 0) {
        options->workload.updates = strtod(value, &end);
        options->updates_set = true;
        return end != value && *end == '\0' && options->workload.updates >= 0 &&
               options->workload.updates <= 1000;
    }
    options->workload.large = true;
    return strcmp(name, "large") == 0;
}

static bool set_option(void *context, const char *name, const char *value)
{
    struct run_options *options = context;
    enum sim_kind kind;
    uint64_t number;

    if (strcmp(name, "trace") == 0) {
        options->trace = value;
    } else if (strcmp(name, "strace") == 0) {
        options->strace = value;
    } else if (strcmp(name, "log") == 0) {
        options->log = value;
    } else if (strcmp(name, "generate") == 0) {
        options->generate = value;
    } else if (strcmp(name, "costs") == 0) {
        options->costs = value;
    } else if (strcmp(name, "svg") == 0) {
        options->svg = value;
    } else if (strcmp(name, "policy") == 0) {
        if (sim_kind_parse(value, &kind) != 0) {
            return false;
        }
        options->only[kind] = options->some = true;
    } else if (strcmp(name, "json") == 0) {
        options->format = FORMAT_JSON;
    } else if (strcmp(name, "csv") == 0) {
        options->format = FORMAT_CSV;
    } else if (strcmp(name, "quiet") == 0) {
        options->quiet = true;
    } else if (strcmp(name, "speed") == 0) {
        options->speed = true;
    } else if (strcmp(name, "pcid") == 0) {
        options->config.pcid = true;
    } else if (strcmp(name, "levels") == 0) {
        options->config.levels = (uint8_t)(value[0] - '0');
        return (value[0] == '4' || value[0] == '5') && value[1] == '\0';
    } else if (strcmp(name, "host-pages") == 0) {
        options->config.host_shift = strcmp(value, "4K") == 0   ? 12
                                     : strcmp(value, "2M") == 0 ? 21
                                     : strcmp(value, "1G") == 0 ? 30
                                                                : 0;
        return options->config.host_shift != 0;
    } else if (strcmp(name, "ram") == 0) {
        return size_parse(value, &options->config.ram) == 0 &&
               options->config.ram >= GIB && options->config.ram <= 512 * GIB;
    } else if (strcmp(name, "shadow-pages") == 0) {
        bool valid = number_in(value, 128, 1 << 22, &number);

        options->config.shadow_pages = (uint32_t)number;
        return valid;
    } else {
        return set_workload(options, name, value);
    }
    return true;
}

#define WORKLOAD_OPTIONS                                                                 \
    { "size", "SIZE", "region of the workload" },                                        \
        { "accesses", "N", "about how many accesses to measure" },                       \
        { "seed", "N", "of the random numbers; default 1" },                             \
        { "updates", "RATIO", "table updates an access (kind updates)" },                \
    {                                                                                    \
        "large", NULL, "the guest uses 2 MiB pages where they fit"                       \
    }
#define MACHINE_OPTIONS                                                                  \
    { "costs", "FILE", "parameters of the models (umbra mmu costs)" },                   \
        { "pcid", NULL, "the guest uses PCIDs" },                                        \
        { "levels", "4|5", "of the guest's and the nested tables; default 4" },          \
        { "host-pages", "4K|2M|1G", "largest pages that back the guest; default 2M" },   \
        { "ram", "SIZE", "the guest's memory, 1G to 512G; default 64G" },                \
        { "shadow-pages", "N", "shadow pages at most; default 262144" },                 \
        { "json", NULL, "print JSON" }, { "csv", NULL, "print CSV" },                    \
    {                                                                                    \
        "quiet", NULL, "no progress on stderr"                                           \
    }

static int options_finish(struct run_options *options)
{
    struct umbra_error error;

    if (options->costs != NULL &&
        cost_load(&options->config.cost, options->costs, &error) != 0) {
        return exit_status_fail(options->command, &error);
    }
    return -1;
}

/* ---- Workloads ----------------------------------------------------------------------------- */

static int workload_open(const struct run_options *options, const char *name,
                         struct sim_source **source)
{
    struct generate_config config;
    enum generate_kind kind;
    int err;

    if (generate_parse(name, &kind) != 0) {
        return cli_usage(
            options->command,
            "there is no workload '%s': random, fork, churn, pingpong, updates", name);
    }
    generate_defaults(kind, &config);
    config.bytes = options->workload.bytes != 0 ? options->workload.bytes : config.bytes;
    config.accesses =
        options->workload.accesses != 0 ? options->workload.accesses : config.accesses;
    config.seed = options->workload.seed != 0 ? options->workload.seed : config.seed;
    config.updates = options->updates_set ? options->workload.updates : config.updates;
    config.large = options->workload.large;
    err = generate_open(kind, &config, source);
    return err == 0
               ? -1
               : cli_usage(options->command,
                           "the workload cannot be that large or small: 64K to 256G");
}

/* ---- Running -------------------------------------------------------------------------------- */

struct bench {
    struct sim_machine *machine[SIM_KINDS];
    unsigned count;
    uint64_t events, begun, busy[SIM_KINDS], marked[SIM_KINDS];
};

static void progress(const struct bench *bench, const struct sim_source *source)
{
    double seconds = (double)(clock_ns() - bench->begun) / 1e9;

    fprintf(stderr, "\r%.1f million events, %.1f s", (double)bench->events / 1e6,
            seconds);
    if (source->expected > 0 && bench->events < source->expected) {
        fprintf(stderr, ", %.0f %%",
                100.0 * (double)bench->events / (double)source->expected);
    }
    fputs("   ", stderr);
}

/* Of this thread: what others do on the same core is not counted. */
static uint64_t cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Every machine gets each batch in turn, so that the source is read once. */
static int bench_run(struct bench *bench, struct sim_source *source, bool quiet,
                     struct umbra_error *error)
{
    static const unsigned every = PROGRESS_EVENTS / BATCH;
    struct sim_event *events = calloc(BATCH, sizeof(*events));
    bool shown = false;
    int count = 0, err = events != NULL ? 0 : -1;

    quiet |= !isatty(STDERR_FILENO);
    bench->begun = clock_ns();
    for (unsigned batch = 1; err == 0; batch++) {
        count = source->next(source, events, BATCH, error);
        if (count <= 0) {
            err = count;
            break;
        }
        for (unsigned i = 0; i < bench->count && err == 0; i++) {
            uint64_t start = cpu_ns();

            err = sim_run(bench->machine[i], events, (unsigned)count, error);
            bench->busy[i] += cpu_ns() - start;
            if (events[count - 1].kind == SIM_MARK) {
                bench->busy[i] = 0;
            }
        }
        bench->events += (unsigned)count;
        if (!quiet && batch % every == 0) {
            progress(bench, source);
            shown = true;
        }
    }
    if (shown) {
        fputs("\r                                                \r", stderr);
    }
    free(events);
    return err;
}

static void bench_destroy(struct bench *bench)
{
    for (unsigned i = 0; i < bench->count; i++) {
        sim_destroy(bench->machine[i]);
    }
}

static int bench_make(struct bench *bench, const struct run_options *options,
                      struct umbra_error *error)
{
    memset(bench, 0, sizeof(*bench));
    for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
        if (options->some && !options->only[kind]) {
            continue;
        }
        if (sim_create(&options->config, (enum sim_kind)kind,
                       &bench->machine[bench->count], error) != 0) {
            bench_destroy(bench);
            return -1;
        }
        bench->count++;
    }
    return 0;
}

static void print_speed(const struct bench *bench, const struct sim_result *results)
{
    for (unsigned i = 0; i < bench->count; i++) {
        fprintf(stderr, "%-14s %8.1f million accesses a second\n",
                sim_kind_name(results[i].kind),
                (double)results[i].count.accesses * 1e3 / (double)(bench->busy[i] | 1));
    }
}

static int run_source(const struct run_options *options, struct sim_source *source)
{
    struct sim_result results[SIM_KINDS];
    struct umbra_error error;
    struct bench bench;

    if (bench_make(&bench, options, &error) != 0) {
        return exit_status_fail(options->command, &error);
    }
    if (bench_run(&bench, source, options->quiet, &error) != 0) {
        bench_destroy(&bench);
        return exit_status_fail(options->command, &error);
    }
    for (unsigned i = 0; i < bench.count; i++) {
        sim_result(bench.machine[i], &results[i]);
    }
    if (options->format == FORMAT_JSON) {
        report_json(stdout, results, bench.count);
    } else if (options->format == FORMAT_CSV) {
        report_csv(stdout, results, bench.count);
    } else {
        report_table(stdout, results, bench.count);
    }
    if (options->speed) {
        print_speed(&bench, results);
    }
    bench_destroy(&bench);
    return EXIT_STATUS_OK;
}

static int run_log(const struct run_options *options)
{
    const struct mmu_replay replay = {
        .log = options->log,
        .config = &options->config,
        .only = options->some ? options->only : NULL,
        .json = options->format == FORMAT_JSON,
        .report = options->format == FORMAT_CSV ? report_csv : report_table,
        .quiet = options->quiet || options->format != FORMAT_TABLE,
    };

    return mmu_replay(&replay);
}

int mmu_command_run(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "trace", "FILE", "lackey's output, or umbra mmu generate's; - is stdin" },
        { "strace", "FILE",
          "strace -f of the same run: its mmap, munmap, mprotect, fork" },
        { "log", "FILE", "a guest's page tables over time (umbra mmu record)" },
        { "generate", "KIND", "a workload of umbra mmu generate, without a file" },
        { "policy", "P", "only this (repeat): native, nested, wp, unsync, vtlb, agile" },
        { "speed", NULL, "say how many accesses a second were simulated" },
        WORKLOAD_OPTIONS,
        MACHINE_OPTIONS,
        { NULL, NULL, NULL },
    };
    struct run_options options = { .command = "mmu run", .config.cost = cost_default };
    const struct cli_parser parser = {
        .command = "mmu run",
        .synopsis = "--trace FILE | --log FILE | --generate KIND [options]",
        .summary = "Run a workload natively, with nested paging, and with shadow paging "
                   "under each\npolicy, and print what each needed.",
        .options = own,
        .set = set_option,
        .context = &options,
        .notes = "\nA trace: valgrind --tool=lackey --trace-mem=yes --trace-syscalls=yes "
                 "--log-file=FILE PROGRAM\n",
    };
    struct sim_source *source = NULL;
    struct umbra_error error;
    struct cli_line line;
    int status = cli_parse(&parser, argc, argv, NULL, &line);

    if (status >= 0) {
        return status;
    }
    if ((options.trace != NULL) + (options.generate != NULL) + (options.log != NULL) !=
        1) {
        return cli_usage("mmu run",
                         "give one of --trace FILE, --log FILE, --generate KIND");
    }
    status = options_finish(&options);
    if (status < 0 && options.log != NULL) {
        return run_log(&options);
    }
    if (status < 0 && options.generate != NULL) {
        status = workload_open(&options, options.generate, &source);
    } else if (status < 0 &&
               trace_open(options.trace, options.strace, &source, &error) != 0) {
        status = exit_status_fail("mmu run", &error);
    }
    if (status < 0) {
        options.config.auto_map = source->auto_map;
        status = run_source(&options, source);
        if (options.trace != NULL) {
            const struct trace_lines *lines = trace_lines(source);

            fprintf(stderr, "%llu lines used (%llu system calls), %llu skipped\n",
                    (unsigned long long)lines->used,
                    (unsigned long long)lines->system_calls,
                    (unsigned long long)lines->skipped);
        }
    }
    sim_source_close(source);
    return status;
}

int mmu_command_generate(int argc, char **argv)
{
    static const struct cli_option own[] = {
        WORKLOAD_OPTIONS,
        { NULL, NULL, NULL },
    };
    struct run_options options = { .command = "mmu generate" };
    const struct cli_parser parser = {
        .command = "mmu generate",
        .synopsis = "KIND [options]",
        .summary =
            "Write a synthetic workload on stdout, for umbra mmu run --trace. Kinds:"
            "\n  random    random accesses to a region"
            "\n  fork      fork storm: children and parent write shared pages"
            "\n  churn     mmap, touch and munmap of 16 pages, again and again"
            "\n  pingpong  two processes take turns of 256 accesses"
            "\n  updates   random accesses with mprotect of single pages",
        .options = own,
        .max_arguments = 1,
        .set = set_option,
        .context = &options,
    };
    struct sim_event events[256];
    struct sim_source *source = NULL;
    struct cli_line line;
    int status = cli_parse(&parser, argc, argv, NULL, &line), count;

    if (status >= 0) {
        return status;
    }
    if (line.count == 0) {
        return cli_usage("mmu generate",
                         "name a kind: random, fork, churn, pingpong, updates");
    }
    status = workload_open(&options, line.arguments[0], &source);
    if (status >= 0) {
        return status;
    }
    while ((count = source->next(source, events, 256, NULL)) > 0 && !ferror(stdout)) {
        for (int i = 0; i < count; i++) {
            trace_write_event(stdout, &events[i]);
        }
    }
    sim_source_close(source);
    return fflush(stdout) == 0 ? EXIT_STATUS_OK : EXIT_STATUS_INTERNAL;
}

/* ---- The crossover ------------------------------------------------------------------------- */

static int point_measure(struct run_options *options, double updates,
                         struct crossover_point *point, struct umbra_error *error)
{
    struct sim_source *source;
    struct sim_result result;
    struct bench bench;
    int err;

    options->workload.updates = updates;
    options->updates_set = true;
    if (workload_open(options, "updates", &source) >= 0) {
        return 1;
    }
    err = bench_make(&bench, options, error);
    if (err == 0) {
        err = bench_run(&bench, source, true, error);
        for (unsigned i = 0; err == 0 && i < SIM_KINDS; i++) {
            sim_result(bench.machine[i], &result);
            point->cycles[i] = (double)result.cycles / (double)options->workload.accesses;
            if (i == SIM_NATIVE) {
                point->updates =
                    (double)result.count.table_stores / (double)(result.tlb.misses | 1);
            }
        }
        bench_destroy(&bench);
    }
    sim_source_close(source);
    return err;
}

static int write_svg(const char *path, const struct crossover_point *points,
                     unsigned count)
{
    FILE *out = fopen(path, "we");

    if (out == NULL) {
        perror(path);
        return EXIT_STATUS_MISSING;
    }
    crossover_svg(out, points, count);
    return fclose(out) == 0 ? EXIT_STATUS_OK : EXIT_STATUS_INTERNAL;
}

int mmu_command_crossover(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "svg", "FILE", "write the curve as a picture" },
        { "size", "SIZE", "region that is accessed; default 256M" },
        { "accesses", "N", "accesses a point; default 400000" },
        { "seed", "N", "of the random numbers; default 1" },
        MACHINE_OPTIONS,
        { NULL, NULL, NULL },
    };
    static const double ratios[] = { 0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02,
                                     0.03,   0.05,  0.1,   0.2,   0.5,   1 };
    /* With large host pages a nested walk is as short as a native one: no curve to see. */
    struct run_options options = { .command = "mmu crossover",
                                   .config = { .cost = cost_default, .host_shift = 12 } };
    const struct cli_parser parser = {
        .command = "mmu crossover",
        .synopsis = "[options]",
        .summary = "Measure random accesses with more and more page-table updates among "
                   "them, and\nsay from where on shadow paging costs more than nested. "
                   "Host pages are 4K "
                   "here unless\n--host-pages says otherwise.",
        .options = own,
        .set = set_option,
        .context = &options,
    };
    struct crossover_point points[ARRAY_SIZE(ratios)];
    struct umbra_error error;
    struct cli_line line;
    int status = cli_parse(&parser, argc, argv, NULL, &line), err;

    status = status < 0 ? options_finish(&options) : status;
    if (status >= 0) {
        return status;
    }
    if (options.workload.accesses == 0) {
        options.workload.accesses = 400000;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(ratios); i++) {
        if (!options.quiet) {
            fprintf(stderr, "\rpoint %u of %zu", i + 1, ARRAY_SIZE(ratios));
        }
        err = point_measure(&options, ratios[i], &points[i], &error);
        if (err != 0) {
            return err > 0 ? EXIT_STATUS_USAGE
                           : exit_status_fail("mmu crossover", &error);
        }
    }
    fputs(options.quiet ? "" : "\r                    \r", stderr);
    if (options.format == FORMAT_JSON) {
        crossover_json(stdout, points, ARRAY_SIZE(ratios));
    } else if (options.format == FORMAT_CSV) {
        crossover_csv(stdout, points, ARRAY_SIZE(ratios));
    } else {
        crossover_table(stdout, points, ARRAY_SIZE(ratios));
    }
    return options.svg != NULL ? write_svg(options.svg, points, ARRAY_SIZE(ratios))
                               : EXIT_STATUS_OK;
}
