/* SPDX-License-Identifier: MIT */
/* Synthetic kernels: ELF, bzImage with a payload of any compression, multiboot. */
#ifndef TESTS_UNIT_BOOT_IMAGES_H
#define TESTS_UNIT_BOOT_IMAGES_H

#include <bzlib.h>
#include <elf.h>
#include <lz4hc.h>
#include <lzma.h>
#include <lzo/lzo1x.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/util.h"

/* Bytes that grow; free() data. Out of memory ends the test. */
struct bytes {
    uint8_t *data;
    size_t size;
};

static inline void *bytes_add(struct bytes *b, const void *data, size_t size)
{
    b->data = realloc(b->data, b->size + size + 1);
    if (b->data == NULL) {
        abort();
    }
    if (data != NULL) {
        memcpy(b->data + b->size, data, size);
    } else {
        memset(b->data + b->size, 0, size);
    }
    b->size += size;
    return b->data + b->size - size;
}

static inline void bytes_free(struct bytes *b)
{
    free(b->data);
    b->data = NULL;
    b->size = 0;
}

/* Bytes that compress a little and repeat nowhere. */
static inline void pattern_fill(uint8_t *to, size_t size)
{
    uint32_t x = 0x12345678;

    for (size_t i = 0; i < size; i++) {
        x = x * 1664525 + 1013904223;
        to[i] = (uint8_t)((x >> 24) & 0x3f);
    }
}

/* ---- ELF ----------------------------------------------------------------------------- */

struct elf_piece {
    uint64_t address, virtual_address;
    size_t file_size, memory_size;
};

struct elf_spec {
    bool is32;
    uint16_t machine; /* 0: by class */
    uint64_t entry;
    const struct elf_piece *pieces;
    unsigned count;
    bool pvh;
    uint64_t pvh_entry;
    const char *text; /* put at the start of the first piece */
};

static inline void elf_make_header(struct bytes *out, const struct elf_spec *spec,
                                   unsigned phnum)
{
    uint16_t machine = spec->machine != 0 ? spec->machine : EM_X86_64;

    if (spec->is32) {
        Elf32_Ehdr h = { .e_ident = ELFMAG, .e_type = ET_EXEC, .e_version = 1 };

        h.e_machine = spec->machine != 0 ? spec->machine : EM_386;
        h.e_ident[EI_CLASS] = ELFCLASS32;
        h.e_ident[EI_DATA] = ELFDATA2LSB;
        h.e_entry = (uint32_t)spec->entry;
        h.e_phoff = h.e_ehsize = sizeof(h);
        h.e_phentsize = sizeof(Elf32_Phdr);
        h.e_phnum = (uint16_t)phnum;
        bytes_add(out, &h, sizeof(h));
    } else {
        Elf64_Ehdr h = { .e_ident = ELFMAG, .e_type = ET_EXEC, .e_version = 1 };

        h.e_machine = machine;
        h.e_ident[EI_CLASS] = ELFCLASS64;
        h.e_ident[EI_DATA] = ELFDATA2LSB;
        h.e_entry = spec->entry;
        h.e_phoff = h.e_ehsize = sizeof(h);
        h.e_phentsize = sizeof(Elf64_Phdr);
        h.e_phnum = (uint16_t)phnum;
        bytes_add(out, &h, sizeof(h));
    }
}

static inline void elf_make_program_header(struct bytes *out, bool is32, uint32_t type,
                                           const struct elf_piece *piece, size_t offset)
{
    if (is32) {
        Elf32_Phdr h = { type,
                         (uint32_t)offset,
                         (uint32_t)piece->virtual_address,
                         (uint32_t)piece->address,
                         (uint32_t)piece->file_size,
                         (uint32_t)piece->memory_size,
                         PF_R | PF_X,
                         4 };

        bytes_add(out, &h, sizeof(h));
    } else {
        Elf64_Phdr h = { type,
                         PF_R | PF_X,
                         offset,
                         piece->virtual_address,
                         piece->address,
                         piece->file_size,
                         piece->memory_size,
                         4 };

        bytes_add(out, &h, sizeof(h));
    }
}

/* Headers, the PVH note, then each piece's pattern. */
static inline void elf_make(struct bytes *out, const struct elf_spec *spec)
{
    unsigned phnum = spec->count + spec->pvh;
    size_t note = (spec->is32 ? sizeof(Elf32_Ehdr) : sizeof(Elf64_Ehdr)) +
                  phnum * (spec->is32 ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr));
    size_t offset = note + (spec->pvh ? 20 : 0);

    elf_make_header(out, spec, phnum);
    for (unsigned i = 0; i < spec->count; i++) {
        elf_make_program_header(out, spec->is32, PT_LOAD, &spec->pieces[i], offset);
        offset += spec->pieces[i].file_size;
    }
    if (spec->pvh) {
        const struct elf_piece piece = { .file_size = 20, .memory_size = 20 };
        uint8_t *body;

        elf_make_program_header(out, spec->is32, PT_NOTE, &piece, note);
        body = bytes_add(out, NULL, 20);
        store_le32(body, 4);
        store_le32(body + 4, 4);
        store_le32(body + 8, 18);
        memcpy(body + 12, "Xen", 4);
        store_le32(body + 16, (uint32_t)spec->pvh_entry);
    }
    for (unsigned i = 0; i < spec->count; i++) {
        uint8_t *body = bytes_add(out, NULL, spec->pieces[i].file_size);

        pattern_fill(body, spec->pieces[i].file_size);
        if (i == 0 && spec->text != NULL) {
            memcpy(body, spec->text, strlen(spec->text));
        }
    }
}

