/* SPDX-License-Identifier: MIT */
/* A PCI function: its config space, and its BARs on the buses. */
#include <assert.h>
#include <stdlib.h>

#include "base/state.h"
#include "base/util.h"
#include "devices/pci/regs.h"

void pci_function_init(struct pci_function *function, const struct pci_ids *ids,
                       const struct pci_function_ops *ops)
{
    uint8_t *config = function->config;

    function->pci_ops = ops;
    function->next_cap = PCI_HEADER_END;
    store_le16(config + PCI_VENDOR, ids->vendor);
    store_le16(config + PCI_DEVICE, ids->device);
    store_le16(config + PCI_SUBSYSTEM_VENDOR, ids->subsystem_vendor);
    store_le16(config + PCI_SUBSYSTEM, ids->subsystem);
    config[PCI_REVISION] = ids->revision;
    config[PCI_CLASS] = (uint8_t)ids->class_code;
    store_le16(config + PCI_CLASS + 1, (uint16_t)(ids->class_code >> 8));
    config[PCI_INTERRUPT_PIN] = 1; /* INTA */
    store_le16(function->write_mask + PCI_COMMAND, PCI_COMMAND_WRITABLE);
    store_le16(function->w1c_mask + PCI_STATUS, PCI_STATUS_ERRORS);
    function->write_mask[0x0c] = 0xff; /* cache line size: of no effect */
    function->write_mask[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_function_fini(struct pci_function *function)
{
    pci_msix_fini(function);
    irq_line_set(&function->intx, false);
}

/* ---- BARs ---------------------------------------------------------------------------
 */

static bool bar_is_64(const struct pci_function *function, unsigned bar)
{
    return function->bars[bar].kind == PCI_BAR_MEM64;
}

void pci_bar_set(struct pci_function *function, unsigned bar, enum pci_bar_kind kind,
                 uint64_t size, bool prefetchable)
{
    unsigned at = PCI_BAR0 + 4 * bar;
    uint64_t mask = ~(size - 1);

    assert(bar < PCI_BAR_COUNT && (size & (size - 1)) == 0);
    assert(size >= (kind == PCI_BAR_IO ? 4 : 16));
    assert(kind != PCI_BAR_MEM64 || bar + 1 < PCI_BAR_COUNT);
    function->bars[bar] =
        (struct pci_bar){ .kind = kind, .prefetchable = prefetchable, .size = size };
    store_le32(function->write_mask + at, (uint32_t)mask);
    if (kind == PCI_BAR_IO) {
        function->config[at] = PCI_BAR_IS_IO;
        return;
    }
    function->config[at] = prefetchable ? PCI_BAR_IS_PREFETCHABLE : 0;
    if (kind == PCI_BAR_MEM64) {
        function->config[at] |= PCI_BAR_IS_64;
        store_le32(function->write_mask + at + 4, (uint32_t)(mask >> 32));
    }
}

uint64_t pci_bar_address(const struct pci_function *function, unsigned bar)
{
    const uint8_t *at = &function->config[PCI_BAR0 + 4 * bar];
    uint64_t address = load_le32(at);

    if (bar_is_64(function, bar)) {
        address |= (uint64_t)load_le32(at + 4) << 32;
    }
    return address & ~(function->bars[bar].size - 1);
}

void pci_bar_store(struct pci_function *function, unsigned bar, uint64_t address)
{
    uint8_t *at = &function->config[PCI_BAR0 + 4 * bar];

    store_le32(at, (uint32_t)address | (at[0] & 0xf));
    if (bar_is_64(function, bar)) {
        store_le32(at + 4, (uint32_t)(address >> 32));
    }
}

/* Should the BAR decode, and where? Address 0 counts as not set, as firmware has it. */
static bool bar_wanted(const struct pci_function *function, unsigned bar,
                       uint64_t *address)
{
    uint16_t command = load_le16(function->config + PCI_COMMAND);
    const struct pci_bar *b = &function->bars[bar];

    if (b->kind == PCI_BAR_NONE || function->host == NULL) {
        return false;
    }
    *address = pci_bar_address(function, bar);
    if (b->kind == PCI_BAR_IO) {
        return (command & PCI_COMMAND_IO) != 0 && *address != 0 && *address < 0x10000;
    }
    return (command & PCI_COMMAND_MEMORY) != 0 && *address != 0;
}

static void bar_unmap(struct pci_function *function, unsigned bar)
{
    struct pci_bar *b = &function->bars[bar];

    if (function->pci_ops != NULL && function->pci_ops->bar_mapped != NULL) {
        function->pci_ops->bar_mapped(function, bar, false);
    }
    bus_remove(pci_host_bus(function->host, b->kind), b->address);
    b->mapped = false;
}

static void bar_map(struct pci_function *function, unsigned bar, uint64_t address)
{
    struct pci_bar *b = &function->bars[bar];
    int rc = bus_add(pci_host_bus(function->host, b->kind), address, b->size,
                     &function->device, bar);

    if (rc < 0) {
        /* Somebody decodes there: BARs in the middle of being moved, or a bad guest. */
        log_debug(function->device.env->log,
                  "%s: BAR %u cannot decode at 0x%llx for now: %s", function->device.id,
                  bar, (unsigned long long)address, strerror(-rc));
        return;
    }
    b->address = address;
    b->mapped = true;
    if (function->pci_ops != NULL && function->pci_ops->bar_mapped != NULL) {
        function->pci_ops->bar_mapped(function, bar, true);
    }
}

bool pci_bars_sync(struct pci_function *function)
{
    bool stopped = false;
    uint64_t address;

    /* All leave before any comes, so that BARs can swap places. */
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        const struct pci_bar *bar = &function->bars[i];

        if (bar->mapped &&
            (!bar_wanted(function, i, &address) || address != bar->address)) {
            bar_unmap(function, i);
            stopped = true;
        }
    }
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        if (!function->bars[i].mapped && bar_wanted(function, i, &address)) {
            bar_map(function, i, address);
        }
    }
    return stopped;
}

