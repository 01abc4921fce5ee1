/* SPDX-License-Identifier: MIT */
/* Logs of page tables: the reader. Every length and number of a file is checked. */
#include "shadowpt-sim/trace/ptlog.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/error.h"

enum {
    WORDS = 512,
    META_SIZE = 12,
    RANGE_SIZE = 24,
    CPU_SIZE = 40,
    TABLE_SIZE = 20,
    ENTRY_SIZE = 10,
    STAT_SIZE = 56,
};

struct ptlog_reader {
    const uint8_t *bytes;
    size_t size, at;
    struct ptlog_meta meta;
    struct page_image image;
    struct ptlog_stop stop;
    uint8_t *chunk; /* the payload, unpacked */
    size_t chunk_size, chunk_at;
    uint32_t stops;
    struct ptlog_stat stat[PTLOG_STATS];
    unsigned stats;
};

bool ptlog_backed(const struct ptlog_meta *meta, uint64_t gpa)
{
    for (unsigned i = 0; i < meta->ranges; i++) {
        if (gpa - meta->range[i].gpa < meta->range[i].length) {
            return true;
        }
    }
    return false;
}

void ptlog_mode(const struct ptlog_meta *meta, const struct ptlog_cpu *cpu,
                struct mmu_mode *mode)
{
    *mode = (struct mmu_mode){ .cr0 = cpu->cr0,
                               .cr3 = cpu->cr3,
                               .cr4 = cpu->cr4,
                               .efer = cpu->efer,
                               .pkru = (uint32_t)cpu->pkru,
                               .cpu = meta->cpu };
    mmu_mode_update(mode);
}

static int damaged(const struct ptlog_reader *reader, struct umbra_error *error,
                   const char *what)
{
    return error_set(error, UMBRA_ERROR_CONFIG, EPROTO,
                     "the log is damaged at byte %zu: %s", reader->at, what);
}

/* ---- Chunks ------------------------------------------------------------------------------- */

/* The next chunk into reader->chunk; its type, or -errno. */
static int chunk_read(struct ptlog_reader *reader, struct umbra_error *error)
{
    const uint8_t *head = reader->bytes + reader->at;
    uint32_t type, size, stored;
    uLongf length;

    if (reader->size - reader->at < PTLOG_CHUNK_SIZE) {
        return damaged(reader, error, "it is cut off");
    }
    type = load_le32(head);
    size = load_le32(head + 4);
    stored = load_le32(head + 8);
    if (stored > reader->size - reader->at - PTLOG_CHUNK_SIZE) {
        return damaged(reader, error, "it is cut off");
    }
    if (load_le32(head + 12) !=
        (uint32_t)crc32_z(crc32_z(0, head, 12), head + PTLOG_CHUNK_SIZE, stored)) {
        return damaged(reader, error, "wrong checksum");
    }
    if (size > PTLOG_MAX_CHUNK || stored > size) {
        return damaged(reader, error, "impossible size");
    }
    free(reader->chunk);
    reader->chunk = malloc(size + 1u);
    if (reader->chunk == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "reading the log");
    }
    length = size;
    if (stored == size) {
        memcpy(reader->chunk, head + PTLOG_CHUNK_SIZE, size);
    } else if (uncompress(reader->chunk, &length, head + PTLOG_CHUNK_SIZE, stored) !=
                   Z_OK ||
               length != size) {
        return damaged(reader, error, "its contents do not unpack");
    }
    reader->chunk_size = size;
    reader->chunk_at = 0;
    reader->at += PTLOG_CHUNK_SIZE + stored;
    return (int)(type & INT32_MAX);
}

/* @size more bytes of the chunk, or NULL. */
static const uint8_t *take(struct ptlog_reader *reader, size_t size)
{
    const uint8_t *bytes = reader->chunk + reader->chunk_at;

    if (reader->chunk_size - reader->chunk_at < size) {
        return NULL;
    }
    reader->chunk_at += size;
    return bytes;
}

