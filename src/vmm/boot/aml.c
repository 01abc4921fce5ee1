/* SPDX-License-Identifier: MIT */
/* Appending AML terms and resource descriptors to a buffer. */
#include "vmm/boot/aml.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/util.h"

enum {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_QWORD = 0x0e,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_DUAL_NAME = 0x2e,
    AML_MULTI_NAME = 0x2f,
    AML_EXTENSION = 0x5b,
    AML_EXTENSION_DEVICE = 0x82,
    AML_LOCAL0 = 0x60,
    AML_ARG0 = 0x68,
    AML_CREATE_DWORD_FIELD = 0x8a,
    AML_IF = 0xa0,
    AML_ELSE = 0xa1,
    AML_END_TAG = 0x79,
};

void aml_init(struct aml *aml)
{
    memset(aml, 0, sizeof(*aml));
}

void aml_free(struct aml *aml)
{
    free(aml->bytes);
    aml_init(aml);
}

int aml_finish(const struct aml *aml)
{
    return aml->failed ? -ENOMEM : 0;
}

void aml_bytes(struct aml *aml, const void *bytes, size_t size)
{
    if (aml->failed || size == 0) {
        return;
    }
    if (aml->capacity - aml->size < size) {
        size_t capacity = 2 * (aml->capacity + size) + 256;
        uint8_t *grown = realloc(aml->bytes, capacity);

        if (grown == NULL) {
            aml->failed = true;
            return;
        }
        aml->bytes = grown;
        aml->capacity = capacity;
    }
    memcpy(aml->bytes + aml->size, bytes, size);
    aml->size += size;
}

static void aml_byte(struct aml *aml, uint8_t value)
{
    aml_bytes(aml, &value, 1);
}

/* @size little-endian bytes of @value. */
static void aml_number(struct aml *aml, uint64_t value, unsigned size)
{
    value = htole64(value);
    aml_bytes(aml, &value, size);
}

void aml_path(struct aml *aml, const char *name)
{
    size_t segments = 0;

    if (*name == '\\') {
        aml_byte(aml, (uint8_t)*name++);
    }
    for (const char *at = name; *at != '\0'; at++) {
        segments += at == name || at[-1] == '.';
    }
    assert(segments > 0);
    if (segments == 2) {
        aml_byte(aml, AML_DUAL_NAME);
    } else if (segments > 2) {
        aml_byte(aml, AML_MULTI_NAME);
        aml_byte(aml, (uint8_t)segments);
    }
    while (*name != '\0') {
        char segment[4] = { '_', '_', '_', '_' };

        for (size_t i = 0; *name != '\0' && *name != '.'; i++) {
            assert(i < sizeof(segment));
            segment[i] = *name++;
        }
        aml_bytes(aml, segment, sizeof(segment));
        name += *name == '.';
    }
}

static struct aml_open aml_open(struct aml *aml, uint8_t opcode)
{
    aml_byte(aml, opcode);
    return (struct aml_open){ .start = aml->size };
}

struct aml_open aml_scope(struct aml *aml, const char *name)
{
    struct aml_open open = aml_open(aml, AML_SCOPE);

    aml_path(aml, name);
    return open;
}

struct aml_open aml_device(struct aml *aml, const char *name)
{
    struct aml_open open;

    aml_byte(aml, AML_EXTENSION);
    open = aml_open(aml, AML_EXTENSION_DEVICE);
    aml_path(aml, name);
    return open;
}

struct aml_open aml_method(struct aml *aml, const char *name, unsigned arguments)
{
    enum { SERIALIZED = 1 << 3 };
    struct aml_open open = aml_open(aml, AML_METHOD);

    aml_path(aml, name);
    aml_byte(aml, (uint8_t)(arguments | SERIALIZED));
    return open;
}

struct aml_open aml_package(struct aml *aml, unsigned elements)
{
    struct aml_open open = aml_open(aml, AML_PACKAGE);

    assert(elements <= 255);
    aml_byte(aml, (uint8_t)elements);
    return open;
}

struct aml_open aml_if(struct aml *aml)
{
    return aml_open(aml, AML_IF);
}

