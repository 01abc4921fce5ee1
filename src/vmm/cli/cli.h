/* SPDX-License-Identifier: MIT */
/* The launcher's subcommands. They use <umbra/umbra.h> and nothing else of the library;
 * mmu*.c also use shadowpt-sim/. */
#ifndef VMM_CLI_CLI_H
#define VMM_CLI_CLI_H

/* argv[0] is the subcommand's name; each returns an exit status (exit_status.h). */
int command_run(int argc, char **argv);
int command_demo(int argc, char **argv);
int command_test(int argc, char **argv);
int command_check(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_acpi(int argc, char **argv);
int command_dtb(int argc, char **argv);
int command_schema(int argc, char **argv);
int command_ls(int argc, char **argv);
int command_ctl(int argc, char **argv);
int command_stop(int argc, char **argv);
int command_console(int argc, char **argv);
int command_core(int argc, char **argv);
int command_report(int argc, char **argv);
int command_symbols(int argc, char **argv);
int command_stat(int argc, char **argv);
int command_top(int argc, char **argv);
int command_mmu(int argc, char **argv);

#endif
