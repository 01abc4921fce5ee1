/* SPDX-License-Identifier: MIT */
/* Logs of page tables: the writer. */
#include "shadowpt-sim/trace/ptlog.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/error.h"

enum { WORDS = 512, COMPRESSION = 9 };

/* A table on the way of this stop's walk. */
struct table {
    uint64_t gpa, gva;
    uint8_t level, cpu;
};

struct ptlog_writer {
    FILE *out;
    struct ptlog_meta meta;
    struct page_image last; /* what the log's reader knows */
    struct table *table;    /* of this stop, in the order of discovery */
    size_t tables, table_capacity;
    uint64_t *seen; /* frames + 1 of these: open addressing */
    size_t seen_capacity;
    uint8_t *bytes;
    size_t used, capacity;
    uint32_t stops;
};

/* ---- Chunks ------------------------------------------------------------------------------- */

static int put(struct ptlog_writer *writer, uint64_t value, unsigned size)
{
    if (writer->capacity - writer->used < size) {
        size_t capacity = 2 * writer->capacity + 65536;
        uint8_t *grown = capacity <= PTLOG_MAX_CHUNK + (1u << 20)
                             ? realloc(writer->bytes, capacity)
                             : NULL;

        if (grown == NULL) {
            return -ENOMEM;
        }
        writer->bytes = grown;
        writer->capacity = capacity;
    }
    value = htole64(value);
    memcpy(writer->bytes + writer->used, &value, size);
    writer->used += size;
    return 0;
}

/* Write what was put as one chunk. */
static int chunk_write(struct ptlog_writer *writer, enum ptlog_chunk type)
{
    uLongf stored = compressBound(writer->used);
    uint8_t head[PTLOG_CHUNK_SIZE], *packed = malloc(stored), *payload = packed;
    uint32_t crc;
    int err = 0;

    if (packed == NULL || writer->used > PTLOG_MAX_CHUNK) {
        free(packed);
        return -ENOMEM;
    }
    if (compress2(packed, &stored, writer->bytes, writer->used, COMPRESSION) != Z_OK ||
        stored >= writer->used) {
        stored = writer->used;
        payload = writer->bytes;
    }
    store_le32(head, type);
    store_le32(head + 4, (uint32_t)writer->used);
    store_le32(head + 8, (uint32_t)stored);
    crc = (uint32_t)crc32_z(crc32_z(0, head, 12), payload, stored);
    store_le32(head + 12, crc);
    if (fwrite(head, sizeof(head), 1, writer->out) != 1 ||
        (stored > 0 && fwrite(payload, stored, 1, writer->out) != 1)) {
        err = errno != 0 ? -errno : -EIO;
    }
    free(packed);
    writer->used = 0;
    return err;
}

int ptlog_writer_create(FILE *out, const struct ptlog_meta *meta,
                        struct ptlog_writer **result, struct umbra_error *error)
{
    struct ptlog_writer *writer = calloc(1, sizeof(*writer));
    uint8_t head[PTLOG_HEAD_SIZE] = PTLOG_MAGIC;
    int err = writer != NULL ? 0 : -ENOMEM;

    *result = NULL;
    if (err == 0) {
        writer->out = out;
        writer->meta = *meta;
        image_init(&writer->last, NULL, NULL);
        store_le32(head + 8, PTLOG_VERSION);
        err = fwrite(head, sizeof(head), 1, out) == 1 ? 0 : -EIO;
    }
    if (err == 0) {
        err = put(writer, meta->cpus, 4) | put(writer, meta->cpu.maxphyaddr, 1) |
              put(writer, meta->cpu.gbpages, 1) | put(writer, meta->cpu.amd, 1) |
              put(writer, 0, 1) | put(writer, meta->ranges, 4);
    }
    for (unsigned i = 0; i < meta->ranges && err == 0; i++) {
        err = put(writer, meta->range[i].gpa, 8) | put(writer, meta->range[i].length, 8) |
              put(writer, meta->range[i].readonly, 8);
    }
    if (err == 0) {
        err = chunk_write(writer, PTLOG_META);
    }
    if (err != 0) {
        ptlog_writer_destroy(writer);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -err, "cannot begin the log");
    }
    *result = writer;
    return 0;
}

