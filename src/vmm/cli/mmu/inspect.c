/* SPDX-License-Identifier: MIT */
/* umbra mmu inspect: the address spaces of a real guest. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shadowpt-sim/trace/ptlog.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/mmu/mmu.h"
#include "vmm/cli/mmu/replay.h"
#include "vmm/cli/mmu/space.h"
#include "vmm/cli/options.h"

enum {
    MAX_SPACES = 1024,
    MAX_FOUND = 4096,
    DEFAULT_LIMIT = 1 << 26,
    DEFAULT_SAMPLE_MS = 20,
    ROOT_WORDS = 512,
    FOREVER_MS = 1000 * 86400 * 7,
};

#define COMMAND "mmu inspect"

struct candidate {
    uint64_t cr3;
    enum mmu_space_origin origin;
    unsigned vcpu;
};

struct inspect {
    struct umbra_config *config;
    const char *name, *core, *until, *log;
    bool configured, json, scan, ranges, cost;
    uint64_t after, sample;
    struct mmu_space_options space;
    struct candidate candidate[MAX_SPACES];
    size_t candidates;
    struct mmu_guest guest;
    struct page_image image;
};

/* ---- Options ----------------------------------------------------------------------------- */

static bool number_in(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
    char *end;

    *value = strtoull(text, &end, 0);
    return *text >= '0' && *text <= '9' && *end == '\0' && *value >= low &&
           *value <= high;
}

/* The same table may be loaded with different PCIDs. */
static void candidate_add(struct inspect *inspect, uint64_t cr3,
                          enum mmu_space_origin origin, unsigned vcpu)
{
    for (size_t i = 0; i < inspect->candidates; i++) {
        struct candidate *known = &inspect->candidate[i];

        if (((known->cr3 ^ cr3) & PTE_ADDRESS_MASK) == 0) {
            if (origin == MMU_SPACE_LOADED && known->origin != MMU_SPACE_LOADED) {
                *known = (struct candidate){ cr3, origin, vcpu };
            }
            return;
        }
    }
    if (inspect->candidates < MAX_SPACES) {
        inspect->candidate[inspect->candidates++] =
            (struct candidate){ cr3, origin, vcpu };
    }
}

static bool set_number(struct inspect *inspect, const char *name, const char *value)
{
    uint64_t number = 0;

    if (strcmp(name, "cr3") == 0) {
        bool good = number_in(value, 0, UINT64_MAX - 1, &number);

        candidate_add(inspect, number, MMU_SPACE_NAMED, 0);
        return good;
    }
    if (strcmp(name, "after") == 0) {
        return number_in(value, 1, 1000000000, &inspect->after);
    }
    if (strcmp(name, "sample") == 0) {
        return number_in(value, 1, 1000000, &inspect->sample);
    }
    if (strcmp(name, "check") == 0) {
        return number_in(value, 0, UINT32_MAX, &inspect->space.check);
    }
    return strcmp(name, "limit") == 0 &&
           number_in(value, 512, UINT64_MAX / 2, &inspect->space.limit);
}

static bool set_option(void *context, const char *name, const char *value)
{
    struct inspect *inspect = context;

    if (strcmp(name, "core") == 0) {
        inspect->core = value;
    } else if (strcmp(name, "log") == 0) {
        inspect->log = value;
    } else if (strcmp(name, "until") == 0) {
        inspect->until = value;
    } else if (strcmp(name, "json") == 0) {
        inspect->json = true;
    } else if (strcmp(name, "scan") == 0) {
        inspect->scan = true;
    } else if (strcmp(name, "quiet") == 0) {
        inspect->space.quiet = true;
    } else if (strcmp(name, "summary") == 0) {
        inspect->ranges = false;
    } else if (strcmp(name, "no-shadow") == 0) {
        inspect->cost = false;
    } else if (strcmp(name, "policy") == 0) {
        return shadow_policy_parse(value, &inspect->space.policy) == 0;
    } else if (strcmp(name, "host-pages") == 0) {
        inspect->space.host_shift = strcmp(value, "4K") == 0   ? 12
                                    : strcmp(value, "2M") == 0 ? 21
                                    : strcmp(value, "1G") == 0 ? 30
                                                               : 0;
        return inspect->space.host_shift != 0;
    } else {
        return set_number(inspect, name, value);
    }
    return true;
}

