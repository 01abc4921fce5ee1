/* SPDX-License-Identifier: MIT */
/* Time by the TSC, whose rate is measured; and the PIT. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

uint64_t tsc_hz;
static uint64_t tsc_start;

static uint32_t pm_timer_read(void)
{
    return in32(acpi.pm_timer) & 0xffffff; /* 24 bits are always there */
}

static uint32_t pit_read(void)
{
    uint8_t low;

    out8(PIT_PORT + 3, 0); /* latch channel 0 */
    low = in8(PIT_PORT);
    return 0xffff - (low | (uint32_t)in8(PIT_PORT) << 8);
}

struct stamp {
    uint64_t tsc;
    uint32_t count;
};

/* Both clocks at one time: this processor may be taken away between two reads, for long, so
 * it is the closest pair of several. */
static struct stamp stamp(uint32_t (*read)(void))
{
    struct stamp best = { 0 };
    uint64_t closest = UINT64_MAX;
    unsigned i;

    for (i = 0; i < 8; i++) {
        uint64_t before = tsc_read();
        uint32_t count = read();
        uint64_t apart = tsc_read() - before;

        if (apart < closest) {
            closest = apart;
            best.tsc = before + apart / 2;
            best.count = count;
        }
    }
    return best;
}

static uint64_t measure(uint32_t (*read)(void), uint32_t mask, uint32_t hz)
{
    struct stamp first = stamp(read), last;
    uint32_t seen = first.count, now, still = 0;
    uint64_t ticks = 0;

    while (ticks < hz / 50) {
        now = read();
        still = now == seen ? still + 1 : 0;
        if (still == 10000)
            return 0; /* it does not count */
        ticks += (now - seen) & mask;
        seen = now;
    }
    last = stamp(read);
    ticks += (last.count - seen) & mask;
    return (last.tsc - first.tsc) * hz / ticks;
}

bool pit_present(void)
{
    uint32_t first, i;

    pit_start(20);
    first = pit_read();
    for (i = 0; i < 1000; i++)
        if (pit_read() != first)
            return true;
    return false;
}

void pit_start(unsigned hz)
{
    unsigned count = hz ? (PIT_HZ + hz / 2) / hz : 0;

    out8(PIT_PORT + 3,
         hz ? 0x34 : 0x30); /* channel 0: rate generator, or waits for a count */
    if (hz) {
        out8(PIT_PORT, (uint8_t)count);
        out8(PIT_PORT, (uint8_t)(count >> 8));
    }
}

void time_init(void)
{
    tsc_hz = acpi.pm_timer ? measure(pm_timer_read, 0xffffff, PM_TIMER_HZ) : 0;
    if (!tsc_hz) {
        out8(PIT_PORT + 3, 0x34);
        out8(PIT_PORT, 0xff);
        out8(PIT_PORT, 0xff);
        tsc_hz = measure(pit_read, 0xffff, PIT_HZ);
        pit_start(0);
    }
    if (!tsc_hz)
        guest_fail("neither the ACPI PM timer nor the PIT counts");
    tsc_start = tsc_read();
}

uint64_t time_us(void)
{
    return (tsc_read() - tsc_start) / (tsc_hz / 1000000);
}

void time_delay(unsigned us)
{
    uint64_t until = time_us() + us;

    while (time_us() < until)
        cpu_pause();
}

bool time_wait_for(volatile unsigned *counter, unsigned target, unsigned ms)
{
    uint64_t until = time_us() + ms * 1000ull;

    while (*counter < target) {
        if (time_us() > until)
            return false;
        interrupts_on();
        cpu_pause();
    }
    return true;
}
