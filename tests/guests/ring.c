/* SPDX-License-Identifier: MIT */
/* The driver's side of split and packed virtqueues. */
#include "ring.h"

static void fence(void)
{
    __asm__ volatile("lock orl $0, (%%rsp)" ::: "memory", "cc");
}

static void store16(uint16_t *to, uint16_t v)
{
    __atomic_store_n(to, v, __ATOMIC_RELEASE);
}

static uint16_t load16(const uint16_t *from)
{
    return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}

static uint16_t *used_event(struct ring *ring)
{
    return &ring->memory->driver.avail.entries[ring->size];
}

static uint16_t *avail_event(struct ring *ring)
{
    return (uint16_t *)(void *)&ring->memory->device.used.entries[ring->size];
}

void ring_init(struct ring *ring, struct ring_memory *memory, unsigned size)
{
    unsigned i;

    memset(memory, 0, sizeof(*memory));
    ring->memory = memory;
    ring->size = ring->free = size;
    ring->free_head = 0;
    ring->next = ring->seen = ring->published = 0;
    ring->next_wrap = ring->seen_wrap = true;
    for (i = 0; i < size; i++)
        ring->links[i] = (uint16_t)(i + 1);
}

static void fill_indirect(struct ring_desc *table, const struct ring_buffer *buffers,
                          unsigned readable, unsigned writable, bool packed)
{
    unsigned i, count = readable + writable;

    for (i = 0; i < count; i++) {
        uint16_t write = i >= readable ? DESC_WRITE : 0;

        table[i].address = (uint64_t)buffers[i].start;
        table[i].length = buffers[i].size;
        if (packed) { /* id, then flags, at these places */
            table[i].flags = 0;
            table[i].next = write;
        } else {
            table[i].flags = (uint16_t)(write | (i + 1 < count ? DESC_NEXT : 0));
            table[i].next = (uint16_t)(i + 1);
        }
    }
}

static int add_split(struct ring *ring, const struct ring_buffer *buffers,
                     unsigned readable, unsigned writable, bool is_table)
{
    struct ring_desc *table = ring->memory->desc.split;
    unsigned count = readable + writable, head = ring->free_head, at = head, i;

    for (i = 0; i < count; i++) {
        bool last = i + 1 == count;

        table[at].address = (uint64_t)buffers[i].start;
        table[at].length = buffers[i].size;
        table[at].flags =
            (uint16_t)((i >= readable ? DESC_WRITE : 0) | (is_table ? DESC_INDIRECT : 0) |
                       (last ? 0 : DESC_NEXT));
        table[at].next = ring->links[at];
        at = ring->links[at];
    }
    ring->free_head = at;
    ring->counts[head] = (uint16_t)count;
    ring->memory->driver.avail.entries[ring->next % ring->size] = (uint16_t)head;
    ring->next++;
    store16(&ring->memory->driver.avail.index, ring->next); /* the device's acquire */
    return (int)head;
}

static int add_packed(struct ring *ring, const struct ring_buffer *buffers,
                      unsigned readable, unsigned writable, bool is_table)
{
    struct ring_packed_desc *table = ring->memory->desc.packed;
    unsigned count = readable + writable, id = ring->free_head, first = ring->next, i;
    uint16_t first_flags = 0;

    for (i = 0; i < count; i++) {
        uint16_t flags =
            (uint16_t)((i >= readable ? DESC_WRITE : 0) | (is_table ? DESC_INDIRECT : 0) |
                       (i + 1 < count ? DESC_NEXT : 0) |
                       (ring->next_wrap ? DESC_AVAIL : DESC_USED));
        struct ring_packed_desc *d = &table[ring->next];

        d->address = (uint64_t)buffers[i].start;
        d->length = buffers[i].size;
        d->id = (uint16_t)id;
        if (i == 0)
            first_flags = flags;
        else
            store16(&d->flags, flags);
        if (++ring->next == ring->size) {
            ring->next = 0;
            ring->next_wrap = !ring->next_wrap;
        }
    }
    ring->free_head = ring->links[id];
    ring->counts[id] = (uint16_t)count;
    store16(&table[first].flags, first_flags); /* last: the whole chain at once */
    return (int)id;
}

