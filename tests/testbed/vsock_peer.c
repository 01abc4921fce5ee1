/* SPDX-License-Identifier: MIT */
/*
 * One end of sockets between guest and host, for the tests; static, so that it runs in any
 * guest. vsock_peer ADDRESS echo: what comes goes back, until the end. vsock_peer ADDRESS check
 * BYTES COUNT: over COUNT connections at once, send BYTES of a pattern, shut that half down, and
 * insist that they come back.
 *
 * ADDRESS: vsock:CID:PORT or vsock-listen:PORT; on the host unix-listen:PATH, or
 * unix:PATH:PORT, which says "CONNECT PORT" first.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { BUFFER = 65536 };

static void fail(const char *what)
{
    printf("FAILED: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int vsock_socket(unsigned cid, unsigned port, int listens)
{
    const struct sockaddr_vm address = { .svm_family = AF_VSOCK,
                                         .svm_cid = cid,
                                         .svm_port = port };
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    if (fd < 0) {
        fail("socket");
    }
    if (listens) {
        if (bind(fd, (const void *)&address, sizeof(address)) != 0 ||
            listen(fd, 128) != 0) {
            fail("listen");
        }
    } else if (connect(fd, (const void *)&address, sizeof(address)) != 0) {
        fail("connect");
    }
    return fd;
}

static int unix_socket(const char *path, int listens)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (listens) {
        unlink(path);
        if (bind(fd, (const void *)&address, sizeof(address)) != 0 ||
            listen(fd, 128) != 0) {
            fail(path);
        }
        return fd;
    }
    if (connect(fd, (const void *)&address, sizeof(address)) != 0) {
        fail(path);
    }
    return fd;
}

/* The convention of the host's side. */
static void say_connect(int fd, const char *port)
{
    char line[64];
    size_t got = 0;

    if (write(fd, line, (size_t)snprintf(line, sizeof(line), "CONNECT %s\n", port)) < 0) {
        fail("CONNECT");
    }
    memset(line, 0, sizeof(line));
    while (got < sizeof(line) - 1 && read(fd, line + got, 1) == 1 && line[got] != '\n') {
        got++;
    }
    if (strncmp(line, "OK ", 3) != 0) {
        errno = ECONNREFUSED;
        fail("no OK");
    }
}

/* Connected, or listening if *listens. */
static int open_address(const char *address, int *listens)
{
    char copy[256], *first, *second;
    int fd;

    snprintf(copy, sizeof(copy), "%s", address);
    first = strchr(copy, ':');
    if (first == NULL) {
        fail("address");
    }
    *first++ = '\0';
    *listens = strstr(copy, "listen") != NULL;
    if (strcmp(copy, "vsock-listen") == 0) {
        return vsock_socket(VMADDR_CID_ANY, (unsigned)strtoul(first, NULL, 10), 1);
    }
    if (strcmp(copy, "unix-listen") == 0) {
        return unix_socket(first, 1);
    }
    second = strrchr(first, ':');
    if (second == NULL) {
        fail("address");
    }
    *second++ = '\0';
    if (strcmp(copy, "vsock") == 0) {
        return vsock_socket((unsigned)strtoul(first, NULL, 10),
                            (unsigned)strtoul(second, NULL, 10), 0);
    }
    fd = unix_socket(first, 0);
    say_connect(fd, second);
    return fd;
}

static void write_all(int fd, const void *bytes, size_t length)
{
    for (const char *at = bytes; length > 0;) {
        ssize_t sent = write(fd, at, length);

        if (sent < 0) {
            fail("write");
        }
        at += sent;
        length -= (size_t)sent;
    }
}

static void echo(int fd)
{
    char buffer[BUFFER];
    ssize_t got;

    while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
        write_all(fd, buffer, (size_t)got);
    }
    if (got < 0) {
        fail("read");
    }
}

static unsigned char pattern(size_t at, unsigned seed)
{
    return (unsigned char)(at * 7 + (at >> 8) * 3 + (at >> 16) + seed * 11);
}

/* Both ways at once, since neither side buffers it all. */
static void check(int fd, size_t total, unsigned seed)
{
    static unsigned char out[BUFFER], in[BUFFER];
    size_t sent = 0, got = 0;

    while (got < total) {
        struct pollfd poll_fd = { fd, (short)(POLLIN | (sent < total ? POLLOUT : 0)), 0 };

        if (poll(&poll_fd, 1, -1) < 0) {
            fail("poll");
        }
        if ((poll_fd.revents & POLLOUT) != 0 && sent < total) {
            size_t size = total - sent < BUFFER ? total - sent : BUFFER;
            ssize_t n;

            for (size_t i = 0; i < size; i++) {
                out[i] = pattern(sent + i, seed);
            }
            n = send(fd, out, size, MSG_DONTWAIT);
            if (n < 0 && errno != EAGAIN) {
                fail("send");
            }
            sent += n > 0 ? (size_t)n : 0;
            if (sent == total) {
                shutdown(fd, SHUT_WR);
            }
        }
        if ((poll_fd.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
            ssize_t n = recv(fd, in, sizeof(in), MSG_DONTWAIT);

            if (n == 0 || (n < 0 && errno != EAGAIN)) {
                printf("FAILED: the end after %zu of %zu bytes\n", got, total);
                exit(1);
            }
            for (ssize_t i = 0; i < n; i++) {
                if (in[i] != pattern(got++, seed)) {
                    printf("FAILED: byte %zu\n", got - 1);
                    exit(1);
                }
            }
        }
    }
    if (read(fd, in, 1) != 0) {
        fail("no end of file");
    }
}

static int check_many(const char *address, size_t bytes, unsigned count)
{
    int listens, status, bad = 0;

    for (unsigned i = 0; i < count; i++) {
        if (fork() == 0) {
            check(open_address(address, &listens), bytes, i);
            _exit(0);
        }
    }
    for (unsigned i = 0; i < count; i++) {
        bad += wait(&status) < 0 || status != 0;
    }
    printf("checked %u connections of %zu bytes, %d bad\n", count, bytes, bad);
    return bad != 0;
}

int main(int argc, char **argv)
{
    int fd, listens;

    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 5 && strcmp(argv[2], "check") == 0) {
        return check_many(argv[1], strtoul(argv[3], NULL, 10),
                          (unsigned)strtoul(argv[4], NULL, 10));
    }
    if (argc != 3 || strcmp(argv[2], "echo") != 0) {
        fputs("vsock_peer ADDRESS echo | check BYTES COUNT\n", stderr);
        return 64;
    }
    fd = open_address(argv[1], &listens);
    if (!listens) {
        echo(fd);
        return 0;
    }
    signal(SIGCHLD, SIG_IGN);
    printf("listening\n");
    for (;;) {
        int connection = accept(fd, NULL, NULL);

        if (connection < 0) {
            continue;
        }
        if (fork() == 0) {
            echo(connection);
            _exit(0);
        }
        close(connection);
    }
}
