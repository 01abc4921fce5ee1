/* SPDX-License-Identifier: MIT */
/* Outcomes and errors as exit statuses: the table of docs/exit-status.md and --help. */
#ifndef VMM_CLI_EXIT_STATUS_H
#define VMM_CLI_EXIT_STATUS_H

#include <stdio.h>

#include <umbra/umbra.h>

enum exit_status {
    EXIT_STATUS_OK = 0,
    EXIT_STATUS_TEST_FAILED = 1, /* of umbra test */
    EXIT_STATUS_USAGE = 64,
    EXIT_STATUS_CONFIG = 65,
    EXIT_STATUS_MISSING = 66,
    EXIT_STATUS_NO_KVM = 69,
    EXIT_STATUS_INTERNAL = 70,
    EXIT_STATUS_PERMISSION = 77,
    EXIT_STATUS_PANIC = 100,
    EXIT_STATUS_TRIPLE_FAULT = 102,
    EXIT_STATUS_RESET = 104,
    EXIT_STATUS_DEADLINE = 124,
    EXIT_STATUS_SIGNAL = 128, /* plus the signal that stopped the guest */
};

int exit_status_of_error(const struct umbra_error *error);

/* @signal is what made the launcher stop the guest, 0 if nothing did. */
int exit_status_of_outcome(const struct umbra_outcome *outcome, int signal);

/* The table for --help. */
void exit_status_print(FILE *out);

/* Say on stderr what failed, each line behind "umbra COMMAND: "; returns the status. */
int exit_status_fail(const char *command, const struct umbra_error *error);

#endif
