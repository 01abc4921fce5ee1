/* SPDX-License-Identifier: MIT */
/* The IOAPIC: redirection entries, edge and level pins, EOI. */
#include "devices/board/ioapic.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"
#include "devices/irq.h"

/* Memory-mapped registers and the indirect ones behind them (82093AA, 3.1 and 3.2). */
enum { IOREGSEL = 0x00, IOWIN = 0x10, IOAPIC_EOI = 0x40 };
enum { REG_ID = 0, REG_VERSION = 1, REG_ARBITRATION = 2, REG_TABLE = 0x10 };

/* Version 0x20: it has the EOI register. */
enum { IOAPIC_VERSION = 0x20 };

#define RTE_VECTOR     UINT64_C(0xff)
#define RTE_DELIVERY   UINT64_C(0x700)
#define RTE_LOGICAL    UINT64_C(0x800)
#define RTE_STATUS     UINT64_C(0x1000)
#define RTE_REMOTE_IRR UINT64_C(0x4000)
#define RTE_LEVEL      UINT64_C(0x8000)
#define RTE_MASKED     UINT64_C(0x10000)
#define RTE_READ_ONLY  (RTE_STATUS | RTE_REMOTE_IRR)
#define RTE_DEST_SHIFT 56

struct ioapic_state {
    uint32_t select;
    uint32_t id;
    uint64_t entries[IRQ_GSI_COUNT];
    uint32_t levels; /* a bit a pin: high now */
};

struct ioapic {
    struct device device;
    struct ioapic_config config;
    struct ioapic_state state;
    uint64_t delivered, eois;
};

/* The message that a redirection entry stands for (Intel SDM vol. 3, 11.11). */
static uint64_t rte_address(uint64_t entry)
{
    return UINT64_C(0xfee00000) | (entry >> RTE_DEST_SHIFT) << 12 |
           (entry & RTE_LOGICAL ? 1u << 2 : 0);
}

static uint32_t rte_data(uint64_t entry)
{
    return (uint32_t)(entry & (RTE_VECTOR | RTE_DELIVERY | RTE_LEVEL)) |
           (entry & RTE_LEVEL ? 1u << 14 : 0);
}

static void ioapic_deliver(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->state.entries[pin];

    if (*entry & RTE_MASKED) {
        return;
    }
    if (*entry & RTE_LEVEL) {
        if (*entry & RTE_REMOTE_IRR) {
            return;
        }
        *entry |= RTE_REMOTE_IRR;
    }
    ioapic->delivered++;
    irq_send_msi(ioapic->device.env->irqs, rte_address(*entry), rte_data(*entry));
}

void ioapic_set_pin(struct device *device, unsigned pin, bool level)
{
    struct ioapic *ioapic = (struct ioapic *)device;
    uint32_t bit = 1u << pin;
    bool was;

    pthread_mutex_lock(&device->lock);
    was = (ioapic->state.levels & bit) != 0;
    if (level) {
        ioapic->state.levels |= bit;
    } else {
        ioapic->state.levels &= ~bit;
    }
    if (level && (!was || (ioapic->state.entries[pin] & RTE_LEVEL))) {
        ioapic_deliver(ioapic, pin);
    }
    pthread_mutex_unlock(&device->lock);
}

static void ioapic_acknowledge(struct ioapic *ioapic, unsigned vector)
{
    ioapic->eois++;
    for (unsigned pin = 0; pin < IRQ_GSI_COUNT; pin++) {
        uint64_t *entry = &ioapic->state.entries[pin];

        if ((*entry & RTE_VECTOR) != vector || !(*entry & RTE_REMOTE_IRR)) {
            continue;
        }
        *entry &= ~RTE_REMOTE_IRR;
        if (ioapic->state.levels & 1u << pin) {
            ioapic_deliver(ioapic, pin);
        }
    }
}

void ioapic_eoi(struct device *device, unsigned vector)
{
    pthread_mutex_lock(&device->lock);
    ioapic_acknowledge((struct ioapic *)device, vector);
    pthread_mutex_unlock(&device->lock);
}

static void ioapic_route(struct ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->state.entries[pin];

    if (ioapic->config.route != NULL) {
        ioapic->config.route(ioapic->config.context, pin, (entry & RTE_MASKED) != 0,
                             rte_address(entry), rte_data(entry));
    }
}

static void ioapic_write_entry(struct ioapic *ioapic, unsigned reg, uint32_t value)
{
    unsigned pin = (reg - REG_TABLE) / 2;
    uint64_t *entry = &ioapic->state.entries[pin];
    uint64_t kept = *entry & RTE_READ_ONLY;

    if (reg % 2 != 0) {
        *entry = (*entry & 0xffffffff) | (uint64_t)value << 32;
    } else {
        *entry = (*entry & ~UINT64_C(0xffffffff)) | value;
    }
    *entry = (*entry & ~RTE_READ_ONLY) | kept;
    if (!(*entry & RTE_LEVEL)) {
        *entry &= ~RTE_REMOTE_IRR; /* how Linux clears a stuck one: edge and back */
    }
    ioapic_route(ioapic, pin);
    if ((*entry & RTE_LEVEL) && (ioapic->state.levels & 1u << pin)) {
        ioapic_deliver(ioapic, pin);
    }
}

