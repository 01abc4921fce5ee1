/* SPDX-License-Identifier: MIT */
/* virtio-pci and virtio-mmio, as far as a driver needs them. */
#include "virtio.h"

#define PCI_VENDOR_VIRTIO 0x1af4
#define PCI_CAP_VENDOR    0x09

/* virtio_pci_common_cfg, 4.1.4.3 */
enum {
    COMMON_DEVICE_FEATURE_SELECT = 0x00,
    COMMON_DEVICE_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_STATUS = 0x14,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY = 0x1e,
    COMMON_QUEUE_DESC = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
};

/* Register layout of virtio-mmio, 4.2.2 */
enum {
    MMIO_MAGIC = 0x00,
    MMIO_VERSION = 0x04,
    MMIO_DEVICE = 0x08,
    MMIO_DEVICE_FEATURE = 0x10,
    MMIO_DEVICE_FEATURE_SELECT = 0x14,
    MMIO_DRIVER_FEATURE = 0x20,
    MMIO_DRIVER_FEATURE_SELECT = 0x24,
    MMIO_QUEUE_SELECT = 0x30,
    MMIO_QUEUE_MAX = 0x34,
    MMIO_QUEUE_SIZE = 0x38,
    MMIO_QUEUE_READY = 0x44,
    MMIO_QUEUE_NOTIFY = 0x50,
    MMIO_INTERRUPT_STATUS = 0x60,
    MMIO_INTERRUPT_ACK = 0x64,
    MMIO_STATUS = 0x70,
    MMIO_QUEUE_DESC = 0x80,
    MMIO_QUEUE_DRIVER = 0x90,
    MMIO_QUEUE_DEVICE = 0xa0,
    MMIO_CONFIG = 0x100,
};

#define MMIO_FIRST 0xfea00000 /* where umbra's board puts them, 4 KiB apart */
#define MMIO_COUNT 32
#define MMIO_GSI   20 /* and their interrupts, four GSIs in turn */
#define INTX_GSI   16

static struct virtio *by_line[8]; /* those that interrupt without MSI-X */
static unsigned line_count;

static void line_interrupt(struct trap_frame *frame)
{
    unsigned i;
    uint32_t status;

    for (i = 0; i < line_count; i++) {
        struct virtio *v = by_line[i];

        if (v->mmio) {
            status = mmio_read32(v->common + MMIO_INTERRUPT_STATUS);
            if (status)
                mmio_write32(v->common + MMIO_INTERRUPT_ACK, status);
        } else {
            mmio_read8(v->isr);
        }
    }
    interrupt_count(frame);
}

static void line_setup(struct virtio *v)
{
    if (line_count == ARRAY_SIZE(by_line))
        return;
    by_line[line_count++] = v;
    interrupt_set(VIRTIO_CONFIG_VECTOR, line_interrupt);
    ioapic_route(v->gsi, VIRTIO_CONFIG_VECTOR, 0xf); /* level */
}

/* ---- PCI ------------------------------------------------------------------------------ */

/* Where capability @at points to. */
static uint64_t cap_address(unsigned bdf, unsigned at)
{
    struct pci_bar bar;

    if (!pci_bar_read(bdf, pci_read8(bdf, at + 4), &bar))
        return 0;
    return bar.address + pci_read32(bdf, at + 8);
}

static bool pci_setup(struct virtio *v)
{
    unsigned at = 0, i;
    const char *msix = boot_option("msix");

    while ((at = pci_capability(v->bdf, PCI_CAP_VENDOR, at))) {
        switch (pci_read8(v->bdf, at + 3)) {
        case 1:
            v->common = v->common ? v->common : cap_address(v->bdf, at);
            break;
        case 2:
            v->notify = v->notify ? v->notify : cap_address(v->bdf, at);
            v->notify_multiplier = pci_read32(v->bdf, at + 16);
            break;
        case 3:
            v->isr = v->isr ? v->isr : cap_address(v->bdf, at);
            break;
        case 4:
            v->config = v->config ? v->config : cap_address(v->bdf, at);
            break;
        }
    }
    pci_command(v->bdf, 0x6, 0);
    v->has_msix = !(msix && msix[0] == '0') && pci_msix_enable(v->bdf, &v->msix);
    if (v->has_msix) {
        pci_msix_set(&v->msix, 0, lapic_id(), VIRTIO_CONFIG_VECTOR);
        interrupt_set(VIRTIO_CONFIG_VECTOR, interrupt_count);
        for (i = 1; i < v->msix.count && i < 64; i++) {
            pci_msix_set(&v->msix, i, lapic_id(), VIRTIO_VECTOR + i - 1);
            interrupt_set(VIRTIO_VECTOR + i - 1, interrupt_count);
        }
    } else {
        v->gsi = INTX_GSI + (v->bdf >> 3) % 4;
        pci_command(v->bdf, 0, 0x400);
        line_setup(v);
    }
    return v->common && v->notify && v->isr;
}

