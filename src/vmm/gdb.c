/* SPDX-License-Identifier: MIT */
/* The GDB server: connection, packets, commands. */
#include "vmm/gdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/vm.h"

enum {
    GDB_PACKET_MAX = 16384,
    GDB_SIGTRAP = 5,
    GDB_SIGINT = 2,
    GDB_INTERRUPT = 0x03,
};

struct gdb {
    struct umbra_vm *vm;
    char unix_path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    int listener, client, wake;
    pthread_t thread;
    atomic_bool quit;
    bool no_ack, running;
    unsigned vcpu; /* the thread that g, p, m, ... mean */
    char in[GDB_PACKET_MAX];
    size_t in_length;
    char out[2 * GDB_PACKET_MAX];
};

/* ---- Wire ------------------------------------------------------------------------------ */

static void gdb_write(struct gdb *gdb, const char *bytes, size_t length)
{
    while (length > 0 && gdb->client >= 0) {
        ssize_t n = send(gdb->client, bytes, length, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            close(gdb->client);
            gdb->client = -1;
            return;
        }
        bytes += n;
        length -= (size_t)n;
    }
}

static void gdb_send(struct gdb *gdb, const char *text)
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

static void gdb_send_error(struct gdb *gdb, int errnum)
{
    char text[8];

    snprintf(text, sizeof(text), "E%02x",
             (unsigned)(errnum < 0 ? -errnum : errnum) & 0xff);
    gdb_send(gdb, text);
}

static void gdb_send_result(struct gdb *gdb, int ret)
{
    if (ret < 0) {
        gdb_send_error(gdb, ret);
    } else {
        gdb_send(gdb, "OK");
    }
}

static void hex_encode(const uint8_t *bytes, size_t length, char *text)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < length; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * length] = '\0';
}

/* Decode up to @max bytes; returns how many. */
static size_t hex_decode(const char *text, uint8_t *bytes, size_t max)
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

/* ---- Registers and memory ---------------------------------------------------------------- */

static struct vcpu *gdb_vcpu(struct gdb *gdb)
{
    return &gdb->vm->machine.vcpus->vcpus[gdb->vcpu];
}

static unsigned gdb_vcpu_count(const struct gdb *gdb)
{
    return gdb->vm->machine.vcpus->options.count;
}

static void gdb_read_registers(struct gdb *gdb)
{
    uint8_t bytes[GDB_REGISTERS_BYTES];
    int size = gdb_registers_get(gdb_vcpu(gdb), bytes);

    if (size < 0) {
        gdb_send_error(gdb, size);
        return;
    }
    hex_encode(bytes, (size_t)size, gdb->out);
    gdb_send(gdb, gdb->out);
}

static void gdb_write_registers(struct gdb *gdb, const char *text)
{
    uint8_t bytes[GDB_REGISTERS_BYTES];
    size_t size = hex_decode(text, bytes, sizeof(bytes));

    gdb_send_result(gdb, gdb_registers_set(gdb_vcpu(gdb), bytes, size));
}

/* p NUMBER, P NUMBER=VALUE */
static void gdb_one_register(struct gdb *gdb, const char *text, bool write)
{
    uint8_t bytes[GDB_REGISTERS_BYTES];
    size_t offset, size;
    char *end;
    unsigned long number = strtoul(text, &end, 16);
    int ret = gdb_registers_get(gdb_vcpu(gdb), bytes);

    if (ret < 0 || number > UINT16_MAX ||
        !gdb_register_place((unsigned)number, &offset, &size)) {
        gdb_send_error(gdb, ret < 0 ? ret : EINVAL);
    } else if (!write) {
        hex_encode(bytes + offset, size, gdb->out);
        gdb_send(gdb, gdb->out);
    } else if (*end != '=' || hex_decode(end + 1, bytes + offset, size) != size) {
        gdb_send_error(gdb, EINVAL);
    } else {
        gdb_send_result(gdb, gdb_registers_set(gdb_vcpu(gdb), bytes, (size_t)ret));
    }
}