void ptlog_writer_destroy(struct ptlog_writer *writer)
{
    if (writer != NULL) {
        image_destroy(&writer->last);
        free(writer->table);
        free(writer->seen);
        free(writer->bytes);
        free(writer);
    }
}

/* ---- Tables of a stop ----------------------------------------------------------------------- */

/* Remember a frame; false if it was known. -ENOSPC through *@err. */
static bool seen_add(struct ptlog_writer *writer, uint64_t gpa, int *err)
{
    uint64_t key = (gpa >> MMU_PAGE_SHIFT) + 1;
    size_t at;

    if (writer->seen == NULL) {
        writer->seen_capacity = (size_t)2 * PTLOG_TABLES;
        writer->seen = calloc(writer->seen_capacity, sizeof(*writer->seen));
        if (writer->seen == NULL) {
            *err = -ENOMEM;
            return false;
        }
    }
    at = (size_t)((key * 0x9e3779b97f4a7c15ull) >> 40) & (writer->seen_capacity - 1);
    for (; writer->seen[at] != 0; at = (at + 1) & (writer->seen_capacity - 1)) {
        if (writer->seen[at] == key) {
            return false;
        }
    }
    if (writer->tables == PTLOG_TABLES) {
        *err = -ENOSPC;
        return false;
    }
    writer->seen[at] = key;
    return true;
}

static int table_add(struct ptlog_writer *writer, const struct table *table)
{
    int err = 0;

    if (!seen_add(writer, table->gpa, &err)) {
        return err;
    }
    if (writer->tables == writer->table_capacity) {
        size_t capacity = 2 * writer->table_capacity + 256;
        struct table *grown = realloc(writer->table, capacity * sizeof(*grown));

        if (grown == NULL) {
            return -ENOMEM;
        }
        writer->table = grown;
        writer->table_capacity = capacity;
    }
    writer->table[writer->tables++] = *table;
    return 0;
}

/* The tables that a table of level 2 or more leads to. */
static int table_follow(struct ptlog_writer *writer, const struct mmu_mode *mode,
                        struct page_image *image, size_t index)
{
    const struct table table = writer->table[index];
    const uint64_t *words = image_find(image, table.gpa);
    int err = 0;

    for (unsigned i = 0; words != NULL && i < WORDS && err == 0; i++) {
        uint64_t entry = le64toh(words[i]);
        bool large = (entry & PTE_PS) && ((mode->large_levels >> table.level) & 1);
        struct table next = {
            .gpa = entry & PTE_ADDRESS_MASK,
            .gva = table.gva + ((uint64_t)i << mmu_level_shift(mode, table.level)),
            .level = table.level - 1,
            .cpu = table.cpu,
        };

        if ((entry & PTE_P) && !large && !(entry & mode->reserved[0][table.level]) &&
            ptlog_backed(&writer->meta, next.gpa)) {
            err = table_add(writer, &next);
        }
    }
    return err;
}

static int collect(struct ptlog_writer *writer, const struct ptlog_cpu *cpus,
                   struct page_image *image)
{
    int err = 0;

    writer->tables = 0;
    if (writer->seen != NULL) {
        memset(writer->seen, 0, writer->seen_capacity * sizeof(*writer->seen));
    }
    for (unsigned i = 0; i < writer->meta.cpus && err == 0; i++) {
        size_t at = writer->tables;
        struct mmu_mode mode;
        struct table root = { .gpa = cpus[i].cr3 & PTE_ADDRESS_MASK, .cpu = (uint8_t)i };

        ptlog_mode(&writer->meta, &cpus[i], &mode);
        root.level = mode.levels;
        if (mode.format != MMU_FORMAT_LONG || !ptlog_backed(&writer->meta, root.gpa)) {
            continue;
        }
        err = table_add(writer, &root);
        for (; at < writer->tables && err == 0; at++) {
            if (writer->table[at].level > 1) {
                err = table_follow(writer, &mode, image, at);
            }
        }
    }
    return err;
}

