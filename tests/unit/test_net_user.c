/* SPDX-License-Identifier: MIT */
/*
 * The user-mode network as its device sees it: a guest made of frames, the host's sockets,
 * and one descriptor that says when there is something to receive.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "backend/net/net.h"
#include "base/util.h"

enum { PATIENCE_MS = 10000, PAYLOAD = NET_HEADER + ETH_HLEN };

static const uint8_t guest_mac[] = { 0x52, 0x54, 0, 1, 2, 3 };

struct rig {
    struct net_backend *backend;
    size_t size;      /* of the frame */
    uint8_t align[2]; /* of the IP header, 26 bytes into the frame */
    uint8_t frame[NET_HEADER + NET_FRAME_MAX];
};

static void rig_open(struct rig *r, const struct net_user_options *options)
{
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    assert_int_equal(net_user_open(options, &r->backend, &error), 0);
}

static void rig_close(struct rig *r)
{
    net_backend_destroy(r->backend);
}

static uint16_t frame_protocol(const struct rig *r)
{
    return (uint16_t)(r->frame[NET_HEADER + 12] << 8 | r->frame[NET_HEADER + 13]);
}

/* Send what is in the frame, @size bytes behind the Ethernet header. */
static void rig_send(struct rig *r, uint16_t protocol, size_t size)
{
    static const uint8_t other[] = {
        0x52, 0x55, 10, 0, 2, 2
    }; /* the host's, as slirp has it */
    uint8_t *ethernet = r->frame + NET_HEADER;
    struct iovec iov[2] = { { r->frame, NET_HEADER }, { ethernet, ETH_HLEN + size } };

    memset(r->frame, 0, NET_HEADER);
    memcpy(ethernet, other, ETH_ALEN);
    memcpy(ethernet + ETH_ALEN, guest_mac, ETH_ALEN);
    ethernet[12] = (uint8_t)(protocol >> 8);
    ethernet[13] = (uint8_t)protocol;
    assert_int_equal(r->backend->ops->send(r->backend, 0, iov, 2), 0);
}

/* Look for a frame as the device does: at once, and whenever the descriptor says so. */
static bool rig_receive(struct rig *r, int64_t patience_ms)
{
    uint64_t end = clock_ns() + (uint64_t)patience_ms * 1000000;
    struct pollfd ready = { .fd = r->backend->fds[0], .events = POLLIN };
    ssize_t got;

    while ((got = r->backend->ops->receive(r->backend, 0, r->frame, sizeof(r->frame))) ==
           -EAGAIN) {
        int64_t left = (int64_t)(end - clock_ns()) / 1000000;

        if (left <= 0 || poll(&ready, 1, (int)left) == 0) {
            return false;
        }
    }
    assert_true(got >= NET_HEADER + NET_FRAME_MIN);
    r->size = (size_t)got;
    return true;
}

/* Wait for a frame with IP @protocol; others are router advertisements and ARP. */
static void *rig_expect(struct rig *r, uint8_t protocol)
{
    struct iphdr *ip = (struct iphdr *)(r->frame + PAYLOAD);

    do {
        assert_true(rig_receive(r, PATIENCE_MS));
    } while (frame_protocol(r) != ETH_P_IP || ip->protocol != protocol);
    return ip + 1;
}

/* Something that came by itself wakes the device. */
static void rig_woken(struct rig *r)
{
    struct pollfd ready = { .fd = r->backend->fds[0], .events = POLLIN };

    assert_int_equal(poll(&ready, 1, PATIENCE_MS), 1);
}

static uint16_t checksum(const void *bytes, size_t size, uint32_t sum)
{
    for (size_t i = 0; i < size; i += 2) {
        sum +=
            (uint32_t)((const uint8_t *)bytes)[i] << 8 | ((const uint8_t *)bytes)[i + 1];
    }
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t) ~((sum & 0xffff) + (sum >> 16));
}

/* Send what is behind the IP header to 10.0.2.2. */
static void rig_send_ip(struct rig *r, uint8_t protocol, size_t size)
{
    struct iphdr *ip = (struct iphdr *)(r->frame + PAYLOAD);

    *ip = (struct iphdr){ .ihl = 5,
                          .version = 4,
                          .tot_len = htons((uint16_t)(sizeof(*ip) + size)),
                          .ttl = 64,
                          .protocol = protocol,
                          .saddr = inet_addr("10.0.2.15"),
                          .daddr = inet_addr("10.0.2.2") };
    ip->check = htons(checksum(ip, sizeof(*ip), 0));
    rig_send(r, ETH_P_IP, sizeof(*ip) + size);
}

/* Ask for 10.0.2.2's address: slirp learns the guest's by it. */
static void rig_arp(struct rig *r)
{
    static const uint8_t request[] = {
        0,  1, 8, 0,  6, 4, 0, 1, 0x52, 0x54, 0,  1, 2, 3,
        10, 0, 2, 15, 0, 0, 0, 0, 0,    0,    10, 0, 2, 2,
    };

    memcpy(r->frame + PAYLOAD, request, sizeof(request));
    rig_send(r, ETH_P_ARP, sizeof(request));
    do {
        assert_true(rig_receive(r, PATIENCE_MS));
    } while (frame_protocol(r) != ETH_P_ARP);
    assert_int_equal(r->frame[PAYLOAD + 7], 2); /* a reply */
    assert_memory_equal(r->frame + PAYLOAD + 14, request + 24, 4);
}

