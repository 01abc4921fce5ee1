/* SPDX-License-Identifier: MIT */
/* virtio-vsock with the loop running: connections both ways, half close, credit, the
 * embedder's ends, resets. pthread_create: the loop's thread, so TSan looks at it too. */
#include "unit/vsock_fixture.h"

#include <sys/ioctl.h>

#include "base/state.h"

/* The guest connects; data both ways; half close at each side; a clean end. */
static void test_guest_connects(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig rig, *r = &rig;
        uint8_t data[3000];
        int listener, fd;
        struct packet p;
        size_t got = 0;

        rig_open(r, 0, true);
        rig_start(r, packed);
        rx_post_all(r);
        listener = host_listen(r, 52);
        fd = guest_connect(r, listener, 1000, 52);
        for (unsigned i = 1; i <= 10; i++) {
            fill(data, sizeof(data), i);
            guest_send(r, 1000, 52, data, 300 * i);
            host_reads(fd, data, 300 * i);
        }
        for (unsigned i = 1; i <= 10; i++) { /* no more than a buffer each */
            assert_int_equal(send(fd, data, 300 * i, 0), 300 * i);
            for (got = 0; got < 300 * i; got += p.length) {
                p = expect(r, 52, 1000, RW);
                assert_memory_equal(p.data, data + got, p.length);
                assert_int_equal(p.buf_alloc, CREDIT);
                assert_int_equal(p.fwd_cnt, 300 * 55);
            }
        }
        /* The host has no more to say, but listens. */
        shutdown(fd, SHUT_WR);
        p = expect(r, 52, 1000, SHUTDOWN);
        assert_int_equal(p.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
        guest_send(r, 1000, 52, data, 100);
        host_reads(fd, data, 100);
        /* The guest neither: it is over, and an RST says so once the guest has shut both. */
        guest_say(r, 1000, 52, SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND);
        host_at_end(fd);
        p = expect(r, 52, 1000, SHUTDOWN);
        assert_int_equal(p.flags, 3);
        guest_say(r, 1000, 52, RST, 0);
        close(fd);
        WAIT_FOR(stat_of(r, "open") == 0);

        /* The other way round: the guest says it first. */
        fd = guest_connect(r, listener, 1000, 52);
        guest_say(r, 1000, 52, SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND);
        host_at_end(fd);
        assert_int_equal(send(fd, data, 100, 0), 100);
        assert_int_equal(expect(r, 52, 1000, RW).length, 100);
        guest_say(r, 1000, 52, SHUTDOWN, 3);
        expect(r, 52, 1000, RST);
        assert_int_equal(send(fd, data, 100, MSG_NOSIGNAL), -1);
        close(fd);

        /* The guest receives no more: who sends hears of it, the other way still works. */
        fd = guest_connect(r, listener, 1001, 52);
        guest_say(r, 1001, 52, SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_RCV);
        assert_int_equal(send(fd, data, 100, MSG_NOSIGNAL), -1);
        guest_send(r, 1001, 52, data, 100);
        host_reads(fd, data, 100);
        close(fd);
        p = expect(r, 52, 1001, SHUTDOWN);
        assert_int_equal(p.flags, 3);
        guest_say(r, 1001, 52, SHUTDOWN, 3);
        expect(r, 52, 1001, RST);

        /* Nobody listens. */
        guest_say(r, 1002, 53, REQUEST, 0);
        expect(r, 53, 1002, RST);
        WAIT_FOR(stat_of(r, "open") == 0);
        assert_int_equal(stat_of(r, "from_guest"), 3);
        assert_int_equal(atomic_load(&r->warnings), 0);
        host_unlisten(r, 52, listener);
        rig_close(r);
    }
}

