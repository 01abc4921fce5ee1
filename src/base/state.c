/* SPDX-License-Identifier: MIT */
/* Writing and reading the state format; the reader distrusts every byte. */
#include "base/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/error.h"
#include "base/util.h"

#define STATE_MAGIC   "UMBRASTA"
#define STATE_SECTION UINT32_C(0x54434553) /* "SECT" */
#define STATE_END     UINT32_C(0x21444e45) /* "END!" */

enum { STATE_HEADER = 12, STATE_TRAILER = 8 };

/* ---- Writing -------------------------------------------------------------------- */

struct state_writer {
    uint8_t *bytes;
    size_t size, capacity;
    size_t section; /* offset of the open section, 0: none (the header is there) */
    size_t body;    /* offset of its body */
    bool finished;
    int error;
};

static uint8_t *writer_room(struct state_writer *w, size_t length)
{
    if (w->error != 0) {
        return NULL;
    }
    if (length > w->capacity - w->size) {
        size_t capacity = (w->size + length) * 2;
        uint8_t *bytes = capacity > length ? realloc(w->bytes, capacity) : NULL;

        if (bytes == NULL) {
            w->error = -ENOMEM;
            return NULL;
        }
        w->bytes = bytes;
        w->capacity = capacity;
    }
    w->size += length;
    return w->bytes + w->size - length;
}

static void writer_bytes(struct state_writer *w, const void *bytes, size_t length)
{
    uint8_t *p = writer_room(w, length);

    if (p != NULL && length != 0) {
        memcpy(p, bytes, length);
    }
}

static void writer_u32(struct state_writer *w, uint32_t value)
{
    uint8_t *p = writer_room(w, 4);

    if (p != NULL) {
        store_le32(p, value);
    }
}

static void writer_name(struct state_writer *w, const char *name)
{
    size_t length = strlen(name);
    uint8_t byte = (uint8_t)length;

    if (length == 0 || length > STATE_NAME_MAX) {
        w->error = w->error != 0 ? w->error : -EINVAL;
        return;
    }
    writer_bytes(w, &byte, 1);
    writer_bytes(w, name, length);
}

int state_writer_create(struct state_writer **writer)
{
    struct state_writer *w = calloc(1, sizeof(*w));

    if (w == NULL) {
        return -ENOMEM;
    }
    writer_bytes(w, STATE_MAGIC, 8);
    writer_u32(w, STATE_FORMAT);
    if (w->error != 0) {
        state_writer_destroy(w);
        return -ENOMEM;
    }
    *writer = w;
    return 0;
}

void state_writer_destroy(struct state_writer *writer)
{
    if (writer != NULL) {
        free(writer->bytes);
        free(writer);
    }
}

void state_begin(struct state_writer *w, const char *name, uint32_t version)
{
    size_t start = w->size;

    if (w->section != 0 || w->finished) {
        w->error = w->error != 0 ? w->error : -EINVAL;
        return;
    }
    writer_u32(w, STATE_SECTION);
    writer_name(w, name);
    writer_u32(w, version);
    writer_u32(w, 0); /* body length and CRC, known at state_end */
    writer_u32(w, 0);
    w->section = start;
    w->body = w->size;
}

void state_put_u64(struct state_writer *w, const char *field, uint64_t value)
{
    uint8_t bytes[8];

    store_le64(bytes, value);
    state_put_bytes(w, field, bytes, sizeof(bytes));
}

void state_put_bytes(struct state_writer *w, const char *field, const void *bytes,
                     size_t length)
{
    if (w->section == 0 || length > UINT32_MAX / 2) {
        w->error = w->error != 0 ? w->error : -EINVAL;
        return;
    }
    writer_name(w, field);
    writer_u32(w, (uint32_t)length);
    writer_bytes(w, bytes, length);
}

/* CRC of a section: its name and version, then its body. */
static uint32_t section_crc(const uint8_t *name, size_t name_length, const uint8_t *body,
                            size_t body_length)
{
    uLong crc = crc32_z(crc32_z(0, NULL, 0), name, name_length + 4); /* + version */

    return (uint32_t)crc32_z(crc, body, body_length);
}

void state_end(struct state_writer *w)
{
    size_t length = w->size - w->body;
    uint8_t *start;

    if (w->section == 0 || length > UINT32_MAX) {
        w->error = w->error != 0 ? w->error : -EINVAL;
    }
    if (w->error == 0) {
        start = w->bytes + w->section;
        store_le32(w->bytes + w->body - 8, (uint32_t)length);
        store_le32(w->bytes + w->body - 4,
                   section_crc(start + 5, start[4], w->bytes + w->body, length));
    }
    w->section = 0;
}

