/* SPDX-License-Identifier: MIT */
/* Between virtio.c and faults.c: interrupts that are seen, and may be lost. */
#ifndef VIRTIO_FAULTS_H
#define VIRTIO_FAULTS_H

#include "virtio/virtio.h"

/* An interrupt is to be raised (@queue NULL: a configuration change): tell who looks, and
 * answer whether it is lost. */
bool virtio_interrupt_lost(struct virtio_device *device, struct virtio_queue *queue);

/*
 * External back ends signal the kernel's irqfd past all of this. While interrupts may be
 * lost they get queue->relay_fd instead, which the loop turns into interrupts. True when it
 * is open.
 */
bool virtio_queue_relay_open(struct virtio_queue *queue);
void virtio_queue_relay_close(struct virtio_queue *queue);

#endif
