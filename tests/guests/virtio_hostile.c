/* SPDX-License-Identifier: MIT */
/* A driver that breaks every rule of the ring: each time the device must ask for a reset,
 * by interrupt, and work again after it. */
#include "virtio.h"

#define SIZE    8
#define OUTSIDE 0xd8000000 /* no RAM ever: the PCI window */

static struct virtio rng;
static struct ring ring;
static struct ring_memory memory __attribute__((aligned(4096)));
static uint8_t bytes[256];

/* ---- Split ---------------------------------------------------------------------------- */

static void desc(unsigned i, uint64_t address, uint32_t length, unsigned flags,
                 unsigned next)
{
    memory.desc.split[i] =
        (struct ring_desc){ address, length, (uint16_t)flags, (uint16_t)next };
}

static void good(unsigned i, unsigned flags, unsigned next)
{
    desc(i, (uint64_t)bytes, sizeof(bytes), DESC_WRITE | flags, next);
}

static void offer(uint16_t head, uint16_t index)
{
    memory.driver.avail.entries[0] = head;
    __atomic_store_n(&memory.driver.avail.index, index, __ATOMIC_RELEASE);
}

static void head_outside(void)
{
    offer(0xffff, 1);
}

static void index_ahead(void)
{
    good(0, 0, 0);
    offer(0, SIZE + 1);
}

static void loop_of_one(void)
{
    good(0, DESC_NEXT, 0);
    offer(0, 1);
}

static void loop_of_two(void)
{
    good(0, DESC_NEXT, 1);
    good(1, DESC_NEXT, 0);
    offer(0, 1);
}

static void next_outside(void)
{
    good(0, DESC_NEXT, 999);
    offer(0, 1);
}

static void address_outside(void)
{
    desc(0, OUTSIDE, 64, DESC_WRITE, 0);
    offer(0, 1);
}

static void address_wraps(void)
{
    desc(0, UINT64_C(0xfffffffffffff000), 0x2000, DESC_WRITE, 0);
    offer(0, 1);
}

static void length_zero(void)
{
    desc(0, (uint64_t)bytes, 0, DESC_WRITE, 0);
    offer(0, 1);
}

static void wrong_order(void)
{
    good(0, DESC_NEXT, 1);
    desc(1, (uint64_t)bytes, 16, 0, 0);
    offer(0, 1);
}

static void table(unsigned length, uint64_t address, unsigned flags)
{
    desc(0, address, length, DESC_INDIRECT | flags, 1);
    good(1, 0, 0);
    offer(0, 1);
}

static void table_entry(unsigned i, unsigned flags, unsigned next)
{
    memory.indirect[0][i] =
        (struct ring_desc){ (uint64_t)bytes, 16, (uint16_t)(DESC_WRITE | flags),
                            (uint16_t)next };
}

static void table_good(void)
{
    table_entry(0, 0, 0);
    table(16, (uint64_t)memory.indirect[0], 0);
}

static void table_length(void)
{
    table(17, (uint64_t)memory.indirect[0], 0);
}

static void table_empty(void)
{
    table(0, (uint64_t)memory.indirect[0], 0);
}

static void table_outside(void)
{
    table(32, OUTSIDE, 0);
}

static void table_linked(void)
{
    table_entry(0, 0, 0);
    table(16, (uint64_t)memory.indirect[0], DESC_NEXT);
}

static void table_nested(void)
{
    table_entry(0, DESC_INDIRECT, 0);
    table(16, (uint64_t)memory.indirect[0], 0);
}

static void table_next(void)
{
    table_entry(0, DESC_NEXT, 7);
    table(32, (uint64_t)memory.indirect[0], 0);
}

static void table_loop(void)
{
    table_entry(0, DESC_NEXT, 1);
    table_entry(1, DESC_NEXT, 0);
    table(32, (uint64_t)memory.indirect[0], 0);
}

/* ---- Packed --------------------------------------------------------------------------- */

static void packed(unsigned i, uint64_t address, uint32_t length, unsigned flags)
{
    struct ring_packed_desc *d = &memory.desc.packed[i];

    d->address = address;
    d->length = length;
    d->id = 0;
    __atomic_store_n(&d->flags, (uint16_t)(flags | DESC_AVAIL), __ATOMIC_RELEASE);
}

static void packed_outside(void)
{
    packed(0, OUTSIDE, 64, DESC_WRITE);
}

static void packed_zero(void)
{
    packed(0, (uint64_t)bytes, 0, DESC_WRITE);
}

static void packed_endless(void)
{
    unsigned i;

    for (i = SIZE; i-- > 0;)
        packed(i, (uint64_t)bytes, 16, DESC_WRITE | DESC_NEXT);
}

static void packed_order(void)
{
    packed(1, (uint64_t)bytes, 16, 0);
    packed(0, (uint64_t)bytes, 16, DESC_WRITE | DESC_NEXT);
}

static void packed_table(void)
{
    packed(0, OUTSIDE, 32, DESC_INDIRECT);
}

static void packed_linked(void)
{
    packed(1, (uint64_t)bytes, 16, DESC_WRITE);
    packed(0, (uint64_t)memory.indirect[0], 16, DESC_INDIRECT | DESC_NEXT);
}

