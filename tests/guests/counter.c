/* SPDX-License-Identifier: MIT */
/* Drives the counter device of examples/mmio-device.c and takes its interrupt. */
#include "vmm/guest/guest.h"

#define COUNTER 0xd8000000ull
#define COUNT   (COUNTER + 0)
#define TICK    (COUNTER + 4)
#define TOTAL   (COUNTER + 8)
#define VECTOR  VECTOR_FREE

enum { LINE = 10, TICKS = 5 };

static volatile unsigned seen;

static void counter_interrupt(struct trap_frame *frame)
{
    seen++;
    interrupt_count(frame);
}

int guest_main(int argc, char **argv)
{
    unsigned i;

    acpi_init();
    time_init();
    interrupt_set(VECTOR, counter_interrupt);
    isa_route(LINE, VECTOR);
    CHECK(mmio_read32(COUNT) == 0 && mmio_read32(TOTAL) == 0);
    mmio_write32(COUNT, TICKS);
    for (i = 0; i < TICKS; i++) {
        CHECK(mmio_read32(COUNT) == TICKS - i && seen == 0);
        mmio_write32(TICK, 1);
    }
    CHECK(time_wait_for(&seen, 1, 5000));
    CHECK(mmio_read32(TOTAL) == TICKS && mmio_read32(COUNT) == 0);
    mmio_write32(TICK, 1); /* nothing is left to count: no interrupt */
    time_delay(1000);
    CHECK(seen == 1);
    print("counted %u down, one interrupt\n", (unsigned)TICKS);
    return EXIT_PASS;
}
