/* SPDX-License-Identifier: MIT */
/*
 * PCI host bridge: configuration mechanism #1 (ports CF8/CFC; PCI 3.0, 3.2.2.3.2) and
 * ECAM (PCI Express base, 7.2.2) for one bus of up to 32 single-function devices.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "devices/pci/regs.h"

enum { REGION_ADDRESS, REGION_DATA, REGION_ECAM };

enum {
    PCI_ADDRESS_PORT = 0xcf8,
    PCI_DATA_PORT = 0xcfc,
    PCI_IO_BASE = 0xc000, /* where I/O BARs are put */
    PCI_IO_SIZE = 0x4000,
};

#define PCI_ADDRESS_ENABLE UINT32_C(0x80000000)

struct pci_host {
    struct device device;
    struct pci_function bridge; /* slot 0 */
    struct pci_host_config config;
    struct bus *pio, *mmio;
    struct pci_function *slots[PCI_SLOT_COUNT];
    uint32_t address; /* CONFIG_ADDRESS */
};

static struct pci_host *pci_host_of(struct device *device)
{
    return container_of(device, struct pci_host, device);
}

struct bus *pci_host_bus(const struct pci_host *host, enum pci_bar_kind kind)
{
    return kind == PCI_BAR_IO ? host->pio : host->mmio;
}

struct device *pci_host_device(struct pci_host *host)
{
    return &host->device;
}

unsigned pci_host_gsi(const struct pci_host *host, unsigned slot)
{
    return host->config.intx_gsi[slot % ARRAY_SIZE(host->config.intx_gsi)];
}

/* ---- Config accesses
 * ------------------------------------------------------------------- */

/* A bus, device and function number as one, in the layout of both mechanisms: bits 15..8,
 * 7..3, 2..0. */
static struct pci_function *host_function(const struct pci_host *host, unsigned bdf)
{
    if (bdf >= PCI_SLOT_COUNT << 3 || (bdf & 7) != 0) {
        return NULL;
    }
    return host->slots[bdf >> 3];
}

static uint32_t host_config_read(struct pci_host *host, unsigned bdf, unsigned offset,
                                 unsigned size)
{
    struct pci_function *function = host_function(host, bdf);
    uint32_t value;

    if (function == NULL || offset + size > PCI_CONFIG_SIZE) {
        return UINT32_MAX;
    }
    pthread_mutex_lock(&function->device.lock);
    value = pci_config_read(function, offset, size);
    pthread_mutex_unlock(&function->device.lock);
    return value;
}

/* BARs that found their place taken get it now. */
static void host_settle_bars(struct pci_host *host)
{
    for (unsigned i = 0; i < PCI_SLOT_COUNT; i++) {
        struct pci_function *function = host->slots[i];

        if (function == NULL) {
            continue;
        }
        pthread_mutex_lock(&function->device.lock);
        if (pci_bars_waiting(function)) {
            pci_bars_sync(function);
        }
        pthread_mutex_unlock(&function->device.lock);
    }
}

static void host_config_write(struct pci_host *host, unsigned bdf, unsigned offset,
                              unsigned size, uint32_t value)
{
    struct pci_function *function = host_function(host, bdf);
    bool stopped;

    if (function == NULL || offset + size > PCI_CONFIG_SIZE) {
        return;
    }
    pthread_mutex_lock(&function->device.lock);
    stopped = pci_config_write(function, offset, size, value);
    pthread_mutex_unlock(&function->device.lock);
    if (stopped) {
        host_settle_bars(host);
    }
}

/* What CONFIG_ADDRESS selects, for an access at @port of the data register. */
static bool host_selected(const struct pci_host *host, uint64_t port, unsigned *bdf,
                          unsigned *offset)
{
    *bdf = host->address >> 8 & 0xffff;
    *offset = (host->address & 0xfc) + (unsigned)port;
    return (host->address & PCI_ADDRESS_ENABLE) != 0;
}

static uint64_t pci_host_read(struct device *device, unsigned region, uint64_t offset,
                              unsigned size)
{
    struct pci_host *host = pci_host_of(device);
    unsigned bdf, reg;

    switch (region) {
    case REGION_ADDRESS:
        return offset == 0 && size == 4 ? host->address : UINT64_MAX;
    case REGION_DATA:
        if (size > 4 || !host_selected(host, offset, &bdf, &reg)) {
            return UINT64_MAX;
        }
        return host_config_read(host, bdf, reg, size);
    default:
        bdf = (unsigned)(offset >> 12);
        reg = (unsigned)offset & 0xfff;
        if (size == 8) {
            return host_config_read(host, bdf, reg, 4) |
                   (uint64_t)host_config_read(host, bdf, reg + 4, 4) << 32;
        }
        return host_config_read(host, bdf, reg, size);
    }
}

