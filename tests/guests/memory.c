/* SPDX-License-Identifier: MIT */
/* The memory map is sane and all of it is memory of its own: ram=KIB, high=0|1. */
#include "vmm/guest/guest.h"

#define PAGES_PER_RANGE 64

struct probe {
    uint64_t pages;
    uint64_t bad;
};

static bool is_ram(const struct memory_range *r)
{
    return r->type == 1 && r->start >= 0x100000;
}

/* A page of range @r: spread over it, the last page among them, clear of this image. */
static volatile uint64_t *probe_word(const struct memory_range *r, unsigned i)
{
    uint64_t step = (r->size / PAGES_PER_RANGE) & ~0xfffull;

    return (volatile uint64_t *)(r->start + r->size - 4096 - i * step);
}

/* First write everywhere, then read everywhere: two addresses of one page would show. */
static uint64_t probe_run(void *argument)
{
    extern char image_end[];
    struct probe *probe = argument;
    unsigned pass, n, i;

    for (pass = 0; pass < 2; pass++)
        for (n = 0; n < boot.range_count; n++)
            for (i = 0; i < PAGES_PER_RANGE && is_ram(&boot.ranges[n]); i++) {
                volatile uint64_t *word = probe_word(&boot.ranges[n], i);

                if ((uint64_t)word < (uint64_t)image_end + 0x100000 ||
                    (uint64_t)word < boot.ranges[n].start)
                    continue;
                if (pass == 0)
                    *word = (uint64_t)word ^ 0xa5a5a5a5a5a5a5a5;
                else if (*word != ((uint64_t)word ^ 0xa5a5a5a5a5a5a5a5))
                    probe->bad = probe->bad ? probe->bad : (uint64_t)word;
                else
                    probe->pages++;
            }
    return 0;
}

static void check_map(void)
{
    unsigned i, k;

    CHECK(boot.range_count > 0 && boot.range_count < ARRAY_SIZE(boot.ranges));
    for (i = 0; i < boot.range_count; i++) {
        const struct memory_range *a = &boot.ranges[i];

        CHECK(a->size > 0 && a->start + a->size > a->start);
        CHECK(a->type != 1 || a->start + a->size <= 0xd0000000 || a->start >= 1ull << 32);
        for (k = 0; k < i; k++)
            CHECK(a->start + a->size <= boot.ranges[k].start ||
                  boot.ranges[k].start + boot.ranges[k].size <= a->start);
    }
}

int guest_main(int argc, char **argv)
{
    struct probe probe = { 0 };
    uint64_t ram, high = 0;
    unsigned i, k;

    check_map();
    for (i = 0; i < boot.range_count; i++) {
        const struct memory_range *r = &boot.ranges[i];

        print("range %lx-%lx type %u\n", r->start, r->start + r->size, r->type);
        if (!is_ram(r) || r->start < 1ull << 32)
            continue;
        high = 1;
        for (k = 0; k < PAGES_PER_RANGE; k++)
            CHECK(memory_map((uint64_t)probe_word(r, k), 8,
                             PTE_PRESENT | PTE_WRITE | PTE_USER));
    }
    user_run(probe_run, &probe, NULL);
    print("%lu pages are memory of their own\n", probe.pages);
    if (probe.bad)
        guest_fail("the word at %lx does not keep its value", probe.bad);
    CHECK(probe.pages >= 16);
    if (boot_option("ram")) /* the loader may keep up to 1 MiB for itself */
        CHECK(number_parse(boot_option("ram"), &ram) && boot_ram_size() >> 10 <= ram &&
              (boot_ram_size() >> 10) + 1024 >= ram);
    if (boot_option("high"))
        CHECK(high == (uint64_t)(boot_option("high")[0] == '1'));
    return EXIT_PASS;
}
