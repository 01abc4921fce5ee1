/* SPDX-License-Identifier: MIT */
/* umbra check: validate a configuration without running it. */
#include <string.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

static bool set_option(void *context, const char *name, const char *value)
{
    *(bool *)context = false; /* --no-files is the only one */
    return true;
}

static int check(const struct umbra_config *config, bool files)
{
    struct umbra_error error;

    if (umbra_config_validate(config, &error) != 0 ||
        (files && umbra_config_check_files(config, &error) != 0)) {
        return exit_status_fail("check", &error);
    }
    return EXIT_STATUS_OK;
}

int command_check(int argc, char **argv)
{
    static const struct cli_option options[] = {
        { "no-files", NULL, "do not look whether kernel, disks and the like are there" },
        { NULL, NULL, NULL },
    };
    bool files = true;
    const struct cli_parser parser = {
        .command = "check",
        .synopsis = "CONFIG.json [options]",
        .summary =
            "Check a configuration: every fault is named with its file, line, column "
            "and path.\nOptions are taken as umbra run takes them.",
        .options = options,
        .config_options = true,
        .max_arguments = 1,
        .set = set_option,
        .context = &files,
    };
    struct umbra_config *config;
    struct cli_line line;
    int status;

    if (umbra_config_new(&config) != 0) {
        return EXIT_STATUS_INTERNAL;
    }
    status = cli_parse(&parser, argc, argv, config, &line);
    if (status < 0 && line.count == 0) {
        status = cli_usage("check", "name the configuration: umbra check CONFIG.json");
    }
    if (status < 0) {
        status = check(config, files);
        if (status == EXIT_STATUS_OK) {
            printf("%s: good\n", line.arguments[0]);
        }
    }
    umbra_config_free(config);
    return status;
}
