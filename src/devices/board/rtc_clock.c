/* SPDX-License-Identifier: MIT */
/* The MC146818A's time, alarm and periods: registers to nanoseconds and back, what flags are
 * due, when the next interrupt is. */
#include <time.h>

#include "devices/board/rtc_internal.h"

enum { RTC_YEAR_MIN = -200, RTC_YEAR_MAX = 270 }; /* from 1900 */

/* ---- Time ---------------------------------------------------------------------------
 */

int64_t rtc_now(const struct rtc *rtc)
{
    struct timespec now;
    uint64_t host;

    if (rtc->config.realtime_ns != NULL) {
        host = rtc->config.realtime_ns(rtc->config.realtime_context);
    } else {
        clock_gettime(CLOCK_REALTIME, &now);
        host = (uint64_t)now.tv_sec * RTC_SECOND_NS + (uint64_t)now.tv_nsec;
    }
    return (int64_t)(host + (uint64_t)rtc->s.offset_ns);
}

int64_t rtc_floor_second(int64_t ns)
{
    int64_t s = ns / (int64_t)RTC_SECOND_NS;

    return ns % (int64_t)RTC_SECOND_NS < 0 ? s - 1 : s;
}

uint64_t rtc_second_fraction(int64_t ns)
{
    return (uint64_t)(ns - rtc_floor_second(ns) * (int64_t)RTC_SECOND_NS);
}

static uint8_t rtc_encode(const struct rtc *rtc, int value)
{
    if ((rtc->s.regs[RTC_B] & B_BINARY) != 0) {
        return (uint8_t)value;
    }
    return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static int rtc_decode(const struct rtc *rtc, uint8_t value)
{
    if ((rtc->s.regs[RTC_B] & B_BINARY) != 0) {
        return value;
    }
    return (value >> 4) * 10 + (value & 0x0f);
}

static uint8_t rtc_encode_hour(const struct rtc *rtc, int hour)
{
    if ((rtc->s.regs[RTC_B] & B_24H) != 0) {
        return rtc_encode(rtc, hour);
    }
    return rtc_encode(rtc, hour % 12 == 0 ? 12 : hour % 12) | (hour >= 12 ? 0x80 : 0);
}

static int rtc_decode_hour(const struct rtc *rtc, uint8_t value)
{
    if ((rtc->s.regs[RTC_B] & B_24H) != 0) {
        return rtc_decode(rtc, value);
    }
    return rtc_decode(rtc, value & 0x7f) % 12 + ((value & 0x80) != 0 ? 12 : 0);
}

void rtc_show(struct rtc *rtc, int64_t now)
{
    time_t seconds = (time_t)rtc_floor_second(now);
    uint8_t *regs = rtc->s.regs;
    struct tm tm;

    if (gmtime_r(&seconds, &tm) == NULL) {
        return;
    }
    regs[RTC_SECONDS] = rtc_encode(rtc, tm.tm_sec);
    regs[RTC_MINUTES] = rtc_encode(rtc, tm.tm_min);
    regs[RTC_HOURS] = rtc_encode_hour(rtc, tm.tm_hour);
    regs[RTC_WEEKDAY] = rtc_encode(rtc, tm.tm_wday + 1);
    regs[RTC_DAY] = rtc_encode(rtc, tm.tm_mday);
    regs[RTC_MONTH] = rtc_encode(rtc, tm.tm_mon + 1);
    regs[RTC_YEAR] = rtc_encode(rtc, (tm.tm_year + 1900) % 100);
    regs[RTC_CENTURY] = rtc_encode(rtc, (tm.tm_year + 1900) / 100 % 100);
}

void rtc_adopt(struct rtc *rtc, uint64_t fraction)
{
    const uint8_t *regs = rtc->s.regs;
    struct tm tm = {
        .tm_sec = rtc_decode(rtc, regs[RTC_SECONDS]),
        .tm_min = rtc_decode(rtc, regs[RTC_MINUTES]),
        .tm_hour = rtc_decode_hour(rtc, regs[RTC_HOURS]),
        .tm_mday = rtc_decode(rtc, regs[RTC_DAY]),
        .tm_mon = rtc_decode(rtc, regs[RTC_MONTH]) - 1,
        .tm_year = rtc_decode(rtc, regs[RTC_CENTURY]) * 100 +
                   rtc_decode(rtc, regs[RTC_YEAR]) - 1900,
    };
    uint64_t wanted;

    /* Years far out (a guest can write 255 centuries) would not fit in nanoseconds. */
    if (tm.tm_year > RTC_YEAR_MAX) {
        tm.tm_year = RTC_YEAR_MAX;
    } else if (tm.tm_year < RTC_YEAR_MIN) {
        tm.tm_year = RTC_YEAR_MIN;
    }
    wanted = (uint64_t)timegm(&tm) * RTC_SECOND_NS + fraction;
    rtc->s.offset_ns =
        (int64_t)(wanted - ((uint64_t)rtc_now(rtc) - (uint64_t)rtc->s.offset_ns));
    rtc->s.second = rtc_floor_second(rtc_now(rtc));
}

/* ---- Flags and interrupt ------------------------------------------------------------
 */

uint64_t rtc_period_ticks(const struct rtc *rtc)
{
    unsigned rate = rtc->s.regs[RTC_A] & A_RATE;

    if (rate == 0) {
        return 0;
    }
    return UINT64_C(1) << (rate <= 2 ? rate + 6 : rate - 1);
}

uint64_t rtc_period_number(const struct rtc *rtc, uint64_t ticks)
{
    return (uint64_t)((unsigned __int128)clock_ns() * 32768 / RTC_SECOND_NS) / ticks;
}

static bool alarm_field(uint8_t alarm, uint8_t value)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || alarm == value;
}

