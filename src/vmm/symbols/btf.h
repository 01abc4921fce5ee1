/* SPDX-License-Identifier: MIT */
/*
 * BPF Type Format (Documentation/bpf/btf.rst of the kernel): the types of a Linux kernel, which
 * it carries in itself. What is asked of it is where the members of its structures are. The
 * bytes are the guest's and may be anything.
 */
#ifndef VMM_SYMBOLS_BTF_H
#define VMM_SYMBOLS_BTF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct btf {
    const uint8_t *bytes; /* the owner's */
    size_t types, types_size, strings, strings_size;
    uint32_t *index; /* where in the types each is, by id; [0] is void */
    uint32_t count;
};

/* A member, or what a pointer to it or an element of it is. */
struct btf_place {
    uint32_t offset; /* bytes from the start of the structure that was asked for */
    uint32_t type;   /* an id, modifiers and typedefs skipped */
};

/* -EPROTO when the bytes are no BTF that is sound up to its last type. */
int btf_open(struct btf *btf, const void *bytes, size_t size);
void btf_close(struct btf *btf);

/* The structure called @name. */
bool btf_struct(const struct btf *btf, const char *name, uint32_t *type);
/* Member @name of structure or union @type, also inside its members that have no name. */
bool btf_member(const struct btf *btf, uint32_t type, const char *name,
                struct btf_place *place);
/* What a pointer points at. */
bool btf_target(const struct btf *btf, uint32_t pointer, uint32_t *type);
/* The elements of an array. */
bool btf_elements(const struct btf *btf, uint32_t array, uint32_t *type, uint32_t *count);
/* The bytes of a structure, union or number; 0: something else. */
uint32_t btf_size(const struct btf *btf, uint32_t type);

#endif
