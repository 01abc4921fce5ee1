/* SPDX-License-Identifier: MIT */
/* devices/pci: both config mechanisms, BARs sized and moved, MSI-X, INTx, state. */
#include "fake_env.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/pci/pci.h"

#define ECAM UINT64_C(0xe0000000)

enum { VECTORS = 5, TABLE = 0x800, PBA = 0xc00 };

/* A device with an I/O BAR, a 32-bit one that holds MSI-X, and a 64-bit one. */
struct card {
    struct pci_function function;
    uint64_t last_offset, last_value;
    unsigned last_bar;
    unsigned mapped[PCI_BAR_COUNT], unmapped[PCI_BAR_COUNT];
    unsigned changed[VECTORS], written;
};

struct fixture {
    struct fake_env fake;
    struct bus *pio, *mmio;
    struct pci_host *host;
    struct card card, other;
};

static struct fixture fixture;

static struct card *card_of(struct device *device)
{
    return container_of(device, struct card, function.device);
}

static uint64_t card_read(struct device *device, unsigned bar, uint64_t offset,
                          unsigned size)
{
    struct card *card = card_of(device);
    uint64_t value;

    card->last_bar = bar;
    card->last_offset = offset;
    if (pci_msix_read(&card->function, bar, offset, size, &value)) {
        return value;
    }
    return 0x11 * (bar + 1);
}

static void card_write(struct device *device, unsigned bar, uint64_t offset,
                       unsigned size, uint64_t value)
{
    struct card *card = card_of(device);

    card->last_bar = bar;
    card->last_offset = offset;
    card->last_value = value;
    pci_msix_write(&card->function, bar, offset, size, value);
}

static int card_save(struct device *device, struct state_writer *writer)
{
    state_begin(writer, device->id, 1);
    pci_function_save(&card_of(device)->function, writer);
    state_end(writer);
    return 0;
}

static int card_load(struct device *device, struct state_reader *reader)
{
    int rc = state_open(reader, device->id, 1, NULL);

    return rc < 0 ? rc : pci_function_load(&card_of(device)->function, reader);
}

static void card_reset(struct device *device)
{
    pci_function_reset(&card_of(device)->function);
}

static const struct device_ops card_ops = {
    .type = "card",
    .read = card_read,
    .write = card_write,
    .reset = card_reset,
    .save = card_save,
    .load = card_load,
};

static void card_mapped(struct pci_function *function, unsigned bar, bool mapped)
{
    struct card *card = container_of(function, struct card, function);

    *(mapped ? &card->mapped[bar] : &card->unmapped[bar]) += 1;
}

static void card_msix(struct pci_function *function, unsigned vector)
{
    container_of(function, struct card, function)->changed[vector]++;
}

static void card_written(struct pci_function *function, unsigned offset, unsigned size)
{
    container_of(function, struct card, function)->written++;
}

static const struct pci_function_ops card_pci_ops = {
    .config_written = card_written,
    .bar_mapped = card_mapped,
    .msix_changed = card_msix,
};

static void card_init(struct card *card, const struct device_env *env, const char *id)
{
    const struct pci_ids ids = { 0x1234, 0x5678, 0x1af4, 0x0001, 0x010203, 0x42 };

    memset(card, 0, sizeof(*card));
    device_init(&card->function.device, &card_ops, env, id);
    pci_function_init(&card->function, &ids, &card_pci_ops);
    pci_bar_set(&card->function, 0, PCI_BAR_IO, 32, false);
    pci_bar_set(&card->function, 1, PCI_BAR_MEM32, 0x1000, false);
    pci_bar_set(&card->function, 2, PCI_BAR_MEM64, 0x4000, true);
    assert_int_equal(pci_msix_add(&card->function, VECTORS, 1, TABLE, PBA), 0);
}

static struct fixture *setup(void)
{
    const struct pci_host_config config = { .ecam_base = ECAM,
                                            .ecam_size = 0x10000000,
                                            .intx_gsi = { 16, 17, 18, 19 } };
    struct fixture *f = &fixture;

    fake_env_init(&f->fake, false);
    assert_int_equal(bus_create("pio", &f->pio), 0);
    assert_int_equal(bus_create("mmio", &f->mmio), 0);
    assert_int_equal(
        pci_host_create(&f->fake.env, &config, f->pio, f->mmio, &f->host, NULL), 0);
    card_init(&f->card, &f->fake.env, "card");
    card_init(&f->other, &f->fake.env, "other");
    assert_int_equal(pci_host_add(f->host, &f->card.function, 0, NULL), 0);
    assert_int_equal(pci_host_add(f->host, &f->other.function, 7, NULL), 0);
    return f;
}

