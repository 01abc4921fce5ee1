/* SPDX-License-Identifier: MIT */
/* Touch pages in every combination of entry flags, page size, control bits, ring and kind of
 * access; leave what happened in memory, for the host to judge. */
#include "paging.h"
#include "vmm/guest/guest.h"

#define MSR_EFER 0xc0000080
#define EFER_NXE (1u << 11)
#define CR0_WP   (1ull << 16)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define FLAGS_AC (1ull << 18)

static uint64_t (*const tables)[512] = (uint64_t(*)[512])PAGING_TABLES;
static struct paging_results *const results = (struct paging_results *)PAGING_RESULTS;

/* One access as it ended, for ring 3 to look at: ring 0 is dear where it is interpreted. */
struct raw {
    uint64_t value, error, address; /* error: bit 16 if there was a fault */
};
static uint64_t *const addresses = (uint64_t *)0x1a00000;
static struct raw *const raw = (struct raw *)0x1b00000;

static uint64_t own_root;
static unsigned current; /* group */

/*
 * void try_KIND(const uint64_t *addresses, struct raw *raw, uint64_t count): access each
 * address. The page-fault handler goes on at RCX.
 */
#define TRY(kind, access)                                                                \
    __asm__(".text\n"                                                                    \
            ".globl try_" #kind "\n"                                                     \
            "try_" #kind ":\n\t"                                                         \
            "push %rbx\n\t"                                                              \
            "mov %rdx, %r11\n\t"                                                         \
            "xchg %rsi, %rdi\n\t" /* RSI: addresses, RDI: raw */                         \
            "lea 2f(%rip), %rcx\n\t"                                                     \
            "mov %rsp, %rdx\n"                                                           \
            "1: lodsq\n\t"                                                               \
            "mov %rax, %rbx\n\t"                                                         \
            "xor %r8d, %r8d\n\t"                                                         \
            "xor %r9d, %r9d\n\t" access "\n"                                             \
            "2: mov %rdx, %rsp\n\t"                                                      \
            "stosq\n\t"                                                                  \
            "mov %r8, %rax\n\t"                                                          \
            "stosq\n\t"                                                                  \
            "mov %r9, %rax\n\t"                                                          \
            "stosq\n\t"                                                                  \
            "dec %r11\n\t"                                                               \
            "jnz 1b\n\t"                                                                 \
            "pop %rbx\n\t"                                                               \
            "ret")
TRY(read, "movb (%rbx), %al");
TRY(write, "movb $0x5a, %al; movb %al, (%rbx)");
TRY(fetch, "call *%rbx"); /* the code there: mov $PAGING_MAGIC, %al; ret */

typedef void try_fn(const uint64_t *addresses, struct raw *raw, uint64_t count);
try_fn try_read, try_write, try_fetch;

extern const char page_fault[];
__asm__(".globl page_fault\n"
        "page_fault:\n\t"
        "pop %r8\n\t"
        "or $0x10000, %r8\n\t"
        "mov %cr2, %r9\n\t"
        "mov %rcx, (%rsp)\n\t"
        "iretq");

/* Page faults go to that handler alone, past the runtime's. */
static void take_page_faults(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } idt;
    uint16_t *gate;

    __asm__ volatile("sidt %0" : "=m"(idt));
    gate = (uint16_t *)(idt.base + 16 * VECTOR_PF);
    gate[0] = (uint16_t)(uint64_t)page_fault;
    gate[3] = (uint16_t)((uint64_t)page_fault >> 16);
}

static uint64_t try_all(void *argument)
{
    static try_fn *const functions[] = { try_read, try_write, try_fetch };

    for (unsigned at = 0; at < PAGING_CASES; at += PAGING_LEAVES)
        functions[at / PAGING_LEAVES % PAGING_ACCESSES](addresses + at, raw + at,
                                                        PAGING_LEAVES);
    return 0;
}

static uint32_t seen_of(const struct raw *was, uint64_t address)
{
    if (was->error)
        return SEEN_FAULT | (uint32_t)(was->error & 0xffff) |
               (was->address == address ? SEEN_ADDRESS : 0);
    return (was->value & 0xff) == PAGING_MAGIC ? SEEN_VALUE : 0;
}

static uint64_t fill(void *argument)
{
    paging_fill(tables, results->gbpages);
    return 0;
}

