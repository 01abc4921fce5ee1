/* SPDX-License-Identifier: MIT */
/* Ring 3 computes at full speed, and every kind of fault there is reported as it should. */
#include "vmm/guest/guest.h"

static uint8_t page[4096] __attribute__((aligned(4096)));

/* 20 million numbers of xorshift64 (Marsaglia 2003); their sum is known from a host. */
#define COMPUTE_SUM 0x1d38fa0ce9e758e1
static uint64_t compute(void *argument)
{
    uint64_t x = 88172645463325252u, i, sum = 0;

    for (i = 0; i < 20000000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        sum += x;
    }
    return sum;
}

static uint64_t read_page(void *argument)
{
    return *(volatile uint8_t *)page;
}

static uint64_t write_page(void *argument)
{
    *(volatile uint8_t *)page = 1;
    return 0;
}

static uint64_t divide(void *argument)
{
    uint64_t v = 1;

    __asm__ volatile("xor %%edx, %%edx; div %1" : "+a"(v) : "r"((uint64_t)0) : "rdx");
    return v;
}

static uint64_t undefined(void *argument)
{
    __asm__ volatile("ud2");
    return 0;
}

static uint64_t privileged(void *argument)
{
    __asm__ volatile("mov %%cr3, %%rax" ::: "rax");
    return 0;
}

static uint64_t noncanonical(void *argument)
{
    return *(volatile uint8_t *)0x8000000000000000;
}

static uint64_t breakpoint(void *argument)
{
    __asm__ volatile("int3");
    return 0;
}

static void expect(const char *name, uint64_t (*function)(void *), unsigned vector,
                   uint64_t error)
{
    struct trap_report report;

    user_run(function, NULL, &report);
    print("%s: exception %u error %lx\n", name, report.vector, report.error);
    CHECK(report.vector == vector && report.error == error);
    if (vector == VECTOR_PF)
        CHECK(report.address == (uint64_t)page);
}

static void check_page_faults(void)
{
    struct trap_report report;

    CHECK(memory_protect((uint64_t)page, PTE_PRESENT | PTE_WRITE));
    expect("supervisor page", read_page, VECTOR_PF, 5);
    CHECK(memory_protect((uint64_t)page, PTE_PRESENT | PTE_USER));
    user_run(read_page, NULL, NULL);
    expect("read-only page", write_page, VECTOR_PF, 7);
    CHECK(memory_protect((uint64_t)page, 0));
    expect("absent page", write_page, VECTOR_PF, 6);
    guarded_run(read_page, NULL, &report);
    CHECK(report.vector == VECTOR_PF && report.error == 0);
    CHECK(memory_protect((uint64_t)page, PTE_PRESENT | PTE_WRITE | PTE_USER));
    user_run(write_page, NULL, NULL);
    CHECK(user_run(read_page, NULL, NULL) == 1);
}

int guest_main(int argc, char **argv)
{
    uint64_t sum = user_run(compute, NULL, NULL);

    print("sum %lx\n", sum);
    CHECK(sum == COMPUTE_SUM);
    expect("division", divide, VECTOR_DE, 0);
    expect("undefined", undefined, VECTOR_UD, 0);
    expect("privileged", privileged, VECTOR_GP, 0);
    expect("noncanonical", noncanonical, VECTOR_GP, 0);
    expect("breakpoint", breakpoint, VECTOR_BP, 0);
    check_page_faults();
    return EXIT_PASS;
}
