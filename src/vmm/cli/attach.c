/* SPDX-License-Identifier: MIT */
/* umbra console: the terminal on a console of a running VM. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <umbra/umbra.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/client.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"
#include "vmm/cli/term.h"

enum { CTRL_A = 1, INPUT_MAX = 1024 };

struct attach {
    struct client client;
    const char *name; /* the console's; NULL: by number */
    unsigned port;
    bool escaped;
};

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Parameters that name the console. */
static json_t *attach_params(const struct attach *attach)
{
    return attach->name != NULL ? json_pack("{s:s}", "name", attach->name)
                                : json_pack("{s:i}", "port", (int)attach->port);
}

/* Send typed bytes; base64 as RFC 4648, section 4. */
static bool attach_type(struct attach *attach, const unsigned char *bytes, size_t length)
{
    char text[(INPUT_MAX + 2) / 3 * 4 + 1];
    size_t used = 0;
    json_t *params;

    if (length == 0) {
        return true;
    }
    for (size_t i = 0; i < length; i += 3) {
        unsigned group = (unsigned)bytes[i] << 16 |
                         (i + 1 < length ? (unsigned)bytes[i + 1] << 8 : 0) |
                         (i + 2 < length ? bytes[i + 2] : 0u);

        for (unsigned n = 0; n < 4; n++) {
            text[used++] =
                i + n > length ? '=' : base64_digits[group >> (18 - 6 * n) & 63];
        }
    }
    text[used] = '\0';
    params = attach_params(attach);
    json_object_set_new(params, "data", json_string(text));
    return client_send(&attach->client, "console.send", params) >= 0;
}

/* Tell a virtio console the terminal's size; serial ports have none, and say so. */
static void attach_resize(struct attach *attach)
{
    struct winsize size;
    json_t *params;

    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 &&
        size.ws_row > 0) {
        params = attach_params(attach);
        json_object_set_new(params, "columns", json_integer(size.ws_col));
        json_object_set_new(params, "rows", json_integer(size.ws_row));
        client_send(&attach->client, "console.resize", params);
    }
}

static void attach_signal(struct attach *attach, int signals, bool *ends)
{
    struct signalfd_siginfo info;

    if (read(signals, &info, sizeof(info)) == sizeof(info) &&
        info.ssi_signo == SIGWINCH) {
        attach_resize(attach);
    } else {
        *ends = true;
    }
}

/* Print the bytes of a console.output message. */
static void attach_print(const json_t *message)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(message, "params"), "data"));
    unsigned group = 0, bits = 0;

    for (; text != NULL && *text != '\0' && *text != '='; text++) {
        const char *digit = strchr(base64_digits, *text);

        group = group << 6 | (unsigned)(digit != NULL ? digit - base64_digits : 0);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            putchar((int)(group >> bits & 0xff));
        }
    }
    fflush(stdout);
}

/* Bytes from the terminal; false: detach. */
static bool attach_input(struct attach *attach, bool terminal)
{
    unsigned char in[INPUT_MAX], out[INPUT_MAX];
    ssize_t n = read(STDIN_FILENO, in, sizeof(in));
    size_t used = 0;

    if (n <= 0) {
        return false;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (attach->escaped) {
            attach->escaped = false;
            if (in[i] == 'x') {
                return false;
            }
            out[used++] = in[i] == 'a' ? CTRL_A : in[i];
        } else if (terminal && in[i] == CTRL_A) {
            attach->escaped = true;
        } else {
            out[used++] = in[i];
        }
    }
    return attach_type(attach, out, used);
}

static void attach_loop(struct attach *attach, int signals, bool terminal)
{
    bool ended = false, readable = false;

    while (!ended) {
        struct pollfd fds[] = {
            { .fd = attach->client.fd, .events = POLLIN },
            { .fd = STDIN_FILENO, .events = POLLIN },
            { .fd = signals, .events = POLLIN },
        };
        json_t *message = client_poll(&attach->client, readable, &ended);

        readable = false;
        if (message != NULL) {
            attach_print(message);
            json_decref(message);
            continue;
        }
        if (ended || poll(fds, 3, -1) < 0) {
            continue;
        }
        if (fds[2].revents != 0) {
            attach_signal(attach, signals, &ended);
        }
        if (fds[1].revents != 0 && !attach_input(attach, terminal)) {
            return;
        }
        readable = fds[0].revents != 0;
    }
}

static int attach_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGWINCH);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

int command_console(int argc, char **argv)
{
    struct attach attach = { 0 };
    char why[2048];
    json_t *attached;
    int status, signals;
    bool terminal;

    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        puts(
            "Usage: umbra console NAME [CONSOLE]\n\n"
            "Put the terminal on a console of a running VM: a serial port by its number\n"
            "(0 by default), or a virtio console port by its name.\n"
            "Ctrl-A x detaches; Ctrl-A a sends Ctrl-A. The VM runs on.");
        return EXIT_STATUS_OK;
    }
    if (argc < 2 || argc > 3) {
        return cli_usage("console", "name the VM: umbra console NAME [CONSOLE]");
    }
    if (argc == 3) {
        char *end;

        attach.port = (unsigned)strtoul(argv[2], &end, 10);
        attach.name = *end != '\0' ? argv[2] : NULL;
    }
    status = client_open(&attach.client, "console", argv[1]);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    attached = client_call(&attach.client, "console.attach", attach_params(&attach), why,
                           sizeof(why));
    if (attached == NULL) {
        fprintf(stderr, "umbra console: %s: %s\n", argv[1], why);
        client_close(&attach.client);
        return EXIT_STATUS_INTERNAL;
    }
    json_decref(attached);
    signals = attach_signals();
    terminal = term_present() && term_open() == 0 && term_raw() == 0;
    if (terminal) {
        attach_resize(&attach);
    }
    attach_loop(&attach, signals, terminal);
    term_close();
    close(signals);
    client_close(&attach.client);
    return EXIT_STATUS_OK;
}
