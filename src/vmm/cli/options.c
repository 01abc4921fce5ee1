/* SPDX-License-Identifier: MIT */
/* A subcommand's command line. */
#include "vmm/cli/options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli/exit_status.h"

enum { CANDIDATES_MAX = 160 };

int cli_usage(const char *command, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "umbra %s: ", command);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return EXIT_STATUS_USAGE;
}

/* ---- Help -------------------------------------------------------------------- */

/* "  --name VALUE   help", the help on its own line behind a long beginning. */
static void print_option(const char *indent, const char *dashes, const char *name,
                         const char *value, const char *help)
{
    int used = printf("%s%s%s%s%s", indent, dashes, name, value != NULL ? " " : "",
                      value != NULL ? value : "");

    printf("%*s%s\n", used < 30 ? 32 - used : 2, "", help);
}

static void print_config_options(void)
{
    struct umbra_config_key key = { .size = sizeof(key) };

    puts("\nConfiguration (each is also a key of CONFIG.json; options win over the "
         "file):");
    for (size_t i = 0; umbra_config_key_at(i, &key) == 0; i++) {
        if (key.parent == NULL) {
            char value[96];

            snprintf(value, sizeof(value), key.is_switch ? "[=%s]" : " %s", key.value);
            printf("  --%s%s\n        %s\n", key.option, value, key.help);
        } else {
            print_option("          ", "", key.name, key.value, key.help);
        }
    }
    puts("\nA switch is on when named; --no-NAME is off. In values with commas, \",,\" "
         "stands for a comma.");
}

static void print_help(const struct cli_parser *parser)
{
    printf("Usage: umbra %s %s\n\n%s\n", parser->command, parser->synopsis,
           parser->summary);
    puts("\nOptions:");
    for (const struct cli_option *option = parser->options; option->name != NULL;
         option++) {
        print_option("  ", "--", option->name, option->value, option->help);
    }
    print_option("  ", "--", "help", NULL, "print this");
    if (parser->config_options) {
        print_config_options();
    }
    if (parser->notes != NULL) {
        printf("\n%s", parser->notes);
    }
    putchar('\n');
    exit_status_print(stdout);
}

/* ---- Finding options --------------------------------------------------------- */

static const struct cli_option *own_option(const struct cli_parser *parser,
                                           const char *name)
{
    for (const struct cli_option *option = parser->options; option->name != NULL;
         option++) {
        if (strcmp(option->name, name) == 0) {
            return option;
        }
    }
    return NULL;
}

static bool key_option(const struct cli_parser *parser, const char *name,
                       struct umbra_config_key *key)
{
    *key = (struct umbra_config_key){ .size = sizeof(*key) };
    for (size_t i = 0; parser->config_options && umbra_config_key_at(i, key) == 0; i++) {
        if (key->option != NULL && strcmp(key->option, name) == 0) {
            return true;
        }
    }
    return false;
}

static int unknown_option(const struct cli_parser *parser, const char *name)
{
    const char *candidates[CANDIDATES_MAX], *near;
    struct umbra_config_key key = { .size = sizeof(key) };
    size_t count = 0;

    for (const struct cli_option *option = parser->options; option->name != NULL;
         option++) {
        candidates[count++] = option->name;
    }
    for (size_t i = 0; parser->config_options && umbra_config_key_at(i, &key) == 0; i++) {
        if (key.option != NULL && count < CANDIDATES_MAX - 2) {
            candidates[count++] = key.option;
        }
    }
    candidates[count++] = "help";
    candidates[count] = NULL;
    near = umbra_nearest(name, candidates);
    return near != NULL
               ? cli_usage(parser->command, "unknown option --%s; did you mean --%s?",
                           name, near)
               : cli_usage(parser->command, "unknown option --%s; see umbra %s --help",
                           name, parser->command);
}

/* One option taken apart. */
struct found {
    char name[64];
    const char *value; /* behind "=", or the next argument; NULL: none */
    const struct cli_option *own;
    struct umbra_config_key key; /* where own is NULL */
    bool negated;
};

/* Does @text begin as what the object of switch @key takes does: "rate=64K", "reporting,..."?
 * A word alone is an argument: the switch's own must be joined to it by "=". */
