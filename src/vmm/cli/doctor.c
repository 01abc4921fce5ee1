/* SPDX-License-Identifier: MIT */
/* umbra doctor: what this host offers, what stands in the way, and the remedies. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

struct doctor_options {
    bool json;
    const char *kvm;
};

static bool set_option(void *context, const char *name, const char *value)
{
    struct doctor_options *options = context;

    if (strcmp(name, "json") == 0) {
        options->json = true;
    } else {
        options->kvm = value;
    }
    return true;
}

static void print_check(const json_t *check)
{
    static const char *const colours[] = { "\033[32m", "\033[33m", "\033[31m" };
    static const char *const names[] = { "good", "note", "bad" };
    const char *status = json_string_value(json_object_get(check, "status"));
    const char *remedy = json_string_value(json_object_get(check, "remedy"));
    bool colour = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    int level = 0;

    while (level < 2 && strcmp(names[level], status) != 0) {
        level++;
    }
    printf("%s%-5s%s %-23s %s\n", colour ? colours[level] : "", status,
           colour ? "\033[0m" : "", json_string_value(json_object_get(check, "name")),
           json_string_value(json_object_get(check, "value")));
    if (remedy != NULL) {
        printf("%-29s -> %s\n", "", remedy);
    }
}

/* Without KVM nothing runs: that is the status. */
static int kvm_status(const json_t *report)
{
    const char *kvm = json_string_value(json_object_get(report, "kvm"));

    return strcmp(kvm, "usable") == 0      ? EXIT_STATUS_OK
           : strcmp(kvm, "forbidden") == 0 ? EXIT_STATUS_PERMISSION
                                           : EXIT_STATUS_NO_KVM;
}

int command_doctor(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "json", NULL, "print JSON" },
        { "kvm", "DEVICE", "the KVM device; default /dev/kvm" },
        { NULL, NULL, NULL },
    };
    struct doctor_options options = { 0 };
    const struct cli_parser parser = {
        .command = "doctor",
        .synopsis = "[options]",
        .summary =
            "Say what this host offers, what stands in the way, and what to do about "
            "it.\nA tiny guest is run to see how KVM really behaves.",
        .options = own,
        .set = set_option,
        .context = &options,
    };
    struct umbra_error error;
    struct cli_line line;
    json_t *report, *check;
    char *json;
    int status = cli_parse(&parser, argc, argv, NULL, &line);
    size_t i;

    if (status >= 0) {
        return status;
    }
    if (umbra_doctor_json(options.kvm, &json, &error) != 0) {
        return exit_status_fail("doctor", &error);
    }
    report = json_loads(json, 0, NULL);
    if (options.json) {
        puts(json);
    } else {
        json_array_foreach(json_object_get(report, "checks"), i, check)
        {
            print_check(check);
        }
    }
    status = kvm_status(report);
    json_decref(report);
    free(json);
    return status;
}
