/* SPDX-License-Identifier: MIT */
/*
 * vCPU threads and their gate.
 *
 * Kicks need no signal handler, which a library must not install: the kick signal stays
 * blocked in the thread and is let through only inside KVM_RUN (KVM_SET_SIGNAL_MASK),
 * which then returns EINTR with the signal pending; the thread takes it with
 * sigtimedwait().
 */
#include "vcpu/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/util.h"
#include "vcpu/kvm_stats.h"

enum vcpu_want { WANT_RUN, WANT_PAUSE, WANT_STOP };

#define KICK_SIGNAL (SIGRTMIN + 5)

/* The kernel's sigset_t is 8 bytes long, glibc's is not. */
enum { KERNEL_SIGSET_SIZE = 8, VCPU_PIECES_MAX = 4096 };

static int vcpu_set_signal_mask(struct vcpu *vcpu)
{
    struct {
        struct kvm_signal_mask header;
        uint8_t set[KERNEL_SIGSET_SIZE];
    } mask = { .header = { .len = KERNEL_SIGSET_SIZE } };
    sigset_t set;

    sigfillset(&set);
    sigdelset(&set, KICK_SIGNAL);
    memcpy(mask.header.sigset, &set, KERNEL_SIGSET_SIZE);
    return ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask.header) < 0 ? -errno : 0;
}

static int vcpu_create(struct vcpu_set *set, unsigned index, struct umbra_error *error)
{
    struct vcpu *vcpu = &set->vcpus[index];
    int ret;

    vcpu->set = set;
    vcpu->index = index;
    vcpu->fd = ioctl(set->options.vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
    if (vcpu->fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot create vCPU %u of %u", index, set->options.count);
    }
    vcpu->run = mmap(NULL, set->options.run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                     vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED) {
        vcpu->run = NULL;
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot map the run structure of vCPU %u", index);
    }
    madvise(vcpu->run, set->options.run_size, MADV_DONTFORK);
    vcpu->stats_fd = kvm_stats_open(vcpu->fd);
    vcpu->stats = calloc(1, sizeof(*vcpu->stats));
    if (vcpu->stats == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                           "cannot allocate statistics of vCPU %u", index);
    }
    ret = vcpu_set_signal_mask(vcpu);
    if (ret < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                           "KVM_SET_SIGNAL_MASK on vCPU %u failed", index);
    }
    return vcpu_arch_create(vcpu, error);
}

static void vcpu_release(struct vcpu *vcpu, size_t run_size)
{
    vcpu_arch_destroy(vcpu);
    if (vcpu->run != NULL) {
        munmap(vcpu->run, run_size);
    }
    if (vcpu->stats_fd >= 0) {
        close(vcpu->stats_fd);
    }
    if (vcpu->fd >= 0) {
        close(vcpu->fd);
    }
    free(vcpu->stats);
}

int vcpu_set_create(const struct vcpu_set_options *options, struct vcpu_set **out,
                    struct umbra_error *error)
{
    struct vcpu_set *set = calloc(1, sizeof(*set));
    int ret;

    if (set == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot allocate vCPUs");
    }
    set->options = *options;
    atomic_init(&set->only, -1);
    atomic_init(&set->want, WANT_PAUSE);
    pthread_mutex_init(&set->lock, NULL);
    pthread_cond_init(&set->open, NULL);
    pthread_cond_init(&set->quiet, NULL);
    set->vcpus = calloc(options->count, sizeof(*set->vcpus));
    if (set->vcpus == NULL) {
        ret = error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot allocate vCPUs");
        goto fail;
    }
    for (unsigned i = 0; i < options->count; i++) {
        set->vcpus[i].fd = -1;
        set->vcpus[i].stats_fd = -1;
    }
    for (unsigned i = 0; i < options->count; i++) {
        ret = vcpu_create(set, i, error);
        if (ret < 0) {
            goto fail;
        }
    }
    *out = set;
    return 0;
fail:
    vcpu_set_destroy(set);
    return ret;
}