static void teardown(struct fixture *f)
{
    pci_function_fini(&f->card.function);
    pci_function_fini(&f->other.function);
    device_fini(&f->card.function.device);
    device_fini(&f->other.function.device);
    pci_host_destroy(f->host);
    bus_destroy(f->pio);
    bus_destroy(f->mmio);
    fake_env_fini(&f->fake);
}

static uint64_t ecam(unsigned slot, unsigned offset)
{
    return ECAM + ((uint64_t)slot << 15) + offset;
}

static uint32_t get(struct fixture *f, unsigned slot, unsigned offset, unsigned size)
{
    uint64_t value;

    assert_true(bus_read(f->mmio, ecam(slot, offset), size, &value));
    return (uint32_t)value;
}

static void set(struct fixture *f, unsigned slot, unsigned offset, unsigned size,
                uint32_t value)
{
    assert_true(bus_write(f->mmio, ecam(slot, offset), size, value));
}

static void test_mechanisms(void **state)
{
    struct fixture *f = setup();
    uint64_t value;

    /* ECAM. */
    assert_int_equal(get(f, 1, 0, 4), 0x56781234);
    assert_int_equal(get(f, 1, 8, 4), 0x01020342);
    assert_int_equal(get(f, 1, 0x2c, 4), 0x00011af4);
    assert_int_equal(get(f, 1, 0x3c, 2), 0x0111); /* line GSI 17, pin INTA */
    assert_int_equal(get(f, 7, 0x3c, 1), 19);
    assert_int_equal(pci_host_gsi(f->host, 7), 19);
    assert_int_equal(get(f, 2, 0, 4), 0xffffffff);                  /* nobody */
    assert_int_equal(get(f, 0, 0xa, 2), 0x0600);                    /* the bridge */
    assert_true(bus_read(f->mmio, ecam(1, 0) + 0x1000, 4, &value)); /* function 1 */
    assert_int_equal(value, 0xffffffff);
    assert_true(bus_read(f->mmio, ECAM + (1 << 20), 4, &value)); /* bus 1 */
    assert_int_equal(value, 0xffffffff);
    assert_true(bus_read(f->mmio, ecam(1, 0), 8, &value));
    assert_int_equal(value & 0xffffffff, 0x56781234);
    assert_int_equal(get(f, 1, 0xffc, 4), 0); /* the end of its space */

    /* CF8/CFC, in every size and offset. */
    assert_true(bus_write(f->pio, 0xcf8, 4, 0x80000800));
    assert_true(bus_read(f->pio, 0xcfc, 4, &value));
    assert_int_equal(value, 0x56781234);
    assert_true(bus_read(f->pio, 0xcfe, 2, &value));
    assert_int_equal(value, 0x5678);
    assert_true(bus_read(f->pio, 0xcfd, 1, &value));
    assert_int_equal(value, 0x12);
    assert_true(bus_write(f->pio, 0xcf8, 2, 0)); /* only 32-bit accesses count */
    assert_true(bus_read(f->pio, 0xcf8, 4, &value));
    assert_int_equal(value, 0x80000800);
    assert_true(bus_read(f->pio, 0xcf8, 1, &value));
    assert_int_equal(value, 0xff);
    assert_true(bus_write(f->pio, 0xcf8, 4, 0x00000800)); /* not enabled */
    assert_true(bus_read(f->pio, 0xcfc, 4, &value));
    assert_int_equal(value, 0xffffffff);
    assert_true(bus_write(f->pio, 0xcf8, 4, 0x8000083c));
    assert_true(bus_write(f->pio, 0xcfc, 1, 0x55));
    assert_int_equal(get(f, 1, 0x3c, 4), 0x0155);
    teardown(f);
}

