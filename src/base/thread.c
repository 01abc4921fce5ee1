/* SPDX-License-Identifier: MIT */
/* Starting a thread that takes no signals. */
#include "base/thread.h"

#include <signal.h>
#include <stdio.h>

int thread_start(pthread_t *thread, const char *name, void *(*main)(void *),
                 void *context)
{
    sigset_t all, old;
    char text[16];
    int ret;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    ret = pthread_create(thread, NULL, main, context);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret == 0 && name != NULL) {
        snprintf(text, sizeof(text), "%s", name);
        pthread_setname_np(*thread, text);
    }
    return -ret;
}
