/* SPDX-License-Identifier: MIT */
/* Outcomes and errors as exit statuses. */
#include "vmm/cli/exit_status.h"

#include <signal.h>
#include <string.h>

static const struct {
    const char *status, *meaning;
} rows[] = {
    { "0", "the guest powered off" },
    { "2v+1", "the guest wrote v to the debug-exit port 0xf4" },
    { "64", "wrong usage" },
    { "65", "a bad configuration, kernel or image" },
    { "66", "an input file is missing" },
    { "69", "no usable KVM" },
    { "70", "an internal error: KVM or umbra could not go on" },
    { "77", "no permission" },
    { "100", "the guest panicked" },
    { "102", "triple fault" },
    { "104", "the guest reset, with --on-reset exit" },
    { "124", "the --timeout passed" },
    { "128+n", "signal n stopped the guest (130: Ctrl-C or Ctrl-A x)" },
};

int exit_status_of_error(const struct umbra_error *error)
{
    switch (error->code) {
    case UMBRA_ERROR_NONE:
        return EXIT_STATUS_OK;
    case UMBRA_ERROR_USAGE:
        return EXIT_STATUS_USAGE;
    case UMBRA_ERROR_CONFIG:
        return EXIT_STATUS_CONFIG;
    case UMBRA_ERROR_MISSING:
        return EXIT_STATUS_MISSING;
    case UMBRA_ERROR_NO_KVM:
        return EXIT_STATUS_NO_KVM;
    case UMBRA_ERROR_PERMISSION:
        return EXIT_STATUS_PERMISSION;
    case UMBRA_ERROR_INTERNAL:
    case UMBRA_ERROR_STATE:
        break;
    }
    return EXIT_STATUS_INTERNAL;
}

int exit_status_of_outcome(const struct umbra_outcome *outcome, int signal)
{
    switch (outcome->kind) {
    case UMBRA_OUTCOME_POWEROFF:
        return EXIT_STATUS_OK;
    case UMBRA_OUTCOME_RESET:
        return EXIT_STATUS_RESET;
    case UMBRA_OUTCOME_EXIT:
        return (int)((outcome->exit_value * 2 + 1) & 0xff);
    case UMBRA_OUTCOME_PANIC:
        return EXIT_STATUS_PANIC;
    case UMBRA_OUTCOME_TRIPLE_FAULT:
        return EXIT_STATUS_TRIPLE_FAULT;
    case UMBRA_OUTCOME_DEADLINE:
        return EXIT_STATUS_DEADLINE;
    case UMBRA_OUTCOME_STOPPED:
        /* By umbra stop, or by gdb: as SIGTERM would. */
        return EXIT_STATUS_SIGNAL + (signal != 0 ? signal : SIGTERM);
    case UMBRA_OUTCOME_NONE:
    case UMBRA_OUTCOME_ERROR:
        break;
    }
    return EXIT_STATUS_INTERNAL;
}

void exit_status_print(FILE *out)
{
    fputs("Exit status:\n", out);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        fprintf(out, "  %-6s %s\n", rows[i].status, rows[i].meaning);
    }
}

int exit_status_fail(const char *command, const struct umbra_error *error)
{
    const char *line = error->message;

    do {
        size_t length = strcspn(line, "\n");

        fprintf(stderr, "umbra %s: %.*s\n", command, (int)length, line);
        line += length + (line[length] == '\n');
    } while (*line != '\0');
    return exit_status_of_error(error);
}
