/* SPDX-License-Identifier: MIT */
/* Running one guest: start, wait on terminal, signals and the VM, say how it ended. */
#include "vmm/cli/launch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cli/console_io.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/term.h"

enum {
    HANG_SECONDS = 20,     /* a stop or a release that takes longer has failed */
    LAST_OUTPUT_MS = 1000, /* for a reader of a stopped guest's output to go on reading */
};

struct launch {
    const struct launch_options *options;
    struct umbra_vm *vm;
    struct console_io console;
    int signal_fd;
    bool terminal;
    int stop_signal;     /* the first that asked for an end; 0: none */
    unsigned stop_asked; /* how often */
    bool hung_up;        /* the terminal has, and SIGHUP may still come */
    uint64_t grace_end;  /* when patience ends; 0: no limit */
};

const char launch_help[] =
    "Terminal: the guest has it in raw mode. Ctrl-C asks the guest to power off, a "
    "second\n"
    "one stops it at once. Ctrl-A begins a command to umbra:\n"
    "  Ctrl-A x  stop the guest and leave      Ctrl-A p  press the power button\n"
    "  Ctrl-A c  send Ctrl-C to the guest      Ctrl-A s  print statistics\n"
    "  Ctrl-A a  send Ctrl-A to the guest      Ctrl-A z  suspend umbra\n"
    "  Ctrl-A h  print these\n"
    "SIGINT, SIGTERM and SIGHUP do as Ctrl-C does. The terminal is put back in any "
    "case.\n";

bool launch_set_option(struct launch_options *options, const char *name,
                       const char *value)
{
    if (strcmp(name, "grace") == 0) {
        char *end;
        unsigned long seconds = strtoul(value, &end, 10);

        options->grace_ms = (unsigned)seconds * 1000;
        return value[0] >= '0' && value[0] <= '9' && *end == '\0' && seconds <= 86400;
    }
    if (strcmp(name, "ctrl-c") == 0) {
        options->guest_ctrl_c = strcmp(value, "guest") == 0;
        return options->guest_ctrl_c || strcmp(value, "stop") == 0;
    }
    if (strcmp(name, "verbose") == 0) {
        options->verbosity = options->verbosity < 1 ? 1 : 2;
        return true;
    }
    if (strcmp(name, "quiet") == 0) {
        options->verbosity = -1;
        return true;
    }
    return false;
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

__attribute__((format(printf, 2, 3))) static void say(const struct launch *launch,
                                                      const char *format, ...)
{
    char line[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    console_io_fresh_line(&launch->console);
    fprintf(stderr, "umbra %s: %s\n", launch->options->command, line);
}

static void log_to_stderr(void *context, enum umbra_log_level level, const char *line)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    const struct launch *launch = context;

    say(launch, "%s: %s", names[level], line);
}

/* ---- Stopping ---------------------------------------------------------------- */

/* Something that must not take long did: leave, with the terminal as it was. */
static void hang(int signal)
{
    static const char text[] = "umbra: the guest cannot be stopped; leaving\n";

    term_restore();
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        _exit(EXIT_STATUS_INTERNAL);
    }
    _exit(EXIT_STATUS_INTERNAL);
}

static void stop_now(struct launch *launch)
{
    char reason[64];

    snprintf(reason, sizeof(reason), "stopped by %s",
             launch->stop_signal == 0 ? "the launcher" : strsignal(launch->stop_signal));
    launch->grace_end = 0;
    console_io_stop(&launch->console);
    alarm(HANG_SECONDS);
    umbra_vm_stop(launch->vm, reason, NULL);
}

/* The first time ask the guest, the second time stop it, the third time just leave. */
static void stop_request(struct launch *launch, int signal, bool at_once)
{
    struct umbra_error error;

    launch->stop_asked++;
    if (launch->stop_signal == 0) {
        launch->stop_signal = signal;
    }
    if (launch->stop_asked > 2) {
        term_restore();
        _exit(EXIT_STATUS_SIGNAL + signal);
    }
    if (launch->stop_asked == 1 && !at_once && launch->options->grace_ms > 0 &&
        umbra_vm_power_button(launch->vm, &error) == 0) {
        launch->grace_end = now_ms() + launch->options->grace_ms;
        say(launch, "asked the guest to power off; it has %u s (Ctrl-C again: at once)",
            launch->options->grace_ms / 1000);
        return;
    }
    stop_now(launch);
}

/* SIGTSTP: the guest and the terminal rest until SIGCONT. */
static void suspend(struct launch *launch)
{
    bool paused;

    console_io_call(&launch->console, true);
    paused = umbra_vm_pause(launch->vm, NULL) == 0;
    console_io_call(&launch->console, false);
    term_restore();
    raise(SIGSTOP);
    if (launch->terminal && term_present()) {
        term_raw();
    }
    console_io_resized(&launch->console);
    if (paused) {
        umbra_vm_resume(launch->vm, NULL);
    }
}

