/* SPDX-License-Identifier: MIT */
/*
 * MC146818A clock. Time is the host's UTC plus an offset that setting the clock changes;
 * nothing ticks. Flags are brought up to date whenever the guest looks, and by a host
 * timer only while an interrupt is enabled and not already raised.
 */
#include "devices/rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "devices/irq.h"
#include "devices/loop.h"

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

    RTC_YEAR_MIN = -200, /* from 1900 */
    RTC_YEAR_MAX = 270,
};

static const uint64_t second_ns = 1000000000;
static const int64_t now_limit = INT64_C(8900000000000000000);
static const uint64_t update_ns = 244000; /* UIP comes this long before the update */

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

static struct rtc *rtc_of(struct device *device)
{
    return container_of(device, struct rtc, device);
}

/* ---- Time ---------------------------------------------------------------------------
 */

/* The guest's time in nanoseconds since 1970. */
static int64_t rtc_now(const struct rtc *rtc)
{
    struct timespec now;
    uint64_t host;

    if (rtc->config.realtime_ns != NULL) {
        host = rtc->config.realtime_ns(rtc->config.realtime_context);
    } else {
        clock_gettime(CLOCK_REALTIME, &now);
        host = (uint64_t)now.tv_sec * second_ns + (uint64_t)now.tv_nsec;
    }
    return (int64_t)(host + (uint64_t)rtc->s.offset_ns);
}

static int64_t floor_second(int64_t ns)
{
    int64_t s = ns / (int64_t)second_ns;

    return ns % (int64_t)second_ns < 0 ? s - 1 : s;
}

static uint64_t second_fraction(int64_t ns)
{
    return (uint64_t)(ns - floor_second(ns) * (int64_t)second_ns);
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

/* The time registers as of @now. */
static void rtc_show(struct rtc *rtc, int64_t now)
{
    time_t seconds = (time_t)floor_second(now);
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

/* Let the time go on from what the registers say, @fraction ns into that second. */
static void rtc_adopt(struct rtc *rtc, uint64_t fraction)
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
    wanted = (uint64_t)timegm(&tm) * second_ns + fraction;
    rtc->s.offset_ns =
        (int64_t)(wanted - ((uint64_t)rtc_now(rtc) - (uint64_t)rtc->s.offset_ns));
    rtc->s.second = floor_second(rtc_now(rtc));
}

/* ---- Flags and interrupt ------------------------------------------------------------
 */

/* Periods in 32768 Hz ticks for the rates of register A; 0: off. */
static uint64_t rtc_period_ticks(const struct rtc *rtc)
{
    unsigned rate = rtc->s.regs[RTC_A] & A_RATE;

    if (rate == 0) {
        return 0;
    }
    return UINT64_C(1) << (rate <= 2 ? rate + 6 : rate - 1);
}

static uint64_t rtc_period_number(const struct rtc *rtc, uint64_t ticks)
{
    return (uint64_t)((unsigned __int128)clock_ns() * 32768 / second_ns) / ticks;
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
    int64_t now = floor_second(rtc_now(rtc)), second;

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
        next = clock_ns() + second_ns - second_fraction(rtc_now(rtc));
    }
    if ((enables & B_PIE) != 0 && ticks != 0) {
        at = (uint64_t)((unsigned __int128)(rtc->s.period + 1) * ticks * second_ns /
                        32768) +
             1;
        next = at < next ? at : next;
    }
    return next != UINT64_MAX ? next : 0;
}

static void rtc_update(struct rtc *rtc)
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

static void rtc_timer_fired(void *context)
{
    rtc_update(context);
}

/* ---- Registers -----------------------------------------------------------------------
 */

static bool rtc_is_time(unsigned index)
{
    switch (index) {
    case RTC_SECONDS:
    case RTC_MINUTES:
    case RTC_HOURS:
    case RTC_WEEKDAY:
    case RTC_DAY:
    case RTC_MONTH:
    case RTC_YEAR:
    case RTC_CENTURY:
        return true;
    default:
        return false;
    }
}

static uint8_t rtc_read_reg(struct rtc *rtc, unsigned index)
{
    struct rtc_state *s = &rtc->s;
    int64_t now;
    uint8_t value;

    if (rtc_is_time(index)) {
        if (!s->stopped) {
            rtc_show(rtc, rtc_now(rtc));
        }
        return s->regs[index];
    }
    switch (index) {
    case RTC_A:
        now = rtc_now(rtc);
        return s->regs[RTC_A] |
               (!s->stopped && second_fraction(now) >= second_ns - update_ns ? A_UIP : 0);
    case RTC_C:
        rtc_update(rtc);
        value = s->regs[RTC_C];
        s->regs[RTC_C] = 0;
        rtc_update(rtc);
        return value;
    case RTC_D:
        return D_VALID;
    default:
        return s->regs[index];
    }
}