static bool find_pci(struct virtio *v, unsigned type, unsigned *skip)
{
    static const uint16_t transitional[] = { 0, 0x1000, 0x1001, 0x1003, 0x1005, 0x1002 };
    int bdf;

    for (bdf = pci_next(0); bdf >= 0; bdf = pci_next((unsigned)bdf + 1)) {
        uint32_t id = pci_read32((unsigned)bdf, 0);

        if ((id & 0xffff) != PCI_VENDOR_VIRTIO)
            continue;
        if (id >> 16 != 0x1040 + type &&
            !(type < ARRAY_SIZE(transitional) && id >> 16 == transitional[type]))
            continue;
        if ((*skip)--)
            continue;
        *v = (struct virtio){ .bdf = (unsigned)bdf, .type = type };
        return pci_setup(v);
    }
    return false;
}

/* ---- virtio-mmio ----------------------------------------------------------------------- */

static bool find_mmio(struct virtio *v, unsigned type, unsigned *skip)
{
    uint64_t first = MMIO_FIRST, gsi = MMIO_GSI, step = 0x1000;
    unsigned i;

    if (boot_option("mmio"))
        number_parse(boot_option("mmio"), &first);
    if (boot_option("gsi"))
        number_parse(boot_option("gsi"), &gsi);
    for (i = 0; i < MMIO_COUNT; i++) {
        uint64_t at = first + i * step;

        if (mmio_read32(at + MMIO_MAGIC) != 0x74726976 ||
            mmio_read32(at + MMIO_VERSION) != 2 || mmio_read32(at + MMIO_DEVICE) != type)
            continue;
        if ((*skip)--)
            continue;
        *v = (struct virtio){
            .mmio = true,
            .type = type,
            .common = at,
            .config = at + MMIO_CONFIG,
            .gsi = (unsigned)gsi + i % 4,
        };
        line_setup(v);
        return true;
    }
    return false;
}

bool virtio_find(struct virtio *v, unsigned type, unsigned nth)
{
    return find_pci(v, type, &nth) || find_mmio(v, type, &nth);
}

/* ---- Both ------------------------------------------------------------------------------- */

uint8_t virtio_status(const struct virtio *v)
{
    return v->mmio ? (uint8_t)mmio_read32(v->common + MMIO_STATUS)
                   : mmio_read8(v->common + COMMON_STATUS);
}

bool virtio_interrupted(void)
{
    uint64_t until = time_us() + 10000000;

    while (interrupt_counts[VIRTIO_VECTOR] + interrupt_counts[VIRTIO_CONFIG_VECTOR] ==
           0) {
        if (time_us() > until)
            return false;
        interrupts_on();
        cpu_pause();
    }
    return true;
}

void virtio_set_status(const struct virtio *v, uint8_t status)
{
    if (v->mmio)
        mmio_write32(v->common + MMIO_STATUS, status);
    else
        mmio_write8(v->common + COMMON_STATUS, status);
}

static uint32_t features_read(const struct virtio *v, unsigned half)
{
    mmio_write32(
        v->common + (v->mmio ? MMIO_DEVICE_FEATURE_SELECT : COMMON_DEVICE_FEATURE_SELECT),
        half);
    return mmio_read32(v->common +
                       (v->mmio ? MMIO_DEVICE_FEATURE : COMMON_DEVICE_FEATURE));
}

static void features_write(const struct virtio *v, unsigned half, uint32_t features)
{
    mmio_write32(
        v->common + (v->mmio ? MMIO_DRIVER_FEATURE_SELECT : COMMON_DRIVER_FEATURE_SELECT),
        half);
    mmio_write32(v->common + (v->mmio ? MMIO_DRIVER_FEATURE : COMMON_DRIVER_FEATURE),
                 features);
}

uint64_t virtio_offered(const struct virtio *v)
{
    return features_read(v, 0) | (uint64_t)features_read(v, 1) << 32;
}

void virtio_accept(const struct virtio *v, uint64_t features)
{
    features_write(v, 0, (uint32_t)features);
    features_write(v, 1, (uint32_t)(features >> 32));
}

