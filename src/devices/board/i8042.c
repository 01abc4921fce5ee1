/* SPDX-License-Identifier: MIT */
/*
 * 8042 keyboard controller and PS/2 keyboard. There is no mouse: an auxiliary-port loop
 * comes back without the auxiliary flag and the port's test names a stuck clock line,
 * from which drivers conclude at once, without waiting for an answer, that nothing is
 * there.
 */
#include "devices/board/i8042.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "devices/board/i8042_keys.h"
#include "devices/irq.h"

enum {
    STATUS_OUTPUT_FULL = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_COMMAND = 0x08, /* the last write went to the command port */
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX = 0x20,
    STATUS_TIMEOUT = 0x40,

    CTR_KEYBOARD_IRQ = 0x01,
    CTR_SYSTEM = 0x04,
    CTR_KEYBOARD_OFF = 0x10,
    CTR_AUX_OFF = 0x20,
    CTR_TRANSLATE = 0x40,

    CMD_READ_RAM = 0x20,  /* ..0x3f */
    CMD_WRITE_RAM = 0x60, /* ..0x7f; byte 0 is the controller's command byte (CTR) */
    CMD_PASSWORD_TEST = 0xa4,
    CMD_AUX_DISABLE = 0xa7,
    CMD_AUX_ENABLE = 0xa8,
    CMD_AUX_TEST = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_KEYBOARD_TEST = 0xab,
    CMD_KEYBOARD_DISABLE = 0xad,
    CMD_KEYBOARD_ENABLE = 0xae,
    CMD_READ_INPUT = 0xc0,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_KEYBOARD_LOOP = 0xd2,
    CMD_AUX_LOOP = 0xd3,
    CMD_AUX_SEND = 0xd4,
    CMD_READ_TEST = 0xe0,
    CMD_PULSE = 0xf0, /* ..0xff */

    OUTPUT_NOT_RESET = 0x01,
    OUTPUT_A20 = 0x02,
    OUTPUT_IDLE = 0xcc, /* data and clock lines, undefined bits */

    KEY_SET_LEDS = 0xed,
    KEY_ECHO = 0xee,
    KEY_SET_SCAN_SET = 0xf0,
    KEY_IDENTIFY = 0xf2,
    KEY_SET_RATE = 0xf3,
    KEY_ENABLE = 0xf4,
    KEY_DISABLE = 0xf5,
    KEY_DEFAULTS = 0xf6,
    KEY_RESEND = 0xfe,
    KEY_RESET = 0xff,
    KEY_ACK = 0xfa,
    KEY_PASSED = 0xaa,

    KEY_BUFFER = 16,
    RATE_DEFAULT = 0x2b,
};

struct byte_queue {
    uint8_t bytes[KEY_BUFFER];
    uint8_t start, count;
};

struct i8042_state {
    uint8_t ctr, output_port;
    uint8_t ram[32]; /* [0] is unused: the CTR */
    uint8_t command; /* of the controller, waiting for its parameter; 0: none */
    bool command_last;
    bool full;           /* the output buffer holds a byte */
    uint8_t data, flags; /* that byte, and STATUS_AUX, STATUS_TIMEOUT with it */
    bool from_keyboard;  /* it raises the keyboard's interrupt */
    bool break_prefix;   /* translation swallowed 0xf0 */
    /* The keyboard. */
    struct byte_queue replies, scans; /* replies go first */
    uint8_t key_command; /* of the keyboard, waiting for its parameter; 0: none */
    bool scanning;
    uint8_t scan_set, leds, rate, last_sent;
};

struct i8042 {
    struct device device;
    struct irq_line irq;
    struct i8042_state s;
};

static struct i8042 *i8042_of(struct device *device)
{
    return container_of(device, struct i8042, device);
}

static void queue_put(struct byte_queue *queue, uint8_t byte)
{
    if (queue->count < KEY_BUFFER) {
        queue->bytes[(queue->start + queue->count++) % KEY_BUFFER] = byte;
    }
}

