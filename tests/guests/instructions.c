/* SPDX-License-Identifier: MIT */
/* Ring 0 executes what kernels execute and some KVM emulators lack, and checks the results.
 * Arguments choose among them, in CPUID or not; without any, all that CPUID lists. */
#include "vmm/guest/guest.h"

static uint64_t operand = 0x00f0c00000012340;
static uint8_t buffer[64] __attribute__((aligned(64)));
static uint8_t result[64] __attribute__((aligned(64)));
static uint8_t area[4096] __attribute__((aligned(64)));
static unsigned __int128 wide __attribute__((aligned(16)));

static void buffer_fill(uint8_t seed)
{
    unsigned i;

    for (i = 0; i < sizeof(buffer); i++) {
        buffer[i] = (uint8_t)(seed + i * 7);
        result[i] = 0;
    }
}

static uint64_t int3_body(void *argument)
{
    __asm__ volatile("int3");
    return 0;
}

static bool try_int3(void)
{
    struct trap_report report;

    guarded_run(int3_body, NULL, &report);
    return report.vector == VECTOR_BP && ((const uint8_t *)report.rip)[-1] == 0xcc;
}

static bool try_popcnt(void)
{
    uint64_t a, b, flags;
    uint32_t c;
    uint16_t d;

    __asm__ volatile("popcnt %1, %0" : "=r"(a) : "r"(operand));
    __asm__ volatile("popcnt %1, %0" : "=r"(b) : "m"(operand));
    __asm__ volatile("popcnt %1, %0" : "=r"(c) : "r"((uint32_t)operand));
    __asm__ volatile("popcnt %1, %0" : "=r"(d) : "r"((uint16_t)operand));
    __asm__ volatile("popcnt %1, %%rax; pushfq; pop %0"
                     : "=r"(flags)
                     : "r"(UINT64_C(0))
                     : "rax");
    return a == 11 && b == 11 && c == 5 && d == 4 && (flags & 0x8d5) == 0x40;
}

/* Not of zero: KVM's emulator takes TZCNT for BSF, which differs there alone. */
static bool try_tzcnt(void)
{
    uint64_t a, b;

    __asm__ volatile("tzcnt %1, %0" : "=r"(a) : "r"(operand));
    __asm__ volatile("tzcnt %1, %0" : "=r"(b) : "m"(operand));
    return a == 6 && b == 6;
}

static bool try_bmi(void)
{
    uint64_t a, b, c;

    __asm__ volatile("andn %2, %1, %0" : "=r"(a) : "r"(UINT64_C(0xff00)), "r"(operand));
    __asm__ volatile("blsr %1, %0" : "=r"(b) : "r"(operand));
    __asm__ volatile("bextr %2, %1, %0" : "=r"(c) : "r"(operand), "r"(UINT64_C(0x0806)));
    return a == (operand & ~UINT64_C(0xff00)) && b == (operand & (operand - 1)) &&
           c == ((operand >> 6) & 0xff);
}

static uint64_t flags_read(void)
{
    uint64_t flags;

    __asm__ volatile("pushfq; pop %0" : "=r"(flags));
    return flags;
}

static bool try_stac(void)
{
    uint64_t set, clear;

    __asm__ volatile("stac" ::: "memory");
    set = flags_read();
    __asm__ volatile("clac" ::: "memory");
    clear = flags_read();
    return (set & 1 << 18) && !(clear & 1 << 18);
}

static bool exchange16(unsigned __int128 *expected, unsigned __int128 value)
{
    uint64_t low = (uint64_t)*expected, high = (uint64_t)(*expected >> 64);
    bool equal;

    __asm__ volatile("lock cmpxchg16b %0; sete %1"
                     : "+m"(wide), "=q"(equal), "+a"(low), "+d"(high)
                     : "b"((uint64_t)value), "c"((uint64_t)(value >> 64))
                     : "memory");
    *expected = (unsigned __int128)high << 64 | low;
    return equal;
}

static bool try_cmpxchg16b(void)
{
    unsigned __int128 first =
        (unsigned __int128)0x1111222233334444 << 64 | 0x5555666677778888;
    unsigned __int128 second = ~first, expected = first;

    wide = first;
    if (!exchange16(&expected, second) || wide != second)
        return false;
    expected = first;
    return !exchange16(&expected, 0) && expected == second && wide == second;
}

