/* SPDX-License-Identifier: MIT */
/*
 * An embedder that talks to a stock kernel: logs in on a virtio console, works in its shell,
 * and meets a program of the guest's through its sockets, both ways. session KERNEL INITRD
 * [TRANSPORT [RING]]
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <umbra/umbra.h>

static struct umbra_error error;

/* The call must return @expected. */
static void want(int ret, int expected, const char *what)
{
    if (ret != expected) {
        printf("FAILED: %s: %d: %s\n", what, ret, error.message);
        exit(1);
    }
    printf("good: %s\n", what);
    fflush(stdout);
}

#define WANT(call) want((call), 0, #call)

static const int64_t patience = 140000;

static void on_log(void *context, enum umbra_log_level level, const char *line)
{
    (void)context;
    printf("log %d: %s\n", (int)level, line);
}

static struct umbra_vm *create(char **argv, int argc)
{
    static const struct {
        const char *key, *value;
    } settings[] = {
        { "memory", "256M" },
        { "append",
          "console=ttyS0 quiet do=\"while :; do getty -L 0 hvc0 vt100; done\"" },
        { "console", "name=hvc0,end=none" },
        { "console", "name=org.umbra.agent,end=none" },
        { "vsock", "cid=42" },
    };
    struct umbra_config *config;
    struct umbra_vm *vm;

    WANT(umbra_config_new(&config));
    umbra_config_set_log(config, on_log, NULL, UMBRA_LOG_WARNING);
    WANT(umbra_config_set(config, "kernel", argv[1], &error));
    WANT(umbra_config_set(config, "initrd", argv[2], &error));
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        WANT(umbra_config_set(config, settings[i].key, settings[i].value, &error));
    }
    WANT(
        umbra_config_set(config, "virtio_transport", argc > 3 ? argv[3] : "pci", &error));
    WANT(umbra_config_set(config, "virtio_ring", argc > 4 ? argv[4] : "packed", &error));
    WANT(umbra_vm_create(config, &vm, &error));
    umbra_config_free(config);
    return vm;
}

static void type(struct umbra_vm *vm, unsigned port, const char *text)
{
    want(umbra_console_send(vm, port, text, strlen(text)), 0, text);
}

/* A command of the shell's; its output must match @regex. */
static void shell(struct umbra_vm *vm, unsigned port, const char *command,
                  const char *regex)
{
    struct umbra_match match;

    type(vm, port, command);
    want(umbra_console_expect(vm, port, regex, UMBRA_EXPECT_REGEX, patience, &match,
                              &error),
         0, regex);
    WANT(umbra_console_expect(vm, port, "# ", 0, patience, NULL, &error));
}

static void sockets(struct umbra_vm *vm, unsigned port)
{
    struct umbra_stream *stream;
    int fd;

    shell(vm, port, "vsock_peer vsock-listen:5000 echo & sleep 1\n", "^listening");
    WANT(umbra_vsock_connect(vm, 5000, patience, &fd, &error));
    WANT(umbra_stream_open(vm, fd, &stream, &error));
    WANT(umbra_stream_send(stream, "there and back\n", 15, patience, &error));
    WANT(umbra_stream_expect(stream, "^there.*back$", UMBRA_EXPECT_REGEX, patience, NULL,
                             &error));
    umbra_stream_close(stream);
    want(umbra_vsock_connect(vm, 5001, patience, &fd, &error), -111, "nobody at 5001");

    WANT(umbra_vsock_listen(vm, 1234, &error));
    type(vm, port, "vsock_peer vsock:2:1234 echo; echo peer ended with $?\n");
    WANT(umbra_vsock_accept(vm, 1234, patience, &fd, &error));
    WANT(umbra_stream_open(vm, fd, &stream, &error));
    WANT(umbra_stream_send(stream, "version\n", 8, patience, &error));
    WANT(umbra_stream_expect(stream, "version\n", 0, patience, NULL, &error));
    umbra_stream_close(stream);
    WANT(umbra_console_expect(vm, port, "peer ended with 0", 0, patience, NULL, &error));
    WANT(umbra_console_expect(vm, port, "# ", 0, patience, NULL, &error));
}

int main(int argc, char **argv)
{
    static struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_vm *vm = create(argv, argc);
    unsigned hvc, agent;

    WANT(umbra_console_find(vm, "hvc0", &hvc, &error));
    WANT(umbra_console_find(vm, "org.umbra.agent", &agent, &error));
    WANT(umbra_vm_start(vm, &error));
    WANT(umbra_console_expect(vm, hvc, "login: ", 0, patience, NULL, &error));
    type(vm, hvc, "root\n");
    WANT(umbra_console_expect(vm, hvc, "# ", 0, patience, NULL, &error));
    shell(vm, hvc, "tty; echo $((6 * 7))\n", "^/dev/hvc0\r?\n42\r?\n");
    /* The plain channel, beside the console. */
    type(vm, hvc,
         "for p in /sys/class/virtio-ports/*; do grep -q org.umbra.agent $p/name && "
         "cat <>/dev/${p##*/} >&0 & done\n" /* it opens only once */);
    WANT(umbra_console_expect(vm, hvc, "# ", 0, patience, NULL, &error));
    type(vm, agent, "through the channel\n");
    WANT(umbra_console_expect(vm, agent, "^through the channel$", UMBRA_EXPECT_REGEX,
                              patience, NULL, &error));
    sockets(vm, hvc);
    want(umbra_console_expect(vm, hvc, "never printed", 0, 100, NULL, &error), -110,
         "a pattern that does not come");
    if (strstr(error.message, "peer ended with 0") == NULL) {
        printf("FAILED: the tail is not in: %s\n", error.message);
        return 1;
    }
    type(vm, hvc, "poweroff -f\n");
    WANT(umbra_vm_wait(vm, patience, &outcome, &error));
    printf("outcome: %s\n", outcome.reason);
    umbra_vm_destroy(vm);
    return outcome.kind == UMBRA_OUTCOME_POWEROFF ? 0 : 1;
}