static void test_read_only(void **state)
{
    struct fixture *f = setup();

    for (unsigned i = 0; i < 4096; i += 4) {
        set(f, 1, i, 4, 0xffffffff);
    }
    assert_int_equal(get(f, 1, 0, 4), 0x56781234);
    assert_int_equal(get(f, 1, 4, 4), 0x00100547); /* command; capabilities flag */
    assert_int_equal(get(f, 1, 8, 4), 0x01020342);
    assert_int_equal(get(f, 1, 0x10, 4), 0xffffffe1);
    assert_int_equal(get(f, 1, 0x14, 4), 0xfffff000);
    assert_int_equal(get(f, 1, 0x18, 4), 0xffffc00c);
    assert_int_equal(get(f, 1, 0x1c, 4), 0xffffffff);
    assert_int_equal(get(f, 1, 0x20, 4), 0);
    assert_int_equal(get(f, 1, 0x34, 1), 0x40);
    assert_int_equal(get(f, 1, 0x40, 4), 0xc0040011);
    assert_int_equal(get(f, 1, 0x44, 4), TABLE | 1);
    assert_int_equal(get(f, 1, 0x48, 4), PBA | 1);
    teardown(f);
}

/* As Linux and firmware do it: decode off, size, place, decode on; then move. */
static void test_bars(void **state)
{
    struct fixture *f = setup();
    uint64_t value;

    set(f, 1, 4, 2, 0);
    set(f, 1, 0x14, 4, 0xffffffff);
    assert_int_equal(~(get(f, 1, 0x14, 4) & ~0xfu) + 1, 0x1000);
    set(f, 1, 0x14, 4, 0xd0001000);
    set(f, 1, 0x18, 4, 0x00004000);
    set(f, 1, 0x1c, 4, 0x00000002); /* at 0x200004000 */
    set(f, 1, 0x10, 4, 0xc020);
    assert_false(bus_read(f->mmio, 0xd0001000, 4, &value));
    set(f, 1, 4, 2, 2);
    assert_true(bus_read(f->mmio, 0xd0001010, 4, &value));
    assert_int_equal(value, 0x22);
    assert_int_equal(f->card.last_offset, 0x10);
    assert_true(bus_read(f->mmio, UINT64_C(0x200007ffc), 4, &value));
    assert_int_equal(value, 0x33);
    assert_false(bus_read(f->pio, 0xc020, 4, &value));
    set(f, 1, 4, 2, 3);
    assert_true(bus_read(f->pio, 0xc03f, 1, &value));
    assert_int_equal(value, 0x11);
    assert_int_equal(f->card.mapped[1], 1);
    /* Moving it while it decodes. */
    set(f, 1, 0x14, 4, 0xd0005000);
    assert_false(bus_read(f->mmio, 0xd0001010, 4, &value));
    assert_true(bus_read(f->mmio, 0xd0005010, 4, &value));
    assert_int_equal(f->card.unmapped[1], 1);
    set(f, 1, 4, 2, 0);
    assert_false(bus_read(f->mmio, 0xd0005010, 4, &value));
    assert_false(f->card.function.bars[2].mapped);
    /* Address 0 and I/O beyond 64 KiB are no places. */
    set(f, 1, 0x14, 4, 0);
    set(f, 1, 0x10, 4, 0x10000);
    set(f, 1, 4, 2, 3);
    assert_false(bus_read(f->mmio, 0, 4, &value));
    assert_false(bus_read(f->pio, 0x10000, 4, &value));
    teardown(f);
}

/* Two BARs at one place: the first keeps it, the second gets it when it is free. */
static void test_conflict(void **state)
{
    struct fixture *f = setup();
    uint64_t value;

    set(f, 1, 0x14, 4, 0xd0001000);
    set(f, 7, 0x14, 4, 0xd0001000);
    set(f, 1, 4, 2, 2);
    set(f, 7, 4, 2, 2);
    assert_true(bus_read(f->mmio, 0xd0001000, 4, &value));
    assert_int_equal(f->other.mapped[1], 0);
    set(f, 1, 0x14, 4, 0xd0002000);
    assert_int_equal(f->other.mapped[1], 1);
    assert_ptr_equal(bus_find(f->mmio, 0xd0001000, NULL), &f->other.function.device);
    assert_ptr_equal(bus_find(f->mmio, 0xd0002000, NULL), &f->card.function.device);
    /* Over the ECAM window: the bridge keeps that. */
    set(f, 1, 0x14, 4, (uint32_t)ECAM);
    assert_int_equal(get(f, 1, 0, 4), 0x56781234);
    assert_false(f->card.function.bars[1].mapped);
    set(f, 1, 0x14, 4, 0xd0003000);
    assert_true(f->card.function.bars[1].mapped);
    teardown(f);
}

