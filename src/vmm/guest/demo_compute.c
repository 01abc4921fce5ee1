/* SPDX-License-Identifier: MIT */
/* The demo guest's computations, in ring 3 on every processor. */
#include "vmm/guest/demo.h"
#include "vmm/guest/guest.h"

#define PRIME_LIMIT 10000000
#define PRIME_COUNT 664579 /* of primes below it */
#define BASE_LIMIT  3163   /* its square root, rounded up */
#define SEGMENT     32768  /* odd numbers a segment */

struct sieve {
    uint8_t composite[SEGMENT];
    uint32_t primes[BASE_LIMIT / 2], next[BASE_LIMIT / 2];
    unsigned prime_count;
    uint64_t count, us;
};

static struct sieve sieves[MAX_CPUS];

/* Odd primes below BASE_LIMIT, and for each the index of its square among odd numbers. */
static void sieve_base(struct sieve *s)
{
    uint32_t n, i;

    for (n = 3; n < BASE_LIMIT; n += 2) {
        for (i = 0; i < s->prime_count && s->primes[i] * s->primes[i] <= n; i++)
            if (n % s->primes[i] == 0)
                break;
        if (i < s->prime_count && s->primes[i] * s->primes[i] <= n)
            continue;
        s->primes[s->prime_count] = n;
        s->next[s->prime_count++] = n * n / 2;
    }
}

/* A segmented sieve of Eratosthenes over odd numbers; index i stands for 2i+1. */
static uint64_t sieve_run(void *argument)
{
    struct sieve *s = argument;
    uint32_t base, i, k, end;
    uint64_t from = tsc_read();

    sieve_base(s);
    s->count = 1; /* 2; the loop counts index 0, that is 1, wrongly: taken off below */
    for (base = 0; base < PRIME_LIMIT / 2; base += SEGMENT) {
        end = PRIME_LIMIT / 2 - base < SEGMENT ? PRIME_LIMIT / 2 - base : SEGMENT;
        memset(s->composite, 0, sizeof(s->composite));
        for (k = 0; k < s->prime_count; k++) {
            for (i = s->next[k]; i < base + end; i += s->primes[k])
                s->composite[i - base] = 1;
            s->next[k] = i;
        }
        for (i = 0; i < end; i++)
            s->count += !s->composite[i];
    }
    s->count--;
    s->us = (tsc_read() - from) / (tsc_hz / 1000000);
    return s->count;
}

#define PICTURE_WIDTH  72
#define PICTURE_HEIGHT 22
#define FRACTION       28 /* fixed-point bits */

static char picture[(PICTURE_WIDTH + 4) * PICTURE_HEIGHT];

static char mandelbrot_point(int64_t cx, int64_t cy)
{
    static const char shades[] = " .,:;=+*%#@";
    int64_t x = 0, y = 0, t;
    unsigned n;

    for (n = 0; n < 1000; n++) {
        t = ((x * x - y * y) >> FRACTION) + cx;
        y = (x * y >> (FRACTION - 1)) + cy;
        x = t;
        if ((x * x + y * y) >> FRACTION > (int64_t)4 << FRACTION)
            return shades[n < 2 ? 0 : n < 20 ? n / 2 : 9];
    }
    return '@';
}

static uint64_t mandelbrot_run(void *argument)
{
    int64_t one = (int64_t)1 << FRACTION;
    char *out = picture;
    int row, column;

    for (row = 0; row < PICTURE_HEIGHT; row++) {
        *out++ = ' ';
        *out++ = ' ';
        for (column = 0; column < PICTURE_WIDTH; column++)
            *out++ = mandelbrot_point(one * column * 3 / PICTURE_WIDTH - one * 9 / 4,
                                      one * row * 2 / PICTURE_HEIGHT - one * 21 / 22);
        *out++ = '\r';
        *out++ = '\n';
    }
    return (uint64_t)(out - picture);
}

static void count_primes(void)
{
    uint64_t value, slowest = 0;
    unsigned i;
    bool right;

    for (i = 1; i < smp_count; i++)
        smp_run(i, sieve_run, &sieves[i]);
    right = user_run(sieve_run, &sieves[0], NULL) == PRIME_COUNT;
    for (i = 0; i < smp_count; i++) {
        right &= i == 0 || (smp_wait(i, 60000, &value) && value == PRIME_COUNT);
        slowest = sieves[i].us > slowest ? sieves[i].us : slowest;
    }
    if (!right)
        demo_line("primes", false, "a wrong count");
    else
        print("  %-22s %lu below %u, on each of %u CPU%s at once: %lu.%lu ms\n", "primes",
              sieves[0].count, PRIME_LIMIT, smp_count, smp_count > 1 ? "s" : "",
              slowest / 1000, slowest / 100 % 10);
}

void demo_compute(void)
{
    uint64_t from, size;

    print("\nRing 3:\n");
    count_primes();
    from = time_us();
    size = user_run(mandelbrot_run, NULL, NULL);
    from = time_us() - from;
    print("  %-22s %lu.%lu ms\n", "a picture", from / 1000, from / 100 % 10);
    print_bytes(picture, size);
}
