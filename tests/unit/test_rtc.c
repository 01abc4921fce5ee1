/* SPDX-License-Identifier: MIT */
/* devices/board/rtc: time in every format, setting it, alarms, rates, CMOS memory. */
#include "fake_env.h"

#include <time.h>

#include "devices/board/rtc.h"

#define SECOND UINT64_C(1000000000)
/* 2026-11-21 03:04:05.25 UTC, a Saturday */
#define START (UINT64_C(1795230245) * SECOND + SECOND / 4)

struct fixture {
    struct fake_env fake;
    struct device *rtc;
    uint64_t now;
};

static struct fixture fixture;

static uint64_t host_time(void *context)
{
    return ((struct fixture *)context)->now;
}

static struct device *create(struct fixture *f)
{
    const struct rtc_config config = { .id = "rtc",
                                       .gsi = 8,
                                       .ram_low = 3 * GIB,
                                       .ram_high = 5 * GIB,
                                       .realtime_ns = host_time,
                                       .realtime_context = f };
    struct device *rtc;

    assert_int_equal(rtc_create(&f->fake.env, &config, &rtc, NULL), 0);
    return rtc;
}

static struct fixture *setup(bool with_loop)
{
    struct fixture *f = &fixture;

    f->now = START;
    fake_env_init(&f->fake, with_loop);
    f->rtc = create(f);
    return f;
}

static void teardown(struct fixture *f)
{
    device_destroy(f->rtc);
    assert_false(f->fake.level[8]);
    fake_env_fini(&f->fake);
}

static uint8_t get(struct fixture *f, uint8_t index)
{
    dev_write(f->rtc, 0, 0, 1, index);
    return (uint8_t)dev_read(f->rtc, 0, 1, 1);
}

static void set(struct fixture *f, uint8_t index, uint8_t value)
{
    dev_write(f->rtc, 0, 0, 1, index);
    dev_write(f->rtc, 0, 1, 1, value);
}

static void expect_time(struct fixture *f, const uint8_t expected[8])
{
    static const uint8_t registers[8] = { 0, 2, 4, 6, 7, 8, 9, 0x32 };

    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(get(f, registers[i]), expected[i]);
    }
}

static void test_formats(void **state)
{
    struct fixture *f = setup(false);

    assert_int_equal(get(f, 10), 0x26);
    assert_int_equal(get(f, 11), 0x02);
    assert_int_equal(get(f, 13), 0x80);
    expect_time(f, (uint8_t[]){ 0x05, 0x04, 0x03, 7, 0x21, 0x11, 0x26, 0x20 });
    set(f, 11, 0x06); /* binary */
    expect_time(f, (uint8_t[]){ 5, 4, 3, 7, 21, 11, 26, 20 });
    set(f, 11, 0x00); /* BCD, 12 hours */
    assert_int_equal(get(f, 4), 0x03);
    f->now += 9 * 3600 * SECOND; /* 12:04:05 */
    assert_int_equal(get(f, 4), 0x92);
    f->now += 11 * 3600 * SECOND; /* 23:04:05 */
    assert_int_equal(get(f, 4), 0x91);
    f->now += 3600 * SECOND; /* 00:04:05 */
    assert_int_equal(get(f, 4), 0x12);
    assert_int_equal(get(f, 7), 0x22);
    teardown(f);
}

/* Every hour of a day there and back, in each format. */
static void test_set_hours(void **state)
{
    struct fixture *f = setup(false);

    for (unsigned format = 0; format < 4; format++) {
        uint8_t b = (uint8_t)((format & 1 ? 0x04 : 0) | (format & 2 ? 0x02 : 0));

        set(f, 11, 0x02 | 0x04);
        for (uint8_t hour = 0; hour < 24; hour++) {
            uint8_t shown;

            set(f, 11, 0x86);
            set(f, 4, hour);
            set(f, 11, 0x06);
            set(f, 11, b);
            shown = get(f, 4);
            set(f, 11, b | 0x80);
            set(f, 4, 0);
            set(f, 4, shown);
            set(f, 11, b);
            set(f, 11, 0x06);
            assert_int_equal(get(f, 4), hour);
        }
    }
    teardown(f);
}

