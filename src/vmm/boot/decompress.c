/* SPDX-License-Identifier: MIT */
/*
 * Unpacking the formats that a Linux kernel image is compressed with. The library of a
 * format is loaded when a kernel is in it: five of them in every umbra would be a seventh
 * of its memory.
 */
#include <bzlib.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <lzo/lzo1x.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include "base/error.h"
#include "base/library.h"
#include "vmm/boot/boot.h"

/* Enough for the largest dictionaries that kernels are packed with (128 MiB). */
#define DECOMPRESS_MEMORY_LIMIT (256 * MIB)

/* What is called of the libraries; those of the format at hand are filled in. */
struct codec {
    typeof(&lzma_stream_decoder) lzma_stream_decoder;
    typeof(&lzma_alone_decoder) lzma_alone_decoder;
    typeof(&lzma_code) lzma_code;
    typeof(&lzma_end) lzma_end;
    typeof(&BZ2_bzDecompressInit) BZ2_bzDecompressInit;
    typeof(&BZ2_bzDecompress) BZ2_bzDecompress;
    typeof(&BZ2_bzDecompressEnd) BZ2_bzDecompressEnd;
    typeof(&ZSTD_createDCtx) ZSTD_createDCtx;
    typeof(&ZSTD_decompressStream) ZSTD_decompressStream;
    typeof(&ZSTD_isError) ZSTD_isError;
    typeof(&ZSTD_getErrorName) ZSTD_getErrorName;
    typeof(&ZSTD_freeDCtx) ZSTD_freeDCtx;
    typeof(&LZ4_compressBound) LZ4_compressBound;
    typeof(&LZ4_decompress_safe) LZ4_decompress_safe;
    typeof(&lzo1x_decompress_safe) lzo1x_decompress_safe;
};

#define CODEC(function)                                                                  \
    {                                                                                    \
#function, offsetof(struct codec, function)                                      \
    }

static const struct library_symbol lzma_symbols[] = {
    CODEC(lzma_stream_decoder),
    CODEC(lzma_alone_decoder),
    CODEC(lzma_code),
    CODEC(lzma_end),
};
static const struct library_symbol bzip2_symbols[] = {
    CODEC(BZ2_bzDecompressInit),
    CODEC(BZ2_bzDecompress),
    CODEC(BZ2_bzDecompressEnd),
};
static const struct library_symbol zstd_symbols[] = {
    CODEC(ZSTD_createDCtx),   CODEC(ZSTD_decompressStream), CODEC(ZSTD_isError),
    CODEC(ZSTD_getErrorName), CODEC(ZSTD_freeDCtx),
};
static const struct library_symbol lz4_symbols[] = {
    CODEC(LZ4_compressBound),
    CODEC(LZ4_decompress_safe),
};
static const struct library_symbol lzo_symbols[] = { CODEC(lzo1x_decompress_safe) };

/* Input yet to read and output that grows up to a limit. */
struct unpacker {
    const uint8_t *input;
    size_t input_left;
    uint8_t *output;
    size_t used, capacity, limit;
    const char *name; /* of the format */
    struct codec codec;
};

static int unpacker_corrupt(const struct unpacker *unpacker, const char *detail,
                            struct umbra_error *error)
{
    return error_set(error, UMBRA_ERROR_CONFIG, EBADMSG,
                     "its %s data is corrupt or cut off after %zu unpacked bytes (%s); "
                     "fetch or build the image again",
                     unpacker->name, unpacker->used, detail);
}

static int unpacker_no_memory(const struct unpacker *unpacker, struct umbra_error *error)
{
    return error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                     "no memory to unpack its %s data (%zu bytes so far)", unpacker->name,
                     unpacker->used);
}

/* Room for at least one more byte; -EFBIG at the limit. */
static int unpacker_grow(struct unpacker *unpacker, size_t least,
                         struct umbra_error *error)
{
    size_t capacity = unpacker->capacity;
    uint8_t *output;

