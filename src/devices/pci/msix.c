/* SPDX-License-Identifier: MIT */
/*
 * MSI-X (PCI 3.0, 6.8.2). A vector that an eventfd is bound to has its message sent by
 * the kernel while it is unmasked; while it is masked the eventfd is left alone and its
 * count is the pending bit, so nothing is lost in between.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "base/state.h"
#include "base/util.h"
#include "devices/pci/regs.h"

enum { ENTRY_MASKED = 1 };

static struct irq_chip *msix_chip(const struct pci_function *function)
{
    return function->device.env != NULL ? function->device.env->irqs : NULL;
}

static uint16_t msix_control(const struct pci_function *function)
{
    return load_le16(function->config + function->msix.cap + PCI_MSIX_CONTROL);
}

bool pci_msix_enabled(const struct pci_function *function)
{
    return function->msix.count != 0 && (msix_control(function) & PCI_MSIX_ENABLE) != 0;
}

/* May the vector's message be sent now? */
static bool msix_open(const struct pci_function *function, unsigned vector)
{
    return (msix_control(function) & (PCI_MSIX_ENABLE | PCI_MSIX_MASK_ALL)) ==
               PCI_MSIX_ENABLE &&
           (function->msix.entries[vector].control & ENTRY_MASKED) == 0;
}

static void entry_unroute(struct pci_function *function, struct pci_msix_entry *entry)
{
    struct irq_chip *chip = msix_chip(function);

    if (entry->route >= 0) {
        chip->ops->msi_unbind(chip, &entry->route, entry->fd);
        entry->route = -1;
    }
}

static int entry_route(struct pci_function *function, struct pci_msix_entry *entry)
{
    struct irq_chip *chip = msix_chip(function);

    if (chip == NULL || chip->ops->msi_bind == NULL) {
        return -ENOTSUP;
    }
    return chip->ops->msi_bind(chip, &entry->route, entry->address, entry->data,
                               entry->fd);
}

/* Bring a vector in line after its entry or the control changed. */
static void vector_update(struct pci_function *function, unsigned vector)
{
    struct pci_msix_entry *entry = &function->msix.entries[vector];
    bool open = msix_open(function, vector);

    if (entry->fd >= 0) {
        if (!open) {
            entry_unroute(function, entry);
        } else if (entry_route(function, entry) < 0) {
            log_warning(function->device.env->log,
                        "%s: the kernel takes no message for MSI-X vector %u",
                        function->device.id, vector);
        }
    }
    if (open && entry->pending) {
        entry->pending = false;
        irq_send_msi(msix_chip(function), entry->address, entry->data);
    }
    if (function->pci_ops != NULL && function->pci_ops->msix_changed != NULL) {
        function->pci_ops->msix_changed(function, vector);
    }
}

void pci_msix_update(struct pci_function *function)
{
    for (unsigned i = 0; i < function->msix.count; i++) {
        vector_update(function, i);
    }
}

int pci_msix_add(struct pci_function *function, unsigned count, unsigned bar,
                 uint32_t table_offset, uint32_t pba_offset)
{
    struct pci_msix *msix = &function->msix;
    uint8_t body[10];

    if (count == 0 || count > PCI_MSIX_MAX || bar >= PCI_BAR_COUNT ||
        (table_offset & 7) != 0 || (pba_offset & 7) != 0) {
        return -EINVAL;
    }
    msix->entries = calloc(count, sizeof(*msix->entries));
    if (msix->entries == NULL) {
        return -ENOMEM;
    }
    msix->count = count;
    msix->bar = bar;
    msix->table_offset = table_offset;
    msix->pba_offset = pba_offset;
    store_le16(body, (uint16_t)(count - 1));
    store_le32(body + 2, table_offset | bar);
    store_le32(body + 6, pba_offset | bar);
    msix->cap = pci_cap_add(function, PCI_CAP_MSIX, body, 2 + sizeof(body));
    store_le16(function->write_mask + msix->cap + PCI_MSIX_CONTROL,
               PCI_MSIX_ENABLE | PCI_MSIX_MASK_ALL);
    for (unsigned i = 0; i < count; i++) {
        msix->entries[i] =
            (struct pci_msix_entry){ .control = ENTRY_MASKED, .route = -1, .fd = -1 };
    }
    return 0;
}