static const char *meta_read(struct ptlog_reader *reader)
{
    const uint8_t *bytes = take(reader, META_SIZE);
    struct ptlog_meta *meta = &reader->meta;
    uint64_t end = 0;

    if (bytes == NULL) {
        return "its head is cut off";
    }
    meta->cpus = load_le32(bytes);
    meta->cpu = (struct mmu_cpu){ .maxphyaddr = bytes[4],
                                  .gbpages = bytes[5] != 0,
                                  .pse36 = true,
                                  .amd = bytes[6] != 0 };
    meta->ranges = load_le32(bytes + 8);
    if (meta->cpus == 0 || meta->cpus > PTLOG_CPUS || meta->cpu.maxphyaddr < 32 ||
        meta->cpu.maxphyaddr > 52 || meta->ranges == 0 || meta->ranges > PTLOG_RANGES) {
        return "impossible CPUs or ranges of memory";
    }
    for (unsigned i = 0; i < meta->ranges; i++) {
        struct ptlog_range *range = &meta->range[i];

        bytes = take(reader, RANGE_SIZE);
        if (bytes == NULL) {
            return "its head is cut off";
        }
        range->gpa = load_le64(bytes);
        range->length = load_le64(bytes + 8);
        range->readonly = load_le64(bytes + 16) != 0;
        if (range->gpa < end || range->length == 0 ||
            ((range->gpa | range->length) & (MMU_PAGE_SIZE - 1)) ||
            range->gpa >> 52 != 0 || range->length > ((uint64_t)1 << 52) - range->gpa) {
            return "impossible ranges of memory";
        }
        end = range->gpa + range->length;
    }
    return NULL;
}

int ptlog_reader_create(const void *bytes, size_t size, struct ptlog_reader **result,
                        struct umbra_error *error)
{
    struct ptlog_reader *reader;
    const char *wrong = NULL;
    int ret;

    *result = NULL;
    if (size < PTLOG_HEAD_SIZE || memcmp(bytes, PTLOG_MAGIC, 8) != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EPROTO,
                         "this is no log of page tables (umbra mmu record makes them)");
    }
    if (load_le32((const uint8_t *)bytes + 8) != PTLOG_VERSION) {
        return error_set(error, UMBRA_ERROR_CONFIG, EPROTO,
                         "the log has version %" PRIu32 ", this umbra reads version %d",
                         load_le32((const uint8_t *)bytes + 8), PTLOG_VERSION);
    }
    reader = calloc(1, sizeof(*reader));
    if (reader == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "reading the log");
    }
    reader->bytes = bytes;
    reader->size = size;
    reader->at = PTLOG_HEAD_SIZE;
    image_init(&reader->image, NULL, NULL);
    ret = chunk_read(reader, error);
    if (ret >= 0) {
        wrong = ret == PTLOG_META ? meta_read(reader) : "it does not begin with META";
        ret = wrong != NULL ? damaged(reader, error, wrong) : 0;
    }
    if (ret < 0) {
        ptlog_reader_destroy(reader);
        return ret;
    }
    *result = reader;
    return 0;
}

void ptlog_reader_destroy(struct ptlog_reader *reader)
{
    if (reader != NULL) {
        image_destroy(&reader->image);
        free(reader->stop.change);
        free(reader->chunk);
        free(reader);
    }
}

const struct ptlog_meta *ptlog_reader_meta(const struct ptlog_reader *reader)
{
    return &reader->meta;
}

struct page_image *ptlog_reader_image(struct ptlog_reader *reader)
{
    return &reader->image;
}

/* ---- Stops ---------------------------------------------------------------------------------- */

static int change_add(struct ptlog_stop *stop, const struct ptlog_change *change)
{
    if (stop->changes == stop->capacity) {
        size_t capacity = 2 * stop->capacity + 256;
        struct ptlog_change *grown = realloc(stop->change, capacity * sizeof(*grown));

        if (grown == NULL) {
            return -ENOMEM;
        }
        stop->change = grown;
        stop->capacity = capacity;
    }
    stop->change[stop->changes++] = *change;
    return 0;
}

/* The changed entries of one table. 0, -ENOMEM, or -EPROTO with *@wrong. */
static int table_read(struct ptlog_reader *reader, const char **wrong)
{
    const uint8_t *bytes = take(reader, TABLE_SIZE);
    struct ptlog_change change;
    uint64_t gpa, gva, value = 0, *page;
    unsigned count, index = 0;

    *wrong = "impossible table";
    if (bytes == NULL) {
        return -EPROTO;
    }
    gpa = load_le64(bytes);
    gva = load_le64(bytes + 8);
    count = load_le16(bytes + 18);
    change = (struct ptlog_change){
        .level = bytes[16],
        .cpu = bytes[17],
        .fresh = image_find(&reader->image, gpa) == NULL,
    };
    if (gpa % MMU_PAGE_SIZE != 0 || !ptlog_backed(&reader->meta, gpa) || count > WORDS ||
        change.level < 1 || change.level > 5 || change.cpu >= reader->meta.cpus) {
        return -EPROTO;
    }
    if (reader->image.count > 2 * PTLOG_TABLES) {
        *wrong = "too many tables";
        return -EPROTO;
    }
    page = image_page(&reader->image, gpa);
    if (page == NULL) {
        return -ENOMEM;
    }
    for (unsigned i = 0; i < count; i++) {
        unsigned previous = index;

        bytes = take(reader, ENTRY_SIZE);
        if (bytes == NULL) {
            return -EPROTO;
        }
        index = load_le16(bytes);
        if (index >= WORDS || (i > 0 && index <= previous)) {
            return -EPROTO;
        }
        value += load_le64(bytes + 2);
        change.gpa = gpa + 8 * (uint64_t)index;
        change.old = le64toh(page[index]);
        change.value = value;
        change.gva = gva + ((uint64_t)index << (12 + 9 * (change.level - 1)));
        page[index] = htole64(value);
        if (change_add(&reader->stop, &change) != 0) {
            return -ENOMEM;
        }
    }
    return 0;
}

