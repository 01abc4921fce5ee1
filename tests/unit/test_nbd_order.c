/* SPDX-License-Identifier: MIT */
/* backend/disk/nbd against a server of the test's own, which answers in an order of its
 * choosing and goes away: what a flush vouches for. pthread_create: the server's thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/disk/disk.h"
#include "base/util.h"

/* ---- A server (the NBD protocol: fixed newstyle, simple replies) ---------------------------- */

enum { OPT_GO = 7, REP_ACK = 1, REP_INFO = 3, CMD_READ = 0, CMD_DISC = 2, CMD_FLUSH = 3 };
enum { FLAGS = 1 | 4 /* flush */ | 32 /* trim */ };
static const uint64_t export_size = 1 << 20;

struct server {
    char path[64];
    int listener, fd;
    pthread_t thread;
    atomic_bool hold_flush; /* flushes are answered behind the next write */
    atomic_bool die_now;    /* after the answer to the next command that comes */
    atomic_uint connections, writes, flushes;
    uint64_t held; /* the handle of a flush that waits */
    bool holding;
    atomic_uint hold_reads; /* so many reads are not answered */
    uint64_t reads[4];      /* their handles, */
    atomic_uint read_count; /* in the order they came */
    _Atomic uint64_t size;  /* of the export, for those who connect */
};

static bool get(int fd, void *bytes, size_t size)
{
    return size == 0 || recv(fd, bytes, size, MSG_WAITALL) == (ssize_t)size;
}

static bool put(int fd, const void *bytes, size_t size)
{
    return send(fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size;
}

static bool reply_option(int fd, uint32_t option, uint32_t type, const void *data,
                         uint32_t size)
{
    uint8_t header[20];
    uint64_t magic = htobe64(0x3e889045565a9);

    memcpy(header, &magic, 8);
    store_le32(header + 8, htobe32(option));
    store_le32(header + 12, htobe32(type));
    store_le32(header + 16, htobe32(size));
    return put(fd, header, sizeof(header)) && (size == 0 || put(fd, data, size));
}

static bool negotiate(int fd, uint64_t size_now)
{
    static const uint8_t hello[] = "NBDMAGICIHAVEOPT\0\3"; /* newstyle, no zeroes */
    uint8_t flags[4], header[16], data[1024], info[12] = { 0 };

    if (!put(fd, hello, 18) || !get(fd, flags, sizeof(flags))) {
        return false;
    }
    while (get(fd, header, sizeof(header))) {
        uint32_t option = be32toh(load_le32(header + 8));
        uint32_t size = be32toh(load_le32(header + 12));

        if (size > sizeof(data) || !get(fd, data, size)) {
            return false;
        }
        if (option != OPT_GO) {
            if (!reply_option(fd, option, 0x80000001u /* unsupported */, NULL, 0)) {
                return false;
            }
            continue;
        }
        store_le64(info + 2, htobe64(size_now));
        store_le16(info + 10, htobe16(FLAGS));
        return reply_option(fd, option, REP_INFO, info, sizeof(info)) &&
               reply_option(fd, option, REP_ACK, NULL, 0);
    }
    return false;
}

static bool answer(int fd, uint64_t handle)
{
    uint8_t reply[16];

    store_le32(reply, htobe32(0x67446698));
    store_le32(reply + 4, 0);
    store_le64(reply + 8, handle);
    return put(fd, reply, sizeof(reply));
}

/* One command; false: the connection is over. */
static bool serve_command(struct server *s)
{
    static uint8_t data[1 << 16];
    uint8_t header[28];
    uint64_t handle;
    uint32_t size;
    bool on = true, die;

    if (!get(s->fd, header, sizeof(header))) {
        return false;
    }
    /* Now, and not behind the answer, from which on the client sets the next one's. */
    die = atomic_exchange(&s->die_now, false);
    handle = load_le64(header + 8);
    size = be32toh(load_le32(header + 24));
    switch (be16toh(load_le16(header + 6))) {
    case CMD_DISC:
        return false;
    case CMD_READ:
        if (atomic_load(&s->hold_reads) > 0) {
            atomic_fetch_sub(&s->hold_reads, 1);
            s->reads[atomic_load(&s->read_count)] = handle;
            atomic_fetch_add(&s->read_count, 1);
            return true;
        }
        return answer(s->fd, handle) && put(s->fd, data, size);
    case CMD_FLUSH:
        if (atomic_exchange(&s->hold_flush, false)) {
            s->held = handle;
            s->holding = true;
            atomic_fetch_add(&s->flushes, 1);
            return true;
        }
        atomic_fetch_add(&s->flushes, 1);
        on = answer(s->fd, handle);
        break;
    default: /* a write */
        if (!get(s->fd, data, size)) {
            return false;
        }
        on = answer(s->fd, handle);
        atomic_fetch_add(&s->writes, 1);
        if (s->holding) {
            s->holding = false;
            on = on && answer(s->fd, s->held);
        }
        break;
    }
    return on && !die;
}

static void *server_run(void *context)
{
    struct server *s = context;

    while ((s->fd = accept(s->listener, NULL, NULL)) >= 0) {
        if (negotiate(s->fd, atomic_load(&s->size))) {
            atomic_fetch_add(&s->connections, 1);
            while (serve_command(s)) {
            }
        }
        close(s->fd);
    }
    return NULL;
}

static void server_start(struct server *s)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };

    memset(s, 0, sizeof(*s));
    atomic_store(&s->size, export_size);
    snprintf(s->path, sizeof(s->path), "/tmp/umbra-nbd-%d.sock", (int)getpid());
    strcpy(at.sun_path, s->path);
    unlink(s->path);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(s->listener, 4), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, server_run, s), 0);
}

