/* SPDX-License-Identifier: MIT */
/*
 * The event loop: one thread that alone touches the io_uring.
 *
 * A descriptor is waited for with one-shot polls, re-armed after each callback, which
 * makes watching level-triggered. Only the loop's thread submits, because the kernel ties
 * a request to the submitting thread: it would be cancelled with a vCPU thread's end, and
 * would interrupt KVM_RUN on completion. Other threads change what is wanted under
 * loop->mutex, say so in loop->dirty and signal an eventfd.
 *
 * Locks: a source's lock (a device's) first, then loop->mutex, which is a leaf. The
 * loop's thread never waits for a source's lock without looking whether the source has
 * been removed meanwhile, since the remover may be holding that lock and waiting for us.
 */
#include "devices/loop.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"

enum {
    LOOP_RING_ENTRIES = 256,
    LOOP_CQE_BATCH = 64,
    LOOP_LOCK_TRY_NS = 1000000,       /* between looks at `removed` */
    LOOP_RELEASE_WAIT_NS = 100000000, /* for the kernel to let go of a file */
};

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
    pthread_t thread; /* while started */
};

/* With loop->mutex held. */
static bool loop_is_own_thread(const struct loop *loop)
{
    return loop->started && pthread_equal(loop->thread, pthread_self());
}

bool loop_is_current(const struct loop *loop)
{
    struct loop *mutable = (struct loop *)(uintptr_t)loop; /* for its mutex */
    bool current;

    pthread_mutex_lock(&mutable->mutex);
    current = loop_is_own_thread(loop);
    pthread_mutex_unlock(&mutable->mutex);
    return current;
}

static void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t rc;

    do {
        rc = write(loop->wake_fd, &one, sizeof(one));
    } while (rc < 0 && errno == EINTR);
}

static void loop_woken(void *context, uint32_t events)
{
    struct loop *loop = context;
    uint64_t count;

    if (read(loop->wake_fd, &count, sizeof(count)) < 0) {
        return; /* EAGAIN: somebody's signal was taken together with another's */
    }
}

/* ---- Sources ---------------------------------------------------------------------- */

static void deadline_in(uint64_t ns, struct timespec *deadline)
{
    clock_gettime(CLOCK_REALTIME, deadline);
    ns += (uint64_t)deadline->tv_nsec;
    deadline->tv_sec += (time_t)(ns / 1000000000);
    deadline->tv_nsec = (long)(ns % 1000000000);
}

/* Take the lock of a source that is marked running, or give up once it has been removed.
 * Without loop->mutex. */
static bool source_lock(struct loop_source *source)
{
    struct loop *loop = source->loop;
    struct timespec deadline;
    bool removed;

    if (source->lock == NULL || pthread_mutex_trylock(source->lock) == 0) {
        return true;
    }
    for (;;) {
        deadline_in(LOOP_LOCK_TRY_NS, &deadline);
        if (pthread_mutex_timedlock(source->lock, &deadline) == 0) {
            return true;
        }
        pthread_mutex_lock(&loop->mutex);
        removed = source->removed;
        pthread_mutex_unlock(&loop->mutex);
        if (removed) {
            return false;
        }
    }
}

static void source_unlock(struct loop_source *source)
{
    if (source->lock != NULL) {
        pthread_mutex_unlock(source->lock);
    }
}

/* Forbid the callback and wait for one that runs. With loop->mutex held; the source stays
 * until it is abandoned. */
static void source_remove(struct loop_source *source)
{
    struct loop *loop = source->loop;

    source->removed = true;
    while (source->running && !loop_is_own_thread(loop)) {
        pthread_cond_wait(&loop->settled, &loop->mutex);
    }
}