static uint32_t ioapic_read_register(const struct ioapic *ioapic, unsigned reg)
{
    switch (reg) {
    case REG_ID:
    case REG_ARBITRATION:
        return ioapic->state.id << 24;
    case REG_VERSION:
        return IOAPIC_VERSION | (IRQ_GSI_COUNT - 1) << 16;
    default:
        if (reg >= REG_TABLE && reg < REG_TABLE + 2 * IRQ_GSI_COUNT) {
            uint64_t entry = ioapic->state.entries[(reg - REG_TABLE) / 2];

            return (uint32_t)(reg % 2 != 0 ? entry >> 32 : entry);
        }
        return 0;
    }
}

static uint64_t ioapic_read(struct device *device, unsigned region, uint64_t offset,
                            unsigned size)
{
    const struct ioapic *ioapic = (const struct ioapic *)device;

    (void)region;
    (void)size;
    switch (offset) {
    case IOREGSEL:
        return ioapic->state.select;
    case IOWIN:
        return ioapic_read_register(ioapic, ioapic->state.select);
    default:
        return 0;
    }
}

static void ioapic_write(struct device *device, unsigned region, uint64_t offset,
                         unsigned size, uint64_t value)
{
    struct ioapic *ioapic = (struct ioapic *)device;
    unsigned reg = ioapic->state.select;

    (void)region;
    (void)size;
    switch (offset) {
    case IOREGSEL:
        ioapic->state.select = value & 0xff;
        break;
    case IOWIN:
        if (reg == REG_ID) {
            ioapic->state.id = (uint32_t)value >> 24 & 0xf;
        } else if (reg >= REG_TABLE && reg < REG_TABLE + 2 * IRQ_GSI_COUNT) {
            ioapic_write_entry(ioapic, reg, (uint32_t)value);
        }
        break;
    case IOAPIC_EOI:
        ioapic_acknowledge(ioapic, value & 0xff);
        break;
    default:
        break;
    }
}

static void ioapic_reset(struct device *device)
{
    struct ioapic *ioapic = (struct ioapic *)device;

    ioapic->state = (struct ioapic_state){ .id = ioapic->config.apic_id };
    for (unsigned pin = 0; pin < IRQ_GSI_COUNT; pin++) {
        ioapic->state.entries[pin] = RTE_MASKED;
        ioapic_route(ioapic, pin);
    }
}

static int ioapic_save(struct device *device, struct state_writer *writer)
{
    const struct ioapic *ioapic = (const struct ioapic *)device;

    state_begin(writer, device->id, 1);
    state_put_u64(writer, "select", ioapic->state.select);
    state_put_u64(writer, "id", ioapic->state.id);
    state_put_u64(writer, "levels", ioapic->state.levels);
    state_put_bytes(writer, "entries", ioapic->state.entries,
                    sizeof(ioapic->state.entries));
    state_end(writer);
    return 0;
}

static int ioapic_load(struct device *device, struct state_reader *reader)
{
    struct ioapic *ioapic = (struct ioapic *)device;
    uint32_t version;
    int ret = state_open(reader, device->id, 1, &version);

    if (ret < 0) {
        return ret;
    }
    ioapic->state.select = (uint32_t)state_get_u64(reader, "select", 0xff);
    ioapic->state.id = (uint32_t)state_get_u64(reader, "id", 0xf);
    ioapic->state.levels =
        (uint32_t)state_get_u64(reader, "levels", (1u << IRQ_GSI_COUNT) - 1);
    state_get_bytes(reader, "entries", ioapic->state.entries,
                    sizeof(ioapic->state.entries));
    for (unsigned pin = 0; pin < IRQ_GSI_COUNT; pin++) {
        ioapic_route(ioapic, pin);
    }
    return state_reader_error(reader, NULL);
}

static void ioapic_stats(struct device *device, void *json)
{
    const struct ioapic *ioapic = (const struct ioapic *)device;

    json_object_set_new(json, "delivered", json_integer((json_int_t)ioapic->delivered));
    json_object_set_new(json, "eois", json_integer((json_int_t)ioapic->eois));
}

static void ioapic_destroy(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_ops ioapic_ops = {
    .type = "ioapic",
    .read = ioapic_read,
    .write = ioapic_write,
    .reset = ioapic_reset,
    .save = ioapic_save,
    .load = ioapic_load,
    .stats = ioapic_stats,
    .destroy = ioapic_destroy,
};

int ioapic_create(const struct device_env *env, const struct ioapic_config *config,
                  struct device **device, struct umbra_error *error)
{
    struct ioapic *ioapic = calloc(1, sizeof(*ioapic));

    if (ioapic == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                           "cannot allocate the IOAPIC");
    }
    device_init(&ioapic->device, &ioapic_ops, env, config->id);
    ioapic->config = *config;
    ioapic_reset(&ioapic->device);
    *device = &ioapic->device;
    return 0;
}