/* As Linux sets it: SET, divider in reset, the fields, and back. */
static void test_set(void **state)
{
    struct fixture *f = setup(false);
    uint8_t a = get(f, 10);

    set(f, 11, 0x82);
    f->now += 5 * SECOND; /* the time stands still meanwhile */
    assert_int_equal(get(f, 0), 0x05);
    set(f, 10, a | 0x70);
    set(f, 9, 0x30);
    set(f, 8, 0x02);
    set(f, 7, 0x28);
    set(f, 4, 0x23);
    set(f, 2, 0x59);
    set(f, 0, 0x58);
    set(f, 0x32, 0x20);
    set(f, 11, 0x02);
    f->now += 3 * SECOND; /* still: the divider is held */
    assert_int_equal(get(f, 0), 0x58);
    set(f, 10, a);
    assert_int_equal(get(f, 0), 0x58);
    f->now += SECOND / 2; /* the first update comes after half a second */
    assert_int_equal(get(f, 0), 0x59);
    f->now += SECOND;
    expect_time(f, (uint8_t[]){ 0, 0, 0, 6, 0x01, 0x03, 0x30, 0x20 });
    /* A single field written while the clock runs counts at once. */
    set(f, 2, 0x30);
    assert_int_equal(get(f, 2), 0x30);
    assert_int_equal(get(f, 4), 0);
    teardown(f);
}

static void test_update_in_progress(void **state)
{
    struct fixture *f = setup(false);

    assert_int_equal(get(f, 10) & 0x80, 0);
    f->now = START - START % SECOND + SECOND - 100000;
    assert_int_equal(get(f, 10) & 0x80, 0x80);
    set(f, 11, 0x82);
    assert_int_equal(get(f, 10) & 0x80, 0); /* no updates while SET */
    set(f, 11, 0x02);
    f->now += 100000;
    assert_int_equal(get(f, 10) & 0x80, 0);
    teardown(f);
}

static void test_update_interrupt(void **state)
{
    struct fixture *f = setup(false);

    get(f, 12);
    set(f, 11, 0x12);
    assert_false(f->fake.level[8]);
    f->now += SECOND;
    get(f, 0);
    assert_true(f->fake.level[8]);
    assert_int_equal(get(f, 12) & 0xb0, 0x90); /* IRQF, UF */
    assert_false(f->fake.level[8]);
    assert_int_equal(get(f, 12) & 0xb0, 0);
    f->now += SECOND;
    set(f, 11, 0x92); /* SET takes UIE away */
    assert_int_equal(get(f, 11), 0x82);
    teardown(f);
}

static void test_alarm(void **state)
{
    struct fixture *f = setup(false);

    set(f, 5, 0x03);
    set(f, 3, 0x04);
    set(f, 1, 0x10);
    get(f, 12);
    set(f, 11, 0x22);
    f->now += 4 * SECOND; /* 03:04:09 */
    assert_int_equal(get(f, 12) & 0xa0, 0);
    f->now += SECOND;
    get(f, 0);
    assert_true(f->fake.level[8]);
    assert_int_equal(get(f, 12) & 0xa0, 0xa0);
    f->now += 86399 * SECOND;
    assert_int_equal(get(f, 12) & 0x20, 0);
    f->now += 7 * SECOND; /* passed between two looks */
    assert_int_equal(get(f, 12) & 0x20, 0x20);
    set(f, 5, 0xff); /* every hour, every minute */
    set(f, 3, 0xc0);
    f->now += 60 * SECOND;
    assert_int_equal(get(f, 12) & 0x20, 0x20);
    f->now -= 3600 * SECOND; /* the host's clock jumps back: no alarm of the past */
    assert_int_equal(get(f, 12) & 0x20, 0);
    f->now += 400 * 86400 * SECOND; /* or far ahead */
    assert_int_equal(get(f, 12) & 0x20, 0x20);
    teardown(f);
}

/* The interrupts come by themselves, through the loop. */
static void test_timers(void **state)
{
    struct fixture *f = setup(true);
    unsigned before;

    assert_int_equal(loop_start(f->fake.env.loop, NULL), 0);
    get(f, 12);
    set(f, 10, 0x26); /* 1024 Hz */
    set(f, 11, 0x42);
    for (unsigned i = 0; i < 5; i++) {
        WAIT_UNTIL(f->fake.level[8]);
        assert_int_equal(get(f, 12) & 0xc0, 0xc0);
    }
    WAIT_UNTIL(f->fake.level[8]);
    set(f, 11, 0x02);
    assert_false(f->fake.level[8]);
    get(f, 12);
    set(f, 10, 0x20); /* rate 0: none */
    set(f, 11, 0x42);
    before = f->fake.edges[8];
    nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    assert_int_equal(f->fake.edges[8], before);
    set(f, 11, 0x02);
    loop_stop(f->fake.env.loop);
    teardown(f);
}

