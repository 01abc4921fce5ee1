/* SPDX-License-Identifier: MIT */
/* Starting and ending the virtiofsd that is installed, as root and as somebody else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "virtio/fs/virtiofsd.h"
#include "virtio/vhost/user.h"

static char folder[64];

static void print_log(void *context, enum umbra_log_level level, const char *line)
{
    (void)context;
    (void)level;
    print_message("%s\n", line);
}

static const struct log test_log = { .fn = print_log, .level = UMBRA_LOG_INFO };

/* Serve the folder twice and talk to it; the message of what failed, or NULL. */
static const char *serve(bool readonly, struct umbra_error *error)
{
    struct virtiofsd *daemon;
    int ret = virtiofsd_create("share0", folder, readonly, &test_log, &daemon, error);

    for (unsigned i = 0; ret == 0 && i < 2; i++) {
        struct vhost_user *vu;
        int fd;

        ret = virtiofsd_start(daemon, &fd, error);
        if (ret == 0) {
            ret = vhost_user_open(fd, "virtiofsd", 1, 5000, &vu, error);
            if (ret != 0) {
                virtiofsd_explain(daemon, error);
                virtiofsd_destroy(daemon);
                return error->message;
            }
            if ((vu->features & VIRTIO_FEATURE(32)) == 0) {
                return "no virtio 1.0";
            }
            vhost_user_close(vu); /* it ends by itself now */
        }
    }
    if (ret != 0) {
        return error->message;
    }
    virtiofsd_destroy(daemon);
    return NULL;
}

static void test_serve(void **state)
{
    struct umbra_error error;

    (void)state;
    for (unsigned readonly = 0; readonly < 2; readonly++) {
        const char *failure = serve(readonly, &error);

        if (failure != NULL) {
            print_message("SKIP: this host does not let virtiofsd have a sandbox: %s\n",
                          failure);
            skip();
        }
    }
    /* No child is left. */
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

/* The same without root: in a user namespace. */
static void test_rootless(void **state)
{
    pid_t child;
    int status;

    (void)state;
    if (geteuid() != 0) {
        skip(); /* that was test_serve */
    }
    assert_int_equal(chmod(folder, 0777), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct umbra_error error;
        const char *failure;

        if (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0) {
            _exit(2);
        }
        failure = serve(false, &error);
        if (failure == NULL) {
            failure = serve(true, &error);
        }
        if (failure != NULL) {
            print_message("without root: %s\n", failure);
        }
        _exit(failure != NULL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (status != 0) {
        print_message("SKIP: this host has no user namespaces for others than root\n");
        skip();
    }
}

static void test_refused(void **state)
{
    struct virtiofsd *daemon;
    struct umbra_error error;

    (void)state;
    assert_int_equal(
        virtiofsd_create("share0", "/nowhere", false, &test_log, &daemon, &error),
        -ENOENT);
    assert_non_null(strstr(error.message, "/nowhere"));
    assert_int_equal(
        virtiofsd_create("share0", "/etc/passwd", false, &test_log, &daemon, &error),
        -ENOTDIR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serve),
        cmocka_unit_test(test_rootless),
        cmocka_unit_test(test_refused),
    };
    int failed;

    if (access("/usr/libexec/virtiofsd", X_OK) != 0 &&
        access("/usr/lib/qemu/virtiofsd", X_OK) != 0) {
        print_message("SKIP: virtiofsd is not installed (scripts/deps test)\n");
        return 77;
    }
    strcpy(folder, "/tmp/umbra-fs-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
