/* SPDX-License-Identifier: MIT */
/* Virtio console ports: learns their names, writes lines=N lines to each; with sizes=N the
 * first says N times what size its terminal has; with echo=1 it gives back a line. */
#include "virtio.h"

#define CONSOLE_F_MULTIPORT 1
#define MAX_PORTS           4
#define QUEUE               16

/* struct virtio_console_control, 5.3.6.2 */
enum { DEVICE_READY, DEVICE_ADD, DEVICE_REMOVE, PORT_READY, CONSOLE, RESIZE, OPEN, NAME };

struct control {
    uint32_t id;
    uint16_t event, value;
    char name[56];
};

static struct virtio console;
static struct ring rings[2 * MAX_PORTS + 2];
static struct ring_memory memories[2 * MAX_PORTS + 2] __attribute__((aligned(4096)));
static struct control received[QUEUE];
static char names[MAX_PORTS][64];
static bool open[MAX_PORTS];
static unsigned ports;
static uint64_t lines = 1000, sizes;
static uint16_t terminal[2]; /* columns, rows */
static unsigned resizes;

static unsigned port_queue(unsigned port)
{
    return port ? 2 + 2 * port : 0;
}

static bool wait_one(struct ring *ring, uint32_t *length)
{
    unsigned id;

    return ring_wait(ring, &id, length, 2000000000);
}

static bool say(uint32_t id, unsigned event, unsigned value)
{
    static struct control message;
    struct ring_buffer buffer = { &message, 8 };
    uint32_t length;

    message =
        (struct control){ .id = id, .event = (uint16_t)event, .value = (uint16_t)value };
    if (ring_add(&rings[3], &buffer, 1, 0) < 0)
        return false;
    ring_kick(&rings[3]);
    return wait_one(&rings[3], &length);
}

static bool listen(unsigned slot)
{
    struct ring_buffer buffer = { &received[slot], sizeof(received[slot]) };

    return ring_add(&rings[2], &buffer, 0, 1) == (int)slot;
}

static bool all_open(void)
{
    unsigned i;

    for (i = 0; i < ports; i++)
        if (!open[i] || !names[i][0])
            return false;
    return true;
}

static bool take_control(const struct control *c, uint32_t length)
{
    unsigned size = length > 8 ? length - 8 : 0;

    if (c->id >= ports || length < 8 || size >= sizeof(names[0]))
        return false;
    switch (c->event) {
    case DEVICE_ADD:
        return say(c->id, PORT_READY, 1) && say(c->id, OPEN, 1);
    case NAME:
        memcpy(names[c->id], c->name, size);
        return true;
    case OPEN:
        open[c->id] = c->value == 1;
        return true;
    case RESIZE:
        memcpy(terminal, c->name, sizeof(terminal));
        resizes++;
        return length >= 12;
    default:
        return true;
    }
}

/* One control buffer at a time, so that chain ids are slot numbers: 0. */
static uint64_t shake_hands(void *argument)
{
    uint32_t length;

    if (!listen(0))
        return 0;
    ring_kick(&rings[2]);
    if (!say(0, DEVICE_READY, 1))
        return 0;
    while (!all_open()) {
        if (!wait_one(&rings[2], &length) || !take_control(&received[0], length) ||
            !listen(0))
            return 0;
        ring_kick(&rings[2]);
    }
    return 1;
}

static bool write_bytes(unsigned port, char *text, size_t size)
{
    struct ring *ring = &rings[port_queue(port) + 1];
    struct ring_buffer buffer = { text, (uint32_t)size };
    uint32_t length;

    if (ring_add(ring, &buffer, 1, 0) < 0)
        return false;
    ring_kick(ring);
    return wait_one(ring, &length);
}

static size_t number_text(char *text, uint64_t number)
{
    char digits[20];
    size_t used = 0, count = 0;

    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (count)
        text[used++] = digits[--count];
    return used;
}

static size_t line_make(char *line, const char *name, uint64_t number)
{
    size_t used = 0;

    for (; *name; name++)
        line[used++] = *name;
    memcpy(line + used, " line ", 6);
    used += 6;
    used += number_text(line + used, number);
    line[used++] = '\n';
    return used;
}

static uint64_t write_lines(void *argument)
{
    static char line[128];
    uint64_t i;
    unsigned p;

    for (i = 0; i < lines; i++)
        for (p = 0; p < ports; p++)
            if (!write_bytes(p, line, line_make(line, names[p], i)))
                return 0;
    return 1;
}

static uint64_t follow_sizes(void *argument)
{
    static char line[64] = "size ";
    size_t used;
    uint32_t length;
    unsigned seen;

    for (seen = 0; seen < sizes;) {
        while (resizes == seen) {
            if (!ring_wait(&rings[2], &(unsigned){ 0 }, &length, UINT64_MAX) ||
                !take_control(&received[0], length) || !listen(0))
                return 0;
            ring_kick(&rings[2]);
        }
        seen = resizes;
        used = 5 + number_text(line + 5, terminal[0]);
        line[used++] = ' ';
        used += number_text(line + used, terminal[1]);
        line[used++] = '\n';
        if (!write_bytes(0, line, used))
            return 0;
    }
    return 1;
}

static uint64_t echo_line(void *argument)
{
    static char line[136] = "read <";
    struct ring_buffer buffer;
    size_t used = 6;
    uint32_t length;

    if (!write_bytes(0, "ready\n", 6))
        return 0;
    while (used < 128) {
        buffer = (struct ring_buffer){ line + used, (uint32_t)(128 - used) };
        if (ring_add(&rings[0], &buffer, 0, 1) < 0)
            return 0;
        ring_kick(&rings[0]);
        if (!ring_wait(&rings[0], &(unsigned){ 0 }, &length, UINT64_MAX))
            return 0;
        used += length;
        if (line[used - 1] == '\n')
            break;
    }
    line[used - 1] = '>';
    line[used++] = '\n';
    return write_bytes(0, line, used);
}

int guest_main(int argc, char **argv)
{
    unsigned i;

    acpi_init();
    time_init();
    if (boot_option("lines"))
        CHECK(number_parse(boot_option("lines"), &lines));
    if (!virtio_find(&console, VIRTIO_CONSOLE, 0))
        guest_fail("there is no virtio console");
    CHECK(virtio_begin(&console, FEATURE(CONSOLE_F_MULTIPORT)));
    CHECK(console.features & FEATURE(CONSOLE_F_MULTIPORT));
    ports = virtio_config32(&console, 4);
    CHECK(ports >= 1 && ports <= MAX_PORTS);
    for (i = 0; i < 2 * ports + 2; i++)
        CHECK(virtio_queue(&console, i, &rings[i], &memories[i], QUEUE));
    virtio_ready(&console);
    CHECK(user_run(shake_hands, NULL, NULL) == 1);
    for (i = 0; i < ports; i++)
        print("port %u is %s\n", i, names[i]);
    CHECK(user_run(write_lines, NULL, NULL) == 1);
    if (boot_option("sizes"))
        CHECK(number_parse(boot_option("sizes"), &sizes));
    CHECK(user_run(follow_sizes, NULL, NULL) == 1);
    if (boot_option("echo"))
        CHECK(user_run(echo_line, NULL, NULL) == 1);
    CHECK(!(virtio_status(&console) & VIRTIO_NEEDS_RESET));
    return EXIT_PASS;
}
