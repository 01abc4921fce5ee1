/* SPDX-License-Identifier: MIT */
/*
 * One configuration value: from launcher text, to launcher text, copied and freed. What a
 * value may be comes from its key in the table.
 */
#ifndef VMM_CONFIG_VALUE_H
#define VMM_CONFIG_VALUE_H

#include <jansson.h>

#include "vmm/config/config.h"
#include "vmm/config/keys.h"

/* Why a value was refused: "expected ..., got ...". */
struct config_why {
    char text[384];
};

/* Fill @why and return -EINVAL. */
int config_refuse(struct config_why *why, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * Store the scalar @text into @key's member of @object (not OBJECT, SWITCH, LIST).
 * Relative paths are put behind @base_dir (NULL: left alone). STRINGS and FORWARDS gain
 * elements; ENDS are replaced. 0, -EINVAL with @why, or -ENOMEM.
 */
int config_value_set(const struct config_key *key, void *object, const char *text,
                     const char *base_dir, struct config_why *why);

/* Store a number: UINT, INT, SIZE, or DURATION (in milliseconds). */
int config_value_set_number(const struct config_key *key, void *object, int64_t value,
                            struct config_why *why);

/* Store one END at @index of ENDS. */
int config_value_set_end(const struct config_key *key, void *object, unsigned index,
                         const char *text, const char *base_dir, struct config_why *why);

/* What the key expects, for messages: "a size such as \"512M\"". */
const char *config_value_expected(const struct config_key *key, char *text, size_t size);

/* "name=value" parts of launcher text; ",," stands for a comma. *part is malloc'd and
 * NULL at the end. 0 or -ENOMEM. */
int config_next_part(const char **cursor, char **part);

/* ---- Members by their place -------------------------------------------------- */

void *config_member(const struct config_key *key, void *object);
size_t config_count(const struct config_key *key, const void *object);
void config_set_count(const struct config_key *key, void *object, size_t count);
bool config_get_bool(const struct config_key *key, const void *object);
void config_set_bool(const struct config_key *key, void *object, bool value);
uint64_t config_get_uint(const struct config_key *key, const void *object);

/* Grow LIST, STRINGS or FORWARDS by one zeroed element of @size; NULL when out of memory.
 */
void *config_list_grow(const struct config_key *key, void *object, size_t size);

/* ---- Whole objects ----------------------------------------------------------- */

void config_value_clear(const struct config_key *key, void *object);
void config_object_clear(const struct config_table *table, void *object);

/* @to is a bitwise copy of @from whose owned members are still shared: make them its own.
 * On -ENOMEM what was not copied is NULL. */
int config_object_unshare(const struct config_table *table, void *to, const void *from);

/* As JSON; NULL when out of memory. Strings that are NULL and empty lists are left out.
 */
json_t *config_object_json(const struct config_table *table, const void *object);

/* One scalar as launcher text, malloc'd; NULL when not set or out of memory. */
char *config_value_text(const struct config_key *key, const void *object);

#endif
