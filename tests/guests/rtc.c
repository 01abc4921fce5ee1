/* SPDX-License-Identifier: MIT */
/* The clock: a sane date, CMOS memory, and its three interrupts. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

#define RTC_VECTOR VECTOR_FREE
#define PERIODIC   0x40
#define ALARM      0x20
#define UPDATE     0x10

static volatile unsigned seen[3];

static void rtc_interrupt(struct trap_frame *frame)
{
    uint8_t status = rtc_register(0x0c);

    seen[0] += (status & PERIODIC) != 0;
    seen[1] += (status & ALARM) != 0;
    seen[2] += (status & UPDATE) != 0;
    interrupt_count(frame);
}

static void check_date(void)
{
    struct rtc_time t;

    CHECK(rtc_register(0x0d) & 0x80); /* valid RAM and time */
    CHECK(rtc_read(&t));
    print("%04u-%02u-%02u %02u:%02u:%02u\n", t.year, t.month, t.day, t.hour, t.minute,
          t.second);
    CHECK(t.year >= 2024 && t.year < 2100 && t.month >= 1 && t.month <= 12);
    CHECK(t.day >= 1 && t.day <= 31 && t.hour < 24 && t.minute < 60 && t.second < 61);
}

static void check_memory(void)
{
    unsigned i;

    for (i = 0x40; i < 0x48; i++)
        rtc_set_register(i, (uint8_t)(i * 37));
    for (i = 0x40; i < 0x48; i++)
        CHECK(rtc_register(i) == (uint8_t)(i * 37));
}

static void check_interrupt(uint8_t which, unsigned index, const char *name)
{
    uint8_t mode = rtc_register(0x0b) & 0x0f;

    rtc_register(0x0c);
    rtc_set_register(0x0b, mode | which);
    CHECK(time_wait_for(&seen[index], 1, 5000));
    interrupts_off();
    rtc_set_register(0x0b, mode);
    rtc_register(0x0c);
    print("%s interrupt\n", name);
}

int guest_main(int argc, char **argv)
{
    acpi_init();
    time_init();
    check_date();
    check_memory();
    interrupt_set(RTC_VECTOR, rtc_interrupt);
    isa_route(8, RTC_VECTOR);
    rtc_set_register(0x0a, 0x26); /* 1024 Hz */
    check_interrupt(PERIODIC, 0, "periodic");
    check_interrupt(UPDATE, 2, "update");
    rtc_set_register(1, 0xff); /* any second, minute, hour */
    rtc_set_register(3, 0xff);
    rtc_set_register(5, 0xff);
    check_interrupt(ALARM, 1, "alarm");
    return EXIT_PASS;
}
