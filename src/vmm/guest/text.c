/* SPDX-License-Identifier: MIT */
/* Strings, and the console on COM1. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

void *memcpy(void *to, const void *from, size_t size)
{
    void *d = to;

    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(size)::"memory");
    return to;
}

void *memset(void *to, int value, size_t size)
{
    void *d = to;

    __asm__ volatile("rep stosb" : "+D"(d), "+c"(size) : "a"(value) : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const uint8_t *x = a, *y = b;

    for (; size; size--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *text)
{
    size_t n = 0;

    while (text[n])
        n++;
    return n;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return (unsigned char)*a - (unsigned char)*b;
}

bool text_starts(const char *text, const char *start)
{
    while (*start)
        if (*text++ != *start++)
            return false;
    return true;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

bool number_parse(const char *text, uint64_t *value)
{
    int base = 10;
    uint64_t v = 0;

    if (text_starts(text, "0x")) {
        base = 16;
        text += 2;
    }
    if (!*text)
        return false;
    for (; *text; text++) {
        if (digit_value(*text) >= base)
            return false;
        v = v * (uint64_t)base + (uint64_t)digit_value(*text);
    }
    *value = v;
    return true;
}

/* Wait for an empty transmitter once for every 16 bytes, the depth of its FIFO. The wait
 * is bounded: a console that never drains must not hang the guest. */
void print_bytes(const char *text, size_t size)
{
    static bool ready;
    unsigned wait, i;

    if (!ready) {
        ready = true;
        out8(COM1_PORT + 3, 0x80); /* DLAB: 115200 baud */
        out8(COM1_PORT + 0, 1);
        out8(COM1_PORT + 1, 0);
        out8(COM1_PORT + 3, 0x03); /* 8n1 */
        out8(COM1_PORT + 2, 0x07); /* FIFOs on and cleared */
        out8(COM1_PORT + 4, 0x03); /* DTR, RTS */
    }
    while (size) {
        for (wait = 0; wait < 100000 && !(in8(COM1_PORT + 5) & 0x20); wait++)
            cpu_pause();
        for (i = 0; i < 16 && size; i++, size--)
            out8(COM1_PORT, (uint8_t)*text++);
    }
}

struct line {
    char text[256];
    size_t used;
};

static void line_flush(struct line *line)
{
    print_bytes(line->text, line->used);
    line->used = 0;
}

static void line_put(struct line *line, char c)
{
    if (line->used + 2 > sizeof(line->text))
        line_flush(line);
    if (c == '\n')
        line->text[line->used++] = '\r';
    line->text[line->used++] = c;
}

static void line_field(struct line *line, const char *text, size_t size, int width,
                       char pad)
{
    int fill = width < 0 ? -width : width;

    fill = fill > (int)size ? fill - (int)size : 0;
    if (width > 0)
        for (; fill; fill--)
            line_put(line, pad);
    while (size--)
        line_put(line, *text++);
    for (; fill; fill--)
        line_put(line, ' ');
}

static void line_number(struct line *line, uint64_t v, unsigned base, int width, char pad)
{
    char digits[24];
    size_t at = sizeof(digits);

    do {
        digits[--at] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    line_field(line, digits + at, sizeof(digits) - at, width, pad);
}

static void line_format(struct line *line, const char *format, va_list args)
{
    for (; *format; format++) {
        bool left = false, wide = false;
        char pad = ' ', letter;
        const char *text;
        int width = 0;
        int64_t number;

        if (*format != '%') {
            line_put(line, *format);
            continue;
        }
        for (format++; *format == '-' || *format == '0'; format++) {
            left |= *format == '-';
            pad = *format == '0' ? '0' : pad;
        }
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + *format - '0';
        for (; *format == 'l' || *format == 'z'; format++)
            wide = true;
        width = left ? -width : width;
        switch (*format) {
        case 'c':
            letter = (char)va_arg(args, int);
            line_field(line, &letter, 1, width, ' ');
            break;
        case 's':
            text = va_arg(args, const char *);
            line_field(line, text, strlen(text), width, ' ');
            break;
        case 'd':
            number = wide ? va_arg(args, int64_t) : va_arg(args, int);
            if (number < 0)
                line_put(line, '-');
            line_number(line, (uint64_t)(number < 0 ? -number : number), 10, width, pad);
            break;
        case 'u':
        case 'x':
        case 'p':
            wide |= *format == 'p';
            line_number(line, wide ? va_arg(args, uint64_t) : va_arg(args, uint32_t),
                        *format == 'u' ? 10 : 16, width, pad);
            break;
        default:
            line_put(line, *format);
        }
    }
}

void print(const char *format, ...)
{
    struct line line;
    va_list args;

    line.used = 0;
    va_start(args, format);
    line_format(&line, format, args);
    va_end(args);
    line_flush(&line);
}

void guest_fail(const char *format, ...)
{
    struct line line;
    va_list args;

    line.used = 0;
    va_start(args, format);
    line_format(&line, "FAIL: ", args);
    line_format(&line, format, args);
    va_end(args);
    line_put(&line, '\n');
    line_flush(&line);
    guest_exit(EXIT_FAIL);
}
