/* SPDX-License-Identifier: MIT */
/* The real-time clock and CMOS memory of a PC (Motorola MC146818A), in UTC. */
#ifndef DEVICES_BOARD_RTC_H
#define DEVICES_BOARD_RTC_H

#include "devices/device.h"

enum { RTC_PORTS = 2, RTC_GSI = 8, RTC_CENTURY = 0x32 };

struct rtc_config {
    const char *id;
    unsigned gsi;
    uint64_t ram_low;  /* bytes of RAM below 4 GiB, for the CMOS memory-size bytes */
    uint64_t ram_high; /* bytes of RAM from 4 GiB */
    /* The host's idea of UTC in nanoseconds since 1970; NULL: CLOCK_REALTIME. */
    uint64_t (*realtime_ns)(void *context);
    void *realtime_context;
};

/* One region, 0: index (0x70) and data (0x71). The century is at RTC_CENTURY. */
int rtc_create(const struct device_env *env, const struct rtc_config *config,
               struct device **device, struct umbra_error *error);

/* Change a byte of CMOS memory (index 0x0e..0x7f), as firmware would. */
void rtc_set_nvram(struct device *device, unsigned index, uint8_t value);

/* A planned fault: the clock jumps by @ns. Takes the device's lock. -ERANGE when that leads
 * out of what the clock can show. */
int rtc_jump(struct device *device, int64_t ns);

#endif