/* Clients say CONNECT; bytes behind it are the guest's; what is not that is turned away. */
static void test_host_connects(void **state)
{
    static const char *const bad[] = {
        "connect 1\n",
        "CONNECT\n",
        "CONNECT \n",
        "CONNECT x\n",
        "CONNECT 1x\n",
        "CONNECT -1\n",
        "CONNECT 4294967295\n",
        "CONNECT 99999999999\n",
        "CONNECT 1 2\n",
        "\n",
        "GET / HTTP/1.1 and much more than a line has\n",
    };
    struct rig rig, *r = &rig;
    uint32_t port, other;
    char line[32];
    struct packet p;
    int fd, second;

    rig_open(r, 0, true);
    rig_start(r, false);
    rx_post_all(r);
    fd = host_dial(r, "CONNECT 77\nearly");
    WAIT_FOR(packet_there(r, &p));
    assert_int_equal(p.op, REQUEST);
    assert_int_equal(p.dst_port, 77);
    assert_int_equal(p.src_cid, 2);
    port = p.src_port;
    guest_say(r, 77, port, RESPONSE, 0);
    snprintf(line, sizeof(line), "OK %u\n", port);
    host_reads(fd, line, strlen(line));
    p = expect(r, port, 77, RW);
    assert_int_equal(p.length, 5);
    assert_memory_equal(p.data, "early", 5);
    guest_send(r, 77, port, "late", 4);
    host_reads(fd, "late", 4);

    /* Another one on the same port, its line a byte at a time. */
    second = host_dial(r, "");
    for (const char *c = "CONNECT 77\r\n"; *c != '\0'; c++) {
        assert_int_equal(send(second, c, 1, 0), 1);
        sched_yield();
    }
    WAIT_FOR(packet_there(r, &p));
    other = p.src_port;
    assert_int_not_equal(other, port);
    guest_say(r, 77, other, RST, 0); /* refused */
    host_at_end(second);
    close(second);

    /* A client that waits no longer. */
    second = host_dial(r, "CONNECT 78\n");
    WAIT_FOR(packet_there(r, &p));
    close(second);
    expect(r, p.src_port, 78, RST);

    /* The guest resets it. */
    guest_say(r, 77, port, RST, 0);
    host_at_end(fd);
    close(fd);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char c;

        fd = host_dial(r, bad[i]);
        assert_int_not_equal(recv(fd, &c, 1, 0), 1);
        close(fd);
    }
    WAIT_FOR(stat_of(r, "open") == 0);
    assert_int_equal(stat_of(r, "from_host"), 1);
    assert_int_equal(atomic_load(&r->warnings), 0);
    rig_close(r);
}

/* The host may send what the guest has room for; more follows its update, asked for. */
static void test_credit_of_the_guest(void **state)
{
    struct rig rig, *r = &rig;
    uint8_t data[10000];
    struct packet p;
    size_t got = 0;
    int listener, fd;

    rig_open(r, 0, true);
    rig_start(r, true);
    rx_post_all(r);
    listener = host_listen(r, 1);
    p = packet(9, 1, REQUEST);
    p.buf_alloc = 1000;
    packet_send(r, &p, NULL);
    fd = accept(listener, NULL, NULL);
    expect(r, 1, 9, RESPONSE);
    fill(data, sizeof(data), 1);
    assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
    while (got < sizeof(data)) {
        size_t limit = (got / 1000 + 1) * 1000;

        while (got < limit) {
            p = expect(r, 1, 9, RW);
            assert_memory_equal(p.data, data + got, p.length);
            got += p.length;
            assert_true(got <= limit);
        }
        expect(r, 1, 9, ASK); /* it does not know that there is no more */
        p = packet(9, 1, UPDATE);
        p.buf_alloc = 1000;
        p.fwd_cnt = (uint32_t)got;
        packet_send(r, &p, NULL);
    }
    /* A guest that claims to have forwarded more than it got has no credit. */
    p.fwd_cnt = (uint32_t)got + 1;
    packet_send(r, &p, NULL);
    assert_int_equal(send(fd, data, 10, 0), 10);
    expect(r, 1, 9, ASK);
    p.fwd_cnt = (uint32_t)got;
    packet_send(r, &p, NULL);
    assert_int_equal(expect(r, 1, 9, RW).length, 10);
    close(fd);
    assert_int_equal(expect(r, 1, 9, SHUTDOWN).flags, 3);
    host_unlisten(r, 1, listener);
    rig_close(r);
}

