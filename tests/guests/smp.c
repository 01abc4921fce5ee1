/* SPDX-License-Identifier: MIT */
/* cpus=N processors start, have the ids that ACPI lists, get IPIs and NMIs, and count
 * together in ring 3. Where CPUID says other ids, that is said: it may be KVM's way. */
#include "vmm/guest/guest.h"

#define ROUNDS 200000

static volatile uint64_t shared, claimed;
static volatile unsigned nmis[MAX_CPUS];

static uint64_t count_together(void *argument)
{
    uint64_t i;

    __atomic_fetch_add(&claimed, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&claimed, __ATOMIC_SEQ_CST) < smp_count)
        cpu_pause(); /* all at once */
    for (i = 0; i < ROUNDS; i++)
        __atomic_fetch_add(&shared, 1, __ATOMIC_SEQ_CST);
    return cpuid_read(1, 0).ebx >> 24;
}

static void nmi_handle(struct trap_frame *frame)
{
    nmis[cpu_self()->index]++;
}

static void check_ids(void)
{
    unsigned i, k;

    for (i = 0; i < smp_count; i++) {
        for (k = 0; k < i; k++)
            CHECK(cpu_get(i)->apic_id != cpu_get(k)->apic_id);
        for (k = 0; k < acpi.cpu_count && acpi.apic_ids[k] != cpu_get(i)->apic_id; k++)
            ;
        CHECK(k < acpi.cpu_count);
    }
}

static void check_cpuid(unsigned index, uint64_t id)
{
    if (id != cpu_get(index)->apic_id)
        print("CPUID is the host's: APIC id %lu on %u\n", id, cpu_get(index)->apic_id);
}

static void check_count(void)
{
    uint64_t value;
    unsigned i;

    for (i = 1; i < smp_count; i++)
        smp_run(i, count_together, NULL);
    value = user_run(count_together, NULL, NULL);
    check_cpuid(0, value);
    for (i = 1; i < smp_count; i++) {
        CHECK(smp_wait(i, 20000, &value));
        check_cpuid(i, value);
    }
    CHECK(shared == (uint64_t)ROUNDS * smp_count);
    print("counted %lu together\n", shared);
}

static void check_ipis(void)
{
    unsigned i, before;

    for (i = 1; i < smp_count; i++) {
        before = cpu_get(i)->ipis;
        lapic_command(cpu_get(i)->apic_id, ICR_FIXED | VECTOR_IPI);
        CHECK(time_wait_for(&cpu_get(i)->ipis, before + 1, 5000));
        lapic_command(cpu_get(i)->apic_id, ICR_NMI);
        CHECK(time_wait_for(&nmis[i], 1, 5000));
    }
    print("IPI and NMI to each\n");
    before = cpu_get(0)->ipis;
    lapic_command(0, ICR_FIXED | 1 << 18 | VECTOR_IPI); /* to self */
    CHECK(time_wait_for(&cpu_get(0)->ipis, before + 1, 5000));
    for (i = 1; i < smp_count; i++)
        cpu_get(i)->ipis = 0;
    lapic_command(0, ICR_FIXED | 3 << 18 | VECTOR_IPI); /* to all but self */
    for (i = 1; i < smp_count; i++)
        CHECK(time_wait_for(&cpu_get(i)->ipis, 1, 5000));
    print("IPI to self and to all others\n");
}

int guest_main(int argc, char **argv)
{
    uint64_t wanted = 1;

    if (boot_option("cpus"))
        CHECK(number_parse(boot_option("cpus"), &wanted));
    acpi_init();
    time_init();
    interrupt_set(2, nmi_handle);
    print("%u of %u listed CPUs run\n", smp_start(), acpi.cpu_count);
    CHECK(smp_count == wanted && acpi.cpu_count == wanted);
    check_ids();
    check_count();
    check_ipis();
    return EXIT_PASS;
}
