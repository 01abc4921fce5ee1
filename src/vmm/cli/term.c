/* SPDX-License-Identifier: MIT */
/* The launcher's terminal. */
#include "vmm/cli/term.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static struct {
    struct termios saved, raw;
    volatile sig_atomic_t is_raw;
    int guard_fd; /* the guard lives until this end of its pipe is closed */
    pid_t guard;
} term = { .guard_fd = -1 };

static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };

bool term_present(void)
{
    return isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) == getpgrp();
}

void term_restore(void)
{
    int saved_errno = errno;

    if (term.is_raw) {
        tcsetattr(STDIN_FILENO, TCSANOW, &term.saved);
        term.is_raw = 0;
    }
    errno = saved_errno;
}

/* The handler is one-shot: the signal comes again and does its work. */
static void crash(int signal)
{
    term_restore();
    raise(signal);
}

/*
 * The guard: a session of its own, so that neither the terminal's signals nor its job
 * control reach it. When its pipe ends it puts the terminal back, but only if that is
 * still as we made it: somebody else may have it by then.
 */
static void __attribute__((noreturn)) guard_run(int fd)
{
    struct termios now;
    ssize_t n;
    char byte;

    setsid();
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    close_range(STDERR_FILENO + 1, ~0u, 0);
    do {
        n = read(STDOUT_FILENO, &byte, 1);
    } while (n > 0 || (n < 0 && errno == EINTR));
    if (tcgetattr(STDIN_FILENO, &now) == 0 && now.c_lflag == term.raw.c_lflag &&
        now.c_iflag == term.raw.c_iflag) {
        tcsetattr(STDIN_FILENO, TCSANOW, &term.saved);
    }
    _exit(0);
}

static int guard_start(void)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0) {
        return -errno;
    }
    term.guard = fork();
    if (term.guard < 0) {
        int error = errno;

        close(ends[0]);
        close(ends[1]);
        return -error;
    }
    if (term.guard == 0) {
        guard_run(ends[0]);
    }
    close(ends[0]);
    term.guard_fd = ends[1];
    return 0;
}

int term_open(void)
{
    static char stack[16384];
    const stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
    struct sigaction action = { .sa_handler = crash,
                                .sa_flags =
                                    (int)(SA_RESETHAND | SA_ONSTACK | SA_NODEFER) };

    if (tcgetattr(STDIN_FILENO, &term.saved) != 0) {
        return -errno;
    }
    term.raw = term.saved;
    term.raw.c_iflag &=
        ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    term.raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    term.raw.c_cc[VMIN] = 1;
    term.raw.c_cc[VTIME] = 0;
    sigaltstack(&alternate, NULL);
    for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++) {
        sigaction(crashes[i], &action, NULL);
    }
    return guard_start();
}

int term_raw(void)
{
    if (!term.is_raw) {
        /* First the mark: a signal between the two puts back what was not yet changed. */
        term.is_raw = 1;
        if (tcsetattr(STDIN_FILENO, TCSANOW, &term.raw) != 0) {
            term.is_raw = 0;
            return -errno;
        }
    }
    return 0;
}

void term_close(void)
{
    term_restore();
    if (term.guard_fd >= 0) {
        close(term.guard_fd);
        term.guard_fd = -1;
        waitpid(term.guard, NULL, 0);
    }
}