/* A host that does not read fills a buffer, and stops nobody else; a guest that sends more
 * than its credit loses its connection; what was taken arrives. */
static void test_slow_host(void **state)
{
    struct rig rig, *r = &rig;
    uint8_t data[64 << 10];
    uint32_t sent = 0, told = 0;
    int listener, slow, other, waiting;
    struct packet p;

    rig_open(r, 0, true);
    rig_start(r, false);
    rx_post_all(r);
    listener = host_listen(r, 1);
    slow = guest_connect(r, listener, 10, 1);
    other = guest_connect(r, listener, 11, 1);
    fill(data, sizeof(data), 7);
    /* As much as credit allows, until no update comes any more. */
    for (;;) {
        while (sent - told + sizeof(data) <= CREDIT) {
            guest_send(r, 10, 1, data, sizeof(data));
            sent += sizeof(data);
        }
        guest_say(r, 10, 1, ASK, 0);
        do {
            p = expect(r, 1, 10, UPDATE);
        } while (false);
        if (p.fwd_cnt == told) {
            break;
        }
        told = p.fwd_cnt;
        while (packet_there(r, &p)) {
            assert_int_equal(p.op, UPDATE);
            told = p.fwd_cnt;
        }
    }
    assert_true(sent - told <= CREDIT && sent - told > CREDIT - sizeof(data));
    guest_send(r, 11, 1, "through", 7);
    host_reads(other, "through", 7);
    /* The host reads: all of it, in order, and updates come. */
    for (uint32_t at = 0; at < sent; at += sizeof(data)) {
        host_reads(slow, data, sizeof(data));
    }
    do { /* unasked */
        p = expect(r, 1, 10, UPDATE);
        assert_true((int32_t)(p.fwd_cnt - told) >= 0);
    } while (p.fwd_cnt == told);
    while (p.fwd_cnt != sent) {
        guest_say(r, 10, 1, ASK, 0);
        do {
            assert_int_equal(p.op, UPDATE);
            assert_true((int32_t)(p.fwd_cnt - told) >= 0);
            told = p.fwd_cnt;
        } while (packet_there(r, &p));
    }
    told = sent;
    while (packet_there(r, &p)) {
    }
    /* Too much. */
    for (p.op = UPDATE; p.op == UPDATE;) {
        guest_send(r, 10, 1, data, sizeof(data));
        while (packet_there(r, &p) && p.op == UPDATE) {
        }
    }
    assert_int_equal(p.op, RST);
    assert_int_equal(p.dst_port, 10);
    WAIT_FOR(atomic_load(&r->warnings) == 1);
    guest_say(r, 99, 1, ASK, 0); /* behind the answers to what came after that */
    do {
        WAIT_FOR(packet_there(r, &p));
    } while (p.dst_port != 99);
    /* Shut down with a full buffer: the rest arrives, then the end. */
    slow = (close(slow), guest_connect(r, listener, 12, 1));
    assert_int_equal(ioctl(slow, FIONREAD, &waiting), 0);
    for (sent = told = 0; sent - told + sizeof(data) <= CREDIT || sent < (1 << 20);) {
        if (sent - told + sizeof(data) > CREDIT) {
            break;
        }
        guest_send(r, 12, 1, data, sizeof(data));
        sent += sizeof(data);
        while (packet_there(r, &p)) {
            told = p.op == UPDATE ? p.fwd_cnt : told;
        }
    }
    guest_say(r, 12, 1, SHUTDOWN, 3);
    do {
        WAIT_FOR(packet_there(r, &p));
    } while (p.op == UPDATE);
    assert_int_equal(p.op, RST);
    for (uint32_t at = 0; at < sent; at += sizeof(data)) {
        host_reads(slow, data, sizeof(data));
    }
    host_at_end(slow);
    close(slow);
    close(other);
    host_unlisten(r, 1, listener);
    rig_close(r);
}