/* A configuration file, or the name of a VM. */
static int set_argument(void *context, const char *argument)
{
    struct inspect *inspect = context;
    size_t length = strlen(argument);
    struct umbra_error error;

    if (strchr(argument, '/') == NULL &&
        (length < 5 || strcmp(argument + length - 5, ".json") != 0)) {
        if (inspect->name != NULL) {
            return cli_usage(COMMAND, "one VM at a time: '%s' or '%s'?", inspect->name,
                             argument);
        }
        inspect->name = argument;
        return -1;
    }
    inspect->configured = true;
    return umbra_config_load_file(inspect->config, argument, &error) == 0
               ? -1
               : exit_status_fail(COMMAND, &error);
}

/* ---- Finding address spaces ----------------------------------------------------------------- */

static int note_loaded(struct inspect *inspect, enum mmu_space_origin origin)
{
    for (unsigned i = 0; i < inspect->guest.cpus; i++) {
        struct umbra_paging paging = { .size = sizeof(paging) };
        int err = inspect->guest.ops->paging(&inspect->guest, i, &paging);

        if (err != 0) {
            return err;
        }
        candidate_add(inspect, paging.cr3, origin, i);
    }
    return 0;
}

/* Let the guest go on for a moment, again and again, and see which CR3s it loads. */
static int sample(struct inspect *inspect)
{
    int err = 0;

    for (uint64_t i = 0; i < inspect->sample && err == 0; i++) {
        err = note_loaded(inspect, MMU_SPACE_SEEN);
        if (err == 0) {
            err = mmu_guest_hold(&inspect->guest, false);
        }
        if (err == 0) {
            usleep(DEFAULT_SAMPLE_MS * 1000);
            err = mmu_guest_hold(&inspect->guest, true);
        }
    }
    return err;
}

/* The CR3s at the stops of a log. */
static int note_logged(struct inspect *inspect)
{
    const struct ptlog_stop *stop;
    struct ptlog_reader *reader;
    size_t size;
    void *bytes;
    int err = mmu_log_map(inspect->log, &bytes, &size, &inspect->guest.error);

    if (err != 0) {
        return err;
    }
    err = ptlog_reader_create(bytes, size, &reader, &inspect->guest.error);
    while (err == 0 &&
           (err = ptlog_reader_next(reader, &stop, &inspect->guest.error)) == 1) {
        const struct ptlog_meta *meta = ptlog_reader_meta(reader);

        for (unsigned i = 0; i < meta->cpus; i++) {
            if (i < inspect->guest.cpus && (stop->cpu[i].cr0 & CR0_PG)) {
                candidate_add(inspect, stop->cpu[i].cr3, MMU_SPACE_SEEN, i);
            }
        }
        err = 0;
    }
    ptlog_reader_destroy(reader);
    munmap(bytes, size);
    return err;
}

/* Do the kernel's halves agree, flags that the processor sets apart, and do all entries of the
 * user's half lead to memory? */
static bool root_alike(const struct inspect *inspect, const uint64_t *root,
                       const uint64_t *page)
{
    for (unsigned i = 0; i < ROOT_WORDS; i++) {
        uint64_t entry = le64toh(page[i]), address = entry & PTE_ADDRESS_MASK;
        bool backed = false;

        if (i >= ROOT_WORDS / 2) {
            if (((entry ^ le64toh(root[i])) & ~(PTE_A | PTE_D)) != 0) {
                return false;
            }
            continue;
        }
        if (entry == 0) {
            continue;
        }
        for (unsigned n = 0; n < inspect->guest.ranges; n++) {
            backed |=
                address - inspect->guest.range[n].gpa < inspect->guest.range[n].length;
        }
        if (!(entry & PTE_P) || (entry & PTE_PS) || !backed) {
            return false;
        }
    }
    return true;
}