static uint64_t aux_write(void *argument)
{
    msr_write(0xc0000103, (uint64_t)argument);
    return 0;
}

/* Set TSC_AUX; false on a processor that has it only by completion. */
static bool aux_set(uint32_t value)
{
    struct trap_report report;

    guarded_run(aux_write, (void *)(uint64_t)value, &report);
    return report.vector == TRAP_NONE;
}

static bool try_rdtscp(void)
{
    bool has_aux = aux_set(0x1234);
    uint64_t before = tsc_read(), after;
    uint32_t low, high, aux;

    __asm__ volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
    after = tsc_read();
    return (!has_aux || aux == 0x1234) && before <= (low | (uint64_t)high << 32) &&
           (low | (uint64_t)high << 32) <= after;
}

static bool try_rdpid(void)
{
    bool has_aux = aux_set(0x4321);
    uint64_t aux;

    __asm__ volatile("rdpid %0" : "=r"(aux));
    return !has_aux || aux == 0x4321;
}

static bool try_x87(void)
{
    uint16_t control = 0, status = 0xffff, wanted = 0x027f, again = 0;

    __asm__ volatile("fninit; fnstcw %0; fnstsw %1; fwait" : "+m"(control), "+m"(status));
    __asm__ volatile("fldcw %1; fwait; fnstcw %0" : "+m"(again) : "m"(wanted));
    __asm__ volatile("fnclex; fnstsw %%ax" : "=a"(status));
    __asm__ volatile("fninit");
    return control == 0x037f && status == 0 && again == wanted;
}

static bool try_movss(void)
{
    buffer_fill(3);
    __asm__ volatile("pxor %%xmm1, %%xmm1\n\t"
                     "movss %1, %%xmm1\n\t"
                     "movups %%xmm1, %0"
                     : "=m"(result)
                     : "m"(*(float *)(void *)buffer));
    return memcmp(result, buffer, 4) == 0 &&
           memcmp(result + 4, "\0\0\0\0\0\0\0\0\0\0\0", 12) == 0;
}

static bool try_movsd(void)
{
    buffer_fill(5);
    __asm__ volatile("movsd %1, %%xmm2\n\tmovsd %%xmm2, %0"
                     : "=m"(*(double *)(void *)result)
                     : "m"(*(double *)(void *)buffer));
    return memcmp(result, buffer, 8) == 0 && result[8] == 0;
}

static bool try_sse_moves(void)
{
    bool good;

    buffer_fill(9);
    __asm__ volatile("movdqu 1(%1), %%xmm8; movdqu %%xmm8, (%0)\n\t"
                     "movups 16(%1), %%xmm1; movaps %%xmm1, 16(%0)\n\t"
                     "movdqa 32(%1), %%xmm3; movntdq %%xmm3, 32(%0)\n\t"
                     "movq 48(%1), %%xmm4; movq %%xmm4, 48(%0)\n\t"
                     "movd 56(%1), %%xmm5; movd %%xmm5, 56(%0)"
                     :
                     : "r"(result), "r"(buffer)
                     : "memory");
    good =
        memcmp(result, buffer + 1, 16) == 0 && memcmp(result + 16, buffer + 16, 44) == 0;
    return good && result[60] == 0;
}

static bool try_mxcsr(void)
{
    uint32_t wanted = 0x1fa0, got = 0, normal = 0x1f80;

    __asm__ volatile("ldmxcsr %1; stmxcsr %0; ldmxcsr %2"
                     : "=m"(got)
                     : "m"(wanted), "m"(normal));
    return got == wanted;
}

static bool try_fxsave(void)
{
    buffer_fill(17);
    __asm__ volatile("movdqu (%1), %%xmm6\n\t"
                     "fxsave64 (%2)\n\t"
                     "pxor %%xmm6, %%xmm6\n\t"
                     "fxrstor64 (%2)\n\t"
                     "movdqu %%xmm6, (%0)"
                     :
                     : "r"(result), "r"(buffer), "r"(area)
                     : "memory");
    return memcmp(area + 160 + 6 * 16, buffer, 16) == 0 &&
           memcmp(result, buffer, 16) == 0;
}

