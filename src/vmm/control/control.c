/* SPDX-License-Identifier: MIT */
/* The control socket: listening, clients, lines of JSON-RPC. */
#include "vmm/control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/chardev/char_end_open.h"
#include "base/error.h"
#include "base/thread.h"
#include "vmm/vm/vm.h"

struct control_client {
    int fd; /* -1: a free place */
    char in[CONTROL_MAX_LINE];
    size_t in_length;
    char *out; /* waits to be sent */
    size_t out_length;
    struct control_session session;
};

struct control {
    struct umbra_vm *vm;
    struct sockaddr_un address;
    int listener, wake;
    bool resting; /* no descriptor for another client: none is looked for, for a while */
    pthread_t thread;
    bool started;
    atomic_bool quit;
    struct control_client clients[CONTROL_MAX_CLIENTS];
};

static void client_close(struct control_client *client)
{
    if (client->fd >= 0) {
        close(client->fd);
    }
    free(client->out);
    *client = (struct control_client){ .fd = -1 };
}

/* ---- Sending -------------------------------------------------------------------------- */

static void client_flush(struct control_client *client)
{
    while (client->out_length > 0) {
        ssize_t n = send(client->fd, client->out, client->out_length,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            client_close(client);
            return;
        }
        client->out_length -= (size_t)n;
        memmove(client->out, client->out + n, client->out_length);
    }
}

/* Queue @json, which is consumed, as a line. */
static void client_send(struct control_client *client, json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    size_t length = text != NULL ? strlen(text) : 0;
    char *out;

    json_decref(json);
    if (text == NULL || client->out_length + length + 1 > CONTROL_MAX_WAITING) {
        free(text);
        client_close(client);
        return;
    }
    out = realloc(client->out, client->out_length + length + 1);
    if (out == NULL) {
        free(text);
        client_close(client);
        return;
    }
    memcpy(out + client->out_length, text, length);
    out[client->out_length + length] = '\n';
    client->out = out;
    client->out_length += length + 1;
    free(text);
    client_flush(client);
}

static json_t *control_envelope(void)
{
    json_t *json = json_object();

    json_object_set_new(json, "jsonrpc", json_string("2.0"));
    return json;
}

static void client_send_error(struct control_client *client, json_t *id, int code,
                              const char *message)
{
    json_t *json = control_envelope(), *error = json_object();

    json_object_set_new(error, "code", json_integer(code));
    json_object_set_new(error, "message", json_string(message));
    json_object_set_new(json, "error", error);
    json_object_set(json, "id", id != NULL ? id : json_null());
    client_send(client, json);
}

/* New console output for an attached client, as notifications. */
static void client_send_console(struct control *control, struct control_client *client)
{
    struct console *console = &control->vm->machine.consoles[client->session.port];
    char bytes[CONTROL_MAX_TRANSFER];
    size_t length;

    while (client->fd >= 0 && client->session.attached &&
           client->out_length < CONTROL_MAX_WAITING / 2 &&
           (length = console_read(console, &client->session.offset, bytes,
                                  sizeof(bytes))) > 0) {
        json_t *json = control_envelope(), *params = json_object();

        json_object_set_new(params, "port", json_integer(client->session.port));
        json_object_set_new(params, "data", control_encode(bytes, length));
        json_object_set_new(json, "method", json_string("console.output"));
        json_object_set_new(json, "params", params);
        client_send(client, json);
    }
}

/* ---- Requests ---------------------------------------------------------------------------- */

static void client_request(struct control *control, struct control_client *client,
                           json_t *request)
{
    json_t *id = json_object_get(request, "id");
    json_t *params = json_object_get(request, "params"), *result, *reply;
    const char *method = json_string_value(json_object_get(request, "method"));
    const char *version = json_string_value(json_object_get(request, "jsonrpc"));
    struct umbra_error error = { 0 };
    int code = CONTROL_FAILED;

    if (method == NULL || version == NULL || strcmp(version, "2.0") != 0 ||
        (params != NULL && !json_is_object(params)) ||
        (id != NULL && !json_is_string(id) && !json_is_integer(id) &&
         !json_is_null(id))) {
        client_send_error(
            client, id, CONTROL_INVALID_REQUEST,
            "a request is {\"jsonrpc\": \"2.0\", \"id\": N, \"method\": NAME, "
            "\"params\": {...}}; rpc.discover lists the methods");
        return;
    }
    result = control_call(control->vm, &client->session, method, params, &code, &error);
    if (id == NULL) {
        json_decref(result); /* a notification has no answer */
    } else if (result == NULL) {
        client_send_error(client, id, code, error.message);
    } else {
        reply = control_envelope();
        json_object_set_new(reply, "result", result);
        json_object_set(reply, "id", id);
        client_send(client, reply);
    }
}

