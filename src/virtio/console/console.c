/* SPDX-License-Identifier: MIT */
/* virtio-console (virtio 1.2, 5.3): several ports, each with an end on the host. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "virtio/registry.h"

enum {
    CONSOLE_QUEUE_SIZE = 64,
    CONSOLE_PORTS_MAX = 30,
    CONSOLE_NAME_MAX = 64,
    CONTROL_RX = 2,
    CONTROL_TX = 3,
    CONTROL_SIZE = 8,
    CONSOLE_PORT_STATE = 16,
};

/* Control messages that wait for a buffer of the driver's, a bit each, sent in this
 * order. Bits instead of a queue: no driver can make it grow. */
enum {
    SEND_ADD = 1,
    SEND_CONSOLE = 2,
    SEND_NAME = 4,
    SEND_OPEN = 8,
    SEND_SIZE = 16,
    SEND_ALL = 31,
};

enum { COLUMNS = 80, ROWS = 24 }; /* until the host says otherwise */

struct console_port {
    struct virtio_console *console;
    unsigned index;
    char name[CONSOLE_NAME_MAX];
    bool is_console;
    uint16_t columns, rows;
    struct char_end *end;
    bool guest_open;
    unsigned send; /* SEND_* */
    struct virtqueue_chain rx, tx;
    bool tx_held; /* tx is partly written: the end takes no more for now */
    uint64_t tx_done, tx_size;
    uint64_t tx_skip; /* bytes that are out already of the chain that comes next */
};

struct virtio_console {
    struct virtio_device device;
    unsigned count;
    struct console_port *ports;
    struct virtqueue_chain control;
};

static struct virtio_console *console_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_console, device);
}

static struct virtio_queue *port_queue(struct console_port *port, bool tx)
{
    unsigned first = port->index == 0 ? 0 : 2 + 2 * port->index;

    return &port->console->device.queues[first + tx];
}

