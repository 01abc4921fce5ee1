/* SPDX-License-Identifier: MIT */
/* virtio-net: a back end whose other end is gone, and comes back. */
#include <poll.h>
#include <string.h>

#include "base/util.h"
#include "virtio/net/net.h"

enum { NET_REOPEN_MS = 1000 };

static void net_reopen_later(struct virtio_net *net)
{
    loop_timer_arm(net->reopen, clock_ns() + NET_REOPEN_MS * UINT64_C(1000000));
}

void net_lost(struct virtio_net *net, int error)
{
    log_warning(net->device.env->log,
                "%s: the %s back end is gone: %s; the guest's link is down%s",
                net->device.id, net->backend->ops->type, strerror(error),
                net->reopen != NULL ? " until it is back" : "");
    net->lost = true;
    net_update_link(net);
    if (net->reopen != NULL) {
        net_reopen_later(net);
    }
}

/* Loop thread, device's lock held. */
static void net_reopen(void *context)
{
    struct virtio_net *net = context;
    struct loop *loop = net->device.env->loop;
    bool there;

    if (!net->lost) {
        return;
    }
    for (unsigned i = 0; i < net->pair_count;
         i++) { /* before its descriptor is another */
        loop_watch_remove(net->pairs[i].ready_watch);
        net->pairs[i].ready_watch = NULL;
    }
    there = net->backend->ops->reopen(net->backend) == 0;
    for (unsigned i = 0; there && i < net->pair_count; i++) {
        struct net_pair *pair = &net->pairs[i];

        there = loop_watch_add(loop, net->backend->fds[i], 0, &net->device.lock,
                               net_ready, pair, &pair->ready_watch) == 0;
        pair->tx_blocked = false;
    }
    if (!there) {
        net_reopen_later(net);
        return;
    }
    log_info(net->device.env->log, "%s: the %s back end is there again", net->device.id,
             net->backend->ops->type);
    net->lost = false;
    net_update_link(net);
    for (unsigned i = 0; i < net->pair_count; i++) {
        net_serve(&net->pairs[i]);
    }
}

int net_reopen_init(struct virtio_net *net)
{
    if (net->backend->ops->reopen == NULL || net->device.env->loop == NULL) {
        return 0;
    }
    return loop_timer_create(net->device.env->loop, &net->device.lock, net_reopen, net,
                             &net->reopen);
}
