/* SPDX-License-Identifier: MIT */
/* devices/board/uart16550: registers, interrupts, FIFOs, loopback, what Linux's 8250 probes. */
#include "fake_env.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/board/uart16550.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct fixture {
    struct fake_env fake;
    struct device *uart;
    char output[1 << 20];
    size_t length;
};

static void on_output(void *context, const void *bytes, size_t length)
{
    struct fixture *f = context;

    assert_true(f->length + length <= sizeof(f->output));
    memcpy(f->output + f->length, bytes, length);
    f->length += length;
}

static struct fixture fixture;

static struct fixture *setup_end(struct char_end_config end, bool with_loop)
{
    struct fixture *f = &fixture;
    struct uart16550_config config = { .id = "com1", .gsi = 4, .end = end };
    struct umbra_error error;

    f->length = 0;
    config.end.output = on_output;
    config.end.output_context = f;
    fake_env_init(&f->fake, with_loop);
    assert_int_equal(uart16550_create(&f->fake.env, &config, &f->uart, &error), 0);
    return f;
}

static struct fixture *setup(void)
{
    return setup_end((struct char_end_config){ .kind = CHAR_END_CALLBACK }, false);
}

static void teardown(struct fixture *f)
{
    device_destroy(f->uart);
    assert_false(f->fake.level[4]);
    fake_env_fini(&f->fake);
}

static uint8_t in(struct fixture *f, unsigned reg)
{
    return (uint8_t)dev_read(f->uart, 0, reg, 1);
}

static void out(struct fixture *f, unsigned reg, uint8_t value)
{
    dev_write(f->uart, 0, reg, 1, value);
}

static void test_power_on(void **state)
{
    struct fixture *f = setup();

    assert_int_equal(in(f, IER), 0);
    assert_int_equal(in(f, IIR), 0x01);
    assert_int_equal(in(f, LCR), 0);
    assert_int_equal(in(f, MCR), 0);
    assert_int_equal(in(f, LSR), 0x60);
    assert_int_equal(in(f, MSR), 0xb0); /* DCD, DSR, CTS; no deltas */
    assert_int_equal(in(f, DATA), 0);
    assert_false(f->fake.level[4]);
    teardown(f);
}

static void test_output(void **state)
{
    struct fixture *f = setup();

    for (const char *p = "Hello"; *p != '\0'; p++) {
        assert_int_equal(in(f, LSR) & 0x60, 0x60);
        out(f, DATA, (uint8_t)*p);
    }
    assert_int_equal(f->length, 5);
    assert_memory_equal(f->output, "Hello", 5);
    dev_write(f->uart, 0, SCR, 1, 0x5a);
    assert_int_equal(in(f, SCR), 0x5a);
    out(f, LCR, 0x83);
    dev_write(f->uart, 0, DATA, 2, 0x1201); /* a divisor in one 16-bit write */
    assert_int_equal(dev_read(f->uart, 0, DATA, 2), 0x1201);
    out(f, LCR, 0x03);
    assert_int_equal(in(f, IER), 0);
    assert_int_equal(f->length, 5);
    teardown(f);
}

/* The steps of Linux's autoconfig(): IER bits, loopback, which chip it is. */
static void test_linux_autoconfig(void **state)
{
    struct fixture *f = setup();
    uint8_t status;

    out(f, IER, 0);
    assert_int_equal(in(f, IER) & 0x0f, 0);
    out(f, IER, 0x0f);
    assert_int_equal(in(f, IER), 0x0f); /* no sleep or other bits of later chips */
    out(f, IER, 0xff);
    assert_int_equal(in(f, IER), 0x0f);
    out(f, IER, 0);

    out(f, MCR, 0x1a); /* loop, OUT2, RTS */
    assert_int_equal(in(f, MSR) & 0xf0, 0x90);
    out(f, MCR, 0);

    out(f, FCR, 0x01);
    assert_int_equal(in(f, IIR) >> 6, 3); /* 16550A: FIFOs work */
    out(f, LCR, 0x80);
    assert_int_not_equal(in(f, IIR), 0); /* no EFR behind DLAB */
    out(f, LCR, 0xbf);
    assert_int_not_equal(in(f, IIR), 0);
    out(f, LCR, 0);
    status = in(f, MCR);
    out(f, LCR, 0xe0);
    assert_int_equal((in(f, IIR) ^ status) & 0x10, 0); /* not a National SuperI/O */
    out(f, LCR, 0);
    out(f, FCR, 0x21); /* the 16750's 64 bytes */
    assert_int_equal(in(f, IIR) >> 5 & 1, 0);
    teardown(f);
}

