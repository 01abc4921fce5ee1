/* SPDX-License-Identifier: MIT */
/* The guest of `umbra demo`: looks at the machine from the inside, tries every part of
 * it, computes something, reports on COM1 and powers off. */
#include "vmm/guest/demo.h"
#include "vmm/guest/guest.h"

unsigned demo_problems;

void demo_line(const char *name, bool good, const char *text)
{
    print("  %-22s %s%s\n", name, good ? "" : "PROBLEM: ", text);
    if (!good)
        demo_problems++;
}

static void show_memory(void)
{
    static const char *const types[] = { "?",           "RAM",      "reserved",
                                         "ACPI tables", "ACPI NVS", "bad" };
    unsigned i;

    print("\nMemory: %lu MiB of RAM\n", (boot_ram_size() + 0x80000) >> 20);
    for (i = 0; i < boot.range_count; i++) {
        const struct memory_range *r = &boot.ranges[i];

        print("  %012lx-%012lx %9lu KiB  %s\n", r->start, r->start + r->size - 1,
              r->size >> 10, types[r->type < ARRAY_SIZE(types) ? r->type : 0]);
    }
}

/* Write and read back one word in the last page of every range of RAM above 1 MiB. */
static uint64_t touch_memory(void *argument)
{
    uint64_t touched = 0;
    unsigned i;

    for (i = 0; i < boot.range_count; i++) {
        const struct memory_range *r = &boot.ranges[i];
        volatile uint64_t *word = (volatile uint64_t *)((r->start + r->size - 8) & ~7ull);
        uint64_t old;

        if (r->type != 1 || r->start < 0x100000 || r->size < 0x400000)
            continue;
        old = *word;
        *word = 0x756d627261000000u + i;
        if (*word == 0x756d627261000000u + i)
            touched++;
        else
            return 0;
        *word = old;
    }
    return touched;
}

static void check_memory(void)
{
    struct trap_report report;
    unsigned i;

    for (i = 0; i < boot.range_count; i++)
        if (boot.ranges[i].type == 1 && boot.ranges[i].start >= 1ull << 32)
            memory_map(boot.ranges[i].start + boot.ranges[i].size - 8, 8,
                       PTE_PRESENT | PTE_WRITE | PTE_USER);
    user_run(touch_memory, NULL, &report);
    demo_line("end of every range", report.vector == TRAP_NONE && report.value,
              report.vector == TRAP_NONE ? "written and read back" : "page fault");
}

static void show_acpi(void)
{
    unsigned i;

    if (!acpi.found) {
        print("\nACPI: no tables\n");
        return;
    }
    print("\nACPI: RSDP at %lx,", acpi.rsdp);
    for (i = 0; i < acpi.table_count; i++)
        print(" %c%c%c%c", acpi.tables[i]->signature[0], acpi.tables[i]->signature[1],
              acpi.tables[i]->signature[2], acpi.tables[i]->signature[3]);
    print("\n");
    demo_line("checksums", !acpi.bad_checksums, acpi.bad_checksums ? "wrong" : "right");
    demo_line("power-off state", acpi.has_s5, acpi.has_s5 ? "\\_S5_ found" : "no \\_S5_");
}

static void show_processor(void)
{
    char name[49] = { 0 }, maker[13] = { 0 }, host[13] = { 0 };
    struct cpuid r = cpuid_read(0, 0);
    unsigned i;

    memcpy(maker, &r.ebx, 4);
    memcpy(maker + 4, &r.edx, 4);
    memcpy(maker + 8, &r.ecx, 4);

    for (i = 0; cpuid_read(0x80000000, 0).eax >= 0x80000004 && i < 3; i++) {
        r = cpuid_read(0x80000002 + i, 0);
        memcpy(name + i * 16, &r, 16);
    }
    if (cpuid_read(1, 0).ecx >> 31) {
        r = cpuid_read(0x40000000, 0);
        memcpy(host, &r.ebx, 12);
    }
    print("\nProcessors: %s%s%s\n", name[0] ? name : maker, host[0] ? ", under " : "",
          host);
    print("  %-22s %lu MHz\n", "time stamp counter", tsc_hz / 1000000);
}

static void start_processors(void)
{
    unsigned listed = acpi.cpu_count ? acpi.cpu_count : 1, running = smp_start(), i;
    uint64_t value;

    for (i = 1; i < running; i++) {
        smp_run(i, NULL, NULL); /* an IPI without a job */
        time_wait_for(&cpu_get(i)->ipis, 1, 5000);
    }
    print("  %-22s %u listed, %u running, APIC ids", "started by INIT-SIPI", listed,
          running);
    for (i = 0; i < running; i++)
        print(" %u", cpu_get(i)->apic_id);
    print("\n");
    if (running < listed)
        demo_line("missing", false, "some processors did not start");
    for (i = 1; i < running; i++)
        if (!cpu_get(i)->ipis || !smp_wait(i, 0, &value))
            demo_line("IPI", false, "a processor did not get its interrupt");
    if (running > 1)
        demo_line("interprocessor IRQs", true, "delivered to each");
}

static void finish(void)
{
    print("\n");
    if (demo_problems) {
        print("%u problem%s. Ending by the debug-exit port.\n", demo_problems,
              demo_problems == 1 ? "" : "s");
        guest_exit(EXIT_FAIL);
    }
    print("All good. Powering off after %lu ms.\n", time_us() / 1000);
    acpi_poweroff();
    print("PROBLEM: the machine is still on\n");
    guest_exit(EXIT_FAIL);
}

int guest_main(int argc, char **argv)
{
    int i;

    acpi_init();
    time_init();
    print("\numbra demo: a guest of our own, started by %s in 32-bit mode\n",
          boot.protocol == BOOT_PVH ? "PVH" : "multiboot");
    for (i = 0; i < argc; i++)
        print("  %-22s %s\n", i ? "" : "arguments", argv[i]);
    show_memory();
    check_memory();
    show_acpi();
    show_processor();
    start_processors();
    demo_interrupts();
    demo_devices();
    demo_compute();
    finish();
    return EXIT_FAIL;
}
