/* SPDX-License-Identifier: MIT */
/* The verbs of `umbra mmu`; argv[0] is the verb. */
#ifndef VMM_CLI_MMU_MMU_H
#define VMM_CLI_MMU_MMU_H

int mmu_command_walk(int argc, char **argv);
int mmu_command_explain(int argc, char **argv);
int mmu_command_run(int argc, char **argv);
int mmu_command_generate(int argc, char **argv);
int mmu_command_crossover(int argc, char **argv);
int mmu_command_inspect(int argc, char **argv);
int mmu_command_record(int argc, char **argv);
int mmu_command_costs(int argc, char **argv);

#endif