    if (unpacker->capacity - unpacker->used >= least) {
        return 0;
    }
    if (least > unpacker->limit - unpacker->used) {
        return error_set(error, UMBRA_ERROR_CONFIG, EFBIG,
                         "its %s data unpacks to more than the %zu bytes that the guest "
                         "has memory for; give the guest more memory",
                         unpacker->name, unpacker->limit);
    }
    capacity = capacity < 64 * KIB ? 64 * KIB : capacity;
    while (capacity - unpacker->used < least) {
        capacity = capacity > unpacker->limit / 2 ? unpacker->limit : capacity * 2;
    }
    capacity = capacity < unpacker->limit ? capacity : unpacker->limit;
    output = realloc(unpacker->output, capacity);
    if (output == NULL) {
        return unpacker_no_memory(unpacker, error);
    }
    if (capacity >= 4 * MIB) { /* fewer page faults, where the host has huge pages */
        uintptr_t page = align_up((uintptr_t)output, 4096);

        madvise((void *)page, (uintptr_t)output + capacity - page, MADV_HUGEPAGE);
    }
    unpacker->output = output;
    unpacker->capacity = capacity;
    return 0;
}

/* At most what a 32-bit library counter holds. */
static unsigned unpacker_chunk(size_t left)
{
    return left < GIB ? (unsigned)left : (unsigned)GIB;
}

static int unpack_gzip(struct unpacker *u, struct umbra_error *error)
{
    z_stream stream = { .next_in = (z_const Bytef *)(uintptr_t)u->input };
    int result = 0, status = inflateInit2(&stream, 16 + MAX_WBITS);

    if (status != Z_OK) {
        return unpacker_no_memory(u, error);
    }
    while (status != Z_STREAM_END) {
        unsigned given = unpacker_chunk(u->input_left), room;

        result = unpacker_grow(u, 1, error);
        if (result != 0) {
            break;
        }
        room = unpacker_chunk(u->capacity - u->used);
        stream.avail_in = given;
        stream.next_out = u->output + u->used;
        stream.avail_out = room;
        status = inflate(&stream, Z_NO_FLUSH);
        u->input_left -= given - stream.avail_in;
        u->used += room - stream.avail_out;
        if (status != Z_OK && status != Z_STREAM_END) {
            result = unpacker_corrupt(u, stream.msg != NULL ? stream.msg : "ends early",
                                      error);
            break;
        }
    }
    inflateEnd(&stream);
    return result;
}

/* xz and legacy lzma. */
static int unpack_lzma_stream(struct unpacker *u, lzma_stream *stream,
                              struct umbra_error *error)
{
    lzma_ret status = LZMA_OK;
    int result = 0;

    stream->next_in = u->input;
    stream->avail_in = u->input_left;
    while (status != LZMA_STREAM_END) {
        size_t room;

        result = unpacker_grow(u, 1, error);
        if (result != 0) {
            break;
        }
        room = u->capacity - u->used;
        stream->next_out = u->output + u->used;
        stream->avail_out = room;
        status = u->codec.lzma_code(stream, LZMA_RUN);
        u->used += room - stream->avail_out;
        if (status == LZMA_MEM_ERROR) {
            result = unpacker_no_memory(u, error);
            break;
        }
        if (status != LZMA_OK && status != LZMA_STREAM_END) {
            result = unpacker_corrupt(u,
                                      status == LZMA_BUF_ERROR ? "ends early"
                                      : status == LZMA_MEMLIMIT_ERROR
                                          ? "dictionary above 256 MiB"
                                          : "bad data",
                                      error);
            break;
        }
    }
    u->codec.lzma_end(stream);
    return result;
}

static int unpack_xz(struct unpacker *u, struct umbra_error *error)
{
    lzma_stream stream = LZMA_STREAM_INIT;

    if (u->codec.lzma_stream_decoder(&stream, DECOMPRESS_MEMORY_LIMIT, 0) != LZMA_OK) {
        return unpacker_no_memory(u, error);
    }
    return unpack_lzma_stream(u, &stream, error);
}

static int unpack_lzma(struct unpacker *u, struct umbra_error *error)
{
    lzma_stream stream = LZMA_STREAM_INIT;

    if (u->codec.lzma_alone_decoder(&stream, DECOMPRESS_MEMORY_LIMIT) != LZMA_OK) {
        return unpacker_no_memory(u, error);
    }
    return unpack_lzma_stream(u, &stream, error);
}