int state_writer_finish(struct state_writer *w, const void **bytes, size_t *size)
{
    if (w->section != 0 && w->error == 0) {
        w->error = -EINVAL;
    }
    if (!w->finished) {
        writer_u32(w, STATE_END);
        if (w->error == 0) {
            writer_u32(w, (uint32_t)crc32_z(crc32_z(0, NULL, 0), w->bytes, w->size));
        }
        w->finished = true;
    }
    if (w->error != 0) {
        return w->error;
    }
    *bytes = w->bytes;
    *size = w->size;
    return 0;
}

/* ---- Reading --------------------------------------------------------------------- */

struct state_section {
    const uint8_t *name;
    uint8_t name_length;
    uint32_t version;
    const uint8_t *body;
    size_t length;
};

struct state_reader {
    struct state_section *sections;
    size_t count;
    const struct state_section *open;
    char section[STATE_NAME_MAX + 1];
    int error;
    char message[256];
};

struct cursor {
    const uint8_t *at;
    size_t left;
};

static bool cursor_take(struct cursor *c, size_t length, const uint8_t **bytes)
{
    if (length > c->left) {
        return false;
    }
    *bytes = c->at;
    c->at += length;
    c->left -= length;
    return true;
}

static bool cursor_u32(struct cursor *c, uint32_t *value)
{
    const uint8_t *p;

    if (!cursor_take(c, 4, &p)) {
        return false;
    }
    *value = load_le32(p);
    return true;
}

static bool cursor_name(struct cursor *c, const uint8_t **name, uint8_t *length)
{
    const uint8_t *p;

    if (!cursor_take(c, 1, &p) || *p == 0 || *p > STATE_NAME_MAX) {
        return false;
    }
    *length = *p;
    return cursor_take(c, *length, name);
}

/* One field off a section's body. */
static bool cursor_field(struct cursor *c, const uint8_t **name, uint8_t *name_length,
                         const uint8_t **bytes, uint32_t *length)
{
    return cursor_name(c, name, name_length) && cursor_u32(c, length) &&
           cursor_take(c, *length, bytes);
}

static bool section_parse(struct cursor *c, struct state_section *section)
{
    uint32_t length, crc, size;
    const uint8_t *name, *bytes;
    struct cursor body;

    if (!cursor_name(c, &section->name, &section->name_length) ||
        !cursor_u32(c, &section->version) || !cursor_u32(c, &length) ||
        !cursor_u32(c, &crc) || !cursor_take(c, length, &section->body)) {
        return false;
    }
    section->length = length;
    if (section_crc(section->name, section->name_length, section->body, length) != crc) {
        return false;
    }
    body = (struct cursor){ section->body, length };
    while (body.left != 0) {
        uint8_t field_length;

        if (!cursor_field(&body, &name, &field_length, &bytes, &size)) {
            return false;
        }
    }
    return true;
}

static const struct state_section *reader_find(const struct state_reader *r,
                                               const char *name, size_t length)
{
    for (size_t i = 0; i < r->count; i++) {
        if (r->sections[i].name_length == length &&
            memcmp(r->sections[i].name, name, length) == 0) {
            return &r->sections[i];
        }
    }
    return NULL;
}

static int reader_append(struct state_reader *r, const struct state_section *section)
{
    struct state_section *sections;

    if (reader_find(r, (const char *)section->name, section->name_length) != NULL) {
        return -EINVAL;
    }
    if ((r->count & (r->count - 1)) == 0) { /* grow at each power of two */
        sections = reallocarray(r->sections, r->count == 0 ? 1 : r->count * 2,
                                sizeof(*sections));
        if (sections == NULL) {
            return -ENOMEM;
        }
        r->sections = sections;
    }
    r->sections[r->count++] = *section;
    return 0;
}

static int reader_index(struct state_reader *r, struct cursor c)
{
    struct state_section section;
    uint32_t tag;
    int rc;

    for (;;) {
        if (!cursor_u32(&c, &tag)) {
            return -EINVAL;
        }
        if (tag == STATE_END) {
            return c.left == 0 ? 0 : -EINVAL;
        }
        if (tag != STATE_SECTION || !section_parse(&c, &section)) {
            return -EINVAL;
        }
        rc = reader_append(r, &section);
        if (rc < 0) {
            return rc;
        }
    }
}

int state_reader_create(const void *bytes, size_t size, struct state_reader **reader,
                        struct umbra_error *error)
{
    const uint8_t *start = bytes;
    struct state_reader *r;
    int rc;

