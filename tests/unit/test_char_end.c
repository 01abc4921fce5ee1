/* SPDX-License-Identifier: MIT */
/* backend/chardev: files, descriptors, pseudo-terminals, sockets; who loses what. */
#include "fake_env.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "backend/chardev/char_end.h"

struct fixture {
    struct fake_env fake;
    pthread_mutex_t lock;
    struct char_end *end;
    atomic_uint ready, connects, disconnects;
    char directory[64], path[96];
};

static void on_ready(void *context)
{
    ((struct fixture *)context)->ready++;
}

static void on_connected(void *context, bool connected)
{
    struct fixture *f = context;

    if (connected) {
        f->connects++;
    } else {
        f->disconnects++;
    }
}

static const struct char_end_ops ops = { .ready = on_ready, .connected = on_connected };

static void setup(struct fixture *f)
{
    fake_env_init(&f->fake, true);
    pthread_mutex_init(&f->lock, NULL);
    f->end = NULL;
    f->ready = f->connects = f->disconnects = 0;
    strcpy(f->directory, "/tmp/umbra-char-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->path, sizeof(f->path), "%s/end", f->directory);
    assert_int_equal(loop_start(f->fake.env.loop, NULL), 0);
}

static void open_end(struct fixture *f, enum char_end_kind kind, int fd)
{
    const struct char_end_config config = { .kind = kind, .path = f->path, .fd = fd };
    struct umbra_error error;

    assert_int_equal(char_end_create(f->fake.env.loop, &f->fake.log, "end", &config,
                                     &f->lock, &f->end, &error),
                     0);
    assert_int_equal(char_end_attach(f->end, &ops, f, &error), 0);
}

static void teardown(struct fixture *f)
{
    char_end_destroy(f->end);
    fake_env_fini(&f->fake);
    pthread_mutex_destroy(&f->lock);
    unlink(f->path);
    assert_int_equal(rmdir(f->directory), 0);
}

static size_t put(struct fixture *f, const void *bytes, size_t length)
{
    size_t taken;

    pthread_mutex_lock(&f->lock);
    taken = char_end_write(f->end, bytes, length);
    pthread_mutex_unlock(&f->lock);
    return taken;
}

static size_t get(struct fixture *f, void *bytes, size_t size)
{
    size_t count;

    pthread_mutex_lock(&f->lock);
    count = char_end_read(f->end, bytes, size);
    pthread_mutex_unlock(&f->lock);
    return count;
}

static bool is_connected(struct fixture *f)
{
    bool connected;

    pthread_mutex_lock(&f->lock);
    connected = char_end_connected(f->end);
    pthread_mutex_unlock(&f->lock);
    return connected;
}

static uint64_t dropped(struct fixture *f)
{
    struct char_end_stats stats;

    pthread_mutex_lock(&f->lock);
    char_end_get_stats(f->end, &stats);
    pthread_mutex_unlock(&f->lock);
    return stats.dropped;
}

/* Read exactly @length bytes of a descriptor. */
static void expect_bytes(int fd, const char *bytes, size_t length)
{
    char buffer[256];

    for (size_t done = 0; done < length;) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
        ssize_t count;

        assert_int_equal(poll(&poll_fd, 1, 60000), 1);
        count = read(fd, buffer, length - done < 256 ? length - done : 256);
        assert_true(count > 0);
        assert_memory_equal(buffer, bytes + done, count);
        done += (size_t)count;
    }
}

/* Read exactly @length bytes of the end. */
static void expect_input(struct fixture *f, const char *bytes, size_t length)
{
    char buffer[64];
    size_t done = 0;

    while (done < length) {
        size_t count;

        WAIT_UNTIL((count = get(f, buffer, length - done < 64 ? length - done : 64)) !=
                   0);
        assert_memory_equal(buffer, bytes + done, count);
        done += count;
    }
}

