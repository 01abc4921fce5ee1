/* SPDX-License-Identifier: MIT */
/* Starting virtiofsd for a shared folder, hearing its complaints, ending it. */
#include "virtio/fs/virtiofsd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"

extern char **environ;

enum {
    DAEMON_FD = 3,        /* where it finds its listening socket */
    DAEMON_END_MS = 2000, /* how long it may take to end by itself */
    DAEMON_TEXT_MAX = 1024,
    DAEMON_ARGS_MAX = 24,
};

struct virtiofsd {
    char id[32];
    char *path, *program;
    bool readonly;
    bool modern;  /* the one in Rust, whose options are others */
    bool relaxed; /* only a changed root for a sandbox */
    bool failed;  /* it ended with an error before it answered */
    const struct log *log;
    pid_t pid; /* 0: none */
    int pid_fd;
    int output;                 /* its standard error */
    char text[DAEMON_TEXT_MAX]; /* an unfinished line */
    size_t text_size;
    char last[256]; /* the last complaint */
};

/* ---- Which one --------------------------------------------------------------------------- */

static int daemon_find(struct virtiofsd *daemon, struct umbra_error *error)
{
    static const struct {
        const char *path;
        bool modern;
    } places[] = { { "/usr/libexec/virtiofsd", true },
                   { "/usr/lib/virtiofsd", true },
                   { "/usr/lib/qemu/virtiofsd", false },
                   { "/usr/lib/qemu-kvm/virtiofsd", false } };

    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        if (access(places[i].path, X_OK) == 0) {
            daemon->program = strdup(places[i].path);
            daemon->modern = places[i].modern;
            return daemon->program != NULL
                       ? 0
                       : error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "virtiofsd");
        }
    }
    return error_set(error, UMBRA_ERROR_MISSING, ENOENT,
                     "share %s: there is no virtiofsd in /usr/libexec or /usr/lib/qemu "
                     "(apt-get install virtiofsd, or qemu-system-common on Debian 12; or "
                     "start one elsewhere and give its \"socket\")",
                     daemon->path);
}

/* ---- Its words ----------------------------------------------------------------------------- */

static void daemon_line(struct virtiofsd *daemon, const char *line)
{
    if (line[0] == '\0' || strstr(line, "Waiting for vhost-user socket") != NULL) {
        return;
    }
    snprintf(daemon->last, sizeof(daemon->last), "%s", line);
    log_info(daemon->log, "%s: virtiofsd: %s", daemon->id, line);
}

int virtiofsd_output_fd(const struct virtiofsd *daemon)
{
    return daemon->output;
}

void virtiofsd_output(struct virtiofsd *daemon)
{
    char *start = daemon->text, *end;
    ssize_t got;

    if (daemon->output < 0) {
        return;
    }
    got = read(daemon->output, daemon->text + daemon->text_size,
               sizeof(daemon->text) - 1 - daemon->text_size);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        close(daemon->output);
        daemon->output = -1;
        got = 0;
    }
    daemon->text_size += (size_t)got;
    daemon->text[daemon->text_size] = '\0';
    while ((end = strchr(start, '\n')) != NULL) {
        *end = '\0';
        daemon_line(daemon, start);
        start = end + 1;
    }
    daemon->text_size -= (size_t)(start - daemon->text);
    memmove(daemon->text, start, daemon->text_size + 1);
    if (daemon->output < 0 || daemon->text_size == sizeof(daemon->text) - 1) {
        daemon_line(daemon, daemon->text);
        daemon->text_size = 0;
        daemon->text[0] = '\0';
    }
}

/* ---- Its end --------------------------------------------------------------------------------- */

/* Wait for it, then make it. Returns waitpid's status, or -1 when it is not known. */
static int daemon_reap(struct virtiofsd *daemon, int patience_ms)
{
    struct pollfd ended = { .fd = daemon->pid_fd, .events = POLLIN };
    int status = -1;

    if (daemon->pid == 0) {
        return -1;
    }
    if (daemon->pid_fd < 0 || poll(&ended, 1, patience_ms) != 1) {
        kill(daemon->pid, SIGKILL);
    }
    while (waitpid(daemon->pid, &status, 0) < 0 && errno == EINTR) {
    }
    daemon->pid = 0;
    if (daemon->pid_fd >= 0) {
        close(daemon->pid_fd);
    }
    daemon->pid_fd = -1;
    return status;
}