static uint8_t queue_get(struct byte_queue *queue)
{
    uint8_t byte = queue->bytes[queue->start];

    queue->start = (uint8_t)((queue->start + 1) % KEY_BUFFER);
    queue->count--;
    return byte;
}

/* ---- The output buffer ----------------------------------------------------------------
 */

static void i8042_output(struct i8042 *kbc, uint8_t data, uint8_t flags, bool keyboard)
{
    kbc->s.full = true;
    kbc->s.data = data;
    kbc->s.flags = flags;
    kbc->s.from_keyboard = keyboard;
}

/* Move a byte from the keyboard into the output buffer when that is free. */
static void i8042_pull(struct i8042 *kbc)
{
    struct i8042_state *s = &kbc->s;

    while (!s->full && (s->ctr & CTR_KEYBOARD_OFF) == 0 &&
           (s->replies.count != 0 || s->scans.count != 0)) {
        uint8_t byte = queue_get(s->replies.count != 0 ? &s->replies : &s->scans);

        s->last_sent = byte;
        if ((s->ctr & CTR_TRANSLATE) == 0) {
            i8042_output(kbc, byte, 0, true);
        } else if (byte == 0xf0) {
            s->break_prefix = true;
        } else {
            byte = i8042_key_translate(byte) | (s->break_prefix ? 0x80 : 0);
            s->break_prefix = false;
            i8042_output(kbc, byte, 0, true);
        }
    }
    irq_line_set(&kbc->irq,
                 s->full && s->from_keyboard && (s->ctr & CTR_KEYBOARD_IRQ) != 0);
}

static void i8042_reply(struct i8042 *kbc, uint8_t data)
{
    i8042_output(kbc, data, 0, false);
}

/* ---- The keyboard
 * ---------------------------------------------------------------------- */

static void keyboard_defaults(struct i8042_state *s)
{
    s->scan_set = 2;
    s->rate = RATE_DEFAULT;
    s->scans.count = 0;
    s->key_command = 0;
}

static void keyboard_parameter(struct i8042_state *s, uint8_t value)
{
    uint8_t command = s->key_command;

    s->key_command = 0;
    switch (command) {
    case KEY_SET_LEDS:
        s->leds = value & 7;
        break;
    case KEY_SET_RATE:
        s->rate = value & 0x7f;
        break;
    case KEY_SET_SCAN_SET:
        if (value > 2) {
            queue_put(&s->replies, KEY_RESEND); /* there is no set 3 */
            return;
        }
        queue_put(&s->replies, KEY_ACK);
        if (value == 0) {
            queue_put(&s->replies, s->scan_set);
        } else {
            s->scan_set = value;
        }
        return;
    default:
        break;
    }
    queue_put(&s->replies, KEY_ACK);
}

static void keyboard_command(struct i8042_state *s, uint8_t command)
{
    switch (command) {
    case KEY_SET_LEDS:
    case KEY_SET_RATE:
    case KEY_SET_SCAN_SET:
        s->key_command = command;
        queue_put(&s->replies, KEY_ACK);
        break;
    case KEY_ECHO:
        queue_put(&s->replies, KEY_ECHO);
        break;
    case KEY_IDENTIFY:
        queue_put(&s->replies, KEY_ACK);
        queue_put(&s->replies, 0xab);
        queue_put(&s->replies, 0x83);
        break;
    case KEY_ENABLE:
        s->scanning = true;
        queue_put(&s->replies, KEY_ACK);
        break;
    case KEY_DISABLE:
    case KEY_DEFAULTS:
        keyboard_defaults(s);
        s->scanning = command == KEY_DEFAULTS;
        queue_put(&s->replies, KEY_ACK);
        break;
    case KEY_RESEND:
        queue_put(&s->replies, s->last_sent);
        break;
    case KEY_RESET:
        keyboard_defaults(s);
        s->scanning = true;
        s->leds = 0;
        s->replies.count = 0;
        queue_put(&s->replies, KEY_ACK);
        queue_put(&s->replies, KEY_PASSED);
        break;
    default:
        queue_put(&s->replies, KEY_RESEND);
        break;
    }
}