static bool try_fences(void)
{
    __asm__ volatile("mfence; lfence; sfence" ::: "memory");
    return true;
}

static void xsave_on(void)
{
    uint64_t cr4;

    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" ::"r"(cr4 | 1 << 18)); /* OSXSAVE */
}

static void xcr0_write(uint32_t v)
{
    __asm__ volatile("xsetbv" ::"a"(v), "d"(0), "c"(0));
}

static uint32_t xcr0_read(void)
{
    uint32_t v;

    __asm__ volatile("xgetbv" : "=a"(v) : "c"(0) : "edx");
    return v;
}

static bool try_xcr0(void)
{
    xsave_on();
    xcr0_write(3);
    if (xcr0_read() != 3)
        return false;
    xcr0_write(cpuid_read(0xd, 0).eax & 7);
    return (xcr0_read() & 3) == 3;
}

static bool try_xsave(void)
{
    xsave_on();
    xcr0_write(3);
    memset(area, 0, sizeof(area));
    buffer_fill(33);
    __asm__ volatile("movdqu (%1), %%xmm7\n\t"
                     "xsave64 (%2)\n\t"
                     "pxor %%xmm7, %%xmm7\n\t"
                     "xrstor64 (%2)\n\t"
                     "movdqu %%xmm7, (%0)"
                     :
                     : "r"(result), "r"(buffer), "r"(area), "a"(3), "d"(0)
                     : "memory");
    return memcmp(area + 160 + 7 * 16, buffer, 16) == 0 && (area[512] & 2) &&
           memcmp(result, buffer, 16) == 0;
}

static bool try_xsaveopt(void)
{
    xsave_on();
    xcr0_write(3);
    memset(area, 0, sizeof(area));
    buffer_fill(65);
    __asm__ volatile("movdqu (%0), %%xmm7\n\t"
                     "xsaveopt64 (%1)"
                     :
                     : "r"(buffer), "r"(area), "a"(3), "d"(0)
                     : "memory");
    return memcmp(area + 160 + 7 * 16, buffer, 16) == 0;
}

static bool try_xsavec(void)
{
    xsave_on();
    xcr0_write(3);
    memset(area, 0, sizeof(area));
    buffer_fill(129);
    __asm__ volatile("movdqu (%1), %%xmm7\n\t"
                     "xsavec64 (%2)\n\t"
                     "pxor %%xmm7, %%xmm7\n\t"
                     "xrstor64 (%2)\n\t"
                     "movdqu %%xmm7, (%0)"
                     :
                     : "r"(result), "r"(buffer), "r"(area), "a"(3), "d"(0)
                     : "memory");
    return (area[527] & 0x80) &&
           memcmp(result, buffer, 16) == 0; /* XCOMP_BV: compacted */
}

static bool try_avx(void)
{
    xsave_on();
    xcr0_write(7);
    buffer_fill(77);
    __asm__ volatile("vmovdqu (%1), %%ymm9\n\t"
                     "vmovdqu %%ymm9, 32(%0)\n\t"
                     "vmovaps 32(%1), %%xmm10\n\t"
                     "vmovups %%ymm10, (%0)"
                     :
                     : "r"(result), "r"(buffer)
                     : "memory");
    return memcmp(result + 32, buffer, 32) == 0 && memcmp(result, buffer + 32, 16) == 0 &&
           result[16] == 0 && result[31] == 0;
}

static bool try_fsgsbase(void)
{
    uint64_t cr4, fs, gs;

    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" ::"r"(cr4 | 1 << 16));
    __asm__ volatile("wrfsbase %2; wrgsbase %3; rdfsbase %0; rdgsbase %1"
                     : "=&r"(fs), "=&r"(gs)
                     : "r"(UINT64_C(0x1122334455)), "r"(UINT64_C(0xffff888011223344)));
    return fs == 0x1122334455 && gs == 0xffff888011223344 && msr_read(0xc0000100) == fs;
}

static bool try_swapgs(void)
{
    msr_write(0xc0000101, 0x1000);
    msr_write(0xc0000102, 0x2000);
    __asm__ volatile("swapgs");
    return msr_read(0xc0000101) == 0x2000 && msr_read(0xc0000102) == 0x1000;
}