static bool multiport(const struct virtio_console *console)
{
    return virtio_has(&console->device, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* ---- Data ----------------------------------------------------------------------------- */

/* How much of what waits may go into the next buffer; a planned fault makes it less. */
static size_t port_limit(struct console_port *port, struct virtio_queue *queue)
{
    struct fault_hits hits;

    if (!char_end_pending(port->end) ||
        !virtio_queue_draw(queue, UMBRA_FAULT_IN, port->rx.writable_bytes, &hits) ||
        !fault_hit(&hits, UMBRA_FAULT_SHORT)) {
        return SIZE_MAX;
    }
    return hits.bytes > 0 ? hits.bytes : 1; /* none at all would be no transfer */
}

/* From the host's end to the guest, as far as there are bytes and buffers. */
static void port_receive(struct console_port *port)
{
    struct virtio_queue *queue = port_queue(port, false);

    if (!queue->running || (multiport(port->console) && !port->guest_open)) {
        return; /* the end keeps its input */
    }
    do {
        while (virtio_queue_pop(queue, &port->rx)) {
            const struct iovec *iov = virtqueue_chain_writable(&port->rx);
            size_t done = 0, limit = port_limit(port, queue);

            for (unsigned i = 0; i < port->rx.writable_count && done < limit; i++) {
                size_t want =
                    iov[i].iov_len < limit - done ? iov[i].iov_len : limit - done;
                size_t got = char_end_read(port->end, iov[i].iov_base, want);

                done += got;
                if (got < iov[i].iov_len) {
                    break;
                }
            }
            if (done == 0 && port->rx.writable_bytes > 0) {
                virtio_queue_unpop(queue, &port->rx);
                virtio_queue_flush(queue);
                virtio_queue_disable_kicks(queue); /* input comes first */
                return;
            }
            virtio_queue_push(queue, &port->rx, (uint32_t)done);
        }
        virtio_queue_flush(queue);
    } while (virtio_queue_enable_kicks(queue));
}

/* Hand the held chain to the end; true when all of it went. */
static bool port_write(struct console_port *port)
{
    const struct iovec *iov = virtqueue_chain_readable(&port->tx);
    uint64_t skip = port->tx_done;

    for (unsigned i = 0; i < port->tx.readable_count; i++) {
        size_t length = iov[i].iov_len, taken;

        if (skip >= length) {
            skip -= length;
            continue;
        }
        length -= (size_t)skip;
        if (length > port->tx_size - port->tx_done) {
            length = (size_t)(port->tx_size - port->tx_done);
        }
        taken = char_end_write(port->end, (const char *)iov[i].iov_base + skip, length);
        port->tx_done += taken;
        skip = 0;
        if (taken < length) {
            return false;
        }
    }
    return true;
}

/* A chain was popped: where it stands, and how much of it goes out: all, but for a planned
 * fault. */
static void port_begin(struct console_port *port, struct virtio_queue *queue)
{
    uint64_t size = port->tx.readable_bytes;
    struct fault_hits hits;

    port->tx_done = port->tx_skip;
    port->tx_skip = 0;
    port->tx_size = size;
    if (port->tx_done == 0 && virtio_queue_draw(queue, UMBRA_FAULT_OUT, size, &hits) &&
        fault_hit(&hits, UMBRA_FAULT_SHORT) && hits.bytes < size) {
        port->tx_size = hits.bytes;
    }
}

static void port_transmit(struct console_port *port)
{
    struct virtio_queue *queue = port_queue(port, true);

    if (!queue->running) {
        return;
    }
    do {
        virtio_queue_disable_kicks(queue);
        while (port->tx_held || virtio_queue_pop(queue, &port->tx)) {
            if (!port->tx_held) {
                port_begin(port, queue);
            }
            port->tx_held = !port_write(port);
            if (port->tx_held) { /* port_ready goes on */
                virtio_queue_flush(queue);
                return;
            }
            virtio_queue_push(queue, &port->tx, 0);
        }
        virtio_queue_flush(queue);
    } while (virtio_queue_enable_kicks(queue));
}

/* ---- Control (5.3.6.2) ----------------------------------------------------------------- */

/* One message of @port into a buffer of the driver's. */
static uint32_t control_fill(struct console_port *port, unsigned bit)
{
    static const struct {
        unsigned bit;
        uint16_t event, value;
    } messages[] = {
        { SEND_ADD, VIRTIO_CONSOLE_PORT_ADD, 1 },
        { SEND_CONSOLE, VIRTIO_CONSOLE_CONSOLE_PORT, 1 },
        { SEND_NAME, VIRTIO_CONSOLE_PORT_NAME, 1 },
        { SEND_OPEN, VIRTIO_CONSOLE_PORT_OPEN, 0 },
        { SEND_SIZE, VIRTIO_CONSOLE_RESIZE, 0 },
    };
    struct virtio_console *console = port->console;
    uint8_t message[CONTROL_SIZE + CONSOLE_NAME_MAX];
    uint32_t size = CONTROL_SIZE;

    store_le32(message, port->index);
    for (unsigned i = 0; i < ARRAY_SIZE(messages); i++) {
        if (messages[i].bit == bit) {
            store_le16(message + 4, messages[i].event);
            store_le16(message + 6, messages[i].value);
        }
    }
    if (bit == SEND_OPEN) {
        store_le16(message + 6, char_end_connected(port->end));
    } else if (bit == SEND_NAME) {
        size_t length = strlen(port->name); /* without the zero (5.3.6.2.1) */

        memcpy(message + size, port->name, length);
        size += (uint32_t)length;
    } else if (bit == SEND_SIZE) {
        store_le16(message + size, port->columns);
        store_le16(message + size + 2, port->rows);
        size += 4;
    }
    return (uint32_t)virtqueue_chain_write(&console->control, 0, message, size);
}

static void control_send(struct virtio_console *console)
{
    struct virtio_queue *queue = &console->device.queues[CONTROL_RX];

    if (!queue->running || !multiport(console)) {
        return;
    }
    for (unsigned i = 0; i < console->count; i++) {
        struct console_port *port = &console->ports[i];

        while (port->send != 0) {
            unsigned bit = port->send & -port->send;

            if (!virtio_queue_pop(queue, &console->control)) {
                virtio_queue_flush(queue);
                if (virtio_queue_enable_kicks(queue)) {
                    continue;
                }
                return;
            }
            port->send &= ~bit;
            virtio_queue_push(queue, &console->control, control_fill(port, bit));
        }
    }
    virtio_queue_flush(queue);
}

static void control_receive(struct virtio_console *console, const uint8_t *message)
{
    uint32_t id = load_le32(message);
    uint16_t event = load_le16(message + 4), value = load_le16(message + 6);
    struct console_port *port = id < console->count ? &console->ports[id] : NULL;

    if (event == VIRTIO_CONSOLE_DEVICE_READY && value == 1) {
        for (unsigned i = 0; i < console->count; i++) {
            console->ports[i].send |= SEND_ADD;
        }
    } else if (event == VIRTIO_CONSOLE_PORT_READY && value == 1 && port != NULL) {
        port->send |= port->is_console ? SEND_CONSOLE | SEND_SIZE : 0;
        port->send |= port->name[0] != '\0' ? SEND_NAME : 0;
        port->send |= SEND_OPEN;
    } else if (event == VIRTIO_CONSOLE_PORT_OPEN && port != NULL) {
        port->guest_open = value != 0;
        port_receive(port);
    }
}

static void control_serve(struct virtio_console *console)
{
    struct virtio_queue *queue = &console->device.queues[CONTROL_TX];
    uint8_t message[CONTROL_SIZE];

    do {
        virtio_queue_disable_kicks(queue);
        while (virtio_queue_pop(queue, &console->control)) {
            bool whole = virtqueue_chain_read(&console->control, 0, message,
                                              sizeof(message)) == sizeof(message);

            virtio_queue_push(queue, &console->control, 0);
            if (whole) {
                control_receive(console, message);
            }
        }
        virtio_queue_flush(queue);
    } while (virtio_queue_enable_kicks(queue));
    control_send(console);
}

/* ---- Events ----------------------------------------------------------------------------- */

/* The port that data queue @index belongs to. */
static struct console_port *queue_port(struct virtio_console *console, unsigned index)
{
    return &console->ports[index < 2 ? 0 : index / 2 - 1];
}

static void console_notify(struct virtio_device *device, struct virtio_queue *queue)
{
    struct virtio_console *console = console_of(device);
    unsigned index = queue->index;

    if (index == CONTROL_RX) {
        control_send(console);
    } else if (index == CONTROL_TX) {
        control_serve(console);
    } else {
        struct console_port *port = queue_port(console, index);

        if (index % 2 == 0) {
            port_receive(port);
        } else {
            port_transmit(port);
        }
    }
}

static void port_ready(void *context)
{
    struct console_port *port = context;

    if (port->tx_held) {
        port_transmit(port);
    }
    port_receive(port);
}

static void port_connected(void *context, bool connected)
{
    struct console_port *port = context;

    (void)connected;
    port->send |= SEND_OPEN;
    control_send(port->console);
}

static const struct char_end_ops port_ops = { .ready = port_ready,
                                              .connected = port_connected };

static void console_reset(struct virtio_device *device)
{
    struct virtio_console *console = console_of(device);

    for (unsigned i = 0; i < console->count; i++) {
        console->ports[i].guest_open = false;
        console->ports[i].send = 0;
    }
}

static void console_queue_forget(struct virtio_device *device, struct virtio_queue *queue)
{
    struct console_port *port = queue_port(console_of(device), queue->index);

    if (queue->index % 2 == 1 && queue->index != CONTROL_TX) {
        port->tx_held = false;
        port->tx_skip = 0;
    }
}

/* What is partly written goes back into its ring, so that nothing is in flight. */
static void console_pause(struct virtio_device *device)
{
    struct virtio_console *console = console_of(device);

    for (unsigned i = 0; i < console->count; i++) {
        struct console_port *port = &console->ports[i];

        if (port->tx_held) {
            virtio_queue_unpop(port_queue(port, true), &port->tx);
            port->tx_held = false;
            port->tx_skip = port->tx_done;
        }
    }
}

static void console_resume(struct virtio_device *device)
{
    struct virtio_console *console = console_of(device);

    for (unsigned i = 0; i < console->count; i++) {
        virtio_queue_rekick(port_queue(&console->ports[i], true));
    }
}

/* A port in CONSOLE_PORT_STATE bytes. */
static int console_save(struct virtio_device *device, struct state_writer *writer)
{
    struct virtio_console *console = console_of(device);
    uint8_t bytes[CONSOLE_PORTS_MAX * CONSOLE_PORT_STATE];

    for (unsigned i = 0; i < console->count; i++) {
        const struct console_port *port = &console->ports[i];
        uint8_t *at = bytes + i * (size_t)CONSOLE_PORT_STATE;

        store_le64(at, port->tx_skip);
        store_le32(at + 8, port->send);
        store_le32(at + 12, port->guest_open);
    }
    state_put_bytes(writer, "console.ports", bytes,
                    console->count * (size_t)CONSOLE_PORT_STATE);
    return 0;
}

static int console_load(struct virtio_device *device, struct state_reader *reader)
{
    struct virtio_console *console = console_of(device);
    uint8_t bytes[CONSOLE_PORTS_MAX * CONSOLE_PORT_STATE];

    state_get_bytes(reader, "console.ports", bytes,
                    console->count * (size_t)CONSOLE_PORT_STATE);
    for (unsigned i = 0; i < console->count; i++) {
        struct console_port *port = &console->ports[i];
        const uint8_t *at = bytes + i * (size_t)CONSOLE_PORT_STATE;

        port->tx_skip = load_le64(at);
        port->send = load_le32(at + 8) & SEND_ALL;
        port->guest_open = load_le32(at + 12) != 0;
    }
    return state_reader_error(reader, NULL);
}

static void console_config_write(struct virtio_device *device, unsigned offset,
                                 unsigned size, const uint8_t *bytes)
{
    if (offset == offsetof(struct virtio_console_config, emerg_wr) && size <= 4) {
        char_end_write(console_of(device)->ports[0].end, bytes, 1);
    }
}

void virtio_console_resize(struct virtio_device *device, unsigned index, uint16_t columns,
                           uint16_t rows)
{
    struct virtio_console *console = console_of(device);
    struct console_port *port = &console->ports[index];

    pthread_mutex_lock(&device->lock);
    port->columns = columns;
    port->rows = rows;
    if (index == 0) { /* for drivers without ports */
        store_le16(device->config, columns);
        store_le16(device->config + 2, rows);
        virtio_config_changed(device);
    }
    if (port->is_console && port->guest_open) {
        port->send |= SEND_SIZE;
        control_send(console);
    }
    pthread_mutex_unlock(&device->lock);
}

int virtio_console_send(struct virtio_device *device, unsigned index, const void *bytes,
                        size_t length)
{
    return char_end_send(console_of(device)->ports[index].end, bytes, length);
}

static void console_stats(struct virtio_device *device, void *json)
{
    struct virtio_console *console = console_of(device);
    json_t *ports = json_array();

    for (unsigned i = 0; i < console->count; i++) {
        struct char_end_stats stats;

        char_end_get_stats(console->ports[i].end, &stats);
        json_array_append_new(ports, json_pack("{s:s, s:b, s:I, s:I, s:I}", "name",
                                               console->ports[i].name, "open",
                                               console->ports[i].guest_open, "bytes_out",
                                               (json_int_t)stats.bytes_out, "bytes_in",
                                               (json_int_t)stats.bytes_in, "dropped",
                                               (json_int_t)stats.dropped));
    }
    json_object_set_new(json, "ports", ports);
}

/* ---- Life --------------------------------------------------------------------------------- */

static void console_destroy(struct virtio_device *device)
{
    struct virtio_console *console = console_of(device);

    for (unsigned i = 0; console->ports != NULL && i < console->count; i++) {
        char_end_destroy(console->ports[i].end);
        virtqueue_chain_fini(&console->ports[i].rx);
        virtqueue_chain_fini(&console->ports[i].tx);
    }
    virtio_device_fini(device);
    virtqueue_chain_fini(&console->control);
    free(console->ports);
    free(console);
}

static const struct virtio_device_facts console_facts = {
    .type = "virtio-console",
    .device_id = VIRTIO_ID_CONSOLE,
    .pci_class = 0x078000, /* communication, other */
    .faults = FAULT_BIT(UMBRA_FAULT_SHORT),
    .config_size = sizeof(struct virtio_console_config),
    .ops = {
        .reset = console_reset,
        .notify = console_notify,
        .queue_forget = console_queue_forget,
        .config_write = console_config_write,
        .pause = console_pause,
        .resume = console_resume,
        .save = console_save,
        .load = console_load,
        .stats = console_stats,
        .destroy = console_destroy,
    },
};

static int console_add_port(struct virtio_console *console, unsigned index,
                            const struct virtio_console_port *config,
                            struct umbra_error *error)
{
    struct console_port *port = &console->ports[index];
    struct virtio_device *device = &console->device;
    int ret;

    port->console = console;
    port->index = index;
    port->is_console = config->console;
    port->columns = COLUMNS;
    port->rows = ROWS;
    if (config->name != NULL && strlen(config->name) >= CONSOLE_NAME_MAX) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "console port '%s': a name has less than %d bytes", config->name,
                         CONSOLE_NAME_MAX);
    }
    snprintf(port->name, sizeof(port->name), "%s",
             config->name != NULL ? config->name : "");
    ret = char_end_create(device->env->loop, device->env->log, port->name, &config->end,
                          &device->lock, &port->end, error);
    return ret == 0 ? char_end_attach(port->end, &port_ops, port, error) : ret;
}