bool virtio_begin(struct virtio *v, uint64_t wanted)
{
    unsigned wait;

    virtio_set_status(v, 0);
    for (wait = 0; wait < 10000 && virtio_status(v); wait++)
        cpu_pause();
    if (virtio_status(v))
        return false;
    virtio_set_status(v, VIRTIO_ACKNOWLEDGE);
    virtio_set_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    v->features = virtio_offered(v) & (wanted | FEATURE(VIRTIO_F_VERSION_1));
    virtio_accept(v, v->features);
    virtio_set_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
    if (v->has_msix)
        mmio_write16(v->common + COMMON_CONFIG_VECTOR, 0);
    return virtio_status(v) & VIRTIO_FEATURES_OK && v->features >> VIRTIO_F_VERSION_1 & 1;
}

unsigned virtio_queue_max(const struct virtio *v, unsigned index)
{
    if (v->mmio) {
        mmio_write32(v->common + MMIO_QUEUE_SELECT, index);
        return mmio_read32(v->common + MMIO_QUEUE_MAX);
    }
    mmio_write16(v->common + COMMON_QUEUE_SELECT, (uint16_t)index);
    return mmio_read16(v->common + COMMON_QUEUE_SIZE);
}

static void address_write(uint64_t at, uint64_t address)
{
    mmio_write32(at, (uint32_t)address);
    mmio_write32(at + 4, (uint32_t)(address >> 32));
}

static bool queue_pci(const struct virtio *v, unsigned index, struct ring *ring,
                      const uint64_t place[3])
{
    uint16_t vector = (uint16_t)(index + 1 < v->msix.count ? index + 1 : 0);

    mmio_write16(v->common + COMMON_QUEUE_SIZE, (uint16_t)ring->size);
    address_write(v->common + COMMON_QUEUE_DESC, place[0]);
    address_write(v->common + COMMON_QUEUE_DRIVER, place[1]);
    address_write(v->common + COMMON_QUEUE_DEVICE, place[2]);
    if (v->has_msix) {
        mmio_write16(v->common + COMMON_QUEUE_VECTOR, vector);
        if (mmio_read16(v->common + COMMON_QUEUE_VECTOR) != vector)
            return false;
    }
    ring->notify = v->notify + mmio_read16(v->common + COMMON_QUEUE_NOTIFY) *
                                   (uint64_t)v->notify_multiplier;
    mmio_write16(v->common + COMMON_QUEUE_ENABLE, 1);
    return mmio_read16(v->common + COMMON_QUEUE_ENABLE) == 1;
}

static bool queue_mmio(const struct virtio *v, struct ring *ring, const uint64_t place[3])
{
    mmio_write32(v->common + MMIO_QUEUE_SIZE, ring->size);
    address_write(v->common + MMIO_QUEUE_DESC, place[0]);
    address_write(v->common + MMIO_QUEUE_DRIVER, place[1]);
    address_write(v->common + MMIO_QUEUE_DEVICE, place[2]);
    ring->notify = v->common + MMIO_QUEUE_NOTIFY;
    ring->notify_wide = true;
    mmio_write32(v->common + MMIO_QUEUE_READY, 1);
    return mmio_read32(v->common + MMIO_QUEUE_READY) == 1;
}

bool virtio_queue_at(struct virtio *v, unsigned index, struct ring *ring, uint64_t desc,
                     uint64_t driver, uint64_t device)
{
    const uint64_t place[3] = { desc, driver, device };

    virtio_queue_max(v, index); /* selects it */
    return v->mmio ? queue_mmio(v, ring, place) : queue_pci(v, index, ring, place);
}

bool virtio_queue(struct virtio *v, unsigned index, struct ring *ring,
                  struct ring_memory *memory, unsigned size)
{
    if (size > virtio_queue_max(v, index) || size > RING_MAX || !size)
        return false;
    memset(ring, 0, sizeof(*ring));
    ring->packed = v->features >> VIRTIO_F_PACKED & 1;
    ring->indirect = v->features >> VIRTIO_F_INDIRECT & 1;
    ring->event_index = v->features >> VIRTIO_F_EVENT_INDEX & 1;
    ring->notify_value = index;
    ring_init(ring, memory, size);
    return virtio_queue_at(v, index, ring, (uint64_t)&memory->desc,
                           (uint64_t)&memory->driver, (uint64_t)&memory->device);
}

void virtio_ready(const struct virtio *v)
{
    virtio_set_status(v, virtio_status(v) | VIRTIO_DRIVER_OK);
}

uint8_t virtio_config8(const struct virtio *v, unsigned offset)
{
    return mmio_read8(v->config + offset);
}

uint32_t virtio_config32(const struct virtio *v, unsigned offset)
{
    return mmio_read32(v->config + offset);
}

uint64_t virtio_config64(const struct virtio *v, unsigned offset)
{
    return virtio_config32(v, offset) | (uint64_t)virtio_config32(v, offset + 4) << 32;
}