/* What became of the accesses and of the flags. */
static uint64_t collect(void *argument)
{
    uint32_t *seen = results->seen[current];

    for (unsigned at = 0; at < PAGING_CASES; at++) {
        unsigned tree = at / PAGING_SLOTS / PAGING_UPPERS;
        unsigned upper = at / PAGING_SLOTS % PAGING_UPPERS;
        uint64_t entry = *paging_leaf(tables, tree, upper, at % PAGING_SLOTS);
        /* In ring 3 the tree hung below the guest's own root. */
        uint64_t *holder = tree == 2 && paging_group(current).user
                               ? (uint64_t *)own_root
                               : tables[paging_upper_table(tree)];
        uint64_t above = holder[paging_upper_slot(tree, upper)];

        seen[at] = seen_of(&raw[at], addresses[at]) | (entry & PAGING_A ? SEEN_A : 0) |
                   (entry & PAGING_D ? SEEN_D : 0);
        results->upper[current][tree][upper] = (above & PAGING_A) != 0;
    }
    return 0;
}

/* ---- Registers ------------------------------------------------------------------------------ */

static void load_root(uint64_t root)
{
    __asm__ volatile("mov %0, %%cr3" ::"r"(root) : "memory");
}

static uint64_t set_registers(void *argument)
{
    const struct paging_group *group = argument;
    uint64_t cr0, cr4, efer = msr_read(MSR_EFER);

    __asm__ volatile("mov %%cr0, %0; mov %%cr4, %1" : "=r"(cr0), "=r"(cr4));
    cr0 = (cr0 & ~CR0_WP) | (group->wp ? CR0_WP : 0);
    cr4 = (cr4 & ~(CR4_SMEP | CR4_SMAP)) | (group->smep ? CR4_SMEP : 0) |
          (group->smap ? CR4_SMAP : 0);
    efer = (efer & ~(uint64_t)EFER_NXE) | (group->nxe ? EFER_NXE : 0);
    msr_write(MSR_EFER, efer);
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0) : "memory");
    __asm__ volatile("mov %0, %%cr4" ::"r"(cr4) : "memory");
    return 0;
}

static bool supported(const struct paging_group *group)
{
    uint32_t ebx = cpuid_read(7, 0).ebx;

    return (!group->nxe || (cpuid_read(0x80000001, 0).edx >> 20 & 1)) &&
           (!group->smep || (ebx >> 7 & 1)) && (!group->smap || (ebx >> 20 & 1));
}

static void run_group(struct paging_group group)
{
    const struct paging_group plain = { .wp = 1 };
    struct trap_report report;

    user_run(fill, NULL, NULL);
    for (unsigned slot = 1; slot < 3 + PAGING_UPPERS; slot++)
        ((uint64_t *)own_root)[slot] = tables[TABLE_ROOT][slot];
    load_root(group.user ? own_root : paging_table(TABLE_ROOT));
    guarded_run(set_registers, &group, &report);
    if (report.vector == TRAP_NONE) {
        uint64_t flags = group.ac ? FLAGS_AC : 0;

        if (group.user) {
            user_run(try_all, NULL, NULL);
        } else {
            __asm__ volatile("pushfq; orq %0, (%%rsp); popfq" ::"r"(flags) : "memory");
            try_all(NULL);
            __asm__ volatile("pushfq; andq %0, (%%rsp); popfq" ::"r"(~FLAGS_AC)
                             : "memory");
        }
        results->ran[current] = 1;
    }
    guarded_run(set_registers, (void *)(uintptr_t)&plain, &report);
    load_root(own_root);
    user_run(collect, NULL, NULL);
}

static uint64_t prepare(void *argument)
{
    static const uint8_t code[] = { 0xb0, PAGING_MAGIC, 0xc3 };

    uint64_t *address = addresses;

    for (unsigned tree = 0; tree < PAGING_TREES; tree++)
        for (unsigned upper = 0; upper < PAGING_UPPERS; upper++)
            for (unsigned slot = 0; slot < PAGING_SLOTS; slot++)
                *address++ = paging_address(tree, upper, slot);
    memset(results, 0, sizeof(*results));
    memset(tables, 0, 4096 * TABLE_COUNT);
    memcpy((void *)PAGING_PAGE, code, sizeof(code));
    *(uint8_t *)(PAGING_PAGE + 64) = PAGING_MAGIC;
    return 0;
}

int guest_main(int argc, char **argv)
{
    unsigned ran = 0;

    __asm__ volatile("mov %%cr3, %0" : "=r"(own_root));
    user_run(prepare, NULL, NULL);
    results->gbpages = cpuid_read(0x80000001, 0).edx >> 26 & 1;
    /* Both roots lead to the same tables; the second has the kernel to itself. */
    tables[TABLE_ROOT][0] = *(uint64_t *)own_root & ~PAGING_U;
    take_page_faults();
    for (current = 0; current < PAGING_GROUPS; current++) {
        struct paging_group group = paging_group(current);

        if (supported(&group))
            run_group(group);
        ran += results->ran[current];
    }
    results->groups = ran;
    results->magic = PAGING_DONE;
    print("%u of %u groups of %u cases\n", ran, PAGING_GROUPS, PAGING_CASES);
    return EXIT_PASS;
}