static void client_line(struct control *control, struct control_client *client,
                        const char *line, size_t length)
{
    json_error_t why;
    json_t *request;

    if (length == 0) {
        return;
    }
    request = json_loadb(line, length, JSON_REJECT_DUPLICATES, &why);
    if (request == NULL) {
        client_send_error(client, NULL, CONTROL_PARSE_ERROR, why.text);
    } else if (!json_is_object(request)) {
        client_send_error(client, NULL, CONTROL_INVALID_REQUEST,
                          "one request object a line is expected");
    } else {
        client_request(control, client, request);
    }
    json_decref(request);
}

static void client_receive(struct control *control, struct control_client *client)
{
    ssize_t n = recv(client->fd, client->in + client->in_length,
                     sizeof(client->in) - client->in_length, MSG_DONTWAIT);
    char *end;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        client_close(client);
        return;
    }
    client->in_length += (size_t)n;
    while (client->fd >= 0 &&
           (end = memchr(client->in, '\n', client->in_length)) != NULL) {
        size_t line = (size_t)(end - client->in);

        client_line(control, client, client->in, line);
        if (client->fd >= 0) {
            client->in_length -= line + 1;
            memmove(client->in, end + 1, client->in_length);
        }
    }
    if (client->fd >= 0 && client->in_length == sizeof(client->in)) {
        client_send_error(client, NULL, CONTROL_INVALID_REQUEST, "the line is too long");
        client_close(client);
    }
}

/* ---- The thread ---------------------------------------------------------------------------- */

static void control_accept(struct control *control)
{
    int fd = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        control->resting = accept_must_rest(errno);
        return;
    }
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS && char_end_peer_allowed(fd); i++) {
        if (control->clients[i].fd < 0) {
            control->clients[i].fd = fd;
            return;
        }
    }
    close(fd);
}

static void control_serve(struct control *control, const struct pollfd *fds)
{
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++) {
        struct control_client *client = &control->clients[i];

        if (client->fd < 0 || fds[i].fd != client->fd) {
            continue;
        }
        if (fds[i].revents & POLLOUT) {
            client_flush(client);
        }
        if (client->fd >= 0 && (fds[i].revents & (POLLIN | POLLHUP | POLLERR))) {
            client_receive(control, client);
        }
        if (client->fd >= 0) {
            client_send_console(control, client);
        }
    }
}

static void *control_main(void *context)
{
    enum { LISTENER = CONTROL_MAX_CLIENTS, WAKE, COUNT };
    struct control *control = context;

    pthread_setname_np(pthread_self(), "control");
    while (!atomic_load(&control->quit)) {
        struct pollfd fds[COUNT];
        uint64_t count;

        for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++) {
            fds[i] = (struct pollfd){
                .fd = control->clients[i].fd,
                .events = (short)(control->clients[i].out_length > 0 ? POLLIN | POLLOUT
                                                                     : POLLIN),
            };
        }
        fds[LISTENER] = (struct pollfd){ .fd = control->resting ? -1 : control->listener,
                                         .events = POLLIN };
        fds[WAKE] = (struct pollfd){ .fd = control->wake, .events = POLLIN };
        if (poll(fds, COUNT, control->resting ? ACCEPT_REST_MS : -1) < 0) {
            continue;
        }
        control->resting = false;
        if (fds[WAKE].revents != 0 && read(control->wake, &count, sizeof(count)) < 0) {
            continue;
        }
        control_serve(control, fds);
        if (fds[LISTENER].revents != 0) {
            control_accept(control);
        }
    }
    return NULL;
}

/* A socket that nobody listens on is left over from a crash: take its place. */
static int control_bind(struct control *control)
{
    const struct sockaddr *address = (const struct sockaddr *)&control->address;
    int probe, ret;

    if (bind(control->listener, address, sizeof(control->address)) == 0) {
        return 0;
    }
    if (errno != EADDRINUSE) {
        return -errno;
    }
    probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ret = probe < 0                                                ? -errno
          : connect(probe, address, sizeof(control->address)) == 0 ? -EADDRINUSE
          : errno == ECONNREFUSED                                  ? 0
                                                                   : -errno;
    if (probe >= 0) {
        close(probe);
    }
    if (ret == 0 && (unlink(control->address.sun_path) < 0 ||
                     bind(control->listener, address, sizeof(control->address)) < 0)) {
        ret = -errno;
    }
    return ret;
}

