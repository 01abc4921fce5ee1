/* SPDX-License-Identifier: MIT */
/* Guests that were promised more memory than there is, working one after the other: how much
 * of the host they hold, by the way in which what they do not need comes back. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <umbra/umbra.h>

#define MIB 1048576.0

enum help { NOTHING, REPORTING, BALLOON, KSM };

static const char *const helps[] = { "nothing", "reporting", "balloon", "ksm", NULL };

struct plan {
    enum help help;
    unsigned guests, work_mib;
    const char *memory, *kernel;
};

/* @name: number of @path, a file of lines "name number" or (name NULL) of one number. */
static uint64_t host_number(const char *path, const char *name)
{
    char line[256];
    uint64_t value = 0;
    size_t skip = name != NULL ? strlen(name) : 0;
    FILE *file = fopen(path, "r");

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (name == NULL || strncmp(line, name, skip) == 0) {
            value = strtoull(line + skip, NULL, 10);
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return value;
}

static double host_mib(const char *name)
{
    return (double)host_number("/proc/meminfo", name) / 1024.0;
}

static int guest_create(const struct plan *plan, unsigned index, struct umbra_vm **vm,
                        struct umbra_error *error)
{
    struct umbra_config *config = NULL;
    char name[32], append[64];
    int result = umbra_config_new(&config);

    snprintf(name, sizeof(name), "guest%u", index);
    snprintf(append, sizeof(append), "worker packed pool=%u", plan->work_mib);
    if (result == 0) {
        const char *const keys[][2] = {
            { "name", name },
            { "kernel", plan->kernel },
            { "append", append },
            { "memory", plan->memory },
            { "balloon", plan->help == REPORTING ? "reporting" : "on" },
            { "mergeable", plan->help == KSM ? "on" : "off" },
        };

        for (size_t i = 0; result == 0 && i < sizeof(keys) / sizeof(keys[0]); i++) {
            result = umbra_config_set(config, keys[i][0], keys[i][1], error);
        }
    }
    if (result == 0) {
        result = umbra_vm_create(config, vm, error);
    }
    if (result == 0) {
        result = umbra_vm_start(*vm, error);
    }
    if (result == 0) {
        result = umbra_console_expect(*vm, 0, "idle", 0, 120000, NULL, error);
    }
    umbra_config_free(config);
    return result;
}

/* The memory of the host that all guests' memory takes. */
static double held_mib(struct umbra_vm **vms, unsigned count)
{
    double sum = 0;

    for (unsigned i = 0; i < count; i++) {
        struct umbra_balloon_stats stats = { .size = sizeof(stats) };

        if (umbra_balloon_stats(vms[i], "balloon", &stats, NULL) == 0) {
            sum += (double)stats.resident / MIB;
        }
    }
    return sum;
}

/* Until KSM has merged what it can of @pages that are alike, or makes no progress. */
static void ksm_wait(uint64_t pages)
{
    static const char sharing[] = "/sys/kernel/mm/ksm/pages_sharing";
    uint64_t before = 0, now;
    unsigned still = 0;

    while ((now = host_number(sharing, NULL)) < pages && still < 50) {
        still = now > before ? 0 : still + 1;
        before = now;
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    }
}

/* One guest works; then it lends what it worked on, where that is the way. */
static int guest_work(const struct plan *plan, struct umbra_vm *vm,
                      struct umbra_error *error)
{
    int result = umbra_balloon_set(vm, "balloon", 0, error);

    if (result == 0) {
        result = umbra_console_expect(vm, 0, "worked on", 0, 600000, NULL, error);
    }
    if (result == 0 && plan->help == BALLOON) {
        result = umbra_balloon_set(vm, "balloon", (uint64_t)plan->work_mib << 20, error);
        if (result == 0) {
            result = umbra_console_expect(vm, 0, "lent", 0, 600000, NULL, error);
        }
    }
    return result;
}

static int play(const struct plan *plan, struct umbra_vm **vms, struct umbra_error *error)
{
    double peak = 0, all = (double)plan->guests * plan->work_mib, held, saved;
    int result = 0;

    for (unsigned i = 0; result == 0 && i < plan->guests; i++) {
        result = guest_create(plan, i, &vms[i], error);
    }
    printf("%u guests of %s, promised %.1f times the host's %.0f MiB; help: %s\n",
           plan->guests, plan->memory,
           plan->guests * (double)strtoull(plan->memory, NULL, 10) *
               (strchr(plan->memory, 'G') != NULL ? 1024.0 : 1.0) / host_mib("MemTotal:"),
           host_mib("MemTotal:"), helps[plan->help]);
    for (unsigned i = 0; result == 0 && i < plan->guests; i++) {
        result = guest_work(plan, vms[i], error);
        if (plan->help == KSM) { /* the first copy is not a shared one */
            ksm_wait((uint64_t)i * plan->work_mib * 256 * 9 / 10);
        }
        held = held_mib(vms, plan->guests);
        saved =
            plan->help == KSM
                ? (double)host_number("/sys/kernel/mm/ksm/pages_sharing", NULL) / 256.0
                : 0;
        peak = held - saved > peak ? held - saved : peak;
        printf(
            "guest %u worked on %u MiB: all hold %.0f MiB of the host, %.0f are free\n",
            i, plan->work_mib, held - saved, host_mib("MemAvailable:"));
        fflush(stdout);
    }
    if (result == 0) {
        printf("at most %.0f MiB held between turns, of %.0f worked on\n", peak, all);
        printf("%s\n", peak < all / 2 ? "it came back" : "it did not come back");
    }
    return result;
}

static int usage(void)
{
    fprintf(stderr, "usage: overcommit nothing|reporting|balloon|ksm GUESTS MEMORY "
                    "WORK-MIB virtio_balloon.elf\n");
    return 64;
}

int main(int argc, char **argv)
{
    struct plan plan = { 0 };
    struct umbra_error error = { .message = "" };
    struct umbra_vm **vms;
    int result;

    if (argc != 6) {
        return usage();
    }
    while (helps[plan.help] != NULL && strcmp(helps[plan.help], argv[1]) != 0) {
        plan.help++;
    }
    plan.guests = (unsigned)strtoul(argv[2], NULL, 10);
    plan.memory = argv[3];
    plan.work_mib = (unsigned)strtoul(argv[4], NULL, 10);
    plan.kernel = argv[5];
    if (helps[plan.help] == NULL || plan.guests == 0 || plan.work_mib == 0) {
        return usage();
    }
    vms = calloc(plan.guests, sizeof(struct umbra_vm *));
    if (vms == NULL) {
        return 70;
    }
    result = play(&plan, vms, &error);
    for (unsigned i = 0; i < plan.guests; i++) {
        umbra_vm_destroy(vms[i]);
    }
    free(vms);
    if (result != 0) {
        fprintf(stderr, "overcommit: %s\n", error.message);
        return error.code == UMBRA_ERROR_NO_KVM ? 77 : 70;
    }
    return 0;
}