    if (size < STATE_HEADER + STATE_TRAILER || memcmp(start, STATE_MAGIC, 8) != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL, "not an umbra state stream");
    }
    if (load_le32(start + 8) != STATE_FORMAT) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOTSUP,
                         "state stream of format %u; this umbra reads format %u",
                         load_le32(start + 8), STATE_FORMAT);
    }
    if (crc32_z(crc32_z(0, NULL, 0), start, size - 4) != load_le32(start + size - 4)) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "state stream damaged or cut short: its checksum is wrong");
    }
    r = calloc(1, sizeof(*r));
    if (r == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "reading a state stream");
    }
    rc =
        reader_index(r, (struct cursor){ start + STATE_HEADER, size - STATE_HEADER - 4 });
    if (rc < 0) {
        state_reader_destroy(r);
        return error_errno(error, UMBRA_ERROR_CONFIG, -rc, "malformed state stream");
    }
    *reader = r;
    return 0;
}

void state_reader_destroy(struct state_reader *reader)
{
    if (reader != NULL) {
        free(reader->sections);
        free(reader);
    }
}

static void reader_fail(struct state_reader *r, int error, const char *field,
                        const char *why)
{
    if (r->error == 0) {
        r->error = error;
        snprintf(r->message, sizeof(r->message), "section \"%s\"%s%s: %s", r->section,
                 field[0] != '\0' ? ", field " : "", field, why);
    }
}

int state_open(struct state_reader *r, const char *name, uint32_t newest,
               uint32_t *version)
{
    const struct state_section *section = reader_find(r, name, strlen(name));
    char why[80];

    snprintf(r->section, sizeof(r->section), "%.63s", name);
    r->open = section;
    if (section == NULL) {
        reader_fail(r, -ENOENT, "", "missing");
        return -ENOENT;
    }
    if (section->version > newest) {
        snprintf(why, sizeof(why), "version %u is newer than the %u known here",
                 section->version, newest);
        reader_fail(r, -ENOTSUP, "", why);
        return -ENOTSUP;
    }
    if (version != NULL) {
        *version = section->version;
    }
    return 0;
}

bool state_has(const struct state_reader *r, const char *name)
{
    return reader_find(r, name, strlen(name)) != NULL;
}

static const uint8_t *reader_field(const struct state_reader *r, const char *field,
                                   size_t *length)
{
    size_t wanted = strlen(field);
    const uint8_t *name, *bytes;
    uint8_t name_length;
    uint32_t size;
    struct cursor c;

    if (r->open == NULL) {
        return NULL;
    }
    c = (struct cursor){ r->open->body, r->open->length };
    while (c.left != 0 && cursor_field(&c, &name, &name_length, &bytes, &size)) {
        if (name_length == wanted && memcmp(name, field, wanted) == 0) {
            *length = size;
            return bytes;
        }
    }
    return NULL;
}

uint64_t state_get_u64(struct state_reader *r, const char *field, uint64_t max)
{
    size_t length;
    const uint8_t *bytes = reader_field(r, field, &length);
    uint64_t value;

    if (bytes == NULL || length != 8) {
        reader_fail(r, -EINVAL, field, bytes == NULL ? "missing" : "not a number");
        return 0;
    }
    value = load_le64(bytes);
    if (value > max) {
        reader_fail(r, -ERANGE, field, "out of range");
        return 0;
    }
    return value;
}

void state_get_bytes(struct state_reader *r, const char *field, void *buffer,
                     size_t length)
{
    size_t size;
    const uint8_t *bytes = reader_field(r, field, &size);

    if (bytes == NULL || size != length) {
        reader_fail(r, -EINVAL, field, bytes == NULL ? "missing" : "of the wrong size");
        memset(buffer, 0, length);
        return;
    }
    memcpy(buffer, bytes, length);
}

const void *state_get_blob(struct state_reader *r, const char *field, size_t max,
                           size_t *length)
{
    const uint8_t *bytes = reader_field(r, field, length);

    if (bytes == NULL || *length > max) {
        reader_fail(r, -EINVAL, field, bytes == NULL ? "missing" : "too long");
        *length = 0;
        return NULL;
    }
    return bytes;
}

bool state_field(const struct state_reader *r, const char *field)
{
    size_t length;

    return reader_field(r, field, &length) != NULL;
}

void state_reject(struct state_reader *r, const char *why)
{
    reader_fail(r, -EINVAL, "", why);
}

int state_reader_error(const struct state_reader *r, struct umbra_error *error)
{
    if (r->error == 0) {
        return 0;
    }
    return error_set(error, UMBRA_ERROR_CONFIG, -r->error, "state stream: %s",
                     r->message);
}
