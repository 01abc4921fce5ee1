/* SPDX-License-Identifier: MIT */
/*
 * Talk to a program in the guest, past its console: connect to a port of its virtio sockets,
 * say each line and wait for an answer that has it in it. No socket file is needed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <umbra/umbra.h>

enum { PATIENCE_MS = 60000 };

/* Say @line, and print what came back up to and with it. */
static int talk(struct umbra_stream *agent, const char *line, struct umbra_error *error)
{
    struct umbra_match match;
    char text[256];
    int result, length = snprintf(text, sizeof(text), "%s\n", line);

    if (length >= (int)sizeof(text)) {
        length = (int)sizeof(text) - 1;
    }
    result = umbra_stream_send(agent, text, (size_t)length, PATIENCE_MS, error);
    if (result == 0) {
        result = umbra_stream_expect(agent, line, UMBRA_EXPECT_TEXT, PATIENCE_MS, &match,
                                     error);
    }
    if (result == 0) {
        printf("byte %u: %s\n", (unsigned)match.offset, match.text);
    }
    return result;
}

static int converse(struct umbra_vm *vm, uint32_t port, char **lines, int count,
                    struct umbra_error *error)
{
    struct umbra_stream *agent = NULL;
    int fd, result = umbra_vsock_connect(vm, port, PATIENCE_MS, &fd, error);

    if (result == 0) {
        result = umbra_stream_open(vm, fd, &agent, error); /* fd is the stream's now */
    }
    for (int i = 0; result == 0 && i < count; i++) {
        result = talk(agent, lines[i], error);
    }
    umbra_stream_close(agent);
    return result;
}

int main(int argc, char **argv)
{
    struct umbra_config *config = NULL;
    struct umbra_vm *vm = NULL;
    struct umbra_error error = { .message = "" };
    int result;

    if (argc < 4) {
        fprintf(stderr, "usage: agent KERNEL PORT LINE...\n");
        return 64;
    }
    result = umbra_config_new(&config);
    if (result == 0) {
        result = umbra_config_set(config, "kernel", argv[1], &error);
    }
    if (result == 0) {
        result = umbra_config_set(config, "vsock", "cid=3", &error);
    }
    if (result == 0) {
        result = umbra_vm_create(config, &vm, &error);
    }
    if (result == 0) {
        result = umbra_vm_start(vm, &error);
    }
    if (result == 0) {
        result = converse(vm, (uint32_t)strtoul(argv[2], NULL, 10), argv + 3, argc - 3,
                          &error);
    }
    umbra_vm_destroy(vm);
    umbra_config_free(config);
    if (result != 0) {
        printf("%s\n", error.message);
        return error.code == UMBRA_ERROR_NO_KVM ? 77 : 1;
    }
    return 0;
}
