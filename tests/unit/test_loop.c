/* SPDX-License-Identifier: MIT */
/* loop: descriptors, timers, calls, and what removal promises. */
#include "fake_env.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

struct fixture {
    struct loop *loop;
    struct log log;
    pthread_mutex_t lock;
    struct loop_watch *watch;
    struct loop_timer *timer;
    int fd;
    atomic_uint calls;
    atomic_uint events;
    unsigned guarded; /* under lock */
};

static void setup(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    pthread_mutex_init(&f->lock, NULL);
    assert_int_equal(loop_create(&f->log, &f->loop, NULL), 0);
    f->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_true(f->fd >= 0);
}

static void teardown(struct fixture *f)
{
    loop_destroy(f->loop);
    close(f->fd);
    pthread_mutex_destroy(&f->lock);
}

static void signal_fd(int fd)
{
    uint64_t one = 1;

    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void drain(void *context, uint32_t events)
{
    struct fixture *f = context;
    uint64_t count;

    f->guarded++;
    f->events = events;
    if (read(f->fd, &count, sizeof(count)) == sizeof(count)) {
        f->calls += (unsigned)count;
    }
}

static void test_watch(void **state)
{
    struct fixture f;

    setup(&f);
    assert_int_equal(loop_watch_add(f.loop, f.fd, POLLIN, &f.lock, drain, &f, &f.watch),
                     0);
    signal_fd(f.fd); /* waits for the start */
    assert_int_equal(loop_start(f.loop, NULL), 0);
    assert_int_equal(loop_start(f.loop, NULL), 0); /* harmless */
    WAIT_UNTIL(f.calls == 1);
    assert_int_equal(f.events, POLLIN);
    for (unsigned i = 2; i < 50; i++) {
        signal_fd(f.fd);
        WAIT_UNTIL(f.calls == i);
    }
    assert_false(loop_is_current(f.loop));
    loop_watch_set(f.watch, 0);
    signal_fd(f.fd);
    loop_stop(f.loop);
    assert_int_equal(loop_start(f.loop, NULL), 0);
    loop_watch_set(f.watch, POLLIN);
    WAIT_UNTIL(f.calls == 50);
    loop_watch_remove(f.watch);
    teardown(&f);
}

/* Nothing runs between stop and start, and nothing is lost. */
static void test_stop(void **state)
{
    struct fixture f;
    unsigned before;

    setup(&f);
    assert_int_equal(loop_watch_add(f.loop, f.fd, POLLIN, &f.lock, drain, &f, &f.watch),
                     0);
    for (unsigned i = 1; i < 20; i++) {
        assert_int_equal(loop_start(f.loop, NULL), 0);
        if (i % 2 == 0) {
            signal_fd(f.fd);
        }
        loop_stop(f.loop);
        before = f.guarded;
        signal_fd(f.fd);
        assert_int_equal(f.guarded, before);
        assert_int_equal(loop_start(f.loop, NULL), 0);
        WAIT_UNTIL(f.calls == i + i / 2);
        loop_stop(f.loop);
    }
    loop_stop(f.loop);
    loop_watch_remove(f.watch); /* while stopped */
    loop_watch_remove(NULL);
    teardown(&f);
}

static void busy(void *context, uint32_t events)
{
    struct fixture *f = context;

    f->guarded++;
    f->calls++;
}

/* Removed by a thread that holds the lock, while the loop wants that lock all the time. */
static void test_remove_locked(void **state)
{
    struct fixture f;
    unsigned at;

    setup(&f);
    signal_fd(f.fd); /* never drained: always ready */
    assert_int_equal(loop_start(f.loop, NULL), 0);
    for (unsigned round = 0; round < 200; round++) {
        unsigned before = f.calls;

        assert_int_equal(
            loop_watch_add(f.loop, f.fd, POLLIN, &f.lock, busy, &f, &f.watch), 0);
        if (round % 4 != 0) {
            WAIT_UNTIL(f.calls != before);
        }
        pthread_mutex_lock(&f.lock);
        at = f.guarded;
        loop_watch_remove(f.watch);
        assert_int_equal(f.guarded, at);
        pthread_mutex_unlock(&f.lock);
        assert_int_equal(f.guarded, at); /* a late call would be a data race, too */
    }
    teardown(&f);
}

/* Removed without the lock: the callback has ended when remove returns, so what it uses
 * may be freed. */
static void test_remove_frees(void **state)
{
    struct fixture f;

    setup(&f);
    signal_fd(f.fd);
    assert_int_equal(loop_start(f.loop, NULL), 0);
    for (unsigned round = 0; round < 200; round++) {
        struct fixture *own = calloc(1, sizeof(*own));
        struct loop_watch *watch;

        pthread_mutex_init(&own->lock, NULL);
        assert_int_equal(loop_watch_add(f.loop, f.fd, POLLIN,
                                        round % 2 != 0 ? &own->lock : NULL, busy, own,
                                        &watch),
                         0);
        if (round % 3 != 0) {
            WAIT_UNTIL(own->calls != 0);
        }
        loop_watch_remove(watch);
        pthread_mutex_destroy(&own->lock);
        free(own);
    }
    teardown(&f);
}

static void remove_self(void *context, uint32_t events)
{
    struct fixture *f = context;

    assert_true(loop_is_current(f->loop));
    loop_watch_remove(f->watch);
    f->watch = NULL;
    f->calls++;
}

static void test_remove_self(void **state)
{
    struct fixture f;

    setup(&f);
    signal_fd(f.fd);
    assert_int_equal(loop_start(f.loop, NULL), 0);
    for (unsigned i = 1; i <= 50; i++) {
        pthread_mutex_lock(&f.lock);
        assert_int_equal(
            loop_watch_add(f.loop, f.fd, POLLIN, &f.lock, remove_self, &f, &f.watch), 0);
        pthread_mutex_unlock(&f.lock);
        WAIT_UNTIL(f.calls == i);
    }
    teardown(&f);
}

/* Once removed and closed, the file is closed: the peer reads its end. */
static void test_remove_releases_file(void **state)
{
    struct fixture f;
    char byte;
    int pair[2];

    setup(&f);
    assert_int_equal(loop_start(f.loop, NULL), 0);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        assert_int_equal(
            loop_watch_add(f.loop, pair[0], POLLIN, &f.lock, busy, &f, &f.watch), 0);
        if (i % 2 != 0) {
            nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
        }
        loop_watch_remove(f.watch);
        close(pair[0]);
        assert_int_equal(read(pair[1], &byte, 1), 0);
        close(pair[1]);
    }
    assert_int_equal(f.calls, 0);
    teardown(&f);
}