static void test_assign(void **state)
{
    struct fixture *f = setup();
    struct umbra_error error;
    uint64_t value;

    set(f, 7, 0x14, 4, 0xd0000000); /* has one already */
    assert_int_equal(pci_host_assign_bars(f->host, 0xd0000000, 0x10000000,
                                          UINT64_C(0x200000000), GIB, &error),
                     0);
    for (unsigned slot = 1; slot <= 7; slot += 6) {
        struct card *card = slot == 1 ? &f->card : &f->other;

        assert_int_equal(get(f, slot, 4, 2) & 3, 3);
        for (unsigned b = 0; b < 3; b++) {
            const struct pci_bar *bar = &card->function.bars[b];

            assert_true(bar->mapped);
            assert_int_equal(bar->address % bar->size, 0);
            assert_true(bus_read(b == 0 ? f->pio : f->mmio, bar->address, 4, &value));
            assert_int_equal(value, 0x11 * (b + 1));
            assert_ptr_equal(bus_find(b == 0 ? f->pio : f->mmio, bar->address, NULL),
                             &card->function.device);
        }
    }
    assert_int_equal(f->other.function.bars[1].address, 0xd0000000);
    /* A reset takes them away, assigning gives them back. */
    value = f->card.function.bars[1].address;
    device_reset(&f->card.function.device);
    device_reset(&f->other.function.device);
    assert_null(bus_find(f->mmio, value, NULL));
    assert_int_equal(get(f, 1, 4, 2), 0);
    assert_int_equal(pci_host_assign_bars(f->host, 0xd0000000, 0x8000, 0, 0, &error),
                     -ENOSPC); /* a window too small says which BAR */
    assert_non_null(strstr(error.message, "other"));
    assert_int_equal(pci_host_assign_bars(f->host, 0xd0000000, 0x100000, 0, 0, NULL), 0);
    assert_true(f->other.function.bars[2].mapped);
    teardown(f);
}

static void test_slots(void **state)
{
    static struct card cards[PCI_SLOT_COUNT];
    struct fixture *f = setup();
    struct umbra_error error;
    unsigned added = 0;

    assert_int_equal(f->card.function.slot, 1);
    card_init(&cards[0], &f->fake.env, "x");
    assert_int_equal(pci_host_add(f->host, &cards[0].function, 7, &error), -ENOSPC);
    pci_function_fini(&cards[0].function);
    for (; added < PCI_SLOT_COUNT; added++) {
        card_init(&cards[added], &f->fake.env, "x");
        if (pci_host_add(f->host, &cards[added].function, 0, &error) < 0) {
            break;
        }
        assert_int_not_equal(cards[added].function.slot, 7);
    }
    assert_int_equal(added, PCI_SLOT_COUNT - 3);
    assert_non_null(strstr(error.message, "all are taken"));
    for (unsigned i = 0; i <= added; i++) {
        pci_function_fini(&cards[i].function);
    }
    teardown(f);
}

static void test_intx(void **state)
{
    struct fixture *f = setup();

    pci_intx_set(&f->card.function, true);
    assert_true(f->fake.level[17]);
    assert_int_equal(get(f, 1, 6, 2) & 8, 8);
    set(f, 1, 4, 2, 0x400); /* Interrupt Disable: the status stays */
    assert_false(f->fake.level[17]);
    assert_int_equal(get(f, 1, 6, 2) & 8, 8);
    set(f, 1, 4, 2, 0);
    assert_true(f->fake.level[17]);
    pci_intx_set(&f->card.function, false);
    assert_false(f->fake.level[17]);
    pci_intx_set(&f->card.function, true);
    device_reset(&f->card.function.device);
    assert_false(f->fake.level[17]);
    teardown(f);
}

/* ---- MSI-X ---- */

static void vector_set(struct fixture *f, unsigned vector, uint64_t address,
                       uint32_t data, uint32_t control)
{
    uint64_t at = 0xd0001000 + TABLE + 16 * vector;

    assert_true(bus_write(f->mmio, at, 8, address));
    assert_true(bus_write(f->mmio, at + 8, 4, data));
    assert_true(bus_write(f->mmio, at + 12, 4, control));
}

