/* SPDX-License-Identifier: MIT */
/*
 * Linux's compressed symbol tables (scripts/kallsyms.c and kernel/kallsyms.c of the kernel).
 * Nothing points at them, so they are found by what they must look like: 256 tokens with an
 * index behind them, names made of tokens, and markers at every 256th name.
 */
#include "vmm/symbols/kallsyms.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"

enum {
    TOKENS = 256,
    TOKEN_TABLE_MAX = 16384,
    TOKENS_BEFORE_DIGITS = '0',
    MARKER_STEP = 256,
    FEWEST_SYMBOLS = 512,
    CHECKED_NAMES = 64,
};

/* The reach of what comes before the tokens: names of four million symbols and their offsets.
 */
#define KALLSYMS_REACH ((size_t)96 << 20)

/* The least of the kernel's half of the address space. */
#define KERNEL_HALF UINT64_C(0xffff800000000000)

struct kallsyms {
    const uint8_t *bytes;
    size_t size;
    size_t tokens, token_index; /* places in bytes */
    size_t names, count;
    size_t offsets, base; /* of the addresses */
    bool per_cpu;         /* offsets of per-CPU symbols are positive, others negative */
};

/* ---- Tokens ---------------------------------------------------------------------------------- */

static const char *token(const struct kallsyms *k, unsigned number)
{
    return (const char *)k->bytes + k->tokens +
           load_le16(k->bytes + k->token_index + 2 * (size_t)number);
}

/* Whether 256 strings at @tokens are followed by their index. */
static bool tokens_check(struct kallsyms *k, size_t tokens)
{
    size_t at = tokens, starts[TOKENS];

    for (unsigned i = 0; i < TOKENS; i++) {
        const uint8_t *end;

        starts[i] = at - tokens;
        if (at >= k->size || starts[i] > TOKEN_TABLE_MAX) {
            return false;
        }
        end = memchr(k->bytes + at, 0, k->size - at);
        if (end == NULL) {
            return false;
        }
        at = (size_t)(end - k->bytes) + 1;
    }
    at = align_up(at, 8);
    if (at > k->size || k->size - at < sizeof(uint16_t) * TOKENS) {
        return false;
    }
    for (unsigned i = 0; i < TOKENS; i++) {
        if (load_le16(k->bytes + at + 2 * (size_t)i) != starts[i]) {
            return false;
        }
    }
    k->tokens = tokens;
    k->token_index = at;
    return true;
}

/* Digits stand for themselves in every kernel: tokens '0' to '9' are one-letter strings. */
static bool tokens_find(struct kallsyms *k, size_t from, size_t *digits_at)
{
    static const char digits[20] = "0\0001\0002\0003\0004\0005\0006\0007\0008\0009";

    while (from < k->size) {
        const uint8_t *found =
            memmem(k->bytes + from, k->size - from, digits, sizeof(digits));
        size_t at, back, strings = 0;

        if (found == NULL) {
            return false;
        }
        at = (size_t)(found - k->bytes);
        /* Back over the strings before: each begins behind the zero of its predecessor. */
        for (back = at; back > 0 && at - back < TOKEN_TABLE_MAX &&
                        strings <= TOKENS_BEFORE_DIGITS;) {
            back--;
            strings += k->bytes[back] == 0;
        }
        for (size_t start = align_down(back + 8, 8); start + 8 > back && start <= at;
             start -= 8) {
            if (tokens_check(k, start)) {
                *digits_at = at;
                return true;
            }
            if (start < 8) {
                break;
            }
        }
        from = at + 1;
    }
    return false;
}

/* ---- Names ----------------------------------------------------------------------------------- */

/* The length of the name entry at *at, which is moved to its tokens; false: beyond the end. */
static bool name_length(const struct kallsyms *k, size_t *at, size_t *length)
{
    uint8_t first;

    if (*at >= k->tokens) {
        return false;
    }
    first = k->bytes[(*at)++];
    *length = first;
    if (first & 0x80) { /* since 6.1: two bytes, seven bits first */
        if (*at >= k->tokens) {
            return false;
        }
        *length = (first & 0x7fu) | (size_t)k->bytes[(*at)++] << 7;
    }
    return *length > 0 && *length <= k->tokens - *at;
}

/* Expand a name; its length, cut at @size. The first letter is the type. */
static size_t name_expand(const struct kallsyms *k, size_t at, size_t length, char *text,
                          size_t size)
{
    size_t used = 0;

    for (size_t i = 0; i < length; i++) {
        for (const char *c = token(k, k->bytes[at + i]); *c != '\0' && used < size; c++) {
            text[used++] = *c;
        }
    }
    return used;
}

static bool names_plausible(const struct kallsyms *k, size_t names)
{
    size_t at = names, length;
    char text[SYMBOL_MAX_NAME + 1];

    for (unsigned i = 0; i < CHECKED_NAMES; i++) {
        size_t used;

        if (!name_length(k, &at, &length)) {
            return false;
        }
        used = name_expand(k, at, length, text, sizeof(text));
        if (used < 2 || strchr("tTdDbBrRaAwWvVnuU", text[0]) == NULL) {
            return false;
        }
        for (size_t c = 1; c < used; c++) {
            if (text[c] <= ' ' || text[c] >= 0x7f) {
                return false;
            }
        }
        at += length;
    }
    return true;
}

