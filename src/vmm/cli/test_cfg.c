/* SPDX-License-Identifier: MIT */
/*
 * kvm-unit-tests' unittests.cfg. A section is a test: [NAME] and `key = value` lines, a
 * value in triple quotes may span lines. Its extra_params are QEMU's options: what of them
 * has a meaning here is carried over; a test that asks for anything else is skipped, and
 * says why.
 */
#include "vmm/cli/test_cfg.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CFG_WORDS_MAX = 64, CFG_TEXT_MAX = 65536 };

/* A section as it is read. */
struct cfg_section {
    char *name, *file, *smp, *params, *arguments, *arch, *accel, *check, *timeout,
        *groups;
};

static char **section_member(struct cfg_section *section, const char *key)
{
    const struct {
        const char *key;
        char **member;
    } members[] = {
        { "file", &section->file },
        { "smp", &section->smp },
        { "extra_params", &section->params },
        { "qemu_params", &section->params }, /* its name since 2025 */
        { "test_args", &section->arguments },
        { "arch", &section->arch },
        { "accel", &section->accel },
        { "check", &section->check },
        { "timeout", &section->timeout },
        { "groups", &section->groups },
    };

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        if (strcmp(members[i].key, key) == 0) {
            return members[i].member;
        }
    }
    return NULL; /* for other runners (kvmtool_params) or of no meaning here */
}

static void section_clear(struct cfg_section *section)
{
    char *all[] = { section->name,      section->file,  section->smp,   section->params,
                    section->arguments, section->arch,  section->accel, section->check,
                    section->timeout,   section->groups };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
    *section = (struct cfg_section){ .name = NULL };
}

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

/* "4", "$MAX_SMP", "$(($MAX_SMP < 4 ? $MAX_SMP : 4))"; 0: none of these. */
static unsigned smp_parse(const char *text)
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

static int set_text(char **member, const char *text)
{
    char *copy = strdup(text);

    if (copy == NULL) {
        return -ENOMEM;
    }
    free(*member);
    *member = copy;
    return 0;
}

__attribute__((format(printf, 2, 3))) static int skip_test(struct test_case *test,
                                                           const char *format, ...)
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
                ret = skip_test(test, "it asks for -cpu %s", part);
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
        ret = set_text(&test->features, features);
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
        return skip_test(test, "it asks for -machine %s", value);
    }
    return 0;
}

/* -m 512, -m 2048M, -m 2g: without a unit it counts mebibytes. */
static int take_memory(struct test_case *test, const char *value)
{
    char text[64];
    size_t digits = strspn(value, "0123456789");

    if (digits == 0 || strlen(value) > digits + 1 || digits > 15) {
        return skip_test(test, "it asks for -m %s", value);
    }
    snprintf(text, sizeof(text), "%.*s%c", (int)digits, value,
             value[digits] == '\0' ? 'M' : toupper((unsigned char)value[digits]));
    return set_text(&test->memory, text);
}

static int take_smp(struct test_case *test, const char *value)
{
    char number[64];

    snprintf(number, sizeof(number), "%.*s", (int)strcspn(value, ","), value);
    test->cpus = smp_parse(strncmp(number, "cpus=", 5) == 0 ? number + 5 : number);
    return test->cpus != 0 ? 0 : skip_test(test, "it asks for -smp %s", value);
}

static int take_append(struct test_case *test, const char *value)
{
    return set_text(&test->append, value);
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
    return skip_test(test, "it asks for QEMU's -%s %s", option, value);
}

