/* SPDX-License-Identifier: MIT */
/*
 * A driver's side of split and packed rings, written from the specification without
 * sharing anything with src/virtio: slow, straightforward, for tests and fuzzing.
 */
#ifndef TESTS_VIRTQUEUE_DRIVER_H
#define TESTS_VIRTQUEUE_DRIVER_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "memory/guest_mem.h"

#define DRV_NEXT     1
#define DRV_WRITE    2
#define DRV_INDIRECT 4

struct drv_buffer {
    uint64_t addr;
    uint32_t len;
    bool write;
};

struct drv {
    struct guest_mem *mem;
    unsigned size;
    bool packed, event_idx;
    uint64_t desc, driver, device; /* guest-physical */
    uint8_t *d, *a, *u;            /* their host addresses */
    unsigned free_count;
    uint16_t *free_ids; /* stack of ids (packed) or descriptors (split) */
    unsigned free_ids_count;
    uint16_t *taken;      /* by id: how many ring slots */
    uint16_t *links;      /* split: my own copy of the next fields */
    void **tokens;        /* by id */
    uint16_t avail, used; /* split: free-running; packed: slots */
    bool avail_wrap, used_wrap;
    uint16_t kicked_avail; /* avail at the last kick question */
    unsigned added;        /* slots added since then */
};

static inline uint16_t drv_ld16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_SEQ_CST);
}

static inline void drv_st16(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_SEQ_CST);
}

static inline uint32_t drv_ld32(const uint8_t *p)
{
    return __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_SEQ_CST);
}

static inline void drv_st32(uint8_t *p, uint32_t v)
{
    __atomic_store_n((uint32_t *)(void *)p, v, __ATOMIC_SEQ_CST);
}

/* Rings at @base (page aligned), one after the other, each on pages of its own. */
static inline uint64_t drv_init(struct drv *v, struct guest_mem *mem, uint64_t base,
                                unsigned size, bool packed, bool event_idx)
{
    memset(v, 0, sizeof(*v));
    v->mem = mem;
    v->size = size;
    v->packed = packed;
    v->event_idx = event_idx;
    v->desc = base;
    v->driver = (v->desc + 16 * (uint64_t)size + 4095) & ~UINT64_C(4095);
    v->device = (v->driver + 6 + 2 * (uint64_t)size + 4095) & ~UINT64_C(4095);
    v->d = guest_mem_ptr(mem, v->desc, 16 * (uint64_t)size);
    v->a = guest_mem_ptr(mem, v->driver, 6 + 2 * (uint64_t)size);
    v->u = guest_mem_ptr(mem, v->device, 6 + 8 * (uint64_t)size);
    assert(v->d != NULL && v->a != NULL && v->u != NULL);
    memset(v->d, 0, 16 * (size_t)size);
    memset(v->a, 0, 6 + 2 * (size_t)size);
    memset(v->u, 0, 6 + 8 * (size_t)size);
    v->free_count = size;
    v->free_ids = calloc(size, sizeof(*v->free_ids));
    v->taken = calloc(size, sizeof(*v->taken));
    v->links = calloc(size, sizeof(*v->links));
    v->tokens = calloc(size, sizeof(*v->tokens));
    for (unsigned i = 0; i < size; i++) {
        v->free_ids[i] = (uint16_t)(size - 1 - i);
    }
    v->free_ids_count = size;
    v->avail_wrap = v->used_wrap = true;
    return (v->device + 6 + 8 * (uint64_t)size + 4095) & ~UINT64_C(4095);
}

static inline void drv_fini(struct drv *v)
{
    free(v->free_ids);
    free(v->taken);
    free(v->links);
    free(v->tokens);
}

static inline void drv_write_desc(uint8_t *at, uint64_t addr, uint32_t len, uint16_t w0,
                                  uint16_t w1)
{
    memcpy(at, &addr, 8);
    memcpy(at + 8, &len, 4);
    memcpy(at + 12, &w0, 2);
    memcpy(at + 14, &w1, 2);
}

/* Fill a table for @indirect use: in split format linked backwards, to be awkward. */
static inline void drv_write_table(struct drv *v, uint64_t table,
                                   const struct drv_buffer *b, unsigned n)
{
    uint8_t *t = guest_mem_ptr(v->mem, table, 16 * (uint64_t)n);

    assert(t != NULL);
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = b[i].write ? DRV_WRITE : 0;

        if (v->packed) {
            drv_write_desc(t + 16 * i, b[i].addr, b[i].len, 0, flags);
        } else {
            /* entry 0 is the first; the others lie in reverse order behind it */
            unsigned at = i == 0 ? 0 : n - i;
            unsigned next = n - i - 1;

            if (i + 1 < n) {
                flags |= DRV_NEXT;
            }
            drv_write_desc(t + 16 * at, b[i].addr, b[i].len, flags, (uint16_t)next);
        }
    }
}

static inline bool drv_add_split(struct drv *v, const struct drv_buffer *b, unsigned n,
                                 void *token, bool indirect)
{
    uint16_t head = v->free_ids[v->free_ids_count - 1], last = 0;

    for (unsigned i = 0; i < n; i++) {
        uint16_t at = v->free_ids[--v->free_ids_count];
        uint16_t next = i + 1 < n ? v->free_ids[v->free_ids_count - 1] : 0;
        uint16_t flags =
            (uint16_t)((b[i].write ? DRV_WRITE : 0) | (i + 1 < n ? DRV_NEXT : 0) |
                       (indirect ? DRV_INDIRECT : 0));

        drv_write_desc(v->d + 16 * (size_t)at, b[i].addr, b[i].len, flags, next);
        v->links[at] = next;
        last = at;
    }
    (void)last;
    v->free_count -= n;
    v->taken[head] = (uint16_t)n;
    v->tokens[head] = token;
    drv_st16(v->a + 4 + 2 * (size_t)(v->avail % v->size), head);
    v->avail++;
    v->added++;
    drv_st16(v->a + 2, v->avail);
    return true;
}

