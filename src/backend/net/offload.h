/* SPDX-License-Identifier: MIT */
/* What a guest left to its network card, done in software for other ends that take plain
 * frames only (virtio 1.2, 5.1.6.2). Headers come checked by the device. */
#ifndef BACKEND_NET_OFFLOAD_H
#define BACKEND_NET_OFFLOAD_H

#include <linux/virtio_net.h>

#include "backend/net/net.h"

enum {
    NET_SEGMENTS_MAX = 256, /* of one frame: more is no honest use of it */
    NET_SEGMENT_HEADERS = 14 + 60 + 60,
    NET_SEGMENT_LENGTH = 4, /* before each segment: its size, big-endian */
};

/* Put the checksum in that NEEDS_CSUM leaves out. */
void net_checksum_complete(const struct virtio_net_hdr_v1 *header, uint8_t *frame,
                           size_t size);

/*
 * Cut a TCP frame (GSO_TCPV4 or GSO_TCPV6) into whole ones, each behind its length, at
 * @out of @room bytes. Yields their bytes; -EINVAL: not such a frame, -EMSGSIZE: too many.
 */
ssize_t net_segment(const struct virtio_net_hdr_v1 *header, const uint8_t *frame,
                    size_t size, uint8_t *out, size_t room);

#endif
