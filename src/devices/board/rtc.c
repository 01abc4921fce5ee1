/* SPDX-License-Identifier: MIT */
/*
 * MC146818A clock. Time is the host's UTC plus an offset that setting the clock changes;
 * nothing ticks. Flags are brought up to date whenever the guest looks, and by a host
 * timer only while an interrupt is enabled and not already raised.
 */
#include "devices/board/rtc.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "devices/board/rtc_internal.h"
#include "devices/irq.h"
#include "loop/loop.h"

static const int64_t now_limit = INT64_C(8900000000000000000);
static const uint64_t update_ns = 244000; /* UIP comes this long before the update */

static struct rtc *rtc_of(struct device *device)
{
    return container_of(device, struct rtc, device);
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
               (!s->stopped && rtc_second_fraction(now) >= RTC_SECOND_NS - update_ns
                    ? A_UIP
                    : 0);
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
        rtc_adopt(rtc, s->divider_was_reset ? RTC_SECOND_NS / 2
                                            : rtc_second_fraction(rtc_now(rtc)));
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
            rtc_adopt(rtc, rtc_second_fraction(rtc_now(rtc)));
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
    rtc->s.second = rtc_floor_second(rtc_now(rtc));
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
        s.second > now_limit / (int64_t)RTC_SECOND_NS ||
        s.second < -now_limit / (int64_t)RTC_SECOND_NS) {
        rtc->s = old;
        state_reject(reader, "its time is out of range");
        return -EINVAL;
    }
    ticks = rtc_period_ticks(rtc);
    rtc->s.period = ticks != 0 ? rtc_period_number(rtc, ticks) : 0;
    rtc_update(rtc);
    return 0;
}

static void rtc_timer_fired(void *context)
{
    rtc_update(context);
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
