/* SPDX-License-Identifier: MIT */
/* virtio-vsock with the loop running: hostile guests and clients, limits. pthread_create: the
 * loop's thread, so TSan looks at it too. */
#include "unit/vsock_fixture.h"

/* Each packet breaks a rule: an RST, or silence; never more than one line in the log. */
static void test_bad_packets(void **state)
{
    static const struct {
        const char *name;
        unsigned op;
        uint64_t src_cid, dst_cid;
        uint16_t type;
        uint32_t length;
        bool silent, stranger; /* no answer; no connection of these ports */
    } cases[] = {
        { "no operation", 0, CID, 2, 1, 0, false, false },
        { "an operation of the future", 8, CID, 2, 1, 0, false, false },
        { "an operation from nowhere", 0xffff, CID, 2, 1, 0, false, true },
        { "a second request", REQUEST, CID, 2, 1, 0, false, false },
        { "an answer to nothing", RESPONSE, CID, 2, 1, 0, false, false },
        { "an answer from nowhere", RESPONSE, CID, 2, 1, 0, false, true },
        { "data from nowhere", RW, CID, 2, 1, 10, false, true },
        { "a shutdown of nothing", SHUTDOWN, CID, 2, 1, 0, false, true },
        { "credit for nothing", UPDATE, CID, 2, 1, 0, false, true },
        { "a reset of nothing", RST, CID, 2, 1, 0, true, true },
        { "a payload in an update", UPDATE, CID, 2, 1, 5, false, false },
        { "a seqpacket", REQUEST, CID, 2, 2, 0, false, true },
        { "an unknown type", RW, CID, 2, 0xffff, 0, false, true },
        { "a reset of an unknown type", RST, CID, 2, 7, 0, true, true },
        { "another guest", REQUEST, CID, 4, 1, 0, false, true },
        { "the hypervisor", REQUEST, CID, 0, 1, 0, false, true },
        { "nobody", REQUEST, CID, UINT64_MAX, 1, 0, false, true },
        { "a wrong sender", REQUEST, 4, 2, 1, 0, true, true },
        { "a sender with high bits", RW, CID | UINT64_C(1) << 32, 2, 1, 5, true, false },
    };
    struct rig rig, *r = &rig;
    int listener, fd;

    rig_open(r, 0, true);
    rig_start(r, false);
    rx_post_all(r);
    listener = host_listen(r, 1);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct packet p = packet(cases[i].stranger ? 99 : 10, 1, cases[i].op), got;

        fd = guest_connect(r, listener, 10, 1);
        p.src_cid = cases[i].src_cid;
        p.dst_cid = cases[i].dst_cid;
        p.type = cases[i].type;
        p.length = cases[i].length;
        packet_send(r, &p, "0123456789");
        if (!cases[i].silent) {
            WAIT_FOR(packet_there(r, &got));
            if (got.op != RST || got.src_cid != p.dst_cid || got.type != p.type ||
                got.dst_port != p.src_port || got.src_port != 1) {
                fail_msg("%s: answered by operation %u", cases[i].name, got.op);
            }
        }
        if (cases[i].stranger || cases[i].silent) { /* the connection is well */
            guest_send(r, 10, 1, "well", 4);
            host_reads(fd, "well", 4);
            guest_say(r, 10, 1, RST, 0);
        }
        host_at_end(fd);
        close(fd);
        assert_false(needs_reset(r));
    }
    assert_int_equal(atomic_load(&r->warnings), 1);
    WAIT_FOR(stat_of(r, "open") == 0);
    host_unlisten(r, 1, listener);
    rig_close(r);
}