static int take_params(struct test_case *test, const char *text)
{
    static const char *const alone[] = { "enable-kvm", "no-reboot", "nographic",
                                         "nodefaults", "no-acpi",   "S" };
    char *option = malloc(CFG_TEXT_MAX), *value = malloc(CFG_TEXT_MAX);
    int ret = option == NULL || value == NULL ? -ENOMEM : 0;

    while (ret == 0 && (text = next_word(text, option, CFG_TEXT_MAX)) != NULL) {
        const char *name = option + strspn(option, "-");
        bool single = false;

        if (name == option) {
            ret = skip_test(test, "it asks for %s of QEMU", option);
            continue;
        }
        for (size_t i = 0; i < sizeof(alone) / sizeof(alone[0]); i++) {
            single |= strcmp(alone[i], name) == 0;
        }
        if (single) {
            continue;
        }
        text = next_word(text, value, CFG_TEXT_MAX);
        if (text == NULL) {
            ret = skip_test(test, "it asks for QEMU's -%s", name);
            break;
        }
        ret = take_option(test, name, value);
    }
    free(option);
    free(value);
    return ret;
}

/* ---- A section becomes a test ------------------------------------------------------------ */

/* Is @word one of the words of @list? */
static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);

    while (list != NULL && *list != '\0') {
        size_t part = strcspn(list, " \t,");

        if (part == length && strncmp(list, word, length) == 0) {
            return true;
        }
        list += part + strspn(list + part, " \t,");
    }
    return false;
}

/* "PATH=VALUE ...": what files of the host have to say. */
static int take_checks(struct test_case *test, const char *checks)
{
    char *copy = strdup(checks), *save = NULL;
    int ret = copy == NULL ? -ENOMEM : 0;

    for (char *check = ret == 0 ? strtok_r(copy, " \t", &save) : NULL;
         ret == 0 && check != NULL; check = strtok_r(NULL, " \t", &save)) {
        char *equals = strchr(check, '='), line[256] = "";
        FILE *file;

        if (equals == NULL) {
            ret = skip_test(test, "its check \"%s\" is none", check);
            break;
        }
        *equals = '\0';
        file = fopen(check, "re");
        if (file != NULL) {
            if (fgets(line, sizeof(line), file) == NULL) {
                line[0] = '\0';
            }
            fclose(file);
        }
        line[strcspn(line, "\n")] = '\0';
        if (file == NULL || strcmp(line, equals + 1) != 0) {
            ret = skip_test(test, "%s is not %s here", check, equals + 1);
        }
    }
    free(copy);
    return ret;
}

/* Seconds, or with a unit as timeout(1) has them; 0: none. */
static int take_timeout(struct test_case *test, const char *value)
{
    size_t digits = strspn(value, "0123456789");

    if (digits == 0 || (value[digits] != '\0' && strchr("smh", value[digits]) == NULL)) {
        return skip_test(test, "its timeout %s is none", value);
    }
    return strspn(value, "0") == digits ? 0 : set_text(&test->timeout, value);
}

static int section_conditions(const struct cfg_section *section, const char *group,
                              struct test_case *test)
{
    int ret = 0;

    if (section->arch != NULL && strcmp(section->arch, "x86_64") != 0) {
        ret = skip_test(test, "it is for arch %s", section->arch);
    }
    if (ret == 0 && section->accel != NULL && strncmp(section->accel, "kvm", 3) != 0) {
        ret = skip_test(test, "it is for accel %s", section->accel);
    }
    if (ret == 0 && group == NULL && has_word(section->groups, "nodefault")) {
        ret = skip_test(test, "it is in group nodefault: ask for it by --group");
    }
    if (ret == 0 && access(test->path, F_OK) != 0) {
        ret = skip_test(test, "there is no %s", test->path);
    }
    return ret == 0 && section->check != NULL ? take_checks(test, section->check) : ret;
}

static int section_options(const struct cfg_section *section, struct test_case *test)
{
    int ret = 0;

    if (section->smp != NULL) {
        test->cpus = smp_parse(section->smp);
        ret = test->cpus != 0 ? 0 : skip_test(test, "it asks for smp %s", section->smp);
    }
    if (ret == 0 && section->timeout != NULL) {
        ret = take_timeout(test, section->timeout);
    }
    if (ret == 0 && section->params != NULL) {
        ret = take_params(test, section->params);
    }
    if (ret == 0 && section->arguments != NULL) {
        ret = set_text(&test->append, section->arguments);
    }
    return ret;
}