struct aml_open aml_else(struct aml *aml)
{
    return aml_open(aml, AML_ELSE);
}

/* PkgLength counts itself: the form is the shortest that holds the sum (ACPI 6.4,
 * 20.2.4). Returns its size. */
static size_t aml_length_encode(size_t body, uint8_t out[4])
{
    size_t extra = body + 1 < 0x40       ? 0
                   : body + 2 < 0x1000   ? 1
                   : body + 3 < 0x100000 ? 2
                                         : 3;
    size_t total = body + 1 + extra;

    if (extra == 0) {
        out[0] = (uint8_t)total;
        return 1;
    }
    out[0] = (uint8_t)(extra << 6 | (total & 0xf));
    total >>= 4;
    for (size_t i = 1; i <= extra; i++, total >>= 8) {
        out[i] = (uint8_t)total;
    }
    return 1 + extra;
}

/* Open up @size bytes at @at. */
static void aml_insert(struct aml *aml, size_t at, const uint8_t *bytes, size_t size)
{
    size_t tail = aml->size - at;

    aml_bytes(aml, bytes, size);
    if (!aml->failed) {
        memmove(aml->bytes + at + size, aml->bytes + at, tail);
        memcpy(aml->bytes + at, bytes, size);
    }
}

void aml_close(struct aml *aml, struct aml_open open)
{
    uint8_t length[4];

    if (open.resources) {
        static const uint8_t end[] = { AML_END_TAG, 0 }; /* checksum 0: not checked */
        uint8_t size[3] = { AML_WORD };

        aml_bytes(aml, end, sizeof(end));
        store_le16(size + 1, (uint16_t)(aml->size - open.start));
        aml_insert(aml, open.start, size, sizeof(size));
    }
    if (!aml->failed) {
        aml_insert(aml, open.start, length,
                   aml_length_encode(aml->size - open.start, length));
    }
}

void aml_name(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_NAME);
    aml_path(aml, name);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        aml_byte(aml, value == 0 ? AML_ZERO : AML_ONE);
    } else if (value <= UINT8_MAX) {
        aml_byte(aml, AML_BYTE);
        aml_number(aml, value, 1);
    } else if (value <= UINT16_MAX) {
        aml_byte(aml, AML_WORD);
        aml_number(aml, value, 2);
    } else if (value <= UINT32_MAX) {
        aml_byte(aml, AML_DWORD);
        aml_number(aml, value, 4);
    } else {
        aml_byte(aml, AML_QWORD);
        aml_number(aml, value, 8);
    }
}

void aml_string(struct aml *aml, const char *text)
{
    aml_byte(aml, AML_STRING);
    aml_bytes(aml, text, strlen(text) + 1);
}

void aml_buffer(struct aml *aml, const void *bytes, size_t size)
{
    struct aml_open open = aml_open(aml, AML_BUFFER);

    aml_integer(aml, size);
    aml_bytes(aml, bytes, size);
    aml_close(aml, open);
}