static inline bool drv_add_packed(struct drv *v, const struct drv_buffer *b, unsigned n,
                                  void *token, bool indirect)
{
    uint16_t id = v->free_ids[--v->free_ids_count], head = v->avail, head_flags = 0;

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags =
            (uint16_t)((b[i].write ? DRV_WRITE : 0) | (i + 1 < n ? DRV_NEXT : 0) |
                       (indirect ? DRV_INDIRECT : 0) |
                       (v->avail_wrap ? 1 << 7 : 1 << 15));
        uint8_t *at = v->d + 16 * (size_t)v->avail;

        memcpy(at, &b[i].addr, 8);
        memcpy(at + 8, &b[i].len, 4);
        memcpy(at + 12, &id, 2);
        if (i == 0) {
            head_flags = flags;
        } else {
            drv_st16(at + 14, flags);
        }
        if (++v->avail == v->size) {
            v->avail = 0;
            v->avail_wrap = !v->avail_wrap;
        }
    }
    v->free_count -= n;
    v->added += n;
    v->taken[id] = (uint16_t)n;
    v->tokens[id] = token;
    drv_st16(v->d + 16 * (size_t)head + 14, head_flags);
    return true;
}

/* Make a chain available. @table: where an indirect table may go, 0: direct. */
static inline bool drv_add(struct drv *v, const struct drv_buffer *b, unsigned n,
                           void *token, uint64_t table)
{
    struct drv_buffer one = { table, 16 * n, false };

    if (table != 0) {
        drv_write_table(v, table, b, n);
        b = &one;
        n = 1;
    }
    if (n > v->free_count || v->free_ids_count == 0) {
        return false;
    }
    return v->packed ? drv_add_packed(v, b, n, token, table != 0)
                     : drv_add_split(v, b, n, token, table != 0);
}

/* Does the device want a kick for what was added since the last question? */
static inline bool drv_kick_needed(struct drv *v)
{
    unsigned added = v->added;

    v->added = 0;
    if (added == 0) {
        return false;
    }
    if (!v->packed && !v->event_idx) {
        return !(drv_ld16(v->u) & 1);
    }
    if (!v->packed) {
        uint16_t event = drv_ld16(v->u + 4 + 8 * (size_t)v->size);

        for (unsigned i = 1; i <= added; i++) {
            if ((uint16_t)(v->avail - i) == event) {
                return true;
            }
        }
        return false;
    } else {
        uint32_t e = drv_ld32(v->u);
        unsigned slot = v->avail;
        bool wrap = v->avail_wrap;

        if (e >> 16 < 2) {
            return e >> 16 == 0;
        }
        for (unsigned i = 0; i < added; i++) {
            if (slot == 0) {
                slot = v->size;
                wrap = !wrap;
            }
            slot--;
            if ((e & 0x7fff) == slot && ((e & 0x8000) != 0) == wrap) {
                return true;
            }
        }
        return false;
    }
}

static inline bool drv_used_there(struct drv *v)
{
    if (!v->packed) {
        return drv_ld16(v->u + 2) != v->used;
    } else {
        uint16_t flags = drv_ld16(v->d + 16 * (size_t)v->used + 14);

        return ((flags >> 7) & 1) == v->used_wrap && (flags >> 15) == v->used_wrap;
    }
}

/* The next used buffer's token, or NULL. */
static inline void *drv_get(struct drv *v, uint32_t *len)
{
    void *token;
    uint16_t id;

    if (!drv_used_there(v)) {
        return NULL;
    }
    if (!v->packed) {
        uint8_t *e = v->u + 4 + 8 * (size_t)(v->used % v->size);
        uint32_t id32;

        memcpy(&id32, e, 4);
        memcpy(len, e + 4, 4);
        id = (uint16_t)id32;
        v->used++;
        for (unsigned i = 0, at = id; i < v->taken[id]; i++, at = v->links[at]) {
            v->free_ids[v->free_ids_count++] = (uint16_t)at;
        }
    } else {
        uint8_t *e = v->d + 16 * (size_t)v->used;

        memcpy(&id, e + 12, 2);
        memcpy(len, e + 8, 4);
        v->used = (uint16_t)(v->used + v->taken[id]);
        if (v->used >= v->size) {
            v->used = (uint16_t)(v->used - v->size);
            v->used_wrap = !v->used_wrap;
        }
        v->free_ids[v->free_ids_count++] = id;
    }
    assert(v->taken[id] != 0);
    v->free_count += v->taken[id];
    v->taken[id] = 0;
    token = v->tokens[id];
    v->tokens[id] = NULL;
    return token;
}

static inline void drv_interrupts_off(struct drv *v)
{
    if (v->packed) {
        drv_st32(v->a, 1u << 16);
    } else if (!v->event_idx) {
        drv_st16(v->a, 1);
    } /* else: used_event stays where it is, behind */
}

/* Ask for an interrupt at the next used buffer; true: there is one already. */
static inline bool drv_interrupts_on(struct drv *v)
{
    if (v->packed) {
        drv_st32(v->a,
                 v->event_idx ? 2u << 16 | v->used | (v->used_wrap ? 0x8000u : 0) : 0);
    } else if (v->event_idx) {
        drv_st16(v->a + 4 + 2 * (size_t)v->size, v->used);
    } else {
        drv_st16(v->a, 0);
    }
    return drv_used_there(v);
}

#endif
