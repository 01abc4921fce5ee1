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

static uint64_t measure(uint32_t (*read)(void), uint32_t mask, uint32_t hz)
{
    uint64_t from = tsc_read(), begin = 0, ticks, end;
    uint32_t last = read(), now, i;

    /* Start at a change of the counter, so that a tick's length is not part of the error.
     */
    for (i = 0; i < 1000 && begin == 0; i++) {
        now = read();
        if (now != last)
            begin = tsc_read();
        last = now;
    }
    if (!begin)
        return 0;
    for (ticks = 0; ticks < hz / 50; last = now) {
        now = read();
        end = tsc_read();
        ticks += (now - last) & mask;
        if (now == last && end - from > 100000000000ull)
            return 0; /* it stands still */
    }
    return (end - begin) * hz / ticks;
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