static void server_stop(struct server *s)
{
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->listener);
    unlink(s->path);
}

/* ---- Its client ------------------------------------------------------------------------------- */

struct client {
    struct io_ring ring;
    struct disk *disk;
    struct disk_queue *queue;
};

struct call {
    struct disk_request request;
    struct iovec iov;
    uint8_t bytes[4096];
    bool done;
    int error;
};

static void call_done(struct disk_request *request, int error)
{
    struct call *call = container_of(request, struct call, request);

    call->done = true;
    call->error = error;
}

static void begin(struct client *c, struct call *call, enum disk_op op)
{
    memset(call, 0, sizeof(*call));
    call->iov = (struct iovec){ call->bytes, sizeof(call->bytes) };
    call->request = (struct disk_request){ .op = op,
                                           .length = sizeof(call->bytes),
                                           .iov = &call->iov,
                                           .iov_count = 1,
                                           .done = call_done };
    disk_submit(c->queue, &call->request);
}

static int end(struct client *c, struct call *call)
{
    while (!call->done) {
        assert_true(io_ring_turn(&c->ring, true) >= 0);
    }
    return call->error;
}

static int once(struct client *c, enum disk_op op)
{
    struct call call;

    begin(c, &call, op);
    return end(c, &call);
}

static bool client_start(struct client *c, const struct server *s)
{
    static const struct log none;
    struct umbra_error error;
    char uri[128];

    snprintf(uri, sizeof(uri), "nbd+unix:///disk?socket=%s", s->path);
    if (disk_nbd_open(uri, false, &none, &c->disk, &error) != 0) {
        assert_non_null(strstr(error.message, "libnbd0")); /* the package to install */
        return false;
    }
    assert_int_equal(io_ring_init(&c->ring, 64), 0);
    assert_int_equal(c->disk->ops->queue_open(c->disk, &c->ring, &c->queue), 0);
    assert_int_equal(io_ring_start(&c->ring), 0);
    return true;
}

static void client_stop(struct client *c)
{
    c->disk->ops->queue_close(c->queue);
    io_ring_stop(&c->ring);
    io_ring_fini(&c->ring);
    disk_destroy(c->disk);
}

/* The server goes away with its next answer, a read's; a read of the next one follows. */
static void lose_server(struct client *c, struct server *s)
{
    unsigned connections = atomic_load(&s->connections);

    atomic_store(&s->die_now, true);
    assert_int_equal(once(c, DISK_FLUSH), 0);
    assert_int_equal(once(c, DISK_READ), 0);
    assert_int_equal(atomic_load(&s->connections), connections + 1);
}

