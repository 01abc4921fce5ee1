/* SPDX-License-Identifier: MIT */
/* What a section of unittests.cfg asks of QEMU: the part that has a meaning here. */
#include "vmm/cli/test/cfg_options.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Numbers ----------------------------------------------------------------------------- */

static void skip_space(const char **at)
{
    while (**at == ' ' || **at == '\t') {
        (*at)++;
    }
}

/* A number, MAX_SMP or $MAX_SMP. */
static bool smp_atom(const char **at, long *value)
{
    char *end;

    skip_space(at);
    *at += **at == '$';
    if (strncmp(*at, "MAX_SMP", 7) == 0) {
        *at += 7;
        *value = sysconf(_SC_NPROCESSORS_ONLN);
        return true;
    }
    if (!isdigit((unsigned char)**at)) {
        return false;
    }
    *value = strtol(*at, &end, 10);
    *at = end;
    return true;
}

static bool smp_compare(const char **at, long *value)
{
    long right;
    char op;

    if (!smp_atom(at, value)) {
        return false;
    }
    skip_space(at);
    if (**at != '<' && **at != '>') {
        return true;
    }
    op = *(*at)++;
    if (**at == '=') {
        (*at)++;
        if (!smp_atom(at, &right)) {
            return false;
        }
        *value = op == '<' ? *value <= right : *value >= right;
        return true;
    }
    if (!smp_atom(at, &right)) {
        return false;
    }
    *value = op == '<' ? *value < right : *value > right;
    return true;
}

unsigned test_cfg_smp(const char *text)
{
    bool expression = strncmp(text, "$((", 3) == 0;
    long value = 0, yes, no;

    text += expression ? 3 : 0;
    if (!smp_compare(&text, &value)) {
        return 0;
    }
    skip_space(&text);
    if (expression && *text == '?') {
        text++;
        if (!smp_atom(&text, &yes)) {
            return 0;
        }
        skip_space(&text);
        if (*text++ != ':' || !smp_atom(&text, &no)) {
            return 0;
        }
        value = value ? yes : no;
        skip_space(&text);
    }
    if (expression && strncmp(text, "))", 2) == 0) {
        text += 2;
    }
    return *text == '\0' && value > 0 && value <= 4096 ? (unsigned)value : 0;
}

/* ---- QEMU's options ---------------------------------------------------------------------- */

/* One word as a shell splits them, unquoted, into @word; NULL at the end of the text. */
static const char *next_word(const char *at, char *word, size_t size)
{
    char quote = '\0';
    size_t used = 0;

    while (isspace((unsigned char)*at)) {
        at++;
    }
    if (*at == '\0') {
        return NULL;
    }
    for (; *at != '\0' && (quote != '\0' || !isspace((unsigned char)*at)); at++) {
        if (*at == quote) {
            quote = '\0';
            continue;
        }
        if (quote == '\0' && (*at == '\'' || *at == '"')) {
            quote = *at;
            continue;
        }
        if (*at == '\\' && quote != '\'' && at[1] != '\0') {
            at++;
        }
        if (used + 1 < size) {
            word[used++] = *at;
        }
    }
    word[used] = '\0';
    return at;
}

int test_cfg_text(char **member, const char *text)
{
    char *copy = strdup(text);

    if (copy == NULL) {
        return -ENOMEM;
    }
    free(*member);
    *member = copy;
    return 0;
}

int test_cfg_skip(struct test_case *test, const char *format, ...)
{
    va_list args;
    int ret;

    if (test->skip != NULL) {
        return 0; /* the first reason stays */
    }
    va_start(args, format);
    ret = vasprintf(&test->skip, format, args);
    va_end(args);
    if (ret < 0) {
        test->skip = NULL;
        return -ENOMEM;
    }
    return 0;
}