static void daemon_end(struct virtiofsd *daemon)
{
    daemon_reap(daemon, DAEMON_END_MS);
    if (daemon->output >= 0) {
        virtiofsd_output(daemon);
    }
    if (daemon->output >= 0) {
        close(daemon->output);
        daemon->output = -1;
    }
}

void virtiofsd_explain(struct virtiofsd *daemon, struct umbra_error *error)
{
    int status = daemon_reap(daemon, DAEMON_END_MS);

    for (int i = 0; i < 8 && daemon->output >= 0; i++) {
        virtiofsd_output(daemon);
    }
    daemon->failed = status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) != 0;
    if (daemon->failed) {
        error_set(error, UMBRA_ERROR_CONFIG, EIO, "share %s: %s ended with status %d%s%s",
                  daemon->path, daemon->program, WEXITSTATUS(status),
                  daemon->last[0] != '\0' ? ": " : "", daemon->last);
    } else if (daemon->last[0] != '\0') {
        error_prefix(error, "share %s: %s says \"%s\"", daemon->path, daemon->program,
                     daemon->last);
    }
}

/*
 * Namespaces are not to be had in many containers, nor from an initramfs. Root can do with
 * less; who is not root has no business without.
 */
bool virtiofsd_relax(struct virtiofsd *daemon, const struct umbra_error *error)
{
    if (daemon->relaxed || !daemon->failed || geteuid() != 0) {
        return false;
    }
    daemon->relaxed = true;
    log_warning(daemon->log, "%s: %s; trying with chroot instead of namespaces",
                daemon->id, error->message);
    return true;
}

/* ---- Its start -------------------------------------------------------------------------------- */

/* A listening socket and a connection that waits there, of which no name remains. */
static int daemon_sockets(int *listener, int *fd)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char folder[] = "/tmp/umbra-share-XXXXXX";
    int ret = 0;

    *listener = *fd = -1;
    if (mkdtemp(folder) == NULL) { /* nobody else gets in first */
        return -errno;
    }
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", folder);
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*listener < 0 || *fd < 0 ||
        bind(*listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(*listener, 1) != 0 ||
        connect(*fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        ret = -errno;
        if (*listener >= 0) {
            close(*listener);
        }
        if (*fd >= 0) {
            close(*fd);
        }
    }
    unlink(address.sun_path);
    rmdir(folder);
    return ret;
}

struct daemon_args {
    const char *args[DAEMON_ARGS_MAX];
    unsigned count;
    char source[2 * 4096], fd[16];
};

static void add(struct daemon_args *a, const char *arg)
{
    a->args[a->count++] = arg;
}

/* "source=PATH" with what means something to the option's parser escaped. */
static void add_source(struct daemon_args *a, const char *path)
{
    size_t at = (size_t)snprintf(a->source, sizeof(a->source), "source=");

    for (; *path != '\0' && at + 3 < sizeof(a->source); path++) {
        if (*path == ',' || *path == '\\') {
            a->source[at++] = '\\';
        }
        a->source[at++] = *path;
    }
    a->source[at] = '\0';
    add(a, a->source);
}

/*
 * Without root it runs as root of a user namespace, where its own sandbox can be set up
 * and the guest's files are the user's. Read-only: as a read-only view of the folder in a
 * mount namespace, whichever virtiofsd it is.
 */