static bool rtc_alarm_at(const struct rtc *rtc, int64_t second)
{
    int in_day = (int)((second % 86400 + 86400) % 86400);
    const uint8_t *regs = rtc->s.regs;

    return alarm_field(regs[RTC_SECONDS_ALARM], rtc_encode(rtc, in_day % 60)) &&
           alarm_field(regs[RTC_MINUTES_ALARM], rtc_encode(rtc, in_day / 60 % 60)) &&
           alarm_field(regs[RTC_HOURS_ALARM], rtc_encode_hour(rtc, in_day / 3600));
}

/* Set the flags of what has happened since the last look. */
static void rtc_catch_up(struct rtc *rtc)
{
    struct rtc_state *s = &rtc->s;
    uint64_t ticks = rtc_period_ticks(rtc), period;
    int64_t now = rtc_floor_second(rtc_now(rtc)), second;

    if (!s->stopped && now != s->second) {
        s->regs[RTC_C] |= C_UF;
        /* The host's clock may jump: backward passes no alarm, a day passes them all. */
        second = now - s->second > 86400 ? now - 86400 : s->second;
        while (second < now && (s->regs[RTC_C] & C_AF) == 0) {
            second++;
            s->regs[RTC_C] |= rtc_alarm_at(rtc, second) ? C_AF : 0;
        }
    }
    s->second = now;
    if (ticks != 0) {
        period = rtc_period_number(rtc, ticks);
        s->regs[RTC_C] |= period != s->period ? C_PF : 0;
        s->period = period;
    }
}

/* When the next interrupt can come; 0: none can. */
static uint64_t rtc_next_event(const struct rtc *rtc)
{
    uint8_t enables = rtc->s.regs[RTC_B];
    uint64_t ticks = rtc_period_ticks(rtc), next = UINT64_MAX, at;

    if ((enables & (B_AIE | B_UIE)) != 0 && !rtc->s.stopped) {
        next = clock_ns() + RTC_SECOND_NS - rtc_second_fraction(rtc_now(rtc));
    }
    if ((enables & B_PIE) != 0 && ticks != 0) {
        at = (uint64_t)((unsigned __int128)(rtc->s.period + 1) * ticks * RTC_SECOND_NS /
                        32768) +
             1;
        next = at < next ? at : next;
    }
    return next != UINT64_MAX ? next : 0;
}

void rtc_update(struct rtc *rtc)
{
    uint8_t *regs = rtc->s.regs;
    uint64_t next;

    rtc_catch_up(rtc);
    /* The enables of B and the flags of C have the same places. */
    if ((regs[RTC_B] & regs[RTC_C] & (C_PF | C_AF | C_UF)) != 0) {
        regs[RTC_C] |= C_IRQF;
    } else {
        regs[RTC_C] &= (uint8_t)~C_IRQF;
    }
    irq_line_set(&rtc->irq, (regs[RTC_C] & C_IRQF) != 0);
    if (rtc->timer == NULL) {
        return;
    }
    next = rtc->irq.level ? 0 : rtc_next_event(rtc);
    if (next != 0) {
        loop_timer_arm(rtc->timer, next);
    } else {
        loop_timer_disarm(rtc->timer);
    }
}
