/* SPDX-License-Identifier: MIT */
/* JSON-RPC over a control socket, from the client's side. */
#include "vmm/cli/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <umbra/umbra.h>

#include "vmm/cli/exit_status.h"

enum { CLIENT_CHUNK = 65536 };

int client_open(struct client *client, const char *command, const char *name)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct umbra_error error;

    *client = (struct client){ .fd = -1 };
    if (umbra_control_path(name, address.sun_path, sizeof(address.sun_path), &error) !=
        0) {
        return exit_status_fail(command, &error);
    }
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 ||
        connect(client->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        fprintf(stderr,
                "umbra %s: no VM named \"%s\" answers at %s: %s (umbra ls lists them)\n",
                command, name, address.sun_path, strerror(errno));
        client_close(client);
        return EXIT_STATUS_MISSING;
    }
    return EXIT_STATUS_OK;
}

void client_close(struct client *client)
{
    if (client->fd >= 0) {
        close(client->fd);
    }
    free(client->buffer);
    *client = (struct client){ .fd = -1 };
}

long client_send(struct client *client, const char *method, json_t *params)
{
    json_t *request =
        json_pack("{s:s, s:I, s:s, s:o*}", "jsonrpc", "2.0", "id",
                  (json_int_t)client->next_id, "method", method, "params", params);
    char *text = json_dumps(request, JSON_COMPACT);
    size_t length = text != NULL ? strlen(text) : 0;
    bool sent = text != NULL;

    json_decref(request);
    for (size_t done = 0; sent && done <= length;) {
        const char *from = done < length ? text + done : "\n";
        ssize_t n =
            send(client->fd, from, done < length ? length - done : 1, MSG_NOSIGNAL);

        sent = n > 0 || (n < 0 && errno == EINTR);
        done += n > 0 ? (size_t)n : 0;
    }
    free(text);
    return sent ? client->next_id++ : -1;
}

/* A whole line off the buffer as JSON; NULL when there is none. */
static json_t *client_take(struct client *client)
{
    char *end = client->length > 0 ? memchr(client->buffer, '\n', client->length) : NULL;
    json_t *json;

    if (end == NULL) {
        return NULL;
    }
    json = json_loadb(client->buffer, (size_t)(end - client->buffer), 0, NULL);
    client->length -= (size_t)(end + 1 - client->buffer);
    memmove(client->buffer, end + 1, client->length);
    return json;
}

static bool client_read(struct client *client)
{
    ssize_t n;

    if (client->capacity - client->length < CLIENT_CHUNK) {
        char *buffer = realloc(client->buffer, client->length + 2 * (size_t)CLIENT_CHUNK);

        if (buffer == NULL) {
            return false;
        }
        client->buffer = buffer;
        client->capacity = client->length + 2 * (size_t)CLIENT_CHUNK;
    }
    n = recv(client->fd, client->buffer + client->length, CLIENT_CHUNK, 0);
    if (n < 0 && errno == EINTR) {
        return true;
    }
    client->length += n > 0 ? (size_t)n : 0;
    return n > 0;
}

json_t *client_receive(struct client *client)
{
    json_t *json;

    while ((json = client_take(client)) == NULL) {
        if (!client_read(client)) {
            return NULL;
        }
    }
    return json;
}

json_t *client_poll(struct client *client, bool readable, bool *ended)
{
    *ended = readable && !client_read(client);
    return client_take(client);
}

json_t *client_call(struct client *client, const char *method, json_t *params, char *why,
                    size_t size)
{
    long id = client_send(client, method, params);
    json_t *json, *result;

    snprintf(why, size, "the VM went away");
    while (id >= 0 && (json = client_receive(client)) != NULL) {
        const char *message =
            json_string_value(json_object_get(json_object_get(json, "error"), "message"));

        if (json_integer_value(json_object_get(json, "id")) != id ||
            !json_is_integer(json_object_get(json, "id"))) {
            json_decref(json);
            continue;
        }
        if (message != NULL) {
            snprintf(why, size, "%s", message);
        }
        result = json_incref(json_object_get(json, "result"));
        json_decref(json);
        return result;
    }
    return NULL;
}
