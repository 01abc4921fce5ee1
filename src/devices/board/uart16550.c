/* SPDX-License-Identifier: MIT */
/*
 * 16550A UART. Characters take no time on its line: output leaves as fast as the end
 * takes it, input comes as fast as the guest empties the FIFO and never overruns it, and
 * the receiver's time-out (4 character times with the FIFO below its trigger level) has
 * always passed already.
 */
#include "devices/board/uart16550.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "devices/board/uart16550_fifo.h"
#include "devices/irq.h"

/* Registers (PC16550D, table II); names as there. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum {
    IER_RX = 0x01,
    IER_THRE = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_MASK = 0x0f,

    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THRE = 0x02,
    IIR_RX = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_CLEAR_TX = 0x04,
    FCR_KEPT = 0xc9, /* enable, DMA mode, trigger level */

    LCR_DLAB = 0x80,
    LCR_BREAK = 0x40,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_MASK = 0x1f,

    LSR_DATA = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_BREAK = 0x10,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    LSR_FIFO_ERROR = 0x80,

    MSR_DELTA_SHIFT = 4, /* of a line's bit to its delta's */
    MSR_LINES = 0xf0,
};

struct uart_state {
    struct uart_fifo rx, tx;
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    uint8_t line;   /* modem inputs of the outside, MSR_LINES */
    uint8_t deltas; /* MSR bits 0..3 */
    bool overrun;
    bool thre_pending; /* THR became empty and the guest has not heard yet */
};

struct uart {
    struct device device;
    struct irq_line irq;
    struct char_end *end;
    struct uart_state s;
    bool carrier_follows;
    uint64_t interrupts, overruns_tx, overruns_rx;
};

static struct uart *uart_of(struct device *device)
{
    return container_of(device, struct uart, device);
}

static unsigned uart_depth(const struct uart *uart)
{
    return (uart->s.fcr & FCR_ENABLE) != 0 ? UART16550_FIFO : 1;
}

/* ---- Interrupts -------------------------------------------------------------------- */

static uint8_t uart_lsr(const struct uart *uart)
{
    const struct uart_state *s = &uart->s;
    uint8_t lsr = 0;

    if (s->rx.count != 0) {
        lsr |= LSR_DATA | s->rx.errors[s->rx.start];
    }
    if ((s->fcr & FCR_ENABLE) != 0 && fifo_has_error(&s->rx)) {
        lsr |= LSR_FIFO_ERROR;
    }
    if (s->overrun) {
        lsr |= LSR_OVERRUN;
    }
    if (s->tx.count == 0) {
        lsr |= LSR_THRE | LSR_TEMT;
    }
    return lsr;
}

/* The source of highest priority (PC16550D, table IV). */
static uint8_t uart_iir(const struct uart *uart)
{
    static const uint8_t triggers[4] = { 1, 4, 8, 14 };
    const struct uart_state *s = &uart->s;

    if ((s->ier & IER_LINE) != 0 &&
        (uart_lsr(uart) & (LSR_OVERRUN | UART_FIFO_ERRORS)) != 0) {
        return IIR_LINE;
    }
    if ((s->ier & IER_RX) != 0 && s->rx.count != 0) {
        if ((s->fcr & FCR_ENABLE) != 0 && s->rx.count < triggers[s->fcr >> 6]) {
            return IIR_TIMEOUT;
        }
        return IIR_RX;
    }
    if ((s->ier & IER_THRE) != 0 && s->thre_pending) {
        return IIR_THRE;
    }
    if ((s->ier & IER_MODEM) != 0 && s->deltas != 0) {
        return IIR_MODEM;
    }
    return IIR_NONE;
}

static void uart_update_irq(struct uart *uart)
{
    bool level = uart_iir(uart) != IIR_NONE;

    uart->interrupts += level && !uart->irq.level;
    irq_line_set(&uart->irq, level);
}

/* ---- Data -------------------------------------------------------------------------- */

static void uart_receive(struct uart *uart, uint8_t byte, uint8_t errors)
{
    if (uart->s.rx.count >= uart_depth(uart)) {
        uart->s.overrun = true;
        uart->overruns_rx++;
        return;
    }
    fifo_put(&uart->s.rx, byte, errors);
}

/* Take from the end what there is room for; none while looped back. */
static void uart_fill(struct uart *uart)
{
    uint8_t bytes[UART16550_FIFO];
    size_t room = uart_depth(uart) - uart->s.rx.count, count;

    if ((uart->s.mcr & MCR_LOOP) != 0 || uart->s.rx.count >= uart_depth(uart)) {
        return;
    }
    count = char_end_read(uart->end, bytes, room);
    for (size_t i = 0; i < count; i++) {
        fifo_put(&uart->s.rx, bytes[i], 0);
    }
}

