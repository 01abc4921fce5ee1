/* SPDX-License-Identifier: MIT */
/* Prints the frequency of this host's time stamp counter in kHz (for scripts/testbed). */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

/* The counter at a moment of the clock: of several looks the least disturbed. */
static unsigned long long look(unsigned long long *ns)
{
    unsigned long long best = ~0ull, at = 0;

    for (int i = 0; i < 50; i++) {
        struct timespec t;
        unsigned long long before = __rdtsc(), took;

        clock_gettime(CLOCK_MONOTONIC_RAW, &t);
        took = __rdtsc() - before;
        if (took < best) {
            best = took;
            at = before + took / 2;
            *ns = (unsigned long long)t.tv_sec * 1000000000 + (unsigned long)t.tv_nsec;
        }
    }
    return at;
}

int main(void)
{
    unsigned long long from_ns, to_ns, from = look(&from_ns), to;

    nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    to = look(&to_ns);
    printf("%llu\n", (to - from) * 1000000 / (to_ns - from_ns));
    return 0;
}
