/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware. The timer counts CLOCK_MONOTONIC at 3.579545 MHz; its status bit
 * follows the counter's top bit, noticed whenever somebody looks and, while its interrupt
 * is enabled, by a host timer.
 */
#include "devices/board/acpi_pm.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/state.h"
#include "base/util.h"
#include "devices/irq.h"
#include "loop/loop.h"

enum {
    PM1_TMR = 1 << 0,
    PM1_GBL = 1 << 5,
    PM1_PWRBTN = 1 << 8,
    PM1_SLPBTN = 1 << 9,
    PM1_RTC = 1 << 10,
    PM1_STS_MASK = 0x8731, /* TMR, BM, GBL, PWRBTN, SLPBTN, RTC, WAK */
    PM1_EN_MASK = PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC,

    PM1_CNT_SCI_EN = 1 << 0,
    PM1_CNT_KEPT = 0x1c02, /* BM_RLD, SLP_TYP */
    PM1_CNT_SLP_EN = 1 << 13,
    PM1_CNT_SLP_TYP_SHIFT = 10,
};

static const uint64_t pm_timer_hz = 3579545;
static const uint64_t pm_timer_half = UINT64_C(1) << 31; /* ticks between TMR_STS */

struct acpi_pm {
    struct device device;
    struct irq_line irq;
    struct loop_timer *timer; /* NULL without a loop */
    unsigned slp_typ_s5;
    bool complained;

    uint16_t status, enable, control;
    uint64_t epoch_ns;  /* when the timer was at 0 */
    uint64_t half_seen; /* halves of the timer's range that TMR_STS accounts for */
};

static struct acpi_pm *acpi_pm_of(struct device *device)
{
    return container_of(device, struct acpi_pm, device);
}

/* Ticks since the epoch, in all 64 bits. */
static uint64_t pm_ticks(const struct acpi_pm *pm)
{
    return (uint64_t)((unsigned __int128)(clock_ns() - pm->epoch_ns) * pm_timer_hz /
                      1000000000);
}

static void pm_update(struct acpi_pm *pm)
{
    uint64_t half = pm_ticks(pm) / pm_timer_half;

    if (half != pm->half_seen) {
        pm->half_seen = half;
        pm->status |= PM1_TMR;
    }
    irq_line_set(&pm->irq, (pm->status & pm->enable & PM1_EN_MASK) != 0);
    if (pm->timer == NULL) {
        return;
    }
    if ((pm->enable & PM1_TMR) != 0 && (pm->status & PM1_TMR) == 0) {
        unsigned __int128 ticks = (unsigned __int128)(half + 1) * pm_timer_half;

        loop_timer_arm(pm->timer,
                       pm->epoch_ns + 1 + (uint64_t)(ticks * 1000000000 / pm_timer_hz));
    } else {
        loop_timer_disarm(pm->timer);
    }
}

static void pm_timer_fired(void *context)
{
    pm_update(context);
}

/* ---- Registers ----------------------------------------------------------------------
 */

static uint64_t acpi_pm_read(struct device *device, unsigned region, uint64_t offset,
                             unsigned size)
{
    struct acpi_pm *pm = acpi_pm_of(device);
    uint8_t bytes[ACPI_PM_SIZE + 8] = { 0 };

    pm_update(pm);
    store_le16(bytes + ACPI_PM1_STS, pm->status);
    store_le16(bytes + ACPI_PM1_EN, pm->enable);
    store_le16(bytes + ACPI_PM1_CNT, pm->control | PM1_CNT_SCI_EN);
    store_le32(bytes + ACPI_PM_TMR, (uint32_t)pm_ticks(pm));
    return load_le64(bytes + offset) & (size == 8 ? UINT64_MAX : (1ull << size * 8) - 1);
}

static void pm_write_control(struct acpi_pm *pm, uint16_t value)
{
    unsigned type = (value & PM1_CNT_KEPT) >> PM1_CNT_SLP_TYP_SHIFT;

    pm->control = value & PM1_CNT_KEPT;
    if ((value & PM1_CNT_SLP_EN) == 0) {
        return;
    }
    if (type == pm->slp_typ_s5) {
        device_event(&pm->device, DEVICE_EVENT_POWEROFF, 0);
    } else if (!pm->complained) {
        log_warning(pm->device.env->log,
                    "%s: the guest asked for sleep type %u; only S5 (%u) is there",
                    pm->device.id, type, pm->slp_typ_s5);
        pm->complained = true;
    }
}

