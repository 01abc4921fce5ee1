/* SPDX-License-Identifier: MIT */
/* umbra mmu record: registers and page tables of a guest at stops, as a log. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "shadowpt-sim/trace/ptlog.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/mmu/guest.h"
#include "vmm/cli/mmu/mmu.h"
#include "vmm/cli/options.h"

#define COMMAND "mmu record"

enum { DEFAULT_EVERY_MS = 50, MAX_BREAKPOINTS = 16, FOREVER_MS = 1000 * 86400 * 7 };

struct record {
    struct umbra_config *config;
    const char *name, *output, *until, *from;
    bool configured, quiet, ended;
    uint64_t every, stops;
    uint64_t breakpoint[MAX_BREAKPOINTS];
    unsigned breakpoints;
    struct mmu_guest guest;
    struct ptlog_writer *writer;
    uint64_t taken, ran_ns;
};

/* ---- Options ----------------------------------------------------------------------------- */

static bool number_in(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
    char *end;

    *value = strtoull(text, &end, 0);
    return *text >= '0' && *text <= '9' && *end == '\0' && *value >= low &&
           *value <= high;
}

static bool set_option(void *context, const char *name, const char *value)
{
    struct record *record = context;

    if (strcmp(name, "output") == 0) {
        record->output = value;
    } else if (strcmp(name, "until") == 0) {
        record->until = value;
    } else if (strcmp(name, "from") == 0) {
        record->from = value;
    } else if (strcmp(name, "every") == 0) {
        return number_in(value, 1, 1000000, &record->every);
    } else if (strcmp(name, "stops") == 0) {
        return number_in(value, 1, 10000000, &record->stops);
    } else if (strcmp(name, "quiet") == 0) {
        record->quiet = true;
    } else {
        return strcmp(name, "at") == 0 && record->breakpoints < MAX_BREAKPOINTS &&
               number_in(value, 0, UINT64_MAX,
                         &record->breakpoint[record->breakpoints++]);
    }
    return true;
}

/* A configuration file, or the name of a VM. */
static int set_argument(void *context, const char *argument)
{
    struct record *record = context;
    size_t length = strlen(argument);
    struct umbra_error error;

    if (strchr(argument, '/') == NULL &&
        (length < 5 || strcmp(argument + length - 5, ".json") != 0)) {
        record->name = argument;
        return -1;
    }
    record->configured = true;
    return umbra_config_load_file(record->config, argument, &error) == 0
               ? -1
               : exit_status_fail(COMMAND, &error);
}

/* ---- Stops --------------------------------------------------------------------------------- */

static int take_stop(struct record *record)
{
    struct ptlog_cpu cpus[PTLOG_CPUS];
    struct page_image image;
    int err = 0;

    for (unsigned i = 0; i < record->guest.cpus && err == 0; i++) {
        struct umbra_paging paging = { .size = sizeof(paging) };

        err = record->guest.ops->paging(&record->guest, i, &paging);
        cpus[i] = (struct ptlog_cpu){ paging.cr0, paging.cr3, paging.cr4, paging.efer,
                                      paging.pkru };
    }
    if (err != 0) {
        return err;
    }
    mmu_guest_image(&record->guest, &image);
    err = ptlog_write_stop(record->writer, record->ran_ns, cpus, &image,
                           &record->guest.error);
    image_destroy(&image);
    record->taken++;
    if (!record->quiet && isatty(STDERR_FILENO) && record->taken % 16 == 0) {
        fprintf(stderr, "\r%" PRIu64 " stops ", record->taken);
    }
    return err;
}

/* Software breakpoints: debug registers do not work under every KVM. */
static int arm(struct record *record)
{
    struct umbra_vm *vm = mmu_guest_vm(&record->guest);
    int err = 0;

    for (unsigned i = 0; i < record->breakpoints && err == 0; i++) {
        err = umbra_breakpoint_add(vm, UMBRA_BREAKPOINT_SOFTWARE, record->breakpoint[i],
                                   1, &record->guest.error);
    }
    record->guest.breakpoints = record->breakpoints > 0;
    return err;
}

/* Up to where the recording is to begin. */
static int begin(struct record *record)
{
    int err = 0;

    if (record->from != NULL) {
        err = mmu_guest_run(&record->guest, record->from, FOREVER_MS);
    }
    return err == 0 ? arm(record) : err;
}

