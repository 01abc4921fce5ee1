/* SPDX-License-Identifier: MIT */
/* A conversation with a stock kernel's shell through the library: inspect KERNEL INITRD. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <umbra/umbra.h>

enum { PATIENCE_MS = 120000 };

static void fail(const char *what, const struct umbra_error *error)
{
    fprintf(stderr, "inspect: %s: %s\n", what, error->message);
    exit(1);
}

static void check(const char *what, int ret, const struct umbra_error *error)
{
    if (ret != 0) {
        fail(what, error);
    }
    printf("ok: %s\n", what);
}

static void expect(struct umbra_vm *vm, const char *pattern, unsigned flags,
                   struct umbra_match *match)
{
    struct umbra_error error;

    match->offset = 0;
    check(pattern,
          umbra_console_expect(vm, 0, pattern, flags, PATIENCE_MS, match, &error),
          &error);
}

static void type(struct umbra_vm *vm, const char *line)
{
    struct umbra_error error = { .message = "it takes no input" };

    check(line, umbra_console_send(vm, 0, line, strlen(line)), &error);
}

/* Names and memory of the kernel while it stands. */
static void look(struct umbra_vm *vm)
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) }, back = symbol;
    struct umbra_error error;
    char banner[64], *report;

    check("pause", umbra_vm_pause(vm, &error), &error);
    check("lookup", umbra_symbol_lookup(vm, "start_kernel+4", &symbol, &error), &error);
    check("symbol at", umbra_symbol_at(vm, symbol.address + 4, &back, &error), &error);
    printf("start_kernel is %s+%" PRIu64 " type %c\n", back.name, back.offset, back.type);
    check("memory",
          umbra_memory_read_symbol(vm, 0, "linux_banner", banner, sizeof(banner), &error),
          &error);
    printf("banner <%.13s>\n", banner);
    check("no symbol",
          umbra_symbol_lookup(vm, "no_such_thing", &symbol, &error) < 0 ? 0 : -1, &error);
    report = umbra_vm_report(vm, &error);
    if (report == NULL) {
        fail("report", &error);
    }
    printf("%s", report);
    free(report);
    check("resume", umbra_vm_resume(vm, &error), &error);
}

int main(int argc, char **argv)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_match match = { 0 };
    struct umbra_config *config;
    struct umbra_error error;
    struct umbra_vm *vm;

    if (argc != 3 || umbra_config_new(&config) != 0 ||
        umbra_config_set(config, "kernel", argv[1], &error) != 0 ||
        umbra_config_set(config, "initrd", argv[2], &error) != 0 ||
        umbra_config_set(config, "memory", "256M", &error) != 0 ||
        umbra_config_set(config, "append", "console=ttyS0 quiet", &error) != 0) {
        fail("configuration", &error);
    }
    check("create", umbra_vm_create(config, &vm, &error), &error);
    umbra_config_free(config);
    check("start", umbra_vm_start(vm, &error), &error);
    expect(vm, "[init] up", UMBRA_EXPECT_TEXT, &match);
    expect(vm, "/ # ", UMBRA_EXPECT_TEXT, &match);
    type(vm, "echo sum $((40 + 2)) of $(uname -s)\n");
    /* To the line's end: a shorter pattern matches as soon as the first part has come. */
    expect(vm, "^sum ([0-9]+) of [A-Z][a-z]+\r?\n", UMBRA_EXPECT_REGEX, &match);
    printf("matched <%.*s>\n", (int)strcspn(match.text, "\r\n"), match.text);
    check("no such output",
          umbra_console_expect(vm, 0, "never", 0, 200, NULL, &error) < 0 ? 0 : -1,
          &error);
    look(vm);
    type(vm, "poweroff -f\n");
    check("wait", umbra_vm_wait(vm, PATIENCE_MS, &outcome, &error), &error);
    printf("outcome %d: %s\n", outcome.kind, outcome.reason);
    umbra_vm_destroy(vm);
    return outcome.kind == UMBRA_OUTCOME_POWEROFF ? 0 : 1;
}
