/* SPDX-License-Identifier: MIT */
/*
 * The state format: what snapshots, migration and resets that restore are made of. A
 * stream of sections (one a device, named by its id and versioned), each with named
 * fields and a CRC-32; everything little-endian. Layout:
 *
 *   stream  := "UMBRASTA" u32 format section* u32 "END!" u32 crc(everything before)
 *   section := u32 "SECT" u8 name_length name u32 version u32 body_length
 *              u32 crc(version, name, body) body
 *   body    := { u8 name_length name u32 length bytes }*
 *
 * A writer and a reader keep the first error they meet: use them without checks and ask
 * once at the end. The reader trusts nothing: every length is checked against what is
 * there before any of it is used, and nothing is read from a stream whose CRC is wrong.
 */
#ifndef BASE_STATE_H
#define BASE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

enum { STATE_FORMAT = 1, STATE_NAME_MAX = 63 };

struct state_writer;
struct state_reader;

int state_writer_create(struct state_writer **writer);
void state_writer_destroy(struct state_writer *writer);

/* One section at a time; @name (1..63 bytes) must be new in the stream. */
void state_begin(struct state_writer *writer, const char *name, uint32_t version);
void state_put_u64(struct state_writer *writer, const char *field, uint64_t value);
void state_put_bytes(struct state_writer *writer, const char *field, const void *bytes,
                     size_t length);
void state_end(struct state_writer *writer);

/* Close the stream and borrow its bytes until the writer is destroyed; 0 or the first
 * error of the writing. Nothing more may be put afterwards. */
int state_writer_finish(struct state_writer *writer, const void **bytes, size_t *size);

/* Check a whole stream; @bytes must stay until the reader is destroyed. */
int state_reader_create(const void *bytes, size_t size, struct state_reader **reader,
                        struct umbra_error *error);
void state_reader_destroy(struct state_reader *reader);

/*
 * Enter section @name. -ENOENT when there is none, -ENOTSUP when its version is above
 * @newest; the reader's error is then set too. Gets below refer to the section entered
 * last.
 */
int state_open(struct state_reader *reader, const char *name, uint32_t newest,
               uint32_t *version);
/* Is there such a section? Leaves no error. */
bool state_has(const struct state_reader *reader, const char *name);

/* A number in 0..@max; absent, misshapen or too large sets the error and gives 0. */
uint64_t state_get_u64(struct state_reader *reader, const char *field, uint64_t max);
/* Exactly @length bytes into @buffer; otherwise sets the error and fills with zeroes. */
void state_get_bytes(struct state_reader *reader, const char *field, void *buffer,
                     size_t length);
/* Up to @max bytes, borrowed from the stream; NULL and an error otherwise. */
const void *state_get_blob(struct state_reader *reader, const char *field, size_t max,
                           size_t *length);
/* Does the section have the field? Leaves no error: for fields that came later. */
bool state_field(const struct state_reader *reader, const char *field);

/* Note that what was read makes no sense; loads go on to return state_reader_error(). */
void state_reject(struct state_reader *reader, const char *why);
/* 0 or the first error so far; the message says which section and field. */
int state_reader_error(const struct state_reader *reader, struct umbra_error *error);

#endif