/* Buffers that cannot be what they are said to be stop the device until its reset. */
static void test_bad_buffers(void **state)
{
    for (unsigned which = 0; which < 5; which++) {
        struct rig rig, *r = &rig;
        struct packet p = packet(10, 1, RW);
        struct drv_buffer b = { BUFFERS, HEADER, false };
        int listener, fd;

        rig_open(r, 0, true);
        listener = host_listen(r, 1);
        rig_start(r, which % 2 == 1);
        if (which >= 3) { /* no room behind the header */
            rx_post(r, 0, which == 3 ? HEADER : 1);
            assert_true(packet_queue(r, &p, NULL, 0)); /* earns an RST */
        } else {
            rx_post_all(r);
            p.length = which == 0 ? 1 : UINT32_MAX; /* but nothing is there */
            header_write(guest_mem_ptr(r->mem, BUFFERS, HEADER), &p);
            b.len = which == 2 ? HEADER - 1 : HEADER;
            assert_true(drv_add(&r->queues[TX], &b, 1, &p, 0));
        }
        kick(r, TX);
        WAIT_FOR(needs_reset(r));
        WAIT_FOR(atomic_load(&r->warnings) == 1); /* the line comes after the bit */
        rig_start(r, false);                      /* a reset heals it */
        rx_post_all(r);
        fd = guest_connect(r, listener, 10, 1);
        close(fd);
        assert_int_equal(expect(r, 1, 10, SHUTDOWN).flags, 3);
        assert_int_equal(atomic_load(&r->warnings), 1);
        host_unlisten(r, 1, listener);
        rig_close(r);
    }
}

/* A flood that wants answers, and no buffers for them: the device stops taking packets, and
 * goes on when there are some. */
static void test_refusals(void **state)
{
    struct rig rig, *r = &rig;
    unsigned sent = 0, taken = 0, answered = 0;
    uint32_t length;
    struct packet p;

    rig_open(r, 0, false);
    rig_start(r, false);
    while (sent < 1000) {
        p = packet(sent, 1, REQUEST);
        while (sent < 1000 && packet_queue(r, &p, NULL, 0)) {
            p = packet(++sent, 1, REQUEST);
        }
        kick(r, TX);
        if (drv_get(&r->queues[TX], &length) != NULL) {
            taken++;
        } else if (sent >= 64 + QUEUE - 1) {
            break; /* full: it takes no more */
        }
        sched_yield();
    }
    assert_int_equal(sent, 64 + QUEUE - 1);
    assert_int_equal(taken, 64);
    rx_post_all(r);
    while (answered < 1000) {
        while (drv_get(&r->queues[TX], &length) != NULL) {
            taken++;
        }
        p = packet(sent, 1, REQUEST);
        if (sent < 1000 && packet_queue(r, &p, NULL, 0)) {
            sent++;
            kick(r, TX);
        }
        if (packet_there(r, &p)) {
            assert_int_equal(p.op, RST);
            assert_int_equal(p.dst_port, answered++); /* in order */
        }
    }
    assert_int_equal(stat_of(r, "refused"), 1000);
    rig_close(r);
}

/* No more connections than allowed; clients wait in line, guests are refused. */
static void test_limits(void **state)
{
    struct rig rig, *r = &rig;
    int fds[4], listener, waiting;
    struct packet p;

    rig_open(r, 4, true);
    rig_start(r, false);
    rx_post_all(r);
    listener = host_listen(r, 1);
    for (unsigned i = 0; i < 4; i++) {
        fds[i] = guest_connect(r, listener, 10 + i, 1);
    }
    guest_say(r, 20, 1, REQUEST, 0);
    expect(r, 1, 20, RST);
    waiting = host_dial(r, "CONNECT 5\n");
    assert_int_equal(stat_of(r, "open"), 4);
    guest_say(r, 10, 1, RST, 0);
    host_at_end(fds[0]);
    WAIT_FOR(packet_there(r, &p));
    assert_int_equal(p.op, REQUEST);
    assert_int_equal(p.dst_port, 5);
    close(waiting);
    for (unsigned i = 0; i < 4; i++) {
        close(fds[i]);
    }
    host_unlisten(r, 1, listener);
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_packets),
        cmocka_unit_test(test_bad_buffers),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