int ring_add(struct ring *ring, const struct ring_buffer *buffers, unsigned readable,
             unsigned writable)
{
    struct ring_buffer table;
    unsigned count = readable + writable;
    bool indirect =
        ring->indirect && count > 1 && count <= ARRAY_SIZE(ring->memory->indirect[0]);

    if (ring->free < (indirect ? 1 : count) || count == 0)
        return -1;
    if (indirect) {
        table.start = ring->memory->indirect[ring->free_head];
        table.size = count * sizeof(struct ring_desc);
        fill_indirect(table.start, buffers, readable, writable, ring->packed);
        buffers = &table;
        readable = count = 1;
        writable = 0;
    }
    ring->free -= count;
    return ring->packed ? add_packed(ring, buffers, readable, writable, indirect)
                        : add_split(ring, buffers, readable, writable, indirect);
}

void ring_kick_always(struct ring *ring)
{
    ring->kicks++;
    if (ring->notify_wide)
        mmio_write32(ring->notify, ring->notify_value);
    else
        mmio_write16(ring->notify, (uint16_t)ring->notify_value);
}

void ring_kick(struct ring *ring)
{
    struct ring_memory *m = ring->memory;
    uint16_t event, before = ring->published;
    bool needed;

    fence(); /* the index before the question; pairs with the device's own */
    if (ring->packed) {
        needed = (load16(&m->device.event.flags) & 3) != 1; /* 2: a place; never saved */
    } else if (ring->event_index) {
        event = load16(avail_event(ring));
        needed = (uint16_t)(ring->next - event - 1) < (uint16_t)(ring->next - before);
    } else {
        needed = !(load16(&m->device.used.flags) & 1);
    }
    ring->published = ring->next;
    if (needed)
        ring_kick_always(ring);
    else
        ring->kicks_saved++;
}

static bool take_split(struct ring *ring, unsigned *id, uint32_t *length)
{
    const struct ring_used_entry *entry;
    unsigned at, i;

    if (load16(&ring->memory->device.used.index) == ring->seen) /* the device's release */
        return false;
    entry = &ring->memory->device.used.entries[ring->seen % ring->size];
    *id = entry->id;
    *length = entry->length;
    ring->seen++;
    if (*id >= ring->size)
        return true;
    for (at = *id, i = 1; i < ring->counts[*id]; i++)
        at = ring->links[at];
    ring->links[at] = (uint16_t)ring->free_head;
    ring->free_head = *id;
    return true;
}

static bool take_packed(struct ring *ring, unsigned *id, uint32_t *length)
{
    const struct ring_packed_desc *d = &ring->memory->desc.packed[ring->seen];
    uint16_t flags = load16(&d->flags); /* pairs with the device's release */
    bool avail = flags & DESC_AVAIL, used = flags & DESC_USED;
    unsigned next;

    if (avail != used || used != ring->seen_wrap)
        return false;
    *id = d->id;
    *length = d->length;
    if (*id >= ring->size)
        return true;
    next = ring->seen + ring->counts[*id];
    if (next >= ring->size) {
        next -= ring->size;
        ring->seen_wrap = !ring->seen_wrap;
    }
    ring->seen = (uint16_t)next;
    ring->links[*id] = (uint16_t)ring->free_head;
    ring->free_head = *id;
    return true;
}

bool ring_take(struct ring *ring, unsigned *id, uint32_t *length)
{
    bool taken =
        ring->packed ? take_packed(ring, id, length) : take_split(ring, id, length);

    if (taken && *id < ring->size)
        ring->free += ring->counts[*id];
    return taken;
}

bool ring_wait(struct ring *ring, unsigned *id, uint32_t *length, uint64_t spins)
{
    for (; spins; spins--) {
        if (ring_take(ring, id, length))
            return true;
        cpu_pause();
    }
    return false;
}

void ring_interrupts(struct ring *ring, bool on)
{
    struct ring_memory *m = ring->memory;

    if (ring->packed) {
        m->driver.event.place = (uint16_t)(ring->seen | ring->seen_wrap << 15);
        store16(&m->driver.event.flags, on ? (ring->event_index ? 2 : 0) : 1);
    } else if (ring->event_index) {
        store16(used_event(ring), on ? ring->seen : (uint16_t)(ring->seen - 1));
    } else {
        store16(&m->driver.avail.flags, !on);
    }
    fence(); /* before the caller looks at the ring once more */
}