/* Kernels map themselves by the same entries in all root tables. */
static int scan(struct inspect *inspect)
{
    struct umbra_paging paging = { .size = sizeof(paging) };
    uint64_t root[ROOT_WORDS], page[ROOT_WORDS], *found;
    int err = inspect->guest.ops->paging(&inspect->guest, 0, &paging);
    unsigned slot = ROOT_WORDS - 1;
    size_t count = 0;

    if (err != 0 || !(paging.efer & EFER_LMA)) {
        return err;
    }
    err = inspect->guest.ops->read(&inspect->guest, paging.cr3 & PTE_ADDRESS_MASK, root,
                                   sizeof(root));
    while (slot >= ROOT_WORDS / 2 && err == 0 && !(le64toh(root[slot]) & PTE_P)) {
        slot--;
    }
    if (err != 0 || slot < ROOT_WORDS / 2) {
        fprintf(stderr, "umbra " COMMAND ": --scan: nothing is mapped in the upper half, "
                        "by which root tables could be known\n");
        return 0;
    }
    found = calloc(MAX_FOUND, sizeof(*found));
    if (found == NULL) {
        return -ENOMEM;
    }
    err = inspect->guest.ops->find(&inspect->guest, 8 * slot, &root[slot],
                                   sizeof(root[slot]), found, MAX_FOUND, &count);
    for (size_t i = 0; i < count && i < MAX_FOUND && err == 0; i++) {
        err = inspect->guest.ops->read(&inspect->guest, found[i], page, sizeof(page));
        if (err == 0 && root_alike(inspect, root, page)) {
            candidate_add(inspect, found[i], MMU_SPACE_FOUND, 0);
        }
    }
    free(found);
    return err;
}

static int find_spaces(struct inspect *inspect)
{
    int err = inspect->log != NULL ? note_logged(inspect) : 0;

    if (err == 0 && inspect->sample > 0) {
        err = sample(inspect);
    }
    if (err == 0) {
        err = note_loaded(inspect, MMU_SPACE_LOADED);
    }
    return err == 0 && inspect->scan ? scan(inspect) : err;
}

/* ---- The report --------------------------------------------------------------------------- */

static int read_spaces(struct inspect *inspect, struct mmu_space *spaces)
{
    bool checked = false;
    int err = 0;

    for (size_t i = 0; i < inspect->candidates && err == 0; i++) {
        spaces[i].origin = inspect->candidate[i].origin;
        spaces[i].vcpu = inspect->candidate[i].vcpu;
        err = mmu_space_read(&inspect->guest, &inspect->image, &inspect->space,
                             inspect->candidate[i].cr3, &spaces[i]);
    }
    /* After all reading: KVM's walks set accessed flags. They are taken back. */
    for (size_t i = 0; i < inspect->candidates && err == 0; i++) {
        if (inspect->space.check > 0 && inspect->guest.ops->translate != NULL) {
            err = mmu_space_check(&inspect->guest, &inspect->image, &inspect->space,
                                  &spaces[i]);
            checked = true;
        }
    }
    if (checked) {
        int restored = mmu_guest_restore(&inspect->guest, &inspect->image);

        err = err != 0 ? err : restored;
    }
    return err;
}

static int cost_spaces(struct inspect *inspect, struct mmu_space *spaces,
                       struct shadow_census *together)
{
    int err = 0;

