/* SPDX-License-Identifier: MIT */
/* The GDB server's clients at their worst: that read nothing, speak something else, are many,
 * and find no descriptor. */
#include "api_test.h"

#include <errno.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

static char path[64];

static struct umbra_vm *start_with_gdb(void)
{
    struct umbra_config *config = api_config("ends", "hang");
    struct umbra_error error;
    struct umbra_vm *vm;
    char address[80];

    snprintf(path, sizeof(path), "gdb-clients-%d.sock", (int)getpid());
    snprintf(address, sizeof(address), "unix:%s", path);
    api_set(config, "gdb", address);
    vm = api_create(config);
    assert_ok(umbra_vm_start(vm, &error));
    return vm;
}

static int gdb_connect(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(address.sun_path, path);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* Read until @text came; false when the server has closed the connection. */
static bool gdb_hears(int fd, const char *text)
{
    char got[4096];
    size_t length = 0;

    for (;;) {
        ssize_t n = recv(fd, got + length, sizeof(got) - 1 - length, 0);

        if (n <= 0) {
            return false;
        }
        length += (size_t)n;
        got[length] = '\0';
        if (strstr(got, text) != NULL) {
            return true;
        }
    }
}

static void test_mode(void **state)
{
    mode_t mask = umask(0);
    struct umbra_vm *vm = start_with_gdb();
    struct stat status;

    umask(mask);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    umbra_vm_destroy(vm);
    assert_int_equal(stat(path, &status), -1);
}

/* A socket that nobody listens on is left over from a crash. */
static void test_stale(void **state)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), client;
    struct umbra_vm *vm;

    snprintf(path, sizeof(path), "gdb-clients-%d.sock", (int)getpid());
    strcpy(address.sun_path, path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    vm = start_with_gdb();
    client = gdb_connect();
    close(client);
    umbra_vm_destroy(vm);
}

/* Replies fill the connection and nobody reads them: the end comes all the same. */
static void test_reads_nothing(void **state)
{
    static const char packet[] = "$qSupported:multiprocess+#c6";
    struct umbra_vm *vm = start_with_gdb();
    int fd = gdb_connect();
    struct pollfd room = { .fd = fd, .events = POLLOUT };

    /* Once the server is held up by its replies, it takes no more requests either. */
    while (poll(&room, 1, 200) == 1 &&
           send(fd, packet, sizeof(packet) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
    }
    umbra_vm_destroy(vm);
    close(fd);
}

static void test_speaks_http(void **state)
{
    static const char request[] = "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n$m0,4#fd";
    struct umbra_vm *vm = start_with_gdb();
    int fd = gdb_connect();

    assert_true(send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) > 0);
    assert_false(gdb_hears(fd, "$"));
    close(fd);
    fd = gdb_connect(); /* and the next client is served */
    assert_true(send(fd, "+$?#3f", 6, MSG_NOSIGNAL) > 0);
    assert_true(gdb_hears(fd, "$"));
    close(fd);
    umbra_vm_destroy(vm);
}

/* CPU time of this process's threads, in ms. */
static long cpu_ms(void)
{
    struct timespec used;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return used.tv_sec * 1000 + used.tv_nsec / 1000000;
}

/* No descriptor is left for a client that waits: the server rests, and serves it later. */
static void test_no_descriptors(void **state)
{
    struct umbra_config *config = api_config("ends", "cli-hlt");
    struct umbra_vm *vm;
    struct rlimit limit, few;
    char address[80];
    long before;
    int fd, probe;

    snprintf(address, sizeof(address), "unix:%s", path);
    api_set(config, "gdb", address);
    vm = api_create(config); /* not started: nothing else uses CPU time */
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    probe = dup(fd);
    close(probe);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    few = (struct rlimit){ .rlim_cur = (rlim_t)probe, .rlim_max = limit.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    {
        struct sockaddr_un name = { .sun_family = AF_UNIX };

        strcpy(name.sun_path, path);
        assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    }
    before = cpu_ms();
    usleep(1500000);
    /* A server that spins takes all of it. */
    assert_true(cpu_ms() - before < 700);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_true(send(fd, "+$?#3f", 6, MSG_NOSIGNAL) > 0);
    assert_true(gdb_hears(fd, "$"));
    close(fd);
    umbra_vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mode),           cmocka_unit_test(test_stale),
        cmocka_unit_test(test_reads_nothing),  cmocka_unit_test(test_speaks_http),
        cmocka_unit_test(test_no_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
