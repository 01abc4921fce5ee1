/* SPDX-License-Identifier: MIT */
/*
 * A parallel test runner for kernels: each test is a kernel with its arguments, in a VM of
 * its own; it passes when the guest powers off or writes 0 to the debug-exit port before
 * its deadline. TAP on stdout, with the console's tail under what failed; junit XML too.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <umbra/umbra.h>

static const char usage[] =
    "usage: ktest [--jobs N] [--junit FILE] [--timeout TIME] 'KERNEL [ARGUMENTS]'...\n"
    "--timeout holds for the tests behind it; default 30s\n";

struct test {
    const char *line, *timeout; /* "KERNEL ARGUMENTS", "30s" */
    bool done, passed;
    struct umbra_outcome outcome;
};

struct suite {
    struct test *tests;
    size_t count, next, printed; /* by the lock, as tests[].done */
    size_t failed;
    bool no_kvm;
    pthread_mutex_t lock;
};

/* ---- One test -------------------------------------------------------------------- */

static int test_boot(const struct test *test, struct umbra_vm **vm,
                     struct umbra_error *error)
{
    size_t length = strcspn(test->line, " ");
    const char *append = test->line + length + (test->line[length] == ' ');
    struct umbra_config *config;
    char kernel[4096];
    int result = umbra_config_new(&config);

    if (result != 0) {
        return result;
    }
    snprintf(kernel, sizeof(kernel), "%.*s", (int)length, test->line);
    result = umbra_config_set(config, "kernel", kernel, error);
    if (result == 0) {
        result = umbra_config_set(config, "append", append, error);
    }
    if (result == 0) {
        result = umbra_config_set(config, "timeout", test->timeout, error);
    }
    if (result == 0) {
        result = umbra_vm_create(config, vm, error);
    }
    umbra_config_free(config);
    return result == 0 ? umbra_vm_start(*vm, error) : result;
}

/* Returns false where there is no KVM; every other failure is the test's. */
static bool test_run(struct test *test)
{
    struct umbra_outcome *outcome = &test->outcome;
    struct umbra_error error = { .message = "" };
    struct umbra_vm *vm = NULL;
    int result = test_boot(test, &vm, &error);

    outcome->size = sizeof(*outcome);
    if (result == 0) {
        result = umbra_vm_wait(vm, -1, outcome, &error);
    }
    umbra_vm_destroy(vm);
    if (result != 0) {
        outcome->kind = UMBRA_OUTCOME_ERROR;
        snprintf(outcome->reason, sizeof(outcome->reason), "%.500s", error.message);
    }
    test->passed = outcome->kind == UMBRA_OUTCOME_POWEROFF ||
                   (outcome->kind == UMBRA_OUTCOME_EXIT && outcome->exit_value == 0);
    return error.code != UMBRA_ERROR_NO_KVM;
}

/* ---- TAP ------------------------------------------------------------------------- */

static void tap_block(const char *text)
{
    while (*text != '\0') {
        size_t length = strcspn(text, "\r\n");

        if (length > 0) {
            printf("#   %.*s\n", (int)length, text);
        }
        text += length + (text[length] != '\0');
    }
}

static void tap_result(const struct test *test, size_t number)
{
    printf("%s %zu - %s\n", test->passed ? "ok" : "not ok", number, test->line);
    if (!test->passed) {
        tap_block(test->outcome.reason);
        tap_block(test->outcome.console_tail);
    }
    fflush(stdout);
}

/* In the order of the tests: what is done, up to the first that is not. */
static void suite_print(struct suite *suite)
{
    while (suite->printed < suite->count && suite->tests[suite->printed].done) {
        const struct test *test = &suite->tests[suite->printed];

        tap_result(test, ++suite->printed);
        suite->failed += !test->passed;
    }
}

/* ---- Workers --------------------------------------------------------------------- */

static void *worker(void *context)
{
    struct suite *suite = context;

    pthread_mutex_lock(&suite->lock);
    while (suite->next < suite->count) {
        struct test *test = &suite->tests[suite->next++];
        bool kvm;

        pthread_mutex_unlock(&suite->lock);
        kvm = test_run(test);
        pthread_mutex_lock(&suite->lock);
        test->done = true;
        suite->no_kvm |= !kvm;
        suite_print(suite);
    }
    pthread_mutex_unlock(&suite->lock);
    return NULL;
}

static void suite_run(struct suite *suite, unsigned jobs)
{
    pthread_t threads[64];
    unsigned started = 0;

    printf("TAP version 13\n1..%zu\n", suite->count);
    while (started + 1 < jobs &&
           pthread_create(&threads[started], NULL, worker, suite) == 0) {
        started++;
    }
    worker(suite); /* this thread is one of them */
    while (started > 0) {
        pthread_join(threads[--started], NULL);
    }
}

/* ---- junit ----------------------------------------------------------------------- */

/* Guests may print anything; XML may hold less. */
static void xml_text(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '<' || c == '>' || c == '&' || c == '"' || c == '\n') {
            fprintf(out, "&#%d;", c);
        } else if (c != '\r') {
            fputc(c >= 0x20 && c < 0x7f ? c : '?', out);
        }
    }
}

static bool write_junit(const struct suite *suite, const char *path)
{
    FILE *out = fopen(path, "w");

    if (out == NULL) {
        return false;
    }
    fprintf(out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
            "<testsuite name=\"ktest\" tests=\"%zu\" failures=\"%zu\">\n",
            suite->count, suite->failed);
    for (size_t i = 0; i < suite->count; i++) {
        const struct test *test = &suite->tests[i];

        fputs("  <testcase name=\"", out);
        xml_text(out, test->line);
        fprintf(out, "\" time=\"%.3f\">", (double)test->outcome.run_ns / 1e9);
        if (!test->passed) {
            fputs("<failure message=\"", out);
            xml_text(out, test->outcome.reason);
            fputs("\"/>", out);
        }
        fputs("<system-out>", out);
        xml_text(out, test->outcome.console_tail);
        fputs("</system-out></testcase>\n", out);
    }
    fputs("</testsuite>\n", out);
    return (fclose(out) == 0);
}

int main(int argc, char **argv)
{
    struct suite suite = { .lock = PTHREAD_MUTEX_INITIALIZER };
    const char *timeout = "30s", *junit = NULL;
    unsigned long jobs = 2;

    suite.tests = calloc((size_t)argc, sizeof(*suite.tests));
    for (int i = 1; suite.tests != NULL && i < argc; i++) {
        if (argv[i][0] != '-') {
            suite.tests[suite.count++] =
                (struct test){ .line = argv[i], .timeout = timeout };
        } else if (i + 1 < argc && strcmp(argv[i], "--timeout") == 0) {
            timeout = argv[++i];
        } else if (i + 1 < argc && strcmp(argv[i], "--junit") == 0) {
            junit = argv[++i];
        } else if (i + 1 < argc && strcmp(argv[i], "--jobs") == 0) {
            jobs = strtoul(argv[++i], NULL, 10);
        } else {
            suite.count = 0;
            break;
        }
    }
    if (suite.count == 0) {
        free(suite.tests);
        fputs(usage, stderr);
        return 64;
    }
    suite_run(&suite, jobs < 1 ? 1 : jobs > 64 ? 64 : (unsigned)jobs);
    if (junit != NULL && !write_junit(&suite, junit)) {
        perror(junit);
        suite.failed++;
    }
    free(suite.tests);
    return suite.no_kvm ? 77 : suite.failed > 0;
}