/* A flush vouches for the writes that were answered before it was sent, for no others. */
static void test_order(void **state)
{
    struct call flush, write;
    unsigned flushes;
    struct server s;
    struct client c;

    (void)state;
    server_start(&s);
    if (!client_start(&c, &s)) {
        server_stop(&s);
        skip(); /* no libnbd */
    }
    /* Everything flushed: a new server is as good as the old one. */
    assert_int_equal(once(&c, DISK_WRITE), 0);
    assert_int_equal(once(&c, DISK_FLUSH), 0);
    lose_server(&c, &s);
    assert_int_equal(once(&c, DISK_FLUSH), 0);
    /* A write that no flush came behind: the next one must not vouch for it. */
    atomic_store(&s.die_now, true);
    assert_int_equal(once(&c, DISK_WRITE), 0);
    assert_int_equal(once(&c, DISK_READ), 0);
    assert_int_equal(once(&c, DISK_FLUSH), -EIO);
    assert_int_equal(once(&c, DISK_FLUSH), 0);
    /* A write that was answered while a flush was under way, before that was answered. */
    assert_int_equal(once(&c, DISK_WRITE), 0);
    atomic_store(&s.hold_flush, true);
    flushes = atomic_load(&s.flushes);
    begin(&c, &flush, DISK_FLUSH);
    while (atomic_load(&s.flushes) == flushes) {
        assert_true(io_ring_turn(&c.ring, false) >= 0);
    }
    atomic_store(&s.die_now, true);
    begin(&c, &write, DISK_WRITE);
    assert_int_equal(end(&c, &write), 0);
    assert_int_equal(end(&c, &flush), 0);
    assert_int_equal(once(&c, DISK_READ), 0);
    assert_int_equal(once(&c, DISK_FLUSH), -EIO);
    assert_int_equal(once(&c, DISK_FLUSH), 0);
    client_stop(&c);
    server_stop(&s);
}

/* The connection that does not know the disk's new end goes when its requests are done. */
static void test_renewal(void **state)
{
    static uint8_t zeroes[4096];
    struct call reads[2], write;
    struct server s;
    struct client c;

    (void)state;
    server_start(&s);
    if (!client_start(&c, &s)) {
        server_stop(&s);
        skip(); /* no libnbd */
    }
    atomic_store(&s.hold_reads, 2);
    begin(&c, &reads[0], DISK_READ);
    begin(&c, &reads[1], DISK_READ);
    while (atomic_load(&s.read_count) < 2) {
        assert_true(io_ring_turn(&c.ring, false) >= 0);
    }
    atomic_store(&s.size, 2 * export_size);
    atomic_store(&c.disk->size, 2 * export_size);
    memset(&write, 0, sizeof(write));
    write.iov = (struct iovec){ write.bytes, sizeof(write.bytes) };
    write.request = (struct disk_request){ .op = DISK_WRITE,
                                           .offset = export_size,
                                           .length = sizeof(write.bytes),
                                           .iov = &write.iov,
                                           .iov_count = 1,
                                           .done = call_done };
    disk_submit(c.queue, &write.request);
    for (unsigned i = 0; i < 2; i++) { /* their answers, one by one, from here */
        assert_true(answer(s.fd, s.reads[i]) && put(s.fd, zeroes, sizeof(zeroes)));
        assert_int_equal(end(&c, &reads[i]), 0);
        for (unsigned n = 0; i == 0 && n < 20; n++) {
            assert_true(io_ring_turn(&c.ring, false) >= 0);
            usleep(1000);
        }
        assert_false(write.done);
    }
    assert_int_equal(end(&c, &write), 0);
    assert_int_equal(atomic_load(&s.writes), 1);
    assert_int_equal(once(&c, DISK_FLUSH), 0); /* nothing was lost */
    client_stop(&c);
    server_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_order),
                                        cmocka_unit_test(test_renewal) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
