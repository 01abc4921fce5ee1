/* SPDX-License-Identifier: MIT */
/* umbra stat and top: the exits and the memory of running VMs, once or live. */
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <umbra/umbra.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/client.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

enum { TOP_REASONS = 48, TOP_VMS = 64, TOP_NUMBERS = 96 };

/* Totals of one exit reason over all vCPUs. */
struct reason {
    char name[24];
    long long count, ns;
};

struct sample {
    char vm[64];
    struct reason reasons[TOP_REASONS];
    int reason_count;
    long long exits, unanswered;
    long long halts;            /* of KVM's own numbers */
    long long memory, resident; /* bytes: promised, taken from the host */
    struct kvm_number {
        char name[48];
        long long value;
    } kvm[TOP_NUMBERS];
    int kvm_count;
};

static struct reason *sample_reason(struct sample *sample, const char *name)
{
    for (int i = 0; i < sample->reason_count; i++) {
        if (strcmp(sample->reasons[i].name, name) == 0) {
            return &sample->reasons[i];
        }
    }
    if (sample->reason_count == TOP_REASONS) {
        return NULL;
    }
    snprintf(sample->reasons[sample->reason_count].name, sizeof(sample->reasons[0].name),
             "%s", name);
    return &sample->reasons[sample->reason_count++];
}

/* Sum up what KVM counts; its histograms are in the JSON only. */
static void sample_kvm(struct sample *sample, json_t *numbers)
{
    const char *name;
    json_t *value;

    json_object_foreach(numbers, name, value)
    {
        int at = 0;

        if (!json_is_integer(value) || json_integer_value(value) == 0) {
            continue;
        }
        while (at < sample->kvm_count && strcmp(sample->kvm[at].name, name) != 0) {
            at++;
        }
        if (at == TOP_NUMBERS) {
            continue;
        }
        if (at == sample->kvm_count) {
            snprintf(sample->kvm[at].name, sizeof(sample->kvm[at].name), "%s", name);
            sample->kvm_count++;
        }
        sample->kvm[at].value += json_integer_value(value);
        if (strcmp(name, "halt_exits") == 0) {
            sample->halts += json_integer_value(value);
        }
    }
}

static void sample_fill(struct sample *sample, json_t *stats)
{
    const char *name;
    json_t *vcpu, *counter;
    size_t i;

    sample->memory = json_integer_value(json_object_get(stats, "memory"));
    sample->resident = json_integer_value(json_object_get(stats, "memory_resident"));
    sample_kvm(sample, json_object_get(stats, "kvm"));
    json_array_foreach(json_object_get(stats, "vcpus"), i, vcpu)
    {
        sample->exits += json_integer_value(json_object_get(vcpu, "exits"));
        sample_kvm(sample, json_object_get(vcpu, "kvm"));
        sample->unanswered += json_integer_value(json_object_get(vcpu, "unanswered_io"));
        json_object_foreach(json_object_get(vcpu, "by_reason"), name, counter)
        {
            struct reason *reason = sample_reason(sample, name);

            if (reason != NULL) {
                reason->count += json_integer_value(json_object_get(counter, "count"));
                reason->ns += json_integer_value(json_object_get(counter, "ns"));
            }
        }
    }
}

static json_t *fetch(const char *command, const char *name, char *why, size_t size)
{
    struct client client;
    json_t *stats;

    if (client_open(&client, command, name) != EXIT_STATUS_OK) {
        snprintf(why, size, "not there");
        return NULL;
    }
    stats = client_call(&client, "stats", NULL, why, size);
    client_close(&client);
    return stats;
}

static int by_count(const void *a, const void *b)
{
    const struct reason *x = a, *y = b;

    return x->count < y->count ? 1 : x->count > y->count ? -1 : strcmp(x->name, y->name);
}

int command_stat(int argc, char **argv)
{
    struct sample sample = { 0 };
    char why[2048];
    json_t *stats;
    bool json = argc >= 2 && strcmp(argv[1], "--json") == 0;

    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        puts("Usage: umbra stat [--json] NAME\n\n"
             "Print the exits of a running VM by reason, with the time that handling "
             "took, and what\n"
             "KVM itself counts; --json prints everything, histograms too.");
        return EXIT_STATUS_OK;
    }
    if (argc != (json ? 3 : 2)) {
        return cli_usage("stat", "name the VM: umbra stat [--json] NAME");
    }
    stats = fetch("stat", argv[argc - 1], why, sizeof(why));
    if (stats == NULL) {
        fprintf(stderr, "umbra stat: %s: %s\n", argv[argc - 1], why);
        return EXIT_STATUS_MISSING;
    }
    if (json) {
        json_dumpf(stats, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        sample_fill(&sample, stats);
        qsort(sample.reasons, (size_t)sample.reason_count, sizeof(sample.reasons[0]),
              by_count);
        printf("%-20s %12s %12s %10s\n", "EXIT", "COUNT", "TOTAL ms", "MEAN us");
        for (int i = 0; i < sample.reason_count; i++) {
            const struct reason *reason = &sample.reasons[i];

            printf("%-20s %12lld %12.1f %10.2f\n", reason->name, reason->count,
                   (double)reason->ns / 1e6,
                   reason->count > 0 ? (double)reason->ns / 1e3 / (double)reason->count
                                     : 0);
        }
        printf("%-20s %12lld\n", "all", sample.exits);
        printf("\n%-36s %16lld\n%-36s %16lld\n", "MEMORY, BYTES", sample.memory,
               "of it taken from the host", sample.resident);
        if (sample.kvm_count > 0) {
            printf("\n%-36s %16s\n", "KVM, ALL VCPUS", "NOW");
        }
        for (int i = 0; i < sample.kvm_count; i++) {
            printf("%-36s %16lld\n", sample.kvm[i].name, sample.kvm[i].value);
        }
    }
    json_decref(stats);
    return EXIT_STATUS_OK;
}

