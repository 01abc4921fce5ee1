/* SPDX-License-Identifier: MIT */
/* Reading a kernel's own description of its types. */
#include "vmm/symbols/btf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

enum {
    BTF_MAGIC = 0xeb9f,
    BTF_HEADER = 24,
    BTF_TYPE = 12, /* name, info, size or type */
    BTF_MEMBER = 12,
    BTF_TYPES_MAX = 1 << 22,
    BTF_DEPTH = 8,         /* of members without a name, and of modifiers */
    BTF_LOOKED_AT = 16384, /* members, for one question */
};

enum btf_kind {
    KIND_INT = 1,
    KIND_PTR,
    KIND_ARRAY,
    KIND_STRUCT,
    KIND_UNION,
    KIND_ENUM,
    KIND_FWD,
    KIND_TYPEDEF,
    KIND_VOLATILE,
    KIND_CONST,
    KIND_RESTRICT,
    KIND_FUNC,
    KIND_FUNC_PROTO,
    KIND_VAR,
    KIND_DATASEC,
    KIND_FLOAT,
    KIND_DECL_TAG,
    KIND_TYPE_TAG,
    KIND_ENUM64,
    KINDS
};

/* ---- Types ----------------------------------------------------------------------------------- */

/* What follows each kind's common part: bytes, and bytes for each of its members. */
static const struct {
    uint8_t fixed, each;
} extra[KINDS] = {
    [KIND_INT] = { 4, 0 },     [KIND_ARRAY] = { 12, 0 },   [KIND_STRUCT] = { 0, 12 },
    [KIND_UNION] = { 0, 12 },  [KIND_ENUM] = { 0, 8 },     [KIND_FUNC_PROTO] = { 0, 8 },
    [KIND_VAR] = { 4, 0 },     [KIND_DATASEC] = { 0, 12 }, [KIND_DECL_TAG] = { 4, 0 },
    [KIND_ENUM64] = { 0, 12 },
};

static const uint8_t *type_at(const struct btf *btf, uint32_t id)
{
    return btf->bytes + btf->types + btf->index[id];
}

static uint32_t type_info(const struct btf *btf, uint32_t id)
{
    return load_le32(type_at(btf, id) + 4);
}

static enum btf_kind type_kind(const struct btf *btf, uint32_t id)
{
    return id == 0 || id >= btf->count ? 0 : type_info(btf, id) >> 24 & 0x1f;
}

static uint32_t type_members(uint32_t info)
{
    return info & 0xffff;
}

/* The size or the type. */
static uint32_t type_word(const struct btf *btf, uint32_t id)
{
    return load_le32(type_at(btf, id) + 8);
}

static bool type_is(const struct btf *btf, uint32_t name, const char *text)
{
    size_t length = strlen(text) + 1;

    return name < btf->strings_size && btf->strings_size - name >= length &&
           memcmp(btf->bytes + btf->strings + name, text, length) == 0;
}

