/* SPDX-License-Identifier: MIT */
/* The GDB server: connection and packets. */
#include "vmm/debug/gdb_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/chardev/char_end_open.h"
#include "base/error.h"
#include "base/thread.h"
#include "vmm/vm/vm.h"

/* ---- Wire ------------------------------------------------------------------------------ */

static void gdb_drop(struct gdb *gdb, const char *why)
{
    if (why != NULL) {
        log_warning(gdb->vm->machine.log, "gdb: the connection is closed: %s", why);
    }
    close(gdb->client);
    gdb->client = -1;
}

/* Wait until the client takes more; a look at what else is due every GDB_LOOK_MS. */
static bool gdb_wait_room(struct gdb *gdb)
{
    struct pollfd room = { .fd = gdb->client, .events = POLLOUT };

    for (unsigned ms = 0; ms < GDB_STALL_MS; ms += GDB_LOOK_MS) {
        if (poll(&room, 1, GDB_LOOK_MS) == 1) {
            return true;
        }
        if (atomic_load(&gdb->quit)) {
            break;
        }
    }
    return false;
}

static void gdb_write(struct gdb *gdb, const char *bytes, size_t length)
{
    while (length > 0 && gdb->client >= 0) {
        ssize_t n = send(gdb->client, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n > 0) {
            bytes += n;
            length -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            if (!gdb_wait_room(gdb)) {
                gdb_drop(gdb, "the client does not read its replies");
            }
        } else if (errno != EINTR) {
            gdb_drop(gdb, NULL);
        }
    }
}

void gdb_send(struct gdb *gdb, const char *text)
{
    size_t length = strlen(text);
    uint8_t sum = 0;
    char tail[4];

    for (size_t i = 0; i < length; i++) {
        sum = (uint8_t)(sum + (uint8_t)text[i]);
    }
    gdb_write(gdb, "$", 1);
    gdb_write(gdb, text, length);
    snprintf(tail, sizeof(tail), "#%02x", sum);
    gdb_write(gdb, tail, 3);
}

size_t hex_decode(const char *text, uint8_t *bytes, size_t max)
{
    size_t n = 0;

    while (n < max) {
        char pair[3] = { text[2 * n], text[2 * n] != '\0' ? text[2 * n + 1] : '\0',
                         '\0' };
        char *end;
        unsigned long value = strtoul(pair, &end, 16);

        if (end != pair + 2) {
            break;
        }
        bytes[n++] = (uint8_t)value;
    }
    return n;
}

/* ---- Connection --------------------------------------------------------------------------- */

/* Take one whole packet (or stray byte) off the input; false when there is none yet. */
static bool gdb_take_packet(struct gdb *gdb)
{
    char packet[GDB_PACKET_MAX], *hash;
    size_t length;
    uint8_t sum = 0, given;

    if (gdb->in_length == 0) {
        return false;
    }
    if (gdb->in[0] != '$') {
        bool interrupt = gdb->in[0] == GDB_INTERRUPT;

        if (!interrupt && gdb->in[0] != '+' && gdb->in[0] != '-') {
            /* A browser can be made to send packets in the body of a request. */
            gdb_drop(gdb, "what came is not the remote protocol");
            return false;
        }
        memmove(gdb->in, gdb->in + 1, --gdb->in_length);
        if (interrupt && gdb->running) {
            umbra_vm_pause(gdb->vm, NULL);
        }
        return true;
    }
    hash = memchr(gdb->in, '#', gdb->in_length);
    if (hash == NULL || hash + 3 > gdb->in + gdb->in_length) {
        if (gdb->in_length == sizeof(gdb->in)) {
            gdb->in_length = 0; /* longer than we said a packet may be */
        }
        return false;
    }
    length = (size_t)(hash - gdb->in) - 1;
    memcpy(packet, gdb->in + 1, length);
    packet[length] = '\0';
    for (size_t i = 0; i < length; i++) {
        sum = (uint8_t)(sum + (uint8_t)packet[i]);
    }
    if (hex_decode(hash + 1, &given, 1) != 1 || given != sum) {
        length = SIZE_MAX; /* a damaged packet: ask again */
    }
    gdb->in_length -= (size_t)(hash + 3 - gdb->in);
    memmove(gdb->in, hash + 3, gdb->in_length);
    if (!gdb->no_ack) {
        gdb_write(gdb, length == SIZE_MAX ? "-" : "+", 1);
    }
    if (length != SIZE_MAX) {
        gdb_command(gdb, packet);
    }
    return true;
}

static void gdb_receive(struct gdb *gdb)
{
    ssize_t n = recv(gdb->client, gdb->in + gdb->in_length,
                     sizeof(gdb->in) - gdb->in_length, MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        gdb_drop(gdb, NULL);
        return;
    }
    gdb->in_length += n > 0 ? (size_t)n : 0;
    while (gdb->client >= 0 && gdb_take_packet(gdb)) {
    }
}