static uint32_t pending(struct fixture *f)
{
    uint64_t value;

    assert_true(bus_read(f->mmio, 0xd0001000 + PBA, 4, &value));
    return (uint32_t)value;
}

static struct fixture *setup_msix(void)
{
    struct fixture *f = setup();

    set(f, 1, 0x14, 4, 0xd0001000);
    set(f, 1, 4, 2, 2);
    set(f, 1, 0x42, 2, 0x8000);
    return f;
}

static void test_msix(void **state)
{
    struct fixture *f = setup_msix();
    uint64_t value;

    assert_true(pci_msix_enabled(&f->card.function));
    assert_true(bus_read(f->mmio, 0xd0001000 + TABLE + 12, 4, &value));
    assert_int_equal(value, 1); /* masked at first */
    vector_set(f, 0, 0xfee00003, 0x41, 0);
    assert_true(bus_read(f->mmio, 0xd0001000 + TABLE, 8, &value));
    assert_int_equal(value, 0xfee00000);
    pci_msix_notify(&f->card.function, 0);
    assert_int_equal(f->fake.msi_count, 1);
    assert_int_equal(f->fake.msi[0].address, 0xfee00000);
    assert_int_equal(f->fake.msi[0].data, 0x41);
    /* Masked: pending, and sent once when unmasked. */
    vector_set(f, 0, 0xfee00000, 0x42, 1);
    pci_msix_notify(&f->card.function, 0);
    pci_msix_notify(&f->card.function, 0);
    assert_int_equal(f->fake.msi_count, 1);
    assert_int_equal(pending(f), 1);
    vector_set(f, 0, 0xfee00000, 0x42, 0);
    assert_int_equal(f->fake.msi_count, 2);
    assert_int_equal(f->fake.msi[1].data, 0x42);
    assert_int_equal(pending(f), 0);
    /* The function's mask. */
    set(f, 1, 0x42, 2, 0xc000);
    pci_msix_notify(&f->card.function, 0);
    assert_int_equal(pending(f), 1);
    set(f, 1, 0x42, 2, 0x8000);
    assert_int_equal(f->fake.msi_count, 3);
    /* Off, and vectors that are not there. */
    set(f, 1, 0x42, 2, 0);
    pci_msix_notify(&f->card.function, 0);
    pci_msix_notify(&f->card.function, VECTORS);
    assert_int_equal(f->fake.msi_count, 3);
    assert_int_equal(pending(f), 0);
    /* Odd accesses harm nothing; the pending bits are read only. */
    assert_true(bus_write(f->mmio, 0xd0001000 + PBA, 4, 0xff));
    assert_true(bus_write(f->mmio, 0xd0001000 + TABLE + 1, 2, 0xffff));
    assert_true(bus_write(f->mmio, 0xd0001000 + TABLE + 4, 8, UINT64_MAX));
    assert_true(bus_read(f->mmio, 0xd0001000 + TABLE + 2, 2, &value));
    assert_int_equal(value, 0);
    assert_int_equal(pending(f), 0);
    teardown(f);
}

static void test_msix_bind(void **state)
{
    struct fixture *f = setup_msix();
    int fd = eventfd(0, EFD_NONBLOCK);
    uint64_t one = 1;

    /* Masked: bound later. */
    assert_int_equal(pci_msix_bind(&f->card.function, 2, fd), 0);
    assert_false(f->fake.routes[0].bound);
    assert_int_equal(write(fd, &one, 8), 8); /* signalled meanwhile: pending */
    assert_int_equal(pending(f), 4);
    vector_set(f, 2, 0xfee01000, 0x51, 0);
    assert_true(f->fake.routes[0].bound);
    assert_int_equal(f->fake.routes[0].fd, fd);
    assert_int_equal(f->fake.routes[0].msi.address, 0xfee01000);
    assert_int_equal(f->fake.routes[0].msi.data, 0x51);
    assert_int_equal(pending(f), 0);       /* the kernel has it now */
    vector_set(f, 2, 0xfee02000, 0x52, 0); /* a new message for the same route */
    assert_true(f->fake.routes[0].bound);
    assert_int_equal(f->fake.routes[0].msi.address, 0xfee02000);
    assert_false(f->fake.routes[1].bound);
    set(f, 1, 0x42, 2, 0xc000);
    assert_false(f->fake.routes[0].bound);
    set(f, 1, 0x42, 2, 0x8000);
    assert_true(f->fake.routes[0].bound);
    assert_int_equal(pci_msix_bind(&f->card.function, VECTORS, fd), -EINVAL);
    assert_true(f->card.changed[2] > 0);
    pci_msix_unbind(&f->card.function, 2);
    assert_false(f->fake.routes[0].bound);
    vector_set(f, 2, 0xfee02000, 0x52, 0);
    assert_false(f->fake.routes[0].bound);
    assert_int_equal(pci_msix_bind(&f->card.function, 2, fd), 0); /* open: at once */
    assert_true(f->fake.routes[0].bound);
    device_reset(&f->card.function.device);
    assert_false(f->fake.routes[0].bound);
    assert_false(pci_msix_enabled(&f->card.function));
    teardown(f);
    close(fd);
}

