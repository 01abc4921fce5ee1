/* SPDX-License-Identifier: MIT */
/* The images of umbra test: finding them, what is expected, and how they are told. */
#ifndef VMM_CLI_TEST_SUITE_H
#define VMM_CLI_TEST_SUITE_H

#include <stdbool.h>
#include <stddef.h>

#include <umbra/umbra.h>

enum test_result {
    TEST_FAIL,
    TEST_BROKEN, /* it did not run: no expectation covers this */
    TEST_PASS,
    TEST_SKIP,
};

struct test_case {
    char *path, *name; /* the file, and its name without folder and ending */
    /* What differs from the others'; NULL, 0 and false: nothing. */
    char *append, *memory, *features, *timeout;
    unsigned cpus;
    bool split_irqchip;
    bool listed; /* in a unittests.cfg */
    char *skip;  /* why it is not run at all */
    bool done;
    enum test_result result;
    struct umbra_outcome outcome;
};

struct test_suite {
    struct test_case *cases;
    size_t count;
    const char **expected; /* patterns of --expect-fail */
    size_t expected_count;
};

/* Add the image @path under @name. 0 or -errno; *test is valid until the next add. */
int test_suite_add(struct test_suite *suite, const char *path, const char *name,
                   struct test_case **test);

/* Add the file @path, or every image of the folder @path, sorted: ELF files called *.flat
 * or *.elf, where a .flat hides the .elf that it was made of. "PATH ARGUMENTS" is a file
 * with a command line of its own. 0 or -errno. */
int test_suite_collect(struct test_suite *suite, const char *path);

/* Images whose name matches @pattern (which must live on) have to fail. 0 or -errno. */
int test_suite_expect_fail(struct test_suite *suite, const char *pattern);

/* A pattern of --expect-fail that matches no image; NULL when there is none. */
const char *test_suite_stray_expectation(const struct test_suite *suite);

/* Print case @index, which is done, as TAP. */
void test_suite_print(const struct test_suite *suite, size_t index);

/* Print the totals as a TAP comment; returns how many failed. */
size_t test_suite_summary(const struct test_suite *suite);

/* Write junit XML to @path. 0 or -1 with errno. */
int test_suite_junit(const struct test_suite *suite, const char *path);

void test_suite_clear(struct test_suite *suite);

#endif
