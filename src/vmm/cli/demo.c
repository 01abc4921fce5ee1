/* SPDX-License-Identifier: MIT */
/* umbra demo: boot the built-in guest. */
#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/launch.h"
#include "vmm/cli/options.h"

static bool set_option(void *context, const char *name, const char *value)
{
    return launch_set_option(context, name, value);
}

int command_demo(int argc, char **argv)
{
    static const struct cli_option own[] = { LAUNCH_OPTIONS, { NULL, NULL, NULL } };
    struct launch_options options = { .command = "demo", .grace_ms = LAUNCH_GRACE_MS };
    const struct cli_parser parser = {
        .command = "demo",
        .synopsis = "[CONFIG.json] [options]",
        .summary =
            "Boot the built-in guest: it reports its memory map, brings up its CPUs, "
            "tries timer,\ninterrupts and every board device, computes in ring 3 and "
            "powers off.",
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
    status = umbra_config_set(config, "demo", "on", &error) == 0
                 ? cli_parse(&parser, argc, argv, config, &line)
                 : exit_status_fail("demo", &error);
    if (status < 0 && umbra_config_validate(config, &error) != 0) {
        status = exit_status_fail("demo", &error);
    }
    if (status < 0) {
        status = launch(config, &options);
    }
    umbra_config_free(config);
    return status;
}