/* m ADDRESS,LENGTH and M ADDRESS,LENGTH:BYTES; a read gives what there is up to a hole. */
static void gdb_memory(struct gdb *gdb, const char *text, bool write)
{
    static const size_t page = 4096;
    uint8_t bytes[GDB_PACKET_MAX / 2];
    struct umbra_error error;
    char *end;
    uint64_t address = strtoull(text, &end, 16);
    uint64_t length = *end == ',' ? strtoull(end + 1, &end, 16) : 0;
    size_t done = 0;
    int ret = 0;

    if (length > sizeof(bytes)) {
        length = sizeof(bytes);
    }
    if (write) {
        if (*end != ':' || hex_decode(end + 1, bytes, length) != length) {
            gdb_send_error(gdb, EINVAL);
            return;
        }
        gdb_send_result(gdb, umbra_memory_write_virtual(gdb->vm, gdb->vcpu, address,
                                                        bytes, length, &error));
        return;
    }
    while (done < length && ret == 0) {
        size_t part = page - (address + done) % page;

        part = part < length - done ? part : length - done;
        ret = umbra_memory_read_virtual(gdb->vm, gdb->vcpu, address + done, bytes + done,
                                        part, &error);
        done += ret == 0 ? part : 0;
    }
    if (done == 0 && length > 0) {
        gdb_send_error(gdb, EFAULT);
        return;
    }
    hex_encode(bytes, done, gdb->out);
    gdb_send(gdb, gdb->out);
}

/* Z and z: TYPE,ADDRESS,KIND */
static void gdb_breakpoint(struct gdb *gdb, const char *text, bool set)
{
    static const enum umbra_breakpoint_kind kinds[] = {
        UMBRA_BREAKPOINT_SOFTWARE, UMBRA_BREAKPOINT_HARDWARE, UMBRA_WATCHPOINT_WRITE,
        UMBRA_WATCHPOINT_ACCESS,   UMBRA_WATCHPOINT_ACCESS,
    };
    struct umbra_error error;
    char *end;
    unsigned long type = strtoul(text, &end, 16);
    uint64_t address = *end == ',' ? strtoull(end + 1, &end, 16) : 0;
    unsigned length = *end == ',' ? (unsigned)strtoul(end + 1, &end, 16) : 0;

    if (type >= ARRAY_SIZE(kinds)) {
        gdb_send(gdb, "");
        return;
    }
    gdb_send_result(
        gdb,
        set ? umbra_breakpoint_add(gdb->vm, kinds[type], address, length, &error)
            : umbra_breakpoint_remove(gdb->vm, kinds[type], address, length, &error));
}

/* ---- Running ------------------------------------------------------------------------------ */

static void gdb_report_stop(struct gdb *gdb)
{
    struct umbra_stop stop = { .size = sizeof(stop) };
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    char text[128];

    if (umbra_vm_wait_stop(gdb->vm, 0, &stop, NULL) < 0) {
        return; /* it runs: nothing to tell */
    }
    gdb->running = false;
    if (stop.kind == UMBRA_STOP_ENDED) {
        umbra_vm_wait(gdb->vm, 0, &outcome, NULL);
        snprintf(text, sizeof(text), "W%02x",
                 outcome.kind == UMBRA_OUTCOME_POWEROFF ? 0u
                 : outcome.kind == UMBRA_OUTCOME_EXIT
                     ? (2 * outcome.exit_value + 1) & 0xff
                     : 1u);
        gdb_send(gdb, text);
        return;
    }
    if (stop.kind != UMBRA_STOP_PAUSED) {
        gdb->vcpu = stop.vcpu;
    }
    if (stop.kind == UMBRA_STOP_WATCHPOINT) {
        snprintf(text, sizeof(text), "T%02xthread:%x;watch:%" PRIx64 ";", GDB_SIGTRAP,
                 stop.vcpu + 1, stop.address);
    } else {
        snprintf(text, sizeof(text), "T%02xthread:%x;",
                 stop.kind == UMBRA_STOP_PAUSED ? GDB_SIGINT : GDB_SIGTRAP,
                 gdb->vcpu + 1);
    }
    gdb_send(gdb, text);
}

static void gdb_continue(struct gdb *gdb)
{
    struct umbra_error error;
    int ret = vm_state(gdb->vm) == VM_CREATED ? umbra_vm_start(gdb->vm, &error)
                                              : umbra_vm_resume(gdb->vm, &error);

    if (ret < 0) {
        gdb_report_stop(gdb);
    } else {
        gdb->running = true;
    }
}