/* Registers A and B decide whether the time runs. */
static void rtc_write_control(struct rtc *rtc, unsigned index, uint8_t value)
{
    struct rtc_state *s = &rtc->s;
    bool held, stop;

    if (!s->stopped) {
        rtc_show(rtc, rtc_now(rtc)); /* in the format that was in force */
    }
    s->regs[index] = value;
    held = (s->regs[RTC_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
    stop = (s->regs[RTC_B] & B_SET) != 0 || held;
    if (stop) {
        s->divider_was_reset = held || (s->stopped && s->divider_was_reset);
    } else if (s->stopped) {
        /* The first update after a reset of the divider comes half a second later. */
        rtc_adopt(rtc,
                  s->divider_was_reset ? second_ns / 2 : second_fraction(rtc_now(rtc)));
        s->divider_was_reset = false;
    }
    s->stopped = stop;
}

static void rtc_write_reg(struct rtc *rtc, unsigned index, uint8_t value)
{
    struct rtc_state *s = &rtc->s;
    uint64_t ticks;

    if (rtc_is_time(index)) {
        if (!s->stopped) {
            rtc_show(rtc, rtc_now(rtc));
        }
        s->regs[index] = value;
        if (!s->stopped) {
            rtc_adopt(rtc, second_fraction(rtc_now(rtc)));
        }
        return;
    }
    switch (index) {
    case RTC_A:
        rtc_write_control(rtc, RTC_A, value & (uint8_t)~A_UIP);
        ticks = rtc_period_ticks(rtc);
        s->period = ticks != 0 ? rtc_period_number(rtc, ticks) : 0;
        break;
    case RTC_B:
        /* Setting SET clears UIE. */
        rtc_write_control(rtc, RTC_B,
                          (value & B_SET) != 0 ? value & (uint8_t)~B_UIE : value);
        break;
    case RTC_C:
    case RTC_D: /* read only */
        break;
    default:
        s->regs[index] = value;
        break;
    }
}

static uint64_t rtc_read(struct device *device, unsigned region, uint64_t offset,
                         unsigned size)
{
    struct rtc *rtc = rtc_of(device);

    if (size != 1 || offset != 1) {
        return UINT64_MAX; /* the index is write only */
    }
    rtc_update(rtc);
    return rtc_read_reg(rtc, rtc->s.index);
}

static void rtc_write(struct device *device, unsigned region, uint64_t offset,
                      unsigned size, uint64_t value)
{
    struct rtc *rtc = rtc_of(device);

    if (offset == 0) {
        rtc->s.index =
            (uint8_t)value & 0x7f; /* bit 7 masks NMI, which there is none of */
    }
    if (offset == 1 || size == 2) {
        rtc_update(rtc);
        rtc_write_reg(rtc, rtc->s.index, (uint8_t)(offset == 1 ? value : value >> 8));
        rtc_update(rtc);
    }
}

void rtc_set_nvram(struct device *device, unsigned index, uint8_t value)
{
    if (index >= RTC_NVRAM && index < RTC_REGISTERS && index != RTC_CENTURY) {
        pthread_mutex_lock(&device->lock);
        rtc_of(device)->s.regs[index] = value;
        pthread_mutex_unlock(&device->lock);
    }
}

/* ---- Life ----------------------------------------------------------------------------
 */

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

/* What a PC's firmware keeps in CMOS memory about the RAM. */
static void rtc_fill_nvram(struct rtc *rtc)
{
    uint64_t low = rtc->config.ram_low, high = rtc->config.ram_high;
    uint16_t extended = (uint16_t)at_most(low > MIB ? (low - MIB) / KIB : 0, 0xffff);
    uint16_t above_16m =
        (uint16_t)at_most(low > 16 * MIB ? (low - 16 * MIB) / (64 * KIB) : 0, 0xffff);
    uint32_t above_4g = (uint32_t)at_most(high / (64 * KIB), 0xffffff);
    uint8_t *regs = rtc->s.regs;
    uint16_t sum = 0;

    regs[0x14] = 0x02;                  /* equipment: a coprocessor, no floppy */
    store_le16(regs + 0x15, 640);       /* KiB below 640 KiB */
    store_le16(regs + 0x17, extended);  /* KiB from 1 MiB */
    store_le16(regs + 0x30, extended);  /* the same, as found by the power-on test */
    store_le16(regs + 0x34, above_16m); /* 64 KiB units from 16 MiB, below 4 GiB */
    store_le16(regs + 0x5b, (uint16_t)above_4g); /* 64 KiB units from 4 GiB */
    regs[0x5d] = (uint8_t)(above_4g >> 16);
    for (unsigned i = 0x10; i <= 0x2d; i++) {
        sum = (uint16_t)(sum + regs[i]);
    }
    regs[0x2e] = (uint8_t)(sum >> 8);
    regs[0x2f] = (uint8_t)sum;
}

/* As a new machine has it: the battery does not outlive a reset here. */
static void rtc_reset(struct device *device)
{
    struct rtc *rtc = rtc_of(device);

    rtc->s = (struct rtc_state){ 0 };
    rtc->s.regs[RTC_A] = A_POWER_ON;
    rtc->s.regs[RTC_B] = B_24H;
    rtc_fill_nvram(rtc);
    rtc->s.second = floor_second(rtc_now(rtc));
    rtc->s.period = rtc_period_number(rtc, rtc_period_ticks(rtc));
    rtc_update(rtc);
}

static int rtc_save(struct device *device, struct state_writer *writer)
{
    struct rtc *rtc = rtc_of(device);
    const struct rtc_state *s = &rtc->s;

    rtc_update(rtc);
    state_begin(writer, device->id, 1);
    state_put_u64(writer, "index", s->index);
    state_put_bytes(writer, "registers", s->regs, sizeof(s->regs));
    state_put_u64(writer, "offset", (uint64_t)s->offset_ns);
    state_put_u64(writer, "second", (uint64_t)s->second);
    state_put_u64(writer, "stopped", s->stopped);
    state_put_u64(writer, "divider_was_reset", s->divider_was_reset);
    state_end(writer);
    return 0;
}

/* The guest finds the time that has passed since, as after a sleep. */
static int rtc_load(struct device *device, struct state_reader *reader)
{
    struct rtc *rtc = rtc_of(device);
    struct rtc_state s = { 0 }, old;
    uint64_t ticks;
    int64_t now;
    int rc = state_open(reader, device->id, 1, NULL);

    if (rc < 0) {
        return rc;
    }
    s.index = (uint8_t)state_get_u64(reader, "index", RTC_REGISTERS - 1);
    state_get_bytes(reader, "registers", s.regs, sizeof(s.regs));
    s.offset_ns = (int64_t)state_get_u64(reader, "offset", UINT64_MAX);
    s.second = (int64_t)state_get_u64(reader, "second", UINT64_MAX);
    s.stopped = state_get_u64(reader, "stopped", 1) != 0;
    s.divider_was_reset = state_get_u64(reader, "divider_was_reset", 1) != 0;
    rc = state_reader_error(reader, NULL);
    if (rc < 0) {
        return rc;
    }
    old = rtc->s;
    rtc->s = s;
    now = rtc_now(rtc);
    if (now > now_limit || now < -now_limit ||
        s.second > now_limit / (int64_t)second_ns ||
        s.second < -now_limit / (int64_t)second_ns) {
        rtc->s = old;
        state_reject(reader, "its time is out of range");
        return -EINVAL;
    }
    ticks = rtc_period_ticks(rtc);
    rtc->s.period = ticks != 0 ? rtc_period_number(rtc, ticks) : 0;
    rtc_update(rtc);
    return 0;
}

static void rtc_destroy(struct device *device)
{
    struct rtc *rtc = rtc_of(device);

    loop_timer_destroy(rtc->timer);
    irq_line_set(&rtc->irq, false);
    device_fini(device);
    free(rtc);
}

static const struct device_ops rtc_ops = {
    .type = "rtc",
    .read = rtc_read,
    .write = rtc_write,
    .reset = rtc_reset,
    .save = rtc_save,
    .load = rtc_load,
    .destroy = rtc_destroy,
};

int rtc_create(const struct device_env *env, const struct rtc_config *config,
               struct device **device, struct umbra_error *error)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    int rc;

    if (rtc == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s",
                           config->id);
    }
    device_init(&rtc->device, &rtc_ops, env, config->id);
    device_irq_init(&rtc->device, &rtc->irq, config->gsi);
    rtc->config = *config;
    rtc->config.id = NULL; /* the caller's */
    if (env->loop != NULL) {
        rc = loop_timer_create(env->loop, &rtc->device.lock, rtc_timer_fired, rtc,
                               &rtc->timer);
        if (rc < 0) {
            rtc_destroy(&rtc->device);
            return error_errno(error, UMBRA_ERROR_INTERNAL, -rc, "creating %s",
                               config->id);
        }
    }
    rtc_reset(&rtc->device);
    *device = &rtc->device;
    return 0;
}

int rtc_jump(struct device *device, int64_t ns)
{
    struct rtc *rtc = rtc_of(device);
    int64_t now;
    int ret = 0;

    pthread_mutex_lock(&device->lock);
    now = rtc_now(rtc);
    if (ns > 0 ? now > now_limit - ns : now < -now_limit - ns) {
        ret = -ERANGE;
    } else {
        rtc->s.offset_ns = (int64_t)((uint64_t)rtc->s.offset_ns + (uint64_t)ns);
        rtc_update(rtc);
    }
    pthread_mutex_unlock(&device->lock);
    return ret;
}
