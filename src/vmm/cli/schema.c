/* SPDX-License-Identifier: MIT */
/* umbra schema: print the JSON schema of configurations. */
#include <stdlib.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

int command_schema(int argc, char **argv)
{
    static const struct cli_option options[] = { { NULL, NULL, NULL } };
    const struct cli_parser parser = {
        .command = "schema",
        .synopsis = "",
        .summary = "Print the JSON schema of configurations (draft 7), for editors.",
        .options = options,
    };
    struct cli_line line;
    int status = cli_parse(&parser, argc, argv, NULL, &line);
    char *schema;

    if (status >= 0) {
        return status;
    }
    schema = umbra_config_schema();
    if (schema == NULL) {
        fputs("umbra schema: out of memory\n", stderr);
        return EXIT_STATUS_INTERNAL;
    }
    puts(schema);
    free(schema);
    return EXIT_STATUS_OK;
}
