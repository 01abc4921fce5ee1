/* SPDX-License-Identifier: MIT */
/*
 * What the files of the event loop share.
 *
 * Locks: a source's lock (a device's) first, then loop->mutex, which is a leaf. The loop's
 * thread never waits for a source's lock without looking whether the source has been
 * removed meanwhile, since the remover may be holding that lock and waiting for us.
 */
#ifndef LOOP_PARTS_H
#define LOOP_PARTS_H

#include <liburing.h>

#include "loop/loop.h"

/* What a watch and a timer have in common: a callback under a lock, and its end. */
struct loop_source {
    struct loop *loop;
    pthread_mutex_t *lock; /* NULL: none */
    void *context;
    /* All below under loop->mutex. */
    bool running;   /* the loop's thread is in, or on its way into, the callback */
    bool removed;   /* the callback may not begin any more */
    bool abandoned; /* the remover has gone: the loop's thread may free it */
};

struct loop_watch {
    struct loop_source source;
    loop_fd_fn fn;
    int fd;
    /* All below under loop->mutex. */
    uint32_t wanted; /* 0: muted */
    uint32_t armed;  /* events of the poll in flight */
    bool in_flight, cancelling;
    struct loop_watch *next, **link; /* in loop->watches */
};

struct loop_timer {
    struct loop_source source;
    loop_fn fn;
    /* All below under loop->mutex. */
    bool armed;
    uint64_t deadline;
    uint64_t pass;                   /* the loop's pass that last looked at it */
    struct loop_timer *next, **link; /* in loop->timers */
};

struct loop_call {
    loop_fn fn;
    void *context;
    struct loop_call *next;
};

struct loop {
    const struct log *log;
    struct io_uring ring; /* of the loop's thread alone */
    uint64_t pass;        /* likewise */
    int wake_fd;
    struct loop_watch *wake_watch;

    pthread_mutex_t mutex;
    pthread_cond_t settled; /* a source stopped running, or a poll was let go */
    struct loop_watch *watches;
    bool dirty; /* some watch's poll does not fit what is wanted of it */
    struct loop_timer *timers;
    struct loop_call *calls, **calls_end;
    bool started, stopping;
    bool blocked;     /* the loop's thread waits for a source's lock */
    pthread_t thread; /* while started */
};

/* Is this the loop's thread? With loop->mutex held. */
bool loop_is_own_thread(const struct loop *loop);
void loop_wake(struct loop *loop);

/* Take the lock of a source that is marked running, or give up once it has been removed.
 * Without loop->mutex. */
bool source_lock(struct loop_source *source);
void source_unlock(struct loop_source *source);
/* Forbid the callback and wait for one that runs. With loop->mutex held; the source stays
 * until it is abandoned. */
void source_remove(struct loop_source *source);

/* A little later, on the clock of pthread_cond_timedwait(). */
void deadline_in(uint64_t ns, struct timespec *deadline);

/* The parts of the loop's own pass; on its thread. */
void watch_sync_all(struct loop *loop); /* loop->mutex held */
void watch_complete(struct loop_watch *watch, int result);
bool watch_cancel_all(struct loop *loop); /* any left? */
void loop_run_timers(struct loop *loop);

#endif