static void pci_host_write(struct device *device, unsigned region, uint64_t offset,
                           unsigned size, uint64_t value)
{
    struct pci_host *host = pci_host_of(device);
    unsigned bdf, reg;

    switch (region) {
    case REGION_ADDRESS:
        /* Narrower accesses are ordinary I/O: that is how 0xcf9 can live in here. */
        if (offset == 0 && size == 4) {
            host->address = (uint32_t)value & ~UINT32_C(0x7f000003);
        }
        break;
    case REGION_DATA:
        if (size <= 4 && host_selected(host, offset, &bdf, &reg)) {
            host_config_write(host, bdf, reg, size, (uint32_t)value);
        }
        break;
    default:
        bdf = (unsigned)(offset >> 12);
        reg = (unsigned)offset & 0xfff;
        host_config_write(host, bdf, reg, size < 4 ? size : 4, (uint32_t)value);
        if (size == 8) {
            host_config_write(host, bdf, reg + 4, 4, (uint32_t)(value >> 32));
        }
        break;
    }
}

/* ---- Population
 * -------------------------------------------------------------------------- */

int pci_host_add(struct pci_host *host, struct pci_function *function, unsigned slot,
                 struct umbra_error *error)
{
    if (slot == 0) {
        for (slot = 1; slot < PCI_SLOT_COUNT && host->slots[slot] != NULL; slot++) {
        }
    }
    if (slot >= PCI_SLOT_COUNT || host->slots[slot] != NULL) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOSPC,
                         "no PCI slot for %s: %s (slots are 1 to %d)",
                         function->device.id,
                         slot >= PCI_SLOT_COUNT ? "all are taken" : "its slot is taken",
                         PCI_SLOT_COUNT - 1);
    }
    function->slot = slot;
    function->host = host;
    device_irq_init(&function->device, &function->intx, pci_host_gsi(host, slot));
    function->config[PCI_INTERRUPT_LINE] = (uint8_t)pci_host_gsi(host, slot);
    memcpy(function->initial, function->config, sizeof(function->initial));
    host->slots[slot] = function;
    return 0;
}

/* A window that BARs are given addresses from. */
struct pci_window {
    uint64_t next, end;
    bool io;
};

/* The end of an assigned BAR that [base, base + size) overlaps, 0: none. */
static uint64_t host_bar_overlap(const struct pci_host *host, bool io, uint64_t base,
                                 uint64_t size)
{
    for (unsigned i = 0; i < PCI_SLOT_COUNT; i++) {
        const struct pci_function *function = host->slots[i];

        for (unsigned b = 0; function != NULL && b < PCI_BAR_COUNT; b++) {
            const struct pci_bar *bar = &function->bars[b];
            uint64_t address;

            if (bar->kind == PCI_BAR_NONE || (bar->kind == PCI_BAR_IO) != io) {
                continue;
            }
            address = pci_bar_address(function, b);
            if (address != 0 && address < base + size && base < address + bar->size) {
                return address + bar->size;
            }
        }
    }
    return 0;
}

/* An address for @size bytes, naturally aligned; 0: the window is full. */
static uint64_t window_take(const struct pci_host *host, struct pci_window *window,
                            uint64_t size)
{
    uint64_t base = align_up(window->next, size), end;

    while (base >= window->next && base < window->end && window->end - base >= size) {
        end = host_bar_overlap(host, window->io, base, size);
        if (end == 0) {
            window->next = base + size;
            return base;
        }
        base = align_up(end, size);
    }
    return 0;
}

/* Windows by kind of BAR; a 64-bit BAR goes below 4 GiB while there is room, where every
 * guest can reach it, unless it is large. */
static uint64_t host_place_bar(const struct pci_host *host, const struct pci_bar *bar,
                               struct pci_window windows[3])
{
    uint64_t address = 0;

    switch (bar->kind) {
    case PCI_BAR_IO:
        return window_take(host, &windows[0], bar->size);
    case PCI_BAR_MEM32:
        return window_take(host, &windows[1], bar->size);
    default:
        if (bar->size <= 16 * MIB) {
            address = window_take(host, &windows[1], bar->size);
        }
        return address != 0 ? address : window_take(host, &windows[2], bar->size);
    }
}

static int host_assign_function(struct pci_host *host, struct pci_function *function,
                                struct pci_window windows[3], struct umbra_error *error)
{
    uint16_t command = load_le16(function->config + PCI_COMMAND);
    uint64_t address;

    for (unsigned b = 0; b < PCI_BAR_COUNT; b++) {
        const struct pci_bar *bar = &function->bars[b];

        if (bar->kind == PCI_BAR_NONE) {
            continue;
        }
        command |= bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
        if (pci_bar_address(function, b) != 0) {
            continue;
        }
        address = host_place_bar(host, bar, windows);
        if (address == 0) {
            return error_set(error, UMBRA_ERROR_CONFIG, ENOSPC,
                             "no room in the PCI windows for BAR %u (%llu bytes) of %s",
                             b, (unsigned long long)bar->size, function->device.id);
        }
        pci_bar_store(function, b, address);
    }
    store_le16(function->config + PCI_COMMAND, command);
    pci_bars_sync(function);
    return 0;
}

