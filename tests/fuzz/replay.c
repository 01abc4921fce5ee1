/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzz target without libFuzzer: every file of the folders named as arguments as it
 * is, cut short at several places, and with single bytes changed. Always the same inputs.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

enum { CUTS = 8, CHANGES = 32, INPUT_MAX = 1 << 20 };

/* A copy of its own size, so that a sanitizer sees a read past the end. */
static void run(const uint8_t *data, size_t size, size_t change, uint8_t flip)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy == NULL) {
        abort();
    }
    memcpy(copy, data, size);
    if (change < size) {
        copy[change] ^= flip;
    }
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void run_file(const char *path)
{
    static uint8_t data[INPUT_MAX];
    FILE *in = fopen(path, "rb");
    uint32_t random = 1;
    size_t size;

    if (in == NULL) {
        perror(path);
        exit(1);
    }
    size = fread(data, 1, sizeof(data), in);
    fclose(in);
    run(data, size, SIZE_MAX, 0);
    for (size_t i = 1; i < CUTS; i++) {
        run(data, size * i / CUTS, SIZE_MAX, 0);
    }
    for (size_t i = 0; i < CHANGES && size > 0; i++) {
        random = random * 1664525 + 1013904223;
        run(data, size, (random >> 8) % size, (uint8_t)(random >> 24 | 1));
    }
}

int main(int argc, char **argv)
{
    size_t files = 0;

    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        const struct dirent *entry;
        char path[4096];

        while (folder != NULL && (entry = readdir(folder)) != NULL) {
            if (entry->d_name[0] != '.') {
                snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
                run_file(path);
                files++;
            }
        }
        if (folder != NULL) {
            closedir(folder);
        }
    }
    printf("%zu files\n", files);
    return 0;
}
