/* SPDX-License-Identifier: MIT */
/* Start a command and time it, from just before its exec, until its standard output shows a
 * marker; optionally say what memory it holds then. Prints "NANOSECONDS PSS_KIB". */
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The process's PSS in KiB without guest RAM: without the mappings of at least half of
 * @ram_kib that are readable and writable. */
static unsigned long pss_without_ram(pid_t pid, unsigned long ram_kib)
{
    char path[64], line[512], mode[8] = "";
    unsigned long start, end, kib, size = 0, total = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
    file = fopen(path, "r");
    if (!file) {
        err(70, "%s", path);
    }
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%lx-%lx %7s", &start, &end, mode) == 3) {
            size = (end - start) / 1024;
        } else if (sscanf(line, "Pss: %lu kB", &kib) == 1 &&
                   !(size >= ram_kib / 2 && mode[0] == 'r' && mode[1] == 'w')) {
            total += kib;
        }
    }
    fclose(file);
    return total;
}

static pid_t spawn(char **argv, int *output)
{
    int pipe_fds[2];
    pid_t pid;

    if (pipe(pipe_fds) != 0) {
        err(70, "pipe");
    }
    pid = fork();
    if (pid < 0) {
        err(70, "fork");
    }
    if (pid == 0) {
        dup2(pipe_fds[1], 1);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        execvp(argv[0], argv);
        err(127, "%s", argv[0]);
    }
    close(pipe_fds[1]);
    *output = pipe_fds[0];
    return pid;
}

int main(int argc, char **argv)
{
    static char seen[1 << 20];
    size_t length = 0;
    uint64_t started, took;
    unsigned long pss = 0;
    int output, option;
    const char *marker = "S";
    unsigned long ram_kib = 0;
    pid_t pid;

    while ((option = getopt(argc, argv, "+m:r:")) != -1) {
        if (option == 'm') {
            marker = optarg;
        } else if (option == 'r') {
            ram_kib = strtoul(optarg, NULL, 0) * 1024;
        } else {
            errx(64, "usage: until_marker [-m MARKER] [-r RAM_MIB] COMMAND...");
        }
    }
    if (optind == argc) {
        errx(64, "no command");
    }
    started = now_ns();
    pid = spawn(argv + optind, &output);
    do {
        ssize_t n = read(output, seen + length, sizeof(seen) - 1 - length);

        if (n <= 0) {
            kill(pid, SIGKILL);
            fprintf(stderr, "%s", seen);
            errx(1, "%s ended without the marker", argv[optind]);
        }
        length += (size_t)n;
        seen[length] = '\0';
    } while (!strstr(seen, marker));
    took = now_ns() - started;
    if (ram_kib > 0) {
        pss = pss_without_ram(pid, ram_kib);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    printf("%llu %lu\n", (unsigned long long)took, pss);
    return 0;
}
