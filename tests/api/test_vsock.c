/* SPDX-License-Identifier: MIT */
/* Sockets between an embedder and a guest, with and without paths; consoles by name. */
#include "api_test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { ECHO_PORT = 7, QUIT_PORT = 9, LISTEN_PORT = 5000, BYTES = 1000000, CLIENTS = 5 };

static const int64_t patience = 60000;

/* As in tests/guests/virtio_vsock.c. */
static uint8_t pattern(uint64_t at, unsigned seed)
{
    return (uint8_t)(at * 7 + (at >> 8) * 3 + (at >> 16) + seed);
}

/* Send BYTES of the pattern and shut that half down. */
static void *writer(void *context)
{
    int fd = *(int *)context;
    static __thread uint8_t data[65536];
    size_t at = 0;

    while (at < BYTES) {
        size_t size = BYTES - at < sizeof(data) ? BYTES - at : sizeof(data);
        ssize_t sent;

        for (size_t i = 0; i < size; i++) {
            data[i] = pattern(at + i, 200);
        }
        sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0) {
            return context;
        }
        at += (size_t)sent;
    }
    shutdown(fd, SHUT_WR);
    return NULL;
}

/* BYTES of the pattern of @seed come, and then the end. */
static void read_pattern(int fd, unsigned seed)
{
    static uint8_t data[65536];
    size_t at = 0;
    ssize_t got;

    while ((got = recv(fd, data, sizeof(data), 0)) > 0) {
        for (ssize_t i = 0; i < got; i++, at++) {
            if (data[i] != pattern(at, seed)) {
                fail_msg("byte %zu is %u", at, data[i]);
            }
        }
    }
    assert_int_equal(got, 0);
    assert_int_equal(at, BYTES);
}

/* Write and read @count connections at once; all bytes come back. */
static void echo(int *fds, unsigned count)
{
    pthread_t threads[CLIENTS];

    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, writer, &fds[i]), 0);
    }
    for (unsigned i = 0; i < count; i++) {
        void *result;

        read_pattern(fds[i], 200);
        pthread_join(threads[i], &result);
        assert_null(result);
        close(fds[i]);
    }
}

static struct umbra_vm *start(const char *append, const char *vsock,
                              const char *transport, const char *ring)
{
    struct umbra_config *config = api_config("virtio_vsock", append);
    struct umbra_error error;
    struct umbra_vm *vm;

    api_set(config, "vsock", vsock);
    api_set(config, "virtio_transport", transport);
    api_set(config, "virtio_ring", ring);
    vm = api_create(config);
    assert_ok(umbra_vsock_listen(vm, LISTEN_PORT, &error));
    assert_ok(umbra_vm_start(vm, &error));
    return vm;
}