static unsigned aml_hex(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

/* Three 5-bit letters and four hexadecimal digits, big endian. */
void aml_eisa_id(struct aml *aml, const char *id)
{
    uint32_t value = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 |
                     (uint32_t)(id[2] - '@') << 16 | aml_hex(id[3]) << 12 |
                     aml_hex(id[4]) << 8 | aml_hex(id[5]) << 4 | aml_hex(id[6]);

    aml_byte(aml, AML_DWORD);
    aml_number(aml, __builtin_bswap32(value), 4);
}

void aml_name_integer(struct aml *aml, const char *name, uint64_t value)
{
    aml_name(aml, name);
    aml_integer(aml, value);
}

void aml_name_eisa_id(struct aml *aml, const char *name, const char *id)
{
    aml_name(aml, name);
    aml_eisa_id(aml, id);
}

void aml_name_string(struct aml *aml, const char *name, const char *text)
{
    aml_name(aml, name);
    aml_string(aml, text);
}

void aml_operator(struct aml *aml, enum aml_operator operator)
{
    aml_byte(aml, (uint8_t) operator);
}

void aml_local(struct aml *aml, unsigned index)
{
    aml_byte(aml, (uint8_t)(AML_LOCAL0 + index));
}

void aml_argument(struct aml *aml, unsigned index)
{
    aml_byte(aml, (uint8_t)(AML_ARG0 + index));
}

void aml_dword_field(struct aml *aml, unsigned argument, unsigned offset,
                     const char *name)
{
    aml_byte(aml, AML_CREATE_DWORD_FIELD);
    aml_argument(aml, argument);
    aml_integer(aml, offset);
    aml_path(aml, name);
}

/* ---- Resource descriptors ------------------------------------------------------------
 */

enum {
    RESOURCE_IRQ = 0x22,
    RESOURCE_IO = 0x47,
    RESOURCE_MEMORY32 = 0x86,
    RESOURCE_DWORD_RANGE = 0x87,
    RESOURCE_WORD_RANGE = 0x88,
    RESOURCE_INTERRUPT = 0x89,
    RESOURCE_QWORD_RANGE = 0x8a,

    RANGE_FIXED = 0x0c,      /* minimum and maximum are fixed */
    RANGE_READ_WRITE = 0x01, /* memory: non-cacheable */
    RANGE_IO_ENTIRE = 0x03,
    INTERRUPT_SHARED = 0x09, /* consumer, level, active high, shared */
};

struct aml_open aml_resources(struct aml *aml)
{
    struct aml_open open = aml_open(aml, AML_BUFFER);

    open.resources = true;
    return open;
}

void aml_io(struct aml *aml, uint16_t base, uint8_t size)
{
    aml_byte(aml, RESOURCE_IO);
    aml_byte(aml, 1); /* 16-bit decode */
    aml_number(aml, base, 2);
    aml_number(aml, base, 2);
    aml_byte(aml, 1); /* alignment */
    aml_byte(aml, size);
}

void aml_irq(struct aml *aml, unsigned irq)
{
    assert(irq < 16);
    aml_byte(aml, RESOURCE_IRQ);
    aml_number(aml, 1u << irq, 2);
}

void aml_memory32(struct aml *aml, uint32_t base, uint32_t size, bool writable)
{
    aml_byte(aml, RESOURCE_MEMORY32);
    aml_number(aml, 9, 2);
    aml_byte(aml, writable);
    aml_number(aml, base, 4);
    aml_number(aml, size, 4);
}

void aml_interrupt(struct aml *aml, uint32_t gsi)
{
    aml_byte(aml, RESOURCE_INTERRUPT);
    aml_number(aml, 6, 2);
    aml_byte(aml, INTERRUPT_SHARED);
    aml_byte(aml, 1);
    aml_number(aml, gsi, 4);
}

/* Granularity, minimum, maximum, translation offset, length: each @width bytes. */
static void aml_range(struct aml *aml, unsigned width, enum aml_range kind,
                      uint64_t first, uint64_t last)
{
    static const uint8_t flags[] = { [AML_RANGE_MEMORY] = RANGE_READ_WRITE,
                                     [AML_RANGE_IO] = RANGE_IO_ENTIRE,
                                     [AML_RANGE_BUS] = 0 };

    aml_byte(aml, width == 2   ? RESOURCE_WORD_RANGE
                  : width == 4 ? RESOURCE_DWORD_RANGE
                               : RESOURCE_QWORD_RANGE);
    aml_number(aml, 3 + 5 * width, 2);
    aml_byte(aml, (uint8_t)kind);
    aml_byte(aml, RANGE_FIXED);
    aml_byte(aml, flags[kind]);
    aml_number(aml, 0, width);
    aml_number(aml, first, width);
    aml_number(aml, last, width);
    aml_number(aml, 0, width);
    aml_number(aml, last - first + 1, width);
}

void aml_word_range(struct aml *aml, enum aml_range kind, uint16_t first, uint16_t last)
{
    aml_range(aml, 2, kind, first, last);
}

void aml_dword_memory(struct aml *aml, uint32_t base, uint32_t size)
{
    aml_range(aml, 4, AML_RANGE_MEMORY, base, (uint64_t)base + size - 1);
}

void aml_qword_memory(struct aml *aml, uint64_t base, uint64_t size)
{
    aml_range(aml, 8, AML_RANGE_MEMORY, base, base + size - 1);
}