/* ---- Compression, in the containers that the kernel's build uses --------------------- */

enum packing {
    PACK_GZIP,
    PACK_XZ,
    PACK_ZSTD,
    PACK_LZ4,
    PACK_BZIP2,
    PACK_LZMA,
    PACK_LZO,
    PACK_COUNT
};

static const char *const packing_names[PACK_COUNT] = { "gzip",  "xz",   "zstd", "lz4",
                                                       "bzip2", "lzma", "lzo" };

static inline void pack_gzip(struct bytes *out, const uint8_t *in, size_t size)
{
    z_stream stream = { 0 };
    size_t room = size + size / 8 + 256;

    stream.next_in = (Bytef *)(uintptr_t)in;
    stream.avail_in = (uInt)size;
    stream.next_out = bytes_add(out, NULL, room);
    stream.avail_out = (uInt)room;
    if (deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, 0) != Z_OK ||
        deflate(&stream, Z_FINISH) != Z_STREAM_END) {
        abort();
    }
    out->size -= stream.avail_out;
    deflateEnd(&stream);
}

static inline void pack_lzma(struct bytes *out, const uint8_t *in, size_t size, bool xz)
{
    lzma_stream stream = LZMA_STREAM_INIT;
    size_t room = size + size / 8 + 1024;
    lzma_options_lzma options;
    lzma_filter filters[3] = { { LZMA_FILTER_X86, NULL },
                               { LZMA_FILTER_LZMA2, &options },
                               { LZMA_VLI_UNKNOWN, NULL } };

    lzma_lzma_preset(&options, 1);
    stream.next_out = bytes_add(out, NULL, room);
    stream.avail_out = room;
    stream.next_in = in;
    stream.avail_in = size;
    if ((xz ? lzma_stream_encoder(&stream, filters, LZMA_CHECK_CRC32)
            : lzma_alone_encoder(&stream, &options)) != LZMA_OK ||
        lzma_code(&stream, LZMA_FINISH) != LZMA_STREAM_END) {
        abort();
    }
    out->size -= stream.avail_out;
    lzma_end(&stream);
}

static inline void pack_lz4(struct bytes *out, const uint8_t *in, size_t size)
{
    store_le32(bytes_add(out, NULL, 4), 0x184c2102);
    for (size_t at = 0; at < size; at += 8 << 20) {
        size_t block = size - at < 8 << 20 ? size - at : 8 << 20;
        int room = LZ4_compressBound((int)block);
        size_t start = out->size;
        char *to = bytes_add(out, NULL, 4 + (size_t)room);
        int got = LZ4_compress_default((const char *)in + at, to + 4, (int)block, room);

        store_le32(out->data + start, (uint32_t)got);
        out->size = start + 4 + (size_t)got;
    }
}

static inline void bytes_be32(struct bytes *out, uint32_t value)
{
    const uint8_t be[4] = { (uint8_t)(value >> 24), (uint8_t)(value >> 16),
                            (uint8_t)(value >> 8), (uint8_t)value };

    bytes_add(out, be, 4);
}

/* As `lzop` writes it: version 0x1040, Adler-32 of the unpacked blocks, no file name. */
static inline void pack_lzo(struct bytes *out, const uint8_t *in, size_t size)
{
    static const uint8_t head[] = { 0x89, 'L',  'Z',  'O',  0,    '\r', '\n',
                                    0x1a, '\n', 0x10, 0x40, 0x20, 0xa0, 0x09,
                                    0x40, 1,    5,    0x03, 0,    0,    0x01 };
    static const uint8_t rest[4 + 4 + 4 + 1 + 4] = { 0 };
    enum { BLOCK = 256 << 10 };
    lzo_voidp work = malloc(LZO1X_1_MEM_COMPRESS);

    if (work == NULL || lzo_init() != LZO_E_OK) {
        abort();
    }
    bytes_add(out, head, sizeof(head));
    bytes_add(out, rest, sizeof(rest));
    for (size_t at = 0; at < size; at += BLOCK) {
        size_t block = size - at < BLOCK ? size - at : BLOCK, start;
        lzo_uint got = 0;
        uint8_t *to;

        bytes_be32(out, (uint32_t)block);
        bytes_be32(out, 0);
        bytes_be32(out, (uint32_t)adler32(adler32(0, NULL, 0), in + at, (uInt)block));
        start = out->size;
        to = bytes_add(out, NULL, block + block / 16 + 64 + 3);
        lzo1x_1_compress(in + at, block, to, &got, work);
        if (got >= block) {
            memcpy(to, in + at, block);
            got = block;
        }
        out->size = start + got;
        out->data[start - 8] = (uint8_t)(got >> 24);
        out->data[start - 7] = (uint8_t)(got >> 16);
        out->data[start - 6] = (uint8_t)(got >> 8);
        out->data[start - 5] = (uint8_t)got;
    }
    bytes_be32(out, 0);
    free(work);
}

