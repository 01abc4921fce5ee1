/* SPDX-License-Identifier: MIT */
/* Text that is put together piece by piece, in a buffer of fixed size or one that grows. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

struct text {
    char *data;        /* always terminated */
    size_t size, used; /* used < size; what does not fit is cut off */
    bool grows;        /* data is malloc'd and the owner frees it */
};

/* Begin in @size (at least 1) bytes at @data. */
void text_fixed(struct text *text, char *data, size_t size);
/* Begin a text that grows as needed; -ENOMEM. */
int text_grown(struct text *text);

void text_add(struct text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