/* Walk all names, comparing the markers behind them; *end is behind the markers. */
static bool names_check(struct kallsyms *k, size_t names, size_t count, size_t *end)
{
    size_t at = names, length, markers, ends = 0;

    for (size_t i = 0; i < count; i++) {
        if (!name_length(k, &at, &length)) {
            return false;
        }
        at += length;
    }
    markers = align_up(at, 8);
    ends = (count + MARKER_STEP - 1) / MARKER_STEP;
    if (markers > k->tokens || (k->tokens - markers) / 4 < ends) {
        return false;
    }
    at = names;
    for (size_t i = 0; i < count; i++) {
        if (i % MARKER_STEP == 0 &&
            load_le32(k->bytes + markers + i / MARKER_STEP * 4) != at - names) {
            return false;
        }
        if (!name_length(k, &at, &length)) {
            return false;
        }
        at += length;
    }
    *end = align_up(markers + 4 * ends, 8);
    k->names = names;
    k->count = count;
    return true;
}

/* ---- Addresses ------------------------------------------------------------------------------- */

static uint64_t symbol_address(const struct kallsyms *k, size_t index, bool *absolute)
{
    uint64_t base = load_le64(k->bytes + k->base);
    int32_t offset = (int32_t)load_le32(k->bytes + k->offsets + 4 * index);

    *absolute = k->per_cpu && offset >= 0;
    if (!k->per_cpu) {
        return base + (uint32_t)offset;
    }
    return *absolute ? (uint64_t)offset : base - 1 - (uint64_t)(int64_t)offset;
}

/* Symbols are sorted by address: tells whether offsets and base are at these places. */
static bool addresses_check(struct kallsyms *k, size_t offsets, size_t base)
{
    size_t negative = 0, rising = 0;
    uint64_t last = 0;

    if (base > k->size || k->size - base < 8 || offsets > k->size ||
        (k->size - offsets) / 4 < k->count || load_le64(k->bytes + base) < KERNEL_HALF) {
        return false;
    }
    k->offsets = offsets;
    k->base = base;
    for (size_t i = 0; i < k->count; i++) {
        negative += (int32_t)load_le32(k->bytes + offsets + 4 * i) < 0;
    }
    k->per_cpu = negative > k->count / 2;
    for (size_t i = 0; i < k->count; i++) {
        bool absolute;
        uint64_t address = symbol_address(k, i, &absolute);

        rising += address >= last;
        last = address;
    }
    /* Absolute symbols may come anywhere. */
    return rising >= k->count - k->count / 100;
}

/* Offsets and base before the names (until 6.3) or behind the token index (since 6.4). */
static bool addresses_find(struct kallsyms *k, size_t count_at)
{
    size_t room = align_up(4 * k->count, 8);
    size_t behind = align_up(k->token_index + sizeof(uint16_t) * TOKENS, 8);

    if (count_at >= 8 + room && addresses_check(k, count_at - 8 - room, count_at - 8)) {
        return true;
    }
    return k->size > behind && k->size - behind > room &&
           addresses_check(k, behind, behind + room);
}

/* The number of symbols stands before the names, at a multiple of eight. */
static bool names_find(struct kallsyms *k)
{
    size_t lowest = k->tokens > KALLSYMS_REACH ? k->tokens - KALLSYMS_REACH : 0;

    for (size_t at = align_down(k->tokens, 8); at >= lowest + 8;) {
        uint64_t count;
        size_t end;

        at -= 8;
        count = load_le64(k->bytes + at);
        if (count < FEWEST_SYMBOLS || count > SYMBOL_MAX_COUNT ||
            count > (k->tokens - at) / 2 || !names_plausible(k, at + 8) ||
            !names_check(k, at + 8, count, &end)) {
            continue;
        }
        /* From 6.2 to 6.3 the order of names, three bytes each, is behind the markers. */
        if ((end == k->tokens || align_up(end + 3 * count, 8) == k->tokens) &&
            addresses_find(k, at)) {
            return true;
        }
    }
    return false;
}

static int symbols_add(const struct kallsyms *k, struct symbol_table *table)
{
    char text[SYMBOL_MAX_NAME + 2];
    size_t at = k->names, length;
    int ret = 0;

    for (size_t i = 0; i < k->count && ret == 0; i++) {
        bool absolute;
        uint64_t address = symbol_address(k, i, &absolute);
        size_t used;

        if (!name_length(k, &at, &length)) {
            return -ENOENT; /* not after names_check() */
        }
        used = name_expand(k, at, length, text, sizeof(text));
        if (used > 1) {
            ret = symbol_table_add(table, address, 0, absolute ? 'A' : text[0], text + 1,
                                   used - 1);
        }
        at += length;
    }
    return ret;
}

bool kallsyms_probe(const uint8_t *bytes, size_t size, size_t *at)
{
    struct kallsyms k = { .bytes = bytes, .size = size };
    size_t digits;

    if (!tokens_find(&k, 0, &digits)) {
        return false;
    }
    *at = k.tokens;
    return true;
}

int kallsyms_read(const uint8_t *bytes, size_t size, struct symbol_table *table,
                  size_t *base_at)
{
    struct kallsyms k = { .bytes = bytes, .size = size };
    size_t from = 0;

    while (tokens_find(&k, from, &from)) {
        if (names_find(&k)) {
            *base_at = k.base;
            return symbols_add(&k, table);
        }
        from++;
    }
    return -ENOENT;
}