/* The THRE tests of Linux's startup: enabling the interrupt with an empty transmitter
 * raises it, again after it was read away and after it was off. */
static void test_thre(void **state)
{
    struct fixture *f = setup();

    out(f, FCR, 0x01);
    for (unsigned i = 0; i < 2; i++) {
        out(f, IER, 0x02);
        assert_true(f->fake.level[4]);
        assert_int_equal(in(f, IIR), 0xc2);
        assert_false(f->fake.level[4]);
        assert_int_equal(in(f, IIR), 0xc1);
        out(f, IER, 0x02); /* no edge: nothing new */
        assert_int_equal(in(f, IIR), 0xc1);
        out(f, IER, 0);
    }
    out(f, IER, 0x02);
    in(f, IIR);
    out(f, DATA, 'x');
    assert_true(f->fake.level[4]); /* it went at once */
    assert_int_equal(in(f, IIR), 0xc2);
    out(f, DATA, 'y');
    out(f, DATA, 'z');
    assert_int_equal(f->length, 3);
    assert_true(f->fake.level[4]);
    out(f, IER, 0);
    assert_false(f->fake.level[4]);
    out(f, IER, 0x02); /* empty, so it comes back */
    assert_true(f->fake.level[4]);
    teardown(f);
}

static void test_input(void **state)
{
    struct fixture *f = setup();
    char big[300];

    out(f, FCR, 0x01); /* trigger level 1 */
    out(f, IER, 0x01);
    assert_int_equal(uart16550_send(f->uart, "ab", 2), 0);
    assert_true(f->fake.level[4]);
    assert_int_equal(in(f, IIR), 0xc4);
    assert_int_equal(in(f, LSR), 0x61);
    assert_int_equal(in(f, DATA), 'a');
    assert_int_equal(in(f, DATA), 'b');
    assert_false(f->fake.level[4]);
    assert_int_equal(in(f, LSR), 0x60);

    /* Below the trigger level the time-out tells; at it, the data. */
    out(f, FCR, 0xc1); /* 14 */
    assert_int_equal(uart16550_send(f->uart, "0123456789", 10), 0);
    assert_int_equal(in(f, IIR), 0xcc);
    assert_int_equal(uart16550_send(f->uart, "abcd", 4), 0);
    assert_int_equal(in(f, IIR), 0xc4);
    assert_int_equal(in(f, DATA), '0');
    assert_int_equal(in(f, IIR), 0xcc);
    out(f, FCR, 0x03); /* clear what is received */
    assert_int_equal(in(f, LSR), 0x60);
    assert_false(f->fake.level[4]);

    /* More than a FIFO waits outside: no overrun, no loss, in order. */
    for (unsigned i = 0; i < sizeof(big); i++) {
        big[i] = (char)i;
    }
    assert_int_equal(uart16550_send(f->uart, big, sizeof(big)), 0);
    for (unsigned i = 0; i < sizeof(big); i++) {
        assert_int_equal(in(f, LSR), 0x61);
        assert_int_equal(in(f, DATA), (uint8_t)i);
    }
    assert_int_equal(in(f, LSR), 0x60);
    teardown(f);
}