static void acpi_pm_write(struct device *device, unsigned region, uint64_t offset,
                          unsigned size, uint64_t value)
{
    struct acpi_pm *pm = acpi_pm_of(device);
    uint8_t bytes[ACPI_PM_SIZE + 8] = { 0 };

    pm_update(pm);
    /* Bytes not written keep the enables and the control, and clear no status. */
    store_le16(bytes + ACPI_PM1_EN, pm->enable);
    store_le16(bytes + ACPI_PM1_CNT, pm->control);
    for (unsigned i = 0; i < size; i++) {
        bytes[offset + i] = (uint8_t)(value >> (8 * i));
    }
    pm->status &= (uint16_t)~load_le16(bytes + ACPI_PM1_STS);
    pm->enable = load_le16(bytes + ACPI_PM1_EN) & PM1_EN_MASK;
    if (offset < ACPI_PM1_CNT + 2 && offset + size > ACPI_PM1_CNT) {
        pm_write_control(pm, load_le16(bytes + ACPI_PM1_CNT));
    }
    pm_update(pm);
}

int acpi_pm_power_button(struct device *device)
{
    struct acpi_pm *pm = acpi_pm_of(device);
    bool heard;

    pthread_mutex_lock(&device->lock);
    pm->status |= PM1_PWRBTN;
    heard = (pm->enable & PM1_PWRBTN) != 0;
    pm_update(pm);
    pthread_mutex_unlock(&device->lock);
    return heard ? 0 : -ENODEV;
}

/* ---- Life ---------------------------------------------------------------------------
 */

static void acpi_pm_reset(struct device *device)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    pm->status = 0;
    pm->enable = 0;
    pm->control = 0;
    pm->epoch_ns = clock_ns();
    pm->half_seen = 0;
    pm_update(pm);
}

static int acpi_pm_save(struct device *device, struct state_writer *writer)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    pm_update(pm);
    state_begin(writer, device->id, 1);
    state_put_u64(writer, "status", pm->status);
    state_put_u64(writer, "enable", pm->enable);
    state_put_u64(writer, "control", pm->control);
    state_put_u64(writer, "elapsed", clock_ns() - pm->epoch_ns);
    state_end(writer);
    return 0;
}

/* The timer goes on from where it was saved. */
static int acpi_pm_load(struct device *device, struct state_reader *reader)
{
    struct acpi_pm *pm = acpi_pm_of(device);
    uint16_t status, enable, control;
    uint64_t elapsed;
    int rc = state_open(reader, device->id, 1, NULL);

    if (rc < 0) {
        return rc;
    }
    status = (uint16_t)state_get_u64(reader, "status", UINT16_MAX);
    enable = (uint16_t)state_get_u64(reader, "enable", UINT16_MAX);
    control = (uint16_t)state_get_u64(reader, "control", UINT16_MAX);
    elapsed = state_get_u64(reader, "elapsed", UINT64_MAX / 4);
    rc = state_reader_error(reader, NULL);
    if (rc < 0) {
        return rc;
    }
    pm->status = status & PM1_STS_MASK;
    pm->enable = enable & PM1_EN_MASK;
    pm->control = control & PM1_CNT_KEPT;
    pm->epoch_ns = clock_ns() - elapsed; /* may wrap below 0: differences stay right */
    pm->half_seen = pm_ticks(pm) / pm_timer_half;
    pm_update(pm);
    return 0;
}

static void acpi_pm_destroy(struct device *device)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    loop_timer_destroy(pm->timer);
    irq_line_set(&pm->irq, false);
    device_fini(device);
    free(pm);
}

static const struct device_ops acpi_pm_ops = {
    .type = "acpi-pm",
    .read = acpi_pm_read,
    .write = acpi_pm_write,
    .reset = acpi_pm_reset,
    .save = acpi_pm_save,
    .load = acpi_pm_load,
    .destroy = acpi_pm_destroy,
};

int acpi_pm_create(const struct device_env *env, const struct acpi_pm_config *config,
                   struct device **device, struct umbra_error *error)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));
    int rc;

    if (pm == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "creating %s",
                           config->id);
    }
    device_init(&pm->device, &acpi_pm_ops, env, config->id);
    device_irq_init(&pm->device, &pm->irq, config->gsi);
    pm->slp_typ_s5 = config->slp_typ_s5;
    pm->epoch_ns = clock_ns();
    if (env->loop != NULL) {
        rc = loop_timer_create(env->loop, &pm->device.lock, pm_timer_fired, pm,
                               &pm->timer);
        if (rc < 0) {
            acpi_pm_destroy(&pm->device);
            return error_errno(error, UMBRA_ERROR_INTERNAL, -rc, "creating %s",
                               config->id);
        }
    }
    *device = &pm->device;
    return 0;
}
