/* SPDX-License-Identifier: MIT */
/* Planned faults of frames: lost, doubled, spoilt and late ones, and a link that flaps. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "virtio/net/net.h"

enum { NET_LATE_MAX = 256, NET_RETRY_NS = 1000000 };

struct net_late {
    struct net_late *next;
    struct net_pair *pair;
    bool transmit;
    uint64_t due_ns;
    size_t size; /* with the header */
    uint8_t bytes[];
};

struct net_faults {
    struct loop_timer *timer;
    struct net_late *late; /* by due_ns */
    unsigned count;
    uint64_t link_up_ns; /* while flapped */
};

static void faults_arm(struct virtio_net *net)
{
    struct net_faults *faults = net->faults;
    uint64_t due = net->flapped ? faults->link_up_ns : UINT64_MAX, now = clock_ns();

    for (const struct net_late *late = faults->late; late != NULL; late = late->next) {
        /* What should have been received already waits for the driver's buffers. */
        if (late->due_ns < due && (late->transmit || late->due_ns > now)) {
            due = late->due_ns;
        }
    }
    if (due != UINT64_MAX) {
        loop_timer_arm(faults->timer, due);
    }
}

/* Frames from the guest whose time has come; those for it are fetched by net_serve(). */
static void faults_send(struct virtio_net *net)
{
    struct net_faults *faults = net->faults;
    struct net_late **link = &faults->late;

    while (*link != NULL && (*link)->due_ns <= clock_ns()) {
        struct net_late *late = *link;
        struct iovec iov[2] = {
            { .iov_base = late->bytes, .iov_len = NET_HEADER },
            { .iov_base = late->bytes + NET_HEADER, .iov_len = late->size - NET_HEADER },
        };
        int ret;

        if (!late->transmit) {
            link = &late->next;
            continue;
        }
        ret = late->pair->tx_blocked
                  ? -EAGAIN
                  : net_send(late->pair, iov, 2, late->size - NET_HEADER);
        if (ret == -EAGAIN) {
            late->due_ns = clock_ns() + NET_RETRY_NS; /* the order hardly suffers */
            return;
        }
        if (ret == 1) {
            late->pair->tx_blocked = true;
            net_watch(late->pair);
        }
        *link = late->next;
        faults->count--;
        free(late);
    }
}

static void faults_timer(void *context)
{
    struct virtio_net *net = context;

    if (net->flapped && clock_ns() >= net->faults->link_up_ns) {
        net->flapped = false;
        net_update_link(net);
    }
    faults_send(net);
    for (unsigned i = 0; i < net->active_pairs; i++) {
        net_serve(&net->pairs[i]);
    }
    faults_arm(net);
}

static struct net_faults *faults_get(struct virtio_net *net)
{
    if (net->faults == NULL) {
        net->faults = calloc(1, sizeof(*net->faults));
        if (net->faults != NULL &&
            loop_timer_create(net->device.env->loop, &net->device.lock, faults_timer, net,
                              &net->faults->timer) != 0) {
            free(net->faults);
            net->faults = NULL;
        }
    }
    return net->faults;
}

/* Keep @late for its time; it belongs to the list then. */
static void faults_keep(struct virtio_net *net, struct net_late *late)
{
    struct net_late **link = &net->faults->late;

    while (*link != NULL && (*link)->due_ns <= late->due_ns) {
        link = &(*link)->next;
    }
    late->next = *link;
    *link = late;
    net->faults->count++;
    faults_arm(net);
}

/* A copy of the frame that comes @delay_ns later; NULL: it cannot be kept. */
static struct net_late *late_new(struct net_pair *pair, bool transmit, size_t size,
                                 uint64_t delay_ns)
{
    struct net_faults *faults = faults_get(pair->net);
    struct net_late *late = NULL;

    if (faults != NULL && faults->count < NET_LATE_MAX) {
        late = malloc(sizeof(*late) + size);
    }
    if (late != NULL) {
        *late = (struct net_late){ .pair = pair,
                                   .transmit = transmit,
                                   .due_ns = clock_ns() + delay_ns,
                                   .size = size };
    }
    return late;
}

static void faults_flap(struct virtio_net *net, uint64_t ns)
{
    if (faults_get(net) != NULL) {
        net->faults->link_up_ns = clock_ns() + ns;
        net->flapped = true;
        net_update_link(net);
        faults_arm(net);
    }
}