static const struct poison {
    const char *name;
    void (*write)(void);
    uint64_t features;
} poisons[] = {
    { "head outside the table", head_outside, 0 },
    { "index ahead of the ring", index_ahead, 0 },
    { "loop of one", loop_of_one, 0 },
    { "loop of two", loop_of_two, 0 },
    { "link outside the table", next_outside, 0 },
    { "address outside RAM", address_outside, 0 },
    { "address that wraps", address_wraps, 0 },
    { "length zero", length_zero, 0 },
    { "readable after writable", wrong_order, 0 },
    { "table not negotiated", table_good, 0 },
    { "table of bad length", table_length, FEATURE(VIRTIO_F_INDIRECT) },
    { "table of no length", table_empty, FEATURE(VIRTIO_F_INDIRECT) },
    { "table outside RAM", table_outside, FEATURE(VIRTIO_F_INDIRECT) },
    { "table and a link", table_linked, FEATURE(VIRTIO_F_INDIRECT) },
    { "table in a table", table_nested, FEATURE(VIRTIO_F_INDIRECT) },
    { "link outside a table", table_next, FEATURE(VIRTIO_F_INDIRECT) },
    { "loop in a table", table_loop, FEATURE(VIRTIO_F_INDIRECT) },
    { "packed: outside RAM", packed_outside, FEATURE(VIRTIO_F_PACKED) },
    { "packed: length zero", packed_zero, FEATURE(VIRTIO_F_PACKED) },
    { "packed: endless chain", packed_endless, FEATURE(VIRTIO_F_PACKED) },
    { "packed: wrong order", packed_order, FEATURE(VIRTIO_F_PACKED) },
    { "packed: no table", packed_table, FEATURE(VIRTIO_F_PACKED) },
    { "packed: table outside", packed_table,
      FEATURE(VIRTIO_F_PACKED) | FEATURE(VIRTIO_F_INDIRECT) },
    { "packed: table and link", packed_linked,
      FEATURE(VIRTIO_F_PACKED) | FEATURE(VIRTIO_F_INDIRECT) },
};

static bool wait_needs_reset(unsigned ms)
{
    uint64_t until = time_us() + ms * 1000ull;

    while (time_us() < until)
        if (virtio_status(&rng) & VIRTIO_NEEDS_RESET)
            return true;
    return false;
}

static void set_up(uint64_t features)
{
    CHECK(virtio_begin(&rng, features));
    CHECK((rng.features & features) == features);
    CHECK(virtio_queue(&rng, 0, &ring, &memory, SIZE));
    virtio_ready(&rng);
}

static uint64_t request(void *argument)
{
    struct ring_buffer buffer = { bytes, sizeof(bytes) };
    uint32_t length;
    unsigned id;

    if (ring_add(&ring, &buffer, 0, 1) < 0)
        return 0;
    ring_kick_always(&ring);
    return ring_wait(&ring, &id, &length, 2000000000) && length > 0;
}

/* After whatever came before, the device works once it is reset. */
static void check_alive(const char *after)
{
    set_up(0);
    if (user_run(request, NULL, NULL) != 1)
        guest_fail("no random numbers after: %s", after);
    CHECK(!(virtio_status(&rng) & VIRTIO_NEEDS_RESET));
}

static void poison(const struct poison *p)
{
    unsigned before;

    set_up(p->features);
    before = interrupt_counts[VIRTIO_CONFIG_VECTOR];
    p->write();
    ring_kick_always(&ring);
    if (!wait_needs_reset(5000))
        guest_fail("not noticed: %s", p->name);
    if (!time_wait_for(&interrupt_counts[VIRTIO_CONFIG_VECTOR], before + 1, 5000))
        guest_fail("no interrupt: %s", p->name);
    interrupts_off();
    check_alive(p->name);
    print("survived: %s\n", p->name);
}

static void ring_outside(uint64_t place, const char *name)
{
    CHECK(virtio_begin(&rng, 0));
    memset(&ring, 0, sizeof(ring));
    ring.size = SIZE;
    virtio_queue_at(&rng, 0, &ring, place, place + 0x1000, place + 0x2000);
    virtio_ready(&rng);
    ring_kick_always(&ring);
    if (!wait_needs_reset(5000))
        guest_fail("not noticed: %s", name);
    check_alive(name);
    print("survived: %s\n", name);
}

/* Features that were not offered are not accepted, queues that are not there have no size,
 * and a doorbell for nothing does nothing. */
static void confuse(void)
{
    CHECK(virtio_begin(&rng, 0));
    virtio_set_status(&rng, 0);
    virtio_set_status(&rng, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    virtio_accept(&rng, virtio_offered(&rng) | UINT64_C(1) << 23);
    virtio_set_status(&rng, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
    CHECK(!(virtio_status(&rng) & VIRTIO_FEATURES_OK));
    CHECK(virtio_queue_max(&rng, 1) == 0 && virtio_queue_max(&rng, 0xffff) == 0);
    set_up(0);
    ring.notify_value = 0x1234;
    ring_kick_always(&ring);
    check_alive("confusion");
    print("survived: confusion\n");
}

int guest_main(int argc, char **argv)
{
    unsigned i;

    acpi_init();
    time_init();
    if (!virtio_find(&rng, VIRTIO_RNG, 0))
        guest_fail("there is no virtio-rng");
    check_alive("nothing");
    for (i = 0; i < ARRAY_SIZE(poisons); i++)
        poison(&poisons[i]);
    ring_outside(OUTSIDE, "ring outside RAM");
    ring_outside(UINT64_C(0xfffffffffffff000), "ring that wraps");
    ring_outside((uint64_t)&memory + 1, "ring not aligned");
    confuse();
    return EXIT_PASS;
}