/* Let it run until the next stop is due. 0; 1: this stop is the last; or -errno. */
static int run_on(struct record *record)
{
    struct umbra_vm *vm = mmu_guest_vm(&record->guest);
    uint64_t before = clock_ns();
    int ret;

    if (vm == NULL) {
        ret = mmu_guest_hold(&record->guest, false);
        usleep((useconds_t)(record->every * 1000));
        ret = ret == 0 ? mmu_guest_hold(&record->guest, true) : ret;
    } else {
        /* Said: the last stop. Not said within the time: a stop. Ended: the last. */
        ret = mmu_guest_run(&record->guest, record->until, (int64_t)record->every);
        if (record->until != NULL) {
            ret = ret == 0 ? 1 : ret == 1 ? 0 : ret;
        }
        record->ended = ret == -EPIPE;
        ret = record->ended ? 1 : ret;
    }
    record->ran_ns += clock_ns() - before;
    return ret;
}

/* ---- KVM's own account -------------------------------------------------------------------- */

/* What a shadow MMU does; under nested paging most stay 0. */
static bool stat_tells(const char *name)
{
    static const char *const names[] = { "pf_",           "mmu_",   "remote_tlb_flush",
                                         "tlb_flush",     "invlpg", "pages_",
                                         "insn_emulation" };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (strncmp(name, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return false;
}

struct stats {
    struct ptlog_stat stat[PTLOG_STATS];
    unsigned count;
};

static void note_stat(void *context, const struct umbra_kvm_stat *stat)
{
    struct stats *stats = context;
    unsigned at = 0;

    if (!stat_tells(stat->name) || stat->count != 1) {
        return;
    }
    while (at < stats->count && strcmp(stats->stat[at].name, stat->name) != 0) {
        at++;
    }
    if (at < PTLOG_STATS) {
        snprintf(stats->stat[at].name, sizeof(stats->stat[at].name), "%s", stat->name);
        stats->stat[at].value += stat->values[0];
        stats->count += at == stats->count;
    }
}

/* Of all vCPUs and the VM, since its creation. */
static int record_stats(struct record *record)
{
    struct umbra_vm *vm = mmu_guest_vm(&record->guest);
    struct stats stats = { .count = 0 };

    for (int i = -1; vm != NULL && i < (int)record->guest.cpus; i++) {
        if (umbra_vm_kvm_stats(vm, i, note_stat, &stats, NULL) != 0) {
            return 0; /* an older KVM has none */
        }
    }
    return stats.count == 0 ? 0
                            : ptlog_write_stats(record->writer, stats.stat, stats.count,
                                                &record->guest.error);
}

static int record_run(struct record *record)
{
    int err = begin(record), more = 0;

    while (err == 0) {
        err = take_stop(record);
        if (err != 0 || more == 1 ||
            (record->stops != 0 && record->taken >= record->stops)) {
            break;
        }
        more = run_on(record);
        err = more < 0 ? more : 0;
    }
    err = err == 0 ? record_stats(record) : err;
    return err == 0 ? ptlog_writer_finish(record->writer, &record->guest.error) : err;
}

static int record_to(struct record *record, FILE *out)
{
    struct ptlog_meta meta = { .cpus = record->guest.cpus };
    struct umbra_paging paging = { .size = sizeof(paging) };
    int err = record->guest.ops->paging(&record->guest, 0, &paging);

    if (err == 0 && meta.cpus > PTLOG_CPUS) {
        err = -EINVAL;
        snprintf(record->guest.error.message, sizeof(record->guest.error.message),
                 "a log has room for %d CPUs, the guest has %u", PTLOG_CPUS, meta.cpus);
    }
    meta.cpu = (struct mmu_cpu){ .maxphyaddr = paging.physical_bits,
                                 .gbpages = paging.gbpages,
                                 .pse36 = true,
                                 .amd = paging.amd };
    for (; meta.ranges < record->guest.ranges && meta.ranges < PTLOG_RANGES;
         meta.ranges++) {
        const struct umbra_memory_range *range = &record->guest.range[meta.ranges];

        meta.range[meta.ranges] =
            (struct ptlog_range){ range->gpa, range->length, range->readonly };
    }
    if (err == 0) {
        err = ptlog_writer_create(out, &meta, &record->writer, &record->guest.error);
    }
    if (err == 0) {
        err = record_run(record);
    }
    ptlog_writer_destroy(record->writer);
    if (err != 0) {
        return exit_status_fail(COMMAND, &record->guest.error);
    }
    if (!record->quiet && record->ended) {
        struct umbra_outcome outcome = { .size = sizeof(outcome) };

        if (umbra_vm_wait(mmu_guest_vm(&record->guest), 0, &outcome, NULL) == 0) {
            fprintf(stderr, "\rthe run ended: %s\n", outcome.reason);
        }
    }
    if (!record->quiet) {
        fprintf(stderr, "\r%" PRIu64 " stops over %.1f s, %ld bytes in %s\n",
                record->taken, (double)record->ran_ns / 1e9, ftell(out), record->output);
    }
    return EXIT_STATUS_OK;
}

/* ---- The command ----------------------------------------------------------------------------- */

static int open_guest(struct record *record)
{
    char *kernel = umbra_config_get(record->config, "kernel");
    bool own = record->configured || kernel != NULL;

    free(kernel);
    if (own == (record->name != NULL)) {
        return cli_usage(
            COMMAND, "which guest? The name of a VM, or a configuration and --kernel");
    }
    if (record->output == NULL) {
        return cli_usage(COMMAND, "--output FILE is missing");
    }
    if (record->name == NULL) {
        return mmu_guest_open_config(&record->guest, COMMAND, record->config);
    }
    if (record->until != NULL || record->from != NULL || record->breakpoints > 0 ||
        record->stops == 0) {
        return cli_usage(COMMAND, "of a VM that runs elsewhere --stops N are recorded; "
                                  "--from, --until and --at need a guest of its own");
    }
    return mmu_guest_open_name(&record->guest, COMMAND, record->name);
}

static int record_parse(struct record *record, int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "output", "FILE", "the log; an existing file is replaced" },
        { "every", "MS", "time between stops; default 50" },
        { "stops", "N", "end after so many" },
        { "until", "TEXT", "end when the console says this" },
        { "from", "TEXT", "begin when the console says this; default at once" },
        { "at", "ADDRESS",
          "also stop at this kernel instruction, in place when the recording begins "
          "(repeat)" },
        { "quiet", NULL, "say nothing" },
        { NULL, NULL, NULL },
    };
    const struct cli_parser parser = {
        .command = COMMAND,
        .synopsis = "[CONFIG.json] --kernel FILE ... | NAME --stops N; --output FILE",
        .summary =
            "Stop a guest again and again, and record its registers and what changed in "
            "the page\ntables that its CR3s lead to, for umbra mmu run --log. The guest "
            "is made from the\nconfiguration, like umbra run's (its console goes to "
            "stderr), or runs elsewhere.",
        .options = own,
        .config_options = true,
        .set = set_option,
        .argument = set_argument,
        .context = record,
        .notes =
            "\nCR3 loads between two stops are not seen: KVM does not tell of them.\n",
    };
    struct cli_line line;

    return cli_parse(&parser, argc, argv, record->config, &line);
}

int mmu_command_record(int argc, char **argv)
{
    struct record *record = calloc(1, sizeof(*record));
    int status = EXIT_STATUS_INTERNAL;
    FILE *out = NULL;

    if (record == NULL || umbra_config_new(&record->config) != 0) {
        free(record);
        return status;
    }
    record->every = DEFAULT_EVERY_MS;
    status = record_parse(record, argc, argv);
    if (status < 0) {
        status = open_guest(record);
    }
    if (status < 0) {
        out = fopen(record->output, "wbe");
        if (out == NULL) {
            fprintf(stderr, "umbra " COMMAND ": cannot write %s: %s\n", record->output,
                    strerror(errno));
            status = EXIT_STATUS_INTERNAL;
        } else {
            status = record_to(record, out);
            if (fclose(out) != 0 && status == EXIT_STATUS_OK) {
                fprintf(stderr, "umbra " COMMAND ": cannot write %s: %s\n",
                        record->output, strerror(errno));
                status = EXIT_STATUS_INTERNAL;
            }
        }
        mmu_guest_close(&record->guest);
    }
    umbra_config_free(record->config);
    free(record);
    return status;
}
