/* SPDX-License-Identifier: MIT */
/* Virtqueues: what both ring formats share: set-up, chains, order of completion. */
#include "virtio/virtqueue/virtqueue.h"

#include <errno.h>
#include <stdlib.h>

#include <linux/virtio_ring.h>

#include "virtio/virtqueue/ring.h"

/* The total length of a chain is at most 2^32 bytes (2.7.5.2), less one so that `written`
 * can say so. */
static const uint64_t chain_bytes_max = UINT32_MAX;

int virtqueue_malformed(struct virtqueue *vq, const char *why)
{
    if (vq->fault == NULL) {
        vq->fault = why;
    }
    return -EPROTO;
}

void virtqueue_chain_clear(struct virtqueue_chain *chain)
{
    chain->readable_count = chain->writable_count = 0;
    chain->readable_bytes = chain->writable_bytes = 0;
}

void virtqueue_chain_fini(struct virtqueue_chain *chain)
{
    free(chain->iov);
    free(chain->addresses);
    memset(chain, 0, sizeof(*chain));
}

static int chain_grow(struct virtqueue_chain *chain)
{
    unsigned capacity = chain->capacity == 0 ? 8 : chain->capacity * 2;
    struct iovec *iov = realloc(chain->iov, capacity * sizeof(*iov));
    gpa *addresses;

    if (iov == NULL) {
        return -ENOMEM;
    }
    chain->iov = iov;
    addresses = realloc(chain->addresses, capacity * sizeof(*addresses));
    if (addresses == NULL) {
        return -ENOMEM;
    }
    chain->addresses = addresses;
    chain->capacity = capacity;
    return 0;
}

/* One piece that lies wholly inside a region. */
static int chain_add_piece(struct virtqueue *vq, struct virtqueue_chain *chain,
                           uint64_t addr, uint64_t len, bool writable)
{
    unsigned at = chain->readable_count + chain->writable_count;
    void *host;

    if (writable) {
        host = guest_mem_ptr(vq->mem, addr, len);
    } else {
        union {
            const void *read_only;
            void *host;
        } p = { .read_only = guest_mem_const_ptr(vq->mem, addr, len) };

        host = p.host; /* iovec has no const; readers do not write through it */
    }
    if (host == NULL) {
        return virtqueue_malformed(vq, "a descriptor points outside RAM");
    }
    if (at == chain->capacity) {
        int ret = chain_grow(chain);

        if (ret != 0) {
            return ret;
        }
    }
    chain->iov[at] = (struct iovec){ .iov_base = host, .iov_len = len };
    chain->addresses[at] = addr;
    if (writable) {
        chain->writable_count++;
        chain->writable_bytes += len;
    } else {
        chain->readable_count++;
        chain->readable_bytes += len;
    }
    return 0;
}

int virtqueue_chain_add(struct virtqueue *vq, struct virtqueue_chain *chain,
                        uint64_t addr, uint32_t len, bool writable)
{
    uint64_t left = len;

    if (len == 0) {
        return virtqueue_malformed(vq, "a descriptor has length zero");
    }
    if (addr + len < addr) {
        return virtqueue_malformed(vq, "a descriptor's address range wraps around");
    }
    if (!writable && chain->writable_count > 0) {
        return virtqueue_malformed(vq, "a readable descriptor follows a writable one");
    }
    if (chain->readable_bytes + chain->writable_bytes + len > chain_bytes_max) {
        return virtqueue_malformed(vq, "a chain holds 4 GiB or more");
    }
    while (left > 0) { /* more than one turn only where RAM regions touch */
        uint64_t span = guest_mem_span(vq->mem, addr);
        uint64_t piece = span < left ? span : left;
        int ret = span == 0 ? virtqueue_malformed(vq, "a descriptor points outside RAM")
                            : chain_add_piece(vq, chain, addr, piece, writable);

        if (ret != 0) {
            return ret;
        }
        addr += piece;
        left -= piece;
    }
    return 0;
}