static int bound(int type, uint16_t *port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(at);
    int fd = socket(AF_INET, type, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &length), 0);
    *port = ntohs(at.sin_port);
    return fd;
}

/* Many sockets of slirp's, each of which has to wake the device. */
static void test_datagrams(void **state)
{
    struct net_user_options options = { .mtu = 1500 };
    struct sockaddr_in from;
    struct rig r;
    uint16_t port;
    int fd = bound(SOCK_DGRAM, &port);

    rig_open(&r, &options);
    rig_arp(&r);
    for (uint16_t i = 0; i < 150; i++) {
        struct udphdr *udp = (struct udphdr *)(r.frame + PAYLOAD + sizeof(struct iphdr));
        socklen_t length = sizeof(from);
        uint16_t text = i;

        *udp = (struct udphdr){ .source = htons(2000 + i),
                                .dest = htons(port),
                                .len = htons(sizeof(*udp) + sizeof(text)) };
        memcpy(udp + 1, &text, sizeof(text));
        rig_send_ip(&r, IPPROTO_UDP, sizeof(*udp) + sizeof(text));
        text = 0;
        assert_int_equal(
            recvfrom(fd, &text, sizeof(text), 0, (struct sockaddr *)&from, &length),
            sizeof(text));
        assert_int_equal(text, i);
        while (rig_receive(&r, 0)) { /* now it sleeps */
        }
        text = i ^ 0x5555;
        assert_int_equal(
            sendto(fd, &text, sizeof(text), 0, (struct sockaddr *)&from, length),
            sizeof(text));
        rig_woken(&r);
        udp = rig_expect(&r, IPPROTO_UDP);
        assert_int_equal(ntohs(udp->dest), 2000 + i);
        memcpy(&text, udp + 1, sizeof(text));
        assert_int_equal(text, i ^ 0x5555);
    }
    rig_close(&r);
    close(fd);
}

/* Answer @to, a segment from slirp, with these flags. */
static void rig_send_tcp(struct rig *r, const struct tcphdr *to, uint32_t seq, bool syn,
                         bool rst)
{
    struct tcphdr *tcp = (struct tcphdr *)(r->frame + PAYLOAD + sizeof(struct iphdr));
    const uint32_t pseudo_header =
        2 * (10 << 8) + 2 * (2 << 8) + 15 + 2 + IPPROTO_TCP + sizeof(*tcp);

    *tcp = (struct tcphdr){ .source = to->dest,
                            .dest = to->source,
                            .seq = htonl(seq),
                            .ack_seq = htonl(ntohl(to->seq) + 1),
                            .doff = sizeof(*tcp) / 4,
                            .syn = syn,
                            .rst = rst,
                            .ack = 1,
                            .window = htons(8192) };
    tcp->check = htons(checksum(tcp, sizeof(*tcp), pseudo_header));
    rig_send_ip(r, IPPROTO_TCP, sizeof(*tcp));
}

/*
 * A client of a forwarded port reaches the guest, says a byte, and is thrown out; again and
 * again, so that the numbers of closed descriptors come back as others.
 */
static void test_forward(void **state)
{
    struct net_forward forward = { .host_address = "",
                                   .guest_address = "",
                                   .guest_port = 80 };
    struct net_user_options options = { .mtu = 1500,
                                        .forwards = &forward,
                                        .forward_count = 1 };
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct rig r;

    close(bound(SOCK_STREAM, &forward.host_port));
    at.sin_port = htons(forward.host_port);
    rig_open(&r, &options);
    rig_arp(&r);
    for (int i = 0; i < 50; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        const struct iphdr *ip = (struct iphdr *)(r.frame + PAYLOAD);
        struct tcphdr *tcp, syn;
        char byte = (char)i;

        while (rig_receive(&r, 0)) { /* now it sleeps */
        }
        assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
        rig_woken(&r);
        tcp = rig_expect(&r, IPPROTO_TCP);
        syn = *tcp;
        assert_true(syn.syn && !syn.ack && ntohs(syn.dest) == 80);
        rig_send_tcp(&r, &syn, 1000, true, false);
        while (rig_receive(&r, 0)) {
        }
        assert_int_equal(send(fd, &byte, 1, 0), 1);
        rig_woken(&r);
        do {
            tcp = rig_expect(&r, IPPROTO_TCP);
        } while (ntohs(ip->tot_len) == sizeof(*ip) + tcp->doff * 4u);
        assert_int_equal(((char *)tcp)[tcp->doff * 4], byte);
        syn = *tcp;
        rig_send_tcp(&r, &syn, 1001, false, true);
        while (rig_receive(&r, 0)) {
        }
        assert_true(recv(fd, &byte, 1, 0) <= 0); /* closed */
        close(fd);
    }
    rig_close(&r);
}

static void test_forward_taken(void **state)
{
    struct net_forward forward = { .host_address = "",
                                   .guest_address = "",
                                   .guest_port = 80 };
    struct net_user_options options = { .mtu = 1500,
                                        .forwards = &forward,
                                        .forward_count = 1 };
    struct net_backend *backend;
    struct umbra_error error;
    int taken = bound(SOCK_STREAM, &forward.host_port);
    char port[16];

    assert_int_equal(listen(taken, 1), 0);
    assert_true(net_user_open(&options, &backend, &error) < 0);
    snprintf(port, sizeof(port), "%u", forward.host_port);
    assert_non_null(strstr(error.message, port));
    close(taken);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_datagrams),
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_forward_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
