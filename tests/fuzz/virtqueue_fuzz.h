/* SPDX-License-Identifier: MIT */
/*
 * A hostile driver for either ring format. The input is a list of steps: a byte that says
 * what, and its operands. Memory is small, so that what it writes hits the rings.
 */
#ifndef FUZZ_VIRTQUEUE_FUZZ_H
#define FUZZ_VIRTQUEUE_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "memory/guest_mem.h"
#include "virtio/virtqueue/virtqueue.h"

enum {
    FUZZ_RAM = 0x4000,
    FUZZ_DESC = 0,
    FUZZ_DRIVER = 0x400,
    FUZZ_DEVICE = 0x500,
    FUZZ_HELD = 8,
};

static inline struct guest_mem *fuzz_ram(void)
{
    static struct guest_mem *mem; /* made once: it is the slow part */
    struct guest_mem_options options = { 0 };
    struct umbra_error error;

    if (mem == NULL) {
        FUZZ_EXPECT(guest_mem_create(&options, &mem, &error) == 0);
        FUZZ_EXPECT(guest_mem_add(mem, 0, FUZZ_RAM / 2, GUEST_REGION_RAM, &error) == 0);
        FUZZ_EXPECT(guest_mem_add(mem, FUZZ_RAM / 2, FUZZ_RAM / 2, GUEST_REGION_RAM,
                                  &error) == 0);
    }
    guest_mem_fill(mem, 0, 0, FUZZ_RAM);
    return mem;
}

/* What the contract promises about a popped chain. */
static inline void fuzz_check_chain(struct guest_mem *mem,
                                    const struct virtqueue_chain *chain)
{
    uint64_t readable = 0, writable = 0;

    for (unsigned i = 0; i < chain->readable_count + chain->writable_count; i++) {
        uint64_t length = chain->iov[i].iov_len;

        FUZZ_EXPECT(length > 0 && chain->addresses[i] < FUZZ_RAM &&
                    length <= FUZZ_RAM - chain->addresses[i]);
        FUZZ_EXPECT(chain->iov[i].iov_base ==
                    guest_mem_ptr(mem, chain->addresses[i], length));
        *(i < chain->readable_count ? &readable : &writable) += length;
    }
    FUZZ_EXPECT(readable == chain->readable_bytes && writable == chain->writable_bytes);
    FUZZ_EXPECT(readable + writable > 0);
}

static inline void fuzz_driver_writes(struct guest_mem *mem, struct fuzz_input *in)
{
    uint16_t offset = (uint16_t)(fuzz_byte(in) | fuzz_byte(in) << 8);
    unsigned length = 1 + fuzz_byte(in) % 32;

    for (unsigned i = 0; i < length; i++) {
        uint8_t byte = fuzz_byte(in);

        guest_mem_write(mem, (offset + i) % FUZZ_RAM, &byte, 1);
    }
}

static inline int virtqueue_fuzz(bool packed, const uint8_t *data, size_t size)
{
    struct fuzz_input in = { data, size };
    struct guest_mem *mem = fuzz_ram();
    struct virtqueue_chain chains[FUZZ_HELD] = { 0 };
    bool held[FUZZ_HELD] = { false };
    unsigned flags = fuzz_byte(&in), count = 0;
    int latest = -1; /* the chain that may be unpopped */
    struct virtqueue_config config = { .size = packed ? 1 + flags % 40 : 1u << flags % 6,
                                       .desc = FUZZ_DESC,
                                       .driver = FUZZ_DRIVER,
                                       .device = FUZZ_DEVICE,
                                       .packed = packed };
    struct virtqueue vq;

    flags = fuzz_byte(&in);
    config.event_idx = flags & 1;
    config.indirect = flags & 2;
    config.in_order = flags & 4;
    FUZZ_EXPECT(virtqueue_start(&vq, mem, &config) == 0);
    while (in.left > 0) {
        unsigned step = fuzz_byte(&in), slot = step / 16 % FUZZ_HELD;
        int ret;

        switch (step % 16) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
        case 5:
            fuzz_driver_writes(mem, &in);
            break;
        case 6:
        case 7:
        case 8:
            if (held[slot]) {
                break;
            }
            ret = virtqueue_pop(&vq, &chains[slot]);
            FUZZ_EXPECT(ret == 0 || ret == 1 || (ret == -EPROTO && vq.fault != NULL));
            if (ret == 1) {
                fuzz_check_chain(mem, &chains[slot]);
                held[slot] = true;
                latest = (int)slot;
                FUZZ_EXPECT(++count <= config.size);
            }
            break;
        case 9:
        case 10:
            if (held[slot]) {
                uint64_t writable = chains[slot].writable_bytes;

                virtqueue_push(&vq, &chains[slot], (uint32_t)(writable / 2));
                held[slot] = false;
                latest = -1;
                count--;
            }
            break;
        case 11:
        case 12:
            virtqueue_flush(&vq);
            break;
        case 13:
            virtqueue_disable_kicks(&vq);
            break;
        case 14:
            virtqueue_enable_kicks(&vq);
            break;
        default:
            if (latest >= 0) {
                virtqueue_unpop(&vq, &chains[latest]);
                held[latest] = false;
                latest = -1;
                count--;
            }
            break;
        }
    }
    virtqueue_stop(&vq);
    for (unsigned i = 0; i < FUZZ_HELD; i++) {
        virtqueue_chain_fini(&chains[i]);
    }
    return 0;
}

#endif
