/* SPDX-License-Identifier: MIT */
/* umbra symbols: what a kernel says about itself, for debuggers. */
#include <stdio.h>
#include <string.h>

#include <umbra/umbra.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

int command_symbols(int argc, char **argv)
{
    struct umbra_error error;

    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        puts("Usage: umbra symbols KERNEL FILE\n\n"
             "Write the symbols of a kernel, and what debuggers need for backtraces, as "
             "an "
             "ELF file. KERNEL\nmay be a bzImage as distributions ship it: Linux kernels "
             "name their symbols in themselves.\nFILE must be new.\n\n"
             "  umbra symbols vmlinuz vmlinuz.elf\n"
             "  umbra run --kernel vmlinuz ... --gdb 1234 &\n"
             "  gdb vmlinuz.elf -ex \"target remote :1234\"");
        return EXIT_STATUS_OK;
    }
    if (argc != 3) {
        return cli_usage("symbols",
                         "name a kernel and a new file: umbra symbols KERNEL FILE");
    }
    if (umbra_symbols_export(argv[1], argv[2], &error) != 0) {
        return exit_status_fail("symbols", &error);
    }
    return EXIT_STATUS_OK;
}
