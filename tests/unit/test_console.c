/* SPDX-License-Identifier: MIT */
/* vmm/machine/console: transcript, tail, expect, panic recognition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "vmm/machine/console.h"

static void say(struct console *console, const char *text)
{
    console_output(console, text, strlen(text));
}

static void count_panic(void *context)
{
    ++*(int *)context;
}

static void test_expect(void **state)
{
    struct umbra_match match;
    struct umbra_error error;
    struct console console;

    console_init(&console);
    say(&console, "one two ");
    say(&console, "three\nlogin: ");
    assert_int_equal(console_expect(&console, "two three", false, 0, &match, &error), 0);
    assert_int_equal(match.offset, 4);
    assert_string_equal(match.text, "two three");
    assert_int_equal(console_expect(&console, "two", false, 0, NULL, &error), -ETIMEDOUT);
    assert_int_equal(console_expect(&console, "^log[a-z]+:", true, 0, &match, &error), 0);
    assert_string_equal(match.text, "login:");
    assert_int_equal(console_expect(&console, "(", true, 0, NULL, &error), -EINVAL);
    assert_non_null(strstr(error.message, "regular expression"));
    console_end(&console);
    assert_int_equal(console_expect(&console, "more", false, UINT64_MAX, NULL, &error),
                     -EPIPE);
    console_fini(&console);
}

static void *late_writer(void *context)
{
    usleep(1000);
    say(context, "lo");
    usleep(1000);
    say(context, "gin: ");
    return NULL;
}

static void test_expect_waits(void **state)
{
    struct umbra_error error;
    struct console console;
    pthread_t thread;

    console_init(&console);
    assert_int_equal(pthread_create(&thread, NULL, late_writer, &console), 0);
    assert_int_equal(console_expect(&console, "login: ", false,
                                    clock_ns() + UINT64_C(60000000000), NULL, &error),
                     0);
    pthread_join(thread, NULL);
    console_fini(&console);
}

static void test_bounded(void **state)
{
    enum { CHUNK = 1000, CHUNKS = 3 * CONSOLE_TRANSCRIPT_MAX / CHUNK };
    static char big[2 * CONSOLE_TRANSCRIPT_MAX];
    struct umbra_match match;
    struct umbra_error error;
    struct console console;
    char chunk[CHUNK + 1], tail[16], *text;
    size_t length;

    console_init(&console);
    memset(chunk, 'x', CHUNK);
    chunk[CHUNK - 1] = '\n';
    chunk[CHUNK] = '\0';
    for (int i = 0; i < CHUNKS; i++) {
        say(&console, chunk);
    }
    say(&console, "a\0b");
    console_output(&console, "c\0d\n", 4);
    text = console_transcript(&console, &length);
    assert_true(length >= CONSOLE_TRANSCRIPT_MAX / 2 && length <= CONSOLE_TRANSCRIPT_MAX);
    assert_int_equal(strlen(text), length);
    free(text);
    assert_int_equal(console_expect(&console, "ac d", false, 0, &match, &error), 0);
    assert_int_equal(match.offset, (uint64_t)CHUNKS * CHUNK);
    console_tail(&console, tail, sizeof(tail));
    assert_string_equal(tail, "ac d\n");
    memset(big, 'y', sizeof(big));
    console_output(&console, big, sizeof(big));
    say(&console, "z");
    assert_int_equal(console_expect(&console, "z", false, 0, &match, &error), 0);
    assert_int_equal(match.offset, (uint64_t)CHUNKS * CHUNK + 5 + sizeof(big));
    console_fini(&console);
}

static void test_panic(void **state)
{
    struct console console;
    int panics = 0;

    console_init(&console);
    console.panicked = count_panic;
    console.panicked_context = &panics;
    say(&console, "Kernel pan");
    assert_false(console_panic_seen(&console));
    say(&console, "ic - not syncing: VFS\n");
    assert_true(console_panic_seen(&console));
    assert_int_equal(panics, 0);
    say(&console, "------[ end Kernel panic - not syncing: VFS ]---");
    assert_int_equal(panics, 1);
    console_reset(&console);
    assert_false(console_panic_seen(&console));
    console_fini(&console);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expect),
        cmocka_unit_test(test_expect_waits),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_panic),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