/* @id without typedefs and qualifiers. */
static uint32_t type_plain(const struct btf *btf, uint32_t id)
{
    for (unsigned i = 0; i < BTF_DEPTH; i++) {
        enum btf_kind kind = type_kind(btf, id);

        if (kind != KIND_TYPEDEF && kind != KIND_VOLATILE && kind != KIND_CONST &&
            kind != KIND_RESTRICT && kind != KIND_TYPE_TAG) {
            break;
        }
        id = type_word(btf, id);
    }
    return id < btf->count ? id : 0;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* The size of the type at @at, at most @room; 0: it is none. */
static size_t type_size(const uint8_t *at, size_t room)
{
    uint32_t info, kind;
    size_t size;

    if (room < BTF_TYPE) {
        return 0;
    }
    info = load_le32(at + 4);
    kind = info >> 24 & 0x1f;
    if (kind == 0 || kind >= KINDS) {
        return 0;
    }
    size = BTF_TYPE + extra[kind].fixed + (size_t)extra[kind].each * type_members(info);
    return size <= room ? size : 0;
}

static int btf_index(struct btf *btf)
{
    const uint8_t *types = btf->bytes + btf->types;
    uint32_t count = 1;

    for (int turn = 0; turn < 2; turn++) {
        size_t size;

        count = 1;
        for (size_t at = 0; at < btf->types_size; at += size) {
            size = type_size(types + at, btf->types_size - at);
            if (size == 0 || count == BTF_TYPES_MAX) {
                return -EPROTO;
            }
            if (turn == 1) {
                btf->index[count] = (uint32_t)at;
            }
            count++;
        }
        if (turn == 0) {
            btf->index = calloc(count, sizeof(*btf->index));
            if (btf->index == NULL) {
                return -ENOMEM;
            }
        }
    }
    btf->count = count;
    return 0;
}

static bool btf_section(const uint8_t *header, size_t field, size_t size, size_t *start,
                        size_t *length)
{
    size_t from = load_le32(header + 4), offset = load_le32(header + field);

    *length = load_le32(header + field + 4);
    *start = from + offset;
    return from <= size && offset <= size - from && *length <= size - from - offset;
}

int btf_open(struct btf *btf, const void *bytes, size_t size)
{
    int ret;

    *btf = (struct btf){ .bytes = bytes };
    if (size < BTF_HEADER || load_le16(bytes) != BTF_MAGIC || btf->bytes[2] != 1 ||
        !btf_section(bytes, 8, size, &btf->types, &btf->types_size) ||
        !btf_section(bytes, 16, size, &btf->strings, &btf->strings_size) ||
        btf->types_size > UINT32_MAX) {
        return -EPROTO;
    }
    ret = btf_index(btf);
    if (ret < 0) {
        btf_close(btf);
    }
    return ret;
}

void btf_close(struct btf *btf)
{
    free(btf->index);
    btf->index = NULL;
    btf->count = 0;
}

/* ---- Questions -------------------------------------------------------------------------------- */

bool btf_struct(const struct btf *btf, const char *name, uint32_t *type)
{
    for (uint32_t id = 1; id < btf->count; id++) {
        if (type_kind(btf, id) == KIND_STRUCT &&
            type_is(btf, load_le32(type_at(btf, id)), name)) {
            *type = id;
            return true;
        }
    }
    return false;
}

struct search {
    const struct btf *btf;
    const char *name;
    unsigned left; /* members to look at: structures may be nested in any way */
};

static bool member_find(struct search *search, uint32_t type, unsigned depth,
                        struct btf_place *place)
{
    const struct btf *btf = search->btf;
    enum btf_kind kind = type_kind(btf, type);
    uint32_t info;

    if (depth == 0 || (kind != KIND_STRUCT && kind != KIND_UNION)) {
        return false;
    }
    info = type_info(btf, type);
    for (uint32_t i = 0; i < type_members(info) && search->left > 0; i++) {
        const uint8_t *member = type_at(btf, type) + BTF_TYPE + i * (size_t)BTF_MEMBER;
        uint32_t member_name = load_le32(member), bits = load_le32(member + 8);
        uint32_t plain = type_plain(btf, load_le32(member + 4));

        search->left--;
        /* With the flag the upper byte is a bit field's width. */
        bits &= info >> 31 != 0 ? 0xffffff : UINT32_MAX;
        if (type_is(btf, member_name, search->name) && bits % 8 == 0) {
            *place = (struct btf_place){ bits / 8, plain };
            return true;
        }
        if (type_is(btf, member_name, "") &&
            member_find(search, plain, depth - 1, place)) {
            place->offset += bits / 8;
            return true;
        }
    }
    return false;
}

bool btf_member(const struct btf *btf, uint32_t type, const char *name,
                struct btf_place *place)
{
    struct search search = { btf, name, BTF_LOOKED_AT };

    return member_find(&search, type, BTF_DEPTH, place);
}

bool btf_target(const struct btf *btf, uint32_t pointer, uint32_t *type)
{
    if (type_kind(btf, pointer) != KIND_PTR) {
        return false;
    }
    *type = type_plain(btf, type_word(btf, pointer));
    return *type != 0;
}

bool btf_elements(const struct btf *btf, uint32_t array, uint32_t *type, uint32_t *count)
{
    if (type_kind(btf, array) != KIND_ARRAY) {
        return false;
    }
    *type = type_plain(btf, load_le32(type_at(btf, array) + BTF_TYPE));
    *count = load_le32(type_at(btf, array) + BTF_TYPE + 8);
    return *type != 0;
}

uint32_t btf_size(const struct btf *btf, uint32_t type)
{
    enum btf_kind kind = type_kind(btf, type);

    return kind == KIND_STRUCT || kind == KIND_UNION || kind == KIND_INT
               ? type_word(btf, type)
               : 0;
}