void pci_msix_reset(struct pci_function *function)
{
    for (unsigned i = 0; i < function->msix.count; i++) {
        struct pci_msix_entry *entry = &function->msix.entries[i];

        entry_unroute(function, entry);
        entry->address = 0;
        entry->data = 0;
        entry->control = ENTRY_MASKED;
        entry->pending = false;
    }
}

void pci_msix_fini(struct pci_function *function)
{
    for (unsigned i = 0; i < function->msix.count; i++) {
        entry_unroute(function, &function->msix.entries[i]);
    }
    free(function->msix.entries);
    function->msix.entries = NULL;
    function->msix.count = 0;
}

/* ---- The table and the pending bits
 * ---------------------------------------------------- */

static uint32_t table_word(const struct pci_msix *msix, unsigned at)
{
    const struct pci_msix_entry *entry = &msix->entries[at / PCI_MSIX_ENTRY];

    switch (at % PCI_MSIX_ENTRY) {
    case 0:
        return (uint32_t)entry->address;
    case 4:
        return (uint32_t)(entry->address >> 32);
    case 8:
        return entry->data;
    default:
        return entry->control;
    }
}

static void table_word_write(struct pci_msix *msix, unsigned at, uint32_t value)
{
    struct pci_msix_entry *entry = &msix->entries[at / PCI_MSIX_ENTRY];

    switch (at % PCI_MSIX_ENTRY) {
    case 0:
        entry->address = (entry->address & ~(uint64_t)UINT32_MAX) | (value & ~3u);
        break;
    case 4:
        entry->address = (uint32_t)entry->address | (uint64_t)value << 32;
        break;
    case 8:
        entry->data = value;
        break;
    default:
        entry->control = value & ENTRY_MASKED;
        break;
    }
}

static bool entry_pending(const struct pci_msix_entry *entry)
{
    struct pollfd poll_fd = { .fd = entry->fd, .events = POLLIN };

    return entry->pending ||
           (entry->fd >= 0 && entry->route < 0 && poll(&poll_fd, 1, 0) == 1 &&
            (poll_fd.revents & POLLIN) != 0);
}

static uint32_t pba_word(const struct pci_msix *msix, unsigned at)
{
    uint32_t word = 0;

    for (unsigned i = 0; i < 32 && at * 8 + i < msix->count; i++) {
        word |= (uint32_t)entry_pending(&msix->entries[at * 8 + i]) << i;
    }
    return word;
}

/* Where in the table (its bytes: count * 16) or the PBA an access lies. */
static bool inside(uint64_t offset, unsigned size, uint32_t start, uint64_t length,
                   unsigned *at)
{
    *at = (unsigned)(offset - start);
    return offset >= start && offset + size <= start + length;
}

static uint64_t pba_size(const struct pci_msix *msix)
{
    return align_up(msix->count, 64) / 8;
}

/* Drivers use whole aligned words or pairs of them (6.8.2); others read as 0. */
static bool access_is_whole(uint64_t offset, unsigned size)
{
    return (size == 4 || size == 8) && offset % size == 0;
}

bool pci_msix_read(struct pci_function *function, unsigned bar, uint64_t offset,
                   unsigned size, uint64_t *value)
{
    const struct pci_msix *msix = &function->msix;
    uint32_t (*word)(const struct pci_msix *msix, unsigned at);
    unsigned at;

    if (msix->count == 0 || bar != msix->bar) {
        return false;
    }
    if (inside(offset, size, msix->table_offset, (uint64_t)msix->count * PCI_MSIX_ENTRY,
               &at)) {
        word = table_word;
    } else if (inside(offset, size, msix->pba_offset, pba_size(msix), &at)) {
        word = pba_word;
    } else {
        return false;
    }
    *value = 0;
    if (access_is_whole(offset, size)) {
        *value = word(msix, at);
        *value |= size == 8 ? (uint64_t)word(msix, at + 4) << 32 : 0;
    }
    return true;
}

bool pci_msix_write(struct pci_function *function, unsigned bar, uint64_t offset,
                    unsigned size, uint64_t value)
{
    struct pci_msix *msix = &function->msix;
    unsigned at;

    if (msix->count == 0 || bar != msix->bar) {
        return false;
    }
    if (inside(offset, size, msix->pba_offset, pba_size(msix), &at)) {
        return true; /* read only */
    }
    if (!inside(offset, size, msix->table_offset, (uint64_t)msix->count * PCI_MSIX_ENTRY,
                &at)) {
        return false;
    }
    if (access_is_whole(offset, size)) {
        table_word_write(msix, at, (uint32_t)value);
        if (size == 8) {
            table_word_write(msix, at + 4, (uint32_t)(value >> 32));
        }
        vector_update(function, at / PCI_MSIX_ENTRY);
    }
    return true;
}

