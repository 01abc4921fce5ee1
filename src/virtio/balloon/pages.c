/* SPDX-License-Identifier: MIT */
/*
 * The balloon's pages (virtio 1.2, 5.5.6): what the guest lends goes back to the host.
 *
 * Page numbers and ranges come from the guest and are believed only as far as RAM goes.
 * What the guest takes back (deflates) needs nothing: it is there again once touched.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/state.h"
#include "memory/guest_mem.h"
#include "virtio/balloon/balloon.h"

enum {
    BALLOON_BATCH = 1024,            /* page numbers looked at together */
    BALLOON_REQUEST_MAX = 256 << 10, /* bytes of page numbers in one request */
    BALLOON_TURN = 16384,            /* pages and ranges before others get the loop */
    BALLOON_BITS = sizeof(unsigned long) * CHAR_BIT,
};

static bool page_is_inside(const struct virtio_balloon *balloon, uint64_t page)
{
    return page < balloon->page_count &&
           (balloon->inside[page / BALLOON_BITS] >> (page % BALLOON_BITS) & 1) != 0;
}

static void page_mark(struct virtio_balloon *balloon, uint64_t page, bool inside)
{
    unsigned long bit = 1ul << (page % BALLOON_BITS);

    if (inside == page_is_inside(balloon, page)) {
        return;
    }
    balloon->inside[page / BALLOON_BITS] ^= bit;
    balloon->pages_inside += inside ? 1 : UINT64_MAX;
    balloon->deflated += !inside;
}

/* Of @count pages from @page on, how many stand together in one region of RAM; 0: @page is
 * not RAM. */
static uint64_t pages_in_ram(const struct virtio_balloon *balloon, uint64_t page,
                             uint64_t count)
{
    const struct guest_mem *mem = balloon->device.env->mem;
    gpa addr = page << BALLOON_PAGE_SHIFT;
    uint64_t there = guest_mem_span(mem, addr) >> BALLOON_PAGE_SHIFT;

    there = there < count ? there : count;
    return guest_mem_ptr(mem, addr, there << BALLOON_PAGE_SHIFT) != NULL ? there : 0;
}

/* Give [addr, addr + length) of RAM to the host. */
static uint64_t balloon_release(struct virtio_balloon *balloon, gpa addr, uint64_t length)
{
    uint64_t released;
    int ret = guest_mem_release(balloon->device.env->mem, addr, length, &released);

    if (ret < 0) {
        balloon->failures++;
        if (!balloon->failure_said) {
            balloon->failure_said = true;
            log_warning(balloon->device.env->log,
                        "%s: the host does not take memory back: %s", balloon->device.id,
                        strerror(-ret));
        }
    }
    return released;
}

static bool pages_all_inside(const struct virtio_balloon *balloon, uint64_t page,
                             uint64_t count)
{
    while (count > 0 && page_is_inside(balloon, page)) {
        page++;
        count--;
    }
    return count == 0;
}

/* @count pages from @page on, in one region of RAM, went into the balloon. */
static void balloon_take_run(struct virtio_balloon *balloon, uint64_t page,
                             uint64_t count)
{
    uint64_t unit = guest_mem_page_size(balloon->device.env->mem) >> BALLOON_PAGE_SHIFT;
    uint64_t end = page + count;

    for (uint64_t i = page; i < end; i++) {
        page_mark(balloon, i, true);
    }
    if (unit == 1) {
        balloon->released += balloon_release(balloon, page << BALLOON_PAGE_SHIFT,
                                             count << BALLOON_PAGE_SHIFT);
        return;
    }
    /* A huge page goes once the guest has given all of it. */
    for (page = align_down(page, unit); page < end; page += unit) {
        if (pages_all_inside(balloon, page, unit)) {
            balloon->released += balloon_release(balloon, page << BALLOON_PAGE_SHIFT,
                                                 unit << BALLOON_PAGE_SHIFT);
        }
    }
}

static void balloon_bad_page(struct virtio_balloon *balloon, uint64_t page)
{
    balloon->bad_pages++;
    if (!balloon->bad_said) {
        balloon->bad_said = true;
        log_warning(balloon->device.env->log,
                    "%s: the guest's driver named page 0x%" PRIx64
                    ", which is no RAM; such pages are passed over",
                    balloon->device.id, page);
    }
}

static int compare_pages(const void *left, const void *right)
{
    uint32_t a, b;

    memcpy(&a, left, sizeof(a));
    memcpy(&b, right, sizeof(b));
    return (a > b) - (a < b);
}

