/* SPDX-License-Identifier: MIT */
/* What rtc.c and rtc_clock.c share; others see devices/board/rtc.h. */
#ifndef DEVICES_BOARD_RTC_INTERNAL_H
#define DEVICES_BOARD_RTC_INTERNAL_H

#include "base/util.h"
#include "devices/board/rtc.h"
#include "devices/device.h"
#include "devices/irq.h"
#include "loop/loop.h"

enum {
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_MINUTES,
    RTC_MINUTES_ALARM,
    RTC_HOURS,
    RTC_HOURS_ALARM,
    RTC_WEEKDAY,
    RTC_DAY,
    RTC_MONTH,
    RTC_YEAR,
    RTC_A,
    RTC_B,
    RTC_C,
    RTC_D,
    RTC_NVRAM,

    A_UIP = 0x80,
    A_DIVIDER_RESET = 0x60, /* both bits: the divider is held in reset */
    A_RATE = 0x0f,
    A_POWER_ON = 0x26, /* 32768 Hz crystal, 1024 Hz */

    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_BINARY = 0x04,
    B_24H = 0x02,

    C_IRQF = 0x80,
    C_PF = 0x40,
    C_AF = 0x20,
    C_UF = 0x10,

    D_VALID = 0x80,
    ALARM_ANY = 0xc0, /* both bits in an alarm register: matches always */
    RTC_REGISTERS = 128,
};

#define RTC_SECOND_NS UINT64_C(1000000000)

struct rtc_state {
    uint8_t index;
    uint8_t regs[RTC_REGISTERS]; /* time registers count only while stopped */
    int64_t offset_ns;           /* guest's time less the host's */
    bool stopped;                /* SET, or the divider in reset */
    bool divider_was_reset;      /* since it stopped */
    int64_t second;              /* guest's second that UF and AF account for */
    uint64_t period;             /* number of the period that PF accounts for */
};

struct rtc {
    struct device device;
    struct irq_line irq;
    struct loop_timer *timer; /* NULL without a loop */
    struct rtc_config config;
    struct rtc_state s;
};

/* The guest's time in nanoseconds since 1970. */
int64_t rtc_now(const struct rtc *rtc);
/* The second that @ns lies in, and how far. */
int64_t rtc_floor_second(int64_t ns);
uint64_t rtc_second_fraction(int64_t ns);

/* The time registers as of @now. */
void rtc_show(struct rtc *rtc, int64_t now);
/* Let the time go on from what the registers say, @fraction ns into that second. */
void rtc_adopt(struct rtc *rtc, uint64_t fraction);

/* Periods in 32768 Hz ticks for the rates of register A; 0: off. */
uint64_t rtc_period_ticks(const struct rtc *rtc);
/* The number of the period of @ticks that now is. */
uint64_t rtc_period_number(const struct rtc *rtc, uint64_t ticks);

/* Set the flags of what has happened since the last look; line and timer follow. */
void rtc_update(struct rtc *rtc);

#endif