void vcpu_set_destroy(struct vcpu_set *set)
{
    if (set == NULL) {
        return;
    }
    vcpu_set_stop(set);
    for (unsigned i = 0; set->vcpus != NULL && i < set->options.count; i++) {
        vcpu_release(&set->vcpus[i], set->options.run_size);
    }
    free(set->vcpus);
    pthread_cond_destroy(&set->quiet);
    pthread_cond_destroy(&set->open);
    pthread_mutex_destroy(&set->lock);
    free(set);
}

/* May this vCPU pass the gate now? The caller holds the lock or tolerates a stale answer.
 */
static bool vcpu_may_run(const struct vcpu *vcpu)
{
    const struct vcpu_set *set = vcpu->set;
    int only = atomic_load(&set->only);

    return atomic_load(&set->want) == WANT_RUN && (only < 0 || only == (int)vcpu->index);
}

/* What KVM_RUN came back with. */
static void vcpu_take_exit(struct vcpu *vcpu)
{
    enum vcpu_verdict verdict;
#ifdef UMBRA_EXIT_ACCOUNTING
    uint64_t start = exit_clock();

    vcpu->detail.kind = EXIT_KEY_NONE;
#endif
    verdict = vcpu_handle_exit(vcpu);
#ifdef UMBRA_EXIT_ACCOUNTING
    exit_stats_count(vcpu->stats, vcpu->run->exit_reason, &vcpu->detail, start,
                     exit_clock());
#endif
    if (verdict == VCPU_ENDED) {
        vcpu_set_close(vcpu->set);
    }
}

/*
 * KVM finishes an instruction whose access was an exit only at the next entry (api.rst, 5,
 * immediate_exit): have it do so, and come back. An access that KVM takes in several pieces
 * (one of 16 bytes, one across pages, a repeated one) is another exit for each: all of them
 * belong to what the guest has begun. Where a guest has more of them than the limit, the last
 * one is completed when it runs on.
 */
static void vcpu_complete_exit(struct vcpu *vcpu)
{
    unsigned pieces = 0;

    vcpu->run->immediate_exit = 1;
    while (pieces++ < VCPU_PIECES_MAX && ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
        vcpu_take_exit(vcpu);
    }
    vcpu->run->immediate_exit = 0;
}

/* Wait at the gate; false when the thread is to end. */
static bool vcpu_gate_wait(struct vcpu *vcpu)
{
    struct vcpu_set *set = vcpu->set;
    bool go;

    vcpu_complete_exit(vcpu);
    pthread_mutex_lock(&set->lock);
    set->running--;
    if (set->running == 0) {
        pthread_cond_broadcast(&set->quiet);
    }
    while (!vcpu_may_run(vcpu) && atomic_load(&set->want) != WANT_STOP) {
        pthread_cond_wait(&set->open, &set->lock);
    }
    set->running++;
    go = atomic_load(&set->want) == WANT_RUN;
    pthread_mutex_unlock(&set->lock);
    return go;
}

static void vcpu_take_kick(void)
{
    const struct timespec now = { 0 };
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, KICK_SIGNAL);
    while (sigtimedwait(&set, NULL, &now) > 0) {
    }
}

static void vcpu_run_once(struct vcpu *vcpu)
{
    if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
        if (errno == EINTR || errno == EAGAIN) {
            vcpu_take_kick();
        } else {
            vcpu_end(vcpu, VCPU_END_ERROR, "KVM_RUN on vCPU %u failed: %s%s", vcpu->index,
                     strerrorname_np(errno),
                     errno == EFAULT ? " (the host could not provide a page of guest "
                                       "memory: is it out of memory or huge pages?)"
                                     : "");
        }
        return;
    }
    vcpu_take_exit(vcpu);
}

