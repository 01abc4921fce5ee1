/* SPDX-License-Identifier: MIT */
/* vcpu/x86_64/insn: every case is run by the engine and, unchanged, by the processor. */
#include "insn_fixture.h"

/* What goes into and comes out of an instruction. */
struct machine {
    uint64_t gpr[16]; /* RBX points at the memory operand */
    uint64_t flags;
    uint64_t components;
    uint8_t *image;
};

typedef void (*native_function)(struct machine *machine);

struct test_case {
    const char *text;
    const char *feature; /* as /proc/cpuinfo names it */
    native_function native;
    const uint8_t *begin;
    const uint8_t *end;
};

/* A function that loads registers from a struct machine, runs @text and stores them. */
#define NATIVE_FUNCTION(name, text)                                                      \
    __asm__(                                                                             \
        ".pushsection .text\n"                                                           \
        ".globl native_" #name "\n"                                                      \
        "native_" #name ":\n"                                                            \
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"             \
        "push %rdi\n"                                                                    \
        "mov 136(%rdi), %rax\nmov %rax, %rdx\nshr $32, %rdx\n"                           \
        "mov 144(%rdi), %rcx\nxrstor64 (%rcx)\n"                                         \
        "push 128(%rdi)\npopfq\n"                                                        \
        "mov 0(%rdi), %rax\nmov 8(%rdi), %rcx\nmov 16(%rdi), %rdx\n"                     \
        "mov 24(%rdi), %rbx\nmov 40(%rdi), %rbp\nmov 48(%rdi), %rsi\n"                   \
        "mov 64(%rdi), %r8\nmov 72(%rdi), %r9\nmov 80(%rdi), %r10\n"                     \
        "mov 88(%rdi), %r11\nmov 96(%rdi), %r12\nmov 104(%rdi), %r13\n"                  \
        "mov 112(%rdi), %r14\nmov 120(%rdi), %r15\nmov 56(%rdi), %rdi\n"                 \
        ".globl begin_" #name "\nbegin_" #name ":\n" text "\n"                           \
        ".globl end_" #name "\nend_" #name ":\n"                                         \
        "push %rdi\nmov 8(%rsp), %rdi\n"                                                 \
        "mov %rax, 0(%rdi)\nmov %rcx, 8(%rdi)\nmov %rdx, 16(%rdi)\n"                     \
        "mov %rbx, 24(%rdi)\nmov %rbp, 40(%rdi)\nmov %rsi, 48(%rdi)\n"                   \
        "mov %r8, 64(%rdi)\nmov %r9, 72(%rdi)\nmov %r10, 80(%rdi)\n"                     \
        "mov %r11, 88(%rdi)\nmov %r12, 96(%rdi)\nmov %r13, 104(%rdi)\n"                  \
        "mov %r14, 112(%rdi)\nmov %r15, 120(%rdi)\n"                                     \
        "pop %rax\nmov %rax, 56(%rdi)\npushfq\npop 128(%rdi)\n"                          \
        "mov 136(%rdi), %rax\nmov %rax, %rdx\nshr $32, %rdx\n"                           \
        "mov 144(%rdi), %rcx\nxsave64 (%rcx)\n"                                          \
        "pop %rdi\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"    \
        ".popsection\n");                                                                \
    void native_##name(struct machine *machine);                                         \
    extern const uint8_t begin_##name[];                                                 \
    extern const uint8_t end_##name[];

#define CASES(X)                                                                         \
    X(popcnt, "popcnt", "popcnt %rcx, %rax")                                             \
    X(popcnt_memory, "popcnt", "popcntw 6(%rbx), %dx")                                   \
    X(popcnt_sib, "popcnt", "popcnt 3(%rbx,%r12,4), %r9d")                               \
    X(lzcnt, "abm", "lzcnt %ecx, %r8d")                                                  \
    X(lzcnt_memory, "abm", "lzcnt (%rbx), %rax")                                         \
    X(tzcnt, "bmi1", "tzcnt %rsi, %rdi")                                                 \
    X(tzcnt_memory, "bmi1", "tzcntw 0x123(%rbx), %ax")                                   \
    X(andn, "bmi1", "andn %rcx, %rdx, %rax")                                             \
    X(andn_memory, "bmi1", "andn 8(%rbx), %r13, %r14")                                   \
    X(bextr, "bmi1", "bextr %rcx, %rdx, %rax")                                           \
    X(blsr, "bmi1", "blsr %rcx, %rdx")                                                   \
    X(blsi, "bmi1", "blsi (%rbx), %edx")                                                 \
    X(blsmsk, "bmi1", "blsmsk %r9, %r10")                                                \
    X(bzhi, "bmi2", "bzhi %rcx, (%rbx), %rax")                                           \
    X(pdep, "bmi2", "pdep %rcx, %rdx, %rax")                                             \
    X(pext, "bmi2", "pext (%rbx), %rdx, %rax")                                           \
    X(rorx, "bmi2", "rorx $13, 16(%rbx), %rax")                                          \
    X(sarx, "bmi2", "sarx %rcx, %rsi, %rdx")                                             \
    X(shlx, "bmi2", "shlx %ecx, (%rbx), %eax")                                           \
    X(shrx, "bmi2", "shrx %r15, %r14, %r13")                                             \
    X(mulx, "bmi2", "mulx (%rbx), %rcx, %rax")                                           \
    X(adcx, "adx", "adcx (%rbx), %rax")                                                  \
    X(adox, "adx", "adox %rcx, %r11")                                                    \
    X(crc32b, "sse4_2", "crc32b (%rbx), %eax")                                           \
    X(crc32q, "sse4_2", "crc32q %rcx, %rax")                                             \
    X(crc32_high, "sse4_2", "crc32b %ch, %edx")                                          \
    X(movbe_load, "movbe", "movbe (%rbx), %rax")                                         \
    X(movbe_store, "movbe", "movbe %ecx, (%rbx)")                                        \
    X(movnti, "sse2", "movnti %rcx, (%rbx)")                                             \
    X(fninit, "fpu", "fninit")                                                           \
    X(fwait, "fpu", "fwait")                                                             \
    X(fnstcw, "fpu", "fnstcw (%rbx)")                                                    \
    X(fldcw, "fpu", "fldcw (%rbx)")                                                      \
    X(fnstsw_ax, "fpu", "fnstsw %ax")                                                    \
    X(fnstsw, "fpu", "fnstsw (%rbx)")                                                    \
    X(fnclex, "fpu", "fnclex")                                                           \
    X(fld1, "fpu", "fld1")                                                               \
    X(fldl, "fpu", "fldl (%rbx)")                                                        \
    X(flds, "fpu", "flds 4(%rbx)")                                                       \
    X(fldt, "fpu", "fldt (%rbx)")                                                        \
    X(fstpl, "fpu", "fstpl (%rbx)")                                                      \
    X(fstpt, "fpu", "fstpt (%rbx)")                                                      \
    X(fildl, "fpu", "fildl (%rbx)")                                                      \
    X(fistpl, "fpu", "fistpl (%rbx)")                                                    \
    X(fistpll, "fpu", "fistpll (%rbx)")                                                  \
    X(faddl, "fpu", "faddl (%rbx)")                                                      \
    X(fdivl, "fpu", "fdivl (%rbx)")                                                      \
    X(fmull, "fpu", "fmull (%rbx)")                                                      \
    X(fsubl, "fpu", "fsubl (%rbx)")                                                      \
    X(faddp, "fpu", "faddp")                                                             \
    X(fdivrp, "fpu", "fdivrp")                                                           \
    X(fsqrt, "fpu", "fsqrt")                                                             \
    X(fxch, "fpu", "fxch %st(3)")                                                        \
    X(fcomi, "fpu", "fcomi %st(2), %st")                                                 \
    X(fcmov, "fpu", "fcmovb %st(1), %st")                                                \
    X(fbstp, "fpu", "fbstp (%rbx)")                                                      \
    X(fldenv, "fpu", "fldenv (%rbx)")                                                    \
    X(frstor, "fpu", "frstor (%rbx)")                                                    \
    X(movq_mmx, "mmx", "movq (%rbx), %mm3")                                              \
    X(paddb_mmx, "mmx", "paddb %mm1, %mm2")                                              \
    X(emms, "mmx", "emms")                                                               \
    X(cvtpi2ps, "sse2", "cvtpi2ps %mm1, %xmm2")                                          \
    X(movss_load, "sse", "movss (%rbx), %xmm1")                                          \
    X(movss_store, "sse", "movss %xmm1, (%rbx)")                                         \
    X(movsd, "sse2", "movsd 8(%rbx), %xmm9")                                             \
    X(movups, "sse", "movups 5(%rbx), %xmm0")                                            \
    X(movups_store, "sse", "movups %xmm15, 5(%rbx)")                                     \
    X(movdqa, "sse2", "movdqa (%rbx), %xmm2")                                            \
    X(movdqu, "sse2", "movdqu %xmm2, 1(%rbx)")                                           \
    X(movntdq, "sse2", "movntdq %xmm4, (%rbx)")                                          \
    X(movntps, "sse", "movntps %xmm4, 16(%rbx)")                                         \
    X(movd, "sse2", "movd %xmm3, %ecx")                                                  \
    X(movq_gpr, "sse2", "movq %rcx, %xmm3")                                              \
    X(movq, "sse2", "movq (%rbx), %xmm3")                                                \
    X(pxor, "sse2", "pxor %xmm1, %xmm1")                                                 \
    X(por, "sse2", "por (%rbx), %xmm1")                                                  \
    X(pand, "sse2", "pand %xmm1, %xmm7")                                                 \
    X(xorps, "sse", "xorps %xmm8, %xmm9")                                                \
    X(pshufb, "ssse3", "pshufb (%rbx), %xmm1")                                           \
    X(pshufd, "sse2", "pshufd $0x1b, %xmm1, %xmm2")                                      \
    X(psllq, "sse2", "psllq $7, %xmm1")                                                  \
    X(psrldq, "sse2", "psrldq $3, %xmm1")                                                \
    X(paddq, "sse2", "paddq %xmm1, %xmm2")                                               \
    X(pcmpeqb, "sse2", "pcmpeqb (%rbx), %xmm2")                                          \
    X(pmovmskb, "sse2", "pmovmskb %xmm2, %esi")                                          \
    X(ptest, "sse4_1", "ptest (%rbx), %xmm2")                                            \
    X(pextrq, "sse4_1", "pextrq $1, %xmm2, (%rbx)")                                      \
    X(pinsrd, "sse4_1", "pinsrd $2, %ecx, %xmm2")                                        \
    X(pcmpestri, "sse4_2", "pcmpestri $0x0c, 3(%rbx), %xmm2")                            \
    X(aesenc, "aes", "aesenc (%rbx), %xmm2")                                             \
    X(pclmulqdq, "pclmulqdq", "pclmulqdq $0x10, (%rbx), %xmm2")                          \
    X(sha256rnds2, "sha_ni", "sha256rnds2 %xmm1, %xmm2")                                 \
    X(addps, "sse", "addps (%rbx), %xmm2")                                               \
    X(mulsd, "sse2", "mulsd (%rbx), %xmm2")                                              \
    X(divpd, "sse2", "divpd %xmm3, %xmm2")                                               \
    X(sqrtss, "sse", "sqrtss %xmm3, %xmm2")                                              \
    X(cvttsd2si, "sse2", "cvttsd2si (%rbx), %rax")                                       \
    X(cvtsi2sd, "sse2", "cvtsi2sd %rcx, %xmm2")                                          \
    X(ucomisd, "sse2", "ucomisd (%rbx), %xmm2")                                          \
    X(vmovdqu, "avx", "vmovdqu 7(%rbx), %ymm1")                                          \
    X(vmovdqa, "avx", "vmovdqa %ymm1, (%rbx)")                                           \
    X(vzeroupper, "avx", "vzeroupper")                                                   \
    X(vxorps, "avx", "vxorps %ymm1, %ymm2, %ymm12")                                      \
    X(vaddpd, "avx", "vaddpd (%rbx), %ymm2, %ymm3")                                      \
    X(vmovss, "avx", "vmovss %xmm1, %xmm2, %xmm3")                                       \
    X(vpshufb, "avx2", "vpshufb (%rbx), %ymm2, %ymm3")                                   \
    X(vpbroadcastd, "avx2", "vpbroadcastd 12(%rbx), %ymm3")                              \
    X(vmaskmov, "avx", "vmaskmovps %ymm1, %ymm2, (%rbx)")                                \
    X(vfmadd, "fma", "vfmadd231pd (%rbx), %ymm2, %ymm3")                                 \
    X(vcvtph2ps, "f16c", "vcvtph2ps (%rbx), %ymm3")                                      \
    X(vaesenc, "vaes", "vaesenc (%rbx), %ymm2, %ymm3")                                   \
    X(evex_load, "avx512f", "vmovdqu64 64(%rbx), %zmm17")                                \
    X(evex_mask, "avx512bw", "vmovdqu8 %zmm2, (%rbx){%k1}")                              \
    X(evex_ternlog, "avx512f", "vpternlogd $0x96, (%rbx){1to16}, %zmm2, %zmm31")         \
    X(evex_128, "avx512vl", "vpaddd 16(%rbx), %xmm2, %xmm20{%k3}{z}")                    \
    X(evex_round, "avx512f", "vaddpd {rz-sae}, %zmm1, %zmm2, %zmm3")                     \
    X(kmov, "avx512bw", "kmovq %rcx, %k2")                                               \
    X(kortest, "avx512f", "kortestw %k1, %k2")

#define DEFINE(name, feature, text) NATIVE_FUNCTION(name, text)
#define TABLE(name, feature, text)                                                       \
    { text, feature, native_##name, begin_##name, end_##name },

CASES(DEFINE)

static const struct test_case cases[] = { CASES(TABLE) };

static bool host_has(const char *feature)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[8192];
    bool found = false;

    while (file && !found && fgets(line, sizeof(line), file)) {
        char *save = NULL;

        if (strncmp(line, "flags", 5))
            continue;
        for (char *word = strtok_r(line, " \t\n", &save); word && !found;
             word = strtok_r(NULL, " \t\n", &save))
            found = !strcmp(word, feature);
        break;
    }
    if (file)
        fclose(file);
    return found;
}

/* Values that arithmetic finds interesting, and random ones. */
static uint64_t operand_random(uint64_t *seed)
{
    static const uint64_t special[] = {
        0,
        1,
        UINT64_MAX,
        UINT64_C(1) << 63,
        0x7f,
        0x3ff0000000000000,
        0x7ff0000000000000,
        0xfff8000000000000,
        0x0010000000000000,
        0x3f8000003f800000,
        0x40490fdb00000001,
    };
    uint64_t r = fixture_random(seed);

    return r % 3 ? fixture_random(seed) : special[r / 3 % ARRAY_SIZE(special)];
}

/* A state that the processor can hold: random registers, x87 stack with values. */
static void image_random(uint8_t *image, uint64_t xcr0, uint64_t *seed)
{
    for (unsigned i = 160; i < 416; i += 8)
        store_le64(image + i, operand_random(seed));
    for (unsigned i = 576; xcr0 & 4 && i < 832; i += 8)
        store_le64(image + i, operand_random(seed));
    for (unsigned r = 0; r < 8; r++) { /* small integers as 80-bit reals, some empty */
        uint64_t mantissa = fixture_random(seed) | UINT64_C(1) << 63;

        store_le64(image + 32 + 16 * r, mantissa);
        store_le16(image + 32 + 16 * r + 8,
                   (uint16_t)(0x3ff0 + fixture_random(seed) % 48));
    }
    image[4] = (uint8_t)(fixture_random(seed) | 0x3c); /* abridged tag word */
    store_le16(image + 2, (uint16_t)((fixture_random(seed) % 8) << 11));
    store_le64(image + 512, xcr0 & 7);
}

static void assert_machine_equal(const struct test_case *test,
                                 const struct machine *machine, const uint8_t *memory,
                                 const struct guest *guest)
{
    uint8_t ours[416], native[416];

    for (unsigned i = 0; i < 16; i++) {
        if (i != INSN_RSP && i != INSN_RBX && machine->gpr[i] != guest->cpu.gpr[i])
            fail_msg("%s: register %u is %#lx, natively %#lx", test->text, i,
                     guest->cpu.gpr[i], machine->gpr[i]);
    }
    if ((machine->flags ^ guest->cpu.rflags) & 0x8d5)
        fail_msg("%s: flags %#lx, natively %#lx", test->text, guest->cpu.rflags,
                 machine->flags);
    if (memcmp(memory, &guest->memory[GUEST_DATA - GUEST_BASE], 512))
        fail_msg("%s: memory differs", test->text);
    memcpy(ours, guest->image, sizeof(ours));
    memcpy(native, machine->image, sizeof(native));
    memset(ours + 6, 0, 18); /* FOP, FIP, FDP: the addresses differ */
    memset(native + 6, 0, 18);
    memset(ours + 28, 0, 4); /* MXCSR_MASK */
    memset(native + 28, 0, 4);
    for (unsigned i = 0; i < sizeof(ours); i++) {
        if (ours[i] != native[i])
            fail_msg("%s: byte %u of the FPU state is %#x, natively %#x", test->text, i,
                     ours[i], native[i]);
    }
    for (unsigned i = 576; i < 2696; i++) {
        if (guest->image[i] != machine->image[i])
            fail_msg("%s: byte %u of the extended state is %#x, natively %#x", test->text,
                     i, guest->image[i], machine->image[i]);
    }
}

static void run_both(const struct test_case *test, struct guest *guest, uint64_t *seed)
{
    static _Alignas(4096) uint8_t memory[4096];
    static _Alignas(64) uint8_t image[IMAGE_SIZE];
    struct machine machine = { .image = image };

    guest_reset(guest);
    for (unsigned i = 0; i < 512; i += 8)
        store_le64(memory + i, operand_random(seed));
    memcpy(&guest->memory[GUEST_DATA - GUEST_BASE], memory, 512);
    for (unsigned i = 0; i < 16; i++)
        machine.gpr[i] = operand_random(seed);
    machine.gpr[12] %= 16; /* an index */
    memcpy(guest->cpu.gpr, machine.gpr, sizeof(machine.gpr));
    machine.gpr[INSN_RBX] = (uint64_t)(uintptr_t)memory;
    guest->cpu.gpr[INSN_RBX] = GUEST_DATA;
    machine.flags = (fixture_random(seed) & 0x8d5) | 2;
    guest->cpu.rflags = machine.flags | 0x200;
    machine.components = guest->cpu.xcr0;
    image_random(guest->image, guest->cpu.xcr0, seed);
    memcpy(image, guest->image, sizeof(image));

    test->native(&machine);
    memcpy(&guest->memory[GUEST_CODE - GUEST_BASE], test->begin,
           (size_t)(test->end - test->begin));
    insn_complete(guest->engine, &guest->cpu, &guest_ops, guest, test->begin,
                  (size_t)(test->end - test->begin), &guest->outcome);
    if (guest->outcome.result != INSN_DONE)
        fail_msg("%s: result %d, vector %d, %s", test->text, guest->outcome.result,
                 guest->outcome.vector, guest->outcome.text);
    assert_int_equal(guest->cpu.rip, GUEST_CODE + (uint64_t)(test->end - test->begin));
    assert_machine_equal(test, &machine, memory, guest);
}

/* Component offsets differ between processors only above AVX; tests rely on these. */
static void test_same_as_native(void **state)
{
    struct guest *guest = *state;
    uint64_t seed = 1;
    unsigned skipped = 0;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if (!host_has(cases[i].feature)) {
            print_message("skipped: %s (this processor lacks %s)\n", cases[i].text,
                          cases[i].feature);
            skipped++;
            continue;
        }
        for (unsigned n = 0; n < 100; n++)
            run_both(&cases[i], guest, &seed);
    }
    assert_true(skipped < ARRAY_SIZE(cases));
}

