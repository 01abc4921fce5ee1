/* SPDX-License-Identifier: MIT */
/* Shared by the configuration tests: a config from text, and its error's message. */
#ifndef TESTS_UNIT_CONFIG_FIXTURE_H
#define TESTS_UNIT_CONFIG_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/config/config.h"

/* A config of the defaults. */
static inline struct umbra_config *config_defaults(void)
{
    struct umbra_config *config;

    assert_int_equal(umbra_config_new(&config), 0);
    return config;
}

/* Load @json as "x.json" in the folder "dir"; 0 or -errno with *error. */
static inline int config_load(struct umbra_config *config, const char *json,
                              struct umbra_error *error)
{
    return umbra_config_load_text(config, json, "x.json", "dir", error);
}

/* @json is refused, and the message is exactly @message. */
static inline void assert_refused(const char *json, const char *message)
{
    struct umbra_config *config = config_defaults();
    struct umbra_error error = { 0 };

    assert_true(config_load(config, json, &error) < 0);
    assert_string_equal(error.message, message);
    assert_int_equal(error.code, UMBRA_ERROR_CONFIG);
    umbra_config_free(config);
}

#endif
