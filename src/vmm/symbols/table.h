/* SPDX-License-Identifier: MIT */
/* Names and addresses of one program, looked up both ways. */
#ifndef VMM_SYMBOLS_TABLE_H
#define VMM_SYMBOLS_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SYMBOL_MAX_COUNT = 1 << 22, SYMBOL_MAX_NAME = 255 };

struct symbol {
    uint64_t address;
    uint32_t size; /* 0: up to the next symbol */
    uint32_t name; /* where in the pool; the type is in front of it */
};

/* Filled by symbol_table_add(), then sealed for lookups. All zero is an empty table. */
struct symbol_table {
    struct symbol *list;
    size_t count, capacity;
    size_t located; /* sealed: the first ones, sorted by address; absolute ones follow */
    uint32_t *by_name;
    char *pool;
    size_t pool_used, pool_capacity;
};

/*
 * Add a symbol of nm(1)'s type @type ('T', 'd', ...; 'A' is a number, not a place). Empty and
 * overlong names are passed over, unprintable bytes become '?'. 0, -ENOMEM or -E2BIG.
 */
int symbol_table_add(struct symbol_table *table, uint64_t address, uint64_t size,
                     char type, const char *name, size_t length);
int symbol_table_seal(struct symbol_table *table);
void symbol_table_release(struct symbol_table *table);

/* The symbol of that name; of several a global one, then the one of the lowest address. */
const struct symbol *symbol_table_find(const struct symbol_table *table,
                                       const char *name);
/* The symbol that holds @address. */
const struct symbol *symbol_table_at(const struct symbol_table *table, uint64_t address);

static inline const char *symbol_name(const struct symbol_table *table,
                                      const struct symbol *symbol)
{
    return table->pool + symbol->name;
}

static inline char symbol_type(const struct symbol_table *table,
                               const struct symbol *symbol)
{
    return table->pool[symbol->name - 1];
}

/* Whether it is code. */
static inline bool symbol_is_text(char type)
{
    return type == 't' || type == 'T' || type == 'w' || type == 'W';
}

#endif
