/* SPDX-License-Identifier: MIT */
/* Timers of the event loop; there are few, so a list serves. */
#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "loop/parts.h"

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
void loop_run_timers(struct loop *loop)
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