static void gdb_step(struct gdb *gdb, unsigned vcpu)
{
    struct umbra_error error;
    int ret;

    gdb->vcpu = vcpu;
    if (vm_state(gdb->vm) == VM_CREATED) {
        ret = vm_start_paused(gdb->vm, &error);
    } else {
        ret = 0;
    }
    if (ret == 0) {
        ret = umbra_vm_step(gdb->vm, vcpu, NULL, &error);
    }
    if (ret == -EPIPE) {
        gdb->running = true; /* the end is on its way */
    } else {
        gdb_report_stop(gdb);
    }
}

/* vCont;ACTION[:THREAD]... : a step of one thread if any asks for it, otherwise all run. */
static void gdb_vcont(struct gdb *gdb, const char *text)
{
    if (strcmp(text, "?") == 0) {
        gdb_send(gdb, "vCont;c;C;s;S");
        return;
    }
    for (const char *action = text; *action == ';';) {
        const char *thread = strpbrk(action + 1, ":;");

        if (action[1] == 's' || action[1] == 'S') {
            unsigned long id = thread != NULL && *thread == ':'
                                   ? strtoul(thread + 1, NULL, 16)
                                   : gdb->vcpu + 1;

            gdb_step(gdb,
                     id >= 1 && id <= gdb_vcpu_count(gdb) ? (unsigned)id - 1 : gdb->vcpu);
            return;
        }
        action = strchr(action + 1, ';');
        if (action == NULL) {
            break;
        }
    }
    gdb_continue(gdb);
}

/* ---- Queries -------------------------------------------------------------------------------- */

/* qXfer:features:read:target.xml:OFFSET,LENGTH */
static void gdb_send_xml(struct gdb *gdb, const char *range)
{
    const char *xml = gdb_target_xml();
    char *end;
    size_t total = strlen(xml), offset = strtoul(range, &end, 16);
    size_t length = *end == ',' ? strtoul(end + 1, NULL, 16) : 0;

    offset = offset < total ? offset : total;
    length = length < total - offset ? length : total - offset;
    if (length > GDB_PACKET_MAX - 16) {
        length = GDB_PACKET_MAX - 16;
    }
    gdb->out[0] = offset + length < total ? 'm' : 'l';
    memcpy(gdb->out + 1, xml + offset, length);
    gdb->out[1 + length] = '\0';
    gdb_send(gdb, gdb->out);
}

static void gdb_thread_list(struct gdb *gdb)
{
    size_t used = 1;

    gdb->out[0] = 'm';
    for (unsigned i = 0; i < gdb_vcpu_count(gdb); i++) {
        used += (size_t)snprintf(gdb->out + used, sizeof(gdb->out) - used, "%s%x",
                                 i > 0 ? "," : "", i + 1);
    }
    gdb_send(gdb, gdb->out);
}

static void gdb_query(struct gdb *gdb, const char *text)
{
    static const char xml[] = "Xfer:features:read:target.xml:";
    char name[32];

    if (strncmp(text, "Supported", 9) == 0) {
        snprintf(gdb->out, sizeof(gdb->out),
                 "PacketSize=%x;qXfer:features:read+;vContSupported+;QStartNoAckMode+",
                 GDB_PACKET_MAX - 16);
        gdb_send(gdb, gdb->out);
    } else if (strncmp(text, xml, sizeof(xml) - 1) == 0) {
        gdb_send_xml(gdb, text + sizeof(xml) - 1);
    } else if (strcmp(text, "fThreadInfo") == 0) {
        gdb_thread_list(gdb);
    } else if (strcmp(text, "sThreadInfo") == 0) {
        gdb_send(gdb, "l");
    } else if (strncmp(text, "ThreadExtraInfo,", 16) == 0) {
        snprintf(name, sizeof(name), "vCPU %lu", strtoul(text + 16, NULL, 16) - 1);
        hex_encode((const uint8_t *)name, strlen(name), gdb->out);
        gdb_send(gdb, gdb->out);
    } else if (strcmp(text, "C") == 0) {
        snprintf(gdb->out, sizeof(gdb->out), "QC%x", gdb->vcpu + 1);
        gdb_send(gdb, gdb->out);
    } else if (strncmp(text, "Attached", 8) == 0) {
        gdb_send(gdb, "1");
    } else {
        gdb_send(gdb, "");
    }
}

static void gdb_set_thread(struct gdb *gdb, const char *text)
{
    long id = strtol(text, NULL, 16);

    if (id > 0 && (unsigned long)id <= gdb_vcpu_count(gdb)) {
        gdb->vcpu = (unsigned)id - 1;
    }
    gdb_send(gdb, id <= (long)gdb_vcpu_count(gdb) ? "OK" : "E16");
}

