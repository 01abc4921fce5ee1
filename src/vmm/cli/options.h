/* SPDX-License-Identifier: MIT */
/* A subcommand's command line: its own options, and those of the configuration's keys. */
#ifndef VMM_CLI_OPTIONS_H
#define VMM_CLI_OPTIONS_H

#include <stdbool.h>

#include <umbra/umbra.h>

/* An option of the subcommand itself. */
struct cli_option {
    const char *name;  /* without dashes */
    const char *value; /* what stands for its value in --help; NULL: it takes none */
    const char *help;
};

struct cli_parser {
    const char *command;              /* "run" */
    const char *synopsis;             /* "[CONFIG.json] [options]" */
    const char *summary;              /* a paragraph for --help */
    const struct cli_option *options; /* ends with an empty one */
    bool config_options;              /* also takes the configuration's keys */
    unsigned max_arguments;           /* that are not options */
    const char *notes;                /* printed at the end of --help, may be NULL */
    /* Called for each of the subcommand's own options; false: @value is wrong. */
    bool (*set)(void *context, const char *name, const char *value);
    /* If not NULL: called for each argument instead of counting it; returns -1 to go on,
     * or the exit status to end with. */
    int (*argument)(void *context, const char *argument);
    void *context;
};

struct cli_line {
    const char *arguments[2];
    unsigned count;
};

/*
 * Parse @argv. Options of keys are set in @config, once the file that the first argument
 * names is loaded into it (both only with config_options). Returns -1 to go on, or the
 * exit status to end with: after --help, or a message on stderr.
 */
int cli_parse(const struct cli_parser *parser, int argc, char **argv,
              struct umbra_config *config, struct cli_line *line);

/* Complain on stderr and return EXIT_STATUS_USAGE. */
int cli_usage(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