static void keyboard_write(struct i8042_state *s, uint8_t value)
{
    /* A byte above 0xec is a command even where a parameter was due. */
    if (s->key_command != 0 && value < KEY_SET_LEDS) {
        keyboard_parameter(s, value);
    } else {
        s->key_command = 0;
        keyboard_command(s, value);
    }
}

int i8042_key(struct device *device, unsigned key, bool down)
{
    struct i8042_state *s = &i8042_of(device)->s;
    uint8_t bytes[I8042_KEY_BYTES];
    int count, rc = 0;

    pthread_mutex_lock(&device->lock);
    count = i8042_key_encode(key, down, s->scan_set, bytes);
    if (count < 0) {
        rc = count;
    } else if (!s->scanning) {
        rc = -ENODEV;
    } else if (count > KEY_BUFFER - s->scans.count) {
        rc = -EAGAIN;
    } else {
        for (int i = 0; i < count; i++) {
            queue_put(&s->scans, bytes[i]);
        }
        i8042_pull(i8042_of(device));
    }
    pthread_mutex_unlock(&device->lock);
    return rc;
}

uint8_t i8042_leds(struct device *device)
{
    uint8_t leds;

    pthread_mutex_lock(&device->lock);
    leds = i8042_of(device)->s.leds;
    pthread_mutex_unlock(&device->lock);
    return leds;
}

/* ---- The controller
 * --------------------------------------------------------------------- */

static void i8042_write_output_port(struct i8042 *kbc, uint8_t value)
{
    kbc->s.output_port = value;
    if ((value & OUTPUT_NOT_RESET) == 0) {
        device_event(&kbc->device, DEVICE_EVENT_RESET, 0);
    }
}

/* Commands that only ask for something that never changes. */
static const struct {
    uint8_t command, answer;
} i8042_answers[] = {
    { CMD_PASSWORD_TEST, 0xf1 }, /* no password */
    { CMD_AUX_TEST, 0x01 },      /* clock line stuck low */
    { CMD_KEYBOARD_TEST, 0x00 }, /* fine */
    { CMD_READ_INPUT, 0x80 },    /* keyboard not locked */
    { CMD_READ_TEST, 0x00 },
};

static void i8042_command(struct i8042 *kbc, uint8_t command)
{
    struct i8042_state *s = &kbc->s;

    s->command = 0;
    if (command >= CMD_PULSE) {
        /* The bits that are 0 pulse their line low; line 0 is the processor's reset. */
        if ((command & OUTPUT_NOT_RESET) == 0) {
            device_event(&kbc->device, DEVICE_EVENT_RESET, command);
        }
        return;
    }
    if ((command & 0xe0) == CMD_READ_RAM) {
        i8042_reply(kbc, command == CMD_READ_RAM ? s->ctr : s->ram[command & 0x1f]);
        return;
    }
    if ((command & 0xe0) == CMD_WRITE_RAM) {
        s->command = command;
        return;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(i8042_answers); i++) {
        if (i8042_answers[i].command == command) {
            i8042_reply(kbc, i8042_answers[i].answer);
        }
    }
    switch (command) {
    case CMD_WRITE_OUTPUT:
    case CMD_KEYBOARD_LOOP:
    case CMD_AUX_LOOP:
    case CMD_AUX_SEND:
        s->command = command;
        break;
    case CMD_AUX_DISABLE:
        s->ctr |= CTR_AUX_OFF;
        break;
    case CMD_AUX_ENABLE:
        s->ctr &= (uint8_t)~CTR_AUX_OFF;
        break;
    case CMD_SELF_TEST:
        s->ctr |= CTR_SYSTEM;
        i8042_reply(kbc, 0x55);
        break;
    case CMD_KEYBOARD_DISABLE:
        s->ctr |= CTR_KEYBOARD_OFF;
        break;
    case CMD_KEYBOARD_ENABLE:
        s->ctr &= (uint8_t)~CTR_KEYBOARD_OFF;
        break;
    case CMD_READ_OUTPUT:
        i8042_reply(kbc, s->output_port | (s->full ? 0x10 : 0));
        break;
    default:
        break;
    }
}

