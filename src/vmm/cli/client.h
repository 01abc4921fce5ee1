/* SPDX-License-Identifier: MIT */
/* The launcher as a client of running VMs' control sockets. */
#ifndef VMM_CLI_CLIENT_H
#define VMM_CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct client {
    int fd;
    long next_id;
    char *buffer; /* bytes received, not yet taken */
    size_t length, capacity;
};

/* Connect to VM @name; 0, or a printed message and an exit status. */
int client_open(struct client *client, const char *command, const char *name);
void client_close(struct client *client);

/* Send a request; its id, or -1. @params is consumed and may be NULL. */
long client_send(struct client *client, const char *method, json_t *params);

/* The next message, waiting for it; NULL when the connection ended. */
json_t *client_receive(struct client *client);

/* The next message if a whole one is there already; reads once when @readable. *ended tells
 * that the connection ended. */
json_t *client_poll(struct client *client, bool readable, bool *ended);

/* Call @method and wait: the result, or NULL with the reason in @why. Notifications that come
 * in between are dropped. */
json_t *client_call(struct client *client, const char *method, json_t *params, char *why,
                    size_t size);

#endif
