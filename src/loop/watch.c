/* SPDX-License-Identifier: MIT */
/*
 * Descriptors of the event loop: one-shot polls, re-armed after each callback, which makes
 * watching level-triggered. Only the loop's thread submits them; other threads change what
 * is wanted under loop->mutex, say so in loop->dirty and wake it.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "base/util.h"
#include "loop/parts.h"

enum { WATCH_RELEASE_NS = 100000000 }; /* how long the kernel may hold on to a file */

/* Free it when nothing refers to it any more. With loop->mutex held. */
static void watch_release(struct loop_watch *watch)
{
    if (!watch->source.abandoned || watch->source.running || watch->in_flight) {
        return;
    }
    *watch->link = watch->next;
    if (watch->next != NULL) {
        watch->next->link = watch->link;
    }
    free(watch);
}

int loop_watch_add(struct loop *loop, int fd, uint32_t events, pthread_mutex_t *lock,
                   loop_fd_fn fn, void *context, struct loop_watch **watch)
{
    struct loop_watch *new = calloc(1, sizeof(*new));

    if (new == NULL) {
        return -ENOMEM;
    }
    new->source = (struct loop_source){ .loop = loop, .lock = lock, .context = context };
    new->fn = fn;
    new->fd = fd;
    new->wanted = events;
    pthread_mutex_lock(&loop->mutex);
    new->next = loop->watches;
    new->link = &loop->watches;
    if (new->next != NULL) {
        new->next->link = &new->next;
    }
    loop->watches = new;
    loop->dirty = true;
    *watch = new; /* before the callback can run */
    pthread_mutex_unlock(&loop->mutex);
    loop_wake(loop);
    return 0;
}

int loop_watch_set(struct loop_watch *watch, uint32_t events)
{
    struct loop *loop = watch->source.loop;
    bool wake = false;

    pthread_mutex_lock(&loop->mutex);
    if (watch->wanted != events) {
        watch->wanted = events;
        loop->dirty = true;
        wake = !loop_is_own_thread(loop);
    }
    pthread_mutex_unlock(&loop->mutex);
    if (wake) {
        loop_wake(loop);
    }
    return 0;
}

void loop_watch_remove(struct loop_watch *watch)
{
    struct timespec deadline;
    struct loop *loop;

    if (watch == NULL) {
        return;
    }
    loop = watch->source.loop;
    pthread_mutex_lock(&loop->mutex);
    watch->wanted = 0;
    loop->dirty = true;
    if (watch->in_flight && !loop_is_own_thread(loop)) {
        loop_wake(loop);
    }
    source_remove(&watch->source);
    /*
     * The poll in flight holds the file open, though not the descriptor. Wait for it, so
     * that closing the descriptor closes the file; but neither for long nor while the
     * loop's thread itself waits for a lock, which our caller may be holding.
     */
    deadline_in(WATCH_RELEASE_NS, &deadline);
    while (watch->in_flight && loop->started && !loop->blocked &&
           !loop_is_own_thread(loop)) {
        if (pthread_cond_timedwait(&loop->settled, &loop->mutex, &deadline) != 0) {
            break;
        }
    }
    watch->source.abandoned = true;
    watch_release(watch);
    pthread_mutex_unlock(&loop->mutex);
}

/* Loop's thread, loop->mutex held. NULL: the kernel takes none now, try again later. */
static struct io_uring_sqe *loop_sqe(struct loop *loop)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

    if (sqe == NULL) {
        io_uring_submit(&loop->ring);
        sqe = io_uring_get_sqe(&loop->ring);
    }
    if (sqe == NULL) {
        loop->dirty = true;
    }
    return sqe;
}

static void watch_cancel(struct loop_watch *watch)
{
    struct io_uring_sqe *sqe = watch->cancelling ? NULL : loop_sqe(watch->source.loop);

    if (sqe != NULL) {
        io_uring_prep_poll_remove(sqe, (uint64_t)(uintptr_t)watch);
        io_uring_sqe_set_data(sqe, NULL);
        watch->cancelling = true;
    }
}

/* Make the poll in flight fit what is wanted. Loop's thread, loop->mutex held; the watch
 * may be gone afterwards. */
static void watch_sync(struct loop_watch *watch)
{
    struct io_uring_sqe *sqe;

    if (watch->in_flight) {
        if (watch->source.removed || watch->wanted != watch->armed) {
            watch_cancel(watch);
        }
        return;
    }
    if (watch->source.removed) {
        watch_release(watch);
        return;
    }
    if (watch->wanted == 0 || watch->source.running) {
        return;
    }
    sqe = loop_sqe(watch->source.loop);
    if (sqe != NULL) {
        io_uring_prep_poll_add(sqe, watch->fd, watch->wanted);
        io_uring_sqe_set_data(sqe, watch);
        watch->armed = watch->wanted;
        watch->in_flight = true;
    }
}

/* What of @events its owner wants to hear, now; 0: nothing. With loop->mutex held. */
static uint32_t watch_wants(const struct loop_watch *watch, uint32_t events)
{
    if (watch->source.removed || watch->wanted == 0) {
        return 0;
    }
    return events & (watch->wanted | POLLERR | POLLHUP | POLLNVAL);
}

static void watch_call(struct loop_watch *watch, uint32_t events)
{
    struct loop *loop = watch->source.loop;

    if (!source_lock(&watch->source)) {
        return;
    }
    /* Whoever held the lock may have muted or removed it while we waited. */
    pthread_mutex_lock(&loop->mutex);
    events = watch_wants(watch, events);
    pthread_mutex_unlock(&loop->mutex);
    if (events != 0) {
        watch->fn(watch->source.context, events);
    }
    source_unlock(&watch->source);
}

void watch_complete(struct loop_watch *watch, int result)
{
    struct loop *loop = watch->source.loop;
    uint32_t events = result > 0 ? (uint32_t)result : 0;

    pthread_mutex_lock(&loop->mutex);
    /* A poll that was not submitted yet when its descriptor went means nothing. */
    if (result < 0 && result != -ECANCELED && !watch->source.removed) {
        log_warning(loop->log, "event loop: cannot wait for descriptor %d: %s", watch->fd,
                    strerror(-result));
        events = POLLNVAL;
    }
    watch->in_flight = false;
    watch->cancelling = false;
    pthread_cond_broadcast(&loop->settled);
    events = loop->stopping ? 0 : watch_wants(watch, events);
    if (events != 0) {
        watch->source.running = true;
        pthread_mutex_unlock(&loop->mutex);
        watch_call(watch, events);
        pthread_mutex_lock(&loop->mutex);
        watch->source.running = false;
        if ((events & POLLNVAL) != 0) {
            watch->wanted = 0; /* it would only fail again */
        }
        pthread_cond_broadcast(&loop->settled);
    }
    if (!loop->stopping) {
        watch_sync(watch);
    } else {
        watch_release(watch);
    }
    pthread_mutex_unlock(&loop->mutex);
}

void watch_sync_all(struct loop *loop)
{
    struct loop_watch *watch, *next;

    for (watch = loop->watches; watch != NULL; watch = next) {
        next = watch->next;
        watch_sync(watch);
    }
}

bool watch_cancel_all(struct loop *loop)
{
    bool any = false;

    pthread_mutex_lock(&loop->mutex);
    for (struct loop_watch *watch = loop->watches; watch != NULL; watch = watch->next) {
        if (watch->in_flight) {
            watch_cancel(watch);
            any = true;
        }
    }
    loop->dirty = true;
    pthread_mutex_unlock(&loop->mutex);
    return any;
}