/* "max,+x2apic,-umip,pcid=off": models have no meaning here, the host's is what there is. */
static int take_cpu(struct test_case *test, const char *value)
{
    char *features = NULL, *copy = strdup(value), *save = NULL, *part;
    int ret = copy == NULL ? -ENOMEM : 0;

    part = ret == 0 ? strtok_r(copy, ",", &save) : NULL;
    while (ret == 0 && (part = strtok_r(NULL, ",", &save)) != NULL) {
        char *equals = strchr(part, '='), *name = part, *longer;
        bool on = part[0] != '-';

        if (equals != NULL) {
            on = strcmp(equals, "=on") == 0 || strcmp(equals, "=true") == 0;
            if (!on && strcmp(equals, "=off") != 0 && strcmp(equals, "=false") != 0) {
                ret = test_cfg_skip(test, "it asks for -cpu %s", part);
                break;
            }
            *equals = '\0';
        } else if (part[0] == '+' || part[0] == '-') {
            name++;
        }
        for (char *c = name; *c != '\0'; c++) {
            *c = *c == '-' || *c == '.' ? '_' : *c;
        }
        if (strcmp(name, "tsc_deadline") == 0) {
            name = (char *)"tsc_deadline_timer"; /* Linux's name */
        }
        if (asprintf(&longer, "%s%s%c%s", features != NULL ? features : "",
                     features != NULL ? "," : "", on ? '+' : '-', name) < 0) {
            ret = -ENOMEM;
            break;
        }
        free(features);
        features = longer;
    }
    free(copy);
    if (ret == 0 && features != NULL) {
        ret = test_cfg_text(&test->features, features);
    }
    free(features);
    return ret;
}

/* "q35,kernel_irqchip=split" */
static int take_machine(struct test_case *test, const char *value)
{
    if (strstr(value, "kernel_irqchip=split") != NULL) {
        test->split_irqchip = true;
    } else if (strstr(value, "kernel_irqchip=off") != NULL ||
               strstr(value, "pit=off") != NULL || strstr(value, "accel=tcg") != NULL) {
        return test_cfg_skip(test, "it asks for -machine %s", value);
    }
    return 0;
}

/* -m 512, -m 2048M, -m 2g: without a unit it counts mebibytes. */
static int take_memory(struct test_case *test, const char *value)
{
    char text[64];
    size_t digits = strspn(value, "0123456789");

    if (digits == 0 || strlen(value) > digits + 1 || digits > 15) {
        return test_cfg_skip(test, "it asks for -m %s", value);
    }
    snprintf(text, sizeof(text), "%.*s%c", (int)digits, value,
             value[digits] == '\0' ? 'M' : toupper((unsigned char)value[digits]));
    return test_cfg_text(&test->memory, text);
}

static int take_smp(struct test_case *test, const char *value)
{
    char number[64];

    snprintf(number, sizeof(number), "%.*s", (int)strcspn(value, ","), value);
    test->cpus = test_cfg_smp(strncmp(number, "cpus=", 5) == 0 ? number + 5 : number);
    return test->cpus != 0 ? 0 : test_cfg_skip(test, "it asks for -smp %s", value);
}

static int take_append(struct test_case *test, const char *value)
{
    return test_cfg_text(&test->append, value);
}

/* One option of QEMU with its value. */
static int take_option(struct test_case *test, const char *option, const char *value)
{
    static const struct {
        const char *option;
        int (*take)(struct test_case *test, const char *value); /* NULL: means nothing */
    } options[] = {
        { "append", take_append }, { "cpu", take_cpu },         { "m", take_memory },
        { "smp", take_smp },       { "machine", take_machine }, { "M", take_machine },
        { "display", NULL },       { "serial", NULL },          { "vnc", NULL },
        { "net", NULL },
    };

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strcmp(options[i].option, option) == 0) {
            return options[i].take != NULL ? options[i].take(test, value) : 0;
        }
    }
    return test_cfg_skip(test, "it asks for QEMU's -%s %s", option, value);
}

int test_cfg_qemu(struct test_case *test, const char *text)
{
    static const char *const alone[] = { "enable-kvm", "no-reboot", "nographic",
                                         "nodefaults", "no-acpi",   "S" };
    char *option = malloc(TEST_CFG_TEXT_MAX), *value = malloc(TEST_CFG_TEXT_MAX);
    int ret = option == NULL || value == NULL ? -ENOMEM : 0;

    while (ret == 0 && (text = next_word(text, option, TEST_CFG_TEXT_MAX)) != NULL) {
        const char *name = option + strspn(option, "-");
        bool single = false;

        if (name == option) {
            ret = test_cfg_skip(test, "it asks for %s of QEMU", option);
            continue;
        }
        for (size_t i = 0; i < sizeof(alone) / sizeof(alone[0]); i++) {
            single |= strcmp(alone[i], name) == 0;
        }
        if (single) {
            continue;
        }
        text = next_word(text, value, TEST_CFG_TEXT_MAX);
        if (text == NULL) {
            ret = test_cfg_skip(test, "it asks for QEMU's -%s", name);
            break;
        }
        ret = take_option(test, name, value);
    }
    free(option);
    free(value);
    return ret;
}
