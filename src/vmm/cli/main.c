/* SPDX-License-Identifier: MIT */
/* umbra: the launcher. Finds the subcommand and runs it. */
#include <stdio.h>

#include <umbra/umbra.h>

int main(void)
{
    printf("umbra %s\n", umbra_version());
    return 0;
}
