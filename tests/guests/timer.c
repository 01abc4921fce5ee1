/* SPDX-License-Identifier: MIT */
/* Every timer interrupts, by every way: PIT by 8259 and I/O APIC, the local APIC's timer
 * once, periodically and by TSC deadline; out of HLT and out of ring 3. Word pit=0: there must be none. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

enum { PIT_VECTOR = VECTOR_FREE, ONCE_VECTOR, PERIODIC_VECTOR, DEADLINE_VECTOR };

#define MSR_TSC_DEADLINE 0x6e0
#define LVT_TIMER        0x320

static void pic_tick(struct trap_frame *frame)
{
    interrupt_counts[frame->vector]++;
    pic_end(0);
}

static void check_pic(void)
{
    interrupt_set(VECTOR_PIC, pic_tick);
    lapic_pic_route(true);
    pic_mask(0, false);
    CHECK(time_wait_for(&interrupt_counts[VECTOR_PIC], 10, 5000));
    interrupts_off();
    pic_mask(0, true);
    lapic_pic_route(false);
    print("PIT by 8259\n");
}

static void check_pit(void)
{
    CHECK(pit_present());
    pit_start(1000);
    CHECK(acpi.has_8259);
    check_pic();
    interrupt_set(PIT_VECTOR, interrupt_count);
    isa_route(0, PIT_VECTOR);
    CHECK(time_wait_for(&interrupt_counts[PIT_VECTOR], 10, 5000));
    interrupts_off();
    isa_mask(0);
    pit_start(0);
    print("PIT by I/O APIC\n");
}

static void check_lapic(void)
{
    interrupt_set(ONCE_VECTOR, interrupt_count);
    interrupt_set(PERIODIC_VECTOR, interrupt_count);
    lapic_timer(ONCE_VECTOR, false, 100000);
    CHECK(time_wait_for(&interrupt_counts[ONCE_VECTOR], 1, 5000));
    time_delay(2000);
    CHECK(interrupt_counts[ONCE_VECTOR] == 1);
    print("local APIC timer once\n");

    lapic_timer(PERIODIC_VECTOR, true, 1000000);
    CHECK(time_wait_for(&interrupt_counts[PERIODIC_VECTOR], 10, 5000));
    lapic_timer(PERIODIC_VECTOR, true, 0);
    print("local APIC timer periodic\n");
}

static void check_deadline(void)
{
    if (!(cpuid_read(1, 0).ecx >> 24 & 1)) {
        print("no TSC deadline mode\n");
        return;
    }
    interrupts_off();
    interrupt_set(DEADLINE_VECTOR, interrupt_count);
    lapic_write(LVT_TIMER, DEADLINE_VECTOR | 2 << 17);
    msr_write(MSR_TSC_DEADLINE, tsc_read() + tsc_hz / 1000);
    while (!interrupt_counts[DEADLINE_VECTOR]) { /* the VMM's deadline ends a failure */
        interrupts_wait();
        interrupts_off();
    }
    CHECK(msr_read(MSR_TSC_DEADLINE) == 0);
    print("TSC deadline, out of HLT\n");
}

/* Spin until the timer interrupt's handler has run, which proves both directions. */
static uint64_t spin(void *argument)
{
    volatile unsigned *count = argument;
    unsigned until = *count + 20;
    uint64_t a = 1, b = 2, c = 3, loops;

    for (loops = 0; *count < until; loops++) {
        a += b;
        b ^= c;
        c += 1;
    }
    /* the same again without interruption in the registers' way */
    for (; loops; loops--) {
        c -= 1;
        b ^= c;
        a -= b;
    }
    return a == 1 && b == 2 && c == 3;
}

static void check_user(void)
{
    lapic_timer(PERIODIC_VECTOR, true, 200000);
    CHECK(user_run(spin, (void *)&interrupt_counts[PERIODIC_VECTOR], NULL) == 1);
    lapic_timer(PERIODIC_VECTOR, true, 0);
    print("20 interrupts into ring 3\n");
}

static void check_clocks(void)
{
    uint32_t from, to, i;

    CHECK(acpi.pm_timer != 0);
    from = in32(acpi.pm_timer);
    for (i = 0; i < 1000; i++) {
        to = in32(acpi.pm_timer);
        CHECK(((to - from) & 0xffffff) < 0x800000); /* never backwards */
        from = to;
    }
    print("TSC at %lu kHz by the PM timer\n", tsc_hz / 1000);
    CHECK(tsc_hz > 100000000 && tsc_hz < 20000000000);
}

int guest_main(int argc, char **argv)
{
    acpi_init();
    time_init();
    check_clocks();
    if (boot_option("pit") && boot_option("pit")[0] == '0')
        CHECK(!pit_present());
    else
        check_pit();
    check_lapic();
    check_deadline();
    check_user();
    return EXIT_PASS;
}