/* @pages: a private copy, in any order. Runs of neighbours go to the host in one call. */
static void balloon_take_batch(struct virtio_balloon *balloon, uint32_t *pages,
                               size_t count, bool inflate)
{
    qsort(pages, count, sizeof(*pages), compare_pages);
    for (size_t i = 0; i < count;) {
        uint64_t first = pages[i], run = 1, there;

        for (i++; i < count && pages[i] <= first + run; i++) {
            run += pages[i] == first + run; /* or the same page again */
        }
        for (; run > 0; first += there, run -= there) {
            there = pages_in_ram(balloon, first, run);
            if (there == 0) {
                balloon_bad_page(balloon, first);
                there = 1;
            } else if (inflate) {
                balloon_take_run(balloon, first, there);
            } else {
                for (uint64_t page = first; page < first + there; page++) {
                    page_mark(balloon, page, false);
                }
            }
        }
    }
}

/* The work in @chain: pages and ranges that it names. */
static uint64_t balloon_take_pages(struct virtio_balloon *balloon, bool inflate)
{
    uint32_t pages[BALLOON_BATCH];
    uint64_t offset = 0;
    size_t count;

    if (balloon->chain.readable_bytes > BALLOON_REQUEST_MAX) {
        virtio_device_fail(&balloon->device, "a request names more pages than one may");
        return 0;
    }
    do {
        count = virtqueue_chain_read(&balloon->chain, offset, pages, sizeof(pages)) /
                sizeof(pages[0]);
        for (size_t i = 0; i < count; i++) {
            pages[i] = le32toh(pages[i]);
        }
        balloon_take_batch(balloon, pages, count, inflate);
        offset += count * sizeof(pages[0]);
    } while (count == BALLOON_BATCH);
    return offset / sizeof(pages[0]);
}

/*
 * Free page reporting (5.5.6.7): the buffers are the pages. Free pages must keep the
 * driver's poison (5.5.6.6), and what comes back from the host are zeroes.
 */
static uint64_t balloon_take_report(struct virtio_balloon *balloon)
{
    const struct virtqueue_chain *chain = &balloon->chain;

    if (virtio_has(&balloon->device, VIRTIO_BALLOON_F_PAGE_POISON) &&
        BALLOON_CONFIG(balloon, poison_val) != 0) {
        return 0;
    }
    for (unsigned i = 0; i < chain->writable_count; i++) {
        unsigned at = chain->readable_count + i;

        balloon->reported +=
            balloon_release(balloon, chain->addresses[at], chain->iov[at].iov_len);
    }
    return chain->writable_count;
}

void balloon_serve(struct virtio_balloon *balloon, struct virtio_queue *queue)
{
    uint64_t work = 0;

    do {
        virtio_queue_disable_kicks(queue);
        while (work < BALLOON_TURN && virtio_queue_pop(queue, &balloon->chain)) {
            uint64_t start = clock_ns();

            work +=
                1 + (queue->index > QUEUE_DEFLATE
                         ? balloon_take_report(balloon)
                         : balloon_take_pages(balloon, queue->index == QUEUE_INFLATE));
            virtio_queue_push(queue, &balloon->chain, 0);
            virtio_stat_latency(&queue->stats, clock_ns() - start);
        }
        virtio_queue_flush(queue);
        if (work >= BALLOON_TURN) {
            virtio_queue_rekick(queue); /* and let others have the loop meanwhile */
            return;
        }
    } while (virtio_queue_enable_kicks(queue));
}

/* ---- Life ----------------------------------------------------------------------------- */

static size_t inside_words(const struct virtio_balloon *balloon)
{
    return balloon->page_count / BALLOON_BITS + 1;
}

int balloon_pages_init(struct virtio_balloon *balloon)
{
    size_t count;
    const struct guest_region *regions =
        guest_mem_regions(balloon->device.env->mem, &count);

    if (count > 0) {
        balloon->page_count =
            (regions[count - 1].base + regions[count - 1].size) >> BALLOON_PAGE_SHIFT;
    }
    balloon->inside = calloc(inside_words(balloon), sizeof(*balloon->inside));
    return balloon->inside == NULL ? -ENOMEM : 0;
}

void balloon_pages_reset(struct virtio_balloon *balloon)
{
    if (balloon->pages_inside > 0) {
        memset(balloon->inside, 0, inside_words(balloon) * sizeof(*balloon->inside));
        balloon->deflated += balloon->pages_inside;
        balloon->pages_inside = 0;
    }
    balloon->bad_said = balloon->failure_said = false;
}

void balloon_pages_save(const struct virtio_balloon *balloon, struct state_writer *writer)
{
    state_put_bytes(writer, "balloon.inside", balloon->inside,
                    inside_words(balloon) * sizeof(*balloon->inside));
}

void balloon_pages_load(struct virtio_balloon *balloon, struct state_reader *reader)
{
    state_get_bytes(reader, "balloon.inside", balloon->inside,
                    inside_words(balloon) * sizeof(*balloon->inside));
    balloon->pages_inside = 0;
    for (size_t i = 0; i < inside_words(balloon); i++) {
        balloon->pages_inside += (unsigned)__builtin_popcountl(balloon->inside[i]);
    }
}
