/* SPDX-License-Identifier: MIT */
/* The runtime of umbra's own guests: what the demo and tests/guests are written against.
 * Ring 0 may be interpreted by the host at a microsecond an instruction, so work of any
 * size belongs into user_run(). All RAM and devices are mapped one to one and open to
 * ring 3, I/O ports too. */
#ifndef VMM_GUEST_GUEST_H
#define VMM_GUEST_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/guest/layout.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- Processor ------------------------------------------------------------------- */

static inline void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t v;

    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t v;

    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t v;

    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

/* Device registers: one access of exactly this width, with the plainest instruction. */
#define MMIO_ACCESS(bits)                                                                \
    static inline uint##bits##_t mmio_read##bits(uint64_t address)                       \
    {                                                                                    \
        uint##bits##_t v;                                                                \
                                                                                         \
        __asm__ volatile("mov (%1), %0" : "=r"(v) : "r"(address) : "memory");            \
        return v;                                                                        \
    }                                                                                    \
    static inline void mmio_write##bits(uint64_t address, uint##bits##_t v)              \
    {                                                                                    \
        __asm__ volatile("mov %0, (%1)" ::"r"(v), "r"(address) : "memory");              \
    }
MMIO_ACCESS(8)
MMIO_ACCESS(16)
MMIO_ACCESS(32)
MMIO_ACCESS(64)

static inline uint64_t msr_read(uint32_t index)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return low | (uint64_t)high << 32;
}

static inline void msr_write(uint32_t index, uint64_t v)
{
    __asm__ volatile("wrmsr" ::"c"(index), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

static inline uint64_t tsc_read(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return low | (uint64_t)high << 32;
}

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid_read(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;

    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(subleaf));
    return r;
}

static inline void interrupts_on(void)
{
    __asm__ volatile("sti" ::: "memory");
}

static inline void interrupts_off(void)
{
    __asm__ volatile("cli" ::: "memory");
}

/* Sleep until an interrupt: the STI shadow lets none slip in between the two. */
static inline void interrupts_wait(void)
{
    __asm__ volatile("sti; hlt" ::: "memory");
}

static inline void cpu_pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

/* ---- Traps and rings ------------------------------------------------------------- */

/* As the entry code and the processor push it. */
struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

#define TRAP_NONE   256
#define VECTOR_DE   0
#define VECTOR_DB   1
#define VECTOR_BP   3
#define VECTOR_UD   6
#define VECTOR_NM   7
#define VECTOR_GP   13
#define VECTOR_PF   14
#define VECTOR_PIC  0x20 /* 0x20 to 0x2f: the two 8259s */
#define VECTOR_FREE 0x30 /* from here to 0xef: yours */
#define VECTOR_IPI  0xf0
#define VECTOR_APIC 0xff /* spurious */

/* How a guarded call ended: with a value, or (vector not TRAP_NONE) by that exception. */
struct trap_report {
    uint64_t value;
    unsigned vector;
    uint64_t error, rip, address;
};

struct cpu {
    uint64_t resume; /* CPU_RESUME: stack of the running context_run() */
    struct trap_report report;
    unsigned index;
    unsigned apic_id;
    unsigned online;                  /* released by the CPU when it is up */
    uint64_t (*volatile job)(void *); /* written before the IPI; NULL: done */
    void *job_argument;
    uint64_t job_value;
    volatile unsigned ipis;
};

/* Vectors from 32 on; the handler signals end of interrupt itself. */
typedef void (*interrupt_fn)(struct trap_frame *frame);

void cpu_init(struct cpu *cpu);
struct cpu *cpu_get(unsigned index);
struct cpu *cpu_self(void);
void interrupt_set(unsigned vector, interrupt_fn handler);
/* A handler that counts in interrupt_counts[vector] and ends the interrupt at the APIC. */
void interrupt_count(struct trap_frame *frame);
extern volatile unsigned interrupt_counts[256];

/* Call @function(@argument) in ring 3 / ring 0 and return its value; an exception in it
 * ends it. @report may be NULL: then an exception is fatal. Interrupts stay on in ring 3.
 */
uint64_t user_run(uint64_t (*function)(void *), void *argument,
                  struct trap_report *report);
uint64_t guarded_run(uint64_t (*function)(void *), void *argument,
                     struct trap_report *report);

/* ---- Interrupt controllers -------------------------------------------------------- */

/* Both 8259s moved to VECTOR_PIC and masked; the local APIC on. */
void interrupt_init(void);
void pic_mask(unsigned irq, bool masked);
void pic_end(unsigned irq);
uint32_t lapic_read(unsigned offset);
void lapic_write(unsigned offset, uint32_t v);
void lapic_init(void);
unsigned lapic_id(void);
void lapic_end(void);
/* Let the 8259s interrupt this CPU (LINT0 as ExtINT), or not. */
void lapic_pic_route(bool on);
/* Send an interrupt command (SDM vol. 3, 11.6.1) to @apic_id and wait for its delivery.
 */
void lapic_command(unsigned apic_id, uint32_t command);
/* One shot after @count ticks divided by 1, or periodic; a count of 0 stops it. */
void lapic_timer(unsigned vector, bool periodic, uint32_t count);

/* Route a GSI to @vector on this CPU; ISA interrupts by isa_route(). */
uint32_t ioapic_read(unsigned index);
void ioapic_write(unsigned index, uint32_t v);
unsigned ioapic_pins(void);
void ioapic_route(unsigned gsi, unsigned vector, uint16_t madt_flags);
void ioapic_mask(unsigned gsi);
void isa_route(unsigned irq, unsigned vector);
void isa_mask(unsigned irq);

#define ICR_FIXED   0x00004000
#define ICR_NMI     0x00004400
#define ICR_INIT    0x00004500
#define ICR_STARTUP 0x00004600

/* ---- Time -------------------------------------------------------------------------- */

/* Measure the TSC by the ACPI PM timer, or by the PIT without one. */
void time_init(void);
extern uint64_t tsc_hz;
uint64_t time_us(void); /* since time_init() */
void time_delay(unsigned us);
/* Does the PIT's counter move? */
bool pit_present(void);
/* Channel 0 at @hz on IRQ 0; 0 stops it. */
void pit_start(unsigned hz);
/* With interrupts on, wait until *@counter is at least @target; false after @ms. */
bool time_wait_for(volatile unsigned *counter, unsigned target, unsigned ms);

/* ---- Other processors ----------------------------------------------------------------
 */

/* Start every CPU that ACPI lists; returns how many run, this one included. */
unsigned smp_start(void);
extern unsigned smp_count;
/* Run @job(@argument) in ring 3 on CPU @index (not 0), at the same time as the caller. */
void smp_run(unsigned index, uint64_t (*job)(void *), void *argument);
/* Wait until it is done and return its value; false after @ms. */
bool smp_wait(unsigned index, unsigned ms, uint64_t *value);

/* ---- ACPI and PCI ---------------------------------------------------------------------
 */

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem[6], oem_table[8];
    uint32_t oem_revision, creator, creator_revision;
};

