/* SPDX-License-Identifier: MIT */
/*
 * A GDB remote protocol server (GDB manual, appendix E): one client at a time, vCPUs as
 * threads, on a thread of its own. It drives the VM through the public calls alone, but for
 * the registers.
 */
#ifndef VMM_DEBUG_GDB_H
#define VMM_DEBUG_GDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

struct gdb;
struct umbra_vm;
struct vcpu;

/* Listen on @address: "PORT" (on 127.0.0.1), "HOST:PORT" or "unix:PATH". */
int gdb_create(struct umbra_vm *vm, const char *address, struct gdb **gdb,
               struct umbra_error *error);
/* Ends the thread; breakpoints stay as they are. NULL is fine. */
void gdb_destroy(struct gdb *gdb);

/* Something changed: the VM stopped or ended. Any thread, locks may be held. */
void gdb_notify(struct gdb *gdb);

/* ---- Registers (gdb_registers.c) -------------------------------------------------------- */

enum { GDB_REGISTERS_BYTES = 1024 };

/* The XML that describes the registers. */
const char *gdb_target_xml(void);
/* All registers in the description's order; returns their total size or -errno. */
int gdb_registers_get(struct vcpu *vcpu, uint8_t bytes[GDB_REGISTERS_BYTES]);
int gdb_registers_set(struct vcpu *vcpu, const uint8_t *bytes, size_t size);
/* Place of register @number in that; false when there is none. */
bool gdb_register_place(unsigned number, size_t *offset, size_t *size);

#endif
