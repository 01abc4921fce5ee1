/* SPDX-License-Identifier: MIT */
/*
 * Fuzzes configurations: the first byte chooses JSON ('{', '[', ...) or, for '-', launcher
 * text in lines "key value". What is taken must be written and read back as the same.
 */
#include <stdlib.h>
#include <string.h>

#include <umbra/umbra.h>

#include "fuzz.h"

static void fuzz_options(struct umbra_config *config, char *text)
{
    char *line;

    while ((line = strsep(&text, "\n")) != NULL) {
        char *value = strchr(line, ' ');
        struct umbra_error error;

        if (value != NULL) {
            *value++ = '\0';
            free(umbra_config_get(config, line));
            umbra_config_set(config, line, value, &error);
        }
    }
}

/* Written, read and written again: the same text. */
static void check_round_trip(const struct umbra_config *config)
{
    struct umbra_config *again;
    struct umbra_error error;
    char *first = umbra_config_to_json(config), *second;

    if (first == NULL || umbra_config_new(&again) != 0) {
        free(first); /* text that is not UTF-8, from the command line */
        return;
    }
    if (umbra_config_load_text(again, first, "again", NULL, &error) != 0) {
        abort();
    }
    second = umbra_config_to_json(again);
    if (second == NULL || strcmp(first, second) != 0) {
        abort();
    }
    free(first);
    free(second);
    umbra_config_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    struct umbra_config *config;
    struct umbra_error error;

    if (text == NULL || umbra_config_new(&config) != 0) {
        abort();
    }
    memcpy(text, data, size);
    text[size] = '\0';
    if (text[0] == '-') {
        fuzz_options(config, text + 1);
        umbra_config_validate(config, &error);
        check_round_trip(config);
    } else if (umbra_config_load_text(config, text, "fuzz", "dir", &error) == 0) {
        umbra_config_validate(config, &error);
        check_round_trip(config);
    } else if (memchr(error.message, '\0', sizeof(error.message)) == NULL) {
        abort();
    }
    umbra_config_free(config);
    free(text);
    return 0;
}
