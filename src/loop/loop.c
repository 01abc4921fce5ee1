/* SPDX-License-Identifier: MIT */
/*
 * The event loop's thread, which alone touches the io_uring: the kernel ties a request to
 * the thread that submits it, so one from a vCPU's thread would be cancelled with that
 * thread's end and would interrupt KVM_RUN on completion.
 */
#include "loop/loop.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/util.h"
#include "loop/parts.h"

enum {
    LOOP_RING_ENTRIES = 256,
    LOOP_CQE_BATCH = 64,
    LOOP_LOCK_TRY_NS = 1000000, /* between looks at `removed` */
};

bool loop_is_own_thread(const struct loop *loop)
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

void loop_wake(struct loop *loop)
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

void deadline_in(uint64_t ns, struct timespec *deadline)
{
    clock_gettime(CLOCK_REALTIME, deadline);
    ns += (uint64_t)deadline->tv_nsec;
    deadline->tv_sec += (time_t)(ns / 1000000000);
    deadline->tv_nsec = (long)(ns % 1000000000);
}

/* The slow path of source_lock(). */
static bool source_wait_lock(struct loop_source *source)
{
    struct loop *loop = source->loop;
    struct timespec deadline;
    bool locked = false;

    pthread_mutex_lock(&loop->mutex);
    loop->blocked = true;
    pthread_cond_broadcast(&loop->settled);
    while (!locked && !source->removed) {
        pthread_mutex_unlock(&loop->mutex);
        deadline_in(LOOP_LOCK_TRY_NS, &deadline);
        locked = pthread_mutex_timedlock(source->lock, &deadline) == 0;
        pthread_mutex_lock(&loop->mutex);
    }
    loop->blocked = false;
    pthread_mutex_unlock(&loop->mutex);
    return locked;
}

bool source_lock(struct loop_source *source)
{
    return source->lock == NULL || pthread_mutex_trylock(source->lock) == 0 ||
           source_wait_lock(source);
}

void source_unlock(struct loop_source *source)
{
    if (source->lock != NULL) {
        pthread_mutex_unlock(source->lock);
    }
}

void source_remove(struct loop_source *source)
{
    struct loop *loop = source->loop;

    source->removed = true;
    while (source->running && !loop_is_own_thread(loop)) {
        pthread_cond_wait(&loop->settled, &loop->mutex);
    }
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
    struct io_uring_cqe *cqe;

    pthread_mutex_lock(&loop->mutex);
    if (loop->dirty) {
        loop->dirty = false;
        watch_sync_all(loop);
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

    while (watch_cancel_all(loop)) {
        io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, NULL, NULL);
        loop_reap(loop);
    }
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
    io_uring_ring_dontfork(&new->ring);
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
    int rc;

    pthread_mutex_lock(&loop->mutex);
    if (loop->started) {
        pthread_mutex_unlock(&loop->mutex);
        return 0;
    }
    loop->stopping = false;
    rc = thread_start(&loop->thread, NULL, loop_thread, loop);
    loop->started = rc == 0;
    pthread_mutex_unlock(&loop->mutex);
    if (rc != 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -rc,
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
