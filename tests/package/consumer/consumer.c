/* SPDX-License-Identifier: MIT */
/* A program outside the project: uses the installed header and library, as C11 or C++17. */
#include <stdio.h>
#include <string.h>

#include <umbra/umbra.h>

int main(int argc, char **argv)
{
    const char *version = umbra_version();

    if (argc != 2 || strcmp(version, argv[1]) != 0) {
        fprintf(stderr, "version %s, not the expected one\n", version);
        return 1;
    }
    printf("linked with umbra %s\n", version);
    return 0;
}