static void gdb_detach(struct gdb *gdb)
{
    gdb_send(gdb, "OK");
    close(gdb->client);
    gdb->client = -1;
}

static void gdb_command(struct gdb *gdb, const char *text)
{
    unsigned long id;

    switch (text[0]) {
    case '?':
        gdb_report_stop(gdb);
        break;
    case 'g':
        gdb_read_registers(gdb);
        break;
    case 'G':
        gdb_write_registers(gdb, text + 1);
        break;
    case 'p':
    case 'P':
        gdb_one_register(gdb, text + 1, text[0] == 'P');
        break;
    case 'm':
    case 'M':
        gdb_memory(gdb, text + 1, text[0] == 'M');
        break;
    case 'Z':
    case 'z':
        gdb_breakpoint(gdb, text + 1, text[0] == 'Z');
        break;
    case 'c':
    case 'C':
        gdb_continue(gdb);
        break;
    case 's':
    case 'S':
        gdb_step(gdb, gdb->vcpu);
        break;
    case 'H':
        gdb_set_thread(gdb, text[1] != '\0' ? text + 2 : "");
        break;
    case 'T':
        id = strtoul(text + 1, NULL, 16);
        gdb_send(gdb, id >= 1 && id <= gdb_vcpu_count(gdb) ? "OK" : "E03");
        break;
    case 'q':
        gdb_query(gdb, text + 1);
        break;
    case 'Q':
        if (strcmp(text, "QStartNoAckMode") == 0) {
            gdb_send(gdb, "OK");
            gdb->no_ack = true;
        } else {
            gdb_send(gdb, "");
        }
        break;
    case 'v':
        if (strncmp(text, "vCont", 5) == 0) {
            gdb_vcont(gdb, text + 5);
        } else if (strncmp(text, "vKill", 5) == 0) {
            gdb_send(gdb, "OK");
            umbra_vm_stop(gdb->vm, "killed by gdb", NULL);
        } else {
            gdb_send(gdb, "");
        }
        break;
    case 'k':
        umbra_vm_stop(gdb->vm, "killed by gdb", NULL);
        break;
    case 'D':
        gdb_detach(gdb);
        break;
    default:
        gdb_send(gdb, "");
        break;
    }
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
        close(gdb->client);
        gdb->client = -1;
        return;
    }
    gdb->in_length += n > 0 ? (size_t)n : 0;
    while (gdb->client >= 0 && gdb_take_packet(gdb)) {
    }
}

static void gdb_accept(struct gdb *gdb)
{
    gdb->client = accept4(gdb->listener, NULL, NULL, SOCK_CLOEXEC);
    gdb->in_length = 0;
    gdb->no_ack = false;
    gdb->running = false;
    gdb->vcpu = 0;
    if (gdb->client >= 0 && vm_state(gdb->vm) == VM_RUNNING) {
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
        uint64_t count;

        if (poll(fds, ARRAY_SIZE(fds), -1) < 0) {
            continue;
        }
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

static int gdb_listen_unix(struct gdb *gdb, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(address.sun_path)) {
        return -ENAMETOOLONG;
    }
    strcpy(address.sun_path, path);
    gdb->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (gdb->listener < 0 ||
        bind(gdb->listener, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return -errno;
    }
    strcpy(gdb->unix_path, path);
    return listen(gdb->listener, 1) < 0 ? -errno : 0;
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

int gdb_create(struct umbra_vm *vm, const char *address, struct gdb **out,
               struct umbra_error *error)
{
    struct gdb *gdb = calloc(1, sizeof(*gdb));
    sigset_t all, old;
    int ret;

    if (gdb == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot listen for gdb");
    }
    gdb->vm = vm;
    gdb->listener = gdb->client = -1;
    gdb->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ret = strncmp(address, "unix:", 5) == 0 ? gdb_listen_unix(gdb, address + 5)
                                            : gdb_listen_tcp(gdb, address);
    if (ret == 0 && gdb->wake < 0) {
        ret = -EMFILE;
    }
    if (ret == 0) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        ret = -pthread_create(&gdb->thread, NULL, gdb_main, gdb);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    if (ret < 0) {
        atomic_store(&gdb->quit, true);
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                    "cannot listen for gdb on \"%s\" (PORT, ADDRESS:PORT or unix:PATH)",
                    address);
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
    int ret;

    pthread_mutex_lock(&vm->control);
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
