/* SPDX-License-Identifier: MIT */
/* The smallest embedder: boot a kernel, show its console, tell how the run ended. */
#include <stdio.h>

#include <umbra/umbra.h>

static void print_console(void *context, const void *bytes, size_t length)
{
    (void)context;
    fwrite(bytes, 1, length, stdout);
}

int main(int argc, char **argv)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_config *config = NULL;
    struct umbra_vm *vm = NULL;
    struct umbra_error error = { .message = "" };
    int result;

    if (argc < 2) {
        fprintf(stderr, "usage: hello KERNEL [COMMAND-LINE]\n");
        return 64;
    }
    result = umbra_config_new(&config);
    if (result == 0) {
        result = umbra_config_set(config, "kernel", argv[1], &error);
    }
    if (result == 0) {
        result = umbra_config_set(config, "append", argc > 2 ? argv[2] : "", &error);
    }
    if (result == 0) {
        result = umbra_vm_create(config, &vm, &error);
    }
    if (result == 0) {
        umbra_console_set_output(vm, 0, print_console, NULL);
        result = umbra_vm_start(vm, &error);
    }
    if (result == 0) {
        result = umbra_vm_wait(vm, -1, &outcome, &error);
    }
    umbra_vm_destroy(vm); /* both take NULL */
    umbra_config_free(config);
    if (result != 0) {
        fprintf(stderr, "hello: %s\n", error.message);
        return error.code == UMBRA_ERROR_NO_KVM ? 77 : 70;
    }
    printf("%s\n", outcome.reason);
    switch (outcome.kind) {
    case UMBRA_OUTCOME_POWEROFF:
        return 0;
    case UMBRA_OUTCOME_EXIT:
        return (int)(outcome.exit_value & 0xff);
    default:
        fputs(outcome.report, stderr);
        return 1;
    }
}
