/* SPDX-License-Identifier: MIT */
/*
 * Hostile logs of page tables, read and replayed under every kind of paging. The input is a log
 * whose checksums are made right; or, if it does not begin like one, changes to a true one that
 * is built here.
 */
#include <stdlib.h>
#include <zlib.h>

#include "fuzz.h"
#include "shadowpt-sim/trace/replay.h"

enum { MAX_STOPS = 8, MAX_CHANGES = 4096 };

/* Chunks keep their checksums right, as far as the shape is still there. */
static void mend(uint8_t *bytes, size_t size)
{
    for (size_t at = PTLOG_HEAD_SIZE; size - at >= PTLOG_CHUNK_SIZE && at <= size;) {
        uint32_t stored = load_le32(bytes + at + 8);

        if (stored > size - at - PTLOG_CHUNK_SIZE) {
            return;
        }
        store_le32(bytes + at + 12,
                   (uint32_t)crc32_z(crc32_z(0, bytes + at, 12),
                                     bytes + at + PTLOG_CHUNK_SIZE, stored));
        at += PTLOG_CHUNK_SIZE + stored;
    }
}

static void replay_all(const uint8_t *bytes, size_t size, enum sim_kind kind)
{
    const struct replay_config config = { .cost = cost_default, .shadow_pages = 256 };
    struct replay *replay = NULL;
    const struct ptlog_stop *stop;
    struct ptlog_reader *reader;
    struct umbra_error error;

    if (ptlog_reader_create(bytes, size, &reader, &error) != 0) {
        FUZZ_EXPECT(error.message[0] != '\0');
        return;
    }
    if (replay_create(ptlog_reader_meta(reader), &config, kind, &replay, &error) == 0) {
        for (unsigned stops = 0; stops < MAX_STOPS; stops++) {
            if (ptlog_reader_next(reader, &stop, &error) != 1 ||
                stop->changes > MAX_CHANGES || replay_stop(replay, stop, &error) != 0) {
                break;
            }
            FUZZ_EXPECT(replay_audit(replay, &error) == 0);
        }
        replay_destroy(replay);
    }
    ptlog_reader_destroy(reader);
}

/* Stops with a byte stream as the entries of four tables. */
static size_t build(const uint8_t *data, size_t size, char **bytes)
{
    const struct ptlog_meta meta = { .cpus = 2,
                                     .cpu = MMU_CPU_DEFAULT,
                                     .ranges = 1,
                                     .range = { { 0, 16 * MIB, false } } };
    struct ptlog_cpu cpu[2] = { { CR0_PE | CR0_PG | CR0_WP, 0x1000, CR4_PAE | CR4_PGE,
                                  EFER_LME | EFER_LMA | EFER_NXE, 0 } };
    struct ptlog_writer *writer;
    struct page_image image;
    struct umbra_error error;
    size_t length;
    FILE *out = open_memstream(bytes, &length);

    FUZZ_EXPECT(out != NULL && ptlog_writer_create(out, &meta, &writer, &error) == 0);
    image_init(&image, NULL, NULL);
    for (unsigned i = 1; i <= 4; i++) {
        FUZZ_EXPECT(image_page(&image, i * MMU_PAGE_SIZE) != NULL);
    }
    for (unsigned stop = 0; stop < MAX_STOPS && size > 0; stop++) {
        for (unsigned n = 0; n < 16 && size >= 8; n++, data += 8, size -= 8) {
            uint64_t word = load_le64(data);
            uint64_t *page = image_page(&image, ((word & 3) + 1) * MMU_PAGE_SIZE);

            /* Few slots and near tables, so that ways lead somewhere. */
            page[word >> 2 & 7] = (word >> 8 & 0xff1) |
                                  (word >> 20 & 7) << MMU_PAGE_SHIFT | (word & PTE_NX) |
                                  (word >> 24 & 0xe00000);
        }
        cpu[1] = cpu[0];
        cpu[1].cr3 = (1 + (size & 3)) * MMU_PAGE_SIZE;
        cpu[1].cr4 ^= size & 4 ? CR4_SMEP : 0;
        FUZZ_EXPECT(ptlog_write_stop(writer, stop, cpu, &image, &error) == 0);
        size -= size < 8 ? size : 0;
    }
    FUZZ_EXPECT(ptlog_writer_finish(writer, &error) == 0);
    ptlog_writer_destroy(writer);
    image_destroy(&image);
    FUZZ_EXPECT(fclose(out) == 0);
    return length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum sim_kind kind;
    size_t length;
    char *bytes;

    if (size < 1) {
        return 0;
    }
    kind = (enum sim_kind)(data[0] % SIM_KINDS);
    data++;
    size--;
    if (size >= PTLOG_HEAD_SIZE && memcmp(data, PTLOG_MAGIC, 8) == 0) {
        uint8_t *copy = malloc(size);

        FUZZ_EXPECT(copy != NULL);
        memcpy(copy, data, size);
        replay_all(copy, size, kind); /* as it is */
        mend(copy, size);
        replay_all(copy, size, kind);
        free(copy);
        return 0;
    }
    length = build(data, size, &bytes);
    replay_all((const uint8_t *)bytes, length, kind);
    free(bytes);
    return 0;
}