struct acpi {
    bool found;
    unsigned bad_checksums;
    uint64_t rsdp;
    unsigned table_count;
    const struct acpi_header *tables[32]; /* those of the XSDT (or RSDT), then the DSDT */
    unsigned cpu_count;
    uint32_t apic_ids[MAX_CPUS];
    uint64_t lapic, ioapic;
    bool has_8259;
    uint32_t isa_gsi[16];
    uint16_t isa_flags[16];
    uint64_t ecam; /* 0: none */
    uint8_t bus_start, bus_end;
    uint16_t pm1a_event, pm1a_control, pm_timer, sci_irq;
    bool has_reset;
    uint8_t reset_space, reset_value;
    uint64_t reset_address;
    bool has_s5;
    uint8_t s5_type;
};

extern struct acpi acpi;
void acpi_init(void);
const struct acpi_header *acpi_table(const char *signature);
/* Write SLP_TYP and SLP_EN for \_S5_; returns only if that did nothing. */
void acpi_poweroff(void);

/* @bdf is bus << 8 | device << 3 | function. */
uint32_t pci_read32(unsigned bdf, unsigned offset); /* by ECAM if there is one */
void pci_write32(unsigned bdf, unsigned offset, uint32_t v);
uint32_t pci_port_read32(unsigned bdf, unsigned offset); /* by 0xcf8 and 0xcfc */
uint16_t pci_read16(unsigned bdf, unsigned offset);
void pci_write16(unsigned bdf, unsigned offset, uint16_t v);
uint8_t pci_read8(unsigned bdf, unsigned offset);
void pci_write8(unsigned bdf, unsigned offset, uint8_t v);

struct pci_bar {
    uint64_t address, size; /* size 0: there is none */
    bool io, wide;
};

