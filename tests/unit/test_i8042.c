/* SPDX-License-Identifier: MIT */
/* devices/board/i8042: what Linux's i8042 and atkbd do to it, keys in both scan sets, resets. */
#include "fake_env.h"

#include "devices/board/i8042.h"

struct fixture {
    struct fake_env fake;
    struct device *kbc;
};

static struct fixture fixture;

static struct fixture *setup(void)
{
    const struct i8042_config config = { .id = "i8042", .gsi = 1 };
    struct fixture *f = &fixture;

    fake_env_init(&f->fake, false);
    assert_int_equal(i8042_create(&f->fake.env, &config, &f->kbc, NULL), 0);
    return f;
}

static void teardown(struct fixture *f)
{
    device_destroy(f->kbc);
    assert_false(f->fake.level[1]);
    fake_env_fini(&f->fake);
}

static uint8_t status(struct fixture *f)
{
    return (uint8_t)dev_read(f->kbc, I8042_REGION_COMMAND, 0, 1);
}

static void command(struct fixture *f, uint8_t value)
{
    dev_write(f->kbc, I8042_REGION_COMMAND, 0, 1, value);
}

static void data(struct fixture *f, uint8_t value)
{
    dev_write(f->kbc, I8042_REGION_DATA, 0, 1, value);
}

static uint8_t reply(struct fixture *f)
{
    assert_true(status(f) & 1);
    return (uint8_t)dev_read(f->kbc, I8042_REGION_DATA, 0, 1);
}

static void expect_replies(struct fixture *f, const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(reply(f), bytes[i]);
    }
    assert_int_equal(status(f) & 1, 0);
}