/* ---- top ---------------------------------------------------------------------------------- */

static int sample_all(struct sample *samples, int max)
{
    char folder[108], why[2048];
    struct dirent **names;
    int count, used = 0;

    if (umbra_control_path(NULL, folder, sizeof(folder), NULL) != 0) {
        return 0;
    }
    count = scandir(folder, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char *dot = strrchr(names[i]->d_name, '.');

        if (used < max && dot != NULL && strcmp(dot, ".sock") == 0) {
            json_t *stats;

            *dot = '\0';
            stats = fetch("top", names[i]->d_name, why, sizeof(why));
            if (stats != NULL) {
                memset(&samples[used], 0, sizeof(samples[used]));
                snprintf(samples[used].vm, sizeof(samples[used].vm), "%.63s",
                         names[i]->d_name);
                sample_fill(&samples[used], stats);
                used++;
                json_decref(stats);
            }
        }
        free(names[i]);
    }
    if (count >= 0) {
        free(names);
    }
    return used;
}

static const struct sample *sample_find(const struct sample *samples, int count,
                                        const char *vm)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(samples[i].vm, vm) == 0) {
            return &samples[i];
        }
    }
    return NULL;
}

static void print_rates(const struct sample *now, const struct sample *before,
                        double seconds)
{
    struct sample rates = *now;

    for (int i = 0; before != NULL && i < rates.reason_count; i++) {
        struct sample old = *before;
        const struct reason *was = sample_reason(&old, rates.reasons[i].name);

        if (was != NULL) {
            rates.reasons[i].count -= was->count;
            rates.reasons[i].ns -= was->ns;
        }
    }
    qsort(rates.reasons, (size_t)rates.reason_count, sizeof(rates.reasons[0]), by_count);
    printf("%-20s %6lld of %6lld MiB %10.0f exits/s %8.0f halts/s", now->vm,
           now->resident >> 20, now->memory >> 20,
           (double)(now->exits - (before != NULL ? before->exits : 0)) / seconds,
           (double)(now->halts - (before != NULL ? before->halts : 0)) / seconds);
    for (int i = 0; i < rates.reason_count && i < 5; i++) {
        if (rates.reasons[i].count > 0) {
            printf("  %s %.0f/s %.0f%%", rates.reasons[i].name,
                   (double)rates.reasons[i].count / seconds,
                   (double)rates.reasons[i].ns / seconds / 1e7);
        }
    }
    puts("");
}

int command_top(int argc, char **argv)
{
    static struct sample samples[2][TOP_VMS];
    int counts[2] = { 0, 0 }, turn = 0, rounds = -1, signals;
    sigset_t set;
    struct pollfd quit = { .events = POLLIN };

    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        puts("Usage: umbra top [ROUNDS]\n\n"
             "Every second, of each running VM: how much of the host's memory its own "
             "takes, its exits\n"
             "and halts a second, and its five most frequent exit reasons with the share "
             "of a host CPU\n"
             "that handling them takes. Ctrl-C ends it.");
        return EXIT_STATUS_OK;
    }
    if (argc >= 2) {
        rounds = atoi(argv[1]);
    }
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals = signalfd(-1, &set, SFD_CLOEXEC);
    quit.fd = signals;
    counts[turn] = sample_all(samples[turn], TOP_VMS);
    while (rounds-- != 0 && poll(&quit, 1, 1000) == 0) {
        const int before = turn;

        turn = !turn;
        counts[turn] = sample_all(samples[turn], TOP_VMS);
        if (isatty(STDOUT_FILENO)) {
            fputs("\033[H\033[2J", stdout);
        }
        printf("%d running VM%s with a name\n", counts[turn],
               counts[turn] == 1 ? "" : "s");
        for (int i = 0; i < counts[turn]; i++) {
            print_rates(&samples[turn][i],
                        sample_find(samples[before], counts[before], samples[turn][i].vm),
                        1.0);
        }
        fflush(stdout);
    }
    close(signals);
    return EXIT_STATUS_OK;
}