/* ---- Watches ---------------------------------------------------------------------- */

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
     * that closing the descriptor closes the file; not for long, since the loop's thread
     * may be waiting for a lock that our caller holds.
     */
    deadline_in(LOOP_RELEASE_WAIT_NS, &deadline);
    while (watch->in_flight && loop->started && !loop_is_own_thread(loop)) {
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

static void watch_complete(struct loop_watch *watch, int result)
{
    struct loop *loop = watch->source.loop;
    uint32_t events = result > 0 ? (uint32_t)result : 0;

    if (result < 0 && result != -ECANCELED) {
        log_warning(loop->log, "event loop: cannot wait for descriptor %d: %s", watch->fd,
                    strerror(-result));
        events = POLLNVAL;
    }
    pthread_mutex_lock(&loop->mutex);
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

/* ---- Timers ----------------------------------------------------------------------- */

int loop_timer_create(struct loop *loop, pthread_mutex_t *lock, loop_fn fn, void *context,
                      struct loop_timer **timer)
{
    struct loop_timer *new = calloc(1, sizeof(*new));

    if (new == NULL) {
        return -ENOMEM;
    }
    new->source = (struct loop_source){ .loop = loop, .lock = lock, .context = context };
    new->fn = fn;
    pthread_mutex_lock(&loop->mutex);
    new->next = loop->timers;
    new->link = &loop->timers;
    if (new->next != NULL) {
        new->next->link = &new->next;
    }
    loop->timers = new;
    pthread_mutex_unlock(&loop->mutex);
    *timer = new;
    return 0;
}

void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns)
{
    struct loop *loop = timer->source.loop;
    bool wake;

    pthread_mutex_lock(&loop->mutex);
    /* A later deadline needs no wake-up: the loop finds nothing due and waits again. */
    wake = (!timer->armed || deadline_ns < timer->deadline) && !loop_is_own_thread(loop);
    timer->armed = true;
    timer->deadline = deadline_ns;
    pthread_mutex_unlock(&loop->mutex);
    if (wake) {
        loop_wake(loop);
    }
}

void loop_timer_disarm(struct loop_timer *timer)
{
    struct loop *loop = timer->source.loop;

    pthread_mutex_lock(&loop->mutex);
    timer->armed = false;
    pthread_mutex_unlock(&loop->mutex);
}

/* With loop->mutex held. */
static void timer_release(struct loop_timer *timer)
{
    if (!timer->source.abandoned || timer->source.running) {
        return;
    }
    *timer->link = timer->next;
    if (timer->next != NULL) {
        timer->next->link = timer->link;
    }
    free(timer);
}

void loop_timer_destroy(struct loop_timer *timer)
{
    struct loop *loop;

    if (timer == NULL) {
        return;
    }
    loop = timer->source.loop;
    pthread_mutex_lock(&loop->mutex);
    timer->armed = false;
    source_remove(&timer->source);
    timer->source.abandoned = true;
    timer_release(timer);
    pthread_mutex_unlock(&loop->mutex);
}

static void timer_call(struct loop_timer *timer, uint64_t now)
{
    struct loop *loop = timer->source.loop;
    bool due;

    if (!source_lock(&timer->source)) {
        return;
    }
    pthread_mutex_lock(&loop->mutex);
    due = !timer->source.removed && timer->armed && timer->deadline <= now;
    if (due) {
        timer->armed = false;
    }
    pthread_mutex_unlock(&loop->mutex);
    if (due) {
        timer->fn(timer->source.context);
    }
    source_unlock(&timer->source);
}

/* A timer due at @now that this pass has not looked at yet. With loop->mutex held. */
static struct loop_timer *timer_due(struct loop *loop, uint64_t now)
{
    struct loop_timer *timer = loop->timers;

    while (timer != NULL &&
           (!timer->armed || timer->deadline > now || timer->pass == loop->pass)) {
        timer = timer->next;
    }
    return timer;
}

/* Each due timer once, so that one which re-arms itself for the past starves nobody. */
static void loop_run_timers(struct loop *loop)
{
    uint64_t now = clock_ns();
    struct loop_timer *timer;

    pthread_mutex_lock(&loop->mutex);
    loop->pass++;
    while (!loop->stopping && (timer = timer_due(loop, now)) != NULL) {
        timer->pass = loop->pass;
        timer->source.running = true;
        pthread_mutex_unlock(&loop->mutex);
        timer_call(timer, now);
        pthread_mutex_lock(&loop->mutex);
        timer->source.running = false;
        pthread_cond_broadcast(&loop->settled);
        timer_release(timer);
    }
    pthread_mutex_unlock(&loop->mutex);
}

/* ---- Calls ------------------------------------------------------------------------ */

int loop_post(struct loop *loop, loop_fn fn, void *context)
{
    struct loop_call *call = calloc(1, sizeof(*call));

    if (call == NULL) {
        return -ENOMEM;
    }
    call->fn = fn;
    call->context = context;
    pthread_mutex_lock(&loop->mutex);
    *loop->calls_end = call;
    loop->calls_end = &call->next;
    pthread_mutex_unlock(&loop->mutex);
    loop_wake(loop);
    return 0;
}

/* Those posted until now; what they post waits for the next pass. */
static void loop_run_calls(struct loop *loop)
{
    struct loop_call *call, *next;

    pthread_mutex_lock(&loop->mutex);
    call = loop->calls;
    loop->calls = NULL;
    loop->calls_end = &loop->calls;
    pthread_mutex_unlock(&loop->mutex);
    for (; call != NULL; call = next) {
        next = call->next;
        call->fn(call->context);
        free(call);
    }
}

/* ---- The thread ------------------------------------------------------------------- */

/* How long to sleep; NULL: until something happens. With loop->mutex held. */
static struct __kernel_timespec *loop_timeout(const struct loop *loop,
                                              struct __kernel_timespec *timeout)
{
    uint64_t first = UINT64_MAX, now;

    if (loop->calls != NULL) {
        first = 0;
    }
    for (const struct loop_timer *timer = loop->timers; timer != NULL;
         timer = timer->next) {
        if (timer->armed && timer->deadline < first) {
            first = timer->deadline;
        }
    }
    if (first == UINT64_MAX) {
        return NULL;
    }
    now = clock_ns();
    first = first > now ? first - now : 0;
    timeout->tv_sec = (int64_t)(first / 1000000000);
    timeout->tv_nsec = (long long)(first % 1000000000);
    return timeout;
}

static void loop_reap(struct loop *loop)
{
    struct io_uring_cqe *cqes[LOOP_CQE_BATCH];
    unsigned count;

    while ((count = io_uring_peek_batch_cqe(&loop->ring, cqes, LOOP_CQE_BATCH)) != 0) {
        for (unsigned i = 0; i < count; i++) {
            struct loop_watch *watch = io_uring_cqe_get_data(cqes[i]);
            int result = cqes[i]->res;

            io_uring_cqe_seen(&loop->ring, cqes[i]);
            if (watch != NULL) { /* else the answer to a cancel */
                watch_complete(watch, result);
            }
        }
        if (count < LOOP_CQE_BATCH) {
            return; /* timers get their turn */
        }
    }
}

/* Bring the polls in line, then sleep until a completion or @timeout. */
static void loop_wait(struct loop *loop)
{
    struct __kernel_timespec timeout, *sleep;
    struct loop_watch *watch, *next;
    struct io_uring_cqe *cqe;

    pthread_mutex_lock(&loop->mutex);
    if (loop->dirty) {
        loop->dirty = false;
        for (watch = loop->watches; watch != NULL; watch = next) {
            next = watch->next;
            watch_sync(watch);
        }
    }
    sleep = loop_timeout(loop, &timeout);
    if (loop->dirty) { /* the ring was full */
        timeout = (struct __kernel_timespec){ 0 };
        sleep = &timeout;
    }
    pthread_mutex_unlock(&loop->mutex);
    io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, sleep, NULL);
}