/* A run of vector code with plain instructions between, ended by a plain store. */
NATIVE_FUNCTION(burst, "mov $9, %ecx\n"
                       "xor %edx, %edx\n"
                       "1: movd %ecx, %xmm1\n"
                       "movzbl 3(%rbx,%rcx), %eax\n"
                       "lea 5(%rdx,%rax,2), %rdx\n"
                       "movd %edx, %xmm3\n"
                       "pshufd $0, %xmm3, %xmm3\n"
                       "paddd %xmm3, %xmm2\n"
                       "movups %xmm2, 32(%rbx)\n"
                       "cmp $0x300, %edx\n"
                       "ja 2f\n"
                       "rol $3, %rdx\n"
                       "2: dec %ecx\n"
                       "jnz 1b\n"
                       "movq %xmm2, %rsi")
/* What the test stops at; never run natively. */
static const uint8_t burst_store[] = { 0x48, 0x89, 0x03 }; /* mov %rax, (%rbx) */

static void test_burst(void **state)
{
    const size_t size = (size_t)(end_burst - begin_burst);
    struct guest *guest = *state;
    uint8_t *code = &guest->memory[GUEST_CODE - GUEST_BASE];
    static _Alignas(4096) uint8_t memory[4096];
    static _Alignas(64) uint8_t image[IMAGE_SIZE];
    struct machine machine = { .image = image, .components = 3 };
    const struct test_case test = { .text = "burst" };
    struct insn_count counts[8];
    uint64_t seed = 7;
    uint64_t total;
    unsigned done;

    for (unsigned i = 0; i < 512; i += 8)
        store_le64(memory + i, fixture_random(&seed));
    memcpy(&guest->memory[GUEST_DATA - GUEST_BASE], memory, 512);
    memcpy(image, guest->image, sizeof(image));
    guest->cpu.gpr[INSN_RBX] = GUEST_DATA;
    machine.gpr[INSN_RBX] = (uint64_t)(uintptr_t)memory;
    machine.flags = 2;
    native_burst(&machine);
    memcpy(code, begin_burst, size);
    memcpy(code + size, burst_store, sizeof(burst_store));
    done = insn_burst(guest->engine, &guest->cpu, &guest_ops, guest, 10000);
    assert_in_range(done, 9 * 11 + 3, 9 * 12 + 3);
    assert_int_equal(guest->cpu.rip, GUEST_CODE + size); /* at the store */
    assert_true(guest->cpu.fpu_changed);
    assert_machine_equal(&test, &machine, memory, guest);
    insn_counts(guest->engine, counts, ARRAY_SIZE(counts), &total);
    assert_int_equal(total, 9 * 5 + 1); /* plain ones are not counted */

    guest->cpu.rip = GUEST_CODE; /* no more than asked for, and no faults */
    assert_int_equal(insn_burst(guest->engine, &guest->cpu, &guest_ops, guest, 7), 7);
    guest->cpu.gpr[INSN_RBX] = 0;
    guest->cpu.rip = GUEST_CODE;
    assert_int_equal(insn_burst(guest->engine, &guest->cpu, &guest_ops, guest, 100), 3);
    memset(code, 0x90, 64); /* nothing for us: give up soon */
    memcpy(code, (const uint8_t[]){ 0xeb, 0xfe }, 2);
    guest->cpu.rip = GUEST_CODE;
    assert_in_range(insn_burst(guest->engine, &guest->cpu, &guest_ops, guest, 100), 0,
                    20);
}

