/* SPDX-License-Identifier: MIT */
/* umbra mmu run --log: a recorded guest's page tables under each kind of paging. */
#include "vmm/cli/mmu/replay.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shadowpt-sim/sim/report.h"
#include "shadowpt-sim/trace/replay.h"
#include "vmm/cli/exit_status.h"

#define COMMAND "mmu run"

/* Those that a log can be replayed with. */
enum { KINDS = SIM_KINDS };

struct bench {
    struct replay *replay[KINDS];
    unsigned count;
    struct ptlog_reader *reader;
    uint64_t last_ns;
};

static int bench_make(struct bench *bench, const struct mmu_replay *options,
                      struct umbra_error *error)
{
    const struct replay_config config = { .cost = options->config->cost,
                                          .host_shift = options->config->host_shift,
                                          .shadow_pages = options->config->shadow_pages };
    int err = 0;

    for (unsigned kind = 0; kind < KINDS && err == 0; kind++) {
        if (options->only == NULL || options->only[kind]) {
            err = replay_create(ptlog_reader_meta(bench->reader), &config,
                                (enum sim_kind)kind, &bench->replay[bench->count], error);
            bench->count += err == 0;
        }
    }
    return err;
}

static int bench_run(struct bench *bench, struct umbra_error *error)
{
    const struct ptlog_stop *stop;
    int ret;

    while ((ret = ptlog_reader_next(bench->reader, &stop, error)) == 1) {
        bench->last_ns = stop->time_ns;
        for (unsigned i = 0; i < bench->count; i++) {
            if (replay_stop(bench->replay[i], stop, error) != 0) {
                return -1;
            }
        }
    }
    for (unsigned i = 0; i < bench->count && ret == 0; i++) {
        ret = replay_compare(bench->replay[i], ptlog_reader_image(bench->reader), error);
    }
    return ret;
}

/* What a shadow MMU counts, by KVM's names and by ours. */
static const struct {
    const char *kvm;
    enum shadow_event ours[3];
    unsigned count;
} counted[] = {
    { "pf_guest", { SHADOW_EXIT_TRUE_FAULT }, 1 },
    { "pf_fixed",
      { SHADOW_EXIT_HIDDEN_FILL, SHADOW_EXIT_DIRTY, SHADOW_EXIT_WP_CLEAR },
      3 },
    { "mmu_pte_write", { SHADOW_EXIT_TABLE_WRITE }, 1 },
    { "mmu_cache_miss", { SHADOW_PAGE_NEW }, 1 },
    { "mmu_shadow_zapped", { SHADOW_PAGE_ZAP }, 1 },
    { "mmu_flooded", { SHADOW_PAGE_FLOOD }, 1 },
    { "mmu_recycled", { SHADOW_PAGE_EVICT }, 1 },
    { "remote_tlb_flush", { SHADOW_REMOTE_FLUSH }, 1 },
    { "invlpg", { SHADOW_EXIT_INVLPG }, 1 },
};

/* What the library counted for KVM's statistic @name. False: nothing like it. */
static bool ours(const char *name, const struct sim_result *result, uint64_t *value)
{
    for (unsigned row = 0; row < ARRAY_SIZE(counted); row++) {
        if (result->kind > SIM_NESTED && strcmp(counted[row].kvm, name) == 0) {
            *value = 0;
            for (unsigned n = 0; n < counted[row].count; n++) {
                *value += result->shadow.count[counted[row].ours[n]];
            }
            return true;
        }
    }
    return false;
}

static void kvm_row(const char *name, uint64_t value, const struct sim_result *results,
                    unsigned count)
{
    uint64_t own;

    printf("%-32s %14" PRIu64, name, value);
    for (unsigned i = 0; i < count; i++) {
        if (ours(name, &results[i], &own)) {
            printf(" %14" PRIu64, own);
        }
    }
    putchar('\n');
}

/* KVM's counts since the guest's creation, beside those of the replay. */
static void kvm_report(const struct bench *bench, const struct sim_result *results)
{
    const struct ptlog_stat *stats;
    unsigned count;

    stats = ptlog_reader_stats(bench->reader, &count);
    if (count == 0) {
        return;
    }
    printf("\n%-32s %14s", "KVM's statistics, and ours", "KVM");
    for (unsigned i = 0; i < bench->count; i++) {
        if (results[i].kind > SIM_NESTED) {
            printf(" %14s", sim_kind_name(results[i].kind));
        }
    }
    putchar('\n');
    for (unsigned i = 0; i < count; i++) {
        kvm_row(stats[i].name, stats[i].value, results, bench->count);
    }
}