static int unpack_bzip2(struct unpacker *u, struct umbra_error *error)
{
    bz_stream stream = { .next_in = (char *)(uintptr_t)u->input };
    int result = 0, status = u->codec.BZ2_bzDecompressInit(&stream, 0, 0);

    if (status != BZ_OK) {
        return unpacker_no_memory(u, error);
    }
    while (status != BZ_STREAM_END) {
        unsigned given = unpacker_chunk(u->input_left), room;

        result = unpacker_grow(u, 1, error);
        if (result != 0) {
            break;
        }
        room = unpacker_chunk(u->capacity - u->used);
        stream.avail_in = given;
        stream.next_out = (char *)u->output + u->used;
        stream.avail_out = room;
        status = u->codec.BZ2_bzDecompress(&stream);
        u->input_left -= given - stream.avail_in;
        u->used += room - stream.avail_out;
        if (status == BZ_MEM_ERROR) {
            result = unpacker_no_memory(u, error);
            break;
        }
        /* BZ_OK without progress means that it waits for input that there is not. */
        if (status != BZ_STREAM_END &&
            (status != BZ_OK || (given == stream.avail_in && room == stream.avail_out))) {
            result =
                unpacker_corrupt(u, status == BZ_OK ? "ends early" : "bad data", error);
            break;
        }
    }
    u->codec.BZ2_bzDecompressEnd(&stream);
    return result;
}

static int unpack_zstd(struct unpacker *u, struct umbra_error *error)
{
    ZSTD_DCtx *context = u->codec.ZSTD_createDCtx();
    ZSTD_inBuffer input = { u->input, u->input_left, 0 };
    size_t status = 1;
    int result = 0;

    if (context == NULL) {
        return unpacker_no_memory(u, error);
    }
    while (status != 0) {
        ZSTD_outBuffer output;
        size_t before = input.pos;

        result = unpacker_grow(u, 1, error);
        if (result != 0) {
            break;
        }
        output = (ZSTD_outBuffer){ u->output, u->capacity, u->used };
        status = u->codec.ZSTD_decompressStream(context, &output, &input);
        if (u->codec.ZSTD_isError(status)) {
            result = unpacker_corrupt(u, u->codec.ZSTD_getErrorName(status), error);
            break;
        }
        if (status != 0 && output.pos == u->used && input.pos == before) {
            result = unpacker_corrupt(u, "ends early", error);
            break;
        }
        u->used = output.pos;
    }
    u->codec.ZSTD_freeDCtx(context);
    return result;
}

/*
 * The LZ4 legacy frame, which the kernel's build uses: a magic, then blocks of a 32-bit
 * length and that many bytes, each unpacking to at most 8 MiB. A kernel's payload ends
 * with four more bytes, its unpacked size.
 */
enum { LZ4_LEGACY_MAGIC = 0x184c2102, LZ4_LEGACY_BLOCK = 8 << 20 };

static int unpack_lz4(struct unpacker *u, struct umbra_error *error)
{
    u->input += 4;
    u->input_left -= 4;
    while (u->input_left > 4) {
        uint32_t packed = load_le32(u->input);
        size_t room;
        int result, got;

        u->input += 4;
        u->input_left -= 4;
        if (packed == LZ4_LEGACY_MAGIC) {
            continue; /* frames may be joined */
        }
        if (packed == 0 || packed > u->input_left ||
            packed > (uint32_t)u->codec.LZ4_compressBound(LZ4_LEGACY_BLOCK)) {
            return unpacker_corrupt(u, "block length beyond the data", error);
        }
        /* Offer a whole block's room where the limit allows; less is the decoder's to
         * refuse. */
        room =
            u->limit - u->used < LZ4_LEGACY_BLOCK ? u->limit - u->used : LZ4_LEGACY_BLOCK;
        result = unpacker_grow(u, room > 0 ? room : 1, error);
        if (result != 0) {
            return result;
        }
        got = u->codec.LZ4_decompress_safe(
            (const char *)u->input, (char *)u->output + u->used, (int)packed, (int)room);
        if (got < 0 && room < LZ4_LEGACY_BLOCK) {
            return unpacker_grow(u, LZ4_LEGACY_BLOCK, error);
        }
        if (got <= 0) {
            return unpacker_corrupt(u, "bad block", error);
        }
        u->used += (size_t)got;
        u->input += packed;
        u->input_left -= packed;
    }
    if (u->used == 0) {
        return unpacker_corrupt(u, "ends early", error);
    }
    return 0;
}

