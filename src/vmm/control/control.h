/* SPDX-License-Identifier: MIT */
/*
 * The control socket of a VM: JSON-RPC 2.0 over a private unix socket, one object a line, on
 * a thread of its own. Clients are of the same user (SO_PEERCRED) or root, and are bounded in
 * number, in the length of a line and in what waits to be sent to them; one that goes beyond
 * is dropped, the others and the guest notice nothing.
 */
#ifndef VMM_CONTROL_CONTROL_H
#define VMM_CONTROL_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <umbra/umbra.h>

enum {
    CONTROL_MAX_CLIENTS = 16,
    CONTROL_MAX_LINE = 65536,      /* of a request, in bytes */
    CONTROL_MAX_WAITING = 4 << 20, /* bytes that a client may leave unread */
    CONTROL_MAX_TRANSFER = 32768,  /* bytes of memory or console in one message */
};

struct control;
struct umbra_vm;

int control_create(struct umbra_vm *vm, const char *path, struct control **control,
                   struct umbra_error *error);
void control_destroy(struct control *control); /* NULL is fine */

/* Stop watching the consoles and end the socket of @vm, if it has one. */
void control_close(struct umbra_vm *vm);

/* There may be console output or a new state to tell. Any thread, locks may be held. */
void control_notify(struct control *control);

/* ---- Methods (methods.c) ---------------------------------------------------------- */

/* JSON-RPC 2.0, 5.1, and our own below -32000. */
enum {
    CONTROL_PARSE_ERROR = -32700,
    CONTROL_INVALID_REQUEST = -32600,
    CONTROL_METHOD_NOT_FOUND = -32601,
    CONTROL_INVALID_PARAMS = -32602,
    CONTROL_FAILED = -32000,
};

/* What a client is attached to; methods change it. */
struct control_session {
    bool attached;
    unsigned port;   /* as umbra_console_send() */
    uint64_t offset; /* of the port's output, sent so far */
};

/*
 * Run @method. The result, or NULL with *code and @error set. @params is an object or NULL.
 */
json_t *control_call(struct umbra_vm *vm, struct control_session *session,
                     const char *method, json_t *params, int *code,
                     struct umbra_error *error);

/* Bytes as base64 (RFC 4648) in a JSON string. */
json_t *control_encode(const void *bytes, size_t length);
/* Back; how many they are, or -EINVAL (also when more than @max). */
int control_decode(const char *text, uint8_t *bytes, size_t max);

#endif
