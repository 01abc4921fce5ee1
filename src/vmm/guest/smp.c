/* SPDX-License-Identifier: MIT */
/* Starting the other processors and giving them work. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

unsigned smp_count = 1;
extern const uint8_t ap_trampoline[], ap_trampoline_end[];
extern uint32_t start_stack;
void ap_start(void);

static void ipi_handle(struct trap_frame *frame)
{
    cpu_self()->ipis++;
    lapic_end();
}

/* The other CPUs live here: asleep until an IPI says that there is a job. */
void ap_start(void)
{
    struct cpu *cpu = cpu_self();

    cpu_init(cpu);
    lapic_init();
    cpu->apic_id = lapic_id();
    __atomic_store_n(&cpu->online, 1, __ATOMIC_RELEASE); /* pairs with smp_start() */
    for (;;) {
        /* pairs with smp_run(): the argument was written before the job */
        uint64_t (*job)(void *) = __atomic_load_n(&cpu->job, __ATOMIC_ACQUIRE);

        if (!job) {
            interrupts_wait();
            interrupts_off();
            continue;
        }
        cpu->job_value = user_run(job, cpu->job_argument, NULL);
        __atomic_store_n(&cpu->job, NULL, __ATOMIC_RELEASE); /* pairs with smp_wait() */
    }
}

static bool online_wait(struct cpu *cpu, unsigned ms)
{
    uint64_t until = time_us() + ms * 1000ull;

    while (!__atomic_load_n(&cpu->online, __ATOMIC_ACQUIRE)) {
        if (time_us() > until)
            return false;
        cpu_pause();
    }
    return true;
}

static bool cpu_start(unsigned index, unsigned apic_id)
{
    struct cpu *cpu = cpu_get(index);

    start_stack = (uint32_t)(uint64_t)cpu + CPU_MAIN_STACK;
    lapic_command(apic_id, ICR_INIT);
    time_delay(200);
    lapic_command(apic_id, ICR_STARTUP | TRAMPOLINE >> 12);
    if (online_wait(cpu, 200))
        return true;
    lapic_command(apic_id, ICR_STARTUP | TRAMPOLINE >> 12);
    return online_wait(cpu, 10000);
}

unsigned smp_start(void)
{
    unsigned self = lapic_id(), i;

    cpu_get(0)->apic_id = self;
    interrupt_set(VECTOR_IPI, ipi_handle);
    memcpy((void *)TRAMPOLINE, ap_trampoline,
           (size_t)(ap_trampoline_end - ap_trampoline));
    for (i = 0; i < acpi.cpu_count && smp_count < MAX_CPUS; i++)
        if (acpi.apic_ids[i] != self && cpu_start(smp_count, acpi.apic_ids[i]))
            smp_count++;
    return smp_count;
}

void smp_run(unsigned index, uint64_t (*job)(void *), void *argument)
{
    struct cpu *cpu = cpu_get(index);

    cpu->job_argument = argument;
    __atomic_store_n(&cpu->job, job, __ATOMIC_RELEASE); /* pairs with ap_start() */
    lapic_command(cpu->apic_id, ICR_FIXED | VECTOR_IPI);
}

bool smp_wait(unsigned index, unsigned ms, uint64_t *value)
{
    struct cpu *cpu = cpu_get(index);
    uint64_t until = time_us() + ms * 1000ull;

    while (__atomic_load_n(&cpu->job, __ATOMIC_ACQUIRE)) { /* pairs with ap_start() */
        if (time_us() > until)
            return false;
        cpu_pause();
    }
    *value = cpu->job_value;
    return true;
}
