/* SPDX-License-Identifier: MIT */
/* A 16550A UART (National Semiconductor PC16550D): 8 ports, one interrupt. */
#ifndef DEVICES_BOARD_UART16550_H
#define DEVICES_BOARD_UART16550_H

#include "backend/chardev/char_end.h"
#include "devices/device.h"

enum { UART16550_PORTS = 8, UART16550_FIFO = 16 };

struct uart16550_config {
    const char *id; /* "com1" */
    unsigned gsi;
    struct char_end_config end;
    /* Carrier detect follows the end's connection; otherwise it is always there. */
    bool carrier_follows;
};

/* One region, 0: its 8 ports. Interrupts are level, as the chip's INTRPT pin. */
int uart16550_create(const struct device_env *env, const struct uart16550_config *config,
                     struct device **device, struct umbra_error *error);

/* Type into it; any thread, lock not held. -EAGAIN: the queue is full. */
int uart16550_send(struct device *device, const void *bytes, size_t length);

/* Modem status inputs as the MSR shows them. */
enum {
    UART16550_CTS = 0x10,
    UART16550_DSR = 0x20,
    UART16550_RI = 0x40,
    UART16550_DCD = 0x80,
};

/* Drive the modem inputs (a set of the bits above); any thread, lock not held. */
void uart16550_set_modem(struct device *device, uint8_t lines);
/* Receive a break condition; any thread, lock not held. */
void uart16550_send_break(struct device *device);

/* Its end, for char_end_name() and char_end_connected(). */
struct char_end *uart16550_end(struct device *device);

#endif
