/* SPDX-License-Identifier: MIT */
/* umbra test: run images in the style of kvm-unit-tests, in parallel, and tell as TAP. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"
#include "vmm/cli/test/cfg.h"
#include "vmm/cli/test/suite.h"

enum { JOBS_MAX = 256, EXIT_VALUE_SKIP = 77 };

struct runner {
    struct test_suite suite;
    const char *json; /* the configuration of every test, without its kernel */
    const char *junit, *group;
    unsigned jobs;
    size_t next, printed; /* by the lock, as the cases once they run */
    struct umbra_error no_kvm;
    pthread_mutex_t lock;
};

/* ---- One image ------------------------------------------------------------------- */

static int case_configure(struct umbra_config *config, const struct test_case *test,
                          struct umbra_error *error)
{
    char cpus[16];
    const struct {
        const char *key, *value;
    } settings[] = { { "kernel", test->path },
                     { "append", test->append },
                     { "memory", test->memory },
                     { "features", test->features },
                     { "timeout", test->timeout },
                     { "irqchip", test->split_irqchip ? "split" : NULL },
                     { "cpus", test->cpus > 0 ? cpus : NULL } };
    int result = 0;

    snprintf(cpus, sizeof(cpus), "%u", test->cpus);
    for (size_t i = 0; result == 0 && i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (settings[i].value != NULL) {
            result = umbra_config_set(config, settings[i].key, settings[i].value, error);
        }
    }
    return result;
}

static int case_start(const struct runner *runner, const struct test_case *test,
                      struct umbra_vm **vm, struct umbra_error *error)
{
    struct umbra_config *config;
    int result = umbra_config_new(&config);

    if (result != 0) {
        return result;
    }
    result = umbra_config_load_text(config, runner->json, "options", ".", error);
    if (result == 0) {
        result = case_configure(config, test, error);
    }
    if (result == 0) {
        result = umbra_vm_create(config, vm, error);
    }
    umbra_config_free(config);
    return result == 0 ? umbra_vm_start(*vm, error) : result;
}

/* As kvm-unit-tests: the image writes 0 when it passed and 77 when it has to skip. */
static enum test_result case_judge(const struct umbra_outcome *outcome)
{
    if (outcome->kind == UMBRA_OUTCOME_EXIT && outcome->exit_value == 0) {
        return TEST_PASS;
    }
    if (outcome->kind == UMBRA_OUTCOME_EXIT && outcome->exit_value == EXIT_VALUE_SKIP) {
        return TEST_SKIP;
    }
    return TEST_FAIL;
}

static void case_run(const struct runner *runner, struct test_case *test,
                     struct umbra_error *error)
{
    struct umbra_outcome *outcome = &test->outcome;
    struct umbra_vm *vm = NULL;
    int result;

    *error = (struct umbra_error){ .code = UMBRA_ERROR_NONE };
    outcome->size = sizeof(*outcome);
    if (test->skip != NULL) {
        test->result = TEST_SKIP;
        return;
    }
    result = case_start(runner, test, &vm, error);
    if (result == 0) {
        result = umbra_vm_wait(vm, -1, outcome, error);
    }
    umbra_vm_destroy(vm);
    if (result != 0) {
        outcome->kind = UMBRA_OUTCOME_ERROR;
        snprintf(outcome->reason, sizeof(outcome->reason), "%.500s",
                 error->message[0] != '\0' ? error->message : strerror(-result));
    }
    test->result = result == 0 ? case_judge(outcome) : TEST_BROKEN;
    /* What a list asks for may be more than this host has. */
    if (result != 0 && error->code == UMBRA_ERROR_CONFIG && test->listed &&
        (test->features != NULL || test->cpus > 0)) {
        test->skip = strndup(error->message, strcspn(error->message, "\n"));
        test->result = test->skip != NULL ? TEST_SKIP : TEST_BROKEN;
    }
}

/* ---- All of them ----------------------------------------------------------------- */

static void *work(void *context)
{
    struct runner *runner = context;
    struct test_suite *suite = &runner->suite;

    pthread_mutex_lock(&runner->lock);
    while (runner->next < suite->count && runner->no_kvm.code == UMBRA_ERROR_NONE) {
        struct test_case *test = &suite->cases[runner->next++];
        struct umbra_error error;

        pthread_mutex_unlock(&runner->lock);
        case_run(runner, test, &error);
        pthread_mutex_lock(&runner->lock);
        test->done = true;
        if (error.code == UMBRA_ERROR_NO_KVM) {
            runner->no_kvm = error; /* the others would fail alike */
        }
        while (runner->printed < suite->count && suite->cases[runner->printed].done) {
            test_suite_print(suite, runner->printed++);
        }
    }
    pthread_mutex_unlock(&runner->lock);
    return NULL;
}

static void run_all(struct runner *runner)
{
    pthread_t threads[JOBS_MAX];
    unsigned started = 0;

    printf("TAP version 13\n1..%zu\n", runner->suite.count);
    fflush(stdout);
    while (started + 1 < runner->jobs && started + 1 < runner->suite.count &&
           pthread_create(&threads[started], NULL, work, runner) == 0) {
        started++;
    }
    work(runner);
    while (started > 0) {
        pthread_join(threads[--started], NULL);
    }
}