/* Ends without paths; those that the guest has not heard of outlive a reset. */
static void test_embedder(void **state)
{
    struct rig rig, *r = &rig;
    int ends[2], queue, again, fd;
    struct packet p;
    char line[32];

    rig_open(r, 0, false);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(virtio_vsock_connect(r->vdev, 80, ends[0]), 0);
    rig_start(r, false); /* begins with a reset */
    rx_post_all(r);
    WAIT_FOR(packet_there(r, &p));
    assert_int_equal(p.op, REQUEST);
    guest_say(r, 80, p.src_port, RESPONSE, 0);
    snprintf(line, sizeof(line), "OK %u\n", p.src_port);
    host_reads(ends[1], line, strlen(line));
    guest_send(r, 80, p.src_port, "hello", 5);
    host_reads(ends[1], "hello", 5);

    guest_say(r, 10, 1234, REQUEST, 0);
    expect(r, 1234, 10, RST);
    assert_int_equal(virtio_vsock_listen(r->vdev, 1234, &queue), 0);
    assert_int_equal(virtio_vsock_listen(r->vdev, 1234, &again), 0);
    assert_int_equal(queue, again);
    guest_say(r, 10, 1234, REQUEST, 0);
    expect(r, 1234, 10, RESPONSE);
    guest_send(r, 10, 1234, "hi", 2);
    assert_int_equal(read(queue, &fd, sizeof(fd)), sizeof(fd));
    host_reads(fd, "hi", 2);
    /* The driver goes: so do its connections; one that waits to be accepted, too. */
    guest_say(r, 11, 1234, REQUEST, 0);
    expect(r, 1234, 11, RESPONSE);
    rig_start(r, true);
    rx_post_all(r);
    host_at_end(fd);
    host_at_end(ends[1]);
    close(fd);
    close(ends[1]);
    assert_int_equal(stat_of(r, "open"), 0);
    /* As many as may wait, and no more. */
    for (unsigned i = 0; i < 64; i++) {
        guest_say(r, 100 + i, 1234, REQUEST, 0);
        WAIT_FOR(packet_there(r, &p));
        assert_int_equal(p.op, i < 63 ? RESPONSE : RST); /* one is there from before */
    }
    for (uint32_t port = 0; port < 63; port++) {
        assert_int_equal(virtio_vsock_listen(r->vdev, port, &queue), 0);
    }
    assert_int_equal(virtio_vsock_listen(r->vdev, 5000, &queue), -ENOSPC);
    rig_close(r);
}

/* After the state of another machine was loaded, the driver hears that its connections are
 * gone. */
