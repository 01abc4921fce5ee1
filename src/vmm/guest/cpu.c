/* SPDX-License-Identifier: MIT */
/* Per-CPU setup, traps, and the way into ring 3. */
#include "vmm/guest/guest.h"

struct idt_entry {
    uint16_t offset_low, selector, flags, offset_mid;
    uint32_t offset_high, reserved;
};

struct __attribute__((packed)) tss {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, io_map;
};

_Static_assert(sizeof(struct tss) == 104, "TSS layout, Intel SDM vol. 3 section 8.7");
_Static_assert(offsetof(struct cpu, resume) == CPU_RESUME, "as the assembly has it");
_Static_assert(sizeof(struct cpu) < CPU_TRAP_STACK - 0x1000, "room for the trap stack");

extern uint8_t cpu_blocks[MAX_CPUS][CPU_BLOCK]; /* guest.ld */
/* All TSSs share the I/O permission bitmap behind them (SDM vol. 1, 19.5.2), which opens
 * every port to ring 3: on some hosts IRET does not set IOPL. */
static struct {
    struct tss tss[MAX_CPUS];
    uint8_t io_bitmap[8192];
    uint8_t io_end;
} tasks;
static struct idt_entry idt[256];
static interrupt_fn handlers[256];
extern const uint8_t trap_entries[256][16];
extern uint64_t gdt[];
extern const uint8_t user_done[];

uint64_t context_run(struct cpu *cpu, uint64_t (*function)(void *), void *argument,
                     void *user_stack, uint64_t user_flags);
_Noreturn void context_resume(struct cpu *cpu, uint64_t value);
void trap_handle(struct trap_frame *frame);

static uint8_t user_stacks[MAX_CPUS][0x4000] __attribute__((aligned(16)));

struct cpu *cpu_get(unsigned index)
{
    return (struct cpu *)(void *)cpu_blocks[index];
}

struct cpu *cpu_self(void)
{
    uint64_t stack;

    __asm__("mov %%rsp, %0" : "=r"(stack));
    return (struct cpu *)(stack & ~(uint64_t)(CPU_BLOCK - 1));
}

static void idt_set(unsigned vector, unsigned ring)
{
    uint64_t entry = (uint64_t)trap_entries[vector];

    idt[vector] = (struct idt_entry){
        .offset_low = (uint16_t)entry,
        .selector = SEL_CODE,
        .flags = (uint16_t)(0x8e00 | ring << 13), /* present, 64-bit interrupt gate */
        .offset_mid = (uint16_t)(entry >> 16),
        .offset_high = (uint32_t)(entry >> 32),
    };
}

void interrupt_set(unsigned vector, interrupt_fn handler)
{
    handlers[vector] = handler;
    idt_set(vector, 0);
}

static void tss_load(unsigned index)
{
    struct tss *tss = &tasks.tss[index];
    uint64_t base = (uint64_t)tss, limit = (uint64_t)&tasks.io_end - base;
    unsigned slot = SEL_TSS / 8 + index * 2;

    tss->rsp[0] = (uint64_t)cpu_blocks[index] + CPU_TRAP_STACK;
    tss->io_map = (uint16_t)((uint64_t)tasks.io_bitmap - base);
    tasks.io_end = 0xff;
    gdt[slot] = limit | (base & 0xffffff) << 16 | (uint64_t)0x89 << 40 |
                (base >> 24 & 0xff) << 56;
    gdt[slot + 1] = base >> 32;
    __asm__ volatile("ltr %w0" ::"r"(slot * 8) : "memory");
}

void cpu_init(struct cpu *cpu)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } pointer = { sizeof(idt) - 1, (uint64_t)idt };
    unsigned vector;

    cpu->index = (unsigned)((uint64_t)cpu - (uint64_t)cpu_blocks) / CPU_BLOCK;
    if (cpu->index == 0)
        for (vector = 0; vector < 32; vector++)
            idt_set(vector, vector == VECTOR_BP ? 3 : 0);
    __asm__ volatile("lidt %0" ::"m"(pointer) : "memory");
    tss_load(cpu->index);
}

static uint64_t fault_address(void)
{
    uint64_t address;

    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    return address;
}

static _Noreturn void trap_fatal(const struct trap_frame *f)
{
    print("\ntrap %lu error %lx on CPU %u at %lx:%lx flags %lx address %lx\n", f->vector,
          f->error, cpu_self()->index, f->cs, f->rip, f->rflags, fault_address());
    print("rax %lx rbx %lx rcx %lx rdx %lx rsi %lx rdi %lx rbp %lx rsp %lx\n", f->rax,
          f->rbx, f->rcx, f->rdx, f->rsi, f->rdi, f->rbp, f->rsp);
    guest_exit(EXIT_TRAP);
}

/* Called from traps.S; returning resumes what was interrupted. */
void trap_handle(struct trap_frame *f)
{
    struct cpu *cpu = cpu_self();

    if (f->vector >= 32) {
        if (handlers[f->vector])
            handlers[f->vector](f);
        return;
    }
    if (handlers[f->vector]) {
        handlers[f->vector](f);
        return;
    }
    if (!cpu->resume)
        trap_fatal(f);
    if ((f->cs & 3) && f->vector == VECTOR_BP && f->rip == (uint64_t)user_done)
        context_resume(cpu, f->rax);
    cpu->report.vector = (unsigned)f->vector;
    cpu->report.error = f->error;
    cpu->report.rip = f->rip;
    cpu->report.address = f->vector == VECTOR_PF ? fault_address() : 0;
    context_resume(cpu, 0);
}

static uint64_t run(uint64_t (*function)(void *), void *argument, void *user_stack,
                    struct trap_report *report)
{
    struct cpu *cpu = cpu_self();
    struct trap_report outer = cpu->report, own;
    uint64_t value;

    cpu->report = (struct trap_report){ .vector = TRAP_NONE };
    value = context_run(cpu, function, argument, user_stack, 0x202); /* RFLAGS: IF */
    own = cpu->report;
    own.value = value;
    cpu->report = outer;
    if (report)
        *report = own;
    else if (own.vector != TRAP_NONE)
        guest_fail("exception %u error %lx at %lx address %lx", own.vector, own.error,
                   own.rip, own.address);
    return value;
}

uint64_t user_run(uint64_t (*function)(void *), void *argument,
                  struct trap_report *report)
{
    return run(function, argument,
               user_stacks[cpu_self()->index] + sizeof(user_stacks[0]), report);
}

uint64_t guarded_run(uint64_t (*function)(void *), void *argument,
                     struct trap_report *report)
{
    return run(function, argument, NULL, report);
}