/* ---- lzop's container (its format: magic, header, blocks in big endian) --------------
 */

static const uint8_t lzop_magic[9] = { 0x89, 'L', 'Z', 'O', 0, '\r', '\n', 0x1a, '\n' };

enum {
    LZOP_ADLER32_D = 0x1,
    LZOP_ADLER32_C = 0x2,
    LZOP_EXTRA_FIELD = 0x40,
    LZOP_CRC32_D = 0x100,
    LZOP_CRC32_C = 0x200,
    LZOP_FILTER = 0x800,
    LZOP_BLOCK_MAX = 64 << 20,
};

/* Take @size big-endian bytes off the input; false at its end. */
static bool lzop_take(struct unpacker *u, unsigned size, uint32_t *value)
{
    if (u->input_left < size) {
        return false;
    }
    *value = 0;
    for (unsigned i = 0; i < size; i++) {
        *value = *value << 8 | u->input[i];
    }
    u->input += size;
    u->input_left -= size;
    return true;
}

static bool lzop_skip(struct unpacker *u, size_t size)
{
    if (u->input_left < size) {
        return false;
    }
    u->input += size;
    u->input_left -= size;
    return true;
}

/* Step over the header; its flags say which checksums the blocks carry. */
static bool lzop_header(struct unpacker *u, uint32_t *flags)
{
    uint32_t version, field;

    if (!lzop_skip(u, sizeof(lzop_magic)) || !lzop_take(u, 2, &version) ||
        !lzop_skip(u, 2) || (version >= 0x940 && !lzop_skip(u, 2)) ||
        !lzop_take(u, 1, &field) || (version >= 0x940 && !lzop_skip(u, 1)) ||
        !lzop_take(u, 4, flags)) {
        return false;
    }
    if (((*flags & LZOP_FILTER) != 0 && !lzop_skip(u, 4)) || !lzop_skip(u, 4 + 4) ||
        (version >= 0x940 && !lzop_skip(u, 4)) || !lzop_take(u, 1, &field) ||
        !lzop_skip(u, (size_t)field + 4)) {
        return false;
    }
    if ((*flags & LZOP_EXTRA_FIELD) != 0) {
        return lzop_take(u, 4, &field) && lzop_skip(u, (size_t)field + 4);
    }
    return true;
}

/* One block of @packed bytes into @unpacked bytes of output. */
static int lzop_block(struct unpacker *u, uint32_t unpacked, uint32_t packed,
                      struct umbra_error *error)
{
    lzo_uint got = unpacked;
    int result;

    if (packed > u->input_left || packed > unpacked || unpacked > LZOP_BLOCK_MAX) {
        return unpacker_corrupt(u, "block length beyond the data", error);
    }
    result = unpacker_grow(u, unpacked, error);
    if (result != 0) {
        return result;
    }
    if (packed == unpacked) {
        memcpy(u->output + u->used, u->input, packed);
    } else if (u->codec.lzo1x_decompress_safe(u->input, packed, u->output + u->used, &got,
                                              NULL) != LZO_E_OK ||
               got != unpacked) {
        return unpacker_corrupt(u, "bad block", error);
    }
    u->used += unpacked;
    lzop_skip(u, packed);
    return 0;
}

