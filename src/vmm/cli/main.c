/* SPDX-License-Identifier: MIT */
/* umbra: the launcher. Finds the subcommand and runs it. */
#include <stdio.h>
#include <string.h>

#include <umbra/umbra.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

static const struct command {
    const char *name, *summary; /* no summary: not listed */
    int (*run)(int argc, char **argv);
} commands[] = {
    { "run", "boot a guest and wait for its end", command_run },
    { "demo", "boot the built-in guest, which shows what this host's KVM does",
      command_demo },
    { "test", "run kernel test images in parallel, with TAP and junit results",
      command_test },
    { "check", "check a configuration without running it", command_check },
    { "doctor", "say what stands in the way on this host, and how fast it will be",
      command_doctor },
    { "ls", "list the running VMs that have a name", command_ls },
    { "console", "put the terminal on a running VM's serial port", command_console },
    { "stop", "ask a running VM's guest to power off", command_stop },
    { "ctl", "call a method of a running VM's control socket", command_ctl },
    { "report", "print a running VM's registers, code, backtraces, console",
      command_report },
    { "symbols", "write a kernel's own symbols as an ELF file for gdb", command_symbols },
    { "core", "write an ELF core of a running VM's guest", command_core },
    { "stat", "print a running VM's exits by reason", command_stat },
    { "top", "show the exits of all running VMs, live", command_top },
    { "mmu", "the MMU laboratory: shadow and nested paging in software", command_mmu },
    { "acpi", "write the ACPI tables of a configuration's board", command_acpi },
    { "dtb", "write the device tree of a configuration's board", command_dtb },
    { "schema", "print the JSON schema of configurations", command_schema },
};

enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static int print_help(void)
{
    puts("Usage: umbra COMMAND [options]\n\nA KVM virtual machine monitor.\n\nCommands:");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        printf("  %-8s %s\n", commands[i].name, commands[i].summary);
    }
    puts("\nOptions:\n  --help     print this; umbra COMMAND --help tells more\n"
         "  --version  print the version\n");
    exit_status_print(stdout);
    return EXIT_STATUS_OK;
}

static int unknown_command(const char *name)
{
    const char *names[COMMAND_COUNT + 1] = { NULL }, *near;

    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        names[i] = commands[i].name;
    }
    near = umbra_nearest(name, names);
    fprintf(stderr, "umbra: there is no command '%s'%s%s%s See umbra --help\n", name,
            near != NULL ? "; did you mean '" : "", near != NULL ? near : "",
            near != NULL ? "'?" : ".");
    return EXIT_STATUS_USAGE;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fputs("umbra: a command is missing; see umbra --help\n", stderr);
        return EXIT_STATUS_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        return print_help();
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("umbra %s\n", umbra_version());
        return EXIT_STATUS_OK;
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return unknown_command(argv[1]);
}