int virtqueue_chain_add_table(struct virtqueue *vq, struct virtqueue_chain *chain,
                              uint64_t addr, uint32_t len, bool linked)
{
    union {
        const void *read_only;
        const uint8_t *bytes;
    } table = { .read_only = guest_mem_const_ptr(vq->mem, addr, len) };
    /* A driver makes no chain longer than the queue (2.7.5.3.1); those that do stay below
     * what other monitors take. A chain's memory here is bounded by it. */
    uint32_t most =
        vq->config.size > VIRTQUEUE_TABLE_MAX ? vq->config.size : VIRTQUEUE_TABLE_MAX;
    uint32_t count = len / sizeof(struct ring_desc);
    uint32_t index = 0;

    if (!vq->config.indirect) {
        return virtqueue_malformed(vq, "an indirect descriptor was not negotiated");
    }
    if (count == 0 || len % sizeof(struct ring_desc) != 0 || count > most) {
        return virtqueue_malformed(vq, "an indirect table has a bad length");
    }
    if (table.bytes == NULL) {
        return virtqueue_malformed(vq, "an indirect table lies outside RAM");
    }
    for (uint32_t steps = 0; steps < count; steps++) {
        struct ring_desc d =
            ring_desc_read(table.bytes + (size_t)index * sizeof(struct ring_desc));
        uint16_t flags = linked ? d.word[0] : d.word[1];
        int ret;

        if (flags & VRING_DESC_F_INDIRECT) {
            return virtqueue_malformed(vq, "an indirect table refers to another");
        }
        ret = virtqueue_chain_add(vq, chain, d.addr, d.len, flags & VRING_DESC_F_WRITE);
        if (ret != 0) {
            return ret;
        }
        if (!linked) {
            index++;
            continue;
        }
        if (!(flags & VRING_DESC_F_NEXT)) {
            return 0;
        }
        index = d.word[1];
        if (index >= count) {
            return virtqueue_malformed(vq, "an indirect table links outside itself");
        }
    }
    return linked ? virtqueue_malformed(vq, "an indirect table's chain is a loop") : 0;
}

/* Both copies walk one part of the chain. */
static size_t iov_copy(const struct iovec *iov, unsigned count, uint64_t offset,
                       uint8_t *buffer, size_t size, bool to_iov)
{
    size_t done = 0;

    for (unsigned i = 0; i < count && done < size; i++) {
        size_t piece;
        uint8_t *at;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        at = (uint8_t *)iov[i].iov_base + offset;
        piece = iov[i].iov_len - (size_t)offset;
        if (piece > size - done) {
            piece = size - done;
        }
        if (to_iov) {
            memcpy(at, buffer + done, piece);
        } else {
            ring_read(buffer + done, at, piece);
        }
        done += piece;
        offset = 0;
    }
    return done;
}

size_t virtqueue_chain_read(const struct virtqueue_chain *chain, uint64_t offset,
                            void *buffer, size_t size)
{
    return iov_copy(virtqueue_chain_readable(chain), chain->readable_count, offset,
                    buffer, size, false);
}

size_t virtqueue_chain_write(const struct virtqueue_chain *chain, uint64_t offset,
                             const void *buffer, size_t size)
{
    union {
        const void *read_only;
        void *bytes;
    } p = { .read_only = buffer }; /* iov_copy only reads it */

    return iov_copy(virtqueue_chain_writable(chain), chain->writable_count, offset,
                    p.bytes, size, true);
}

static int queue_map(struct virtqueue *vq)
{
    const gpa address[3] = { vq->config.desc, vq->config.driver, vq->config.device };
    uint8_t **const host[3] = { &vq->desc, &vq->driver, &vq->device };
    unsigned alignment[3];
    uint64_t bytes[3];

    vq->ops->layout(vq->config.size, bytes, alignment);
    for (unsigned i = 0; i < 3; i++) {
        if (address[i] % alignment[i] != 0) {
            virtqueue_malformed(vq, "a part of the ring is not aligned");
            return -EINVAL;
        }
        *host[i] = guest_mem_ptr(vq->mem, address[i], bytes[i]);
        if (*host[i] == NULL) {
            virtqueue_malformed(vq, "a part of the ring lies outside RAM");
            return -EINVAL;
        }
    }
    return 0;
}

int virtqueue_start_at(struct virtqueue *vq, struct guest_mem *mem,
                       const struct virtqueue_config *config,
                       const struct virtqueue_position *position)
{
    unsigned size = config->size;
    int ret = -EINVAL;

    memset(vq, 0, sizeof(*vq));
    vq->mem = mem;
    vq->config = *config;
    vq->ops = config->packed ? &virtqueue_packed_ops : &virtqueue_split_ops;
    if (size == 0 || size > VIRTQUEUE_MAX_SIZE ||
        (!config->packed && (size & (size - 1)) != 0)) {
        virtqueue_malformed(vq, "the queue's size is not possible");
        goto fail;
    }
    ret = queue_map(vq);
    if (ret != 0) {
        goto fail;
    }
    if (config->in_order) {
        vq->done = calloc(size, sizeof(*vq->done));
        if (vq->done == NULL) {
            ret = -ENOMEM;
            goto fail;
        }
    }
    vq->ops->set_position(vq, position);
    return 0;
fail:
    vq->ops = NULL;
    return ret;
}

