/* SPDX-License-Identifier: MIT */
/* umbra schema: print the JSON schema of configurations, or the list of its keys. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

static bool set_option(void *context, const char *name, const char *value)
{
    *(bool *)context = true; /* --keys is the only one */
    return true;
}

/* Every key with its option, for the manual pages and shell completion. */
static char *keys_json(void)
{
    struct umbra_config_key key = { .size = sizeof(key) };
    json_t *keys = json_array();
    char *text;

    for (size_t i = 0; umbra_config_key_at(i, &key) == 0; i++) {
        json_array_append_new(keys, json_pack("{s:s?, s:s, s:s?, s:b, s:s, s:s, s:s}",
                                              "parent", key.parent, "name", key.name,
                                              "option", key.option, "switch",
                                              key.is_switch, "value", key.value, "help",
                                              key.help, "example", key.example));
    }
    text = json_dumps(keys, JSON_INDENT(2));
    json_decref(keys);
    return text;
}

int command_schema(int argc, char **argv)
{
    static const struct cli_option options[] = {
        { "keys", NULL, "print all keys and launcher options instead, as a JSON list" },
        { NULL, NULL, NULL },
    };
    bool keys = false;
    const struct cli_parser parser = {
        .command = "schema",
        .synopsis = "[options]",
        .summary = "Print the JSON schema of configurations (draft 7), for editors.",
        .options = options,
        .set = set_option,
        .context = &keys,
    };
    struct cli_line line;
    int status = cli_parse(&parser, argc, argv, NULL, &line);
    char *text;

    if (status >= 0) {
        return status;
    }
    text = keys ? keys_json() : umbra_config_schema();
    if (text == NULL) {
        fputs("umbra schema: out of memory\n", stderr);
        return EXIT_STATUS_INTERNAL;
    }
    puts(text);
    free(text);
    return EXIT_STATUS_OK;
}
