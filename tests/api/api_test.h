/* SPDX-License-Identifier: MIT */
/* What the embedding tests share: a config for a micro guest, checked calls. */
#ifndef TESTS_API_API_TEST_H
#define TESTS_API_API_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <umbra/umbra.h>

/* Checks a call that returns 0 or -errno and fills @error. */
#define assert_ok(call)                                                                  \
    do {                                                                                 \
        int result_ = (call);                                                            \
                                                                                         \
        if (result_ != 0) {                                                              \
            fail_msg("%s: %d: %s", #call, result_, error.message);                       \
        }                                                                                \
    } while (0)

static inline void api_set(struct umbra_config *config, const char *key,
                           const char *value)
{
    struct umbra_error error;

    assert_ok(umbra_config_set(config, key, value, &error));
}

/* A config for micro guest @guest with a command line; more by api_set(). */
static inline struct umbra_config *api_config(const char *guest, const char *append)
{
    const char *folder = getenv("UMBRA_GUESTS");
    struct umbra_config *config;
    char path[4096];

    assert_int_equal(umbra_config_new(&config), 0);
    snprintf(path, sizeof(path), "%s/%s.elf", folder != NULL ? folder : ".", guest);
    api_set(config, "kernel", path);
    api_set(config, "append", append);
    api_set(config, "memory", "64M");
    return config;
}

/* Create from @config, which is freed. */
static inline struct umbra_vm *api_create(struct umbra_config *config)
{
    struct umbra_error error;
    struct umbra_vm *vm;

    assert_ok(umbra_vm_create(config, &vm, &error));
    umbra_config_free(config);
    return vm;
}

#endif