static void i8042_parameter(struct i8042 *kbc, uint8_t value)
{
    struct i8042_state *s = &kbc->s;
    uint8_t command = s->command;

    s->command = 0;
    switch (command) {
    case CMD_WRITE_RAM:
        s->ctr = value;
        break;
    case CMD_WRITE_OUTPUT:
        i8042_write_output_port(kbc, value);
        break;
    case CMD_KEYBOARD_LOOP:
        i8042_output(kbc, value, 0, true);
        break;
    case CMD_AUX_LOOP:
        i8042_reply(kbc, value);
        break;
    case CMD_AUX_SEND:
        i8042_output(kbc, KEY_RESEND, STATUS_AUX | STATUS_TIMEOUT, false);
        break;
    default:
        s->ram[command & 0x1f] = value;
        break;
    }
}

static uint64_t i8042_read(struct device *device, unsigned region, uint64_t offset,
                           unsigned size)
{
    struct i8042 *kbc = i8042_of(device);
    struct i8042_state *s = &kbc->s;
    uint8_t value = s->data;

    switch (region) {
    case I8042_REGION_DATA:
        s->full = false;
        s->flags = 0;
        /* Low for a moment even if the next byte is there: the pin is edge-triggered. */
        irq_line_set(&kbc->irq, false);
        i8042_pull(kbc);
        return value;
    case I8042_REGION_COMMAND:
        return (s->full ? STATUS_OUTPUT_FULL : 0) | s->flags | STATUS_UNLOCKED |
               ((s->ctr & CTR_SYSTEM) != 0 ? STATUS_SYSTEM : 0) |
               (s->command_last ? STATUS_COMMAND : 0);
    default:
        return s->output_port & OUTPUT_A20;
    }
}

static void i8042_write(struct device *device, unsigned region, uint64_t offset,
                        unsigned size, uint64_t value)
{
    struct i8042 *kbc = i8042_of(device);
    struct i8042_state *s = &kbc->s;

    switch (region) {
    case I8042_REGION_DATA:
        s->command_last = false;
        if (s->command != 0) {
            i8042_parameter(kbc, (uint8_t)value);
        } else {
            s->ctr &= (uint8_t)~CTR_KEYBOARD_OFF; /* sending to it enables it */
            keyboard_write(s, (uint8_t)value);
        }
        break;
    case I8042_REGION_COMMAND:
        s->command_last = true;
        i8042_command(kbc, (uint8_t)value);
        break;
    default:
        s->output_port = (uint8_t)((s->output_port & ~OUTPUT_A20) | (value & OUTPUT_A20));
        if ((value & 1) != 0) {
            device_event(device, DEVICE_EVENT_RESET, 0);
        }
        break;
    }
    i8042_pull(kbc);
}

/* ---- Life
 * ------------------------------------------------------------------------------- */

static void i8042_reset(struct device *device)
{
    struct i8042 *kbc = i8042_of(device);

    kbc->s = (struct i8042_state){
        .ctr = CTR_KEYBOARD_IRQ | CTR_SYSTEM | CTR_AUX_OFF | CTR_TRANSLATE,
        .output_port = OUTPUT_IDLE | OUTPUT_A20 | OUTPUT_NOT_RESET,
        .scanning = true,
        .scan_set = 2,
        .rate = RATE_DEFAULT,
        .last_sent = KEY_PASSED,
    };
    i8042_pull(kbc);
}