/* ---- Signalling
 * ------------------------------------------------------------------------- */

/* Tell who looks; true when the interrupt is to be lost. Those of virtio devices pass
 * through virtio.c before. */
static bool msix_loses(const struct pci_function *function)
{
    const struct device *device = &function->device;
    struct fault_hits hits;

    if (device->env == NULL || device->fault_point == FAULT_REQUEST) {
        return false;
    }
    device_tell(device->env, UMBRA_EVENT_INTERRUPT, device->id, UMBRA_EVENT_NO_QUEUE, 0);
    return faults_draw(device->env->faults, device->id, FAULT_INTERRUPT, UMBRA_FAULT_ANY,
                       0, &hits) &&
           fault_hit(&hits, UMBRA_FAULT_IRQ_LOST);
}

void pci_msix_notify(struct pci_function *function, unsigned vector)
{
    struct pci_msix_entry *entry;

    if (vector >= function->msix.count || !pci_msix_enabled(function)) {
        return;
    }
    if (msix_loses(function)) {
        return;
    }
    entry = &function->msix.entries[vector];
    if (msix_open(function, vector)) {
        irq_send_msi(msix_chip(function), entry->address, entry->data);
    } else {
        entry->pending = true;
    }
}

int pci_msix_bind(struct pci_function *function, unsigned vector, int fd)
{
    struct irq_chip *chip = msix_chip(function);
    struct pci_msix_entry *entry;
    int rc;

    if (vector >= function->msix.count) {
        return -EINVAL;
    }
    if (chip == NULL || chip->ops->msi_bind == NULL) {
        return -ENOTSUP;
    }
    entry = &function->msix.entries[vector];
    pci_msix_unbind(function, vector);
    entry->fd = fd;
    if (!msix_open(function, vector)) {
        return 0; /* bound once it is unmasked */
    }
    rc = entry_route(function, entry);
    if (rc < 0) {
        entry->fd = -1;
    }
    return rc;
}

void pci_msix_unbind(struct pci_function *function, unsigned vector)
{
    if (vector < function->msix.count) {
        entry_unroute(function, &function->msix.entries[vector]);
        function->msix.entries[vector].fd = -1;
    }
}

/* ---- State
 * ------------------------------------------------------------------------------- */

void pci_msix_save(struct pci_function *function, struct state_writer *writer)
{
    const struct pci_msix *msix = &function->msix;
    size_t size = (size_t)msix->count * (PCI_MSIX_ENTRY + 1);
    uint8_t *table = malloc(size), *at = table;

    if (table == NULL) {
        state_put_bytes(writer, "", NULL, 0); /* an invalid name: the writer's error */
        return;
    }
    for (unsigned i = 0; i < msix->count; i++, at += PCI_MSIX_ENTRY + 1) {
        const struct pci_msix_entry *entry = &msix->entries[i];

        store_le64(at, entry->address);
        store_le32(at + 8, entry->data);
        store_le32(at + 12, entry->control);
        at[16] = entry_pending(entry);
    }
    state_put_bytes(writer, "pci.msix", table, size);
    free(table);
}

void pci_msix_load(struct pci_function *function, struct state_reader *reader)
{
    struct pci_msix *msix = &function->msix;
    size_t size = (size_t)msix->count * (PCI_MSIX_ENTRY + 1), length;
    const uint8_t *at = state_get_blob(reader, "pci.msix", size, &length);

    if (at == NULL || length != size) {
        state_reject(reader, "the MSI-X table has another size");
        return;
    }
    for (unsigned i = 0; i < msix->count; i++, at += PCI_MSIX_ENTRY + 1) {
        struct pci_msix_entry *entry = &msix->entries[i];

        entry->address = load_le64(at) & ~UINT64_C(3);
        entry->data = load_le32(at + 8);
        entry->control = load_le32(at + 12) & ENTRY_MASKED;
        entry->pending = at[16] != 0;
    }
    pci_msix_update(function);
}
