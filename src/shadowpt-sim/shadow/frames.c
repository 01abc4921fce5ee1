/* SPDX-License-Identifier: MIT */
/* The frame index: a hash table from guest frames to what the shadow MMU knows of them.
 */
#include "shadowpt-sim/shadow/internal.h"

#include <errno.h>
#include <stdlib.h>

#define FRAMES_FIRST 1024

static uint32_t key_hash(uint64_t key)
{
    return (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 32);
}

static uint64_t frame_key(uint64_t gfn, unsigned level)
{
    return (gfn >> (9 * (level - 1)) << (9 * (level - 1))) << 2 | (level - 1);
}

static uint32_t *frames_bucket(const struct frame_index *frames, uint64_t key)
{
    return &frames->bucket[key_hash(key) & (frames->buckets - 1)];
}

int frames_init(struct frame_index *frames)
{
    memset(frames, 0, sizeof(*frames));
    frames->free_head = NODE_NONE;
    return frames_reserve(frames, FRAMES_FIRST);
}

void frames_destroy(struct frame_index *frames)
{
    free(frames->node);
    free(frames->bucket);
    memset(frames, 0, sizeof(*frames));
}

static int frames_grow(struct frame_index *frames, uint32_t capacity)
{
    uint32_t *bucket = malloc(capacity * sizeof(*bucket));
    struct frame_node *node = NULL;

    if (bucket != NULL) {
        node = realloc(frames->node, capacity * sizeof(*node));
    }
    if (node == NULL) {
        free(bucket);
        return -ENOMEM;
    }
    free(frames->bucket);
    frames->node = node;
    frames->bucket = bucket;
    frames->capacity = frames->buckets = capacity;
    memset(bucket, 0xff, capacity * sizeof(*bucket));
    for (uint32_t i = 0; i < frames->fresh; i++) {
        uint32_t *head;

        if (node[i].key == UINT64_MAX) { /* on the free list */
            continue;
        }
        head = frames_bucket(frames, node[i].key);
        node[i].hash_next = *head;
        *head = i;
    }
    return 0;
}

int frames_reserve(struct frame_index *frames, uint32_t wanted)
{
    uint32_t capacity = frames->capacity != 0 ? frames->capacity : FRAMES_FIRST;

    if (frames->capacity - frames->in_use >= wanted) {
        return 0;
    }
    while (capacity - frames->in_use < wanted) {
        capacity *= 2;
    }
    if (capacity > REF_INDEX) {
        return -ENOMEM;
    }
    return frames_grow(frames, capacity);
}

uint32_t frames_find(const struct frame_index *frames, uint64_t gfn, unsigned level)
{
    uint64_t key = frame_key(gfn, level);
    uint32_t at = *frames_bucket(frames, key);

    while (at != NODE_NONE && frames->node[at].key != key) {
        at = frames->node[at].hash_next;
    }
    return at;
}

uint32_t frames_get(struct frame_index *frames, uint64_t gfn, unsigned level)
{
    uint64_t key = frame_key(gfn, level);
    uint32_t at = frames_find(frames, gfn, level), *head;

    if (at != NODE_NONE) {
        return at;
    }
    at = frames->free_head;
    if (at != NODE_NONE) {
        frames->free_head = frames->node[at].hash_next;
    } else {
        at = frames->fresh++;
    }
    frames->in_use++;
    head = frames_bucket(frames, key);
    frames->node[at] = (struct frame_node){
        .key = key,
        .hash_next = *head,
        .leaves = REF_NONE,
        .pages = POOL_NONE,
    };
    *head = at;
    return at;
}

void frames_put(struct frame_index *frames, uint32_t index)
{
    struct frame_node *node = &frames->node[index];
    uint32_t *at;

    if (node->leaves != REF_NONE || node->pages != POOL_NONE || node->shadowed != 0 ||
        node->nested) {
        return;
    }
    for (at = frames_bucket(frames, node->key); *at != index;
         at = &frames->node[*at].hash_next) {
    }
    *at = node->hash_next;
    node->key = UINT64_MAX;
    node->hash_next = frames->free_head;
    frames->free_head = index;
    frames->in_use--;
}
