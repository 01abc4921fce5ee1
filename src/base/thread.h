/* SPDX-License-Identifier: MIT */
/* Threads of the library's own. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>

/* Run @main(@context) on a new thread with every signal blocked: the embedder's signals are
 * for the embedder's threads. @name, cut off at 15 bytes, may be NULL. 0 or -errno. */
int thread_start(pthread_t *thread, const char *name, void *(*main)(void *),
                 void *context);

#endif