/* The same for programs, and what the log holds. */
static void json_report(const struct bench *bench, const struct sim_result *results)
{
    unsigned count = 0;
    const struct ptlog_stat *stats = ptlog_reader_stats(bench->reader, &count);
    uint64_t own;

    report_json_begin(stdout, results, bench->count);
    if (bench->count > 0) {
        const struct replay_counters *log = replay_counters(bench->replay[0]);

        printf(",\n \"log\": {\"seconds\": %.3f, \"stops\": %" PRIu64
               ", \"changes\": %" PRIu64 ", \"stores\": %" PRIu64
               ", \"stores_unseen\": %" PRIu64 ", \"cr3_loads\": %" PRIu64
               ", \"mode_changes\": %" PRIu64 ", \"invlpgs\": %" PRIu64
               ", \"full_flushes\": %" PRIu64 ", \"accesses\": %" PRIu64
               ", \"refused\": %" PRIu64 "}",
               (double)bench->last_ns / 1e9, log->stops, log->changes, log->stores,
               log->unseen, log->cr3_loads, log->mode_changes, log->invlpgs,
               log->full_flushes, log->accesses, log->refused);
    }
    fputs(",\n \"kvm_statistics\": {", stdout);
    for (unsigned n = 0; n < count; n++) {
        printf("%s\n  \"%s\": {\"kvm\": %" PRIu64, n > 0 ? "," : "", stats[n].name,
               stats[n].value);
        for (unsigned i = 0; i < bench->count; i++) {
            if (ours(stats[n].name, &results[i], &own)) {
                printf(", \"%s\": %" PRIu64, sim_kind_name(results[i].kind), own);
            }
        }
        putchar('}');
    }
    puts("}}");
}

static void bench_report(const struct bench *bench, const struct mmu_replay *options)
{
    struct sim_result results[KINDS];

    for (unsigned i = 0; i < bench->count; i++) {
        replay_result(bench->replay[i], &results[i]);
    }
    if (!options->quiet && bench->count > 0) {
        const struct replay_counters *log = replay_counters(bench->replay[0]);

        printf("%" PRIu64 " stops over %.1f s: %" PRIu64 " entries changed; %" PRIu64
               " stores (%" PRIu64
               " with paging off or through no known mapping), %" PRIu64
               " CR3 loads, %" PRIu64 " mode changes, %" PRIu64 " INVLPGs, %" PRIu64
               " full flushes, %" PRIu64 " accesses%s\n\n",
               log->stops, (double)bench->last_ns / 1e9, log->changes, log->stores,
               log->unseen, log->cr3_loads, log->mode_changes, log->invlpgs,
               log->full_flushes, log->accesses,
               log->refused > 0 ? " (some registers were impossible)" : "");
    }
    if (options->json) {
        json_report(bench, results);
        return;
    }
    options->report(stdout, results, bench->count);
    if (!options->quiet) {
        kvm_report(bench, results);
    }
}

static int replay_bytes(const struct mmu_replay *options, const void *bytes, size_t size)
{
    struct bench bench = { .count = 0 };
    struct umbra_error error;
    int err = ptlog_reader_create(bytes, size, &bench.reader, &error);

    if (err == 0) {
        err = bench_make(&bench, options, &error);
    }
    if (err == 0) {
        err = bench_run(&bench, &error);
    }
    if (err == 0) {
        bench_report(&bench, options);
    }
    for (unsigned i = 0; i < bench.count; i++) {
        replay_destroy(bench.replay[i]);
    }
    ptlog_reader_destroy(bench.reader);
    return err == 0 ? EXIT_STATUS_OK : exit_status_fail(COMMAND, &error);
}

int mmu_log_map(const char *path, void **bytes, size_t *size, struct umbra_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), err = fd < 0 ? errno : 0;
    struct stat st;

    *error = (struct umbra_error){ .code = UMBRA_ERROR_MISSING, .errnum = err };
    if (err == 0) {
        error->code = UMBRA_ERROR_CONFIG;
        err = fstat(fd, &st) != 0                       ? errno
              : !S_ISREG(st.st_mode) || st.st_size == 0 ? ENODATA
                                                        : 0;
    }
    if (err == 0) {
        *size = (size_t)st.st_size;
        *bytes = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
        err = *bytes == MAP_FAILED ? errno : 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    if (err != 0) {
        snprintf(error->message, sizeof(error->message), "cannot read the log %s: %s",
                 path, strerror(err));
    }
    return -err;
}

int mmu_replay(const struct mmu_replay *options)
{
    struct umbra_error error;
    size_t size;
    void *bytes;
    int status;

    if (mmu_log_map(options->log, &bytes, &size, &error) != 0) {
        return exit_status_fail(COMMAND, &error);
    }
    status = replay_bytes(options, bytes, size);
    munmap(bytes, size);
    return status;
}