/* Cancel every poll, since the kernel would with the end of the thread, and wait for it;
 * loop_start arms them again. */
static void loop_cancel_polls(struct loop *loop)
{
    struct io_uring_cqe *cqe;
    bool any;

    do {
        any = false;
        pthread_mutex_lock(&loop->mutex);
        for (struct loop_watch *watch = loop->watches; watch != NULL;
             watch = watch->next) {
            if (watch->in_flight) {
                watch_cancel(watch);
                any = true;
            }
        }
        loop->dirty = true;
        pthread_mutex_unlock(&loop->mutex);
        if (any) {
            io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, NULL, NULL);
            loop_reap(loop);
        }
    } while (any);
}

static void *loop_thread(void *argument)
{
    struct loop *loop = argument;
    bool stopping;

    pthread_mutex_lock(&loop->mutex); /* loop_start has stored the thread's id */
    pthread_mutex_unlock(&loop->mutex);
    pthread_setname_np(pthread_self(), "umbra-loop");
    for (;;) {
        pthread_mutex_lock(&loop->mutex);
        stopping = loop->stopping;
        pthread_mutex_unlock(&loop->mutex);
        if (stopping) {
            break;
        }
        loop_run_calls(loop);
        loop_run_timers(loop);
        loop_wait(loop);
        loop_reap(loop);
    }
    loop_cancel_polls(loop);
    return NULL;
}