/* Hand the end what it takes of the transmitter's FIFO. */
static void uart_drain(struct uart *uart)
{
    struct uart_fifo *tx = &uart->s.tx;
    uint8_t bytes[UART16550_FIFO];
    size_t taken;

    if (tx->count == 0) {
        return;
    }
    for (unsigned i = 0; i < tx->count; i++) {
        bytes[i] = tx->bytes[(tx->start + i) % UART16550_FIFO];
    }
    taken = char_end_write(uart->end, bytes, tx->count);
    tx->start = (uint8_t)((tx->start + taken) % UART16550_FIFO);
    tx->count = (uint8_t)(tx->count - taken);
    if (tx->count == 0) {
        uart->s.thre_pending = true;
    }
}

static void uart_transmit(struct uart *uart, uint8_t byte)
{
    struct uart_state *s = &uart->s;

    s->thre_pending = false;
    if ((s->mcr & MCR_LOOP) != 0) {
        uart_receive(uart, byte, 0);
        s->thre_pending = true;
        return;
    }
    if (s->tx.count >= uart_depth(uart)) {
        uart->overruns_tx++; /* a guest that did not look at THRE */
        return;
    }
    fifo_put(&s->tx, byte, 0);
    uart_drain(uart);
}

/* ---- Modem lines ------------------------------------------------------------------- */

/* The modem inputs as the guest sees them: its own outputs when looped back. */
static uint8_t uart_lines(const struct uart *uart)
{
    uint8_t mcr = uart->s.mcr, lines = 0;

    if ((mcr & MCR_LOOP) == 0) {
        return uart->s.line;
    }
    lines |= (mcr & MCR_RTS) != 0 ? UART16550_CTS : 0;
    lines |= (mcr & MCR_DTR) != 0 ? UART16550_DSR : 0;
    lines |= (mcr & MCR_OUT1) != 0 ? UART16550_RI : 0;
    lines |= (mcr & MCR_OUT2) != 0 ? UART16550_DCD : 0;
    return lines;
}

/* Note what changed since @before. TERI tells of the ring's end only. */
static void uart_lines_changed(struct uart *uart, uint8_t before)
{
    uint8_t now = uart_lines(uart), changed = before ^ now;

    changed &= (uint8_t) ~(UART16550_RI & now);
    uart->s.deltas |= changed >> MSR_DELTA_SHIFT;
}

static void uart_set_line(struct uart *uart, uint8_t line)
{
    uint8_t before = uart_lines(uart);

    uart->s.line = line & MSR_LINES;
    uart_lines_changed(uart, before);
}

/* ---- Registers ----------------------------------------------------------------------
 */

static uint8_t uart_read_reg(struct uart *uart, unsigned reg)
{
    struct uart_state *s = &uart->s;
    uint8_t value;

    switch (reg) {
    case REG_DATA:
        if ((s->lcr & LCR_DLAB) != 0) {
            return s->dll;
        }
        value = s->rx.count != 0 ? fifo_get(&s->rx) : 0;
        uart_fill(uart);
        return value;
    case REG_IER:
        return (s->lcr & LCR_DLAB) != 0 ? s->dlm : s->ier;
    case REG_IIR_FCR:
        value = uart_iir(uart);
        if (value == IIR_THRE) {
            s->thre_pending = false;
        }
        return value | ((s->fcr & FCR_ENABLE) != 0 ? IIR_FIFOS : 0);
    case REG_LCR:
        return s->lcr;
    case REG_MCR:
        return s->mcr;
    case REG_LSR:
        value = uart_lsr(uart);
        s->overrun = false;
        s->rx.errors[s->rx.start] = 0;
        return value;
    case REG_MSR:
        value = uart_lines(uart) | s->deltas;
        s->deltas = 0;
        return value;
    default:
        return s->scr;
    }
}

static void uart_write_fcr(struct uart *uart, uint8_t value)
{
    struct uart_state *s = &uart->s;
    bool toggled = ((s->fcr ^ value) & FCR_ENABLE) != 0;

    if ((value & FCR_CLEAR_RX) != 0 || toggled) {
        s->rx.count = 0;
    }
    if (((value & FCR_CLEAR_TX) != 0 || toggled) && s->tx.count != 0) {
        s->tx.count = 0;
        s->thre_pending = true;
    }
    /* The other bits only take effect together with the enable bit. */
    s->fcr = (value & FCR_ENABLE) != 0 ? value & FCR_KEPT : 0;
    uart_fill(uart);
}