static void test_bad_descriptor(void **state)
{
    struct fixture f;

    setup(&f);
    assert_int_equal(loop_start(f.loop, NULL), 0);
    assert_int_equal(loop_watch_add(f.loop, -1, POLLIN, &f.lock, busy, &f, &f.watch), 0);
    WAIT_UNTIL(f.calls == 1); /* told once, then muted */
    loop_watch_remove(f.watch);
    assert_int_equal(f.calls, 1);
    teardown(&f);
}

/* ---- Timers ---- */

static void tick(void *context)
{
    struct fixture *f = context;

    f->guarded++;
    f->calls++;
}

static void tick_again(void *context)
{
    struct fixture *f = context;

    f->calls++;
    if (f->calls < 100) {
        loop_timer_arm(f->timer, clock_ns() - 1); /* due already */
    }
}

static void test_timer(void **state)
{
    struct fixture f;

    setup(&f);
    assert_int_equal(loop_timer_create(f.loop, &f.lock, tick, &f, &f.timer), 0);
    loop_timer_arm(f.timer, clock_ns());
    assert_int_equal(loop_start(f.loop, NULL), 0);
    WAIT_UNTIL(f.calls == 1);
    loop_timer_arm(f.timer, clock_ns() + 3600 * UINT64_C(1000000000));
    loop_timer_arm(f.timer, clock_ns() + 1000000); /* sooner: the loop must notice */
    WAIT_UNTIL(f.calls == 2);
    loop_timer_arm(f.timer, clock_ns() + 3600 * UINT64_C(1000000000));
    loop_timer_destroy(f.timer);
    loop_timer_destroy(NULL);
    assert_int_equal(f.calls, 2);
    teardown(&f);
}

/* A timer that is always due does not keep descriptors from being served. */
static void test_timer_fair(void **state)
{
    struct fixture f;

    setup(&f);
    assert_int_equal(loop_timer_create(f.loop, NULL, tick_again, &f, &f.timer), 0);
    assert_int_equal(loop_start(f.loop, NULL), 0);
    loop_timer_arm(f.timer, 0);
    WAIT_UNTIL(f.calls == 100);
    loop_timer_destroy(f.timer);
    teardown(&f);
}