/* Does the frame vanish, with or without its link? */
static bool faults_lose(struct virtio_net *net, const struct fault_hits *hits)
{
    if (fault_hit(hits, UMBRA_FAULT_LINK_FLAP)) {
        faults_flap(net, hits->flap_ns);
    }
    return (hits->kinds &
            (FAULT_BIT(UMBRA_FAULT_LINK_FLAP) | FAULT_BIT(UMBRA_FAULT_DROP))) != 0;
}

bool net_faults_receive(struct net_pair *pair, bool *twice)
{
    struct net_late *late;
    struct fault_hits hits;

    *twice = false;
    if (!virtio_queue_draw(net_queue(pair, false), UMBRA_FAULT_IN,
                           pair->frame_size - NET_HEADER, &hits)) {
        return true;
    }
    if (faults_lose(pair->net, &hits)) {
        pair->received.dropped++;
        return false;
    }
    if (fault_hit(&hits, UMBRA_FAULT_CORRUPT)) {
        pair->frame[NET_HEADER + hits.bit / 8] ^= (uint8_t)(1u << hits.bit % 8);
    }
    *twice = fault_hit(&hits, UMBRA_FAULT_DUPLICATE);
    if (!fault_hit(&hits, UMBRA_FAULT_DELAY)) {
        return true;
    }
    late = late_new(pair, false, pair->frame_size, hits.delay_ns);
    if (late == NULL) {
        return true;
    }
    memcpy(late->bytes, pair->frame, pair->frame_size);
    faults_keep(pair->net, late);
    return *twice; /* doubled and late: one now, one then */
}

size_t net_faults_fetch(struct net_pair *pair)
{
    struct net_faults *faults = pair->net->faults;

    for (struct net_late **link = &faults->late; *link != NULL; link = &(*link)->next) {
        struct net_late *late = *link;
        size_t size = late->size;

        if (late->due_ns > clock_ns()) {
            break;
        }
        if (late->transmit || late->pair != pair) {
            continue;
        }
        memcpy(pair->frame, late->bytes, size);
        *link = late->next;
        faults->count--;
        free(late);
        return size;
    }
    return 0;
}

int net_faults_transmit(struct net_pair *pair, struct iovec *iov, unsigned count,
                        size_t size)
{
    struct virtio_net *net = pair->net;
    struct fault_hits *hits = &pair->tx_hits;
    struct net_late *late;
    int ret;

    if (!pair->again &&
        !virtio_queue_draw(net_queue(pair, true), UMBRA_FAULT_OUT, size, hits)) {
        hits->kinds = 0;
    }
    pair->again = false;
    if (hits->kinds == 0) {
        return net_send(pair, iov, count, size);
    }
    if (faults_lose(net, hits)) {
        return -ECANCELED;
    }
    if (fault_hit(hits, UMBRA_FAULT_CORRUPT)) {
        virtqueue_chain_read(&pair->tx, NET_HEADER, net->scratch, size);
        net->scratch[hits->bit / 8] ^= (uint8_t)(1u << hits->bit % 8);
        iov[1] = (struct iovec){ .iov_base = net->scratch, .iov_len = size };
        count = 2;
    }
    late = fault_hit(hits, UMBRA_FAULT_DELAY)
               ? late_new(pair, true, NET_HEADER + size, hits->delay_ns)
               : NULL;
    if (late != NULL) {
        size_t done = 0;

        for (unsigned i = 0; i < count; i++) {
            memcpy(late->bytes + done, iov[i].iov_base, iov[i].iov_len);
            done += iov[i].iov_len;
        }
        faults_keep(net, late);
        return fault_hit(hits, UMBRA_FAULT_DUPLICATE) ? net_send(pair, iov, count, size)
                                                      : 0;
    }
    ret = net_send(pair, iov, count, size);
    if (ret == 0 && fault_hit(hits, UMBRA_FAULT_DUPLICATE)) {
        ret = net_send(pair, iov, count, size);
        ret = ret == -EAGAIN ? 0 : ret; /* it went once */
    }
    return ret;
}

void net_faults_forget(struct virtio_net *net)
{
    struct net_faults *faults = net->faults;

    while (faults != NULL && faults->late != NULL) {
        struct net_late *late = faults->late;

        faults->late = late->next;
        free(late);
    }
    if (faults != NULL) {
        faults->count = 0;
    }
    for (unsigned i = 0; i < net->pair_count; i++) {
        net->pairs[i].twice = net->pairs[i].again = false;
    }
}

void net_faults_destroy(struct virtio_net *net)
{
    if (net->faults != NULL) {
        loop_timer_destroy(net->faults->timer);
        net_faults_forget(net);
        free(net->faults);
        net->faults = NULL;
    }
}
