/* SPDX-License-Identifier: MIT */
/* virtio-pci behind a PCI host, found and driven as a driver does: capabilities, doorbells
 * that follow the BAR, MSI-X with masking, INTA, the configuration access window. */
#include "fake_env.h"

#include <poll.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "devices/pci/pci.h"
#include "memory/guest_mem.h"
#include "unit/virtqueue_driver.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"

#define ECAM   UINT64_C(0xe0000000)
#define MMIO64 UINT64_C(0x800000000)

enum { RAM = 4 << 20, BUFFER = 2 << 20, SLOT = 1, QUEUE = 64 };

struct bell {
    uint64_t address;
    int fd;
    bool there;
};

struct rig {
    struct fake_env fake;
    struct guest_mem *mem;
    struct bus *pio, *mmio;
    struct pci_host *host;
    struct virtio_device *vdev;
    struct pci_function *function;
    struct bell bell;
    uint64_t bar; /* where the structures are */
    uint64_t common, isr, notify;
    uint32_t multiplier;
    unsigned msix_cap, access_cap;
    uint64_t table, pba;
    struct drv drv;
};

static int rig_doorbell(void *context, bool mmio, uint64_t address, unsigned length,
                        bool match, uint64_t value, int fd, bool add)
{
    struct rig *r = context;

    assert_true(mmio && !match && length == 0 && value == 0);
    if (!add) {
        assert_true(r->bell.there && r->bell.address == address && r->bell.fd == fd);
    }
    r->bell = (struct bell){ address, fd, add };
    return 0;
}

static uint32_t config_get(struct rig *r, unsigned offset, unsigned size)
{
    uint64_t value;

    assert_true(bus_read(r->mmio, ECAM + (SLOT << 15) + offset, size, &value));
    return (uint32_t)value;
}

static void config_set(struct rig *r, unsigned offset, unsigned size, uint32_t value)
{
    assert_true(bus_write(r->mmio, ECAM + (SLOT << 15) + offset, size, value));
}

static uint64_t get(struct rig *r, uint64_t address, unsigned size)
{
    uint64_t value;

    assert_true(bus_read(r->mmio, address, size, &value));
    return value;
}

static void set(struct rig *r, uint64_t address, unsigned size, uint64_t value)
{
    assert_true(bus_write(r->mmio, address, size, value));
}

/* Walk the capabilities (4.1.4). */
static void rig_find(struct rig *r)
{
    r->bar = (config_get(r, 0x10, 4) & ~15u) | (uint64_t)config_get(r, 0x14, 4) << 32;
    assert_int_equal(config_get(r, 0x10, 4) & 15, 4); /* 64 bits, not prefetchable */
    for (unsigned cap = config_get(r, 0x34, 1); cap != 0;
         cap = config_get(r, cap + 1, 1)) {
        uint64_t at = r->bar + config_get(r, cap + 8, 4);

        if (config_get(r, cap, 1) == 0x11) {
            r->msix_cap = cap;
            r->table = r->bar + (config_get(r, cap + 4, 4) & ~7u);
            r->pba = r->bar + (config_get(r, cap + 8, 4) & ~7u);
            assert_int_equal(config_get(r, cap + 2, 2) & 0x7ff, 1); /* two vectors */
            continue;
        }
        assert_int_equal(config_get(r, cap, 1), 9);
        assert_int_equal(config_get(r, cap + 4, 1), 0);
        switch (config_get(r, cap + 3, 1)) {
        case VIRTIO_PCI_CAP_COMMON_CFG:
            r->common = at;
            break;
        case VIRTIO_PCI_CAP_NOTIFY_CFG:
            r->notify = at;
            r->multiplier = config_get(r, cap + 16, 4);
            break;
        case VIRTIO_PCI_CAP_ISR_CFG:
            r->isr = at;
            break;
        case VIRTIO_PCI_CAP_PCI_CFG:
            r->access_cap = cap;
            break;
        default:
            fail_msg("a structure that an rng does not have");
        }
    }
    assert_true(r->common && r->notify && r->isr && r->access_cap && r->msix_cap);
}

static void rig_open(struct rig *r)
{
    static const struct pci_host_config config = { .ecam_base = ECAM,
                                                   .ecam_size = 1 << 20,
                                                   .intx_gsi = { 16, 17, 18, 19 } };
    struct guest_mem_options options = { 0 };
    struct umbra_error error;

    memset(r, 0, sizeof(*r));
    fake_env_init(&r->fake, true);
    assert_int_equal(guest_mem_create(&options, &r->mem, &error), 0);
    assert_int_equal(guest_mem_add(r->mem, 0, RAM, GUEST_REGION_RAM, &error), 0);
    r->fake.env.mem = r->mem;
    r->fake.env.doorbell = rig_doorbell;
    r->fake.env.doorbell_context = r;
    assert_int_equal(bus_create("pio", &r->pio), 0);
    assert_int_equal(bus_create("mmio", &r->mmio), 0);
    assert_int_equal(
        pci_host_create(&r->fake.env, &config, r->pio, r->mmio, &r->host, &error), 0);
    assert_int_equal(virtio_rng_create(&r->fake.env, "rng", 0, &r->vdev, &error), 0);
    assert_int_equal(virtio_pci_create(&r->fake.env, r->vdev, &r->function, &error), 0);
    assert_int_equal(pci_host_add(r->host, r->function, SLOT, &error), 0);
    assert_int_equal(
        pci_host_assign_bars(r->host, 0xd0000000, 1 << 28, MMIO64, 1 << 30, &error), 0);
    assert_int_equal(loop_start(r->fake.env.loop, &error), 0);
    rig_find(r);
}

