/* SPDX-License-Identifier: MIT */
/*
 * A hostile vhost-user back end: the input is all that it ever says, on the socket and (the
 * part that the first byte gives) on its channel for requests. The front end must come
 * through every call, and notice the end.
 */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "virtio/vhost/user.h"

enum { INPUT_MAX = 32 << 10, CONFIG_SIZE = 60 };

static void feed(int fd, const uint8_t *data, size_t size)
{
    FUZZ_EXPECT(write(fd, data, size) == (ssize_t)size);
    FUZZ_EXPECT(shutdown(fd, SHUT_WR) == 0);
}

static void use(struct vhost_user *vu, int kick, int memory)
{
    const struct vhost_user_region region = { .size = 4096, .fd = memory };
    const struct remote_queue queue = { .size = 16, .kick_fd = kick, .call_fd = kick };
    uint8_t config[CONFIG_SIZE];
    uint16_t base = 0;
    int ret;

    ret = vhost_user_get_config(vu, config, sizeof(config));
    if (ret == 0) {
        ret = vhost_user_set_memory(vu, &region, 1);
    }
    if (ret == 0) {
        ret = vhost_user_set_features(vu, vu->features);
    }
    if (ret == 0) {
        ret = vu->remote.ops->queue_start(&vu->remote, &queue);
    }
    if (ret == 0) {
        ret = vhost_user_set_config(vu, 32, config, 1);
    }
    if (ret == 0) {
        ret = vu->remote.ops->queue_stop(&vu->remote, 0, &base);
    }
    FUZZ_EXPECT(ret == 0 || (vu->broken && vu->fault[0] != '\0'));
    while (!vu->broken) {
        vhost_user_heard(vu);
    }
    FUZZ_EXPECT(vhost_user_set_features(vu, 0) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vhost_user *vu = NULL;
    struct umbra_error error = { 0 };
    int pair[2], channel[2];
    int kick = eventfd(0, EFD_NONBLOCK), memory = memfd_create("fuzz", 0);
    size_t split = 0;

    if (size > 0) {
        split = (size_t)data[0] * 4;
        data++;
        size--;
    }
    size = size < INPUT_MAX ? size : INPUT_MAX;
    split = split < size ? split : size;
    FUZZ_EXPECT(kick >= 0 && memory >= 0 && ftruncate(memory, 4096) == 0);
    FUZZ_EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    FUZZ_EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, channel) == 0);
    feed(pair[1], data, size - split);
    if (vhost_user_open(pair[0], "fuzz", UINT64_MAX & ~(UINT64_C(1) << 5), 20, &vu,
                        &error) == 0) {
        vu->backend_fd = channel[0];
        feed(channel[1], data + size - split, split);
        use(vu, kick, memory);
        vhost_user_close(vu);
    } else {
        FUZZ_EXPECT(error.message[0] != '\0');
        close(channel[0]);
    }
    close(channel[1]);
    close(pair[1]);
    close(kick);
    close(memory);
    return 0;
}