bool pci_bars_waiting(const struct pci_function *function)
{
    uint64_t address;

    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        if (!function->bars[i].mapped && bar_wanted(function, i, &address)) {
            return true;
        }
    }
    return false;
}

/* ---- Capabilities --------------------------------------------------------------------
 */

unsigned pci_cap_add(struct pci_function *function, uint8_t id, const void *body,
                     unsigned length)
{
    unsigned at = function->next_cap;
    uint8_t *config = function->config;

    assert(length >= 2 && at + length <= 256);
    config[at] = id;
    config[at + 1] = 0;
    if (length > 2) {
        memcpy(config + at + 2, body, length - 2);
    }
    config[function->last_cap != 0 ? function->last_cap + 1 : PCI_CAPABILITIES] =
        (uint8_t)at;
    config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    function->last_cap = at;
    function->next_cap = (unsigned)align_up(at + length, 4);
    return at;
}

/* ---- INTx ----------------------------------------------------------------------------
 */

static void intx_update(struct pci_function *function)
{
    bool level = (function->config[PCI_STATUS] & PCI_STATUS_INTERRUPT) != 0;
    uint16_t command = load_le16(function->config + PCI_COMMAND);

    irq_line_set(&function->intx, level && (command & PCI_COMMAND_INTX_OFF) == 0);
}

void pci_intx_set(struct pci_function *function, bool level)
{
    if (level) {
        function->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    } else {
        function->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
    }
    intx_update(function);
}

/* ---- Config accesses ------------------------------------------------------------------
 */

static bool touches(unsigned offset, unsigned size, unsigned at, unsigned length)
{
    return offset < at + length && offset + size > at;
}

uint32_t pci_config_read(struct pci_function *function, unsigned offset, unsigned size)
{
    uint32_t value = 0;

    if (function->pci_ops != NULL && function->pci_ops->config_reading != NULL) {
        function->pci_ops->config_reading(function, offset, size);
    }
    memcpy(&value, function->config + offset, size);
    return le32toh(value);
}

bool pci_config_write(struct pci_function *function, unsigned offset, unsigned size,
                      uint32_t value)
{
    bool stopped = false;

    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        uint8_t mask = function->write_mask[offset + i];
        uint8_t *at = &function->config[offset + i];

        *at = (uint8_t)((*at & ~mask) | (byte & mask));
        *at &= (uint8_t) ~(byte & function->w1c_mask[offset + i]);
    }
    if (touches(offset, size, PCI_COMMAND, 2) ||
        touches(offset, size, PCI_BAR0, 4 * PCI_BAR_COUNT)) {
        stopped = pci_bars_sync(function);
        intx_update(function);
    }
    if (function->msix.count != 0 &&
        touches(offset, size, function->msix.cap + PCI_MSIX_CONTROL, 2)) {
        pci_msix_update(function);
    }
    if (function->pci_ops != NULL && function->pci_ops->config_written != NULL) {
        function->pci_ops->config_written(function, offset, size);
    }
    return stopped;
}

/* ---- Reset and state
 * -------------------------------------------------------------------- */

void pci_function_reset(struct pci_function *function)
{
    if (function->host != NULL) {
        memcpy(function->config, function->initial, sizeof(function->config));
    }
    pci_bars_sync(function);
    pci_msix_reset(function);
    intx_update(function);
}

void pci_function_save(struct pci_function *function, struct state_writer *writer)
{
    state_put_bytes(writer, "pci.config", function->config, sizeof(function->config));
    if (function->msix.count != 0) {
        pci_msix_save(function, writer);
    }
}

/* Only what the guest may write is taken over: the rest is the device's own shape. */
int pci_function_load(struct pci_function *function, struct state_reader *reader)
{
    uint8_t config[PCI_CONFIG_SIZE];
    int rc;

    state_get_bytes(reader, "pci.config", config, sizeof(config));
    rc = state_reader_error(reader, NULL);
    if (rc < 0) {
        return rc;
    }
    if (load_le32(config) != load_le32(function->config)) {
        state_reject(reader, "it is of another PCI device");
        return state_reader_error(reader, NULL);
    }
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t mask = function->write_mask[i] | function->w1c_mask[i];

        mask |= i == PCI_STATUS ? PCI_STATUS_INTERRUPT : 0;
        function->config[i] =
            (uint8_t)((function->config[i] & ~mask) | (config[i] & mask));
    }
    pci_bars_sync(function);
    intx_update(function);
    if (function->msix.count != 0) {
        pci_msix_load(function, reader);
    }
    return state_reader_error(reader, NULL);
}