static void test_queue_full(void **state)
{
    struct fixture *f = setup();
    static char big[65536];

    out(f, MCR, 0x10); /* looped back: nothing is taken in */
    assert_int_equal(uart16550_send(f->uart, big, sizeof(big)), 0);
    assert_int_equal(uart16550_send(f->uart, "x", 1), -EAGAIN);
    assert_int_equal(in(f, LSR), 0x60);
    out(f, MCR, 0);
    assert_int_equal(in(f, LSR), 0x61);
    assert_int_equal(uart16550_send(f->uart, "x", 1), 0); /* one went into the UART */
    teardown(f);
}

static void test_loopback(void **state)
{
    struct fixture *f = setup();

    out(f, FCR, 0x01);
    out(f, MCR, 0x10);
    assert_int_equal(in(f, MSR) & 0xf0, 0);
    for (unsigned i = 0; i < 18; i++) {
        out(f, DATA, (uint8_t)('a' + i));
    }
    assert_int_equal(f->length, 0);
    assert_int_equal(in(f, LSR), 0x63); /* two too many: overrun, told once */
    assert_int_equal(in(f, LSR), 0x61);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(in(f, DATA), 'a' + i);
    }
    assert_int_equal(in(f, LSR), 0x60);
    /* Each modem output shows up at its input, with deltas. */
    in(f, MSR);
    out(f, MCR, 0x12);
    assert_int_equal(in(f, MSR), 0x11); /* RTS: CTS */
    out(f, MCR, 0x11);
    assert_int_equal(in(f, MSR), 0x23); /* DTR: DSR; CTS went */
    out(f, MCR, 0x14);
    assert_int_equal(in(f, MSR), 0x42); /* OUT1: RI, no delta at its start */
    out(f, MCR, 0x18);
    assert_int_equal(in(f, MSR), 0x8c); /* OUT2: DCD; RI ended */
    teardown(f);
}

static void test_line_status(void **state)
{
    struct fixture *f = setup();

    out(f, FCR, 0x01);
    out(f, IER, 0x05);
    assert_int_equal(uart16550_send(f->uart, "a", 1), 0);
    uart16550_send_break(f->uart);
    assert_int_equal(in(f, IIR), 0xc4); /* the break is not on top yet */
    assert_int_equal(in(f, LSR), 0xe1); /* but an error is in the FIFO */
    assert_int_equal(in(f, DATA), 'a');
    assert_int_equal(in(f, IIR), 0xc6);
    assert_int_equal(in(f, LSR), 0xf1);
    assert_int_equal(in(f, LSR), 0x61); /* read away */
    assert_int_equal(in(f, IIR), 0xc4);
    assert_int_equal(in(f, DATA), 0);
    assert_false(f->fake.level[4]);
    teardown(f);
}

static void test_modem(void **state)
{
    struct fixture *f = setup();

    out(f, IER, 0x08);
    uart16550_set_modem(f->uart, UART16550_CTS | UART16550_DSR); /* carrier lost */
    assert_true(f->fake.level[4]);
    assert_int_equal(in(f, IIR), 0x00);
    assert_int_equal(in(f, MSR), 0x38);
    assert_false(f->fake.level[4]);
    assert_int_equal(in(f, MSR), 0x30);
    uart16550_set_modem(f->uart, UART16550_RI);
    assert_int_equal(in(f, MSR), 0x43); /* ringing has no delta, its end has */
    uart16550_set_modem(f->uart, 0);
    assert_int_equal(in(f, MSR), 0x04);
    teardown(f);
}

/* Priorities, all sources at once. */
static void test_priority(void **state)
{
    struct fixture *f = setup();

    out(f, FCR, 0x01);
    uart16550_send_break(f->uart);
    uart16550_set_modem(f->uart, 0);
    out(f, IER, 0x0f);
    assert_int_equal(in(f, IIR), 0xc6);
    in(f, LSR);
    assert_int_equal(in(f, IIR), 0xc4);
    in(f, DATA);
    assert_int_equal(in(f, IIR), 0xc2);
    assert_int_equal(in(f, IIR), 0xc0);
    in(f, MSR);
    assert_int_equal(in(f, IIR), 0xc1);
    assert_false(f->fake.level[4]);
    teardown(f);
}

