/* SPDX-License-Identifier: MIT */
/*
 * How long an embedder waits: from umbra_vm_create() until it returns, from there until the
 * guest's first byte is in the console callback, and for umbra_vm_destroy() of the running
 * VM. Prints the medians of ROUNDS runs: "CREATE_NS FIRST_NS DESTROY_NS".
 */
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <umbra/umbra.h>

enum { ROUNDS_MAX = 10000 };

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct first {
    uint64_t at_ns;
    sem_t seen;
};

static void output(void *context, const void *bytes, size_t length)
{
    struct first *first = context;

    (void)bytes;
    (void)length;
    if (first->at_ns == 0) {
        first->at_ns = now_ns();
        sem_post(&first->seen);
    }
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t *values, unsigned count)
{
    qsort(values, count, sizeof(*values), compare);
    return values[count / 2];
}

static int measure(const struct umbra_config *config, uint64_t *create, uint64_t *start,
                   uint64_t *destroy, struct umbra_error *error)
{
    struct first first = { 0 };
    struct umbra_vm *vm;
    uint64_t from = now_ns(), made;
    int result = umbra_vm_create(config, &vm, error);

    if (result != 0) {
        return result;
    }
    made = now_ns();
    sem_init(&first.seen, 0, 0);
    umbra_console_set_output(vm, 0, output, &first);
    result = umbra_vm_start(vm, error);
    if (result == 0) {
        sem_wait(&first.seen);
        *create = made - from;
        *start = first.at_ns - made;
    }
    from = now_ns();
    umbra_vm_destroy(vm);
    *destroy = now_ns() - from;
    sem_destroy(&first.seen);
    return result;
}

int main(int argc, char **argv)
{
    static uint64_t create[ROUNDS_MAX], start[ROUNDS_MAX], destroy[ROUNDS_MAX];
    struct umbra_error error = { .message = "" };
    struct umbra_config *config;
    unsigned rounds = argc == 3 ? (unsigned)atoi(argv[2]) : 0;
    int result = umbra_config_new(&config);

    if (rounds == 0 || rounds > ROUNDS_MAX || result != 0) {
        fprintf(stderr, "usage: api_times FLAT-BINARY ROUNDS\n");
        return 64;
    }
    if (umbra_config_set(config, "kernel", argv[1], &error) != 0 ||
        umbra_config_set(config, "kernel_format", "flat", &error) != 0 ||
        umbra_config_set(config, "kernel_load", "0x7c00", &error) != 0 ||
        umbra_config_set(config, "kernel_entry", "0x7c00", &error) != 0 ||
        umbra_config_set(config, "memory", "16M", &error) != 0) {
        result = -1;
    }
    for (unsigned i = 0; result == 0 && i < rounds; i++) {
        result = measure(config, &create[i], &start[i], &destroy[i], &error);
    }
    umbra_config_free(config);
    if (result != 0) {
        fprintf(stderr, "api_times: %s\n", error.message);
        return 70;
    }
    printf("%llu %llu %llu\n", (unsigned long long)median(create, rounds),
           (unsigned long long)median(start, rounds),
           (unsigned long long)median(destroy, rounds));
    return 0;
}
