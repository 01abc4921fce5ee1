/* SPDX-License-Identifier: MIT */
/* A table of symbols: names in one pool, sorted by address and by name. */
#include "vmm/symbols/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A symbol without a size and without a successor reaches this far. */
enum { SYMBOL_LAST_REACH = 1 << 20 };

static int table_reserve(struct symbol_table *table, size_t bytes)
{
    if (table->count == table->capacity) {
        size_t capacity = table->capacity == 0 ? 1024 : 2 * table->capacity;
        struct symbol *list = realloc(table->list, capacity * sizeof(*list));

        if (list == NULL) {
            return -ENOMEM;
        }
        table->list = list;
        table->capacity = capacity;
    }
    if (table->pool_capacity - table->pool_used < bytes) {
        size_t capacity = 2 * table->pool_capacity + 65536;
        char *pool = realloc(table->pool, capacity);

        if (pool == NULL) {
            return -ENOMEM;
        }
        table->pool = pool;
        table->pool_capacity = capacity;
    }
    return 0;
}

int symbol_table_add(struct symbol_table *table, uint64_t address, uint64_t size,
                     char type, const char *name, size_t length)
{
    char *to;
    int ret;

    if (length == 0 || length > SYMBOL_MAX_NAME) {
        return 0;
    }
    if (table->count == SYMBOL_MAX_COUNT) {
        return -E2BIG;
    }
    ret = table_reserve(table, length + 2);
    if (ret < 0) {
        return ret;
    }
    to = table->pool + table->pool_used;
    *to++ = type;
    table->list[table->count++] = (struct symbol){
        .address = address,
        .size = size < UINT32_MAX ? (uint32_t)size : UINT32_MAX,
        .name = (uint32_t)(table->pool_used + 1),
    };
    for (size_t i = 0; i < length; i++) {
        *to++ = name[i] > ' ' && name[i] < 0x7f ? name[i] : '?';
    }
    *to = '\0';
    table->pool_used += length + 2;
    return 0;
}

/* Global symbols before local ones; code before data. */
static int symbol_rank(const struct symbol_table *table, const struct symbol *symbol)
{
    char type = symbol_type(table, symbol);
    bool global = (type >= 'A' && type <= 'Z') || type == 'w';

    return (global ? 0 : 2) + (symbol_is_text(type) ? 0 : 1);
}

static int compare_addresses(const void *a, const void *b, void *context)
{
    const struct symbol_table *table = context;
    const struct symbol *x = a, *y = b;
    bool x_absolute = symbol_type(table, x) == 'A';
    bool y_absolute = symbol_type(table, y) == 'A';

    if (x_absolute != y_absolute) {
        return x_absolute ? 1 : -1;
    }
    if (x->address != y->address) {
        return x->address < y->address ? -1 : 1;
    }
    if (symbol_rank(table, x) != symbol_rank(table, y)) {
        return symbol_rank(table, x) - symbol_rank(table, y);
    }
    return x->name < y->name ? -1 : x->name > y->name;
}

static int compare_names(const void *a, const void *b, void *context)
{
    const struct symbol_table *table = context;
    const struct symbol *x = &table->list[*(const uint32_t *)a];
    const struct symbol *y = &table->list[*(const uint32_t *)b];
    int order = strcmp(symbol_name(table, x), symbol_name(table, y));

    if (order == 0) {
        order = symbol_rank(table, x) - symbol_rank(table, y);
    }
    if (order == 0) {
        order = x->address < y->address ? -1 : x->address > y->address;
    }
    return order;
}

int symbol_table_seal(struct symbol_table *table)
{
    if (table->count == 0) {
        return 0;
    }
    table->by_name = malloc(table->count * sizeof(*table->by_name));
    if (table->by_name == NULL) {
        return -ENOMEM;
    }
    qsort_r(table->list, table->count, sizeof(*table->list), compare_addresses, table);
    table->located = table->count;
    for (size_t i = 0; i < table->count; i++) {
        table->by_name[i] = (uint32_t)i;
        if (symbol_type(table, &table->list[i]) == 'A' && i < table->located) {
            table->located = i;
        }
    }
    qsort_r(table->by_name, table->count, sizeof(*table->by_name), compare_names, table);
    return 0;
}

void symbol_table_release(struct symbol_table *table)
{
    free(table->list);
    free(table->by_name);
    free(table->pool);
    memset(table, 0, sizeof(*table));
}

const struct symbol *symbol_table_find(const struct symbol_table *table, const char *name)
{
    size_t low = 0, high = table->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(symbol_name(table, &table->list[table->by_name[middle]]), name) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == table->count ||
        strcmp(symbol_name(table, &table->list[table->by_name[low]]), name) != 0) {
        return NULL;
    }
    return &table->list[table->by_name[low]];
}

const struct symbol *symbol_table_at(const struct symbol_table *table, uint64_t address)
{
    const struct symbol *symbol;
    size_t low = 0, high = table->located;

    /* The first symbol behind the address. */
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (table->list[middle].address <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == 0) {
        return NULL;
    }
    symbol = &table->list[low - 1];
    if (low == table->located && symbol->size == 0 &&
        address - symbol->address >= SYMBOL_LAST_REACH) {
        return NULL;
    }
    while (symbol > table->list && symbol[-1].address == symbol->address) {
        symbol--; /* the best of its aliases */
    }
    return symbol->size == 0 || address - symbol->address < symbol->size ? symbol : NULL;
}
