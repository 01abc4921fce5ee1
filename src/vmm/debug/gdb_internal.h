/* SPDX-License-Identifier: MIT */
/* What the two halves of the GDB server share: gdb.c has the connection, gdb_commands.c the
 * commands. */
#ifndef VMM_DEBUG_GDB_INTERNAL_H
#define VMM_DEBUG_GDB_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/un.h>

#include "vmm/debug/gdb.h"

enum {
    GDB_PACKET_MAX = 16384,
    GDB_SIGTRAP = 5,
    GDB_SIGINT = 2,
    GDB_INTERRUPT = 0x03,
    GDB_STALL_MS = 5000, /* a client that reads nothing for so long is dropped */
    GDB_LOOK_MS = 50,
};

struct gdb {
    struct umbra_vm *vm;
    char unix_path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    int listener, client, wake;
    pthread_t thread;
    atomic_bool quit;
    bool no_ack, running;
    bool resting;  /* no descriptor for another client: none is looked for, for a while */
    unsigned vcpu; /* the thread that g, p, m, ... mean */
    char in[GDB_PACKET_MAX];
    size_t in_length;
    char out[2 * GDB_PACKET_MAX];
};

/* Send a packet; its framing is added. */
void gdb_send(struct gdb *gdb, const char *text);

/* Decode up to @max bytes of hexadecimal digits; returns how many. */
size_t hex_decode(const char *text, uint8_t *bytes, size_t max);

/* Carry out the packet @text. */
void gdb_command(struct gdb *gdb, const char *text);
/* Tell the client why the VM stopped, if it does not run. */
void gdb_report_stop(struct gdb *gdb);

#endif