/* Have the guest end itself, and see that it found everything in order. */
static void quit(struct umbra_vm *vm, const char *said)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;
    int fd;

    assert_int_equal(umbra_vsock_connect(vm, QUIT_PORT, patience, &fd, &error),
                     -ECONNREFUSED);
    assert_ok(umbra_vm_wait(vm, patience, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
    assert_int_equal(outcome.exit_value, 0);
    assert_ok(umbra_console_expect(vm, 0, said, 0, patience, NULL, &error));
    umbra_vm_destroy(vm);
}

/* The guest connects to us, then several of us to it at once, all over one of @transport. */
static void both_ways(const char *append, const char *transport, const char *ring)
{
    struct umbra_vm *vm = start(append, "cid=3", transport, ring);
    int guest, fds[CLIENTS];
    struct umbra_error error;
    pthread_t thread;
    void *result;

    assert_ok(umbra_vsock_accept(vm, LISTEN_PORT, patience, &guest, &error));
    assert_int_equal(pthread_create(&thread, NULL, writer, &guest), 0);
    read_pattern(guest, 100);
    pthread_join(thread, &result);
    assert_null(result);
    close(guest);
    assert_ok(umbra_console_expect(vm, 0, "sent and checked 1000000 bytes", 0, patience,
                                   NULL, &error));
    for (unsigned i = 0; i < CLIENTS; i++) {
        assert_ok(umbra_vsock_connect(vm, ECHO_PORT, patience, &fds[i], &error));
    }
    echo(fds, CLIENTS);
    assert_int_equal(umbra_vsock_connect(vm, 8, patience, &fds[0], &error),
                     -ECONNREFUSED);
    assert_non_null(strstr(error.message, "port 8: the guest refused"));
    quit(vm, "echoed 5000000 bytes");
}

/* The other two combinations differ in nothing that a sanitizer could see. */
static void test_both_ways(void **state)
{
    both_ways("connect=5000 send=1000000 packed=1", "pci", "packed");
    both_ways("connect=5000 send=1000000", "mmio", "split");
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
    both_ways("connect=5000 send=1000000", "pci", "split");
    both_ways("connect=5000 send=1000000 packed=1", "mmio", "packed");
#endif
}

/* A conversation, as on a console. */
static void test_stream(void **state)
{
    struct umbra_vm *vm = start("", "cid=12", "pci", "packed");
    struct umbra_stream *stream;
    struct umbra_match match;
    struct umbra_error error;
    size_t length;
    char *all;
    int fd;

    assert_ok(umbra_vsock_connect(vm, ECHO_PORT, patience, &fd, &error));
    assert_ok(umbra_stream_open(vm, fd, &stream, &error));
    assert_ok(umbra_stream_send(stream, "login: root\n", 12, patience, &error));
    assert_ok(umbra_stream_expect(stream, "login: ", 0, patience, NULL, &error));
    assert_ok(umbra_stream_expect(stream, "r[o]+t", UMBRA_EXPECT_REGEX, patience, &match,
                                  &error));
    assert_string_equal(match.text, "root");
    assert_int_equal(match.offset, 7);
    assert_int_equal(umbra_stream_expect(stream, "shell", 0, 20, NULL, &error),
                     -ETIMEDOUT);
    assert_non_null(strstr(error.message, "login: root"));
    assert_int_equal(
        umbra_stream_expect(stream, "(", UMBRA_EXPECT_REGEX, 20, NULL, &error), -EINVAL);
    all = umbra_stream_transcript(stream, &length);
    assert_string_equal(all, "login: root\n");
    assert_int_equal(length, 12);
    free(all);
    assert_ok(umbra_vm_stop(vm, NULL, &error));
    assert_int_equal(umbra_stream_expect(stream, "shell", 0, patience, NULL, &error),
                     -EPIPE);
    umbra_stream_close(stream);
    umbra_stream_close(NULL);
    assert_int_equal(umbra_vsock_connect(vm, ECHO_PORT, patience, &fd, &error), -EPIPE);
    assert_int_equal(umbra_vsock_accept(vm, LISTEN_PORT, patience, &fd, &error), -EPIPE);
    umbra_vm_destroy(vm);
}

/* A planned fault breaks a connection at the packet that it names; the next one works. */
static void test_fault(void **state)
{
    const struct umbra_fault fault = { .size = sizeof(fault),
                                       .kind = UMBRA_FAULT_IO_ERROR,
                                       .device = "vsock",
                                       .skip = 5,
                                       .count = 1,
                                       .direction = UMBRA_FAULT_OUT };
    struct umbra_vm *vm = start("", "cid=3", "pci", "packed");
    struct umbra_fault_event event = { .size = sizeof(event) };
    struct umbra_error error;
    unsigned echoed = 0;
    char c = 'x';
    int fd;

    assert_ok(umbra_fault_add(vm, &fault, NULL, &error));
    assert_ok(umbra_vsock_connect(vm, ECHO_PORT, patience, &fd, &error));
    while (send(fd, &c, 1, MSG_NOSIGNAL) == 1 && recv(fd, &c, 1, 0) == 1) {
        echoed++;
    }
    close(fd);
    assert_int_equal(echoed, 5);
    assert_int_equal(umbra_fault_event_at(vm, 0, &event), 0);
    assert_int_equal(event.opportunity, 6);
    assert_int_equal(umbra_fault_event_at(vm, 1, &event), -ENOENT);
    assert_ok(umbra_vsock_connect(vm, ECHO_PORT, patience, &fd, &error));
    assert_int_equal(send(fd, &c, 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(fd, &c, 1, 0), 1);
    close(fd);
    quit(vm, "echoed 7 bytes");
}

static int unix_socket(const char *path, bool listens)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ret;

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (listens) {
        unlink(path);
        ret = bind(fd, (struct sockaddr *)&address, sizeof(address));
        assert_int_equal(ret | listen(fd, 4), 0);
    } else {
        assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    }
    return fd;
}

/* By the paths that others know: PATH and "CONNECT", PATH_PORT. */
static void test_paths(void **state)
{
    struct umbra_vm *vm;
    char path[64], listening[80], vsock[128], answer[32] = "";
    struct umbra_error error;
    pthread_t thread;
    void *result;
    int listener, fd;

    snprintf(path, sizeof(path), "/tmp/umbra-api-vsock-%d", getpid());
    snprintf(listening, sizeof(listening), "%s_6000", path);
    snprintf(vsock, sizeof(vsock), "cid=4294967294,path=%s,connections=3", path);
    listener = unix_socket(listening, true);
    vm = start("connect=6000 send=1000000", vsock, "pci", "packed");
    fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    assert_int_equal(pthread_create(&thread, NULL, writer, &fd), 0);
    read_pattern(fd, 100);
    pthread_join(thread, &result);
    assert_null(result);
    close(fd);
    assert_ok(umbra_console_expect(vm, 0, "ready", 0, patience, NULL, &error));
    fd = unix_socket(path, false);
    assert_int_equal(send(fd, "CONNECT 7\n", 10, 0), 10);
    for (size_t i = 0; i + 1 < sizeof(answer) && strchr(answer, '\n') == NULL; i++) {
        assert_int_equal(recv(fd, answer + i, 1, 0), 1);
    }
    assert_int_equal(strncmp(answer, "OK 1073741824\n", 14), 0);
    echo(&fd, 1);
    close(listener);
    unlink(listening);
    quit(vm, "echoed 1000000 bytes");
    assert_int_equal(access(path, F_OK), -1);
}

static void test_misuse(void **state)
{
    struct umbra_config *config = api_config("ends", "hang");
    struct umbra_stream *stream;
    struct umbra_error error;
    struct umbra_vm *vm;
    int fd;

    api_set(config, "vsock", "cid=3,connections=2");
    vm = api_create(config);
    /* No driver: nobody answers; three at once are too many. */
    assert_int_equal(umbra_vsock_connect(vm, 1, 5, &fd, &error), -ETIMEDOUT);
    assert_ok(umbra_vm_start(vm, &error));
    assert_int_equal(umbra_vsock_connect(vm, 1, 5, &fd, &error), -ETIMEDOUT);
    assert_int_equal(umbra_vsock_accept(vm, 1, 5, &fd, &error), -ETIMEDOUT);
    assert_int_equal(umbra_vsock_accept(vm, 1, 0, &fd, &error), -ETIMEDOUT);
    umbra_vm_destroy(vm);
    vm = api_create(api_config("ends", "hang"));
    assert_int_equal(umbra_vsock_connect(vm, 1, 5, &fd, &error), -EINVAL);
    assert_non_null(strstr(error.message, "no \"vsock\""));
    assert_int_equal(umbra_vsock_listen(vm, 1, &error), -EINVAL);
    assert_int_equal(umbra_vsock_accept(vm, 1, 5, &fd, &error), -EINVAL);
    umbra_vm_destroy(vm);
    assert_int_equal(umbra_stream_open(NULL, -1, &stream, &error), -EINVAL);
    assert_null(stream);
}

static void collect(void *context, const void *bytes, size_t length)
{
    *(size_t *)context += length;
}

/* A virtio console's ports by name: output, input, transcript. */
static void test_console(void **state)
{
    struct umbra_config *config = api_config("virtio_console", "lines=20 echo=1");
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;
    unsigned main, second, port;
    struct umbra_vm *vm;
    size_t seen = 0, length;
    char *all;

    api_set(config, "console", "name=main,end=none");
    api_set(config, "console", "name=hvc7,end=none");
    vm = api_create(config);
    assert_ok(umbra_console_find(vm, "com1", &port, &error));
    assert_int_equal(port, 0);
    assert_ok(umbra_console_find(vm, "main", &main, &error));
    assert_ok(umbra_console_find(vm, "hvc7", &second, &error));
    assert_int_equal(umbra_console_find(vm, "hvc8", &port, &error), -ENOENT);
    assert_non_null(strstr(error.message, "did you mean \"hvc7\"?"));
    assert_int_equal(umbra_console_find(vm, "com2", &port, &error), -ENOENT);
    assert_int_equal(umbra_console_set_output(vm, second, collect, &seen), 0);
    assert_int_equal(umbra_console_set_output(vm, second + 1, collect, &seen), -EINVAL);
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(
        umbra_console_expect(vm, second, "hvc7 line 19\n", 0, patience, NULL, &error));
    assert_ok(umbra_console_expect(vm, main, "^ready$", UMBRA_EXPECT_REGEX, patience,
                                   NULL, &error));
    assert_int_equal(umbra_console_send(vm, main, "some words\n", 11), 0);
    assert_int_equal(umbra_console_send(vm, 3, "x", 1), -EINVAL);
    assert_ok(
        umbra_console_expect(vm, main, "read <some words>", 0, patience, NULL, &error));
    assert_ok(umbra_vm_wait(vm, patience, &outcome, &error));
    assert_int_equal(outcome.exit_value, 0);
    assert_int_equal(umbra_console_expect(vm, main, "more", 0, patience, NULL, &error),
                     -EPIPE);
    assert_non_null(strstr(error.message, "on main"));
    all = umbra_console_transcript(vm, second, &length);
    assert_int_equal(length, seen);
    assert_int_equal(strncmp(all, "hvc7 line 0\nhvc7 line 1\n", 24), 0);
    free(all);
    umbra_vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways), cmocka_unit_test(test_stream),
        cmocka_unit_test(test_paths),     cmocka_unit_test(test_fault),
        cmocka_unit_test(test_misuse),    cmocka_unit_test(test_console),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