int pci_host_assign_bars(struct pci_host *host, uint64_t mmio32_base,
                         uint64_t mmio32_size, uint64_t mmio64_base, uint64_t mmio64_size,
                         struct umbra_error *error)
{
    struct pci_window windows[3] = {
        { PCI_IO_BASE, PCI_IO_BASE + PCI_IO_SIZE, true },
        { mmio32_base, mmio32_base + mmio32_size, false },
        { mmio64_base, mmio64_base + mmio64_size, false },
    };
    int rc = 0;

    pthread_mutex_lock(&host->device.lock);
    for (unsigned i = 1; i < PCI_SLOT_COUNT && rc == 0; i++) {
        struct pci_function *function = host->slots[i];

        if (function != NULL) {
            pthread_mutex_lock(&function->device.lock);
            rc = host_assign_function(host, function, windows, error);
            pthread_mutex_unlock(&function->device.lock);
        }
    }
    pthread_mutex_unlock(&host->device.lock);
    return rc;
}

/* ---- Life
 * --------------------------------------------------------------------------------- */

static void pci_host_reset(struct device *device)
{
    struct pci_host *host = pci_host_of(device);

    host->address = 0;
    pthread_mutex_lock(&host->bridge.device.lock);
    pci_function_reset(&host->bridge);
    pthread_mutex_unlock(&host->bridge.device.lock);
}

static int pci_host_save(struct device *device, struct state_writer *writer)
{
    struct pci_host *host = pci_host_of(device);

    state_begin(writer, device->id, 1);
    state_put_u64(writer, "address", host->address);
    pci_function_save(&host->bridge, writer);
    state_end(writer);
    return 0;
}

static int pci_host_load(struct device *device, struct state_reader *reader)
{
    struct pci_host *host = pci_host_of(device);
    uint32_t address;
    int rc = state_open(reader, device->id, 1, NULL);

    if (rc < 0) {
        return rc;
    }
    address = (uint32_t)state_get_u64(reader, "address", UINT32_MAX);
    rc = pci_function_load(&host->bridge, reader);
    if (rc == 0) {
        host->address = address & ~UINT32_C(0x7f000003);
    }
    return rc;
}

static void pci_host_device_destroy(struct device *device)
{
    struct pci_host *host = pci_host_of(device);

    pci_function_fini(&host->bridge);
    device_fini(&host->bridge.device);
    device_fini(device);
    free(host);
}

static const struct device_ops pci_host_ops = {
    .type = "pci-host",
    .read = pci_host_read,
    .write = pci_host_write,
    .reset = pci_host_reset,
    .save = pci_host_save,
    .load = pci_host_load,
    .destroy = pci_host_device_destroy,
};

/* The bridge as a function has config space only; the host owns it. */
static const struct device_ops pci_bridge_ops = { .type = "pci-bridge" };

int pci_host_create(const struct device_env *env, const struct pci_host_config *config,
                    struct bus *pio, struct bus *mmio, struct pci_host **host,
                    struct umbra_error *error)
{
    static const struct pci_ids ids = {
        .vendor = 0x1b36, /* Red Hat's generic PCIe host bridge: no quirks anywhere */
        .device = 0x0008,
        .class_code = 0x060000,
    };
    struct pci_host *new = calloc(1, sizeof(*new));
    int rc;

    if (new == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                           "creating the PCI host bridge");
    }
    device_init(&new->device, &pci_host_ops, env, "pci");
    device_init(&new->bridge.device, &pci_bridge_ops, env, "pci-bridge");
    pci_function_init(&new->bridge, &ids, NULL);
    new->bridge.config[PCI_INTERRUPT_PIN] = 0;
    new->bridge.host = new;
    memcpy(new->bridge.initial, new->bridge.config, sizeof(new->bridge.initial));
    new->config = *config;
    new->pio = pio;
    new->mmio = mmio;
    new->slots[0] = &new->bridge;
    rc = bus_add(pio, PCI_ADDRESS_PORT, 4, &new->device, REGION_ADDRESS);
    if (rc == 0) {
        rc = bus_add(pio, PCI_DATA_PORT, 4, &new->device, REGION_DATA);
    }
    if (rc == 0 && config->ecam_size != 0) {
        rc = bus_add(mmio, config->ecam_base, config->ecam_size, &new->device,
                     REGION_ECAM);
    }
    if (rc < 0) {
        bus_remove(pio, PCI_ADDRESS_PORT);
        bus_remove(pio, PCI_DATA_PORT);
        pci_host_destroy(new);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -rc,
                           "cannot place the PCI host bridge on the buses");
    }
    *host = new;
    return 0;
}

void pci_host_destroy(struct pci_host *host)
{
    if (host != NULL) {
        pci_host_device_destroy(&host->device);
    }
}
