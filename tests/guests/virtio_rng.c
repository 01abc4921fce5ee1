/* SPDX-License-Identifier: MIT */
/* The virtio source of random numbers: its bytes come, by interrupt, and look random. */
#include "virtio.h"

static struct virtio rng;
static struct ring ring;
static struct ring_memory ring_memory __attribute__((aligned(4096)));
static uint8_t bytes[4096];

static uint64_t fill(void *argument)
{
    uint64_t got = 0;
    uint32_t length;
    unsigned id;

    while (got < sizeof(bytes)) {
        struct ring_buffer buffer = { bytes + got, (uint32_t)(sizeof(bytes) - got) };

        if (ring_add(&ring, &buffer, 0, 1) < 0)
            return 0;
        ring_kick(&ring);
        if (!ring_wait(&ring, &id, &length, 2000000000) || !length ||
            length > buffer.size)
            return 0;
        got += length;
    }
    return got;
}

/* Ones among the bits; 16384 +- 6 sigma (90) is right for all but 1 in 10^9 runs. */
static uint64_t ones(void *argument)
{
    uint64_t count = 0, i, b;

    for (i = 0; i < sizeof(bytes); i++)
        for (b = 0; b < 8; b++)
            count += bytes[i] >> b & 1;
    return count;
}

int guest_main(int argc, char **argv)
{
    uint64_t count;

    acpi_init();
    time_init();
    if (!virtio_find(&rng, VIRTIO_RNG, 0))
        guest_fail("there is no virtio-rng");
    CHECK(virtio_begin(&rng, 0));
    CHECK(virtio_queue(&rng, 0, &ring, &ring_memory, 8));
    virtio_ready(&rng);
    interrupts_on();
    CHECK(user_run(fill, NULL, NULL) == sizeof(bytes));
    count = user_run(ones, NULL, NULL);
    print("%lu of %lu bits are one, %u interrupts\n", count, sizeof(bytes) * 8,
          interrupt_counts[VIRTIO_VECTOR] + interrupt_counts[VIRTIO_CONFIG_VECTOR]);
    CHECK(count > 16384 - 543 && count < 16384 + 543);
    CHECK(virtio_interrupted());
    return EXIT_PASS;
}