int virtio_console_create(const struct device_env *env, const char *id,
                          const struct virtio_console_port *ports, unsigned count,
                          struct virtio_device **device, struct umbra_error *error)
{
    struct virtio_console *console;
    int ret = -ENOMEM;

    if (count == 0 || count > CONSOLE_PORTS_MAX) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%u console ports: want 1 to %d", count, CONSOLE_PORTS_MAX);
    }
    console = calloc(1, sizeof(*console));
    if (console == NULL ||
        virtio_device_init(&console->device, &console_facts, env, id,
                           VIRTIO_RING_FEATURES | VIRTIO_FEATURE(VIRTIO_CONSOLE_F_SIZE) |
                               VIRTIO_FEATURE(VIRTIO_CONSOLE_F_MULTIPORT) |
                               VIRTIO_FEATURE(VIRTIO_CONSOLE_F_EMERG_WRITE)) != 0) {
        free(console);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create %s", id);
    }
    store_le16(console->device.config, COLUMNS);
    store_le16(console->device.config + 2, ROWS);
    store_le32(console->device.config + 4, count);
    console->ports = calloc(count, sizeof(*console->ports));
    if (console->ports != NULL) {
        /* A pair a port, and the control pair behind the first one. */
        ret =
            virtio_device_add_queues(&console->device, 2 * count + 2, CONSOLE_QUEUE_SIZE);
    }
    if (ret != 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "create %s", id);
    }
    for (; ret == 0 && console->count < count; console->count++) {
        ret = console_add_port(console, console->count, &ports[console->count], error);
    }
    if (ret != 0) {
        console_destroy(&console->device);
        return ret;
    }
    *device = &console->device;
    return 0;
}
