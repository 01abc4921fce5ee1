/* SPDX-License-Identifier: MIT */
/* Measures a virtio disk from ring 3, one line a row: kind, request size, queue depth,
 * operations, microseconds, doorbells, interrupts. Words: ms=N time for each row (300),
 * packed, indirect, event (features), irq (leave interrupts on), row=NAME (that one only).
 * Wants 128 MiB of RAM and destroys the disk's contents. */
#include "virtio.h"

#define BUFFERS     0x4000000 /* 64 MiB: RAM that nobody else uses */
#define MAX_DEPTH   32
#define MAX_SIZE    0x100000
#define QUEUE_SIZE  128
#define SECTOR      512
#define BLOCK_FLUSH 9 /* without it every write is flushed */

struct slot {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
};

static const struct row {
    const char *name;
    uint32_t type, size, depth;
    bool random;
} rows[] = {
    { "randread-4k-1", 0, 4096, 1, true },     { "randread-4k-32", 0, 4096, 32, true },
    { "randwrite-4k-1", 1, 4096, 1, true },    { "randwrite-4k-32", 1, 4096, 32, true },
    { "seqread-1m-4", 0, 0x100000, 4, false }, { "seqwrite-1m-4", 1, 0x100000, 4, false },
};

static struct virtio disk;
static struct ring ring;
static struct ring_memory ring_memory __attribute__((aligned(4096)));
static struct slot slots[MAX_DEPTH];
static unsigned owner[RING_MAX];
static uint64_t disk_bytes, row_ticks, random_state = 88172645463325252u;
static uint64_t done, ticks;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static bool submit(const struct row *row, unsigned i, uint64_t number)
{
    uint64_t places = disk_bytes / row->size;
    uint64_t place = (row->random ? random_next() : number) % places;
    struct ring_buffer buffers[3] = {
        { &slots[i].header, sizeof(slots[i].header) },
        { (void *)(BUFFERS + (uint64_t)i * MAX_SIZE), row->size },
        { &slots[i].status, 1 },
    };
    int id;

    slots[i].header.type = row->type;
    slots[i].header.sector = place * row->size / SECTOR;
    slots[i].status = 0xff;
    id = ring_add(&ring, buffers, row->type ? 2 : 1, row->type ? 1 : 2);
    if (id < 0)
        return false;
    owner[id] = i;
    return true;
}

/* Keep the queue at its depth until the time is over, then drain it. */
static uint64_t run_row(void *argument)
{
    const struct row *row = argument;
    uint64_t sent = 0, from = tsc_read();
    uint32_t length;
    unsigned id;

    for (done = 0; sent < row->depth; sent++)
        if (!submit(row, (unsigned)sent, sent))
            return 0;
    ring_kick(&ring);
    while (done < sent) {
        bool more = tsc_read() - from < row_ticks, added = false;

        if (!ring_wait(&ring, &id, &length, 2000000000))
            return 0;
        do {
            if (id >= RING_MAX || slots[owner[id]].status != 0)
                return 0;
            done++;
            if (more) {
                if (!submit(row, owner[id], sent++))
                    return 0;
                added = true;
            }
        } while (ring_take(&ring, &id, &length));
        if (added)
            ring_kick(&ring);
    }
    ticks = tsc_read() - from;
    return 1;
}

static uint64_t touch_buffers(void *argument)
{
    uint64_t at;

    for (at = BUFFERS; at < BUFFERS + (uint64_t)MAX_DEPTH * MAX_SIZE; at += 8)
        *(volatile uint64_t *)at = random_next();
    return 0;
}

static void measure(const struct row *row)
{
    uint64_t kicks = ring.kicks, us;
    unsigned interrupts = interrupt_counts[VIRTIO_VECTOR];

    if (user_run(run_row, (void *)(uint64_t)row, NULL) != 1)
        guest_fail("%s: a request failed", row->name);
    us = ticks / (tsc_hz / 1000000);
    print("%-16s size %u depth %u ops %lu us %lu kicks %lu interrupts %u iops %lu\n",
          row->name, row->size, row->depth, done, us, ring.kicks - kicks,
          interrupt_counts[VIRTIO_VECTOR] - interrupts, done * 1000000 / (us ? us : 1));
}

int guest_main(int argc, char **argv)
{
    const char *only = boot_option("row");
    uint64_t wanted = FEATURE(BLOCK_FLUSH), ms = 300;
    unsigned i;

    acpi_init();
    time_init();
    wanted |= boot_word("packed") ? FEATURE(VIRTIO_F_PACKED) : 0;
    wanted |= boot_word("indirect") ? FEATURE(VIRTIO_F_INDIRECT) : 0;
    wanted |= boot_word("event") ? FEATURE(VIRTIO_F_EVENT_INDEX) : 0;
    if (boot_option("ms"))
        CHECK(number_parse(boot_option("ms"), &ms));
    CHECK(boot_ram_size() >= 127 << 20);
    if (!virtio_find(&disk, VIRTIO_BLOCK, 0))
        guest_fail("there is no virtio disk");
    CHECK(virtio_begin(&disk, wanted));
    CHECK(virtio_queue(&disk, 0, &ring, &ring_memory, QUEUE_SIZE));
    virtio_ready(&disk);
    disk_bytes = virtio_config64(&disk, 0) * SECTOR;
    CHECK(disk_bytes >= MAX_SIZE);
    row_ticks = tsc_hz / 1000 * ms;
    user_run(touch_buffers, NULL, NULL);
    ring_interrupts(&ring, boot_word("irq"));
    for (i = 0; i < ARRAY_SIZE(rows); i++)
        if (!only || strcmp(only, rows[i].name) == 0)
            measure(&rows[i]);
    return EXIT_PASS;
}
