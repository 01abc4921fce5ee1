/* SPDX-License-Identifier: MIT */
/* A UART's FIFO: characters, each with the line-status errors that came with it. */
#ifndef DEVICES_BOARD_UART16550_FIFO_H
#define DEVICES_BOARD_UART16550_FIFO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/state.h"
#include "devices/board/uart16550.h"

enum { UART_FIFO_ERRORS = 0x1c }; /* LSR bits: parity, framing, break */

struct uart_fifo {
    uint8_t bytes[UART16550_FIFO];
    uint8_t errors[UART16550_FIFO]; /* UART_FIFO_ERRORS of each */
    uint8_t start, count;
};

static inline void fifo_put(struct uart_fifo *fifo, uint8_t byte, uint8_t errors)
{
    unsigned at = (fifo->start + fifo->count) % UART16550_FIFO;

    fifo->bytes[at] = byte;
    fifo->errors[at] = errors;
    fifo->count++;
}

static inline uint8_t fifo_get(struct uart_fifo *fifo)
{
    uint8_t byte = fifo->bytes[fifo->start];

    fifo->start = (uint8_t)((fifo->start + 1) % UART16550_FIFO);
    fifo->count--;
    return byte;
}

static inline bool fifo_has_error(const struct uart_fifo *fifo)
{
    for (unsigned i = 0; i < fifo->count; i++) {
        if (fifo->errors[(fifo->start + i) % UART16550_FIFO] != 0) {
            return true;
        }
    }
    return false;
}

/* @fields: the names of its bytes, errors and place. */
static inline void fifo_save(struct state_writer *writer, const struct uart_fifo *fifo,
                             const char *const fields[3])
{
    state_put_bytes(writer, fields[0], fifo->bytes, sizeof(fifo->bytes));
    state_put_bytes(writer, fields[1], fifo->errors, sizeof(fifo->errors));
    state_put_u64(writer, fields[2], fifo->start | fifo->count << 8);
}

static inline void fifo_load(struct state_reader *reader, struct uart_fifo *fifo,
                             const char *const fields[3])
{
    uint64_t where = state_get_u64(reader, fields[2], UINT16_MAX);

    state_get_bytes(reader, fields[0], fifo->bytes, sizeof(fifo->bytes));
    state_get_bytes(reader, fields[1], fifo->errors, sizeof(fifo->errors));
    for (unsigned i = 0; i < UART16550_FIFO; i++) {
        fifo->errors[i] &= UART_FIFO_ERRORS;
    }
    fifo->start = (uint8_t)where;
    fifo->count = (uint8_t)(where >> 8);
    if (fifo->start >= UART16550_FIFO || fifo->count > UART16550_FIFO) {
        state_reject(reader, "a FIFO's place is out of range");
    }
}

#endif