#define CONDITION(number, name)                                                          \
    if (condition == (number))                                                           \
    __asm__ volatile("push %1; popfq; set" name " %0"                                    \
                     : "=q"(holds)                                                       \
                     : "r"(flags | 2)                                                    \
                     : "cc", "memory")

/* What the processor says about a condition. */
static bool native_condition(unsigned condition, uint64_t flags)
{
    uint8_t holds = 0;

    CONDITION(0, "o");
    CONDITION(1, "no");
    CONDITION(2, "b");
    CONDITION(3, "nb");
    CONDITION(4, "z");
    CONDITION(5, "nz");
    CONDITION(6, "be");
    CONDITION(7, "nbe");
    CONDITION(8, "s");
    CONDITION(9, "ns");
    CONDITION(10, "p");
    CONDITION(11, "np");
    CONDITION(12, "l");
    CONDITION(13, "nl");
    CONDITION(14, "le");
    CONDITION(15, "nle");
    return holds;
}

static void test_jumps(void **state)
{
    struct guest *guest = *state;
    uint8_t *code = &guest->memory[GUEST_CODE - GUEST_BASE];

    for (unsigned condition = 0; condition < 16; condition++) {
        for (unsigned flags = 0; flags < 32; flags++) { /* CF PF ZF SF OF */
            uint64_t rflags = (flags & 1) | (flags & 2) << 1 | (flags & 4) << 4 |
                              (flags & 8) << 4 | (flags & 16) << 7;
            bool taken = native_condition(condition, rflags);

            code[0] = (uint8_t)(0x70 | condition);
            code[1] = 0x10;
            guest->cpu.rip = GUEST_CODE;
            guest->cpu.rflags = rflags | 2;
            assert_int_equal(insn_burst(guest->engine, &guest->cpu, &guest_ops, guest, 1),
                             1);
            assert_int_equal(guest->cpu.rip, GUEST_CODE + 2 + (taken ? 0x10 : 0));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same_as_native, guest_setup, guest_teardown),
        cmocka_unit_test_setup_teardown(test_burst, guest_setup, guest_teardown),
        cmocka_unit_test_setup_teardown(test_jumps, guest_setup, guest_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