static void gdb_accept(struct gdb *gdb)
{
    gdb->client = accept4(gdb->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (gdb->client < 0) {
        gdb->resting = accept_must_rest(errno);
        return;
    }
    if (gdb->unix_path[0] != '\0' && !char_end_peer_allowed(gdb->client)) {
        gdb_drop(gdb, "the client is of another user");
        return;
    }
    gdb->in_length = 0;
    gdb->no_ack = false;
    gdb->running = false;
    gdb->vcpu = 0;
    if (vm_state(gdb->vm) == VM_RUNNING) {
        umbra_vm_pause(gdb->vm, NULL);
    }
}

static void *gdb_main(void *context)
{
    struct gdb *gdb = context;

    pthread_setname_np(pthread_self(), "gdb");
    while (!atomic_load(&gdb->quit)) {
        struct pollfd fds[] = {
            { .fd = gdb->wake, .events = POLLIN },
            { .fd = gdb->client >= 0 ? gdb->client : gdb->listener, .events = POLLIN },
        };
        nfds_t polled = gdb->resting ? 1 : ARRAY_SIZE(fds);
        uint64_t count;

        if (poll(fds, polled, gdb->resting ? ACCEPT_REST_MS : -1) < 0) {
            continue;
        }
        gdb->resting = false;
        if (fds[0].revents != 0 && read(gdb->wake, &count, sizeof(count)) > 0 &&
            gdb->client >= 0 && gdb->running) {
            gdb_report_stop(gdb);
        }
        if (fds[1].revents != 0) {
            if (gdb->client >= 0) {
                gdb_receive(gdb);
            } else {
                gdb_accept(gdb);
            }
        }
    }
    return NULL;
}

static int gdb_listen_unix(struct gdb *gdb, const char *path, struct umbra_error *error)
{
    int ret = char_end_open_unix(path, &gdb->listener, error);

    if (ret == 0) {
        strcpy(gdb->unix_path, path); /* it fits a socket's address */
    } else {
        error_prefix(error, "gdb");
    }
    return ret;
}

static int gdb_listen_tcp(struct gdb *gdb, const char *text)
{
    const char *colon = strrchr(text, ':');
    struct sockaddr_in address = { .sin_family = AF_INET };
    const int one = 1;
    char host[64] = "127.0.0.1", *end;
    unsigned long port = strtoul(colon != NULL ? colon + 1 : text, &end, 10);

    if (colon != NULL && colon > text) {
        snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
    }
    if (*end != '\0' || port == 0 || port > 65535 ||
        inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        return -EINVAL;
    }
    address.sin_port = htons((uint16_t)port);
    gdb->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (gdb->listener < 0 ||
        setsockopt(gdb->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(gdb->listener, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return -errno;
    }
    return listen(gdb->listener, 1) < 0 ? -errno : 0;
}

/* @ret, with @error when it is one. */
static int gdb_listen_failed(int ret, const char *address, struct umbra_error *error)
{
    return ret >= 0
               ? 0
               : error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                             "cannot listen for gdb on \"%s\" (PORT, ADDRESS:PORT or "
                             "unix:PATH)",
                             address);
}

int gdb_create(struct umbra_vm *vm, const char *address, struct gdb **out,
               struct umbra_error *error)
{
    struct gdb *gdb = calloc(1, sizeof(*gdb));
    int ret;

    if (gdb == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot listen for gdb");
    }
    gdb->vm = vm;
    gdb->listener = gdb->client = -1;
    gdb->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ret = gdb->wake < 0 ? gdb_listen_failed(-errno, address, error)
          : strncmp(address, "unix:", 5) == 0
              ? gdb_listen_unix(gdb, address + 5, error)
              : gdb_listen_failed(gdb_listen_tcp(gdb, address), address, error);
    if (ret == 0) {
        ret = gdb_listen_failed(thread_start(&gdb->thread, NULL, gdb_main, gdb), address,
                                error);
    }
    if (ret < 0) {
        atomic_store(&gdb->quit, true);
        gdb_destroy(gdb);
        return ret;
    }
    *out = gdb;
    return 0;
}

void gdb_notify(struct gdb *gdb)
{
    const uint64_t one = 1;

    /* Fails only when the counter is full: then the thread has been told often enough. */
    if (write(gdb->wake, &one, sizeof(one)) < 0) {
        return;
    }
}

void gdb_destroy(struct gdb *gdb)
{
    if (gdb == NULL) {
        return;
    }
    if (!atomic_exchange(&gdb->quit, true)) {
        gdb_notify(gdb);
        pthread_join(gdb->thread, NULL);
    }
    if (gdb->client >= 0) {
        close(gdb->client);
    }
    if (gdb->listener >= 0) {
        close(gdb->listener);
    }
    if (gdb->unix_path[0] != '\0') {
        unlink(gdb->unix_path);
    }
    if (gdb->wake >= 0) {
        close(gdb->wake);
    }
    free(gdb);
}

int umbra_gdb_listen(struct umbra_vm *vm, const char *address, struct umbra_error *error)
{
    struct gdb *gdb;
    int ret = vm_enter(vm, "umbra_gdb_listen", error);

    if (ret != 0) {
        return ret;
    }
    if (vm->gdb != NULL) {
        ret = error_set(error, UMBRA_ERROR_STATE, EBUSY, "gdb is listened for already");
    } else {
        ret = gdb_create(vm, address, &gdb, error);
        if (ret == 0) {
            pthread_mutex_lock(&vm->lock);
            vm->gdb = gdb;
            pthread_mutex_unlock(&vm->lock);
        }
    }
    pthread_mutex_unlock(&vm->control);
    return ret;
}
