/* SPDX-License-Identifier: MIT */
/* Checksums and TCP segmentation in software. */
#include "backend/net/offload.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/util.h"

enum {
    ETHERNET = 14,
    TCP = 6,
    TCP_SEQUENCE = 4,
    TCP_FLAGS = 13,
    TCP_CHECKSUM = 16,
    TCP_LAST_ONLY = 0x09, /* FIN, PSH */
    UDP_CHECKSUM = 6,
    IPV4_HEADER = 20,
    IPV6_HEADER = 40,
};

static uint16_t load_be16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static void store_be16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* Ones' complement sum of @size bytes as 16-bit words (RFC 1071), added to @sum. */
static uint64_t sum_add(uint64_t sum, const uint8_t *at, size_t size)
{
    for (; size >= 4; size -= 4, at += 4) {
        sum += load_le32(at);
    }
    if (size >= 2) {
        sum += load_le16(at);
        at += 2;
        size -= 2;
    }
    return sum + (size > 0 ? at[0] : 0);
}

/* Folded and complemented, still in the order of the bytes that were summed up. */
static uint16_t sum_end(uint64_t sum)
{
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)~sum;
}

void net_checksum_complete(const struct virtio_net_hdr_v1 *header, uint8_t *frame,
                           size_t size)
{
    size_t start = le16toh(header->csum_start), offset = le16toh(header->csum_offset);
    uint16_t sum = sum_end(sum_add(0, frame + start, size - start));

    if (sum == 0 && offset == UDP_CHECKSUM) {
        sum = 0xffff; /* RFC 768: 0 says that there is none */
    }
    store_le16(frame + start + offset, sum);
}

struct segments {
    const uint8_t *frame;
    bool v6;
    size_t ip, tcp, headers; /* sizes: of IP's header, of TCP's, of all */
};

static bool segments_parse(const struct virtio_net_hdr_v1 *header, const uint8_t *frame,
                           size_t size, struct segments *s)
{
    size_t start = le16toh(header->csum_start);

    *s = (struct segments){ .frame = frame,
                            .v6 = header->gso_type == VIRTIO_NET_HDR_GSO_TCPV6 };
    if (start < ETHERNET + (s->v6 ? IPV6_HEADER : IPV4_HEADER) || start + 20 > size ||
        le16toh(header->csum_offset) != TCP_CHECKSUM ||
        load_be16(frame + 12) != (s->v6 ? 0x86dd : 0x0800)) {
        return false;
    }
    s->ip = start - ETHERNET;
    s->tcp = (size_t)(frame[start + 12] >> 4) * 4;
    s->headers = start + s->tcp;
    if (!s->v6 && ((frame[ETHERNET] & 0xf) * 4u != s->ip || frame[ETHERNET + 9] != TCP)) {
        return false;
    }
    return s->tcp >= 20 && s->headers < size && s->headers <= NET_SEGMENT_HEADERS;
}

/* Make the copied headers at @out those of the segment at @offset of the payload. */
static void segment_finish(const struct segments *s, uint8_t *out, size_t offset,
                           size_t payload, bool last, unsigned number)
{
    uint8_t *ip = out + ETHERNET, *tcp = ip + s->ip, protocol[4] = { 0, TCP };
    size_t tcp_size = s->tcp + payload;
    uint64_t sum;

    if (s->v6) {
        store_be16(ip + 4, (uint16_t)(s->ip - IPV6_HEADER + tcp_size));
    } else {
        store_be16(ip + 2, (uint16_t)(s->ip + tcp_size));
        store_be16(ip + 4, (uint16_t)(load_be16(ip + 4) + number));
        store_le16(ip + 10, 0);
        store_le16(ip + 10, sum_end(sum_add(0, ip, s->ip)));
    }
    store_le32(tcp + TCP_SEQUENCE,
               htobe32(be32toh(load_le32(tcp + TCP_SEQUENCE)) + (uint32_t)offset));
    if (!last) {
        tcp[TCP_FLAGS] &= (uint8_t)~TCP_LAST_ONLY;
    }
    /* The pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) and the segment. */
    sum = s->v6 ? sum_add(0, ip + 8, 32) : sum_add(0, ip + 12, 8);
    store_be16(protocol + 2, (uint16_t)tcp_size);
    sum = sum_add(sum, protocol, sizeof(protocol));
    store_le16(tcp + TCP_CHECKSUM, 0);
    store_le16(tcp + TCP_CHECKSUM, sum_end(sum_add(sum, tcp, tcp_size)));
}

ssize_t net_segment(const struct virtio_net_hdr_v1 *header, const uint8_t *frame,
                    size_t size, uint8_t *out, size_t room)
{
    size_t step = le16toh(header->gso_size), used = 0, payload;
    struct segments s;

    if (step == 0 || !segments_parse(header, frame, size, &s)) {
        return -EINVAL;
    }
    payload = size - s.headers;
    if ((payload + step - 1) / step > NET_SEGMENTS_MAX) {
        return -EMSGSIZE;
    }
    for (size_t at = 0; at < payload; at += step) {
        bool last = payload - at <= step;
        size_t piece = last ? payload - at : step;
        size_t whole = s.headers + piece;

        if (room - used < NET_SEGMENT_LENGTH + whole) {
            return -EMSGSIZE;
        }
        store_le32(out + used, htobe32((uint32_t)whole));
        used += NET_SEGMENT_LENGTH;
        memcpy(out + used, frame, s.headers);
        memcpy(out + used + s.headers, frame + s.headers + at, piece);
        segment_finish(&s, out + used, at, piece, last, (unsigned)(at / step));
        used += whole;
    }
    return (ssize_t)used;
}