static void uart_write_mcr(struct uart *uart, uint8_t value)
{
    uint8_t before = uart_lines(uart);

    uart->s.mcr = value & MCR_MASK;
    uart_lines_changed(uart, before);
    uart_fill(uart);
}

static void uart_write_lcr(struct uart *uart, uint8_t value)
{
    bool breaks = (value & LCR_BREAK) != 0 && (uart->s.lcr & LCR_BREAK) == 0;

    uart->s.lcr = value;
    if (breaks && (uart->s.mcr & MCR_LOOP) != 0) {
        uart_receive(uart, 0, LSR_BREAK);
    }
}

static void uart_write_reg(struct uart *uart, unsigned reg, uint8_t value)
{
    struct uart_state *s = &uart->s;

    switch (reg) {
    case REG_DATA:
        if ((s->lcr & LCR_DLAB) != 0) {
            s->dll = value;
        } else {
            uart_transmit(uart, value);
        }
        break;
    case REG_IER:
        if ((s->lcr & LCR_DLAB) != 0) {
            s->dlm = value;
            break;
        }
        /* Enabling it while THR is empty raises it at once; drivers count on that. */
        if ((value & IER_THRE) != 0 && (s->ier & IER_THRE) == 0 && s->tx.count == 0) {
            s->thre_pending = true;
        }
        s->ier = value & IER_MASK;
        break;
    case REG_IIR_FCR:
        uart_write_fcr(uart, value);
        break;
    case REG_LCR:
        uart_write_lcr(uart, value);
        break;
    case REG_MCR:
        uart_write_mcr(uart, value);
        break;
    case REG_SCR:
        s->scr = value;
        break;
    default: /* LSR and MSR: read only */
        break;
    }
}

/* Wider accesses are consecutive bytes, as on the ISA bus. */
static uint64_t uart_read(struct device *device, unsigned region, uint64_t offset,
                          unsigned size)
{
    struct uart *uart = uart_of(device);
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)uart_read_reg(uart, (unsigned)(offset + i) & 7) << (8 * i);
    }
    uart_update_irq(uart);
    return value;
}

static void uart_write(struct device *device, unsigned region, uint64_t offset,
                       unsigned size, uint64_t value)
{
    struct uart *uart = uart_of(device);

    for (unsigned i = 0; i < size; i++) {
        uart_write_reg(uart, (unsigned)(offset + i) & 7, (uint8_t)(value >> (8 * i)));
    }
    uart_update_irq(uart);
}

/* ---- The end ----------------------------------------------------------------------- */

static void uart_end_ready(void *context)
{
    struct uart *uart = context;

    uart_drain(uart);
    uart_fill(uart);
    uart_update_irq(uart);
}

static void uart_end_connected(void *context, bool connected)
{
    struct uart *uart = context;
    uint8_t line = uart->s.line & (uint8_t)~UART16550_DCD;

    if (uart->carrier_follows) {
        uart_set_line(uart, connected ? line | UART16550_DCD : line);
        uart_update_irq(uart);
    }
}

static const struct char_end_ops uart_end_ops = {
    .ready = uart_end_ready,
    .connected = uart_end_connected,
};

int uart16550_send(struct device *device, const void *bytes, size_t length)
{
    return char_end_send(uart_of(device)->end, bytes, length);
}

void uart16550_set_modem(struct device *device, uint8_t lines)
{
    struct uart *uart = uart_of(device);

    pthread_mutex_lock(&device->lock);
    uart_set_line(uart, lines);
    uart_update_irq(uart);
    pthread_mutex_unlock(&device->lock);
}

void uart16550_send_break(struct device *device)
{
    struct uart *uart = uart_of(device);

    pthread_mutex_lock(&device->lock);
    if ((uart->s.mcr & MCR_LOOP) == 0) {
        uart_receive(uart, 0, LSR_BREAK);
        uart_update_irq(uart);
    }
    pthread_mutex_unlock(&device->lock);
}

struct char_end *uart16550_end(struct device *device)
{
    return uart_of(device)->end;
}

/* ---- Life -------------------------------------------------------------------------- */