static void rig_close(struct rig *r)
{
    loop_stop(r->fake.env.loop);
    if (r->drv.mem != NULL) {
        drv_fini(&r->drv);
    }
    device_destroy(&r->function->device);
    pci_host_destroy(r->host);
    bus_destroy(r->pio);
    bus_destroy(r->mmio);
    fake_env_fini(&r->fake);
    guest_mem_destroy(r->mem);
}

static void rig_start(struct rig *r, unsigned vector)
{
    set(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1, 0);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1), 0);
    set(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1, 3);
    set(r, r->common + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    set(r, r->common + VIRTIO_PCI_COMMON_GF, 4, 1);
    set(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1, 11);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1), 11);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_NUMQ, 2), 1);
    if (r->drv.mem != NULL) {
        drv_fini(&r->drv);
    }
    drv_init(&r->drv, r->mem, 0x10000, QUEUE, false, false);
    set(r, r->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE);
    set(r, r->common + VIRTIO_PCI_COMMON_Q_MSIX, 2, vector);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_Q_MSIX, 2), vector);
    set(r, r->common + VIRTIO_PCI_COMMON_Q_DESCLO, 8, r->drv.desc);
    set(r, r->common + VIRTIO_PCI_COMMON_Q_AVAILLO, 4, (uint32_t)r->drv.driver);
    set(r, r->common + VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0);
    set(r, r->common + VIRTIO_PCI_COMMON_Q_USEDLO, 8, r->drv.device);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_Q_USEDLO, 8), r->drv.device);
    set(r, r->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    set(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1, 15);
}

static void request(struct rig *r)
{
    static const struct drv_buffer buffer = { BUFFER, 64, true };
    uint32_t length;

    assert_true(drv_add(&r->drv, &buffer, 1, r, 0));
    set(r, r->notify, 2, 0);
    WAIT_UNTIL(drv_used_there(&r->drv));
    assert_ptr_equal(drv_get(&r->drv, &length), r);
    assert_int_equal(length, 64);
}

static bool readable(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    return poll(&p, 1, 0) == 1;
}

static void test_identity(void **state)
{
    struct rig rig, *r = &rig;

    rig_open(r);
    assert_int_equal(config_get(r, 0, 4), 0x10441af4);
    assert_int_equal(config_get(r, 8, 1), 1); /* revision of a modern device */
    /* The BAR says its size, and the doorbell is where the notify structure is. */
    config_set(r, 4, 2, 0);
    config_set(r, 0x10, 4, UINT32_MAX);
    assert_int_equal(config_get(r, 0x10, 4) & ~15u, 0xffff8000);
    config_set(r, 0x10, 4, (uint32_t)r->bar);
    config_set(r, 4, 2, 6);
    assert_true(r->bell.there);
    assert_int_equal(r->bell.address, r->notify);
    assert_int_equal(r->bell.fd, r->vdev->queues[0].kick_fd);
    rig_close(r);
}

/* The BAR moves, and takes the doorbells along. */
static void test_relocation(void **state)
{
    struct rig rig, *r = &rig;
    uint64_t value, old;

    rig_open(r);
    old = r->common;
    config_set(r, 4, 2, 0);
    assert_false(r->bell.there);
    assert_false(bus_read(r->mmio, old, 4, &value));
    config_set(r, 0x14, 4, 9);
    config_set(r, 0x10, 4, 0x40000);
    config_set(r, 4, 2, 6);
    rig_find(r);
    assert_int_equal(r->bar, 0x900040000);
    assert_true(r->bell.there);
    assert_int_equal(r->bell.address, r->notify);
    rig_start(r, VIRTIO_NO_VECTOR);
    request(r);
    rig_close(r);
}

static void test_intx(void **state)
{
    struct rig rig, *r = &rig;

    rig_open(r);
    rig_start(r, VIRTIO_NO_VECTOR);
    for (unsigned i = 0; i < 3; i++) {
        request(r);
        WAIT_UNTIL(r->fake.level[17]);
        assert_int_equal(get(r, r->isr, 1), 1);
        assert_false(r->fake.level[17]);
        assert_int_equal(get(r, r->isr, 1), 0);
    }
    rig_close(r);
}

