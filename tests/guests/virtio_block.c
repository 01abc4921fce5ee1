/* SPDX-License-Identifier: MIT */
/* A virtio disk, driven in ring 3: writes, flushes, reads back and compares. Words: packed,
 * indirect, event (features), size=N (queue entries), depth=N, requests=N, disk=NTH. */
#include "virtio.h"

#define BLOCK    4096
#define MAX_DEEP 64

#define BLK_F_FLUSH 9

struct request {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
    bool busy, write;
    uint64_t block;
    uint64_t data[BLOCK / 8] __attribute__((aligned(64)));
};

static struct virtio disk;
static struct ring ring;
static struct ring_memory ring_memory __attribute__((aligned(4096)));
static struct request requests[MAX_DEEP];
static int owners[RING_MAX]; /* chain id to request */
static uint64_t depth = 16, total = 256, blocks;
static const char *trouble;

static uint64_t pattern(uint64_t block, unsigned word)
{
    uint64_t x = (block << 10 | word) * UINT64_C(0x9e3779b97f4a7c15);

    return x ^ x >> 29;
}

/* A walk over the disk that meets every block once when their number is a power of two. */
static uint64_t nth_block(uint64_t n)
{
    return (n * 5 + 3) % blocks;
}

static bool start(unsigned slot, uint64_t block, bool write)
{
    struct request *r = &requests[slot];
    struct ring_buffer buffers[3];
    unsigned i;
    int id;

    r->header.type = write;
    r->header.sector = block * (BLOCK / 512);
    r->status = 0xff;
    r->block = block;
    r->write = write;
    for (i = 0; i < BLOCK / 8; i++)
        r->data[i] = write ? pattern(block, i) : 0;
    buffers[0] = (struct ring_buffer){ &r->header, sizeof(r->header) };
    buffers[1] = (struct ring_buffer){ r->data, BLOCK };
    buffers[2] = (struct ring_buffer){ &r->status, 1 };
    id = ring_add(&ring, buffers, write ? 2 : 1, write ? 1 : 2);
    if (id < 0)
        return false;
    owners[id] = (int)slot;
    r->busy = true;
    return true;
}

static bool finish(unsigned id, uint32_t length)
{
    struct request *r;
    unsigned i;

    if (id >= RING_MAX || owners[id] < 0 || !requests[owners[id]].busy) {
        trouble = "a chain came back that was not out";
        return false;
    }
    r = &requests[owners[id]];
    owners[id] = -1;
    r->busy = false;
    if (r->status != 0)
        trouble = "a request failed";
    else if (length != (r->write ? 1u : BLOCK + 1u))
        trouble = "a wrong used length";
    for (i = 0; !trouble && !r->write && i < BLOCK / 8; i++)
        if (r->data[i] != pattern(r->block, i))
            trouble = "wrong data";
    return !trouble;
}

static int idle_slot(void)
{
    unsigned i;

    for (i = 0; i < depth; i++)
        if (!requests[i].busy)
            return (int)i;
    return -1;
}

/* @argument: not NULL to write. Returns the number of requests done. */
static uint64_t transfer(void *argument)
{
    uint64_t sent = 0, done = 0;
    uint32_t length;
    unsigned id;
    int slot;

    while (done < total) {
        while (sent < total && (slot = idle_slot()) >= 0 &&
               start((unsigned)slot, nth_block(sent), argument != NULL))
            sent++;
        ring_kick(&ring);
        if (!ring_wait(&ring, &id, &length, 2000000000)) {
            trouble = "no answer";
            return done;
        }
        do {
            if (!finish(id, length))
                return done;
            done++;
        } while (ring_take(&ring, &id, &length));
    }
    return done;
}

static uint64_t flush(void *argument)
{
    struct request *r = &requests[0];
    struct ring_buffer buffers[2] = { { &r->header, sizeof(r->header) },
                                      { &r->status, 1 } };
    uint32_t length;
    unsigned id;

    r->header.type = 4;
    r->header.sector = 0;
    r->status = 0xff;
    ring_add(&ring, buffers, 1, 1);
    ring_kick(&ring);
    return ring_wait(&ring, &id, &length, 2000000000) && r->status == 0;
}

static void run(const char *name, void *write)
{
    uint64_t from = time_us(), done = user_run(transfer, write, NULL);

    from = time_us() - from;
    if (trouble)
        guest_fail("%s: %s after %lu of %lu, device status %x", name, trouble, done,
                   total, virtio_status(&disk));
    print("%s: %lu blocks in %lu us, %lu kicks, %lu saved, %u interrupts\n", name, done,
          from, ring.kicks, ring.kicks_saved, interrupt_counts[VIRTIO_VECTOR]);
}

int guest_main(int argc, char **argv)
{
    uint64_t wanted = FEATURE(BLK_F_FLUSH), size = 128, nth = 0;

    acpi_init();
    time_init();
    wanted |= boot_word("packed") ? FEATURE(VIRTIO_F_PACKED) : 0;
    wanted |= boot_word("indirect") ? FEATURE(VIRTIO_F_INDIRECT) : 0;
    wanted |= boot_word("event") ? FEATURE(VIRTIO_F_EVENT_INDEX) : 0;
    if (boot_option("size"))
        CHECK(number_parse(boot_option("size"), &size));
    if (boot_option("depth"))
        CHECK(number_parse(boot_option("depth"), &depth) && depth && depth <= MAX_DEEP);
    if (boot_option("requests"))
        CHECK(number_parse(boot_option("requests"), &total));
    if (boot_option("disk"))
        CHECK(number_parse(boot_option("disk"), &nth));
    if (!virtio_find(&disk, VIRTIO_BLOCK, (unsigned)nth))
        guest_fail("there is no such disk");
    CHECK(virtio_begin(&disk, wanted));
    CHECK((disk.features & wanted) == (virtio_offered(&disk) & wanted));
    CHECK(!boot_word("packed") || disk.features >> VIRTIO_F_PACKED & 1);
    CHECK(virtio_queue(&disk, 0, &ring, &ring_memory, (unsigned)size));
    virtio_ready(&disk);
    blocks = virtio_config64(&disk, 0) * 512 / BLOCK;
    print("%s, %lu KiB, features %lx, queue of %u\n", disk.mmio ? "mmio" : "pci",
          blocks * BLOCK / 1024, disk.features, ring.size);
    CHECK(blocks >= 16);
    total = total < blocks ? total : blocks;
    memset(owners, 0xff, sizeof(owners));
    interrupts_on();
    run("write", &disk);
    if (disk.features & wanted & FEATURE(BLK_F_FLUSH))
        CHECK(user_run(flush, NULL, NULL) == 1);
    run("read", NULL);
    CHECK(virtio_interrupted());
    CHECK(!(virtio_status(&disk) & VIRTIO_NEEDS_RESET));
    return EXIT_PASS;
}