static void test_file(void **state)
{
    struct fixture f;
    char buffer[16];
    int fd;

    setup(&f);
    open_end(&f, CHAR_END_FILE, -1);
    assert_int_equal(put(&f, "one\n", 4), 4);
    assert_int_equal(put(&f, "two\n", 4), 4);
    fd = open(f.path, O_RDONLY);
    assert_int_equal(read(fd, buffer, sizeof(buffer)), 8);
    assert_memory_equal(buffer, "one\ntwo\n", 8);
    close(fd);
    assert_int_equal(get(&f, buffer, sizeof(buffer)), 0);
    assert_int_equal(char_end_send(f.end, "typed", 5), 0);
    assert_int_equal(f.ready, 1);
    assert_int_equal(get(&f, buffer, sizeof(buffer)), 5);
    teardown(&f);
}

static void test_full_disk(void **state)
{
    struct char_end_config config = { .kind = CHAR_END_FILE, .path = "/dev/full" };
    struct fixture f;

    setup(&f);
    assert_int_equal(
        char_end_create(NULL, &f.fake.log, "end", &config, &f.lock, &f.end, NULL), 0);
    assert_int_equal(put(&f, "lost", 4), 4);
    assert_int_equal(dropped(&f), 4);
    teardown(&f);
}

static void test_refused(void **state)
{
    struct char_end_config config = { .kind = CHAR_END_FILE, .path = "/nowhere/file" };
    char long_path[200];
    struct umbra_error error;
    struct fixture f;

    setup(&f);
    assert_int_equal(char_end_create(f.fake.env.loop, &f.fake.log, "com1", &config,
                                     &f.lock, &f.end, &error),
                     -ENOENT);
    assert_non_null(strstr(error.message, "com1"));
    assert_non_null(strstr(error.message, "/nowhere/file"));
    assert_int_equal(error.code, UMBRA_ERROR_MISSING);
    config = (struct char_end_config){ .kind = CHAR_END_FD, .fd = 999 };
    assert_int_equal(char_end_create(f.fake.env.loop, &f.fake.log, "com1", &config,
                                     &f.lock, &f.end, &error),
                     -EBADF);
    memset(long_path, 'a', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    config = (struct char_end_config){ .kind = CHAR_END_UNIX, .path = long_path };
    assert_int_equal(char_end_create(f.fake.env.loop, &f.fake.log, "com1", &config,
                                     &f.lock, &f.end, &error),
                     -ENAMETOOLONG);
    f.end = NULL;
    teardown(&f);
}

static void test_socket_fd(void **state)
{
    struct fixture f;
    int pair[2];

    setup(&f);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    open_end(&f, CHAR_END_FD, pair[0]);
    assert_int_equal(fcntl(pair[0], F_GETFL) & O_NONBLOCK,
                     0); /* the caller's is as it was */
    close(pair[0]);
    assert_int_equal(put(&f, "out", 3), 3);
    expect_bytes(pair[1], "out", 3);
    assert_int_equal(write(pair[1], "input", 5), 5);
    WAIT_UNTIL(f.ready != 0);
    expect_input(&f, "input", 5);
    close(pair[1]); /* the other side goes: output is dropped, nobody waits */
    WAIT_UNTIL(put(&f, "x", 1) == 1 && dropped(&f) != 0);
    assert_false(is_connected(&f));
    teardown(&f);
}

/* A pipe whose reader has gone must not kill the process by SIGPIPE. */
static void test_pipe_fd(void **state)
{
    struct fixture f;
    int fds[2];

    setup(&f);
    signal(SIGPIPE, SIG_DFL);
    assert_int_equal(pipe(fds), 0);
    open_end(&f, CHAR_END_FD, fds[1]);
    close(fds[1]);
    assert_int_equal(put(&f, "out", 3), 3);
    expect_bytes(fds[0], "out", 3);
    close(fds[0]);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(put(&f, "x", 1), 1);
    }
    WAIT_UNTIL(dropped(&f) == 3);
    teardown(&f);
}

/* Input only, to its end. */
static void test_read_only_fd(void **state)
{
    struct fixture f;
    char buffer[8];
    int fds[2];

    setup(&f);
    assert_int_equal(pipe(fds), 0);
    open_end(&f, CHAR_END_FD, fds[0]);
    close(fds[0]);
    assert_int_equal(put(&f, "nowhere", 7), 7);
    assert_int_equal(dropped(&f), 7);
    assert_int_equal(write(fds[1], "abc", 3), 3);
    expect_input(&f, "abc", 3);
    close(fds[1]);
    nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    assert_int_equal(get(&f, buffer, sizeof(buffer)), 0);
    teardown(&f);
}

