/* SPDX-License-Identifier: MIT */
/* Building texts. */
#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEXT_FIRST_SIZE = 4096 };

void text_fixed(struct text *text, char *data, size_t size)
{
    *text = (struct text){ .data = data, .size = size };
    data[0] = '\0';
}

int text_grown(struct text *text)
{
    *text = (struct text){ .data = calloc(1, TEXT_FIRST_SIZE),
                           .size = TEXT_FIRST_SIZE,
                           .grows = true };
    return text->data == NULL ? -ENOMEM : 0;
}

static void text_make_room(struct text *text, size_t length)
{
    size_t size = 2 * text->size + length;
    char *data;

    if (text->grows && length >= text->size - text->used) {
        data = realloc(text->data, size);
        if (data != NULL) {
            text->data = data;
            text->size = size;
        }
    }
}

void text_add(struct text *text, const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length <= 0) {
        return;
    }
    text_make_room(text, (size_t)length);
    va_start(args, format);
    vsnprintf(text->data + text->used, text->size - text->used, format, args);
    va_end(args);
    text->used += (size_t)length;
    if (text->used >= text->size) {
        text->used = text->size - 1;
    }
}