static bool is_object_text(const struct umbra_config_key *key, const char *text)
{
    struct umbra_config_key member = { .size = sizeof(member) };
    size_t length = strcspn(text, "=,");

    for (size_t i = 0; text[length] != '\0' && umbra_config_key_at(i, &member) == 0;
         i++) {
        bool same = member.parent != NULL && strcmp(member.parent, key->name) == 0 &&
                    strlen(member.name) == length;

        for (size_t at = 0; same && at < length; at++) {
            same = text[at] == member.name[at] ||
                   (text[at] == '-' && member.name[at] == '_');
        }
        if (same) {
            return true;
        }
    }
    return false;
}

/* @i is the option's index in argv, moved over a value that follows it. */
static int find_option(const struct cli_parser *parser, int argc, char **argv, int *i,
                       struct found *found)
{
    const char *text = argv[*i] + 2, *equals = strchrnul(text, '=');
    bool takes_value;

    *found = (struct found){ .value = *equals != '\0' ? equals + 1 : NULL };
    snprintf(found->name, sizeof(found->name), "%.*s", (int)(equals - text), text);
    found->own = own_option(parser, found->name);
    if (found->own != NULL) {
        takes_value = found->own->value != NULL;
    } else if (key_option(parser, found->name, &found->key)) {
        takes_value =
            !found->key.is_switch || (found->value == NULL && *i + 1 < argc &&
                                      is_object_text(&found->key, argv[*i + 1]));
    } else if (strncmp(found->name, "no-", 3) == 0 && found->value == NULL &&
               key_option(parser, found->name + 3, &found->key) && found->key.is_switch) {
        found->negated = true;
        takes_value = false;
    } else {
        return unknown_option(parser, found->name);
    }
    if (takes_value && found->value == NULL) {
        if (*i + 1 >= argc) {
            return cli_usage(parser->command, "--%s needs a value: %s", found->name,
                             found->own != NULL ? found->own->value : found->key.value);
        }
        found->value = argv[++*i];
    }
    if (found->own != NULL && !takes_value && found->value != NULL) {
        return cli_usage(parser->command, "--%s takes no value", found->name);
    }
    return -1;
}

/* ---- Parsing ----------------------------------------------------------------- */

/* The first pass: the subcommand's own options and the arguments. */
static int parse_own(const struct cli_parser *parser, int argc, char **argv,
                     struct cli_line *line)
{
    *line = (struct cli_line){ 0 };
    for (int i = 1; i < argc; i++) {
        struct found found;
        int status;

        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(parser);
            return EXIT_STATUS_OK;
        }
        if (argv[i][0] != '-' || argv[i][1] == '\0') {
            if (parser->argument != NULL) {
                status = parser->argument(parser->context, argv[i]);
                if (status >= 0) {
                    return status;
                }
                continue;
            }
            if (line->count == parser->max_arguments) {
                return cli_usage(parser->command, "what is '%s' for? See umbra %s --help",
                                 argv[i], parser->command);
            }
            line->arguments[line->count++] = argv[i];
            continue;
        }
        if (argv[i][1] != '-') {
            return cli_usage(parser->command, "unknown option %s; see umbra %s --help",
                             argv[i], parser->command);
        }
        status = find_option(parser, argc, argv, &i, &found);
        if (status >= 0) {
            return status;
        }
        if (found.own != NULL && !parser->set(parser->context, found.name, found.value)) {
            return cli_usage(parser->command, "--%s %s: expected %s", found.name,
                             found.value, found.own->value);
        }
    }
    return -1;
}

/* The second pass: the configuration's keys, over the file. */
static int parse_config(const struct cli_parser *parser, int argc, char **argv,
                        struct umbra_config *config)
{
    for (int i = 1; i < argc; i++) {
        struct umbra_error error;
        struct found found;

        if (argv[i][0] != '-' || argv[i][1] == '\0') {
            continue;
        }
        find_option(parser, argc, argv, &i, &found);
        if (found.own != NULL) {
            continue;
        }
        if (umbra_config_set(config, found.key.option,
                             found.negated         ? "off"
                             : found.value != NULL ? found.value
                                                   : "on",
                             &error) != 0) {
            /* The message begins with the option's name. */
            return cli_usage(parser->command, "--%s", error.message);
        }
    }
    return -1;
}

int cli_parse(const struct cli_parser *parser, int argc, char **argv,
              struct umbra_config *config, struct cli_line *line)
{
    struct umbra_error error;
    int status = parse_own(parser, argc, argv, line);

    if (status >= 0 || !parser->config_options) {
        return status;
    }
    if (line->count > 0 &&
        umbra_config_load_file(config, line->arguments[0], &error) != 0) {
        return exit_status_fail(parser->command, &error);
    }
    return parse_config(parser, argc, argv, config);
}