/* Put a table's changed entries; *@changed: whether there were any. */
static int put_table(struct ptlog_writer *writer, const struct table *table,
                     struct page_image *image, bool *changed)
{
    const uint64_t *now = image_find(image, table->gpa);
    bool fresh = image_find(&writer->last, table->gpa) == NULL;
    uint64_t *then = image_page(&writer->last, table->gpa), before = 0;
    unsigned count = 0;
    int err = 0;

    if (now == NULL || then == NULL) {
        return now == NULL ? 0 : -ENOMEM;
    }
    for (unsigned i = 0; i < WORDS; i++) {
        count += now[i] != then[i];
    }
    *changed = count > 0 || fresh;
    if (!*changed) {
        return 0;
    }
    err = put(writer, table->gpa, 8) | put(writer, table->gva, 8) |
          put(writer, table->level, 1) | put(writer, table->cpu, 1) |
          put(writer, count, 2);
    for (unsigned i = 0; i < WORDS && err == 0; i++) {
        if (now[i] != then[i]) {
            err = put(writer, i, 2) | put(writer, le64toh(now[i]) - before, 8);
            before = le64toh(now[i]);
            then[i] = now[i];
        }
    }
    return err;
}

int ptlog_write_stop(struct ptlog_writer *writer, uint64_t time_ns,
                     const struct ptlog_cpu *cpus, struct page_image *image,
                     struct umbra_error *error)
{
    uint32_t changed = 0;
    size_t count_at;
    int err = collect(writer, cpus, image);

    writer->used = 0;
    if (err == 0) {
        err = put(writer, time_ns, 8);
    }
    for (unsigned i = 0; i < writer->meta.cpus && err == 0; i++) {
        err = put(writer, cpus[i].cr0, 8) | put(writer, cpus[i].cr3, 8) |
              put(writer, cpus[i].cr4, 8) | put(writer, cpus[i].efer, 8) |
              put(writer, cpus[i].pkru, 8);
    }
    if (err == 0) {
        err = put(writer, writer->tables, 4) | put(writer, 0, 4);
    }
    count_at = writer->used - 4;
    for (size_t i = 0; i < writer->tables && err == 0; i++) {
        bool any = false;

        err = put_table(writer, &writer->table[i], image, &any);
        changed += any;
    }
    if (err == 0) {
        store_le32(writer->bytes + count_at, changed);
        err = chunk_write(writer, PTLOG_STOP);
        writer->stops++;
    }
    return err == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_INTERNAL, -err,
                                  "cannot record a stop (%zu tables)", writer->tables);
}

int ptlog_write_stats(struct ptlog_writer *writer, const struct ptlog_stat *stats,
                      unsigned count, struct umbra_error *error)
{
    int err = 0;

    for (unsigned i = 0; i < count && i < PTLOG_STATS && err == 0; i++) {
        for (unsigned n = 0; n < sizeof(stats[i].name) && err == 0; n++) {
            err = put(writer, (uint8_t)stats[i].name[n], 1);
        }
        err = err == 0 ? put(writer, stats[i].value, 8) : err;
    }
    if (err == 0) {
        err = chunk_write(writer, PTLOG_KVM);
    }
    return err == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_INTERNAL, -err,
                                  "cannot record KVM's statistics");
}

int ptlog_writer_finish(struct ptlog_writer *writer, struct umbra_error *error)
{
    int err = put(writer, writer->stops, 4);

    if (err == 0) {
        err = chunk_write(writer, PTLOG_END);
    }
    if (err == 0 && fflush(writer->out) != 0) {
        err = -errno;
    }
    return err == 0
               ? 0
               : error_errno(error, UMBRA_ERROR_INTERNAL, -err, "cannot end the log");
}