static void uart_reset(struct device *device)
{
    struct uart *uart = uart_of(device);
    uint8_t line = uart->s.line;

    /* What the guest wrote before its reset still goes out, if the end takes it. */
    uart_drain(uart);
    uart->s = (struct uart_state){ .line = line, .dll = 1, .scr = 0 };
    uart_fill(uart);
    uart_update_irq(uart);
}

static const char *const uart_rx_fields[3] = { "rx.bytes", "rx.errors", "rx.place" };
static const char *const uart_tx_fields[3] = { "tx.bytes", "tx.errors", "tx.place" };

static int uart_save(struct device *device, struct state_writer *writer)
{
    const struct uart_state *s = &uart_of(device)->s;
    const uint8_t registers[] = { s->ier,    s->fcr,     s->lcr,         s->mcr,
                                  s->scr,    s->dll,     s->dlm,         s->line,
                                  s->deltas, s->overrun, s->thre_pending };

    state_begin(writer, device->id, 1);
    state_put_bytes(writer, "registers", registers, sizeof(registers));
    fifo_save(writer, &s->rx, uart_rx_fields);
    fifo_save(writer, &s->tx, uart_tx_fields);
    state_end(writer);
    return 0;
}

static int uart_load(struct device *device, struct state_reader *reader)
{
    struct uart *uart = uart_of(device);
    struct uart_state s = { 0 };
    uint8_t r[11];
    int rc = state_open(reader, device->id, 1, NULL);

    if (rc < 0) {
        return rc;
    }
    state_get_bytes(reader, "registers", r, sizeof(r));
    fifo_load(reader, &s.rx, uart_rx_fields);
    fifo_load(reader, &s.tx, uart_tx_fields);
    rc = state_reader_error(reader, NULL);
    if (rc < 0) {
        return rc;
    }
    s.ier = r[0] & IER_MASK;
    s.fcr = r[1] & FCR_KEPT;
    s.lcr = r[2];
    s.mcr = r[3] & MCR_MASK;
    s.scr = r[4];
    s.dll = r[5];
    s.dlm = r[6];
    s.line = r[7] & MSR_LINES;
    s.deltas = r[8] & 0x0f;
    s.overrun = r[9] != 0;
    s.thre_pending = r[10] != 0;
    uart->s = s;
    uart_end_ready(uart);
    return 0;
}

static void uart_stats(struct device *device, void *json)
{
    struct uart *uart = uart_of(device);
    struct char_end_stats stats;

    char_end_get_stats(uart->end, &stats);
    json_object_set_new(json, "bytes_out", json_integer((json_int_t)stats.bytes_out));
    json_object_set_new(json, "bytes_in", json_integer((json_int_t)stats.bytes_in));
    json_object_set_new(json, "dropped", json_integer((json_int_t)stats.dropped));
    json_object_set_new(json, "interrupts", json_integer((json_int_t)uart->interrupts));
    json_object_set_new(json, "overruns_out",
                        json_integer((json_int_t)uart->overruns_tx));
    json_object_set_new(json, "overruns_in", json_integer((json_int_t)uart->overruns_rx));
}

static void uart_destroy(struct device *device)
{
    struct uart *uart = uart_of(device);

    char_end_destroy(uart->end);
    irq_line_set(&uart->irq, false);
    device_fini(device);
    free(uart);
}

static const struct device_ops uart_ops = {
    .type = "uart16550",
    .read = uart_read,
    .write = uart_write,
    .reset = uart_reset,
    .save = uart_save,
    .load = uart_load,
    .stats = uart_stats,
    .destroy = uart_destroy,
};

int uart16550_create(const struct device_env *env, const struct uart16550_config *config,
                     struct device **device, struct umbra_error *error)
{
    struct uart *uart = calloc(1, sizeof(*uart));
    int rc;

    if (uart == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s",
                           config->id);
    }
    device_init(&uart->device, &uart_ops, env, config->id);
    device_irq_init(&uart->device, &uart->irq, config->gsi);
    uart->carrier_follows = config->carrier_follows;
    uart->s.dll = 1;
    rc = char_end_create(env->loop, env->log, config->id, &config->end,
                         &uart->device.lock, &uart->end, error);
    if (rc < 0) {
        goto fail;
    }
    uart->s.line = UART16550_CTS | UART16550_DSR;
    if (!config->carrier_follows || char_end_connected(uart->end)) {
        uart->s.line |= UART16550_DCD;
    }
    rc = char_end_attach(uart->end, &uart_end_ops, uart, error);
    if (rc < 0) {
        goto fail;
    }
    *device = &uart->device;
    return 0;

fail:
    uart_destroy(&uart->device);
    return rc;
}