static void *vcpu_main(void *context)
{
    struct vcpu *vcpu = context;
    struct vcpu_set *set = vcpu->set;
    char name[16];

    snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    for (;;) {
        if (!vcpu_may_run(vcpu) && !vcpu_gate_wait(vcpu)) {
            break;
        }
        vcpu_run_once(vcpu);
    }
    pthread_mutex_lock(&set->lock);
    vcpu->alive = false;
    set->running--;
    if (set->running == 0) {
        pthread_cond_broadcast(&set->quiet);
    }
    pthread_mutex_unlock(&set->lock);
    return NULL;
}

int vcpu_set_start(struct vcpu_set *set, struct umbra_error *error)
{
    int ret = 0;

    pthread_mutex_lock(&set->lock);
    atomic_store(&set->want, WANT_PAUSE);
    for (unsigned i = 0; ret == 0 && i < set->options.count; i++) {
        struct vcpu *vcpu = &set->vcpus[i];

        ret = thread_start(&vcpu->thread, NULL, vcpu_main, vcpu);
        if (ret == 0) {
            vcpu->started = true;
            vcpu->alive = true;
            set->running++;
        } else {
            ret = error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                              "cannot start the thread of vCPU %u", i);
        }
    }
    pthread_mutex_unlock(&set->lock);
    if (ret < 0) {
        vcpu_set_stop(set);
    }
    return ret;
}

void vcpu_kick(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->set->lock);
    if (vcpu->alive) {
        pthread_kill(vcpu->thread, KICK_SIGNAL);
    }
    pthread_mutex_unlock(&vcpu->set->lock);
}

static void vcpu_set_want(struct vcpu_set *set, int want, int only)
{
    pthread_mutex_lock(&set->lock);
    atomic_store(&set->only, only);
    atomic_store(&set->want, want);
    pthread_cond_broadcast(&set->open);
    for (unsigned i = 0; want != WANT_RUN && i < set->options.count; i++) {
        if (set->vcpus[i].alive) {
            pthread_kill(set->vcpus[i].thread, KICK_SIGNAL);
        }
    }
    pthread_mutex_unlock(&set->lock);
}

void vcpu_set_close(struct vcpu_set *set)
{
    if (atomic_load(&set->want) == WANT_RUN) {
        vcpu_set_want(set, WANT_PAUSE, -1);
    }
}

void vcpu_set_pause(struct vcpu_set *set)
{
    vcpu_set_close(set);
    for (unsigned i = 0; i < set->options.count; i++) {
        if (set->vcpus[i].started &&
            pthread_equal(set->vcpus[i].thread, pthread_self())) {
            return;
        }
    }
    pthread_mutex_lock(&set->lock);
    while (set->running > 0) {
        pthread_cond_wait(&set->quiet, &set->lock);
    }
    pthread_mutex_unlock(&set->lock);
}

void vcpu_set_resume(struct vcpu_set *set, int only)
{
    vcpu_set_want(set, WANT_RUN, only);
}

void vcpu_set_stop(struct vcpu_set *set)
{
    if (set->vcpus == NULL) {
        return;
    }
    vcpu_set_want(set, WANT_STOP, -1);
    for (unsigned i = 0; i < set->options.count; i++) {
        if (set->vcpus[i].started) {
            pthread_join(set->vcpus[i].thread, NULL);
            set->vcpus[i].started = false;
        }
    }
}

enum vcpu_verdict vcpu_end(struct vcpu *vcpu, enum vcpu_end_kind kind, const char *format,
                           ...)
{
    const struct vcpu_set_options *options = &vcpu->set->options;
    char reason[512];
    va_list args;

    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    /* Closing the gate completes this exit, which overwrites what KVM says about it. */
    vcpu_describe_exit(vcpu, vcpu->end_exit, sizeof(vcpu->end_exit));
    options->ended(options->context, vcpu, kind, reason);
    vcpu_set_close(vcpu->set);
    return VCPU_ENDED;
}