/* ---- Life ------------------------------------------------------------------------- */

int loop_create(const struct log *log, struct loop **loop, struct umbra_error *error)
{
    struct loop *new = calloc(1, sizeof(*new));
    int rc;

    if (new == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating an event loop");
    }
    new->log = log;
    new->calls_end = &new->calls;
    rc = io_uring_queue_init(LOOP_RING_ENTRIES, &new->ring, 0);
    if (rc < 0) {
        free(new);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -rc,
                           "cannot create an io_uring (is it forbidden, as by sysctl "
                           "kernel.io_uring_disabled or a container's seccomp filter?)");
    }
    pthread_mutex_init(&new->mutex, NULL);
    pthread_cond_init(&new->settled, NULL);
    new->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (new->wake_fd < 0) {
        rc = error_errno(error, UMBRA_ERROR_INTERNAL, errno, "cannot create an eventfd");
        goto fail;
    }
    rc = loop_watch_add(new, new->wake_fd, POLLIN, NULL, loop_woken, new,
                        &new->wake_watch);
    if (rc < 0) {
        error_errno(error, UMBRA_ERROR_INTERNAL, -rc, "creating an event loop");
        goto fail;
    }
    *loop = new;
    return 0;

fail:
    loop_destroy(new);
    return rc;
}

int loop_start(struct loop *loop, struct umbra_error *error)
{
    sigset_t all, old;
    int rc;

    /* Signals belong to the embedder's threads. */
    sigfillset(&all);
    pthread_mutex_lock(&loop->mutex);
    if (loop->started) {
        pthread_mutex_unlock(&loop->mutex);
        return 0;
    }
    loop->stopping = false;
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&loop->thread, NULL, loop_thread, loop);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    loop->started = rc == 0;
    pthread_mutex_unlock(&loop->mutex);
    if (rc != 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, rc,
                           "cannot start the event loop's thread");
    }
    return 0;
}

void loop_stop(struct loop *loop)
{
    pthread_t thread;

    pthread_mutex_lock(&loop->mutex);
    if (!loop->started || loop->stopping || loop_is_own_thread(loop)) {
        pthread_mutex_unlock(&loop->mutex);
        return;
    }
    loop->stopping = true;
    thread = loop->thread;
    pthread_mutex_unlock(&loop->mutex);
    loop_wake(loop);
    pthread_join(thread, NULL);
    pthread_mutex_lock(&loop->mutex);
    loop->started = false;
    pthread_cond_broadcast(&loop->settled);
    pthread_mutex_unlock(&loop->mutex);
}

void loop_destroy(struct loop *loop)
{
    struct loop_call *call, *next;

    if (loop == NULL) {
        return;
    }
    loop_stop(loop);
    loop_watch_remove(loop->wake_watch);
    for (call = loop->calls; call != NULL; call = next) {
        next = call->next;
        free(call);
    }
    if (loop->wake_fd >= 0) {
        close(loop->wake_fd);
    }
    io_uring_queue_exit(&loop->ring);
    pthread_cond_destroy(&loop->settled);
    pthread_mutex_destroy(&loop->mutex);
    free(loop);
}
