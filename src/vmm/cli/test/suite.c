/* SPDX-License-Identifier: MIT */
/* The images of umbra test. */
#include "vmm/cli/test/suite.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Finding --------------------------------------------------------------------- */

static void case_clear(struct test_case *test)
{
    free(test->path);
    free(test->name);
    free(test->append);
    free(test->memory);
    free(test->features);
    free(test->timeout);
    free(test->skip);
}

int test_suite_add(struct test_suite *suite, const char *path, const char *name,
                   struct test_case **test)
{
    struct test_case made = { .path = strdup(path), .name = strdup(name) }, *cases;

    cases = reallocarray(suite->cases, suite->count + 1, sizeof(*cases));
    if (cases != NULL) {
        suite->cases = cases;
    }
    if (cases == NULL || made.path == NULL || made.name == NULL) {
        case_clear(&made);
        return -ENOMEM;
    }
    cases[suite->count] = made;
    *test = &cases[suite->count++];
    return 0;
}

/* @length bytes of @path are the file, what follows behind a space its command line. */
static int add_file(struct test_suite *suite, const char *path, size_t length)
{
    char *file = strndup(path, length), *name = NULL, *dot;
    struct test_case *test;
    int ret = -ENOMEM;

    if (file != NULL) {
        const char *slash = strrchr(file, '/');

        name = strdup(slash != NULL ? slash + 1 : file);
    }
    if (name != NULL) {
        dot = strrchr(name, '.');
        if (dot != NULL && dot != name) {
            *dot = '\0';
        }
        ret = test_suite_add(suite, file, name, &test);
    }
    if (ret == 0 && path[length] == ' ') {
        test->append = strdup(path + length + 1);
        ret = test->append == NULL ? -ENOMEM : 0;
    }
    free(file);
    free(name);
    return ret;
}

static bool is_elf(const char *path)
{
    char magic[4] = "";
    FILE *file = fopen(path, "re");
    bool elf = file != NULL && fread(magic, 1, sizeof(magic), file) == sizeof(magic) &&
               memcmp(magic, "\177ELF", sizeof(magic)) == 0;

    if (file != NULL) {
        fclose(file);
    }
    return elf;
}

static bool has_ending(const char *name, const char *ending)
{
    size_t length = strlen(name), tail = strlen(ending);

    return length > tail && strcmp(name + length - tail, ending) == 0;
}

/* kvm-unit-tests leaves NAME.elf, the 64-bit intermediate, beside the NAME.flat to boot. */
static bool is_image(const char *folder, const char *name, char *path, size_t size)
{
    int stem = (int)strlen(name) - (int)strlen(".elf");

    if (has_ending(name, ".elf")) {
        snprintf(path, size, "%s/%.*s.flat", folder, stem, name);
        if (access(path, F_OK) == 0) {
            return false;
        }
    } else if (!has_ending(name, ".flat")) {
        return false;
    }
    return snprintf(path, size, "%s/%s", folder, name) < (int)size && is_elf(path);
}

static bool is_there(const char *path, size_t length)
{
    char file[4096];

    return snprintf(file, sizeof(file), "%.*s", (int)length, path) < (int)sizeof(file) &&
           access(file, F_OK) == 0;
}

int test_suite_collect(struct test_suite *suite, const char *path)
{
    struct dirent **entries;
    struct stat status;
    int count, result = 0;

    if (stat(path, &status) != 0) {
        const char *space = strchr(path, ' ');

        result = -errno;
        return space != NULL && is_there(path, (size_t)(space - path))
                   ? add_file(suite, path, (size_t)(space - path))
                   : result;
    }
    if (!S_ISDIR(status.st_mode)) {
        return add_file(suite, path, strlen(path));
    }
    count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) {
        return -errno;
    }
    for (int i = 0; i < count; i++) {
        char file[4096];

        if (result == 0 && is_image(path, entries[i]->d_name, file, sizeof(file))) {
            result = add_file(suite, file, strlen(file));
        }
        free(entries[i]);
    }
    free(entries);
    return result;
}

/* ---- Expectations ---------------------------------------------------------------- */

int test_suite_expect_fail(struct test_suite *suite, const char *pattern)
{
    const char **expected = reallocarray(suite->expected, suite->expected_count + 1,
                                         sizeof(*suite->expected));

    if (expected == NULL) {
        return -ENOMEM;
    }
    suite->expected = expected;
    expected[suite->expected_count++] = pattern;
    return 0;
}

static bool must_fail(const struct test_suite *suite, const struct test_case *test)
{
    for (size_t i = 0; i < suite->expected_count; i++) {
        if (fnmatch(suite->expected[i], test->name, 0) == 0) {
            return true;
        }
    }
    return false;
}

const char *test_suite_stray_expectation(const struct test_suite *suite)
{
    for (size_t i = 0; i < suite->expected_count; i++) {
        size_t j = 0;

        while (j < suite->count &&
               fnmatch(suite->expected[i], suite->cases[j].name, 0) != 0) {
            j++;
        }
        if (j == suite->count) {
            return suite->expected[i];
        }
    }
    return NULL;
}