static void test_msix(void **state)
{
    struct rig rig, *r = &rig;
    const struct fake_route *route;
    uint64_t count;

    rig_open(r);
    set(r, r->table + 16, 4, 0xfee01000);
    set(r, r->table + 24, 4, 0x4041);
    config_set(r, r->msix_cap + 2, 2, 0x8000);
    rig_start(r, 1);
    /* Vectors beyond the table are refused (4.1.5.1.2.1). */
    set(r, r->common + VIRTIO_PCI_COMMON_MSIX, 2, 7);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_NO_VECTOR);
    /* Masked: pending, no route. */
    request(r);
    WAIT_UNTIL(get(r, r->pba, 8) == 2);
    assert_false(r->fake.routes[0].bound);
    /* Unmasked: the kernel has the eventfd, which is signalled already. */
    set(r, r->table + 28, 4, 0);
    route = &r->fake.routes[0];
    assert_true(route->bound);
    assert_int_equal(route->msi.address, 0xfee01000);
    assert_int_equal(route->msi.data, 0x4041);
    assert_true(readable(route->fd));
    assert_int_equal(read(route->fd, &count, 8), 8);
    request(r);
    WAIT_UNTIL(readable(route->fd));
    assert_int_equal(get(r, r->isr, 1), 0); /* not with MSI-X */
    assert_false(r->fake.level[17]);
    rig_close(r);
}

/* A configuration change has a vector of its own. */
static void test_config_interrupt(void **state)
{
    struct rig rig, *r = &rig;

    rig_open(r);
    rig_start(r, VIRTIO_NO_VECTOR);
    virtio_device_fail(r->vdev, "a test");
    WAIT_UNTIL(r->fake.level[17]);
    assert_true(get(r, r->isr, 1) & 2);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1), 15 | 64);
    rig_start(r, VIRTIO_NO_VECTOR);
    request(r);
    rig_close(r);
}

/* The window in config space does what the BAR does (4.1.4.9). */
static void test_access_window(void **state)
{
    struct rig rig, *r = &rig;
    unsigned cap;

    rig_open(r);
    cap = r->access_cap;
    config_set(r, cap + 4, 1, 0);
    config_set(r, cap + 8, 4, VIRTIO_PCI_COMMON_STATUS);
    config_set(r, cap + 12, 4, 1);
    config_set(r, cap + 16, 1, 3);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1), 3);
    assert_int_equal(config_get(r, cap + 16, 1), 3);
    config_set(r, cap + 8, 4, VIRTIO_PCI_COMMON_NUMQ);
    config_set(r, cap + 12, 4, 2);
    assert_int_equal(config_get(r, cap + 16, 2), 1);
    /* Nonsense is ignored. */
    config_set(r, cap + 8, 4, 0xfffffffc);
    config_set(r, cap + 12, 4, 4);
    config_set(r, cap + 16, 4, 0xffffffff);
    config_set(r, cap + 12, 4, 3);
    config_get(r, cap + 16, 4);
    config_set(r, cap + 4, 1, 5);
    config_get(r, cap + 16, 4);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1), 3);
    rig_close(r);
}

static void test_queue_reset(void **state)
{
    struct rig rig, *r = &rig;

    rig_open(r);
    rig_start(r, VIRTIO_NO_VECTOR);
    request(r);
    /* RING_RESET was not negotiated: nothing happens. */
    set(r, r->common + 58, 2, 1);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
    /* Fixed while enabled; features since FEATURES_OK. */
    set(r, r->common + VIRTIO_PCI_COMMON_Q_SIZE, 2, 2);
    set(r, r->common + VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x77000);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE);
    assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_Q_DESCLO, 8), r->drv.desc);
    set(r, r->common + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    set(r, r->common + VIRTIO_PCI_COMMON_GF, 4, 0);
    assert_int_not_equal(get(r, r->common + VIRTIO_PCI_COMMON_GF, 4), 0);
    set(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1, 0);
    set(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1, 3);
    set(r, r->common + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    set(r, r->common + VIRTIO_PCI_COMMON_GF, 4, 1 | 1u << 8);
    set(r, r->common + VIRTIO_PCI_COMMON_STATUS, 1, 15);
    for (unsigned i = 0; i < 3; i++) {
        drv_fini(&r->drv);
        drv_init(&r->drv, r->mem, 0x10000, QUEUE / 2, false, false);
        set(r, r->common + VIRTIO_PCI_COMMON_Q_SIZE, 2, QUEUE / 2);
        set(r, r->common + VIRTIO_PCI_COMMON_Q_DESCLO, 8, r->drv.desc);
        set(r, r->common + VIRTIO_PCI_COMMON_Q_AVAILLO, 8, r->drv.driver);
        set(r, r->common + VIRTIO_PCI_COMMON_Q_USEDLO, 8, r->drv.device);
        set(r, r->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
        request(r);
        set(r, r->common + 58, 2, 1);
        assert_int_equal(get(r, r->common + 58, 2), 0);
        assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
        assert_int_equal(get(r, r->common + VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE);
    }
    rig_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_relocation),
        cmocka_unit_test(test_intx),
        cmocka_unit_test(test_msix),
        cmocka_unit_test(test_config_interrupt),
        cmocka_unit_test(test_access_window),
        cmocka_unit_test(test_queue_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