/* Input is left to the kernel, which stops the sender, while the device does not read. */
static void test_input_backpressure(void **state)
{
    enum { TOTAL = 1000000 };
    size_t sent = 0, got = 0;
    struct fixture f;
    char buffer[1024];
    int pair[2];

    setup(&f);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    open_end(&f, CHAR_END_FD, pair[0]);
    close(pair[0]);
    while (got < TOTAL) {
        while (sent < TOTAL) {
            ssize_t count;

            for (size_t i = 0; i < sizeof(buffer); i++) {
                buffer[i] = (char)((sent + i) * 11 >> 2);
            }
            count = write(pair[1], buffer,
                          TOTAL - sent < sizeof(buffer) ? TOTAL - sent : sizeof(buffer));
            if (count < 0) {
                break;
            }
            sent += (size_t)count;
        }
        assert_true(sent < TOTAL || got > 100000);
        for (size_t count = 1; count != 0;) {
            count = get(&f, buffer, sizeof(buffer));
            for (size_t i = 0; i < count; i++) {
                assert_int_equal(buffer[i], (char)((got + i) * 11 >> 2));
            }
            got += count;
        }
    }
    close(pair[1]);
    teardown(&f);
}

static int client(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strcpy(address.sun_path, path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void test_unix(void **state)
{
    struct fixture f;
    struct stat status;
    char byte;
    int a, b;

    setup(&f);
    open_end(&f, CHAR_END_UNIX, -1);
    assert_string_equal(char_end_name(f.end), f.path);
    assert_int_equal(stat(f.path, &status), 0);
    assert_int_equal(status.st_mode & 0777 & ~0600, 0);
    assert_int_equal(put(&f, "early ", 6), 6); /* kept for the first client */
    a = client(f.path);
    WAIT_UNTIL(is_connected(&f));
    assert_int_equal(put(&f, "bird", 4), 4);
    expect_bytes(a, "early bird", 10);
    assert_int_equal(write(a, "hi", 2), 2);
    expect_input(&f, "hi", 2);
    b = client(f.path); /* one at a time */
    assert_int_equal(read(b, &byte, 1), 0);
    close(b);
    assert_int_equal(put(&f, "still", 5), 5);
    expect_bytes(a, "still", 5);
    close(a);
    WAIT_UNTIL(!is_connected(&f));
    assert_int_equal(f.connects, 1);
    assert_int_equal(f.disconnects, 1);
    b = client(f.path); /* the next one */
    WAIT_UNTIL(is_connected(&f));
    assert_int_equal(write(b, "again", 5), 5);
    expect_input(&f, "again", 5);
    close(b);
    teardown(&f);
    assert_int_equal(access(f.path, F_OK), -1);
}

/* Nobody is there for long: the last 64 KiB are kept. */
static void test_unix_history(void **state)
{
    enum { KEPT = 65536 };
    static char all[200000];
    struct fixture f;
    int a;

    setup(&f);
    for (size_t i = 0; i < sizeof(all); i++) {
        all[i] = (char)(i * 13 >> 3);
    }
    open_end(&f, CHAR_END_UNIX, -1);
    for (size_t i = 0; i < sizeof(all); i += 1000) {
        assert_int_equal(put(&f, all + i, 1000), 1000);
    }
    assert_int_equal(dropped(&f), sizeof(all) - KEPT);
    a = client(f.path);
    expect_bytes(a, all + sizeof(all) - KEPT, KEPT);
    close(a);
    teardown(&f);
}

/* A client that does not read stops the output, and goes on with nothing lost. */
static void test_unix_slow_client(void **state)
{
    static const char byte = 'x';
    struct fixture f;
    size_t sent = 0, got = 0;
    char buffer[4096];
    int a;

    setup(&f);
    open_end(&f, CHAR_END_UNIX, -1);
    a = client(f.path);
    WAIT_UNTIL(is_connected(&f));
    while (put(&f, &byte, 1) == 1) {
        sent++;
    }
    assert_true(sent > 65536);
    f.ready = 0;
    while (got < sent) {
        ssize_t count = read(a, buffer, sizeof(buffer));

        assert_true(count > 0);
        got += (size_t)count;
    }
    WAIT_UNTIL(f.ready != 0);
    assert_int_equal(put(&f, &byte, 1), 1);
    assert_int_equal(read(a, buffer, sizeof(buffer)), 1);
    assert_int_equal(dropped(&f), 0);
    /* Full again, and now the client goes: the writer is told it may go on. */
    while (put(&f, &byte, 1) == 1) {
    }
    f.ready = 0;
    close(a);
    WAIT_UNTIL(f.ready != 0);
    assert_int_equal(put(&f, &byte, 1), 1);
    teardown(&f);
}

static void test_unix_path(void **state)
{
    struct char_end_config config = { .kind = CHAR_END_UNIX };
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct char_end *second;
    struct umbra_error error;
    struct fixture f;
    int stale;

    setup(&f);
    /* A socket file that nobody listens on any more is replaced. */
    stale = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(address.sun_path, f.path);
    assert_int_equal(bind(stale, (struct sockaddr *)&address, sizeof(address)), 0);
    close(stale);
    open_end(&f, CHAR_END_UNIX, -1);
    /* One in use is not. */
    config.path = f.path;
    assert_int_equal(char_end_create(f.fake.env.loop, &f.fake.log, "com2", &config,
                                     &f.lock, &second, &error),
                     -EADDRINUSE);
    assert_non_null(strstr(error.message, f.path));
    close(client(f.path));
    teardown(&f);
}

static void test_pty(void **state)
{
    struct termios termios;
    struct fixture f;
    int fd;

    setup(&f);
    open_end(&f, CHAR_END_PTY, -1);
    assert_int_equal(strncmp(char_end_name(f.end), "/dev/pts/", 9), 0);
    assert_false(is_connected(&f));
    assert_int_equal(put(&f, "login: ", 7), 7);
    for (unsigned round = 1; round <= 2; round++) {
        fd = open(char_end_name(f.end), O_RDWR | O_NOCTTY);
        assert_true(fd >= 0);
        assert_int_equal(tcgetattr(fd, &termios), 0);
        assert_int_equal(termios.c_lflag & (ECHO | ICANON), 0); /* raw */
        WAIT_UNTIL(is_connected(&f));
        expect_bytes(fd, "login: ", 7);
        assert_int_equal(write(fd, "root\r", 5), 5);
        expect_input(&f, "root\r", 5);
        close(fd);
        WAIT_UNTIL(!is_connected(&f));
        assert_int_equal(f.disconnects, round);
        assert_int_equal(put(&f, "login: ", 7), 7); /* for who comes next */
    }
    teardown(&f);
}

/* Destroyed while clients come, go and write. */
static void *hectic(void *context)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char buffer[512];

    strcpy(address.sun_path, context);
    for (unsigned i = 0; i < 40; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
            (void)!write(fd, "some input", 10);
            (void)!read(fd, buffer, sizeof(buffer));
        }
        close(fd);
    }
    return NULL;
}

static void test_destroy_busy(void **state)
{
    pthread_t thread;
    struct fixture f;
    char buffer[64];

    signal(SIGPIPE, SIG_IGN); /* the clients write with write(2) */
    setup(&f);
    for (unsigned round = 0; round < 10; round++) {
        open_end(&f, CHAR_END_UNIX, -1);
        assert_int_equal(pthread_create(&thread, NULL, hectic, f.path), 0);
        for (unsigned i = 0; i < 20 + round * 10; i++) {
            put(&f, "some output", 11);
            get(&f, buffer, sizeof(buffer));
        }
        char_end_destroy(f.end);
        f.end = NULL;
        pthread_join(thread, NULL);
    }
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_socket_fd),
        cmocka_unit_test(test_pipe_fd),
        cmocka_unit_test(test_read_only_fd),
        cmocka_unit_test(test_input_backpressure),
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_unix_history),
        cmocka_unit_test(test_unix_slow_client),
        cmocka_unit_test(test_unix_path),
        cmocka_unit_test(test_pty),
        cmocka_unit_test(test_destroy_busy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
