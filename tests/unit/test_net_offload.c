/* SPDX-License-Identifier: MIT */
/* Checksums and TCP segmentation in software, against a plain model of both; and headers
 * that ask for what cannot be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/net/offload.h"
#include "base/util.h"

enum { TCP_HEADER = 32 };

static uint8_t frame[NET_FRAME_MAX], out[2 * NET_FRAME_MAX];

/* RFC 1071 as it is written: 16-bit words in network order. */
static unsigned model_sum(unsigned sum, const uint8_t *at, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        sum += i % 2 == 0 ? (unsigned)at[i] << 8 : at[i];
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static unsigned be16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static uint32_t be32(const uint8_t *at)
{
    return be16(at) << 16 | be16(at + 2);
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* The sum over the pseudo-header and all of TCP; 0xffff: it is right. */
static unsigned tcp_sum(const uint8_t *ip, bool v6, size_t ip_size, size_t tcp_size)
{
    uint8_t rest[4] = { 0, 6 };
    unsigned sum = v6 ? model_sum(0, ip + 8, 32) : model_sum(0, ip + 12, 8);

    put16(rest + 2, (unsigned)tcp_size);
    sum = model_sum(sum, rest, sizeof(rest));
    return model_sum(sum, ip + ip_size, tcp_size);
}

/* As a driver leaves it: all headers whole but TCP's checksum. */
static struct virtio_net_hdr_v1 make(bool v6, size_t payload, unsigned step)
{
    size_t ip_size = v6 ? 40 : 24, start = 14 + ip_size;
    uint8_t *ip = frame + 14, *tcp = ip + ip_size;
    struct virtio_net_hdr_v1 header = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
        .gso_size = htole16((uint16_t)step),
        .csum_start = htole16((uint16_t)start),
        .csum_offset = htole16(16),
    };

    for (size_t i = 0; i < start + TCP_HEADER + payload; i++) {
        frame[i] = (uint8_t)(i * 7 + i / 251);
    }
    put16(frame + 12, v6 ? 0x86dd : 0x0800);
    if (v6) {
        ip[0] = 0x60;
        ip[6] = 6;
        put16(ip + 4, (unsigned)(TCP_HEADER + payload));
    } else {
        ip[0] = 0x46; /* with an option */
        ip[9] = 6;
        put16(ip + 2, (unsigned)(ip_size + TCP_HEADER + payload));
        put16(ip + 4, 0xfffe); /* the identification wraps */
    }
    put16(tcp + 4, 0xffff); /* and so does the sequence number */
    put16(tcp + 6, 0xff00);
    tcp[12] = TCP_HEADER / 4 << 4;
    tcp[13] = 0x19; /* ACK, PSH, FIN */
    return header;
}

static void check_segments(bool v6, size_t payload, unsigned step)
{
    struct virtio_net_hdr_v1 header = make(v6, payload, step);
    size_t ip_size = v6 ? 40 : 24, headers = 14 + ip_size + TCP_HEADER, at = 0, done = 0;
    ssize_t made = net_segment(&header, frame, headers + payload, out, sizeof(out));
    const uint8_t *tcp = frame + 14 + ip_size;

    assert_true(made > 0);
    for (unsigned i = 0; done < payload; i++) {
        size_t piece = payload - done < step ? payload - done : step;
        const uint8_t *ip = out + at + 4 + 14, *t = ip + ip_size;
        bool last = done + piece == payload;

        assert_int_equal(be32(out + at), headers + piece);
        assert_memory_equal(out + at + 4, frame, 14);
        assert_memory_equal(t + TCP_HEADER, tcp + TCP_HEADER + done, piece);
        assert_int_equal(be32(t + 4), be32(tcp + 4) + (uint32_t)done);
        assert_int_equal(t[13], last ? 0x19 : 0x10);
        assert_int_equal(tcp_sum(ip, v6, ip_size, TCP_HEADER + piece), 0xffff);
        if (v6) {
            assert_int_equal(be16(ip + 4), TCP_HEADER + piece);
        } else {
            assert_int_equal(be16(ip + 2), ip_size + TCP_HEADER + piece);
            assert_int_equal(be16(ip + 4), (0xfffe + i) & 0xffff);
            assert_int_equal(model_sum(0, ip, ip_size), 0xffff);
        }
        at += 4 + headers + piece;
        done += piece;
    }
    assert_int_equal(at, made);
}

static void segments(void **state)
{
    (void)state;
    for (unsigned v6 = 0; v6 < 2; v6++) {
        check_segments(v6, 1, 1448);
        check_segments(v6, 1448, 1448);
        check_segments(v6, 1449, 1448);
        check_segments(v6, 65000, 1448);
        check_segments(v6, 5001, 999);
        check_segments(v6, NET_SEGMENTS_MAX, 1);
    }
}

static void segments_refused(void **state)
{
    struct virtio_net_hdr_v1 good = make(false, 5000, 1000), header;
    size_t size = 14 + 24 + TCP_HEADER + 5000;

    (void)state;
    assert_true(net_segment(&good, frame, size, out, sizeof(out)) > 0);
    assert_int_equal(net_segment(&good, frame, size, out, 3000), -EMSGSIZE);
    header = good;
    header.gso_size = 0;
    assert_int_equal(net_segment(&header, frame, size, out, sizeof(out)), -EINVAL);
    header.gso_size = htole16(19); /* more than NET_SEGMENTS_MAX of them */
    assert_int_equal(net_segment(&header, frame, size, out, sizeof(out)), -EMSGSIZE);
    header = good;
    header.csum_start = htole16(34); /* not where IP's header ends */
    assert_int_equal(net_segment(&header, frame, size, out, sizeof(out)), -EINVAL);
    header.csum_start = htole16((uint16_t)(size - 10));
    assert_int_equal(net_segment(&header, frame, size, out, sizeof(out)), -EINVAL);
    header = good;
    header.csum_offset = htole16(6);
    assert_int_equal(net_segment(&header, frame, size, out, sizeof(out)), -EINVAL);
    header = good;
    header.gso_type = VIRTIO_NET_HDR_GSO_TCPV6; /* it is IPv4 */
    assert_int_equal(net_segment(&header, frame, size, out, sizeof(out)), -EINVAL);
    frame[14 + 24 + 12] = 0x40; /* a TCP header of 16 bytes */
    assert_int_equal(net_segment(&good, frame, size, out, sizeof(out)), -EINVAL);
    frame[14 + 24 + 12] = 0xf0; /* and of 60, where the frame ends before */
    assert_int_equal(net_segment(&good, frame, 14 + 24 + 60, out, sizeof(out)), -EINVAL);
    frame[14 + 24 + 12] = 0x80;
    frame[14 + 9] = 17; /* UDP */
    assert_int_equal(net_segment(&good, frame, size, out, sizeof(out)), -EINVAL);
}

/* The field holds the pseudo-header's sum, which is part of the whole. */
static void checksums(void **state)
{
    struct virtio_net_hdr_v1 header = { .csum_start = htole16(20) };

    (void)state;
    for (size_t size = 40; size < 140; size++) {
        unsigned sum;

        for (size_t i = 0; i < size; i++) {
            frame[i] = (uint8_t)(i * size + 3);
        }
        sum = model_sum(0, frame + 20, size - 20);
        header.csum_offset = htole16(16);
        net_checksum_complete(&header, frame, size);
        assert_int_equal(be16(frame + 36), 0xffff & ~sum);
    }
    memset(frame, 0xff, 64);
    header.csum_offset = htole16(6);
    net_checksum_complete(&header, frame, 30);
    assert_int_equal(be16(frame + 26), 0xffff); /* UDP's zero is written as ones */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments),
        cmocka_unit_test(segments_refused),
        cmocka_unit_test(checksums),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