static int stop_read(struct ptlog_reader *reader, const char **wrong)
{
    struct ptlog_stop *stop = &reader->stop;
    const uint8_t *bytes = take(reader, 8 + (size_t)CPU_SIZE * reader->meta.cpus + 8);
    uint32_t tables;
    int err = 0;

    *wrong = "a stop is cut off";
    if (bytes == NULL) {
        return -EPROTO;
    }
    stop->changes = 0;
    stop->time_ns = load_le64(bytes);
    bytes += 8;
    for (unsigned i = 0; i < reader->meta.cpus; i++, bytes += CPU_SIZE) {
        stop->cpu[i] = (struct ptlog_cpu){ load_le64(bytes), load_le64(bytes + 8),
                                           load_le64(bytes + 16), load_le64(bytes + 24),
                                           load_le64(bytes + 32) };
    }
    stop->tables = load_le32(bytes);
    tables = load_le32(bytes + 4);
    for (uint32_t i = 0; i < tables && err == 0; i++) {
        err = table_read(reader, wrong);
    }
    if (err == 0 && reader->chunk_at != reader->chunk_size) {
        *wrong = "a stop has bytes left over";
        err = -EPROTO;
    }
    return err;
}

/* Names are for people: printable, and ended. */
static const char *stats_read(struct ptlog_reader *reader)
{
    const uint8_t *bytes;

    reader->stats = 0;
    while ((bytes = take(reader, STAT_SIZE)) != NULL) {
        struct ptlog_stat *stat = &reader->stat[reader->stats];
        size_t length = strnlen((const char *)bytes, sizeof(stat->name));

        if (reader->stats == PTLOG_STATS || length == sizeof(stat->name)) {
            return "impossible statistics";
        }
        for (size_t i = 0; i < length; i++) {
            if (bytes[i] <= ' ' || bytes[i] > '~' || strchr("\"\\", bytes[i]) != NULL) {
                return "impossible statistics";
            }
        }
        memset(stat->name, 0, sizeof(stat->name));
        memcpy(stat->name, bytes, length);
        stat->value = load_le64(bytes + STAT_SIZE - 8);
        reader->stats++;
    }
    return reader->chunk_at == reader->chunk_size ? NULL : "statistics are cut off";
}

const struct ptlog_stat *ptlog_reader_stats(const struct ptlog_reader *reader,
                                            unsigned *count)
{
    *count = reader->stats;
    return reader->stat;
}

int ptlog_reader_next(struct ptlog_reader *reader, const struct ptlog_stop **stop,
                      struct umbra_error *error)
{
    const char *wrong = "unknown chunk";
    const uint8_t *bytes;
    int ret = chunk_read(reader, error);

    if (ret == PTLOG_KVM) {
        wrong = stats_read(reader);
        if (wrong != NULL) {
            return damaged(reader, error, wrong);
        }
        wrong = "unknown chunk";
        ret = chunk_read(reader, error);
    }
    if (ret < 0) {
        return ret;
    }
    if (ret == PTLOG_END) {
        bytes = take(reader, 4);
        return bytes != NULL && load_le32(bytes) == reader->stops &&
                       reader->at == reader->size
                   ? 0
                   : damaged(reader, error, "its end is wrong");
    }
    ret = ret == PTLOG_STOP ? stop_read(reader, &wrong) : -EPROTO;
    if (ret == -ENOMEM) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "reading the log");
    }
    if (ret < 0) {
        return damaged(reader, error, wrong);
    }
    reader->stops++;
    *stop = &reader->stop;
    return 1;
}
