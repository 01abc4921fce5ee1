/* SPDX-License-Identifier: MIT */
/*
 * The event loop of a VM: one thread over one io_uring, for descriptors, timers and calls
 * posted by other threads. Device callbacks run on it with the device's lock held.
 */
#ifndef LOOP_LOOP_H
#define LOOP_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "base/log.h"

struct loop;
struct loop_watch;
struct loop_timer;

int loop_create(const struct log *log, struct loop **loop, struct umbra_error *error);

/* Start and stop the thread. Between stop and start no callback runs (pause); events
 * wait. */
int loop_start(struct loop *loop, struct umbra_error *error);
void loop_stop(struct loop *loop);
void loop_destroy(struct loop *loop); /* stops it; watches and timers must be gone */

/* Is this the loop's own thread? */
bool loop_is_current(const struct loop *loop);

typedef void (*loop_fd_fn)(void *context,
                           uint32_t events); /* events: POLLIN, POLLOUT, ... */
typedef void (*loop_fn)(void *context);

/*
 * Call @fn whenever @fd polls ready for @events (level-triggered). @lock (may be NULL) is
 * held during the call. Any thread.
 */
int loop_watch_add(struct loop *loop, int fd, uint32_t events, pthread_mutex_t *lock,
                   loop_fd_fn fn, void *context, struct loop_watch **watch);
/* Change the events waited for; 0 mutes. Any thread. */
int loop_watch_set(struct loop_watch *watch, uint32_t events);
/*
 * After this returns @fn is not running and will not run again; @fd may be closed.
 * The caller may hold the watch's @lock or be the callback itself. NULL is fine.
 */
void loop_watch_remove(struct loop_watch *watch);

int loop_timer_create(struct loop *loop, pthread_mutex_t *lock, loop_fn fn, void *context,
                      struct loop_timer **timer);
/* One shot at @deadline_ns (CLOCK_MONOTONIC, base/util.h clock_ns()); re-arming replaces
 * it. */
void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns);
void loop_timer_disarm(struct loop_timer *timer);
/* As loop_watch_remove. */
void loop_timer_destroy(struct loop_timer *timer);

/* Run @fn on the loop's thread soon. Any thread, signal-safe not. */
int loop_post(struct loop *loop, loop_fn fn, void *context);

#endif