static void daemon_arguments(const struct virtiofsd *daemon, struct daemon_args *a)
{
    bool root = geteuid() == 0;

    if (!root || daemon->readonly) {
        add(a, "unshare");
        if (!root) {
            add(a, "-r");
        }
        if (daemon->readonly) {
            add(a, "-m");
        }
    }
    if (daemon->readonly) {
        add(a, "sh");
        add(a, "-c");
        add(a, "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec "
               "\"$@\"");
        add(a, daemon->path);
    }
    add(a, daemon->program);
    snprintf(a->fd, sizeof(a->fd), "--fd=%d", DAEMON_FD);
    add(a, a->fd);
    if (daemon->modern) {
        add(a, "--shared-dir");
        add(a, daemon->path);
        add(a, daemon->relaxed ? "--sandbox=chroot" : "--sandbox=namespace");
        add(a, "--xattr");
        add(a, "--log-level=warn");
    } else {
        add(a, "-o");
        add_source(a, daemon->path);
        add(a, "-o");
        add(a, daemon->relaxed ? "sandbox=chroot,xattr" : "sandbox=namespace,xattr");
        add(a, "-o");
        add(a, "log_level=warn");
    }
    add(a, NULL);
}

static int daemon_spawn(struct virtiofsd *daemon, int listener, int output)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    struct daemon_args *arguments = calloc(1, sizeof(*arguments));
    sigset_t none, all;
    int ret;

    if (arguments == NULL) {
        return -ENOMEM;
    }
    daemon_arguments(daemon, arguments);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    /* A group of its own: a Ctrl-C at our terminal is for us. */
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                              POSIX_SPAWN_SETPGROUP);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&actions, listener, DAEMON_FD);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&actions, DAEMON_FD + 1);
    ret = posix_spawnp(&daemon->pid, arguments->args[0], &actions, &attributes,
                       (char *const *)(uintptr_t)arguments->args, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    free(arguments);
    if (ret != 0) {
        daemon->pid = 0;
        return -ret;
    }
    daemon->pid_fd = (int)syscall(SYS_pidfd_open, daemon->pid, 0);
    return 0;
}

int virtiofsd_start(struct virtiofsd *daemon, int *fd, struct umbra_error *error)
{
    int listener, high = -1, pipes[2] = { -1, -1 };
    int ret;

    daemon_end(daemon);
    daemon->last[0] = '\0';
    daemon->failed = false;
    ret = daemon_sockets(&listener, fd);
    if (ret == 0) {
        /* Above the descriptors that the child's are moved to. */
        high = fcntl(listener, F_DUPFD_CLOEXEC, DAEMON_FD + 2);
        close(listener);
        ret = high < 0 || pipe2(pipes, O_CLOEXEC) != 0 ? -errno : 0;
        if (ret == 0) {
            ret = daemon_spawn(daemon, high, pipes[1]);
        }
        if (ret != 0) {
            close(*fd);
        }
    }
    if (high >= 0) {
        close(high);
    }
    if (pipes[1] >= 0) {
        close(pipes[1]);
    }
    if (ret != 0) {
        if (pipes[0] >= 0) {
            close(pipes[0]);
        }
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "share %s: start %s",
                           daemon->path, daemon->program);
    }
    fcntl(pipes[0], F_SETFL, O_NONBLOCK);
    daemon->output = pipes[0];
    return 0;
}

int virtiofsd_create(const char *id, const char *path, bool readonly,
                     const struct log *log, struct virtiofsd **out,
                     struct umbra_error *error)
{
    struct virtiofsd *daemon = calloc(1, sizeof(*daemon));
    struct stat info;
    int ret = -ENOMEM;

    if (daemon != NULL) {
        daemon->pid_fd = daemon->output = -1;
        daemon->readonly = readonly;
        daemon->log = log;
        snprintf(daemon->id, sizeof(daemon->id), "%s", id);
        daemon->path = realpath(path, NULL);
        ret = daemon->path == NULL ? -errno : stat(daemon->path, &info) != 0 ? -errno : 0;
    }
    if (ret == 0 && !S_ISDIR(info.st_mode)) {
        ret = -ENOTDIR;
    }
    if (ret != 0) {
        virtiofsd_destroy(daemon);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "share the folder %s",
                           path);
    }
    ret = daemon_find(daemon, error);
    if (ret != 0) {
        virtiofsd_destroy(daemon);
        return ret;
    }
    *out = daemon;
    return 0;
}

void virtiofsd_destroy(struct virtiofsd *daemon)
{
    if (daemon == NULL) {
        return;
    }
    daemon_end(daemon);
    free(daemon->path);
    free(daemon->program);
    free(daemon);
}
