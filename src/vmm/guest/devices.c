/* SPDX-License-Identifier: MIT */
/* The clock and the keyboard controller. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

uint8_t rtc_register(unsigned index)
{
    out8(RTC_INDEX_PORT, (uint8_t)index);
    return in8(RTC_DATA_PORT);
}

void rtc_set_register(unsigned index, uint8_t v)
{
    out8(RTC_INDEX_PORT, (uint8_t)index);
    out8(RTC_DATA_PORT, v);
}

static unsigned from_bcd(uint8_t v)
{
    return (v >> 4) * 10u + (v & 15);
}

static void rtc_sample(struct rtc_time *time)
{
    static const uint8_t registers[] = { 0, 2, 4, 7, 8, 9, 0x32 };
    unsigned v[ARRAY_SIZE(registers)], i;
    uint8_t mode = rtc_register(0x0b);
    bool afternoon;

    for (i = 0; i < ARRAY_SIZE(registers); i++)
        v[i] = rtc_register(registers[i]);
    afternoon = !(mode & 2) && v[2] & 0x80;
    v[2] &= 0x7f;
    if (!(mode & 4))
        for (i = 0; i < ARRAY_SIZE(registers) - 1; i++)
            v[i] = from_bcd((uint8_t)v[i]);
    if (!(mode & 2))
        v[2] = v[2] % 12 + (afternoon ? 12 : 0);
    *time = (struct rtc_time){
        .second = v[0],
        .minute = v[1],
        .hour = v[2],
        .day = v[3],
        .month = v[4],
        .year = v[5] + (v[6] ? from_bcd((uint8_t)v[6]) : 20) * 100,
    };
}

/* Two samples that agree, both outside an update: no update fell between them. */
bool rtc_read(struct rtc_time *time)
{
    struct rtc_time again;
    unsigned tries, wait;

    for (tries = 0; tries < 5; tries++) {
        for (wait = 0; wait < 1000 && rtc_register(0x0a) & 0x80; wait++)
            cpu_pause();
        rtc_sample(time);
        rtc_sample(&again);
        if (memcmp(time, &again, sizeof(again)) == 0)
            return true;
    }
    return false;
}

static bool input_empty(void)
{
    unsigned wait;

    for (wait = 0; wait < 10000; wait++)
        if (!(in8(I8042_STATUS_PORT) & 2))
            return true;
    return false;
}

bool i8042_command(uint8_t command)
{
    if (!input_empty())
        return false;
    out8(I8042_STATUS_PORT, command);
    return true;
}

bool i8042_write(uint8_t byte)
{
    if (!input_empty())
        return false;
    out8(I8042_DATA_PORT, byte);
    return true;
}

int i8042_read(void)
{
    unsigned wait;

    for (wait = 0; wait < 2000; wait++)
        if (in8(I8042_STATUS_PORT) & 1)
            return in8(I8042_DATA_PORT);
    return -1;
}