/* Size BAR @index (0 to 5), and map it into the page tables if it is memory. */
bool pci_bar_read(unsigned bdf, unsigned index, struct pci_bar *bar);
/* Move it; the caller has turned decoding off by pci_command(). */
void pci_bar_move(unsigned bdf, unsigned index, const struct pci_bar *bar,
                  uint64_t address);
/* Set and clear bits of the command register: 1 ports, 2 memory, 4 bus mastering,
 * 0x400 INTx off. */
void pci_command(unsigned bdf, uint16_t set, uint16_t clear);
/* Config offset of the first capability @id behind @after (0: from the start); 0: none. */
unsigned pci_capability(unsigned bdf, uint8_t id, unsigned after);

struct pci_msix {
    unsigned bdf, capability, count;
    uint64_t table, pending; /* addresses */
};

/* Turn MSI-X on, every entry masked; false if the function has none. */
bool pci_msix_enable(unsigned bdf, struct pci_msix *msix);
/* Entry @entry interrupts CPU @apic_id at @vector; both may be called in ring 3. */
void pci_msix_set(const struct pci_msix *msix, unsigned entry, unsigned apic_id,
                  unsigned vector);
void pci_msix_mask(const struct pci_msix *msix, unsigned entry, bool masked);
bool pci_msix_pending(const struct pci_msix *msix, unsigned entry);

/* Next function from @from on, over all buses; -1 after the last. */
int pci_next(unsigned from);

/* ---- Board devices
 * ---------------------------------------------------------------------- */

struct rtc_time {
    unsigned year, month, day, hour, minute, second;
};

uint8_t rtc_register(unsigned index);
void rtc_set_register(unsigned index, uint8_t v);
/* A consistent reading; false if the clock never lets one be made. */
bool rtc_read(struct rtc_time *time);

/* Each waits for the controller to be ready and returns false (or -1) when it never is.
 */
bool i8042_command(uint8_t command);
bool i8042_write(uint8_t byte);
int i8042_read(void);

/* ---- Text, memory, boot information ---------------------------------------------- */

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);
bool text_starts(const char *text, const char *start);
/* Decimal or 0x-hexadecimal; false if @text is anything else. */
bool number_parse(const char *text, uint64_t *value);

/* Console: COM1. %s %c %d %u %x %lu %lx %p %%, with '0', '-' and a width. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_bytes(const char *text, size_t size);

enum boot_protocol { BOOT_MULTIBOOT, BOOT_PVH };

struct memory_range {
    uint64_t start, size;
    uint32_t type; /* 1 RAM, 2 reserved, 3 ACPI tables, 4 ACPI NVS */
};

struct boot_module {
    uint64_t start, size;
};

struct boot {
    enum boot_protocol protocol;
    char command_line[1024];
    int argc;
    char *argv[32]; /* the command line's words, without the file name some loaders add */
    unsigned range_count;
    struct memory_range ranges[64];
    unsigned module_count;
    struct boot_module modules[8];
    uint64_t rsdp; /* 0: search for it */
};

extern struct boot boot;
void boot_parse(uint32_t magic, uint32_t info);
/* The value of a `key=value` word of the command line, or NULL. */
const char *boot_option(const char *key);

/* Is @word one of the words of the command line? */
bool boot_word(const char *word);
uint64_t boot_ram_size(void);

/* Map [@start, +@size) one to one in 2 MiB pages (for what lies above 4 GiB). */
bool memory_map(uint64_t start, uint64_t size, uint64_t flags);
/* Give the 4 KiB page at @address its own entry with these PTE_ flags; 0 unmaps it. */
bool memory_protect(uint64_t address, uint64_t flags);

/* ---- Ends of a run ---------------------------------------------------------------- */

/* Through the debug-exit port: the VMM's exit status is 2 * value + 1. */
_Noreturn void guest_exit(uint32_t value);
_Noreturn void guest_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void cpu_stop(void);

#define EXIT_PASS 0
#define EXIT_FAIL 1
#define EXIT_TRAP 2 /* an exception nobody expected */

/* Fail the guest, with the condition's text, when @condition is false. */
#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition))                                                                \
            guest_fail("%s:%d: %s", __FILE_NAME__, __LINE__, #condition);                \
    } while (0)

/* Written by each guest; its value goes to guest_exit(). */
int guest_main(int argc, char **argv);

#endif