static int control_listen(struct control *control, const char *path)
{
    int ret;

    if (strlen(path) >= sizeof(control->address.sun_path)) {
        return -ENAMETOOLONG;
    }
    control->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (control->listener < 0) {
        return -errno;
    }
    control->address.sun_family = AF_UNIX;
    strcpy(control->address.sun_path, path);
    /* The mode before the name is there: bind() takes it from the descriptor. */
    fchmod(control->listener, 0600);
    ret = control_bind(control);
    if (ret < 0) {
        control->address.sun_path[0] = '\0';
        return ret;
    }
    return chmod(path, 0600) < 0 || listen(control->listener, 8) < 0 ? -errno : 0;
}

int control_create(struct umbra_vm *vm, const char *path, struct control **out,
                   struct umbra_error *error)
{
    struct control *control = calloc(1, sizeof(*control));
    int ret;

    if (control == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "control socket");
    }
    control->vm = vm;
    control->listener = -1;
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++) {
        control->clients[i].fd = -1;
    }
    control->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ret = control->wake < 0 ? -errno : control_listen(control, path);
    if (ret == 0) {
        ret = thread_start(&control->thread, NULL, control_main, control);
        control->started = ret == 0;
    }
    if (ret < 0) {
        control_destroy(control);
        return error_errno(error, UMBRA_ERROR_USAGE, -ret,
                           "cannot listen on the control socket %s%s", path,
                           ret == -EADDRINUSE ? " (another VM of this name runs)" : "");
    }
    *out = control;
    return 0;
}

void control_notify(struct control *control)
{
    const uint64_t one = 1;

    /* Fails only when the counter is full: then the thread has been told often enough. */
    if (write(control->wake, &one, sizeof(one)) < 0) {
        return;
    }
}

void control_destroy(struct control *control)
{
    if (control == NULL) {
        return;
    }
    if (control->started) {
        atomic_store(&control->quit, true);
        control_notify(control);
        pthread_join(control->thread, NULL);
    }
    for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++) {
        client_close(&control->clients[i]);
    }
    if (control->address.sun_path[0] != '\0') {
        unlink(control->address.sun_path);
    }
    if (control->listener >= 0) {
        close(control->listener);
    }
    if (control->wake >= 0) {
        close(control->wake);
    }
    free(control);
}

/* ---- The VM's side ------------------------------------------------------------------------- */

static void control_console_watch(void *context)
{
    control_notify(context);
}

void control_close(struct umbra_vm *vm)
{
    if (vm->control_socket == NULL) {
        return;
    }
    for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
        console_set_watch(&vm->machine.consoles[i], NULL, NULL);
    }
    control_destroy(vm->control_socket);
    vm->control_socket = NULL;
}

int umbra_control_listen(struct umbra_vm *vm, const char *path, struct umbra_error *error)
{
    struct control *control;
    int ret = vm_enter(vm, "umbra_control_listen", error);

    if (ret != 0) {
        return ret;
    }
    if (vm->control_socket != NULL) {
        ret = error_set(error, UMBRA_ERROR_STATE, EBUSY,
                        "the VM has a control socket already");
    } else {
        ret = control_create(vm, path, &control, error);
    }
    if (ret == 0) {
        vm->control_socket = control;
        for (unsigned i = 0; i < MACHINE_CONSOLES; i++) {
            console_set_watch(&vm->machine.consoles[i], control_console_watch, control);
        }
    }
    pthread_mutex_unlock(&vm->control);
    return ret;
}

int umbra_control_path(const char *name, char *path, size_t size,
                       struct umbra_error *error)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char folder[96];
    struct stat info;

    if (name != NULL &&
        (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "\"%.64s\" cannot name a VM: no slash, no leading dot", name);
    }
    if (runtime != NULL && runtime[0] == '/' && strlen(runtime) < 64) {
        snprintf(folder, sizeof(folder), "%s/umbra", runtime);
    } else if (geteuid() == 0) {
        snprintf(folder, sizeof(folder), "/run/umbra");
    } else {
        snprintf(folder, sizeof(folder), "/tmp/umbra-%u", (unsigned)geteuid());
    }
    if (mkdir(folder, 0700) < 0 && errno != EEXIST) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot make %s for control sockets (set XDG_RUNTIME_DIR)",
                           folder);
    }
    /* Somebody else's folder of this name in /tmp is a trap. */
    if (lstat(folder, &info) < 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid() ||
        (info.st_mode & 077) != 0) {
        return error_set(
            error, UMBRA_ERROR_PERMISSION, EPERM,
            "%s is not a folder of yours with mode 0700: control sockets cannot "
            "be there (set XDG_RUNTIME_DIR)",
            folder);
    }
    if (snprintf(path, size, name != NULL ? "%s/%s.sock" : "%s", folder, name) >=
        (int)size) {
        return error_set(error, UMBRA_ERROR_USAGE, ENAMETOOLONG, "\"%.64s\" is too long",
                         name);
    }
    return 0;
}