static void queue_save(struct state_writer *writer, const char *field,
                       const struct byte_queue *queue)
{
    uint8_t bytes[KEY_BUFFER];

    for (unsigned i = 0; i < queue->count; i++) {
        bytes[i] = queue->bytes[(queue->start + i) % KEY_BUFFER];
    }
    state_put_bytes(writer, field, bytes, queue->count);
}

static void queue_load(struct state_reader *reader, const char *field,
                       struct byte_queue *queue)
{
    size_t count;
    const uint8_t *bytes = state_get_blob(reader, field, KEY_BUFFER, &count);

    for (size_t i = 0; i < count; i++) {
        queue_put(queue, bytes[i]);
    }
}

static int i8042_save(struct device *device, struct state_writer *writer)
{
    const struct i8042_state *s = &i8042_of(device)->s;
    const uint8_t registers[] = { s->ctr,          s->output_port,   s->command,
                                  s->command_last, s->full,          s->data,
                                  s->flags,        s->from_keyboard, s->break_prefix,
                                  s->key_command,  s->scanning,      s->scan_set,
                                  s->leds,         s->rate,          s->last_sent };

    state_begin(writer, device->id, 1);
    state_put_bytes(writer, "registers", registers, sizeof(registers));
    state_put_bytes(writer, "ram", s->ram, sizeof(s->ram));
    queue_save(writer, "replies", &s->replies);
    queue_save(writer, "scans", &s->scans);
    state_end(writer);
    return 0;
}

static int i8042_load(struct device *device, struct state_reader *reader)
{
    struct i8042 *kbc = i8042_of(device);
    struct i8042_state s = { 0 };
    uint8_t r[15];
    int rc = state_open(reader, device->id, 1, NULL);

    if (rc < 0) {
        return rc;
    }
    state_get_bytes(reader, "registers", r, sizeof(r));
    state_get_bytes(reader, "ram", s.ram, sizeof(s.ram));
    queue_load(reader, "replies", &s.replies);
    queue_load(reader, "scans", &s.scans);
    rc = state_reader_error(reader, NULL);
    if (rc < 0) {
        return rc;
    }
    s.ctr = r[0];
    s.output_port = r[1];
    s.command = r[2];
    s.command_last = r[3] != 0;
    s.full = r[4] != 0;
    s.data = r[5];
    s.flags = r[6] & (STATUS_AUX | STATUS_TIMEOUT);
    s.from_keyboard = r[7] != 0;
    s.break_prefix = r[8] != 0;
    s.key_command = r[9];
    s.scanning = r[10] != 0;
    s.scan_set = r[11] == 1 ? 1 : 2;
    s.leds = r[12] & 7;
    s.rate = r[13] & 0x7f;
    s.last_sent = r[14];
    kbc->s = s;
    i8042_pull(kbc);
    return 0;
}

static void i8042_destroy(struct device *device)
{
    struct i8042 *kbc = i8042_of(device);

    irq_line_set(&kbc->irq, false);
    device_fini(device);
    free(kbc);
}

static const struct device_ops i8042_ops = {
    .type = "i8042",
    .read = i8042_read,
    .write = i8042_write,
    .reset = i8042_reset,
    .save = i8042_save,
    .load = i8042_load,
    .destroy = i8042_destroy,
};

int i8042_create(const struct device_env *env, const struct i8042_config *config,
                 struct device **device, struct umbra_error *error)
{
    struct i8042 *kbc = calloc(1, sizeof(*kbc));

    if (kbc == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s",
                           config->id);
    }
    device_init(&kbc->device, &i8042_ops, env, config->id);
    device_irq_init(&kbc->device, &kbc->irq, config->gsi);
    i8042_reset(&kbc->device);
    *device = &kbc->device;
    return 0;
}