/* What became of it, in view of what was expected: NULL when it is good. */
static const char *complaint(const struct test_suite *suite, const struct test_case *test)
{
    if (test->result == TEST_SKIP) {
        return NULL;
    }
    if (test->result == TEST_BROKEN) {
        return test->outcome.reason;
    }
    if (must_fail(suite, test)) {
        return test->result == TEST_PASS ? "passed, although it was expected to fail"
                                         : NULL;
    }
    return test->result == TEST_FAIL ? test->outcome.reason : NULL;
}

static const char *skip_reason(const struct test_case *test)
{
    return test->skip != NULL ? test->skip : "the image says that it cannot run here";
}

/* ---- TAP ------------------------------------------------------------------------- */

/* Guests and file names may hold anything: one line stays one line. */
static void print_clean(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];

        putchar(c < 0x20 || c == 0x7f ? '?' : c);
    }
}

static void print_block(const char *text)
{
    while (*text != '\0') {
        size_t length = strcspn(text, "\r\n");

        if (length > 0) {
            fputs("#   ", stdout);
            print_clean(text, length);
            putchar('\n');
        }
        text += length + (text[length] != '\0');
    }
}

void test_suite_print(const struct test_suite *suite, size_t index)
{
    const struct test_case *test = &suite->cases[index];
    const char *why = complaint(suite, test);
    bool todo = why == NULL && test->result == TEST_FAIL;

    printf("%s %zu - ", why != NULL || todo ? "not ok" : "ok", index + 1);
    print_clean(test->name, strlen(test->name));
    if (test->result == TEST_SKIP) {
        fputs(" # SKIP ", stdout);
        print_clean(skip_reason(test), strlen(skip_reason(test)));
        putchar('\n');
    } else {
        puts(todo ? " # TODO expected to fail" : "");
    }
    if (why != NULL) {
        print_block(why);
        print_block(test->outcome.console_tail);
    }
    fflush(stdout);
}

struct totals {
    size_t passed, failed, skipped, expected;
};

static struct totals count_all(const struct test_suite *suite)
{
    struct totals totals = { 0 };

    for (size_t i = 0; i < suite->count; i++) {
        const struct test_case *test = &suite->cases[i];

        if (complaint(suite, test) != NULL) {
            totals.failed++;
        } else if (test->result == TEST_SKIP) {
            totals.skipped++;
        } else if (test->result == TEST_FAIL) {
            totals.expected++;
        } else {
            totals.passed++;
        }
    }
    return totals;
}

size_t test_suite_summary(const struct test_suite *suite)
{
    struct totals totals = count_all(suite);

    printf("# %zu passed, %zu failed, %zu failed as expected, %zu skipped\n",
           totals.passed, totals.failed, totals.expected, totals.skipped);
    return totals.failed;
}

/* ---- junit ----------------------------------------------------------------------- */

/* XML 1.0 has no control characters, and console bytes need not be UTF-8. */
static void put_xml(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '<' || c == '>' || c == '&' || c == '"' || c == '\n' || c == '\t') {
            fprintf(out, "&#%d;", c);
        } else if (c != '\r') {
            fputc(c >= 0x20 && c < 0x7f ? c : '?', out);
        }
    }
}

static void junit_case(FILE *out, const struct test_suite *suite,
                       const struct test_case *test)
{
    const char *why = complaint(suite, test);

    fputs("  <testcase classname=\"umbra\" name=\"", out);
    put_xml(out, test->name);
    fprintf(out, "\" time=\"%.3f\">\n", (double)test->outcome.run_ns / 1e9);
    if (why != NULL) {
        fputs("    <failure message=\"", out);
        put_xml(out, why);
        fputs("\">", out);
        put_xml(out, test->outcome.report);
        fputs("</failure>\n", out);
    } else if (test->result != TEST_PASS) {
        fputs("    <skipped message=\"", out);
        put_xml(out,
                test->result == TEST_SKIP ? skip_reason(test) : "failed, as expected");
        fputs("\"/>\n", out);
    }
    fputs("    <system-out>", out);
    put_xml(out, test->outcome.console_tail);
    fputs("</system-out>\n  </testcase>\n", out);
}

int test_suite_junit(const struct test_suite *suite, const char *path)
{
    struct totals totals = count_all(suite);
    FILE *out = fopen(path, "we");

    if (out == NULL) {
        return -1;
    }
    fprintf(out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"umbra test\" "
            "tests=\"%zu\" failures=\"%zu\" errors=\"0\" skipped=\"%zu\">\n",
            suite->count, totals.failed, totals.skipped + totals.expected);
    for (size_t i = 0; i < suite->count; i++) {
        junit_case(out, suite, &suite->cases[i]);
    }
    fputs("</testsuite>\n", out);
    return fclose(out);
}

void test_suite_clear(struct test_suite *suite)
{
    for (size_t i = 0; i < suite->count; i++) {
        case_clear(&suite->cases[i]);
    }
    free(suite->cases);
    free(suite->expected);
    *suite = (struct test_suite){ .cases = NULL };
}