static int finish(struct runner *runner)
{
    size_t failed;

    if (runner->no_kvm.code != UMBRA_ERROR_NONE) {
        puts("Bail out! No usable KVM");
        return exit_status_fail("test", &runner->no_kvm);
    }
    failed = test_suite_summary(&runner->suite);
    if (runner->junit != NULL && test_suite_junit(&runner->suite, runner->junit) != 0) {
        fprintf(stderr, "umbra test: cannot write %s: %s\n", runner->junit,
                strerror(errno));
        return EXIT_STATUS_INTERNAL;
    }
    return failed > 0 ? EXIT_STATUS_TEST_FAILED : EXIT_STATUS_OK;
}

/* ---- The command line ------------------------------------------------------------ */

static bool set_option(void *context, const char *name, const char *value)
{
    struct runner *runner = context;
    char *end;

    if (strcmp(name, "jobs") == 0) {
        unsigned long jobs = strtoul(value, &end, 10);

        runner->jobs = (unsigned)jobs;
        return value[0] >= '1' && value[0] <= '9' && *end == '\0' && jobs <= JOBS_MAX;
    }
    if (strcmp(name, "group") == 0) {
        runner->group = value;
        return true;
    }
    if (strcmp(name, "junit") == 0) {
        runner->junit = value;
        return true;
    }
    return test_suite_expect_fail(&runner->suite, value) == 0; /* the only other one */
}

/* Is @argument a list of tests, or a folder that has one? Its path goes to @path. */
static bool has_list(const char *argument, char *path, size_t size)
{
    size_t length = strlen(argument);

    snprintf(path, size, "%s", argument);
    if (length > 4 && strcmp(argument + length - 4, ".cfg") == 0) {
        return true;
    }
    return snprintf(path, size, "%s/unittests.cfg", argument) < (int)size &&
           access(path, R_OK) == 0;
}

static int take_argument(void *context, const char *argument)
{
    struct runner *runner = context;
    char listed[4096];
    unsigned line = 0;
    int result;

    if (has_list(argument, listed, sizeof(listed))) {
        result = test_cfg_collect(&runner->suite, listed, runner->group, &line);
    } else {
        result = test_suite_collect(&runner->suite, argument);
    }
    if (result == -EINVAL && line > 0) {
        fprintf(stderr, "umbra test: %s:%u: expected [NAME] or key = value\n", listed,
                line);
        return EXIT_STATUS_CONFIG;
    }
    if (result != 0) {
        fprintf(stderr, "umbra test: %s: %s\n", argument, strerror(-result));
        return result == -ENOENT ? EXIT_STATUS_MISSING : EXIT_STATUS_INTERNAL;
    }
    return -1;
}

/* What every test has in common, as JSON; a deadline is always set. */
static int make_json(struct umbra_config *config, char **json)
{
    struct umbra_error error;
    char *timeout = umbra_config_get(config, "timeout");
    int result = 0;

    if (timeout == NULL || strcmp(timeout, "0s") == 0 || strcmp(timeout, "0") == 0) {
        result = umbra_config_set(config, "timeout", "90s", &error);
    }
    free(timeout);
    *json = result == 0 ? umbra_config_to_json(config) : NULL;
    return *json != NULL ? -1 : EXIT_STATUS_INTERNAL;
}

static int check_suite(const struct test_suite *suite)
{
    const char *stray = test_suite_stray_expectation(suite);

    if (suite->count == 0) {
        return cli_usage("test", "no images: name files, or folders that hold ELF files "
                                 "called *.flat or *.elf");
    }
    if (stray != NULL) {
        return cli_usage("test", "--expect-fail %s: no image has this name", stray);
    }
    return -1;
}

int command_test(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "jobs", "N", "how many run at once; default 2" },
        { "junit", "FILE", "write the results as junit XML too" },
        { "group", "NAME", "of a unittests.cfg behind it: only this group" },
        { "expect-fail", "NAME", "this image (a pattern) has to fail; may be repeated" },
        { NULL, NULL, NULL },
    };
    struct runner runner = { .jobs = 2, .lock = PTHREAD_MUTEX_INITIALIZER };
    const struct cli_parser parser = {
        .command = "test",
        .synopsis = "FILE-or-FOLDER... [options]",
        .summary =
            "Run images in the style of kvm-unit-tests, each in a VM of its own, and "
            "print TAP. An image\npasses when it writes 0 to the debug-exit port, skips "
            "by "
            "77, and fails by all else. Of a\nfolder with kvm-unit-tests' unittests.cfg, "
            "or "
            "of such a file, the tests that it lists are run.\n\"FILE ARGUMENTS\" is an "
            "image with arguments of its own. The deadline of each is "
            "--timeout,\ndefault "
            "90s. The exit status is 0 only when none failed, else 1.",
        .options = own,
        .config_options = true,
        .set = set_option,
        .argument = take_argument,
        .context = &runner,
    };
    struct umbra_config *config;
    struct cli_line line;
    char *json = NULL;
    int status;

    if (umbra_config_new(&config) != 0) {
        return EXIT_STATUS_INTERNAL;
    }
    status = cli_parse(&parser, argc, argv, config, &line);
    if (status < 0) {
        status = check_suite(&runner.suite);
    }
    if (status < 0) {
        status = make_json(config, &json);
    }
    if (status < 0) {
        runner.json = json;
        run_all(&runner);
        status = finish(&runner);
    }
    free(json);
    test_suite_clear(&runner.suite);
    umbra_config_free(config);
    return status;
}