static void test_transport_reset(void **state)
{
    struct rig rig, *r = &rig;
    struct drv_buffer b = { BUFFERS + (1 << 20), 4, true };
    struct state_writer *writer;
    struct state_reader *reader;
    struct umbra_error error;
    const void *bytes;
    uint32_t length;
    void *token;
    size_t size;
    int fd, listener;

    rig_open(r, 0, true);
    rig_start(r, false);
    rx_post_all(r);
    listener = host_listen(r, 1);
    fd = guest_connect(r, listener, 10, 1);
    assert_true(drv_add(&r->queues[EVENT], &b, 1, r, 0));
    kick(r, EVENT);
    loop_stop(r->loop);
    device_pause(r->device);
    assert_int_equal(state_writer_create(&writer), 0);
    assert_int_equal(device_save(r->device, writer, &error), 0);
    assert_int_equal(state_writer_finish(writer, &bytes, &size), 0);
    assert_int_equal(state_reader_create(bytes, size, &reader, &error), 0);
    assert_int_equal(device_load(r->device, reader, &error), 0);
    state_reader_destroy(reader);
    state_writer_destroy(writer);
    device_resume(r->device);
    assert_int_equal(loop_start(r->loop, &error), 0);
    host_at_end(fd);
    close(fd);
    WAIT_FOR((token = drv_get(&r->queues[EVENT], &length)) != NULL);
    assert_ptr_equal(token, r);
    assert_int_equal(length, 4);
    assert_int_equal(load_le32(guest_mem_ptr(r->mem, b.addr, 4)),
                     VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    fd = guest_connect(r, listener, 10, 1); /* and it goes on */
    close(fd);
    host_unlisten(r, 1, listener);
    rig_close(r);
}

enum { STREAMS = 6, ECHO = 600000 };

struct echo {
    int fd;
    unsigned seed;
    pthread_t thread;
};

/* Send ECHO bytes while reading them back; both ways at once. */
static void *echo_thread(void *context)
{
    struct echo *echo = context;
    uint8_t out[5000], in[5000], expected[5000];
    size_t sent = 0, got = 0;

    fill(out, sizeof(out), echo->seed);
    memcpy(expected, out, sizeof(out));
    while (got < ECHO) {
        ssize_t n = 0;

        if (sent < ECHO) {
            size_t at = sent % sizeof(out), left = sizeof(out) - at;

            n = send(echo->fd, out + at, left, MSG_DONTWAIT | MSG_NOSIGNAL);
            sent += n > 0 ? (size_t)n : 0;
        }
        n = recv(echo->fd, in, sizeof(in), n > 0 ? MSG_DONTWAIT : 0);
        for (ssize_t i = 0; i < n; i++, got++) {
            if (in[i] != expected[got % sizeof(expected)]) {
                return echo; /* told from NULL */
            }
        }
    }
    return sent == got ? NULL : echo;
}

/* The guest echoes for several clients at once, with the least credit that works. */
static void test_echo(void **state)
{
    struct rig rig, *r = &rig;
    struct echo echoes[STREAMS];
    uint32_t forwarded[STREAMS] = { 0 }, ports[STREAMS], sent[STREAMS] = { 0 };
    uint32_t theirs[STREAMS] = { 0 };
    uint64_t total = 0;
    struct packet p;
    void *result;

    rig_open(r, 0, true);
    rig_start(r, true);
    rx_post_all(r);
    for (unsigned i = 0; i < STREAMS; i++) {
        char line[32];

        snprintf(line, sizeof(line), "CONNECT %u\n", 100 + i);
        echoes[i] = (struct echo){ .fd = host_dial(r, line), .seed = i };
        WAIT_FOR(packet_there(r, &p));
        assert_int_equal(p.dst_port, 100 + i);
        ports[i] = p.src_port;
        p = packet(100 + i, ports[i], RESPONSE);
        p.buf_alloc = 20000;
        packet_send(r, &p, NULL);
        snprintf(line, sizeof(line), "OK %u\n", ports[i]);
        host_reads(echoes[i].fd, line, strlen(line));
    }
    for (unsigned i = 0; i < STREAMS; i++) {
        pthread_create(&echoes[i].thread, NULL, echo_thread, &echoes[i]);
    }
    while (total < (uint64_t)STREAMS * ECHO) {
        struct packet answer;
        unsigned i;

        WAIT_FOR(packet_there(r, &p));
        i = p.dst_port - 100;
        assert_true(i < STREAMS && p.src_port == ports[i]);
        theirs[i] = p.fwd_cnt;
        if (p.op != RW) {
            assert_true(p.op == UPDATE || p.op == ASK);
            continue;
        }
        forwarded[i] += p.length;
        total += p.length;
        assert_true(sent[i] - theirs[i] + p.length <= CREDIT); /* the clients do read */
        answer = packet(100 + i, ports[i], RW);
        answer.buf_alloc = 20000;
        answer.fwd_cnt = forwarded[i];
        answer.length = p.length;
        sent[i] += p.length;
        packet_send(r, &answer, p.data);
    }
    for (unsigned i = 0; i < STREAMS; i++) {
        pthread_join(echoes[i].thread, &result);
        assert_null(result);
        close(echoes[i].fd);
    }
    assert_int_equal(atomic_load(&r->warnings), 0);
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guest_connects),
        cmocka_unit_test(test_host_connects),
        cmocka_unit_test(test_credit_of_the_guest),
        cmocka_unit_test(test_slow_host),
        cmocka_unit_test(test_embedder),
        cmocka_unit_test(test_transport_reset),
        cmocka_unit_test(test_echo),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