#define EXPECT(f, ...)                                                                   \
    expect_replies((f), (const uint8_t[]){ __VA_ARGS__ },                                \
                   sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* i8042_controller_check() to i8042_controller_init() and i8042_check_aux() of Linux. */
static void test_linux_controller(void **state)
{
    struct fixture *f = setup();
    uint8_t ctr;

    assert_int_equal(status(f) & 1, 0);
    command(f, 0x20);
    ctr = reply(f);
    command(f, 0x20);
    assert_int_equal(reply(f), ctr);
    assert_int_equal(status(f) & 0x10, 0x10); /* not locked */
    command(f, 0xaa);
    EXPECT(f, 0x55);
    command(f, 0x60);
    data(f, (uint8_t)((ctr | 0x10) & ~0x01)); /* keyboard off, no interrupt */
    command(f, 0x20);
    EXPECT(f, (uint8_t)((ctr | 0x10) & ~0x01));

    /* No auxiliary port: the loop answers without the flag, the test with an error. */
    command(f, 0xd3);
    data(f, 0x5a);
    assert_int_equal(status(f) & 0x21, 0x01);
    EXPECT(f, 0x5a);
    command(f, 0xa9);
    EXPECT(f, 0x01);
    command(f, 0xab);
    EXPECT(f, 0x00);
    command(f, 0xd4); /* a byte to the port that is not there */
    data(f, 0xf2);
    assert_int_equal(status(f) & 0x61, 0x61);
    EXPECT(f, 0xfe);
    teardown(f);
}

/* atkbd_probe(): identification, LEDs, rate, enabling. */
static void test_linux_keyboard(void **state)
{
    struct fixture *f = setup();

    command(f, 0x60);
    data(f, 0x65); /* translation, system, aux off, interrupt */
    data(f, 0xff);
    assert_true(f->fake.level[1]);
    EXPECT(f, 0xfa, 0xaa);
    assert_false(f->fake.level[1]);
    assert_int_equal(f->fake.edges[1], 2); /* one edge a byte */
    data(f, 0xf2);
    EXPECT(f, 0xfa, 0xab, 0x41); /* 0x83, translated */
    data(f, 0xf5);
    EXPECT(f, 0xfa);
    assert_int_equal(i8042_key(f->kbc, 0x1e, true), -ENODEV);
    data(f, 0xed);
    EXPECT(f, 0xfa);
    data(f, 0x05);
    EXPECT(f, 0xfa);
    assert_int_equal(i8042_leds(f->kbc), 5);
    data(f, 0xf3);
    EXPECT(f, 0xfa);
    data(f, 0x00);
    EXPECT(f, 0xfa);
    data(f, 0xee);
    EXPECT(f, 0xee);
    data(f, 0xf4);
    EXPECT(f, 0xfa);
    data(f, 0x12); /* no such command */
    EXPECT(f, 0xfe);
    assert_int_equal(i8042_key(f->kbc, 0x1e, true), 0);
    EXPECT(f, 0x1e);
    data(f, 0xfe); /* once more, please */
    EXPECT(f, 0x1e & 0x7f);
    teardown(f);
}

static void test_scan_sets(void **state)
{
    struct fixture *f = setup();

    /* Translated: set 1, whatever the keyboard does. */
    assert_int_equal(i8042_key(f->kbc, 0x1e, true), 0);
    assert_int_equal(i8042_key(f->kbc, 0x1e, false), 0);
    EXPECT(f, 0x1e, 0x9e);
    assert_int_equal(i8042_key(f->kbc, I8042_EXTENDED | 0x48, true), 0); /* up */
    assert_int_equal(i8042_key(f->kbc, I8042_EXTENDED | 0x48, false), 0);
    EXPECT(f, 0xe0, 0x48, 0xe0, 0xc8);
    assert_int_equal(i8042_key(f->kbc, 0x41, true), 0); /* F7, the odd one */
    assert_int_equal(i8042_key(f->kbc, 0x41, false), 0);
    EXPECT(f, 0x41, 0xc1);
    /* Raw. */
    command(f, 0x60);
    data(f, 0x25);
    assert_int_equal(i8042_key(f->kbc, 0x1e, true), 0);
    assert_int_equal(i8042_key(f->kbc, 0x1e, false), 0);
    EXPECT(f, 0x1c, 0xf0, 0x1c);
    assert_int_equal(i8042_key(f->kbc, I8042_EXTENDED | 0x48, false), 0);
    EXPECT(f, 0xe0, 0xf0, 0x75);
    assert_int_equal(i8042_key(f->kbc, 0x41, true), 0);
    EXPECT(f, 0x83);
    data(f, 0xf0);
    EXPECT(f, 0xfa);
    data(f, 0x00);
    EXPECT(f, 0xfa, 0x02);
    data(f, 0xf0);
    EXPECT(f, 0xfa);
    data(f, 0x03); /* there is no set 3 */
    EXPECT(f, 0xfe);
    data(f, 0xf0);
    EXPECT(f, 0xfa);
    data(f, 0x01);
    EXPECT(f, 0xfa);
    assert_int_equal(i8042_key(f->kbc, 0x1e, false), 0);
    EXPECT(f, 0x9e);
    teardown(f);
}

/* Every key that exists arrives as itself through set 2 and the translation. */
static void test_every_key(void **state)
{
    struct fixture *f = setup();
    unsigned keys = 0;

    for (unsigned key = 1; key < 0x80; key++) {
        int rc = i8042_key(f->kbc, key, true);

        if (rc != 0) {
            assert_int_equal(rc, -EINVAL);
            continue;
        }
        keys++;
        EXPECT(f, (uint8_t)key);
        assert_int_equal(i8042_key(f->kbc, key, false), 0);
        EXPECT(f, (uint8_t)(key | 0x80));
    }
    assert_true(keys > 110); /* among them all 88 of an ordinary keyboard */
    assert_int_equal(i8042_key(f->kbc, 0, true), -EINVAL);
    assert_int_equal(i8042_key(f->kbc, 0x200, true), -EINVAL);
    teardown(f);
}

static void test_typing(void **state)
{
    static const char plain[] = "qwertyuiop[]\nasdfghjkl;'`\\zxcvbnm,./ 1234567890-=";
    static const char shifted[] = "QWERTYUIOP{}\nASDFGHJKL:\"~|ZXCVBNM<>? !@#$%^&*()_+";
    unsigned a, b;
    bool shift;

    for (unsigned i = 0; plain[i] != '\0'; i++) {
        assert_int_equal(i8042_key_for(plain[i], &a, &shift), 0);
        assert_false(shift);
        assert_int_equal(i8042_key_for(shifted[i], &b, &shift), 0);
        assert_int_equal(shift, plain[i] != shifted[i]);
        assert_int_equal(a, b);
    }
    assert_int_equal(i8042_key_for('a', &a, &shift), 0);
    assert_int_equal(a, 0x1e);
    assert_int_equal(i8042_key_for('\r', &a, &shift), 0);
    assert_int_equal(a, 0x1c);
    assert_int_equal(i8042_key_for('\0', &a, &shift), -EINVAL);
    assert_int_equal(i8042_key_for((char)0xe4, &a, &shift), -EINVAL);
}

static void test_buffer(void **state)
{
    struct fixture *f = setup();
    unsigned taken = 0;

    while (i8042_key(f->kbc, 0x02, true) == 0) {
        taken++;
    }
    assert_int_equal(i8042_key(f->kbc, 0x02, true), -EAGAIN);
    assert_int_equal(taken, 17); /* the keyboard's 16 and the controller's one */
    /* Off: what is there waits. */
    command(f, 0xad);
    assert_int_equal(reply(f), 0x02);
    assert_int_equal(status(f) & 1, 0);
    command(f, 0xae);
    for (unsigned i = 1; i < taken; i++) {
        assert_int_equal(reply(f), 0x02);
    }
    assert_int_equal(status(f) & 1, 0);
    teardown(f);
}

static void test_ports(void **state)
{
    struct fixture *f = setup();

    command(f, 0xd0);
    assert_int_equal(reply(f) & 0x03, 0x03); /* A20 on, not in reset */
    command(f, 0xd1);
    data(f, 0xdd); /* A20 off */
    command(f, 0xd0);
    assert_int_equal(reply(f) & 0x03, 0x01);
    assert_int_equal(dev_read(f->kbc, I8042_REGION_FAST_A20, 0, 1), 0);
    dev_write(f->kbc, I8042_REGION_FAST_A20, 0, 1, 2);
    assert_int_equal(dev_read(f->kbc, I8042_REGION_FAST_A20, 0, 1), 2);
    command(f, 0xd2); /* as if the keyboard had sent it */
    data(f, 0x42);
    assert_true(f->fake.level[1]);
    EXPECT(f, 0x42);
    command(f, 0x25);
    EXPECT(f, 0x00);
    command(f, 0x65);
    data(f, 0x99);
    command(f, 0x25);
    EXPECT(f, 0x99);

    assert_int_equal(f->fake.events[DEVICE_EVENT_RESET], 0);
    command(f, 0xff); /* pulses nothing */
    assert_int_equal(f->fake.events[DEVICE_EVENT_RESET], 0);
    command(f, 0xfe);
    assert_int_equal(f->fake.events[DEVICE_EVENT_RESET], 1);
    command(f, 0xd1);
    data(f, 0xde);
    assert_int_equal(f->fake.events[DEVICE_EVENT_RESET], 2);
    dev_write(f->kbc, I8042_REGION_FAST_A20, 0, 1, 3);
    assert_int_equal(f->fake.events[DEVICE_EVENT_RESET], 3);
    teardown(f);
}

static void test_state(void **state)
{
    const struct i8042_config config = { .id = "i8042", .gsi = 1 };
    struct fixture *f = setup();
    struct device *copy;

    assert_int_equal(i8042_key(f->kbc, 0x1e, true), 0);
    assert_int_equal(i8042_key(f->kbc, 0x30, true), 0);
    data(f, 0xed); /* its parameter is yet to come */
    assert_int_equal(i8042_create(&f->fake.env, &config, &copy, NULL), 0);
    dev_copy_state(f->kbc, copy);
    device_destroy(f->kbc);
    f->kbc = copy;
    assert_true(f->fake.level[1]);
    assert_int_equal(reply(f), 0x1e);
    data(f, 0x02);
    EXPECT(f, 0xfa, 0xfa, 0x30);
    assert_int_equal(i8042_leds(f->kbc), 2);
    device_reset(f->kbc);
    assert_int_equal(i8042_leds(f->kbc), 0);
    teardown(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linux_controller),
        cmocka_unit_test(test_linux_keyboard),
        cmocka_unit_test(test_scan_sets),
        cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_typing),
        cmocka_unit_test(test_buffer),
        cmocka_unit_test(test_ports),
        cmocka_unit_test(test_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