int virtqueue_start(struct virtqueue *vq, struct guest_mem *mem,
                    const struct virtqueue_config *config)
{
    const uint16_t first = config->packed ? 0x8000 : 0; /* wrap counters start as 1 */
    const struct virtqueue_position position = { first, first };

    return virtqueue_start_at(vq, mem, config, &position);
}

void virtqueue_stop(struct virtqueue *vq)
{
    free(vq->done);
    vq->done = NULL;
    vq->ops = NULL;
}

void virtqueue_get_position(const struct virtqueue *vq,
                            struct virtqueue_position *position)
{
    if (vq->ops == NULL) {
        *position = (struct virtqueue_position){ 0, 0 };
        return;
    }
    vq->ops->get_position(vq, position);
}

void virtqueue_set_position(struct virtqueue *vq,
                            const struct virtqueue_position *position)
{
    if (vq->ops != NULL) {
        vq->ops->set_position(vq, position);
    }
}

int virtqueue_used_position(const struct virtqueue *vq,
                            struct virtqueue_position *position)
{
    if (vq->ops == NULL || vq->ops->used_index == NULL) {
        return -ENOTSUP;
    }
    position->available = position->used = vq->ops->used_index(vq);
    return 0;
}

void virtqueue_host_areas(const struct virtqueue *vq, uint64_t areas[3])
{
    areas[0] = (uintptr_t)vq->desc;
    areas[1] = (uintptr_t)vq->driver;
    areas[2] = (uintptr_t)vq->device;
}

int virtqueue_pop(struct virtqueue *vq, struct virtqueue_chain *chain)
{
    int ret;

    if (vq->ops == NULL) {
        return 0;
    }
    if (vq->fault != NULL) {
        return -EPROTO;
    }
    virtqueue_chain_clear(chain);
    ret = vq->ops->pop(vq, chain);
    if (ret == 1) {
        chain->sequence = vq->next_pop;
        vq->next_pop = (uint16_t)((vq->next_pop + 1u) % vq->config.size);
        vq->in_flight += chain->descriptors;
    }
    return ret;
}

void virtqueue_unpop(struct virtqueue *vq, const struct virtqueue_chain *chain)
{
    vq->ops->unpop(vq, chain);
    vq->next_pop = chain->sequence;
    vq->in_flight -= chain->descriptors;
}

/* Tell dirty tracking what the device wrote into the chain. */
static void chain_mark_dirty(struct virtqueue *vq, const struct virtqueue_chain *chain,
                             uint64_t written)
{
    for (unsigned i = 0; i < chain->writable_count && written > 0; i++) {
        unsigned at = chain->readable_count + i;
        uint64_t piece = chain->iov[at].iov_len;

        piece = piece < written ? piece : written;
        guest_mem_mark_dirty(vq->mem, chain->addresses[at], piece);
        written -= piece;
    }
}

void virtqueue_push(struct virtqueue *vq, const struct virtqueue_chain *chain,
                    uint32_t written)
{
    struct virtqueue_done done = { .written = written,
                                   .id = chain->id,
                                   .descriptors = chain->descriptors,
                                   .done = true };

    if (vq->ops == NULL) {
        return;
    }
    chain_mark_dirty(vq, chain, written);
    if (vq->done == NULL) {
        vq->in_flight -= done.descriptors;
        vq->ops->complete(vq, &done);
        return;
    }
    vq->done[chain->sequence] = done;
    for (;;) {
        struct virtqueue_done *next = &vq->done[vq->next_push];

        if (!next->done) {
            return;
        }
        vq->in_flight -= next->descriptors;
        vq->ops->complete(vq, next);
        next->done = false;
        vq->next_push = (uint16_t)((vq->next_push + 1u) % vq->config.size);
    }
}

bool virtqueue_flush(struct virtqueue *vq)
{
    return vq->ops != NULL && vq->ops->flush(vq);
}

void virtqueue_disable_kicks(struct virtqueue *vq)
{
    if (vq->ops != NULL) {
        vq->ops->disable_kicks(vq);
    }
}

bool virtqueue_enable_kicks(struct virtqueue *vq)
{
    return vq->ops != NULL && vq->fault == NULL && vq->ops->enable_kicks(vq);
}