static void test_state(void **state)
{
    struct fixture *f = setup_msix();
    uint64_t value;

    vector_set(f, 3, 0xfee03000, 0x63, 1);
    pci_msix_notify(&f->card.function, 3);
    pci_intx_set(&f->card.function, true);
    strcpy(f->other.function.device.id, "card");
    set(f, 1, 0x3c, 1, 0x77);
    assert_true(bus_write(f->pio, 0xcf8, 4, 0x80001234));
    /* Into the other one: BAR 1 has to wait until the place is free. */
    dev_copy_state(&f->card.function.device, &f->other.function.device);
    assert_false(f->other.function.bars[1].mapped);
    set(f, 1, 4, 2, 0);
    assert_true(f->other.function.bars[1].mapped);
    assert_true(f->fake.level[19]);
    assert_int_equal(get(f, 7, 0x3c, 1), 0x77);
    assert_true(bus_read(f->mmio, 0xd0001000 + PBA, 4, &value));
    assert_int_equal(value, 8);
    vector_set(f, 3, 0xfee03000, 0x63, 0);
    assert_int_equal(f->fake.msi_count, 1);
    assert_int_equal(f->fake.msi[0].data, 0x63);
    dev_copy_state(pci_host_device(f->host), pci_host_device(f->host));
    assert_true(bus_read(f->pio, 0xcf8, 4, &value));
    assert_int_equal(value, 0x80001234);
    device_reset(pci_host_device(f->host));
    assert_true(bus_read(f->pio, 0xcf8, 4, &value));
    assert_int_equal(value, 0);
    teardown(f);
}

/* Random config and MMIO accesses: no crash, and what decodes is what config space says. */
static void test_storm(void **state)
{
    struct fixture *f = setup();
    unsigned seed = 11;
    uint64_t value;

    for (unsigned i = 0; i < 100000; i++) {
        unsigned slot = rand_r(&seed) % 2 != 0 ? 1 : 7;
        unsigned offset = (unsigned)rand_r(&seed) % 0x50;
        unsigned size = 1u << rand_r(&seed) % 3;
        uint32_t random = (uint32_t)rand_r(&seed) << 1;

        if (rand_r(&seed) % 3 == 0) {
            random = 0xd0000000 | (random & 0x7000); /* places that collide */
            offset = 0x10 + 4 * ((unsigned)rand_r(&seed) % 4);
            size = 4;
        }
        assert_true(bus_write(f->mmio, ecam(slot, offset), size, random));
        bus_write(f->mmio, 0xd0000000 + (random & 0x7fff), size, random >> 7);
        bus_read(f->mmio, 0xd0000000 + (random & 0x7fff), size, &value);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct card *card = i == 0 ? &f->card : &f->other;

        for (unsigned b = 0; b < PCI_BAR_COUNT; b++) {
            const struct pci_bar *bar = &card->function.bars[b];
            uint16_t enable = bar->kind == PCI_BAR_IO ? 1 : 2;

            if (bar->mapped) {
                assert_true(get(f, card->function.slot, 4, 2) & enable);
                assert_ptr_equal(
                    bus_find(enable == 1 ? f->pio : f->mmio, bar->address, NULL),
                    &card->function.device);
            }
        }
    }
    teardown(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mechanisms), cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_bars),       cmocka_unit_test(test_conflict),
        cmocka_unit_test(test_assign),     cmocka_unit_test(test_slots),
        cmocka_unit_test(test_intx),       cmocka_unit_test(test_msix),
        cmocka_unit_test(test_msix_bind),  cmocka_unit_test(test_state),
        cmocka_unit_test(test_storm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