static int unpack_lzo(struct unpacker *u, struct umbra_error *error)
{
    uint32_t flags, unpacked, packed;

    if (!lzop_header(u, &flags)) {
        return unpacker_corrupt(u, "bad header", error);
    }
    for (;;) {
        unsigned plain = ((flags & LZOP_ADLER32_D) != 0) + ((flags & LZOP_CRC32_D) != 0);
        unsigned coded = ((flags & LZOP_ADLER32_C) != 0) + ((flags & LZOP_CRC32_C) != 0);
        int result;

        if (!lzop_take(u, 4, &unpacked)) {
            return unpacker_corrupt(u, "ends early", error);
        }
        if (unpacked == 0) {
            return 0;
        }
        /* The checksum of the packed bytes is left out where nothing was packed. */
        if (!lzop_take(u, 4, &packed) ||
            !lzop_skip(u, 4u * (plain + (packed < unpacked ? coded : 0)))) {
            return unpacker_corrupt(u, "ends early", error);
        }
        result = lzop_block(u, unpacked, packed, error);
        if (result != 0) {
            return result;
        }
    }
}

/* ---- Telling them apart --------------------------------------------------------------
 */

static const struct decompress_format {
    const char *name;
    const char *magic;
    size_t magic_size;
    int (*unpack)(struct unpacker *u, struct umbra_error *error);
    const char *library, *package; /* NULL: linked */
    const struct library_symbol *symbols;
    size_t symbol_count;
} decompress_formats[] = {
#define LIBRARY(file, package, symbols) file, package, symbols, ARRAY_SIZE(symbols)
#define LZMA                            LIBRARY("liblzma.so.5", "liblzma5", lzma_symbols)
    { "gzip", "\x1f\x8b", 2, unpack_gzip, NULL, NULL, NULL, 0 },
    { "xz", "\xfd\x37zXZ", 6, unpack_xz, LZMA },
    { "zstd", "\x28\xb5\x2f\xfd", 4, unpack_zstd,
      LIBRARY("libzstd.so.1", "libzstd1", zstd_symbols) },
    { "lz4", "\x02\x21\x4c\x18", 4, unpack_lz4,
      LIBRARY("liblz4.so.1", "liblz4-1", lz4_symbols) },
    { "bzip2", "BZh", 3, unpack_bzip2,
      LIBRARY("libbz2.so.1.0", "libbz2-1.0", bzip2_symbols) },
    { "lzma", "\x5d\0\0", 3, unpack_lzma, LZMA },
    { "lzo", (const char *)lzop_magic, sizeof(lzop_magic), unpack_lzo,
      LIBRARY("liblzo2.so.2", "liblzo2-2", lzo_symbols) },
};

int boot_decompress(const void *input, size_t size, size_t limit, void **output,
                    size_t *output_size, const char **name, struct umbra_error *error)
{
    const struct decompress_format *format = NULL;
    struct unpacker unpacker = { .input = input, .input_left = size, .limit = limit };
    void *library = NULL;
    size_t hint;
    int result;

    for (size_t i = 0; i < ARRAY_SIZE(decompress_formats); i++) {
        const struct decompress_format *f = &decompress_formats[i];

        if (size >= f->magic_size && memcmp(input, f->magic, f->magic_size) == 0) {
            format = f;
            break;
        }
    }
    if (format == NULL) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "it is in no compression format that umbra knows (gzip, xz, "
                         "zstd, lz4 legacy, bzip2, lzma, lzo)");
    }
    unpacker.name = format->name;
    if (format->library != NULL) {
        result = library_load(format->library, format->package, format->symbols,
                              format->symbol_count, &unpacker.codec, &library, error);
        if (result != 0) {
            return result;
        }
    }
    /* The last four bytes of a kernel's payload (and of gzip) are its unpacked size: a
     * good first capacity if it is plausible, and only that. */
    hint = size >= 4 ? load_le32((const uint8_t *)input + size - 4) : 0;
    if (hint > limit || hint / 64 > size) {
        hint = size;
    }
    hint += 64; /* so that a decoder sees the end of its stream without growing */
    result = unpacker_grow(&unpacker, hint < limit ? hint : limit, error);
    if (result == 0) {
        result = format->unpack(&unpacker, error);
    }
    library_unload(library);
    if (result != 0) {
        free(unpacker.output);
        return result;
    }
    *output = unpacker.output;
    *output_size = unpacker.used;
    *name = format->name;
    return 0;
}
