/* SPDX-License-Identifier: MIT */
/*
 * Suffers planned faults and tells what it saw. Words: disk=N (reads of 4 KiB, one at a
 * time), write=1 (writes instead), wait=N (for interrupts, at the end), quiet=1 (say only
 * what is wrong), random=N (requests of 64 bytes), memory=ADDRESS (a page is used, a byte to
 * port 0xe9, and looked at until it is back), clock=1 (clocks before and after a byte to port
 * 0xe9).
 */
#include "virtio.h"

#include "vmm/guest/ports.h"

#define BLOCK  4096
#define FILLER 0xa5
#define MANY   64

struct result {
    uint8_t status;
    uint32_t length, moved, bits;
};

static struct virtio device;
static struct ring ring;
static struct ring_memory ring_memory __attribute__((aligned(4096)));
static struct result results[MANY];
static uint64_t count, random_count;
static bool writing;
static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header;
static uint8_t status;
static uint8_t data[BLOCK] __attribute__((aligned(4096)));

/* How many bytes lost their filler, and how many bits are set in those. */
static void look(struct result *r, unsigned size)
{
    unsigned i;

    r->moved = r->bits = 0;
    for (i = 0; i < size && data[i] != FILLER; i++) {
        uint8_t v = data[i];

        r->moved++;
        for (; v; v &= (uint8_t)(v - 1))
            r->bits++;
    }
}

static uint64_t one(struct result *r, unsigned readable, unsigned writable,
                    const struct ring_buffer *buffers)
{
    unsigned id;

    if (ring_add(&ring, buffers, readable, writable) < 0)
        return 0;
    ring_kick(&ring);
    return ring_wait(&ring, &id, &r->length, 20000000000ull);
}

static uint64_t disk(void *argument)
{
    uint64_t done;

    for (done = 0; done < count; done++) {
        const struct ring_buffer buffers[3] = { { &header, sizeof(header) },
                                                { data, BLOCK },
                                                { &status, 1 } };

        memset(data, writing ? 0 : FILLER, sizeof(data));
        header.type = writing;
        header.sector = done * (BLOCK / 512);
        status = 0xff;
        if (!one(&results[done], writing ? 2 : 1, writing ? 1 : 2, buffers))
            return done;
        results[done].status = status;
        look(&results[done], BLOCK);
    }
    return done;
}

static uint64_t rng(void *argument)
{
    uint64_t done;

    for (done = 0; done < count; done++) {
        const struct ring_buffer buffer = { data, 64 };

        if (!one(&results[done], 0, 1, &buffer))
            return done;
    }
    return done;
}

static void begin(unsigned type)
{
    if (!virtio_find(&device, type, 0))
        guest_fail("no virtio device of type %u", type);
    CHECK(virtio_begin(&device, 0));
    CHECK(virtio_queue(&device, 0, &ring, &ring_memory, 16));
    virtio_ready(&device);
    interrupts_on();
}

static uint64_t number(const char *word)
{
    uint64_t value = 0;

    if (boot_option(word))
        CHECK(number_parse(boot_option(word), &value));
    return value;
}

static unsigned interrupts(void)
{
    return interrupt_counts[VIRTIO_VECTOR] + interrupt_counts[VIRTIO_CONFIG_VECTOR];
}

static void requests(uint64_t (*work)(void *), bool of_disk)
{
    unsigned i;

    CHECK(count <= MANY);
    if (user_run(work, NULL, NULL) != count)
        guest_fail("a request was not answered");
    for (i = 0; i < count; i++) {
        if (number("quiet") && results[i].status == 0 && results[i].bits == 0)
            continue;
        if (of_disk)
            print("request %u status %u length %u moved %u bits %u\n", i + 1,
                  results[i].status, results[i].length, results[i].moved,
                  results[i].bits);
        else
            print("request %u length %u\n", i + 1, results[i].length);
    }
    while (interrupts() < number("wait") && time_us() < 60000000)
        cpu_pause();
    time_delay(20000);
    if (!number("quiet"))
        print("interrupts %u\n", interrupts());
    CHECK(!(virtio_status(&device) & VIRTIO_NEEDS_RESET));
}

/* ---- Memory ----------------------------------------------------------------------------- */

static void memory(uint64_t address)
{
    uint64_t *page = (uint64_t *)address, start = time_us();

    *page = UINT64_C(0x1122334455667788);
    page[512] = 1; /* the next page; those behind it later */
    out8(DEBUGCON_PORT, 'm');
    print("memory %lx\n", *(volatile uint64_t *)page);
    *(volatile uint64_t *)page = 0; /* vanishes */
    page[1024] = 2;
    print("waiting\n");
    while (*(volatile uint64_t *)page == UINT64_MAX)
        if (time_us() - start > 60000000)
            guest_fail("memory does not come back");
    page[1536] = 3;
    print("memory %lx\n", *(volatile uint64_t *)page);
}

/* ---- Clocks ----------------------------------------------------------------------------- */

#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01

static volatile struct {
    uint32_t version, pad;
    uint64_t tsc, time;
    uint32_t scale;
    int8_t shift;
    uint8_t flags, pad2[2];
} pvclock __attribute__((aligned(64)));

static uint64_t kvm_clock(void)
{
    uint64_t delta, time;
    uint32_t version;

    do {
        version = pvclock.version;
        __asm__ volatile("" ::: "memory");
        delta = tsc_read() - pvclock.tsc;
        delta = pvclock.shift < 0 ? delta >> -pvclock.shift : delta << pvclock.shift;
        time = pvclock.time + (uint64_t)((unsigned __int128)delta * pvclock.scale >> 32);
        __asm__ volatile("" ::: "memory");
    } while ((version & 1) || version != pvclock.version);
    return time;
}

static uint64_t rtc_seconds(void)
{
    static const uint16_t before[] = { 0,   31,  59,  90,  120, 151,
                                       181, 212, 243, 273, 304, 334 };
    struct rtc_time t;
    uint64_t days;

    CHECK(rtc_read(&t));
    days = (t.year - 1970) * 365ull + (t.year - 1969) / 4 + before[t.month - 1] + t.day -
           1 + (t.month > 2 && t.year % 4 == 0);
    return ((days * 24 + t.hour) * 60 + t.minute) * 60 + t.second;
}

static void clocks(void)
{
    uint64_t rtc, tsc, kvm;

    msr_write(MSR_KVM_SYSTEM_TIME_NEW, (uint64_t)&pvclock | 1);
    rtc = rtc_seconds();
    kvm = kvm_clock();
    tsc = tsc_read();
    out8(DEBUGCON_PORT, 'c');
    /* The VM stands still for a jump soon, not at once. */
    while (kvm_clock() - kvm < 1000000000 && tsc_read() - tsc < tsc_hz)
        ;
    tsc = tsc_read() - tsc;
    kvm = kvm_clock() - kvm;
    rtc = rtc_seconds() - rtc;
    /* Whole seconds: what the interpreter takes for this is no matter. */
    print("rtc %lu s\nkvm %lu s\ntsc %lu s\n", rtc, kvm / 1000000000, tsc / tsc_hz);
}

int guest_main(int argc, char **argv)
{
    acpi_init();
    time_init();
    count = number("disk");
    writing = number("write") != 0;
    random_count = number("random");
    if (count > 0) {
        begin(VIRTIO_BLOCK);
        requests(disk, true);
    } else if (random_count > 0) {
        count = random_count;
        begin(VIRTIO_RNG);
        requests(rng, false);
    } else if (number("memory") > 0) {
        memory(number("memory"));
    } else if (number("clock") > 0) {
        clocks();
    }
    return EXIT_PASS;
}