/* Slow reader: the transmitter stays full, then empties with an interrupt; all arrives. */
struct reader {
    int fd;
    atomic_size_t total;
    atomic_bool wrong;
};

static void *slow_reader(void *context)
{
    struct reader *reader = context;
    uint8_t buffer[997];
    ssize_t count;

    while ((count = read(reader->fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t i = 0; i < count; i++) {
            if (buffer[i] != (uint8_t)(reader->total * 7 >> 3)) {
                reader->wrong = true;
            }
            reader->total++;
        }
    }
    return NULL;
}

static void test_backpressure(void **state)
{
    enum { TOTAL = 600000 };
    struct reader reader = { 0 };
    struct fixture *f;
    pthread_t thread;
    bool stalled = false;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    reader.fd = pair[1];
    f = setup_end((struct char_end_config){ .kind = CHAR_END_FD, .fd = pair[0] }, true);
    close(pair[0]); /* the end has its own */
    assert_int_equal(loop_start(f->fake.env.loop, NULL), 0);
    out(f, FCR, 0x01);
    out(f, IER, 0x02);
    for (size_t i = 0; i < TOTAL; i++) {
        if (!stalled && (in(f, LSR) & 0x20) == 0) {
            /* Nobody has read yet: the socket and the buffer are full. */
            stalled = true;
            in(f, IIR);
            assert_false(f->fake.level[4]);
            assert_int_equal(pthread_create(&thread, NULL, slow_reader, &reader), 0);
            WAIT_UNTIL(f->fake.level[4]); /* THRE interrupt */
            assert_int_equal(in(f, IIR), 0xc2);
        }
        WAIT_UNTIL((in(f, LSR) & 0x20) != 0);
        out(f, DATA, (uint8_t)(i * 7 >> 3));
    }
    assert_true(stalled);
    WAIT_UNTIL(reader.total == TOTAL);
    assert_false(reader.wrong);
    teardown(f); /* closes the socket: the reader ends */
    assert_int_equal(pthread_join(thread, NULL), 0);
    close(pair[1]);
}

static void test_state(void **state)
{
    struct uart16550_config config = { .id = "com1", .gsi = 4 };
    struct fixture *f = setup();
    struct device *copy;

    out(f, LCR, 0x80);
    out(f, DATA, 0x0c);
    out(f, LCR, 0x03);
    out(f, FCR, 0x81);
    out(f, MCR, 0x0b);
    out(f, IER, 0x05);
    out(f, SCR, 0x77);
    assert_int_equal(uart16550_send(f->uart, "queued", 6), 0);
    uart16550_send_break(f->uart);
    assert_int_equal(uart16550_create(&f->fake.env, &config, &copy, NULL), 0);
    dev_copy_state(f->uart, copy);
    device_destroy(f->uart);
    f->uart = copy;
    assert_true(f->fake.level[4]);
    for (const char *p = "queued"; *p != '\0'; p++) {
        assert_int_equal(in(f, DATA), *p);
    }
    assert_int_equal(in(f, IIR), 0xc6);
    assert_int_equal(in(f, LSR), 0xf1);
    assert_int_equal(in(f, SCR), 0x77);
    assert_int_equal(in(f, MCR), 0x0b);
    out(f, LCR, 0x83);
    assert_int_equal(in(f, DATA), 0x0c);
    device_reset(f->uart);
    assert_int_equal(in(f, LCR), 0);
    assert_false(f->fake.level[4]);
    teardown(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_on),     cmocka_unit_test(test_output),
        cmocka_unit_test(test_thre),         cmocka_unit_test(test_linux_autoconfig),
        cmocka_unit_test(test_input),        cmocka_unit_test(test_queue_full),
        cmocka_unit_test(test_loopback),     cmocka_unit_test(test_line_status),
        cmocka_unit_test(test_modem),        cmocka_unit_test(test_priority),
        cmocka_unit_test(test_backpressure), cmocka_unit_test(test_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
