/* SPDX-License-Identifier: MIT */
/*
 * A builder of AML, the byte code of ACPI's definition blocks (ACPI 6.4, chapter 20).
 * Terms are appended in order; those that hold others are opened and closed. Running out
 * of memory is remembered and reported by aml_finish, so no call needs a check.
 */
#ifndef VMM_BOOT_AML_H
#define VMM_BOOT_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    uint8_t *bytes;
    size_t size, capacity;
    bool failed;
};

/* An open term; aml_close needs it. */
struct aml_open {
    size_t start; /* where PkgLength goes */
    bool
        resources; /* a resource template: its BufferSize and end tag come at the close */
};

void aml_init(struct aml *aml);
void aml_free(struct aml *aml);
/* 0, or -ENOMEM when an append failed. */
int aml_finish(const struct aml *aml);

/* Raw bytes, for table headers. */
void aml_bytes(struct aml *aml, const void *bytes, size_t size);

/* ---- Terms that hold others. @name is a path: "\\_SB_", "PCI0" (segments are padded
 * with underscores). ---- */
struct aml_open aml_scope(struct aml *aml, const char *name);
struct aml_open aml_device(struct aml *aml, const char *name);
struct aml_open aml_method(struct aml *aml, const char *name, unsigned arguments);
struct aml_open aml_package(struct aml *aml, unsigned elements);
/* If and Else; the predicate is appended behind aml_if. */
struct aml_open aml_if(struct aml *aml);
struct aml_open aml_else(struct aml *aml);
void aml_close(struct aml *aml, struct aml_open open);

/* ---- Objects ---- */
void aml_name(struct aml *aml, const char *name); /* Name (name, the next term) */
void aml_path(struct aml *aml, const char *name); /* a reference to a name */
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
void aml_buffer(struct aml *aml, const void *bytes, size_t size);
/* "PNP0A08" as EisaId() makes it. */
void aml_eisa_id(struct aml *aml, const char *id);
/* Name (name, ...) of an integer, an EisaId, a string. */
void aml_name_integer(struct aml *aml, const char *name, uint64_t value);
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id);
void aml_name_string(struct aml *aml, const char *name, const char *text);

/* ---- Operators of methods ---- */
enum aml_operator {
    AML_STORE = 0x70,  /* Store (source, target) */
    AML_AND = 0x7b,    /* And (left, right, target) */
    AML_OR = 0x7d,     /* Or (left, right, target) */
    AML_NOT_OP = 0x92, /* LNot (operand) */
    AML_EQUAL = 0x93,  /* LEqual (left, right) */
    AML_RETURN = 0xa4, /* Return (value) */
};
void aml_operator(struct aml *aml, enum aml_operator operator);
void aml_local(struct aml *aml, unsigned index);
void aml_argument(struct aml *aml, unsigned index);
/* CreateDWordField (ArgN, byte offset, name) */
void aml_dword_field(struct aml *aml, unsigned argument, unsigned offset,
                     const char *name);

/* ---- Resource templates (ACPI 6.4, 6.4) ---- */
struct aml_open aml_resources(struct aml *aml);
void aml_io(struct aml *aml, uint16_t base, uint8_t size);
/* IRQNoFlags: edge, active high, exclusive. */
void aml_irq(struct aml *aml, unsigned irq);
void aml_memory32(struct aml *aml, uint32_t base, uint32_t size, bool writable);
/* Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) */
void aml_interrupt(struct aml *aml, uint32_t gsi);

/* A range that a bridge passes on (ResourceProducer, fixed). */
enum aml_range { AML_RANGE_MEMORY, AML_RANGE_IO, AML_RANGE_BUS };
void aml_word_range(struct aml *aml, enum aml_range kind, uint16_t first, uint16_t last);
void aml_dword_memory(struct aml *aml, uint32_t base, uint32_t size);
void aml_qword_memory(struct aml *aml, uint64_t base, uint64_t size);

#endif