static void test_update_timer(void **state)
{
    const struct rtc_config config = { .id = "rtc", .gsi = 8 }; /* the real time */
    struct fixture *f = setup(true);

    device_destroy(f->rtc);
    assert_int_equal(rtc_create(&f->fake.env, &config, &f->rtc, NULL), 0);
    assert_int_equal(loop_start(f->fake.env.loop, NULL), 0);
    set(f, 11, 0x12);
    WAIT_UNTIL(f->fake.level[8]); /* within a second */
    assert_int_equal(get(f, 12) & 0x90, 0x90);
    loop_stop(f->fake.env.loop);
    teardown(f);
}

static void test_nvram(void **state)
{
    struct fixture *f = setup(false);
    unsigned sum = 0;

    assert_int_equal(get(f, 0x15) | get(f, 0x16) << 8, 640);
    assert_int_equal(get(f, 0x17) | get(f, 0x18) << 8, 0xffff);
    assert_int_equal(get(f, 0x34) | get(f, 0x35) << 8, (3 * GIB - 16 * MIB) >> 16);
    assert_int_equal(get(f, 0x5b) | get(f, 0x5c) << 8 | get(f, 0x5d) << 16,
                     5 * GIB >> 16);
    for (uint8_t i = 0x10; i <= 0x2d; i++) {
        sum += get(f, i);
    }
    assert_int_equal(get(f, 0x2e) << 8 | get(f, 0x2f), sum);
    set(f, 0x40, 0xa5);
    assert_int_equal(get(f, 0x40), 0xa5);
    assert_int_equal(get(f, 0xc0), 0xa5); /* bit 7 of the index is the NMI's */
    rtc_set_nvram(f->rtc, 0x41, 0x11);
    rtc_set_nvram(f->rtc, 0x00, 0x11);   /* not memory */
    rtc_set_nvram(f->rtc, 0x1000, 0x11); /* not there */
    assert_int_equal(get(f, 0x41), 0x11);
    set(f, 13, 0);
    assert_int_equal(get(f, 13), 0x80);
    device_reset(f->rtc);
    assert_int_equal(get(f, 0x40), 0);
    teardown(f);
}

static void test_state(void **state)
{
    struct fixture *f = setup(false);
    struct device *copy = create(f);

    set(f, 11, 0x06);
    set(f, 11, 0x86);
    set(f, 9, 99);
    set(f, 11, 0x06);
    set(f, 0x50, 0x12);
    dev_write(f->rtc, 0, 0, 1, 0x50);
    dev_copy_state(f->rtc, copy);
    device_destroy(f->rtc);
    f->rtc = copy;
    assert_int_equal(dev_read(f->rtc, 0, 1, 1), 0x12);
    f->now += 3 * SECOND;
    assert_int_equal(get(f, 9), 99);
    assert_int_equal(get(f, 0), 8);
    teardown(f);
}

/* Any values anywhere: no crash, and the time stays readable. */
static void test_nonsense(void **state)
{
    struct fixture *f = setup(false);
    unsigned seed = 3;

    for (unsigned i = 0; i < 50000; i++) {
        set(f, (uint8_t)(rand_r(&seed) % 15), (uint8_t)rand_r(&seed));
        set(f, 0x32, (uint8_t)rand_r(&seed));
        get(f, (uint8_t)(rand_r(&seed) % 15));
        f->now += (uint64_t)rand_r(&seed) * 5;
    }
    set(f, 10, 0x26);
    set(f, 11, 0x06);
    assert_true(get(f, 0) < 60);
    assert_true(get(f, 8) >= 1 && get(f, 8) <= 12);
    teardown(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_set_hours),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_update_in_progress),
        cmocka_unit_test(test_update_interrupt),
        cmocka_unit_test(test_alarm),
        cmocka_unit_test(test_timers),
        cmocka_unit_test(test_update_timer),
        cmocka_unit_test(test_nvram),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_nonsense),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
