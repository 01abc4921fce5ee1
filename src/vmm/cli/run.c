/* SPDX-License-Identifier: MIT */
/* umbra run: boot a guest from a configuration and options. */
#include <stdlib.h>
#include <string.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/launch.h"
#include "vmm/cli/options.h"

struct run_options {
    struct launch_options launch;
    bool dry_run;
};

static bool set_option(void *context, const char *name, const char *value)
{
    struct run_options *options = context;

    if (strcmp(name, "dry-run") == 0) {
        options->dry_run = true;
        return true;
    }
    return launch_set_option(&options->launch, name, value);
}

static int print_config(const struct umbra_config *config)
{
    char *json = umbra_config_to_json(config);

    if (json == NULL) {
        return EXIT_STATUS_INTERNAL;
    }
    puts(json);
    free(json);
    return EXIT_STATUS_OK;
}

int command_run(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "dry-run", NULL, "print the effective configuration as JSON and stop" },
        LAUNCH_OPTIONS,
        { NULL, NULL, NULL },
    };
    struct run_options options = { .launch = { .command = "run",
                                               .grace_ms = LAUNCH_GRACE_MS } };
    const struct cli_parser parser = {
        .command = "run",
        .synopsis = "[CONFIG.json] [options]",
        .summary = "Boot a guest and wait for its end. Its first serial port is the "
                   "terminal.",
        .options = own,
        .config_options = true,
        .max_arguments = 1,
        .notes = launch_help,
        .set = set_option,
        .context = &options,
    };
    struct umbra_config *config;
    struct umbra_error error;
    struct cli_line line;
    int status;

    if (umbra_config_new(&config) != 0) {
        return EXIT_STATUS_INTERNAL;
    }
    status = cli_parse(&parser, argc, argv, config, &line);
    if (status < 0 && umbra_config_validate(config, &error) != 0) {
        status = exit_status_fail("run", &error);
    }
    if (status < 0 && options.dry_run) {
        status = print_config(config);
    }
    if (status < 0 && umbra_config_check_files(config, &error) != 0) {
        status = exit_status_fail("run", &error);
    }
    if (status < 0) {
        status = launch(config, &options.launch);
    }
    umbra_config_free(config);
    return status;
}