static void print_stats(struct launch *launch)
{
    char *json;

    console_io_call(&launch->console, true);
    json = umbra_vm_stats_json(launch->vm);
    console_io_call(&launch->console, false);
    if (json != NULL) {
        console_io_fresh_line(&launch->console);
        fprintf(stderr, "%s\n", json);
    }
    free(json);
}

static void console_command(void *context, char key)
{
    struct launch *launch = context;
    struct umbra_error error;

    switch (key) {
    case CONSOLE_IO_CTRL_C:
        stop_request(launch, SIGINT, false);
        break;
    case 'x':
        stop_request(launch, SIGINT, true);
        break;
    case 'p':
        if (umbra_vm_power_button(launch->vm, &error) != 0) {
            say(launch, "%s", error.message);
        }
        break;
    case 's':
        print_stats(launch);
        break;
    case 'z':
        suspend(launch);
        break;
    default:
        console_io_fresh_line(&launch->console);
        fputs(launch_help, stderr);
        break;
    }
}

/* ---- The loop ---------------------------------------------------------------- */

static void take_signal(struct launch *launch)
{
    struct signalfd_siginfo info;

    if (read(launch->signal_fd, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (info.ssi_signo == SIGTSTP) {
        suspend(launch);
    } else if (info.ssi_signo == SIGWINCH) {
        console_io_resized(&launch->console);
    } else if (info.ssi_signo == SIGHUP && launch->hung_up) {
        launch->hung_up = false; /* this tells of the same */
    } else {
        stop_request(launch, (int)info.ssi_signo, false);
    }
}

static int poll_timeout(const struct launch *launch)
{
    int timeout = console_io_wait_ms(&launch->console);

    if (launch->grace_end != 0) {
        uint64_t now = now_ms();
        int left = now < launch->grace_end ? (int)(launch->grace_end - now) : 0;

        timeout = timeout < 0 || left < timeout ? left : timeout;
    }
    return timeout;
}

/* One turn of the loop; the VM's end is looked at if @vm_fd is not -1. */
static bool turn(struct launch *launch, int vm_fd, int timeout)
{
    struct pollfd fds[] = {
        { .fd = vm_fd, .events = POLLIN },
        { .fd = launch->signal_fd, .events = POLLIN },
        { .fd = launch->console.wake_fd, .events = POLLIN },
        { .fd = console_io_output_fd(&launch->console), .events = POLLOUT },
        { .fd = vm_fd >= 0 ? console_io_input_fd(&launch->console) : -1,
          .events = POLLIN },
    };

    if (poll(fds, sizeof(fds) / sizeof(fds[0]), timeout) < 0) {
        return false; /* EINTR: a debugger */
    }
    if (fds[1].revents != 0) {
        take_signal(launch);
    }
    if (fds[3].revents != 0) {
        console_io_drain(&launch->console);
    } else if (fds[2].revents != 0 && fds[3].fd < 0) {
        eventfd_t ignored;

        eventfd_read(launch->console.wake_fd, &ignored); /* the next turn polls stdout */
    }
    if (launch->console.broken && launch->stop_asked == 0) {
        stop_request(launch, SIGPIPE, true);
    }
    /* The kernel tells a closed terminal's session leader, who may keep it to himself. */
    if (launch->terminal && (fds[4].revents & POLLHUP) != 0 && launch->stop_asked == 0) {
        launch->hung_up = true;
        stop_request(launch, SIGHUP, false);
    }
    if (vm_fd >= 0) {
        console_io_pump(&launch->console, fds[4].revents != 0);
    }
    return (fds[0].revents & POLLIN) != 0;
}

static void wait_for_end(struct launch *launch)
{
    int vm_fd = umbra_vm_event_fd(launch->vm);
    uint64_t patience = 0;

    while (!turn(launch, vm_fd, poll_timeout(launch))) {
        if (launch->grace_end != 0 && now_ms() >= launch->grace_end) {
            say(launch, "the guest did not power off in time");
            stop_now(launch);
        }
    }
    launch->grace_end = 0;
    /* What it said last; a slow reader gets all of it unless the user wants out. */
    while (console_io_output_fd(&launch->console) >= 0) {
        if (launch->stop_asked > 0 && patience == 0) {
            patience = now_ms() + LAST_OUTPUT_MS;
        }
        if (patience != 0 && now_ms() >= patience) {
            break;
        }
        turn(launch, -1, 100);
    }
}

/* ---- The end ----------------------------------------------------------------- */

/* Indented, so that it is told from our own lines. */
static void print_block(const char *title, const char *text)
{
    fprintf(stderr, "%s:\n", title);
    while (*text != '\0') {
        size_t length = strcspn(text, "\r\n");

        fprintf(stderr, "  | %.*s\n", (int)length, text);
        text += length;
        text += strspn(text, "\r");
        text += *text == '\n';
    }
}

static void write_stats(const struct launch *launch, const struct umbra_config *config)
{
    char *path = umbra_config_get(config, "stats");
    char *json = path != NULL ? umbra_vm_stats_json(launch->vm) : NULL;
    FILE *out = NULL;

    if (json != NULL) {
        out = strcmp(path, "-") == 0 ? stderr : fopen(path, "we");
    }
    if (path != NULL && (out == NULL || fprintf(out, "%s\n", json) < 0 ||
                         (out != stderr && fclose(out) != 0))) {
        say(launch, "cannot write the statistics to %s: %s", path, strerror(errno));
    }
    free(json);
    free(path);
}

static int tell_outcome(const struct launch *launch, const struct umbra_outcome *outcome)
{
    int status = exit_status_of_outcome(outcome, launch->stop_signal);

    if (outcome->kind == UMBRA_OUTCOME_POWEROFF && launch->options->verbosity < 0) {
        return status;
    }
    console_io_fresh_line(&launch->console);
    /* The reason comes last: it is what one looks for. */
    if (outcome->report[0] != '\0' &&
        (outcome->kind != UMBRA_OUTCOME_PANIC || launch->options->verbosity > 0)) {
        print_block("report", outcome->report);
    }
    if (outcome->kind == UMBRA_OUTCOME_PANIC && outcome->console_tail[0] != '\0') {
        print_block("the console's last lines", outcome->console_tail);
    }
    say(launch, "%s (after %.1f s; exit status %d)", outcome->reason,
        (double)outcome->run_ns / 1e9, status);
    return status;
}

/* A VM with a name is reachable by it. */
static int open_control(struct launch *launch, const struct umbra_config *config,
                        struct umbra_error *error)
{
    char *name = umbra_config_get(config, "name");
    char path[108];
    int rc = 0;

    if (name != NULL) {
        rc = umbra_control_path(name, path, sizeof(path), error);
        if (rc == 0) {
            rc = umbra_control_listen(launch->vm, path, error);
        }
    }
    free(name);
    return rc;
}

static int run(struct launch *launch, struct umbra_config *config)
{
    struct umbra_outcome *outcome = calloc(1, sizeof(*outcome));
    struct umbra_error error = { 0 };
    int status;

    if (outcome == NULL) {
        return EXIT_STATUS_INTERNAL;
    }
    outcome->size = sizeof(*outcome);
    if (umbra_vm_create(config, &launch->vm, &error) != 0 ||
        console_io_attach(&launch->console, launch->vm, config, &error) != 0 ||
        open_control(launch, config, &error) != 0 ||
        umbra_vm_start(launch->vm, &error) != 0) {
        term_restore();
        status = exit_status_fail(launch->options->command, &error);
        goto out;
    }
    wait_for_end(launch);
    if (umbra_vm_wait(launch->vm, -1, outcome, &error) != 0) {
        status = exit_status_fail(launch->options->command, &error);
        goto out;
    }
    term_restore();
    status = tell_outcome(launch, outcome);
    write_stats(launch, config);
out:
    alarm(HANG_SECONDS);
    umbra_vm_destroy(launch->vm);
    alarm(0);
    free(outcome);
    return status;
}

/* Signals are taken by the loop; threads that the library starts inherit the mask. */
static int open_signals(void)
{
    static const int caught[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH };
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++) {
        sigaddset(&set, caught[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, hang);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

int launch(struct umbra_config *config, const struct launch_options *options)
{
    static const enum umbra_log_level levels[] = { UMBRA_LOG_ERROR, UMBRA_LOG_WARNING,
                                                   UMBRA_LOG_INFO, UMBRA_LOG_DEBUG };
    struct launch launch = { .options = options };
    int status = EXIT_STATUS_INTERNAL, rc;

    rc =
        console_io_init(&launch.console, options->guest_ctrl_c, console_command, &launch);
    launch.signal_fd = open_signals();
    launch.terminal = console_io_wants_stdin(config) && term_present();
    if (launch.signal_fd < 0 || rc != 0) {
        perror("umbra: signalfd or eventfd");
        goto out;
    }
    if (launch.terminal) {
        if (term_open() != 0 || term_raw() != 0) {
            perror("umbra: the terminal");
            goto out;
        }
        launch.console.terminal = true;
    }
    umbra_config_set_log(config, log_to_stderr, &launch, levels[options->verbosity + 1]);
    status = run(&launch, config);
out:
    term_close();
    console_io_fini(&launch.console);
    if (launch.signal_fd >= 0) {
        close(launch.signal_fd);
    }
    return status;
}