static bool try_crc32(void)
{
    uint32_t crc = 0xffffffff;

    __asm__ volatile("crc32l %1, %0" : "+r"(crc) : "r"(0x12345678));
    return crc == 0x4dece20c;
}

/* CPUID bit: leaf, sub-leaf 0, register (0 EAX .. 3 EDX), bit; leaf 0: always there.
 * For XSAVE's variants the leaf is 0xd and the sub-leaf 1. */
static const struct instruction {
    const char *name;
    bool (*run)(void);
    uint32_t leaf, reg, bit;
} instructions[] = {
    { "int3", try_int3, 0, 0, 0 },
    { "x87", try_x87, 1, 3, 0 },
    { "movss", try_movss, 1, 3, 25 },
    { "movsd", try_movsd, 1, 3, 26 },
    { "sse-moves", try_sse_moves, 1, 3, 26 },
    { "mxcsr", try_mxcsr, 1, 3, 25 },
    { "fxsave", try_fxsave, 1, 3, 24 },
    { "fences", try_fences, 1, 3, 26 },
    { "swapgs", try_swapgs, 0, 0, 0 },
    { "popcnt", try_popcnt, 1, 2, 23 },
    { "tzcnt", try_tzcnt, 7, 1, 3 },
    { "bmi", try_bmi, 7, 1, 3 },
    { "stac", try_stac, 7, 1, 20 },
    { "cmpxchg16b", try_cmpxchg16b, 1, 2, 13 },
    { "rdtscp", try_rdtscp, 0x80000001, 3, 27 },
    { "rdpid", try_rdpid, 7, 2, 22 },
    { "crc32", try_crc32, 1, 2, 20 },
    { "fsgsbase", try_fsgsbase, 7, 1, 0 },
    { "xcr0", try_xcr0, 1, 2, 26 },
    { "xsave", try_xsave, 1, 2, 26 },
    { "xsaveopt", try_xsaveopt, 0xd, 0, 0 },
    { "xsavec", try_xsavec, 0xd, 0, 1 },
    { "avx", try_avx, 1, 2, 28 },
};

static bool listed(const struct instruction *instruction)
{
    struct cpuid r;
    const uint32_t *words = &r.eax;

    if (!instruction->leaf)
        return true;
    if (cpuid_read(instruction->leaf & 0x80000000, 0).eax < instruction->leaf)
        return false;
    r = cpuid_read(instruction->leaf, instruction->leaf == 0xd);
    return words[instruction->reg] >> instruction->bit & 1;
}

static bool chosen(const char *name, int argc, char **argv)
{
    int i;

    for (i = 0; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc == 0;
}

static uint64_t try_one(void *argument)
{
    const struct instruction *instruction = argument;

    return instruction->run();
}

/*
 * QEMU's TCG lets a nested guest's XSETBV pass its hypervisor by (it does not intercept it), so
 * that KVM puts XCR0 back to 1 at its next exit. A processor never does that: a case that set
 * XCR0 and finds it 1 afterwards says nothing and is tried again.
 */
static bool xcr0_lost(const struct instruction *instruction)
{
    return (instruction->run == try_xcr0 || instruction->run == try_xsave ||
            instruction->run == try_xsaveopt || instruction->run == try_xsavec ||
            instruction->run == try_avx) &&
           xcr0_read() == 1;
}

int guest_main(int argc, char **argv)
{
    enum { ATTEMPTS = 20 };
    unsigned i, wrong = 0, right = 0;

    for (i = 0; i < ARRAY_SIZE(instructions); i++) {
        struct instruction one = instructions[i];
        struct trap_report report;
        unsigned attempt = 0;

        if (!chosen(one.name, argc, argv))
            continue;
        print("%-12s", one.name);
        if (!argc && !listed(&one)) {
            print("not in CPUID\n");
            continue;
        }
        do {
            guarded_run(try_one, &one, &report);
        } while (!report.value && xcr0_lost(&one) && ++attempt < ATTEMPTS);
        if (report.vector != TRAP_NONE)
            print("WRONG: exception %u\n", report.vector);
        else
            print("%s\n", report.value ? "right" : "WRONG");
        wrong += !report.value;
        right += report.value == 1;
    }
    print("%u right, %u wrong\n", right, wrong);
    return wrong || !right ? EXIT_FAIL : EXIT_PASS;
}
