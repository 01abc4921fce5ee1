/* SPDX-License-Identifier: MIT */
/*
 * kvm-unit-tests' unittests.cfg. A section is a test: [NAME] and `key = value` lines, a
 * value in triple quotes may span lines. Its extra_params are QEMU's options: what of them
 * has a meaning here is carried over; a test that asks for anything else is skipped, and
 * says why.
 */
#include "vmm/cli/test/cfg.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/test/cfg_options.h"

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
            ret = test_cfg_skip(test, "its check \"%s\" is none", check);
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
            ret = test_cfg_skip(test, "%s is not %s here", check, equals + 1);
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
        return test_cfg_skip(test, "its timeout %s is none", value);
    }
    return strspn(value, "0") == digits ? 0 : test_cfg_text(&test->timeout, value);
}

static int section_conditions(const struct cfg_section *section, const char *group,
                              struct test_case *test)
{
    int ret = 0;

    if (section->arch != NULL && strcmp(section->arch, "x86_64") != 0) {
        ret = test_cfg_skip(test, "it is for arch %s", section->arch);
    }
    if (ret == 0 && section->accel != NULL && strncmp(section->accel, "kvm", 3) != 0) {
        ret = test_cfg_skip(test, "it is for accel %s", section->accel);
    }
    if (ret == 0 && group == NULL && has_word(section->groups, "nodefault")) {
        ret = test_cfg_skip(test, "it is in group nodefault: ask for it by --group");
    }
    if (ret == 0 && access(test->path, F_OK) != 0) {
        ret = test_cfg_skip(test, "there is no %s", test->path);
    }
    return ret == 0 && section->check != NULL ? take_checks(test, section->check) : ret;
}

static int section_options(const struct cfg_section *section, struct test_case *test)
{
    int ret = 0;

    if (section->smp != NULL) {
        test->cpus = test_cfg_smp(section->smp);
        ret =
            test->cpus != 0 ? 0 : test_cfg_skip(test, "it asks for smp %s", section->smp);
    }
    if (ret == 0 && section->timeout != NULL) {
        ret = take_timeout(test, section->timeout);
    }
    if (ret == 0 && section->params != NULL) {
        ret = test_cfg_qemu(test, section->params);
    }
    if (ret == 0 && section->arguments != NULL) {
        ret = test_cfg_text(&test->append, section->arguments);
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
            ret = test_cfg_skip(test, "it names no file");
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

        if (strlen(all) > TEST_CFG_TEXT_MAX || getline(&more, &room, file) < 0 ||
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
