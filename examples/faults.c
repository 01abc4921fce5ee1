/* SPDX-License-Identifier: MIT */
/*
 * A fault-injection run: a kernel meets a disk that fails now and then. Which requests fail,
 * and how, follows from the seed alone: a second run has the same faults, and the last of
 * them is had again all by itself.
 */
#define _POSIX_C_SOURCE 200809L /* mkstemp */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <umbra/umbra.h>

enum { DISK_SIZE = 1 << 20, EVENTS_MAX = 64 };

struct run {
    struct umbra_fault_event events[EVENTS_MAX];
    unsigned count;
    struct umbra_outcome outcome;
    char *console;
};

/* A VM with @kernel and an empty disk, not started. */
static int make(char **argv, const char *disk, struct umbra_vm **vm,
                struct umbra_error *error)
{
    const char *const settings[][2] = { { "kernel", argv[1] },
                                        { "append", argv[2] },
                                        { "disks", disk },
                                        { "timeout", "60s" } };
    struct umbra_config *config;
    int result = umbra_config_new(&config);

    if (result != 0) {
        return result;
    }
    for (size_t i = 0; result == 0 && i < sizeof(settings) / sizeof(settings[0]); i++) {
        result = umbra_config_set(config, settings[i][0], settings[i][1], error);
    }
    if (result == 0) {
        result = umbra_vm_create(config, vm, error);
    }
    umbra_config_free(config);
    return result;
}

/* Run with the @count rules of @plan, and collect what happened. */
static int run(char **argv, const struct umbra_fault *plan, unsigned count,
               struct run *run, struct umbra_error *error)
{
    char disk[] = "/tmp/umbra-example-XXXXXX";
    struct umbra_vm *vm = NULL;
    int fd = mkstemp(disk), result = -1;
    size_t length;

    memset(run, 0, sizeof(*run));
    run->outcome.size = sizeof(run->outcome);
    if (fd < 0 || ftruncate(fd, DISK_SIZE) != 0) {
        snprintf(error->message, sizeof(error->message), "cannot make a disk in /tmp");
        return -1;
    }
    close(fd);
    result = make(argv, disk, &vm, error);
    for (unsigned i = 0; result == 0 && i < count; i++) {
        result = umbra_fault_add(vm, &plan[i], NULL, error);
    }
    if (result == 0) {
        result = umbra_vm_start(vm, error);
    }
    if (result == 0) {
        result = umbra_vm_wait(vm, -1, &run->outcome, error);
    }
    while (result == 0 && run->count < EVENTS_MAX) {
        struct umbra_fault_event *event = &run->events[run->count];

        event->size = sizeof(*event);
        if (umbra_fault_event_at(vm, run->count, event) != 0) {
            break;
        }
        run->count++;
    }
    run->console = result == 0 ? umbra_console_transcript(vm, 0, &length) : NULL;
    umbra_vm_destroy(vm);
    unlink(disk);
    return result;
}

static void show(const struct umbra_fault_event *event)
{
    printf("  %s, request %llu: %s", event->device,
           (unsigned long long)event->opportunity, umbra_fault_name(event->kind));
    if (event->kind == UMBRA_FAULT_SHORT) {
        printf(", %llu bytes move", (unsigned long long)event->value);
    } else if (event->kind == UMBRA_FAULT_CORRUPT) {
        printf(", bit %llu flips", (unsigned long long)event->value);
    }
    putchar('\n');
}

static int equal(const struct run *a, const struct run *b)
{
    int same = a->count == b->count;

    for (unsigned i = 0; same && i < a->count; i++) {
        same = a->events[i].kind == b->events[i].kind &&
               a->events[i].opportunity == b->events[i].opportunity &&
               a->events[i].value == b->events[i].value;
    }
    return same;
}

static int play(char **argv, struct umbra_error *error)
{
    static const enum umbra_fault_kind kinds[] = { UMBRA_FAULT_IO_ERROR,
                                                   UMBRA_FAULT_SHORT,
                                                   UMBRA_FAULT_CORRUPT };
    struct umbra_fault plan[3], alone;
    struct run first, second, third;
    int result;

    for (unsigned i = 0; i < 3; i++) {
        plan[i] = (struct umbra_fault){ .size = sizeof(plan[i]),
                                        .kind = kinds[i],
                                        .device = "disk0",
                                        .seed = strtoull(argv[3], NULL, 0),
                                        .one_in = 10 };
    }
    result = run(argv, plan, 3, &first, error);
    if (result == 0) {
        result = run(argv, plan, 3, &second, error);
        free(second.console);
    }
    if (result != 0) {
        return result;
    }
    printf("seed %s:\n", argv[3]);
    for (unsigned i = 0; i < first.count; i++) {
        show(&first.events[i]);
    }
    printf("%sagain: %s\n", first.console,
           equal(&first, &second) ? "the same" : "DIFFERENT");
    free(first.console);
    if (first.count == 0 || !equal(&first, &second)) {
        return 1;
    }
    /* The rule of the last event, for its opportunity only. */
    alone = plan[first.events[first.count - 1].id - 1];
    alone.skip = first.events[first.count - 1].opportunity - 1;
    alone.one_in = 1;
    alone.count = 1;
    result = run(argv, &alone, 1, &third, error);
    if (result == 0) {
        printf("the last one alone:\n");
        show(&third.events[0]);
        printf("%s%s\n", third.console, third.outcome.reason);
        free(third.console);
    }
    return result;
}

int main(int argc, char **argv)
{
    struct umbra_error error = { .message = "" };
    int result;

    if (argc != 4) {
        fprintf(stderr, "usage: faults KERNEL ARGUMENTS SEED\n");
        return 64;
    }
    result = play(argv, &error);
    if (result != 0 && error.message[0] != '\0') {
        fprintf(stderr, "faults: %s\n", error.message);
        return error.code == UMBRA_ERROR_NO_KVM ? 77 : 70;
    }
    return result;
}
