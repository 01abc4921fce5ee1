/* SPDX-License-Identifier: MIT */
/*
 * A hostile driver of a whole virtio-blk: the input is the contents of guest memory, from
 * the rings on, and how often to kick. The device's thread works on it; a reset must
 * always bring it back, and an ordinary request must work then.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/virtio_blk.h>

#include "backend/disk/overlay.h"
#include "unit/mmio_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"
#include "virtqueue_fuzz.h"

enum { QUEUE = 16, DISK = 1 << 16 };

static void start(struct device *device, bool packed)
{
    const struct drv rings = {
        .size = QUEUE, .desc = FUZZ_DESC, .driver = FUZZ_DRIVER, .device = FUZZ_DEVICE
    };

    mmio_negotiate(device, UINT64_C(1) << 32 | (packed ? UINT64_C(1) << 34 : 0) |
                               1u << 28 | 1u << VIRTIO_BLK_F_FLUSH);
    mmio_queue_ready(device, 0, &rings);
    mmio_set(device, VIRTIO_MMIO_STATUS, MMIO_DRIVER_OK);
}

static struct device *make(const struct device_env *env)
{
    struct virtio_blk_options options = { .id = "disk0", .queue_size = QUEUE };
    struct virtio_device *vdev;
    struct umbra_error error;
    struct device *device;
    struct disk *disk;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    FUZZ_EXPECT(fd >= 0 && ftruncate(fd, DISK) == 0);
    FUZZ_EXPECT(disk_file_adopt(fd, "fuzz", env->log, &disk, &error) == 0);
    FUZZ_EXPECT(virtio_blk_create(env, &options, disk, &vdev, &error) == 0);
    FUZZ_EXPECT(virtio_mmio_create(env, 20, vdev, &device, &error) == 0);
    return device;
}

/* Read sector 0 over a split ring. */
static void ordinary_request(struct guest_mem *mem, struct device *device)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } chain[] = { { 0x1000, 16, 1, 1 }, { 0x2000, 512, 3, 2 }, { 0x1100, 1, 2, 0 } };
    const uint8_t status = 0xff, available[] = { 0, 0, 1, 0, 0, 0 };
    uint8_t answer = 0xff;

    guest_mem_fill(mem, 0, 0, FUZZ_RAM);
    start(device, false);
    guest_mem_write(mem, FUZZ_DESC, chain, sizeof(chain));
    guest_mem_write(mem, 0x1100, &status, 1);
    guest_mem_write(mem, FUZZ_DRIVER, available, sizeof(available));
    mmio_set(device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    for (unsigned i = 0; i < 100000 && answer != 0; i++) {
        guest_mem_read(mem, 0x1100, &answer, 1);
        usleep(answer != 0 ? 20 : 0);
    }
    FUZZ_EXPECT(answer == 0);
    mmio_set(device, VIRTIO_MMIO_STATUS, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct log none;
    static struct device_env env;
    static struct device *device;
    static unsigned runs;
    struct fuzz_input in = { data, size };
    struct guest_mem *mem = fuzz_ram();
    unsigned flags = fuzz_byte(&in), kicks = flags / 2 % 4;

    if (device == NULL) {
        env = (struct device_env){ .mem = mem, .log = &none };
        device = make(&env);
    }
    guest_mem_write(mem, 0, in.at, in.left < FUZZ_RAM ? in.left : FUZZ_RAM);
    start(device, flags & 1);
    for (unsigned i = 0; i <= kicks; i++) {
        mmio_set(device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    }
    mmio_set(device, VIRTIO_MMIO_STATUS, 0);
    FUZZ_EXPECT(mmio_get(device, VIRTIO_MMIO_STATUS) == 0);
    if (runs++ % 64 == 0) {
        ordinary_request(mem, device);
    }
    return 0;
}