/* Disarmed with the lock held, it does not fire afterwards, even if it was due. */
static void test_timer_disarm(void **state)
{
    struct fixture f;
    unsigned at;

    setup(&f);
    assert_int_equal(loop_timer_create(f.loop, &f.lock, tick, &f, &f.timer), 0);
    assert_int_equal(loop_start(f.loop, NULL), 0);
    for (unsigned i = 0; i < 200; i++) {
        pthread_mutex_lock(&f.lock);
        loop_timer_arm(f.timer, clock_ns());
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
        loop_timer_disarm(f.timer);
        at = f.guarded;
        pthread_mutex_unlock(&f.lock);
        if (i % 2 != 0) {
            sched_yield();
        }
        pthread_mutex_lock(&f.lock);
        assert_int_equal(f.guarded, at);
        pthread_mutex_unlock(&f.lock);
    }
    assert_int_equal(f.calls, 0);
    /* Destroyed by a holder of the lock while the loop waits for it. */
    pthread_mutex_lock(&f.lock);
    loop_timer_arm(f.timer, clock_ns());
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    loop_timer_destroy(f.timer);
    pthread_mutex_unlock(&f.lock);
    assert_int_equal(f.calls, 0);
    teardown(&f);
}

/* ---- Calls ---- */

static void count_call(void *context)
{
    struct fixture *f = context;

    f->guarded++; /* only the loop's thread, in order */
    f->calls++;
}

static void *post_many(void *context)
{
    struct fixture *f = context;

    for (unsigned i = 0; i < 500; i++) {
        assert_int_equal(loop_post(f->loop, count_call, f), 0);
    }
    return NULL;
}

static void test_post(void **state)
{
    pthread_t threads[4];
    struct fixture f;

    setup(&f);
    assert_int_equal(loop_post(f.loop, count_call, &f), 0); /* before the start */
    assert_int_equal(loop_start(f.loop, NULL), 0);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, &f), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    WAIT_UNTIL(f.calls == 2001);
    loop_stop(f.loop);
    assert_int_equal(loop_post(f.loop, count_call, &f), 0); /* dropped with the loop */
    assert_int_equal(f.calls, 2001);
    teardown(&f);
}

/* ---- All at once ---- */

struct storm {
    struct fixture *f;
    unsigned seed;
};

static void *storm_thread(void *context)
{
    struct storm *storm = context;
    struct fixture *f = storm->f;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct loop_watch *watch;
    struct loop_timer *timer;
    struct fixture own = { .loop = f->loop };

    for (unsigned i = 0; i < 150; i++) {
        bool locked = rand_r(&storm->seed) % 2 != 0;

        assert_int_equal(
            loop_watch_add(f->loop, f->fd, POLLIN, &lock, busy, &own, &watch), 0);
        assert_int_equal(loop_timer_create(f->loop, &lock, tick, &own, &timer), 0);
        loop_timer_arm(timer, clock_ns() + (unsigned)rand_r(&storm->seed) % 100000);
        if (rand_r(&storm->seed) % 4 == 0) {
            loop_watch_set(watch, 0);
            loop_watch_set(watch, POLLIN | POLLOUT);
        }
        nanosleep(&(struct timespec){ .tv_nsec = rand_r(&storm->seed) % 100000 }, NULL);
        if (locked) {
            pthread_mutex_lock(&lock);
        }
        loop_watch_remove(watch);
        loop_timer_destroy(timer);
        if (locked) {
            pthread_mutex_unlock(&lock);
        }
    }
    pthread_mutex_destroy(&lock);
    return NULL;
}

static void test_storm(void **state)
{
    struct storm storms[3];
    pthread_t threads[3];
    struct fixture f;

    setup(&f);
    signal_fd(f.fd);
    assert_int_equal(loop_start(f.loop, NULL), 0);
    for (unsigned i = 0; i < 3; i++) {
        storms[i] = (struct storm){ &f, i + 1 };
        assert_int_equal(pthread_create(&threads[i], NULL, storm_thread, &storms[i]), 0);
    }
    for (unsigned i = 0; i < 20; i++) {
        loop_stop(f.loop);
        assert_int_equal(loop_start(f.loop, NULL), 0);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_remove_locked),
        cmocka_unit_test(test_remove_frees),
        cmocka_unit_test(test_remove_self),
        cmocka_unit_test(test_remove_releases_file),
        cmocka_unit_test(test_bad_descriptor),
        cmocka_unit_test(test_timer),
        cmocka_unit_test(test_timer_fair),
        cmocka_unit_test(test_timer_disarm),
        cmocka_unit_test(test_post),
        cmocka_unit_test(test_storm),
    };
    struct umbra_error error;
    struct loop *loop;

    if (loop_create(NULL, &loop, &error) < 0) {
        print_message("skipped: %s\n", error.message);
        return 77;
    }
    loop_destroy(loop);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