static int section_finish(struct test_suite *suite, struct cfg_section *section,
                          const char *folder, const char *group)
{
    struct test_case *test = NULL;
    char *path = NULL;
    int ret = 0;

    if (section->name != NULL && (group == NULL || has_word(section->groups, group))) {
        if (asprintf(&path, "%s/%s", folder, section->file != NULL ? section->file : "") <
            0) {
            path = NULL;
            ret = -ENOMEM;
        }
        if (ret == 0) {
            ret = test_suite_add(suite, path, section->name, &test);
        }
        if (ret == 0) {
            test->listed = true;
        }
        if (ret == 0 && section->file == NULL) {
            ret = skip_test(test, "it names no file");
        }
        if (ret == 0) {
            ret = section_conditions(section, group, test);
        }
        if (ret == 0) {
            ret = section_options(section, test);
        }
    }
    free(path);
    section_clear(section);
    return ret;
}

/* ---- The file ---------------------------------------------------------------------------- */

/* Cut spaces off both ends. */
static char *trim(char *text)
{
    size_t length;

    text += strspn(text, " \t\r\n");
    length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1])) {
        text[--length] = '\0';
    }
    return text;
}

/* The value of a key, which goes on over lines between triple quotes; malloc'd. */
static char *read_value(FILE *file, char *value, unsigned *line)
{
    char *all, *more = NULL, *end;
    size_t room = 0;

    if (strncmp(value, "\"\"\"", 3) != 0) {
        return strdup(value);
    }
    all = strdup(value + 3);
    while (all != NULL && (end = strstr(all, "\"\"\"")) == NULL) {
        char *longer;

        if (strlen(all) > CFG_TEXT_MAX || getline(&more, &room, file) < 0 ||
            asprintf(&longer, "%s %s", all, trim(more)) < 0) {
            longer = NULL;
        }
        ++*line;
        free(all);
        all = longer;
    }
    if (all != NULL) {
        *strstr(all, "\"\"\"") = '\0';
    }
    free(more);
    return all;
}

static int take_line(struct cfg_section *section, FILE *file, char *text, unsigned *line)
{
    char *equals = strchr(text, '='), **member, *value;

    if (equals == NULL || section->name == NULL) {
        return -EINVAL;
    }
    *equals = '\0';
    value = read_value(file, trim(equals + 1), line);
    if (value == NULL) {
        return -EINVAL;
    }
    member = section_member(section, trim(text));
    if (member == NULL) {
        free(value);
        return 0;
    }
    free(*member);
    *member = value;
    return 0;
}

static int read_sections(struct test_suite *suite, FILE *file, const char *folder,
                         const char *group, unsigned *line)
{
    struct cfg_section section = { .name = NULL };
    char *buffer = NULL;
    size_t room = 0;
    int ret = 0;

    *line = 0;
    while (ret == 0 && getline(&buffer, &room, file) >= 0) {
        char *text = trim(buffer);
        size_t length = strlen(text);

        ++*line;
        if (text[0] == '\0' || text[0] == '#') {
            continue;
        }
        if (text[0] != '[') {
            ret = take_line(&section, file, text, line);
            continue;
        }
        if (length < 3 || text[length - 1] != ']') {
            ret = -EINVAL;
            break;
        }
        text[length - 1] = '\0';
        ret = section_finish(suite, &section, folder, group);
        section.name = ret == 0 ? strdup(text + 1) : NULL;
    }
    if (ret == 0) {
        ret = section_finish(suite, &section, folder, group);
    }
    section_clear(&section);
    free(buffer);
    return ret;
}

int test_cfg_collect(struct test_suite *suite, const char *path, const char *group,
                     unsigned *line)
{
    FILE *file = fopen(path, "re");
    const char *slash = strrchr(path, '/');
    char *folder;
    int ret;

    *line = 0;
    if (file == NULL) {
        return -errno;
    }
    folder = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path));
    ret = folder == NULL ? -ENOMEM : read_sections(suite, file, folder, group, line);
    free(folder);
    fclose(file);
    return ret;
}