/* @in packed, and for all but gzip its size appended as the kernel's build does. */
static inline void pack(struct bytes *out, enum packing packing, const uint8_t *in,
                        size_t size)
{
    size_t room = size + size / 8 + 1024, start = out->size;
    unsigned got = (unsigned)room;
    uint8_t *to;

    switch (packing) {
    case PACK_GZIP:
        pack_gzip(out, in, size);
        return;
    case PACK_XZ:
    case PACK_LZMA:
        pack_lzma(out, in, size, packing == PACK_XZ);
        break;
    case PACK_ZSTD:
        to = bytes_add(out, NULL, room);
        out->size = start + ZSTD_compress(to, room, in, size, 3);
        break;
    case PACK_LZ4:
        pack_lz4(out, in, size);
        break;
    case PACK_BZIP2:
        to = bytes_add(out, NULL, room);
        if (BZ2_bzBuffToBuffCompress((char *)to, &got, (char *)(uintptr_t)in,
                                     (unsigned)size, 1, 0, 0) != BZ_OK) {
            abort();
        }
        out->size = start + got;
        break;
    case PACK_LZO:
        pack_lzo(out, in, size);
        break;
    case PACK_COUNT:
        abort();
    }
    store_le32(bytes_add(out, NULL, 4), (uint32_t)size);
}

/* ---- bzImage ------------------------------------------------------------------------- */

struct bzimage_spec {
    uint16_t version; /* 0: 2.15 */
    uint16_t xloadflags;
    uint32_t init_size, cmdline_size, initrd_addr_max;
    uint64_t pref_address;
};

static const struct bzimage_spec bzimage_default = { .version = 0x20f,
                                                     .xloadflags = 3,
                                                     .init_size = 4 << 20,
                                                     .cmdline_size = 2047,
                                                     .initrd_addr_max = 0x7fffffff,
                                                     .pref_address = 16 << 20 };

enum { BZIMAGE_SETUP = 3 * 512, BZIMAGE_STUB = 1024 };

/* A setup header, a stub of zeroes, then @payload. */
static inline void bzimage_make(struct bytes *out, const struct bzimage_spec *spec,
                                const void *payload, size_t size)
{
    uint8_t *h = bytes_add(out, NULL, BZIMAGE_SETUP + BZIMAGE_STUB);

    h[0x1f1] = BZIMAGE_SETUP / 512 - 1;
    store_le16(h + 0x1fe, 0xaa55);
    h[0x200] = 0xeb;
    h[0x201] = 0x6a;
    memcpy(h + 0x202, "HdrS", 4);
    store_le16(h + 0x206, spec->version);
    store_le16(h + 0x20e, 0x100);
    memcpy(h + 0x300, "6.1.0-test (builder) #1", 24);
    h[0x211] = 1;
    store_le32(h + 0x214, 0x100000);
    store_le32(h + 0x22c, spec->initrd_addr_max);
    store_le32(h + 0x230, 0x200000);
    h[0x234] = 1;
    store_le16(h + 0x236, spec->xloadflags);
    store_le32(h + 0x238, spec->cmdline_size);
    store_le32(h + 0x248, BZIMAGE_STUB);
    store_le32(h + 0x24c, (uint32_t)size);
    store_le64(h + 0x258, spec->pref_address);
    store_le32(h + 0x260, spec->init_size);
    bytes_add(out, payload, size);
}

/* ---- multiboot ----------------------------------------------------------------------- */

/* An image with address fields, loaded at @load, the header at its start. */
static inline void multiboot_make(struct bytes *out, uint32_t load, size_t body,
                                  uint32_t bss)
{
    enum { HEADER = 32 };
    const uint32_t flags = 0x10003;
    uint8_t *h = bytes_add(out, NULL, HEADER + body);

    store_le32(h, 0x1badb002);
    store_le32(h + 4, flags);
    store_le32(h + 8, -(0x1badb002u + flags));
    store_le32(h + 12, load);
    store_le32(h + 16, load);
    store_le32(h + 20, (uint32_t)(load + HEADER + body));
    store_le32(h + 24, (uint32_t)(load + HEADER + body + bss));
    store_le32(h + 28, load + HEADER);
    pattern_fill(h + HEADER, body);
}

#endif
