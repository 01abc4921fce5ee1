/* SPDX-License-Identifier: MIT */
/* umbra run and umbra demo: boot a guest from a configuration and options. */
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

/* The commands that boot a guest. */
struct run_command {
    const char *name, *summary;
    const struct cli_option *options;
    const char *key; /* of the configuration, switched on before anything else; or NULL */
};

static int run_main(const struct run_command *command, int argc, char **argv)
{
    struct run_options options = { .launch = { .command = command->name,
                                               .grace_ms = LAUNCH_GRACE_MS } };
    const struct cli_parser parser = {
        .command = command->name,
        .synopsis = "[CONFIG.json] [options]",
        .summary = command->summary,
        .options = command->options,
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
    if (command->key != NULL &&
        umbra_config_set(config, command->key, "on", &error) != 0) {
        status = exit_status_fail(command->name, &error);
    } else {
        status = cli_parse(&parser, argc, argv, config, &line);
    }
    if (status < 0 && umbra_config_validate(config, &error) != 0) {
        status = exit_status_fail(command->name, &error);
    }
    if (status < 0 && options.dry_run) {
        status = print_config(config);
    }
    if (status < 0 && umbra_config_check_files(config, &error) != 0) {
        status = exit_status_fail(command->name, &error);
    }
    if (status < 0) {
        status = launch(config, &options.launch);
    }
    umbra_config_free(config);
    return status;
}

int command_run(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "dry-run", NULL, "print the effective configuration as JSON and stop" },
        LAUNCH_OPTIONS,
        { NULL, NULL, NULL },
    };
    static const struct run_command command = {
        .name = "run",
        .summary = "Boot a guest and wait for its end. Its first serial port is the "
                   "terminal.",
        .options = own,
    };

    return run_main(&command, argc, argv);
}

int command_demo(int argc, char **argv)
{
    static const struct cli_option own[] = { LAUNCH_OPTIONS, { NULL, NULL, NULL } };
    static const struct run_command command = {
        .name = "demo",
        .summary =
            "Boot the built-in guest: it reports its memory map, brings up its CPUs, "
            "tries timer,\ninterrupts and every board device, computes in ring 3 and "
            "powers off.",
        .options = own,
        .key = "demo",
    };

    return run_main(&command, argc, argv);
}
