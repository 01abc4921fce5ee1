/* SPDX-License-Identifier: MIT */
/* umbra acpi and umbra dtb: write the tables that describe a board. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

struct table_options {
    const char *table, *out;
};

static bool set_option(void *context, const char *name, const char *value)
{
    struct table_options *options = context;

    if (strcmp(name, "table") == 0) {
        options->table = value;
    } else {
        options->out = value;
    }
    return true;
}

/* To the file @path, or to stdout when NULL. */
static int write_table(const char *command, const char *path, const void *table,
                       size_t size)
{
    FILE *out = path != NULL ? fopen(path, "we") : stdout;

    if (path == NULL && isatty(STDOUT_FILENO)) {
        return cli_usage(command, "this is binary: send it to a file, or name one with "
                                  "--out");
    }
    if (out == NULL || fwrite(table, 1, size, out) != size ||
        (out == stdout ? fflush(out) : fclose(out)) != 0) {
        fprintf(stderr, "umbra %s: cannot write %s: %s\n", command,
                path != NULL ? path : "stdout", strerror(errno));
        return EXIT_STATUS_INTERNAL;
    }
    return EXIT_STATUS_OK;
}

static int parse(const struct cli_parser *parser, int argc, char **argv,
                 struct umbra_config **config)
{
    struct cli_line line;

    if (umbra_config_new(config) != 0) {
        *config = NULL;
        return EXIT_STATUS_INTERNAL;
    }
    return cli_parse(parser, argc, argv, *config, &line);
}

/* ---- ACPI -------------------------------------------------------------------------- */

/* "dsdt.aml" in @folder. */
static int write_into(const struct umbra_config *config, const char *folder,
                      const char *signature)
{
    struct umbra_error error;
    char path[4096], name[5];
    void *table;
    size_t size;
    int status;

    for (size_t i = 0; i < sizeof(name); i++) {
        name[i] = (char)tolower((unsigned char)signature[i]);
    }
    if (umbra_acpi_table(config, signature, &table, &size, &error) != 0) {
        return exit_status_fail("acpi", &error);
    }
    snprintf(path, sizeof(path), "%s/%s.aml", folder, name);
    status = write_table("acpi", path, table, size);
    if (status == EXIT_STATUS_OK) {
        printf("%s: %zu bytes\n", path, size);
    }
    free(table);
    return status;
}

static int write_acpi(const struct umbra_config *config,
                      const struct table_options *options)
{
    static const char *const all[] = { "DSDT", "FACP", "APIC", "MCFG", "XSDT" };
    const char *table = options->table != NULL ? options->table : "DSDT";
    int status = EXIT_STATUS_OK;
    struct umbra_error error;
    void *bytes;
    size_t size;

    if (options->table == NULL && options->out != NULL) {
        for (size_t i = 0; status == EXIT_STATUS_OK && i < sizeof(all) / sizeof(all[0]);
             i++) {
            status = write_into(config, options->out, all[i]);
        }
        return status;
    }
    if (umbra_acpi_table(config, table, &bytes, &size, &error) != 0) {
        return exit_status_fail("acpi", &error);
    }
    status = write_table("acpi", options->out, bytes, size);
    free(bytes);
    return status;
}

int command_acpi(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "table", "NAME", "this table alone (DSDT, FACP, APIC, MCFG, XSDT, ...)" },
        { "out", "PATH", "write there: the file of one table, or the folder for all" },
        { NULL, NULL, NULL },
    };
    struct table_options options = { 0 };
    const struct cli_parser parser = {
        .command = "acpi",
        .synopsis = "[CONFIG.json] [options]",
        .summary =
            "Write the ACPI tables of the board that a configuration makes: one to "
            "stdout (the DSDT\nby default), or all into a folder. iasl -d reads "
            "them. Needs no KVM.",
        .options = own,
        .config_options = true,
        .max_arguments = 1,
        .set = set_option,
        .context = &options,
    };
    struct umbra_config *config;
    int status = parse(&parser, argc, argv, &config);

    if (status < 0) {
        status = write_acpi(config, &options);
    }
    umbra_config_free(config);
    return status;
}

/* ---- The device tree --------------------------------------------------------------- */

int command_dtb(int argc, char **argv)
{
    static const struct cli_option own[] = {
        { "out", "FILE", "write there instead of stdout" },
        { NULL, NULL, NULL },
    };
    struct table_options options = { 0 };
    const struct cli_parser parser = {
        .command = "dtb",
        .synopsis = "[CONFIG.json] [options]",
        .summary = "Write the device tree of the board that a configuration makes. "
                   "dtc -I dtb reads it.\nNeeds no KVM.",
        .options = own,
        .config_options = true,
        .max_arguments = 1,
        .set = set_option,
        .context = &options,
    };
    struct umbra_config *config;
    struct umbra_error error;
    void *blob;
    size_t size;
    int status = parse(&parser, argc, argv, &config);

    if (status < 0 && umbra_fdt(config, &blob, &size, &error) != 0) {
        status = exit_status_fail("dtb", &error);
    } else if (status < 0) {
        status = write_table("dtb", options.out, blob, size);
        free(blob);
    }
    umbra_config_free(config);
    return status;
}