    for (size_t i = 0; i < inspect->candidates && inspect->cost && err == 0; i++) {
        if (spaces[i].mode.format == MMU_FORMAT_NONE) {
            continue;
        }
        err = mmu_space_cost(&inspect->guest, &inspect->image, &inspect->space,
                             &spaces[i], 1, &spaces[i].census);
        spaces[i].costed = err == 0;
    }
    if (err == 0 && inspect->cost) {
        err = mmu_space_cost(&inspect->guest, &inspect->image, &inspect->space, spaces,
                             inspect->candidates, together);
    }
    return err;
}

static void report_json(const struct inspect *inspect, const struct mmu_space *spaces,
                        const struct shadow_census *together)
{
    json_t *list = json_array(), *json;

    for (size_t i = 0; i < inspect->candidates; i++) {
        json_array_append_new(list, mmu_space_json(&spaces[i], inspect->ranges));
    }
    json = json_pack("{s:i, s:s, s:o, s:o}", "cpus", (int)inspect->guest.cpus, "policy",
                     shadow_policy_name(inspect->space.policy), "spaces", list,
                     "together", inspect->cost ? mmu_census_json(together) : json_null());
    json_dumpf(json, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(json);
}

static void report_text(const struct inspect *inspect, const struct mmu_space *spaces,
                        const struct shadow_census *together)
{
    const struct mmu_mode *mode = &spaces[0].mode;
    uint64_t memory = 0;
    char text[32];

    for (unsigned i = 0; i < inspect->guest.ranges; i++) {
        memory += inspect->guest.range[i].length;
    }
    printf("%u vCPU%s, %s; CR0 0x%" PRIx64 ", CR4 0x%" PRIx64 ", EFER 0x%" PRIx64 ": ",
           inspect->guest.cpus, inspect->guest.cpus == 1 ? "" : "s",
           size_format(memory, text, sizeof(text)), mode->cr0, mode->cr4, mode->efer);
    if (mode->format == MMU_FORMAT_NONE) {
        puts("paging is off");
    } else {
        printf("%u levels\n", mode->levels);
    }
    for (size_t i = 0; i < inspect->candidates; i++) {
        mmu_space_print(stdout, &spaces[i], inspect->ranges);
    }
    if (inspect->cost) {
        printf("\nshadow of %s together (policy %s): ",
               inspect->candidates == 1 ? "it" : "all",
               shadow_policy_name(inspect->space.policy));
        mmu_census_print(stdout, together);
    }
}

static int inspect_run(struct inspect *inspect)
{
    struct shadow_census together = { 0 };
    struct mmu_space *spaces;
    uint64_t differ = 0;
    int err;

    mmu_guest_image(&inspect->guest, &inspect->image);
    err = find_spaces(inspect);
    spaces = calloc(inspect->candidates + 1, sizeof(*spaces));
    if (spaces == NULL) {
        return EXIT_STATUS_INTERNAL;
    }
    if (err == 0) {
        err = read_spaces(inspect, spaces);
    }
    if (err == 0) {
        (void)mmu_guest_hold(&inspect->guest, false); /* the rest is ours */
        err = cost_spaces(inspect, spaces, &together);
        if (err != 0) {
            snprintf(inspect->guest.error.message, sizeof(inspect->guest.error.message),
                     "shadowing the guest's tables: %s", strerror(-err));
        }
    }
    if (err == 0 && inspect->json) {
        report_json(inspect, spaces, &together);
    } else if (err == 0) {
        report_text(inspect, spaces, &together);
    }
    for (size_t i = 0; i < inspect->candidates; i++) {
        differ += spaces[i].differ;
        mmu_space_free(&spaces[i]);
    }
    free(spaces);
    image_destroy(&inspect->image);
    if (err != 0) {
        return exit_status_fail(COMMAND, &inspect->guest.error);
    }
    return differ == 0 ? EXIT_STATUS_OK : EXIT_STATUS_TEST_FAILED;
}

/* ---- The command ----------------------------------------------------------------------------- */

static int open_guest(struct inspect *inspect)
{
    char *kernel = umbra_config_get(inspect->config, "kernel");
    unsigned sources = (inspect->name != NULL) + (inspect->core != NULL) +
                       (inspect->configured || kernel != NULL);
    int status, ran;

    free(kernel);
    if (sources != 1) {
        return cli_usage(COMMAND, "which guest? The name of a VM, --core FILE, or a "
                                  "configuration and --kernel; one of these");
    }
    if (inspect->name != NULL) {
        return mmu_guest_open_name(&inspect->guest, COMMAND, inspect->name);
    }
    if (inspect->core != NULL) {
        return mmu_guest_open_core(&inspect->guest, COMMAND, inspect->core);
    }
    status = mmu_guest_open_config(&inspect->guest, COMMAND, inspect->config);
    if (status >= 0 || (inspect->until == NULL && inspect->after == 0)) {
        return status;
    }
    ran = mmu_guest_run(&inspect->guest, inspect->until,
                        inspect->after != 0 ? (int64_t)inspect->after : FOREVER_MS);
    if (ran == 1 || (ran < 0 && ran != -EPIPE)) {
        status = exit_status_fail(COMMAND, &inspect->guest.error);
        mmu_guest_close(&inspect->guest);
    }
    return status;
}

static int inspect_parse(struct inspect *inspect, int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "core", "FILE", "a core that umbra core wrote, instead of a running VM" },
        { "until", "TEXT", "a guest of our own: run it until its console says this" },
        { "after", "MS", "... or for so long (with --until: at most)" },
        { "cr3", "VALUE", "also the address space with this root (repeat)" },
        { "sample", "N", "also those that are loaded at N stops, 20 ms apart" },
        { "log", "FILE", "also those of a log that umbra mmu record made of it" },
        { "scan", NULL, "also those whose root tables are found in memory" },
        { "check", "N", "ask KVM about every Nth page; default 1, 0: none" },
        { "limit", "N", "page-table entries to read of one space; default 67108864" },
        { "summary", NULL, "do not list the ranges" },
        { "no-shadow", NULL, "do not work out what shadow tables cost" },
        { "policy", "wp|unsync|vtlb|agile", "of the shadow tables; default wp" },
        { "host-pages", "4K|2M|1G", "largest pages that back the guest; default 2M" },
        { "json", NULL, "print JSON" },
        { "quiet", NULL, "no progress on stderr" },
        { NULL, NULL, NULL },
    };
    const struct cli_parser parser = {
        .command = COMMAND,
        .synopsis = "NAME | --core FILE | [CONFIG.json] --kernel FILE ... [options]",
        .summary =
            "Stop a guest, walk its page tables, and show its address spaces: ranges, "
            "rights,\nflags, and what shadow tables of them cost. Every page is compared "
            "with KVM_TRANSLATE.\nA VM that ran goes on, its tables as they were.",
        .options = own,
        .config_options = true,
        .set = set_option,
        .argument = set_argument,
        .context = inspect,
        .notes = "\nRights: u user, k kernel; r, w, x; g global. The exit status is 1 if "
                 "KVM disagrees.\n",
    };
    struct cli_line line;

    return cli_parse(&parser, argc, argv, inspect->config, &line);
}

int mmu_command_inspect(int argc, char **argv)
{
    struct inspect *inspect = calloc(1, sizeof(*inspect));
    int status = EXIT_STATUS_INTERNAL;

    if (inspect == NULL || umbra_config_new(&inspect->config) != 0) {
        free(inspect);
        return status;
    }
    inspect->space = (struct mmu_space_options){
        .limit = DEFAULT_LIMIT,
        .check = 1,
        .host_shift = 21,
        .policy = SHADOW_WP,
    };
    inspect->ranges = inspect->cost = true;
    status = inspect_parse(inspect, argc, argv);
    if (status < 0) {
        status = open_guest(inspect);
    }
    if (status < 0) {
        status = inspect_run(inspect);
        mmu_guest_close(&inspect->guest);
    }
    umbra_config_free(inspect->config);
    free(inspect);
    return status;
}
