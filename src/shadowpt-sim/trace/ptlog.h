/* SPDX-License-Identifier: MIT */
/*
 * Logs of a guest's page tables: registers and tables at stops, each stop as what changed since
 * the one before. A file is
 *
 *   "UMBRAPTL", u32 version, then chunks: u32 type, u32 size, u32 stored, u32 CRC-32 of these
 *   12 bytes and the payload, payload of `stored` bytes (zlib if stored < size).
 *   META: u32 cpus, u8 physical bits, u8 gbpages, u8 amd, u8 0, u32 ranges, then
 *         {u64 gpa, u64 length, u64 readonly} each
 *   STOP: u64 nanoseconds, {u64 cr0, cr3, cr4, efer, pkru} for each CPU, u32 tables reached,
 *         u32 tables changed, then for each of these
 *         {u64 gpa, u64 gva, u8 level, u8 cpu, u16 entries, entries of {u16 index, u64 value}}
 *         with values as differences from the entry before in this list
 *   KVM:  {48 bytes name, u64 value} each: what KVM counted over the recording; may be absent
 *   END:  u32 stops
 *
 * all little-endian. Only 64-bit formats (4 and 5 levels) have their tables recorded.
 */
#ifndef SHADOWPT_SIM_TRACE_PTLOG_H
#define SHADOWPT_SIM_TRACE_PTLOG_H

#include "shadowpt-sim/image.h"
#include "shadowpt-sim/walker.h"

#include <stdio.h>

#include <umbra/umbra.h>

enum {
    PTLOG_VERSION = 1,
    PTLOG_CPUS = 64,
    PTLOG_RANGES = 16,
    PTLOG_STATS = 64,
    PTLOG_TABLES = 65536, /* different ones in a log: 256 MiB */
};

struct ptlog_meta {
    unsigned cpus;
    struct mmu_cpu cpu;
    unsigned ranges;
    struct ptlog_range {
        uint64_t gpa, length; /* page-aligned, ascending, disjoint */
        bool readonly;
    } range[PTLOG_RANGES];
};

struct ptlog_cpu {
    uint64_t cr0, cr3, cr4, efer, pkru;
};

/* An entry that is not as at the stop before. */
struct ptlog_change {
    uint64_t gpa; /* of the entry */
    uint64_t old, value;
    uint64_t gva;       /* the first address that it maps, on one of the ways to it */
    uint8_t level, cpu; /* a CPU whose CR3 leads to it */
    bool fresh;         /* its table was in no stop before */
};

struct ptlog_stop {
    uint64_t time_ns; /* of running, since the recording began */
    unsigned tables;  /* reached */
    struct ptlog_cpu cpu[PTLOG_CPUS];
    struct ptlog_change *change;
    size_t changes, capacity;
};

/* One of KVM's statistics over the time of the recording. */
struct ptlog_stat {
    char name[48];
    uint64_t value;
};

/* ---- Writing ---------------------------------------------------------------------------- */

struct ptlog_writer;

/* Write to @out, which stays the caller's. */
int ptlog_writer_create(FILE *out, const struct ptlog_meta *meta,
                        struct ptlog_writer **writer, struct umbra_error *error);
/* Add a stop: the tables that @cpus (as many as meta says) lead to in @image. -ENOSPC: there
 * are more than PTLOG_TABLES. */
int ptlog_write_stop(struct ptlog_writer *writer, uint64_t time_ns,
                     const struct ptlog_cpu *cpus, struct page_image *image,
                     struct umbra_error *error);
int ptlog_write_stats(struct ptlog_writer *writer, const struct ptlog_stat *stats,
                      unsigned count, struct umbra_error *error);
/* Without this the log counts as cut off. */
int ptlog_writer_finish(struct ptlog_writer *writer, struct umbra_error *error);
void ptlog_writer_destroy(struct ptlog_writer *writer);

/* ---- Reading; nothing in a file is trusted ---------------------------------------------- */

struct ptlog_reader;

/* @bytes must stay until the reader is destroyed. -EPROTO: it is no log, or damaged. */
int ptlog_reader_create(const void *bytes, size_t size, struct ptlog_reader **reader,
                        struct umbra_error *error);
const struct ptlog_meta *ptlog_reader_meta(const struct ptlog_reader *reader);
/* 1 and the next stop, valid until the next call; 0 behind the last; -EPROTO, -ENOMEM. */
int ptlog_reader_next(struct ptlog_reader *reader, const struct ptlog_stop **stop,
                      struct umbra_error *error);
/* Behind the last stop: KVM's statistics, or none. */
const struct ptlog_stat *ptlog_reader_stats(const struct ptlog_reader *reader,
                                            unsigned *count);
/* The tables as of that stop. */
struct page_image *ptlog_reader_image(struct ptlog_reader *reader);
void ptlog_reader_destroy(struct ptlog_reader *reader);

/* Whether @gpa is in RAM or ROM of the log's guest. */
bool ptlog_backed(const struct ptlog_meta *meta, uint64_t gpa);

/* The registers of one CPU as a mode, without PDPTEs. */
void ptlog_mode(const struct ptlog_meta *meta, const struct ptlog_cpu *cpu,
                struct mmu_mode *mode);

/* ---- Shared by both sides ---- */

enum ptlog_chunk { PTLOG_META = 1, PTLOG_STOP, PTLOG_END, PTLOG_KVM };

#define PTLOG_MAGIC      "UMBRAPTL"
#define PTLOG_HEAD_SIZE  12 /* of the file */
#define PTLOG_CHUNK_SIZE 16 /* of a chunk's head */
#define PTLOG_MAX_CHUNK  (64u << 20)

#endif
